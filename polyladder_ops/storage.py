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
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

from polyladder_ops import encryption
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

__all__ = ["Damaged", "Stored", "StoredWriter", "fingerprint", "read"]

BLOCK = 1 << 18
_GZIP = 31  # zlib's window bits for a gzip header and trailer
_MAGIC = b"\x1f\x8b"
Sink = Callable[[bytes], None]


class Damaged(OpsError):  # noqa: N818 - a finding, not an accident
    """The stored bytes are not what a backup is made of."""


@dataclass(frozen=True)
class Stored:
    """What a file holds: bytes on disk, their sha256, and the bytes of SQL inside."""

    size_bytes: int
    sha256: str
    plain_bytes: int


class _Hashed:
    """A file that digests what is written to it or read from it, and keeps its first error: age passes on a text."""

    def __init__(self, file: BinaryIO, name: str) -> None:
        self._file = file
        self._name = name
        self.sha256 = hashlib.sha256()
        self.size_bytes = 0
        self.failure: OpsError | None = None

    def _note(self, data: bytes) -> bytes:
        self.sha256.update(data)
        self.size_bytes += len(data)
        return data

    def write(self, data: bytes) -> int:
        try:
            self._file.write(data)
        except OSError as error:
            self.failure = _unwritten(error)
            raise self.failure from error
        return len(self._note(data))

    def read(self, size: int = -1) -> bytes:
        # age asks for 8 KiB a call; each call gives the interpreter's lock away, so it gets larger pieces buffered.
        try:
            return self._note(self._file.read(size))
        except OSError as error:
            self.failure = _unread(self._name, error)
            raise self.failure from error


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


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
        self._blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        self._failure: BaseException | None = None
        self._plain_bytes = 0
        self._thread = threading.Thread(target=self._guarded, daemon=True, name="gzip")
        self._thread.start()

    def write(self, data: bytes) -> None:
        """Take the next bytes of SQL."""
        self._plain_bytes += len(data)
        self._put(data)

    def finish(self) -> Stored:
        """Write what is left, sync the file and return what it holds."""
        self._put(None)
        self._thread.join()
        self._raise()
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise _unwritten(error) from error
        finally:
            self._close()
        return Stored(self._out.size_bytes, self._out.sha256.hexdigest(), self._plain_bytes)

    def abort(self) -> None:
        """Stop the threads and close the file, whatever state it is in; never raises."""
        self._failure = self._failure or OpsError("aborted")
        while self._thread.is_alive():
            try:
                self._blocks.put(None, timeout=0.05)
            except queue.Full:
                continue
            self._thread.join(0.2)
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
        gzip = _zlib().compressobj(1, zlib.DEFLATED, _GZIP)
        while (block := self._blocks.get()) is not None:
            if self._failure is not None:
                return
            if packed := gzip.compress(block):
                write(packed)
        write(gzip.flush())

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


_SPACE = "Free space there, or set BACKUP_DIR to another folder."


def _unwritten(error: OSError) -> OpsError:
    return OpsError(
        "could not write the backup", detail=f"The file system says: {error.strerror or error}.", hint=_SPACE
    )


def _unread(name: str, error: OSError) -> OpsError:
    return OpsError(
        f"could not read {name}",
        detail=f"The file system says: {error.strerror or error}.",
        hint="Check the file's rights and its disk.",
    )


def _zlib() -> Any:
    """Return isal's twin of zlib, ten times faster in the same format; zlib itself where there is no wheel of it."""
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


