"""A TCP relay to a server on this machine, as `fly proxy` is one, that can stall, cut and mislead."""

from __future__ import annotations

import contextlib
import itertools
import math
import select
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
_NO_QUESTIONS = (b"X\0\0\0\4", b"H\0\0\0\4")  # goodbye; say what you have


class Tunnel:
    """Relays its connections to the ports in turn, the last one for good; `port` is where it listens.

    A connection that has brought `hold_after` bytes from its server stands still until `release`; `held` tells that it
    is so. One on which nothing has passed for `idle_s` seconds is cut. `turns` has what a client said first and each time
    after it had heard its server: over a far link each costs a round trip, and so does each of the `connections`.
    """

    def __init__(self, *ports: int, hold_after: float = math.inf, idle_s: float | None = None) -> None:
        self.held = threading.Event()
        self.connections = 0
        self.turns: list[bytes] = []
        self._released = threading.Event()
        self._ports = itertools.chain(ports[:-1], itertools.repeat(ports[-1]))
        self._hold_after = hold_after
        self._all_stop = False
        self._idle_s = idle_s
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]
        self._open: list[socket.socket] = []

    def hold(self) -> None:
        """Let nothing more through, whatever came so far, nor that somebody hung up."""
        self._all_stop = True
        self.held.set()

    def release(self) -> None:
        """Let everything through from now on."""
        self._released.set()

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((HOST, next(self._ports)))
            self.connections += 1
            self._open += [near, far]
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def close(self) -> None:
        """Cut everything."""
        self.release()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for each in (self._listener, *self._open):
            each.close()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        other = {near: far, far: near}
        came, spoke = 0, far
        with contextlib.suppress(OSError, ValueError), near, far:
            while ready := select.select([near, far], [], [], self._idle_s)[0]:
                for source in ready:
                    data = source.recv(1 << 16)
                    if self._all_stop and self.held.is_set():
                        self._released.wait()  # nobody hears that an end was closed either
                    if not data:
                        return
                    if source is near and spoke is far and data not in _NO_QUESTIONS:
                        self.turns.append(data[:100])
                    spoke = source
                    came += len(data) * (source is far)
                    if came > self._hold_after and not self._released.is_set():
                        self.held.set()
                    if came > self._hold_after:
                        self._released.wait()
                    other[source].sendall(data)


@contextlib.contextmanager
def tunnel(*ports: int, hold_after: float = math.inf, idle_s: float | None = None) -> Iterator[Tunnel]:
    """Within the block a tunnel that relays."""
    made = Tunnel(*ports, hold_after=hold_after, idle_s=idle_s)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join(5)
