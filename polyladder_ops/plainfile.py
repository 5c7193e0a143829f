"""Files as they should lie in a folder of backups: ordinary ones, of a size that one may read.

A pipe would be waited for without end, a device has no end, a link leads to bytes that others change elsewhere. So what
somebody else may have put there is looked at before it is opened, by the name itself, and again when it is open.
"""

from __future__ import annotations

import errno
import io
import os
import stat
from pathlib import Path

__all__ = ["NotOrdinary", "TooLarge", "look", "oddity", "opened", "read", "written"]

# Windows has none of them; there a link is met by the look before.
_FLAGS = (
    os.O_RDONLY
    | getattr(os, "O_BINARY", 0)
    | getattr(os, "O_NOFOLLOW", 0)  # another's link in place of the file that was looked at
    | getattr(os, "O_NONBLOCK", 0)  # opening a pipe waits for who writes into it
)
_KINDS = (
    (stat.S_ISLNK, "a link"),
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISCHR, "a device"),
)


class NotOrdinary(OSError):  # noqa: N818 - a name for what was found
    """What has this name is no ordinary file but `what`, such as "a link"; `strerror` says so."""

    def __init__(self, what: str, path: Path | str) -> None:
        super().__init__(errno.EINVAL, f"it is {what}", os.fspath(path))
        self.what = what


class TooLarge(OSError):  # noqa: N818 - the same
    """The file is larger than anything that is read of it."""


def look(path: Path | str) -> os.stat_result:
    """Return what is known of an ordinary file. Raise NotOrdinary if it is none, OSError if it can't be looked at."""
    return _ordinary(os.lstat(path), path)


def oddity(path: Path | str) -> str:
    """Return what has this name instead of an ordinary file, such as "a link"; empty if it is one or none is there."""
    try:
        look(path)
    except NotOrdinary as error:
        return error.what
    except OSError:
        return ""
    return ""


def opened(path: Path | str, *, through_links: bool = False) -> io.FileIO:
    """Return an ordinary file, open for reading without a buffer; `through_links`: a link to one is meant, too.

    Raise NotOrdinary if it is none, OSError if it can't be opened.
    """
    if through_links:
        _ordinary(Path(path).stat(), path)
    else:
        look(path)
    descriptor = os.open(path, _FLAGS & ~getattr(os, "O_NOFOLLOW", 0) if through_links else _FLAGS)
    try:
        _ordinary(os.fstat(descriptor), path)
        return io.FileIO(descriptor)
    except BaseException:
        os.close(descriptor)
        raise


def read(path: Path | str, most_bytes: int, *, through_links: bool = False) -> bytes:
    """Return what is in an ordinary file. Raise TooLarge, without reading it, if that is more than `most_bytes`."""
    with opened(path, through_links=through_links) as file:
        size = os.fstat(file.fileno()).st_size
        if size > most_bytes:
            raise TooLarge(
                errno.EFBIG, f"it has {size:,} bytes; at most {most_bytes:,} are read", os.fspath(path)
            )
        pieces = [file.read(size)]
        while pieces[-1] and sum(map(len, pieces)) < size:  # a file system far away may give less at once
            pieces.append(file.read(size))
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)


def written(path: Path | str, most_bytes: int) -> str:
    """Return the text of a file that a person wrote, UTF-8 with any line ends; a link to it is followed.

    Raise NotOrdinary, TooLarge, OSError or UnicodeDecodeError if it can't be read.
    """
    text = read(path, most_bytes, through_links=True).decode("utf-8-sig")
    return text.replace("\r\n", "\n").replace("\r", "\n")


def _ordinary(found: os.stat_result, path: Path | str) -> os.stat_result:
    if stat.S_ISREG(found.st_mode):
        return found
    what = next((kind for fits, kind in _KINDS if fits(found.st_mode)), "no ordinary file")
    raise NotOrdinary(what, path)
