"""A new file of text for people: private, whole or not there at all, never over another one, gzip if its name says so."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import os
import secrets
from typing import TYPE_CHECKING, BinaryIO

from polyladder_ops.errors import OpsError, Refused, UsageError
from polyladder_ops.portable import sync_directory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["new", "refuse_taken"]

_BLOCK = 1 << 20


def refuse_taken(path: Path) -> None:
    """Return if a file can be made there. Raise UsageError for a name or folder that won't do, Refused if it is taken."""
    if not path.name.endswith((".sql", ".sql.gz")):
        raise UsageError(
            f"{path.name or path} is no name for a file of SQL", hint="Let it end in .sql or .sql.gz."
        )
    if not path.parent.is_dir():
        raise UsageError(f"there is no folder {path.parent}", hint="Make it first, or name another one.")
    if os.path.lexists(path):
        raise _taken(path)


def _taken(path: Path) -> Refused:
    return Refused(
        f"there is a file {path} already", detail="Nothing is overwritten.", hint="Choose another name."
    )


@contextlib.contextmanager
def new(path: Path) -> Iterator[Callable[[bytes], object]]:
    """Within the block a function that writes to the file, which gets its name when everything is on disk and reads back.

    If the block fails there is no file. Raise Refused if the name is taken, OpsError if the disk fails.
    """
    refuse_taken(path)
    hidden = path.with_name(f".extract-{secrets.token_hex(6)}.part")
    digest = hashlib.sha256()
    try:
        with open(hidden, "xb", opener=_private) as file:
            with _packed(file, path) as out:

                def write(data: bytes) -> None:
                    digest.update(data)
                    out.write(data)

                yield write
            file.flush()
            os.fsync(file.fileno())
        if _read_back(hidden, path) != digest.digest():
            raise OpsError(
                "the file reads back otherwise than it was written", hint="Check the disk under it."
            )
        _link(hidden, path)
    except OSError as error:
        raise OpsError(
            f"could not write {path}",
            detail=f"The file system says: {error.strerror or error}.",
            hint="Check space and rights of its folder, or name another one.",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            hidden.unlink(missing_ok=True)
    sync_directory(path.parent)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


@contextlib.contextmanager
def _packed(file: BinaryIO, path: Path) -> Iterator[BinaryIO | gzip.GzipFile]:
    if not path.name.endswith(".gz"):
        yield file
        return
    with gzip.GzipFile("", "wb", 1, file, 0) as out:
        yield out


def _read_back(hidden: Path, path: Path) -> bytes:
    digest = hashlib.sha256()
    with gzip.open(hidden) if path.name.endswith(".gz") else hidden.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.digest()


def _link(hidden: Path, path: Path) -> None:
    """A link refuses to overwrite where a rename would do it in silence; not every file system has links."""
    try:
        os.link(hidden, path)
    except FileExistsError as error:
        raise _taken(path) from error
    except OSError:
        if os.path.lexists(path):
            raise _taken(path) from None
        hidden.rename(path)
