"""Folders that a run works in and leaves nothing of: private, locked while alive, swept by the next run when dead.

Locks are the system's own, which lets go of them when a process dies, however it dies; nobody has to clear one away. A run that is killed can't clean up. Its folder stays with a lock that nobody holds any more; that is how the next run
knows it, whatever happened to process ids meanwhile.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.interrupts import held
from polyladder_ops.portable import by_whom, is_alive, make_private_directory
from polyladder_ops.undoing import at_work, standing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["folder_lock", "sweep", "workspace"]

_PREFIX = ".run-"
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
        raise _unusable(parent, error) from error
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


def _unusable(parent: Path, error: OSError) -> OpsError:
    return OpsError(
        f"could not work in {parent}",
        detail=f"The file system says: {error.strerror or error}.",
        hint="Check the folder's rights and space, or name another one.",
    )


@contextlib.contextmanager
def workspace(parent: Path) -> Iterator[Path]:
    """Within the block a folder in `parent` that only we can enter; it is gone afterwards, whatever happened.

    Data that was published from it without its manifest is gone too. What dead runs left is swept first. Raise OpsError
    if we may not write in `parent`.
    """
    try:
        make_private_directory(parent)
    except OSError as error:
        raise _unusable(parent, error) from error
    with folder_lock(parent, doing="making a run's folder"):
        _sweep(parent)
        path = parent / f"{_PREFIX}{secrets.token_hex(6)}"
        try:
            make_private_directory(path)
            alive = FileLock(path / "lock")
            alive.acquire()
        except OSError as error:
            raise _unusable(parent, error) from error

    def clear() -> None:
        _unpublish(parent, path)
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


def sweep(parent: Path) -> list[Path]:
    """Remove what dead runs left in `parent` and return their folders."""
    if not parent.is_dir():
        return []
    with folder_lock(parent, doing="sweeping what killed runs left"):
        return _sweep(parent)


def _sweep(parent: Path) -> list[Path]:
    dead = [path for path in parent.glob(f"{_PREFIX}*") if path.is_dir() and not _is_alive(path)]
    for path in dead:
        _unpublish(parent, path)
        shutil.rmtree(path, ignore_errors=True)
    return dead


def _is_alive(path: Path) -> bool:
    """Whether somebody holds the lock in a run's folder; what another user's run left is not ours to judge."""
    try:
        with FileLock(path / "lock", timeout=0):
            return False
    except (Timeout, OSError):
        return True


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
