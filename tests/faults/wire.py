"""A relay that reads PostgreSQL's protocol, so that a test can strike at one statement of one session, exactly."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOST = "127.0.0.1"
_UNTYPED = {80877102: "cancel", 80877103: "tls", 80877104: "gss"}


@dataclass(frozen=True)
class Strike:
    """When to act on a statement: `before` the server gets it, as soon as it is `sent`, or `after` it was answered.

    Then the connection is cut; the answer never arrives.
    """

    when: str
    act: Callable[[], object] = lambda: None


class Wire:
    """Relays to a port; `watch` is told each statement with the session's application name, and may strike."""

    def __init__(self, port: int, watch: Callable[[str, str], Strike | None]) -> None:
        self._far = port
        self._watch = watch
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            far = socket.create_connection((HOST, self._far))
            for each in (near, far):
                each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            threading.Thread(target=self._relay, args=(near, far), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _relay(self, near: socket.socket, far: socket.socket) -> None:
        session = _Session(near, far, self._watch)
        with contextlib.suppress(OSError, EOFError), near, far:
            while True:
                for source in select.select([near, far], [], [])[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    if source is far:
                        near.sendall(data)
                    else:
                        session.take(data)


class _Session:
    """One connection's messages on their way to the server."""

    def __init__(
        self, near: socket.socket, far: socket.socket, watch: Callable[[str, str], Strike | None]
    ) -> None:
        self._near, self._far, self._watch = near, far, watch
        self._buffer = b""
        self._application = ""
        self._started = False
        self._strike: Strike | None = None

    def take(self, data: bytes) -> None:
        """Pass on whole messages. Raise EOFError when the connection was struck."""
        self._buffer += data
        while (size := self._size()) and len(self._buffer) >= size:
            message, self._buffer = self._buffer[:size], self._buffer[size:]
            if self._started:
                self._message(message)
            else:
                self._startup(message)

    def _size(self) -> int:
        """Return the bytes of the message that begins the buffer, 0 if they are not known yet."""
        skip = 1 if self._started else 0
        if len(self._buffer) < skip + 4:
            return 0
        (length,) = struct.unpack_from("!I", self._buffer, skip)
        return skip + int(length)

    def _startup(self, message: bytes) -> None:
        (code,) = struct.unpack_from("!I", message, 4)
        if code not in _UNTYPED:
            self._started = True
            words = message[8:].split(b"\0")
            self._application = (
                dict(zip(words[::2], words[1::2], strict=False)).get(b"application_name", b"").decode()
            )
        self._far.sendall(message)

    def _message(self, message: bytes) -> None:
        kind = message[:1]
        if kind in b"QP" and self._strike is None:
            text = message[5:] if kind == b"Q" else message[5:].partition(b"\0")[2]
            self._strike = self._watch(self._application, text.partition(b"\0")[0].decode())
        strike = self._strike
        if strike and strike.when == "before":
            strike.act()
            raise EOFError
        self._far.sendall(message)
        if strike and kind in b"QS":  # the server begins now
            if strike.when == "after":
                self._until_ready()
            strike.act()
            raise EOFError

    def _until_ready(self) -> None:
        """Read the server's messages until it is ready for the next statement."""
        came = b""
        while True:
            while len(came) >= 5 and len(came) >= (size := 1 + struct.unpack_from("!I", came, 1)[0]):
                if came[:1] == b"Z":
                    return
                came = came[size:]
            if not (data := self._far.recv(1 << 16)):
                return
            came += data


@contextlib.contextmanager
def wire(port: int, watch: Callable[[str, str], Strike | None]) -> Iterator[Wire]:
    """Within the block a relay that watches."""
    made = Wire(port, watch)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield made
    finally:
        made.close()
        thread.join(5)
