"""A file that grows is synced and read back behind who writes it, so that little of either is left for its end."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from io import FileIO
    from pathlib import Path

__all__ = ["ReadBack"]

_STEP = 1 << 25  # a file is synced and read whenever it has grown by this much
_BLOCK = 1 << 18


class ReadBack:
    """Follows one file that is only ever appended to; `close` stops it, `look` reads what is left.

    A file system tells only once what it could not write (fsync(2)), and it may tell it here: `close` raises it.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self._path = path
        self._descriptor = descriptor
        self._followed = os.fstat(descriptor)
        self._grown = threading.Event()
        self._asked_bytes = 0
        self._over = False
        self._failure: OSError | None = None
        self._sha256 = hashlib.sha256()
        self._at = 0
        self._thread = threading.Thread(target=self._following, daemon=True, name="read back")
        self._thread.start()

    def grown(self, size_bytes: int) -> None:
        """Say how large the file is now."""
        if size_bytes - self._asked_bytes >= _STEP:
            self._asked_bytes = size_bytes
            self._grown.set()

    def close(self) -> None:
        """Stop following. Raise the OSError that was met."""
        self._over = True
        self._grown.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def look(self, path: Path) -> tuple[int, str]:
        """Return the size and the sha256 of the file under this name, for which only what was not read yet is read.

        Another file than the one that was followed is read from its beginning. Raise OSError if it can't be read.
        """
        with path.open("rb", buffering=0) as file:
            found = os.fstat(file.fileno())
            if not os.path.samestat(found, self._followed):
                self._at, self._sha256 = 0, hashlib.sha256()
            self._read(file, found.st_size)
            return found.st_size, self._sha256.hexdigest()

    def _following(self) -> None:
        try:
            while self._grown.wait() and not self._over:
                self._grown.clear()
                size_bytes = os.fstat(self._descriptor).st_size
                os.fsync(self._descriptor)
                with self._path.open("rb", buffering=0) as file:
                    self._read(file, size_bytes)
        except OSError as error:
            self._failure = error

    def _read(self, file: FileIO, up_to: int) -> None:
        """Digest the bytes from where we are up to this place."""
        file.seek(self._at)
        while self._at < up_to and (block := file.read(min(_BLOCK, up_to - self._at))):
            self._sha256.update(block)
            self._at += len(block)
