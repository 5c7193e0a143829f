"""Scratch servers for proofs: each in a locked folder of its own, and gone at the end, however that comes.

A server outlives whoever started it, and this one holds production's rows. So a guardian (`guardian.py`) ends it when
we die, and what even that one could not remove is found by its folder, whose lock nobody holds then.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, working_in
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox.server import Server
from polyladder_ops.workspace import Swept, foreign

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["clear", "is_candidate", "reserved", "sweep"]

_NAME = re.compile(r"[0-9a-f]{12}")
_GUARDIAN = (
    "import sys; sys.path.insert(0, sys.argv[1]); from polyladder_ops.sandbox.guardian import main; main()"
)
_PATIENCE_S = 10.0  # for the guardian to see that nothing is left


@contextlib.contextmanager
def reserved(parent: Path) -> Iterator[Path]:
    """Within the block the name of a folder for a scratch server, locked and guarded: it is gone if we die.

    Raise OpsError if we may not write in `parent`.
    """
    with working_in(parent):
        portable.make_private_directory(parent)
    folder = parent.absolute() / secrets.token_hex(6)
    with _guarded(folder), contextlib.ExitStack() as kept:
        with working_in(parent):
            kept.enter_context(in_use(folder))
        yield folder


def is_candidate(name: str) -> bool:
    """Whether a folder of this name could be a scratch server's."""
    return _NAME.fullmatch(name) is not None


def sweep(parent: Path, *, look_only: bool = False) -> Swept:
    """Remove the servers of killed proofs in `parent`, but what belongs to others or leads elsewhere; or look only."""
    swept, found = Swept(), sorted(parent.iterdir() if parent.is_dir() else ())
    for path in found:
        if not is_candidate(path.name):
            if not look_only:
                _unlock(path)
            continue
        why = foreign(path)
        swept += (
            Swept(left=(f"perhaps a killed proof's, not touched: {path} {why}",))
            if why
            else _swept(path, look_only=look_only)
        )
    return swept


def _unlock(path: Path) -> None:
    """Remove the lock of a server that is gone, if this is one: whoever had it was killed before he could."""
    folder = path.with_suffix("")
    is_lock = path == _lock(folder) and is_candidate(folder.name) and path.is_file() and not path.is_symlink()
    if is_lock and portable.is_ours(path) and not folder.exists():
        with contextlib.suppress(Timeout, OSError), in_use(folder):
            pass


def _swept(folder: Path, *, look_only: bool) -> Swept:
    try:
        with in_use(folder):
            if look_only:
                return Swept(left=(f"a killed proof left a server in {folder}: the next command removes it",))
            _clear(folder)
    except Timeout:
        return Swept()  # it is at work, or its guardian is
    except (OpsError, OSError) as error:
        why = error.message if isinstance(error, OpsError) else error.strerror or str(error)
        return Swept(left=(f"what a killed proof left can't be removed: {folder}: {why}",))
    if folder.exists():
        return Swept(left=(f"perhaps a killed proof's, not touched: {folder} holds what is no server's",))
    return Swept(removed=(folder,))


@contextlib.contextmanager
def in_use(folder: Path, *, timeout_s: float = 0) -> Iterator[None]:
    """Within the block the folder is ours; no lock stays behind, however that ends.

    Raise Timeout if it is a process's that lives, after that many seconds.
    """
    lock = _lock(folder)
    held = FileLock(lock, timeout=timeout_s)
    held.acquire()
    while not lock.exists():  # who had it removed it as he left: nobody else would meet this one
        held.release()
        held.acquire()
    try:
        yield
    finally:
        removed = _unlinked(lock)
        held.release()
        if not removed:  # Windows removes no file that is open
            _unlinked(lock)


def _unlinked(lock: Path) -> bool:
    with contextlib.suppress(OSError):  # somebody else is just looking
        lock.unlink(missing_ok=True)
        return True
    return False


def _lock(folder: Path) -> Path:
    return Path(f"{folder}.lock")


def clear(folder: Path) -> None:
    """Make sure that neither server nor folder are there. Raise Timeout if somebody uses them, OpsError if it can't.

    What was not made by us stays: only a server that the folder remembers is removed, or the folder if it is empty.
    """
    with in_use(folder, timeout_s=_PATIENCE_S):
        _clear(folder)


def _clear(folder: Path) -> None:
    if folder.is_dir():
        if (folder / place.STATE).is_file():
            Server(folder).remove()
        else:
            (folder / f"{place.STATE}.new").unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                folder.rmdir()


@contextlib.contextmanager
def _guarded(folder: Path) -> Iterator[None]:
    """Within the block a process of its own waits for our end, whichever it is, to clear the folder then."""
    argv = [sys.executable, "-I", "-c", _GUARDIAN, str(Path(__file__).parents[2]), str(folder)]
    nowhere = subprocess.DEVNULL
    process = portable.start(
        argv, env=portable.clean_environment(), stdin=subprocess.PIPE, stdout=nowhere, stderr=nowhere
    )
    assert process.stdin is not None
    try:
        yield
    finally:
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_PATIENCE_S)
        portable.end(process, grace_s=0)
