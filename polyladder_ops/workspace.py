"""Folders that a run works in and leaves nothing of: private, locked while alive, swept by the next run when dead.

A run that is killed can't clean up. Its folder stays with a lock that nobody holds any more; that is how the next run
knows it, whatever happened to process ids meanwhile.
"""

from __future__ import annotations

import contextlib
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from polyladder_ops.portable import make_private_directory

__all__ = ["folder_lock", "sweep", "workspace"]

_PREFIX = ".run-"


def folder_lock(parent: Path, *, timeout_s: float = 60.0) -> FileLock:
    """Return the lock that guards the names in a folder; held for moments only."""
    return FileLock(parent / ".lock", timeout=timeout_s)


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Within the block a folder in `parent` that only we can enter; it is gone afterwards, whatever happened.

    What dead runs left is swept first.
    """
    make_private_directory(parent)
    with folder_lock(parent):
        _sweep(parent)
        path = parent / f"{_PREFIX}{secrets.token_hex(6)}"
        make_private_directory(path)
        alive = FileLock(path / "lock")
        alive.acquire()
    try:
        yield path
    finally:
        alive.release()
        shutil.rmtree(path, ignore_errors=True)


def sweep(parent: Path) -> list[Path]:
    """Remove what dead runs left in `parent` and return their folders."""
    if not parent.is_dir():
        return []
    with folder_lock(parent):
        return _sweep(parent)


def _sweep(parent: Path) -> list[Path]:
    dead = [path for path in parent.glob(f"{_PREFIX}*") if path.is_dir() and not _is_alive(path)]
    for path in dead:
        _unpublish(parent, path)
        shutil.rmtree(path, ignore_errors=True)
    return dead


def _is_alive(path: Path) -> bool:
    lock = FileLock(path / "lock", timeout=0)
    try:
        with lock:
            return False
    except Timeout:
        return True


def _unpublish(parent: Path, dead: Path) -> None:
    """Take back the final name of data whose run died before its manifest: the same file under two names."""
    for data in dead.glob("*.sql.gz*"):
        inode = data.stat()
        for named in parent.glob("*.sql.gz*"):
            same = (named.stat().st_ino, named.stat().st_dev) == (inode.st_ino, inode.st_dev)
            if same and named.suffix != ".json" and not Path(f"{named}.json").exists():
                named.unlink()
