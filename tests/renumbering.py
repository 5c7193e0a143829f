"""A relay that gives each connection a session of its own, under a process number of its own invention, as some providers do."""

from __future__ import annotations

import contextlib
import secrets
import socket
import struct
import threading
from typing import TYPE_CHECKING

from polyladder_ops.postgres.conninfo import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "127.0.0.1"
_TLS, _GSS, _CANCEL = 80877103, 80877104, 80877102
_NO = b"N"


class Relay:
    """Relays to a port; `connections` counts, `numbers` has what was invented for the server's own keys."""

    def __init__(self, port: int) -> None:
        self.connections = 0
        self.numbers: dict[bytes, bytes] = {}
        self._far = port
        self._listener = socket.create_server((HOST, 0))
        self.port: int = self._listener.getsockname()[1]

    def serve(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._relay, args=(near,), daemon=True).start()

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _relay(self, near: socket.socket) -> None:
        with contextlib.suppress(OSError), near, socket.create_connection((HOST, self._far)) as far:
            code, first = self._opening(near)
            if code == _CANCEL:
                far.sendall(first[:8] + self.numbers[first[8:]])
                far.recv(1)
                return
            self.connections += 1
            far.sendall(first)
            back = threading.Thread(target=self._back, args=(far, near), daemon=True)
            back.start()
            _pass_on(near, far)
            back.join(5)

    def _opening(self, near: socket.socket) -> tuple[int, bytes]:
        """Return the first message that is no question for encryption, with its code."""
        while True:
            head = _exactly(near, 8)
            length, code = struct.unpack("!II", head)
            if code not in (_TLS, _GSS):
                return int(code), head + _exactly(near, length - 8)
            near.sendall(_NO)

    def _back(self, far: socket.socket, near: socket.socket) -> None:
        """Pass on what the server says, its key under another number."""
        with contextlib.suppress(OSError):
            while True:
                head = _exactly(far, 5)
                body = _exactly(far, struct.unpack("!I", head[1:])[0] - 4)
                if head[:1] != b"K":
                    near.sendall(head + body)
                    continue
                invented = struct.pack("!I", 1 + secrets.randbits(30)) + secrets.token_bytes(len(body) - 4)
                self.numbers[invented] = body
                near.sendall(head + invented)
                _pass_on(far, near)
                return


def _exactly(source: socket.socket, size: int) -> bytes:
    came = b""
    while len(came) < size:
        if not (data := source.recv(size - len(came))):
            raise ConnectionError
        came += data
    return came


def _pass_on(source: socket.socket, other: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(1 << 16):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def renumbering(server: Target) -> Iterator[tuple[Target, Relay]]:
    """Within the block the target behind such a relay."""
    made = Relay(server.port)
    thread = threading.Thread(target=made.serve, daemon=True)
    thread.start()
    try:
        yield Target.of(**{**server.parameters, "host": HOST, "port": str(made.port)}), made
    finally:
        made.close()
        thread.join(5)
