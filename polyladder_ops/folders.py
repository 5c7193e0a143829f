"""Whether there is room for what a backup, a proof and a restore make: in folders here, on the server's disk; checks of the doctor."""

from __future__ import annotations

import os
import shutil
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops import trials
from polyladder_ops.kept import Check, Stops
from polyladder_ops.postgres import volume
from polyladder_ops.postgres.session import connect, translated
from polyladder_ops.restore import room as rooms
from polyladder_ops.terminal import size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.restore.room import Room
    from polyladder_ops.site import Site

__all__ = ["is_there", "judge_copy", "judge_space", "room_for_a_copy", "space", "try_folder"]

# A dump as gzip is a fifth to a half of its database with indexes; an eighth is less than was ever seen.
_LEAST = 8


def space(for_backups: Path, for_proofs: Path, database_size: int) -> Sequence[Check]:
    """Return whether the two folders have room for a database of this size; nothing if one can't be looked at."""
    try:
        free = _free(for_backups), _free(for_proofs)
    except OSError:  # as the checks of the folders say
        return ()
    return list(judge_space(*free, database_size))


def judge_space(for_backups: int, for_proof: int, database_size: int) -> Iterator[Check]:
    """Yield whether what is free will do for a backup, and for a restored copy beside the server's own files."""
    detail = f"{size(for_backups)} free, the database has {size(database_size)}."
    hint = "Free some, or name another folder in BACKUP_DIR."
    if for_backups < database_size // _LEAST:
        yield Check("space for a backup", False, detail, hint, "backup")
    else:
        yield Check("space for a backup", for_backups >= database_size, detail, hint)
    detail = f"{size(for_proof)} free, a restored copy and its log take about {size(2 * database_size)}."
    hint = "Free some, or name another folder in POLYLADDER_STATE_DIR, or another server in POLYLADDER_SCRATCH_URL."
    yield Check("space for a proof", for_proof >= 2 * database_size, detail, hint)


def try_folder(variable: str, folder: Path, blocks: Stops) -> Check:
    """Return whether the folder, or the nearest one above it that exists, takes files and second names for them."""
    nearest = _nearest(folder)
    try:
        try:
            _link_in(nearest)
        except FileNotFoundError:  # another command swept it
            _link_in(nearest)
    except OSError as error:
        hint = f"Name a folder in {variable} that you can write to, on a disk that knows hard links."
        return Check(variable, False, f"{nearest}: {error.strerror}.", hint, blocks)
    return Check(variable, True, f"{folder} is writable." if nearest == folder else f"{folder} can be made.")


def _link_in(folder: Path) -> None:
    with trials.trial(folder) as made:
        (made / trials.FIRST).touch()
        os.link(made / trials.FIRST, made / trials.SECOND)


def _nearest(path: Path) -> Path:
    return next((place for place in (path, *path.parents) if is_there(place)), path)


def is_there(path: Path) -> bool:
    """Whether something has the name, a link that leads nowhere too; what can't be looked at is tried, which says why."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True


def _free(path: Path) -> int:
    return shutil.disk_usage(_nearest(path)).free


def judge_copy(room: Room | None, cure: Callable[[Room], str]) -> Check:
    """Return whether a copy of the live database would fit beside it: each restore makes one, and none is made on a full disk."""
    name = "space for a copy"
    if room is None:
        return Check(name, None, "The server's disk can't be seen from here.")
    detail = (
        f"{size(room.free_bytes)} of the server's {size(room.total_bytes)} are free; a copy of the live database and its log take"
        f" up to {size(room.needed_bytes)}, and {size(room.reserve_bytes)} should stay free."
    )
    if room.is_enough:
        return Check(name, True, detail)
    return Check(name, False, detail, cure(room), "restore")


def room_for_a_copy(target: Target, site: Site, size_bytes: int) -> Check:
    """Return whether a copy of the live database, of this size, would fit beside it, as its server sees its disk.

    Raise OpsError if the server fails.
    """
    with connect(target) as connection, translated(f"could not look at the disk of {target}"):
        disk = volume.measure(connection, is_far=target.way is not None)
        wal_bytes = volume.wal_bytes(connection)
    found = rooms.for_copy(disk, wal_bytes, rooms.needed_bytes(size_bytes))
    return judge_copy(found, partial(_more_room, site))


def _more_room(site: Site, room: Room) -> str:
    host = site.host()
    return host.more_room(room.total_bytes, room.wanted_bytes) if host else rooms.ENLARGE
