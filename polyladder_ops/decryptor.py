"""The process that `decryption` starts: it decrypts one file to its stdout, and says on stderr what the file was.

A process, since age calls back into Python for each 8 KiB: in a thread beside a busy one most of its time goes into waiting
for the interpreter's lock. It imports next to nothing, learns path and keys from one line on stdin, so that they are in no
argv and no environment, and ends when nobody reads it any more.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
from typing import Any

from polyladder_ops import encryption, plainfile
from polyladder_ops.errors import OpsError

__all__ = ["main"]

_BLOCK = 1 << 18


class _Source(io.RawIOBase):
    """A file that counts and digests what is read, and keeps its first error: age passes on a text."""

    def __init__(self, path: str, *, hashed: bool) -> None:
        super().__init__()
        self._file = plainfile.opened(path)  # open until the process ends
        self._sha256 = hashlib.sha256() if hashed else None
        self.size_bytes = 0
        self.failure: OSError | None = None

    def readable(self) -> bool:
        """As io.BufferedReader wants to know."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Fill the buffer as far as there is something; return how far."""
        try:
            count = self._file.readinto(buffer)
        except OSError as error:
            self.failure = error
            raise
        self.size_bytes += count
        if self._sha256:
            self._sha256.update(memoryview(buffer)[:count])
        return count

    def sha256(self) -> str:
        """Return the digest of what was read, nothing if none was wanted."""
        return self._sha256.hexdigest() if self._sha256 else ""


def main() -> None:
    """Do what the line on stdin asks for; the verdict is one line on stderr."""
    order = json.loads(sys.stdin.buffer.readline())
    try:
        source = _Source(order["path"], hashed=order["hashed"])
    except OSError as error:
        said = _unread(error)
    else:
        said = _decrypted(source, [encryption.PrivateKey(text) for text in order["keys"]])
    with open(2, "wb") as verdict:
        verdict.write(json.dumps(said).encode())


def _decrypted(source: _Source, keys: list[encryption.PrivateKey]) -> dict[str, Any]:
    reader = io.BufferedReader(source, _BLOCK)
    try:
        with open(1, "wb", buffering=_BLOCK) as writer:
            encryption.decrypt(reader, writer, keys)
    except encryption.Altered as error:
        return _unread(source.failure) if source.failure else {"altered": (error.message, error.detail)}
    except encryption.NoKey as error:
        return {"shut": (error.message, error.detail, error.hint)}
    except OpsError as error:
        return {"failed": (error.message, error.detail, error.hint)}
    return {"size_bytes": source.size_bytes, "sha256": source.sha256()}


def _unread(error: OSError) -> dict[str, Any]:
    return {"unread": (error.errno or 0, error.strerror or str(error))}
