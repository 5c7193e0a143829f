"""A socket of ours behind which each connection is a program on a machine: libpq here, the server's own socket there.

It lies in a folder that only we can enter. A port would do as well for libpq, and let every account of this computer in to a
server that trusts whoever comes by its socket.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops import sockets
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.fly.remote import Remote
    from polyladder_ops.fly.stream import Stream

__all__ = ["Bridge", "bridged"]

_PIECE = 128 << 10
_NAME = ".s.PGSQL."


@dataclass
class Bridge:
    """Where libpq connects: `folder` as its host, `port` as its port. `lost` are the connections that ended badly, and why."""

    folder: Path
    port: int
    lost: list[OpsError] = field(default_factory=list)


@contextlib.contextmanager
def bridged(remote: Remote, command: str, port: int) -> Iterator[Bridge]:
    """Within the block each connection to the socket runs the command on the machine, and talks to it.

    All of them end with the block. Raise OpsError where there are no such sockets.
    """
    folder = sockets.private_folder()
    bridge = Bridge(folder, port)
    crossings = _Crossings(remote, command, bridge)
    try:
        with sockets.waiting(folder / f"{_NAME}{port}") as listener:
            thread = threading.Thread(target=crossings.serve, args=(listener,), daemon=True)
            thread.start()
            try:
                yield bridge
            finally:
                crossings.end(listener)
                thread.join()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class _Crossings:
    """The connections that are open, each with two threads: one up, one down."""

    def __init__(self, remote: Remote, command: str, bridge: Bridge) -> None:
        self._remote = remote
        self._command = command
        self._bridge = bridge
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._is_over = False

    def serve(self, listener: socket.socket) -> None:
        while not self._is_over:
            try:
                near, _ = listener.accept()
            except OSError:
                return
            thread = threading.Thread(target=self._cross, args=(near,), daemon=True)
            self._threads = [each for each in self._threads if each.is_alive()] + [thread]
            thread.start()

    def end(self, listener: socket.socket) -> None:
        """Let nobody in any more, and hang up on who is there."""
        self._is_over = True
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)  # which wakes who waits in accept
        with self._lock:
            for near in self._open:
                with contextlib.suppress(OSError):
                    near.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()

    def _cross(self, near: socket.socket) -> None:
        with near:
            with self._lock:
                self._open.add(near)
            try:
                with self._remote.streamed(self._command) as stream:
                    up = threading.Thread(target=_up, args=(near, stream), daemon=True)
                    up.start()
                    _down(stream, near)
                    with contextlib.suppress(OSError):
                        near.shutdown(socket.SHUT_RDWR)
                    up.join()
            except OpsError as error:
                if not self._is_over:
                    self._bridge.lost.append(error)
            finally:
                with self._lock:
                    self._open.discard(near)


def _up(near: socket.socket, stream: Stream) -> None:
    with contextlib.suppress(OSError, OpsError):  # what went wrong the way down tells
        while piece := near.recv(_PIECE):
            stream.write(piece)
        stream.close_stdin()


def _down(stream: Stream, near: socket.socket) -> None:
    while piece := stream.read(_PIECE):
        try:
            near.sendall(piece)
        except OSError:  # who had it has hung up
            return
