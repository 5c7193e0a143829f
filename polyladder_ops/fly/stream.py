"""The bytes of one command on a machine, over a channel of SSH: read and written as they are, with an end to each wait."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from polyladder_ops.errors import OpsError

__all__ = ["NO_CODE", "Outcome", "Peer", "Stream"]

_SILENT_S = 10.0
_END_S = 60.0
_MOST = 64 << 10
_PIECE = 1 << 20
NO_CODE = -1
"""Paramiko's word for an exit code that never came."""


@dataclass(frozen=True)
class Outcome:
    """How a command ended: its exit code, and what it said."""

    code: int
    out: str
    err: str


class Peer(Protocol):
    """The machine at the other end of a channel."""

    def answers(self) -> bool:
        """Whether it still answers."""

    def hang_up(self) -> None:
        """End the connection, so that whoever waits wakes up."""

    def lost(self, error: BaseException) -> OpsError:
        """Return what to tell of a connection that was lost."""


class Stream:
    """The bytes of a command that runs on a machine; who waits too long for one asks whether the machine still answers."""

    def __init__(self, peer: Peer, channel: Any) -> None:
        self._peer = peer
        self._channel = channel
        self._errors = bytearray()
        self._is_closed = False
        channel.settimeout(_SILENT_S)
        self._reader = threading.Thread(target=self._read_errors, daemon=True)
        self._reader.start()

    def _read_errors(self) -> None:
        with contextlib.suppress(OSError):
            self._channel.set_combine_stderr(False)
            while True:
                try:
                    piece = self._channel.recv_stderr(1 << 12)
                except TimeoutError:
                    continue
                if not piece:
                    return
                self._errors += piece
                if len(self._errors) > _MOST:  # its first and its last words
                    del self._errors[_MOST // 4 : -_MOST // 4]

    def read(self, size: int = _PIECE) -> bytes:
        """Return the next bytes, none at the command's end. Raise FlyError if the connection is lost, or silent.

        A command may say nothing for an hour; then the machine is asked whether it is still there.
        """
        while True:
            try:
                came: bytes = self._channel.recv(size)
            except TimeoutError:
                self._expect_answer()
                continue
            if self._is_closed:
                return b""
            # paramiko gives nothing, too, where the connection was cut; only these tell whether the far end said so.
            if not came and not self._channel.eof_received and self._channel.exit_status == NO_CODE:
                raise self._peer.lost(EOFError("the connection ended amid the command"))
            return came

    def write(self, content: bytes) -> None:
        """Write all bytes to the command, none once we have hung up. Raise FlyError if the connection is lost, or the command takes no more."""
        rest = memoryview(content)
        while rest and not self._is_closed:
            try:
                sent = self._channel.send(rest[:_PIECE])
            except TimeoutError:
                self._expect_answer()
                continue
            except OSError as error:
                raise self._peer.lost(error) from error
            if not sent and not self._is_closed:
                raise self._peer.lost(EOFError("the command takes no more"))
            rest = rest[sent:]

    def beat(self) -> None:
        """Send an empty line, for who listens whether we live. If it can't be sent, who reads finds out why."""
        with contextlib.suppress(OSError):
            self._channel.send(b"\n")

    def close(self) -> None:
        """Hang up on the command; whoever reads wakes up, with nothing. It may run on there."""
        self._is_closed = True
        self._channel.close()

    def close_stdin(self) -> None:
        """Tell the command that nothing more comes."""
        self._channel.shutdown_write()

    def ended(self, *, limit_s: float = _END_S) -> Outcome:
        """Return how the command ended, once all its bytes were read. Raise FlyError if it gives no exit code in time."""
        deadline = time.monotonic() + limit_s
        while not self._channel.status_event.wait(0.1):
            if time.monotonic() > deadline:
                raise self._peer.lost(EOFError("the command gave no exit code"))
        self._reader.join(max(1.0, deadline - time.monotonic()))
        code = self._channel.recv_exit_status()
        if code == NO_CODE:
            raise self._peer.lost(
                EOFError("the command ended without an exit code: it was killed, or the machine was")
            )
        return Outcome(code, "", self.said())

    def said(self) -> str:
        """Return what it has said on stderr until now; of much, the beginning and the end."""
        return bytes(self._errors).decode(errors="replace")

    def _expect_answer(self) -> None:
        if not self._peer.answers():
            self._peer.hang_up()
            raise self._peer.lost(
                TimeoutError(f"nothing came for {_SILENT_S:g} s, and the machine does not answer")
            )
