"""A Unix socket that others can't reach: the one kind of address that Windows' Python does not know."""

from __future__ import annotations

import contextlib
import re
import shutil
import socket
import sys
import time
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["exist", "fits", "private_folder", "sweep", "waiting"]

_PREFIX = "road-"
_NEW_S = 60.0  # one that is made now has no socket yet
_LONGEST = 80  # a socket's path holds about 100 bytes, its own name among them


def exist() -> bool:
    """Whether this system has Unix sockets."""
    return portable.name_socket_folder(None) is not None


def fits(folder: Path) -> bool:
    """Whether a socket in this folder can be named to libpq, which parts hosts at commas."""
    return (
        sys.platform != "win32"
        and re.fullmatch(rf"[\w/.+-]{{1,{_LONGEST}}}", str(folder), re.ASCII) is not None
    )


def private_folder() -> Path:
    """Return a new folder that only we can enter, with a name short enough for a socket. Raise OpsError on Windows."""
    folder = portable.name_socket_folder(None)
    if folder is None:
        raise OpsError(
            "this system has no Unix sockets",
            detail="The way to the database's own socket leads through one of ours.",
            hint="Run it on Linux, macOS or in WSL, or set DATABASE_URL.",
        )
    sweep(folder.parent)
    folder = folder.with_name(f"{_PREFIX}{folder.name}")
    folder.mkdir(mode=0o700)
    return folder


def sweep(parent: Path) -> None:
    """Remove the folders of ours in a folder for all whose runs were killed: nobody answers at their sockets any more."""
    for folder in parent.glob(f"{_PREFIX}*"):
        with contextlib.suppress(OSError):
            is_old = time.time() - folder.lstat().st_mtime > _NEW_S
            if is_old and portable.is_ours(folder) and not any(map(_answers, folder.glob(".s.PGSQL.*"))):
                shutil.rmtree(folder)


def _answers(path: Path) -> bool:
    if sys.platform == "win32":
        return True
    with socket.socket(socket.AF_UNIX) as near:
        near.settimeout(1)
        try:
            near.connect(str(path))
        except ConnectionRefusedError:
            return False
    return True


def waiting(path: Path) -> socket.socket:
    """Return a socket at this path that waits for connections."""
    if sys.platform == "win32":
        raise AssertionError(path)  # there was no folder for it
    made = socket.socket(socket.AF_UNIX)
    made.bind(str(path))
    made.listen(64)
    return made
