"""The bytes of a backup on their way to and from a file: gzip, age, sha256, in flat memory.

The format is plain gzip of plain SQL, so that ``gunzip -c file | psql`` works without us. A file is read to its very
end: what stands behind the gzip data, or is missing from it, is found and named.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import xxhash

from polyladder_ops import decryption, encryption, plainfile
from polyladder_ops.errors import OpsError
from polyladder_ops.gzipped import AsItIs, Damaged, Gunzip, closed, packer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Damaged", "Stored", "StoredWriter", "fingerprint", "holds", "read"]

BLOCK = 1 << 18
_SYNCED = 1 << 25  # a file is synced whenever it has grown by this much
Sink = Callable[[bytes], None]


@dataclass(frozen=True)
class Stored:
    """What a file holds: bytes on disk, their sha256, the bytes of SQL inside; of one just written the xxh3, too."""

    size_bytes: int
    sha256: str
    plain_bytes: int
    xxh3: str = field(default="", repr=False, compare=False)


class _Hashed:
    """A file that digests what is written to it or read from it, and keeps its first error: age passes on a text."""

    def __init__(self, file: IO[bytes], name: str, *, hashed: bool = True) -> None:
        self._file = file
        self._name = name
        self._sha256 = hashlib.sha256() if hashed else None
        self._xxh3 = xxhash.xxh3_128()
        self.size_bytes = 0
        self.failure: OpsError | None = None

    def _note(self, data: bytes) -> bytes:
        if self._sha256:
            self._sha256.update(data)
        self.size_bytes += len(data)
        return data

    def digest(self) -> str:
        """Return the sha256 of what passed; nothing if none was wanted."""
        return self._sha256.hexdigest() if self._sha256 else ""

    def xxh3(self) -> str:
        """Return the xxh3 of what was written."""
        return self._xxh3.hexdigest()

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.failure = _unwritten(error)
            raise self.failure from error
        self._xxh3.update(data)
        return len(self._note(data))

    def read(self, size: int = -1) -> bytes:
        try:
            return self._note(self._file.read(size))
        except OSError as error:
            self.failure = _unread(self._name, error)
            raise self.failure from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


class _EarlySync:
    """Syncs a file in a thread while it grows, so that little is left to sync at its end.

    A file system tells only once what it could not write (fsync(2)), and it may tell it here: `end` raises it.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._due = threading.Event()
        self._asked_bytes = 0
        self._over = False
        self._failure: OSError | None = None
        self._thread = threading.Thread(target=self._syncing, daemon=True, name="sync")
        self._thread.start()

    def due(self, size_bytes: int) -> None:
        """Say how large the file is now."""
        if size_bytes - self._asked_bytes >= _SYNCED:
            self._asked_bytes = size_bytes
            self._due.set()

    def end(self) -> None:
        """Stop the thread. Raise the OSError that a sync met."""
        self._over = True
        self._due.set()
        self._thread.join()
        if self._failure is not None:
            raise self._failure

    def _syncing(self) -> None:
        while self._due.wait() and not self._over:
            self._due.clear()
            try:
                os.fsync(self._descriptor)
            except OSError as error:
                self._failure = error
                return


class _Packed(bytes):
    """What is gzip already: a whole member, in pieces."""


