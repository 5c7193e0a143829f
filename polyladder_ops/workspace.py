"""Folders that a run works in and leaves nothing of: private, locked while alive, swept by the next run when dead.

Locks are the system's own, which lets go of them when a process dies, however it dies; nobody has to clear one away. A run that is killed can't clean up. Its folder stays with a lock that nobody holds any more; that is how the next run
knows it, whatever happened to process ids meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from polyladder_ops.errors import Refused, unusable
from polyladder_ops.interrupts import held
from polyladder_ops.portable import by_whom, is_alive, is_ours, make_private_directory
from polyladder_ops.undoing import at_work, standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["LOCK", "Swept", "folder_lock", "foreign", "is_candidate", "is_locked", "sweep", "workspace"]

_PREFIX = ".run-"
_NAME = re.compile(r"\.run-[0-9a-f]{12}")
_HALF = re.compile(r"\.new-[0-9a-f]{12}")  # a record that is being written, under the folder's lock
LOCK = "lock"
_HOLDER = ".lock-holder"


@contextlib.contextmanager
def folder_lock(
    parent: Path, *, doing: str = "changing names in it", timeout_s: float = 60.0
) -> Iterator[None]:
    """Within the block nobody else changes the names in a folder; it is held for moments only.

    Raise Refused if another run holds it for longer than that, saying who it is and what it is `doing`; OpsError if we
    may not write there.
    """
    lock = FileLock(parent / ".lock", timeout=timeout_s)
    try:
        lock.acquire()
    except Timeout:
        raise Refused(
            f"another run keeps {parent} locked",
            detail=f"{_holder(parent)}It did not let go within {timeout_s:g} s.",
            hint="Wait for it or end it where it runs; a run that died lets go by itself.",
        ) from None
    except OSError as error:
        raise unusable(parent, error) from error
    try:
        with _signed(parent, doing):
            yield
    finally:
        lock.release()


@contextlib.contextmanager
def _signed(parent: Path, doing: str) -> Iterator[None]:
    """Within the block a file beside the lock says who holds it; where that can't be written the lock holds all the same.

    It can't stand in the lock: on Windows nobody else may read that.
    """
    note = parent / _HOLDER
    said = {"by": by_whom(), "pid": os.getpid(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S}Z"}
    with contextlib.suppress(OSError):
        note.unlink(missing_ok=True)  # of a run that was killed
        note.write_text(json.dumps({**said, "doing": doing}), encoding="ascii")
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)


def _holder(parent: Path) -> str:
    """Return a sentence on who holds the lock, with a space behind it; empty if that isn't known.

    What a run of this machine has left is not believed once its process is gone.
    """
    try:
        said = json.loads((parent / _HOLDER).read_bytes())
        by, pid, since, doing = str(said["by"]), int(said["pid"]), str(said["since"]), str(said["doing"])
        is_here = by.rpartition("@")[2] == by_whom().rpartition("@")[2]
        if is_here and not is_alive(pid):
            return ""
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return ""
    return f"It is {by}, process {pid}, since {since}: {doing}. "


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Within the block a folder in `parent` that only we can enter; it is gone afterwards, whatever happened.

    Data that was published from it without its manifest is gone too. What dead runs left is swept first. Raise OpsError
    if we may not write in `parent`.
    """
    try:
        make_private_directory(parent)
    except OSError as error:
        raise unusable(parent, error) from error
    with folder_lock(parent, doing="making a run's folder"):
        _sweep(parent)
        path = parent / f"{_PREFIX}{secrets.token_hex(6)}"
        try:
            make_private_directory(path)
            alive = FileLock(path / LOCK)
            alive.acquire()
        except OSError as error:
            raise unusable(parent, error) from error

    def clear() -> None:
        _unpublish(parent, path)
        _empty(path)  # before it looks dead: what just ended was not killed
        alive.release()
        shutil.rmtree(path, ignore_errors=True)

    with standing(f"Perhaps still there: {path}"):
        try:
            yield path
        except BaseException as error:
            with at_work(f"removing {path}", error if isinstance(error, KeyboardInterrupt) else None):
                clear()
            raise
        with at_work(f"removing {path}"):
            clear()
    held()


@dataclass(frozen=True)
class Swept:
    """What was removed of killed runs, and in sentences what is still there."""

    removed: tuple[Path, ...] = ()
    left: tuple[str, ...] = ()

    def __add__(self, other: Swept) -> Swept:
        return Swept(self.removed + other.removed, self.left + other.left)


