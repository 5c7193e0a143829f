"""A socket of ours behind which each connection is a program on a machine: libpq here, the server there.

It lies in a folder that only we can enter. A port would let every account of this computer in to a server that trusts whoever comes
by its socket; and to one that asks for a password, who has none would still take its slots, one program on the machine for each.
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
from polyladder_ops.workspace import workspace

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
def bridged(remote: Remote, command: str, port: int, parent: Path) -> Iterator[Bridge]:
    """Within the block each connection to the socket runs the command on the machine, and talks to it.

    All of them end with the block. The socket is below `parent`, a folder of ours that is swept of what killed runs left, if its
    name is short enough. Raise OpsError where there are no such sockets.
    """
    with _folder(parent) as folder:
        bridge = Bridge(folder, port)
        crossings = _Crossings(remote, command, bridge.lost)
        with sockets.waiting(folder / f"{_NAME}{port}") as listener, _served(listener, crossings):
            yield bridge


@contextlib.contextmanager
def _folder(parent: Path) -> Iterator[Path]:
    with workspace(parent) as place:
        if sockets.fits(place):
            yield place
            return
    folder = sockets.private_folder()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _served(listener: socket.socket, crossings: _Crossings) -> Iterator[None]:
    thread = threading.Thread(target=crossings.serve, args=(listener,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        crossings.end(listener)
        thread.join()


class _Crossings:
    """The connections that are open, each with two threads: one up, one down."""

    def __init__(self, remote: Remote, command: str, lost: list[OpsError]) -> None:
        self._remote = remote
        self._command = command
        self._lost = lost
        self._open: set[socket.socket] = set()
        self._streams: set[Stream] = set()
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
                _shut(near)
            for stream in self._streams:  # what stands still there would be waited for without an end
                stream.close()
        for thread in self._threads:
            thread.join()

    def _cross(self, near: socket.socket) -> None:
        with near:
            with self._lock:
                self._open.add(near)
            try:
                self._talk(near)
            except OpsError as error:
                if not self._is_over:
                    self._lost.append(error)
            finally:
                _shut(near)
                with self._lock:
                    self._open.discard(near)

    def _talk(self, near: socket.socket) -> None:
        with self._remote.streamed(self._command) as stream, self._known(stream):
            up = threading.Thread(target=_up, args=(near, stream), daemon=True)
            up.start()
            _down(stream, near)
            _shut(near)
            stream.close()
            up.join()

    @contextlib.contextmanager
    def _known(self, stream: Stream) -> Iterator[None]:
        with self._lock:
            self._streams.add(stream)
        try:
            yield
        finally:
            with self._lock:
                self._streams.discard(stream)


def _shut(near: socket.socket) -> None:
    """Let both sides know that it is over; to close it would tell nobody, while a thread of ours waits for what comes from it."""
    with contextlib.suppress(OSError):
        near.shutdown(socket.SHUT_RDWR)


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
