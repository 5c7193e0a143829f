"""A link with bad weather: a relay that stalls, pauses, delays, cuts and refuses at an instant of its own choosing."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
KINDS = ("clear", "stall", "half", "pause", "delay", "cut", "refuse")
_BLOCK = 1 << 16


@dataclass(frozen=True)
class Weather:
    """What happens to the link: of which kind, after how many bytes from the server, and for how long if it ends.

    clear: nothing. stall: nothing passes any more, while the sockets stay open and take bytes. half: only the server is
    not heard any more. pause: a stall that ends. delay: every block takes 20 to 80 ms from then on. cut: all connections
    break, new ones are taken. refuse: all break, and new ones do for a while.
    """

    kind: str
    after_bytes: int
    for_s: float

    def __str__(self) -> str:
        return f"{self.kind} after {self.after_bytes} bytes, {self.for_s:.1f} s"


def drawn(chance: random.Random, *, most_bytes: int) -> Weather:
    """Return weather; half of it strikes in the first tenth of the bytes, where most sessions begin."""
    part = chance.random() if chance.random() < 0.5 else chance.random() / 10
    return Weather(chance.choice(KINDS), int(part * most_bytes), chance.uniform(1, 8))


class Sky:
    """Relays its connections to the port under one weather; `came` are the server's bytes so far, of all connections."""

    def __init__(self, port: int, weather: Weather) -> None:
        self.came = 0
        self._weather = weather
        self._far = port
        self._lock = threading.Lock()
        self._struck_at: float | None = None
        self._ended = threading.Event()
        self._open: list[socket.socket] = []
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    @property
    def has_struck(self) -> bool:
        return self._struck_at is not None

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._is("refuse"):
                _break(near)
                continue
            far = socket.create_connection((HOST, self._far))
            with self._lock:
                self._open += [near, far]
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(source, sink, sink is near), daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._cut()

    def _is(self, *kinds: str) -> bool:
        """Whether weather of such a kind is upon us now."""
        if self._struck_at is None or self._weather.kind not in kinds:
            return False
        lasts = self._weather.kind not in ("pause", "refuse")
        return lasts or time.monotonic() < self._struck_at + self._weather.for_s

    def _carry(self, source: socket.socket, sink: socket.socket, heard: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(_BLOCK):
                self._count(len(data) * heard)
                if self._is("delay"):
                    time.sleep(random.uniform(0.02, 0.08))
                while self._is("stall", "pause") or (heard and self._is("half")):
                    if self._ended.wait(0.05):
                        return
                sink.sendall(data)
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def _count(self, size: int) -> None:
        with self._lock:
            self.came += size
            strikes = self._struck_at is None and self.came > self._weather.after_bytes
            if strikes:
                self._struck_at = time.monotonic()
        if strikes and self._weather.kind in ("cut", "refuse"):
            self._cut()

    def _cut(self) -> None:
        with self._lock:
            cut, self._open = self._open, []
        for each in cut:
            _break(each)


def _break(connection: socket.socket) -> None:
    """Have the other end hear of it: with a reset where it can be, and at once, whoever reads from it here."""
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextlib.contextmanager
def under(weather: Weather, port: int) -> Iterator[Sky]:
    """Within the block a relay to the port under this weather."""
    made = Sky(port, weather)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join(5)