class _Gunzip:
    """Decompresses what is written to it into a sink, member after member, to the last byte."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._member: Any = None
        self._start = b""  # the first bytes of the next member, until there are enough to know it
        self._zlib = _zlib()
        self._members = 0
        self.plain_bytes = 0

    def write(self, data: bytes) -> int:
        size = len(data)
        while data:
            if self._member is None:
                data = self._start + data
                self._start = b""
                if len(data) < len(_MAGIC):
                    self._start = data
                    break
                if data[:2] != _MAGIC:
                    raise Damaged(
                        "the file is not gzip"
                        if not self._members
                        else "something stands behind the gzip data",
                        detail=f"Its bytes begin with {data[:8].hex()}.",
                    )
                self._member = self._zlib.decompressobj(_GZIP)
                self._members += 1
            data = self._inflate(data)
        return size

    def _inflate(self, data: bytes) -> bytes:
        """Decompress, a few MB at a time; return what belongs to the next member."""
        try:
            while True:
                plain = self._member.decompress(data, 4 * BLOCK)
                self.plain_bytes += len(plain)
                if plain:
                    self._sink(plain)
                if self._member.eof:
                    rest: bytes = self._member.unused_data
                    self._member = None
                    return rest
                data = self._member.unconsumed_tail
                if not data and len(plain) < 4 * BLOCK:
                    return b""
        except self._zlib.error as error:
            raise Damaged("the gzip data is damaged", detail=f"{error}.") from error

    def close(self) -> None:
        if self._start:
            raise Damaged(
                "something stands behind the gzip data", detail=f"Its bytes begin with {self._start.hex()}."
            )
        if self._member is not None:
            raise Damaged("the gzip data is cut", detail="It ends before its checksum.")
        if not self._members:
            raise Damaged("the file is empty")


class _AsItIs:
    """Takes a file that is not compressed (the old scripts made such, too): every byte is SQL."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self.plain_bytes = 0

    def write(self, data: bytes) -> None:
        self.plain_bytes += len(data)
        self._sink(data)

    def close(self) -> None:
        if not self.plain_bytes:
            raise Damaged("the file is empty")


def fingerprint(path: Path) -> tuple[int, str]:
    """Return size and sha256 of a file's bytes. Raise OpsError if it can't be read."""
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256")
            return file.tell(), digest.hexdigest()
    except OSError as error:
        raise _unread(path.name, error) from error


def read(path: Path, sink: Sink, *, keys: Sequence[Any] = (), encrypted: bool = False) -> Stored:
    """Hand the SQL inside a backup's file to `sink`, block by block, and return what the file holds.

    A name that ends in ``.sql`` means that the file is not compressed; content does not decide it.
    The sink's own errors pass through. Raise Damaged if the bytes are not whole: nothing that was handed over before
    may be believed then. Raise OpsError if the file can't be read, or opened by none of the keys.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise _unread(path.name, error) from error
    with file:
        source = _Hashed(file, path.name)
        packed = _AsItIs(sink) if path.suffix == ".sql" else _Gunzip(sink)
        with _decrypted(source, keys) if encrypted else _plain(source) as blocks:
            for block in blocks:
                packed.write(block)
        packed.close()
    return Stored(source.size_bytes, source.sha256.hexdigest(), packed.plain_bytes)


@contextlib.contextmanager
def _plain(source: _Hashed) -> Iterator[Iterator[bytes]]:
    yield iter(lambda: source.read(BLOCK), b"")


@contextlib.contextmanager
def _decrypted(source: _Hashed, keys: Sequence[Any]) -> Iterator[Iterator[bytes]]:
    """Within the block what age makes of the source, block by block; it works in a thread of its own.

    So nothing of ours passes through it: a Ctrl-C inside its calls of ours would come out as damaged bytes.
    """
    between = _Between()
    failures: list[BaseException] = []

    def decrypting() -> None:
        try:
            encryption.decrypt(source, between, keys)
            _expect_end(source)
        except BaseException as error:
            failures.append(source.failure or error)
        finally:
            between.close()

    thread = threading.Thread(target=decrypting, daemon=True, name="age")
    try:
        thread.start()
        yield iter(between)
    finally:
        between.leave()
        if thread.ident is not None:  # a Ctrl-C may come before it has started
            thread.join()
    if failures:
        error = failures[0]
        raise Damaged(error.message, detail=error.detail) if isinstance(error, encryption.Altered) else error


def _expect_end(source: _Hashed) -> None:
    if source.read(1):
        raise Damaged("something stands behind the encrypted data")


class _Between:
    """A short queue between a thread that writes and one that reads and may leave at any moment."""

    def __init__(self) -> None:
        self._blocks: queue.Queue[bytes | None] = queue.Queue(maxsize=16)
        self._left = threading.Event()

    def write(self, data: bytes) -> int:
        self._put(data)
        return len(data)

    def close(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._put(None)

    def _put(self, block: bytes | None) -> None:
        while not self._left.is_set():
            try:
                return self._blocks.put(block, timeout=0.1)
            except queue.Full:
                continue
        raise BrokenPipeError

    def __iter__(self) -> Iterator[bytes]:
        while (block := self._blocks.get()) is not None:
            yield block

    def leave(self) -> None:
        self._left.set()
