"""Folders in which the doctor tries what a disk takes: gone at once, and known by their lock where it was killed meanwhile."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from polyladder_ops.workspace import LOCK, Swept, foreign, is_locked

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["FIRST", "SECOND", "sweep", "trial"]

_PREFIX = ".doctor-"
_NAME = re.compile(r"\.doctor-[a-z0-9_]{8}")
FIRST, SECOND = "first", "second"
_OURS = {LOCK, FIRST, SECOND}


@contextlib.contextmanager
def trial(parent: Path) -> Iterator[Path]:
    """Within the block there is a folder in `parent` for the names FIRST and SECOND.

    Raise FileNotFoundError if somebody swept it in the instant before it was locked.
    """
    made = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        with FileLock(made / LOCK):
            yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)


def sweep(parents: Iterable[Path], *, look_only: bool = False) -> Swept:
    """Remove what killed doctors left in these folders, but what belongs to others; `look_only` removes nothing."""
    swept = Swept()
    for parent in parents:
        for path in (parent / name for name in _names(parent) if _NAME.fullmatch(name)):
            swept += _swept(path, look_only=look_only)
    return swept


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))  # noqa: PTH208 - names are enough, of ten thousand files
    except OSError:  # not there, or not for us: then nothing of ours is in it
        return []


def _swept(path: Path, *, look_only: bool) -> Swept:
    if why := foreign(path) or _no_trial(path):
        return Swept(left=(f"perhaps a killed doctor's, not touched: {path} {why}",))
    if not path.is_dir() or is_locked(path):
        return Swept()
    if look_only:
        return Swept(left=(f"a killed doctor left {path}: the next command removes it",))
    shutil.rmtree(path, ignore_errors=True)
    if path.exists():
        return Swept(left=(f"what a killed doctor left can't be removed: {path}",))
    return Swept(removed=(path,))


def _no_trial(path: Path) -> str:
    return "holds what is no trial's" if set(_names(path)) - _OURS else ""