def is_candidate(name: str) -> bool:
    """Whether a folder of this name could be a run's, or a file of it a record's that is not written yet."""
    return _NAME.fullmatch(name) is not None or _HALF.fullmatch(name) is not None


def sweep(parent: Path, *, timeout_s: float = 60.0, look_only: bool = False) -> Swept:
    """Remove what dead runs left in `parent`, but what belongs to others or leads elsewhere; `look_only` removes nothing.

    Raise Refused if somebody keeps the folder locked for that long, OpsError if we may not write there.
    """
    dead, left = _found(parent)
    if look_only:  # whether a record is being written just now, only the lock tells
        runs = (path for path in dead if not _HALF.fullmatch(path.name))
        return Swept(
            left=(*left, *(f"a killed run left {path}: the next command removes it" for path in runs))
        )
    if not dead:
        return Swept(left=left)
    with folder_lock(parent, doing="sweeping what killed runs left", timeout_s=timeout_s):
        return _sweep(parent)


def _sweep(parent: Path) -> Swept:
    dead, left = _found(parent)  # again: a run makes its folder and locks it while it holds the folder's lock
    removed = []
    for path in dead:
        if _HALF.fullmatch(path.name):  # nobody writes one now: the lock is ours
            with contextlib.suppress(OSError):
                path.unlink()
                removed.append(path)
            continue
        with contextlib.suppress(OSError):
            if any(entry.name != LOCK for entry in path.iterdir()):  # else it just ended, or had just begun
                removed.append(path)
        _unpublish(parent, path)
        shutil.rmtree(path, ignore_errors=True)
    stuck = [path for path in dead if path.exists()]
    told = [f"what a killed run left can't be removed: {path}" for path in stuck]
    return Swept(tuple(path for path in removed if path not in stuck), (*left, *told))


def _found(parent: Path) -> tuple[list[Path], tuple[str, ...]]:
    """Return the folders of dead runs, and in sentences what is named like one and not ours to remove."""
    dead, left = [], []
    try:
        names = sorted(os.listdir(parent))  # noqa: PTH208 - names are enough, of ten thousand files
    except OSError:  # not there, or not for us: then nothing of ours is in it
        return [], ()
    for path in (parent / name for name in names if is_candidate(name)):
        if _HALF.fullmatch(path.name):
            dead += [path] if _is_our_file(path) else []
        elif why := foreign(path) or _no_run(path):
            left.append(f"perhaps a killed run's, not touched: {path} {why}")
        elif path.is_dir() and not is_locked(path):
            dead.append(path)
    return dead, tuple(left)


def foreign(path: Path) -> str:
    """Return why a folder that is named like ours is not ours to remove; empty if it is, or is gone."""
    try:
        if path.is_symlink():
            return "is a link"
        if not path.is_dir():
            return "is no folder" if path.exists() else ""
        return "" if is_ours(path) else "belongs to another account"
    except FileNotFoundError:
        return ""


def _is_our_file(path: Path) -> bool:
    try:
        return path.is_file() and not path.is_symlink() and is_ours(path)
    except FileNotFoundError:
        return False


def _no_run(path: Path) -> str:
    try:
        return "" if (path / LOCK).is_file() or not any(path.iterdir()) else "has no lock as a run's has"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"can't be looked at ({error.strerror or error})"


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock in a run's folder; what ended a moment ago is gone by itself."""
    try:
        with FileLock(path / LOCK, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def _empty(run: Path) -> None:
    """Delete all in a run's folder but its lock, which Windows does not let go of while it is held."""
    with contextlib.suppress(OSError):
        for entry in run.iterdir():
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry, ignore_errors=True)
            elif entry.name != LOCK:
                entry.unlink(missing_ok=True)


def _unpublish(parent: Path, run: Path) -> None:
    """Take back the final name of data whose run ended before its manifest: the same file under two names."""
    ours = {_identity(data) for data in run.glob("*.sql.gz*")} - {None}
    for named in parent.glob("*.sql.gz*") if ours else ():
        if (
            _identity(named) in ours
            and named.suffix != ".json"
            and not named.with_name(f"{named.name}.json").exists()
        ):
            named.unlink(missing_ok=True)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:  # somebody else's, or gone meanwhile
        return None
    return found.st_dev, found.st_ino