class StoredWriter:
    """Compresses and, with recipients, encrypts what is written, in threads of its own, into a new file.

    `finish` returns when everything is on disk; `abort` forgets it. Raise OpsError from either or from `write` if the
    file can't take it (a full disk).
    """

    def __init__(self, path: Path, recipients: Sequence[Any] = ()) -> None:
        try:
            self._file = open(path, "xb", opener=_private)  # noqa: SIM115 - `finish` and `abort` close it
        except OSError as error:
            raise _unwritten(error) from error
        self._out = _Hashed(self._file, path.name)
        self._recipients = recipients
        self._blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=6)
        self._failure: BaseException | None = None
        self._plain_bytes = 0
        self._early = _EarlySync(self._file.fileno())
        self._thread = threading.Thread(target=self._guarded, daemon=True, name="gzip")
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take the next bytes of SQL."""
        self._plain_bytes += len(data)
        self._early.due(self._out.size_bytes)
        self._put(data)

    def write_packed(self, packed: bytes) -> None:
        """Take the next bytes of SQL compressed, as they came: pieces of one gzip member, whose SQL `count` is told of.

        Whoever hands them over has unpacked them to their end, or aborts.
        """
        self._early.due(self._out.size_bytes)
        self._put(_Packed(packed))

    def count(self, plain_bytes: int) -> None:
        """Take note of so many bytes of SQL, which are handed over compressed."""
        self._plain_bytes += plain_bytes

    def finish(self) -> Stored:
        """Write what is left, sync the file and return what it holds."""
        self._put(None)
        self._thread.join()
        self._raise()
        try:
            self._early.end()
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(error) from error
        finally:
            self._close()
        return Stored(self._out.size_bytes, self._out.digest(), self._plain_bytes, self._out.xxh3())

    def abort(self) -> None:
        """Stop the threads and close the file, whatever state it is in; never raises."""
        self._failure = self._failure or OpsError("aborted")
        while self._thread.is_alive():
            try:
                self._blocks.put(None, timeout=0.05)
            except queue.Full:
                continue
            self._thread.join(0.2)
        with contextlib.suppress(OSError):
            self._early.end()
        self._close()

    def _close(self) -> None:
        try:
            self._file.close()
        except OSError:
            # A full disk fails a second time here, when Python flushes what could not be written before.
            self._file.close()

    def _put(self, block: bytes | None) -> None:
        while True:
            self._raise()
            try:
                return self._blocks.put(block, timeout=0.2)
            except queue.Full:
                continue

    def _raise(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _guarded(self) -> None:
        try:
            if self._recipients:
                self._encrypt()
            else:
                self._compress(self._out.write)
        except BaseException as error:
            self._failure = self._failure or error

    def _compress(self, write: Callable[[bytes], object]) -> None:
        gzip, is_empty = None, True
        while (block := self._blocks.get()) is not None:
            if self._failure is not None:
                return
            is_empty = False
            if isinstance(block, _Packed):
                if gzip:  # a member ends before another begins
                    write(gzip.flush())
                    gzip = None
                write(block)
                continue
            gzip = gzip or packer()
            if packed := gzip.compress(block):
                write(packed)
        if gzip or is_empty:
            write((gzip or packer()).flush())

    def _encrypt(self) -> None:
        """Age pulls where gzip pushes, so a pipe stands between them."""
        source, sink = os.pipe()
        failures: list[BaseException] = []

        def encrypting() -> None:
            try:
                with os.fdopen(source, "rb", buffering=BLOCK) as reader:
                    encryption.encrypt(reader, self._out, self._recipients)
            except BaseException as error:
                failures.append(self._out.failure or error)

        thread = threading.Thread(target=encrypting, daemon=True, name="age")
        thread.start()
        # Age has closed its end then, and says why.
        with contextlib.suppress(BrokenPipeError):
            try:
                with os.fdopen(sink, "wb", buffering=BLOCK) as writer:
                    self._compress(writer.write)
            finally:
                thread.join()
        if failures:
            raise failures[0]


_ODD = "{}: a backup is a file of its own, and only that is read."
_SPACE = "Free space there, or set BACKUP_DIR to another folder."


def _unwritten(error: OSError) -> OpsError:
    return OpsError(
        "could not write the backup", detail=f"The file system says: {error.strerror or error}.", hint=_SPACE
    )


def _unread(name: str, error: OSError) -> OpsError:
    return OpsError(
        f"could not read {name}",
        detail=_ODD.format(error.strerror)
        if isinstance(error, plainfile.NotOrdinary)
        else f"The file system says: {error.strerror or error}.",
        hint="Check the file's rights and its disk.",
    )


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size and sha256 of a file's bytes. Raise OpsError if it can't be read."""
    try:
        with plainfile.opened(path) as file:
            digest = hashlib.file_digest(file, "sha256")
            return file.tell(), digest.hexdigest()
    except OSError as error:
        raise _unread(path.name, error) from error


def holds(path: Path, written: Stored) -> bool:
    """Whether the file now has the very bytes that were written. Raise OpsError if it can't be read.

    That is a question of accidents, which xxh3 answers ten times faster than sha256.
    """
    digest, size = xxhash.xxh3_128(), 0
    block = memoryview(bytearray(BLOCK))
    try:
        with plainfile.opened(path) as file:
            while count := file.readinto(block):
                digest.update(block[:count])
                size += count
    except OSError as error:
        raise _unread(path.name, error) from error
    return (size, digest.hexdigest()) == (written.size_bytes, written.xxh3)


def read(
    path: Path, sink: Sink, *, keys: Sequence[Any] = (), encrypted: bool = False, hashed: bool = True
) -> Stored:
    """Hand the SQL inside a backup's file to `sink`, block by block, and return what the file holds.

    A name that ends in ``.sql`` means that the file is not compressed; content does not decide it. Without `hashed` the
    sha256 stays empty, for who reads a file again.
    The sink's own errors pass through. Raise Damaged if the bytes are not whole: nothing that was handed over before
    may be believed then. Raise OpsError if the file can't be read, or opened by none of the keys.
    """
    packed = AsItIs() if path.suffix == ".sql" else Gunzip()
    seen = _Seen()
    stored = _opened(path, keys, seen, hashed=hashed) if encrypted else _stored(path, seen, hashed=hashed)
    blocks = packed.unpacked(stored)
    with closed(blocks):
        for block in blocks:
            sink(block)
    return Stored(seen.size_bytes, seen.sha256, packed.plain_bytes)


@dataclass
class _Seen:
    """What a file was, known when it has been read to its end."""

    size_bytes: int = 0
    sha256: str = ""


def _stored(path: Path, seen: _Seen, *, hashed: bool) -> Iterator[bytes]:
    """Yield the file's bytes."""
    try:
        file = plainfile.opened(path)
    except OSError as error:
        raise _unread(path.name, error) from error
    with file:
        source = _Hashed(file, path.name, hashed=hashed)
        while block := source.read(BLOCK):
            yield block
        seen.size_bytes, seen.sha256 = source.size_bytes, source.digest()


def _opened(path: Path, keys: Sequence[Any], seen: _Seen, *, hashed: bool) -> Iterator[bytes]:
    """Yield what is inside the encrypted file."""
    try:
        if plainfile.look(path).st_size <= decryption.SMALL:
            sealed = b"".join(_stored(path, seen, hashed=hashed))
            yield decryption.here(sealed, keys)
        else:
            seen.size_bytes, seen.sha256 = yield from decryption.by_a_process(path, keys, hashed=hashed)
    except encryption.Altered as error:
        raise Damaged(error.message, detail=error.detail) from error
    except OSError as error:
        raise _unread(path.name, error) from error
