"""Whether a second copy fits beside the live database on the server's disk, and how large that would have to be; pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.facts import Server
    from polyladder_ops.postgres.volume import Volume

__all__ = ["ENLARGE", "FULL_SHARE", "Room", "for_copy", "needed_bytes", "of"]

FULL_SHARE = 0.85
"""How full the server's disk may get while a copy is loaded: at 94 % a hosted volume turned read-only, the app with it."""
ENLARGE = "Enlarge the server's volume, or discard what `invoke restore.status` lists."
"""The cure where nobody can do it for the person."""
_GROWTH = 1.3  # of a second copy, with the WAL of loading it
_RESERVE_SHARE = 0.10
_PLAIN_GROWTH = 1.5  # a database, with its indexes, is larger than its dump


@dataclass(frozen=True)
class Room:
    """A disk, and what a second copy will take of it at most while it is loaded."""

    total_bytes: int
    free_bytes: int
    needed_bytes: int

    @property
    def reserve_bytes(self) -> int:
        """What has to stay free."""
        return round(self.total_bytes * _RESERVE_SHARE)

    @property
    def is_enough(self) -> bool:
        """Whether the copy fits and the reserve stays free."""
        return self.free_bytes - self.needed_bytes >= self.reserve_bytes

    @property
    def wanted_bytes(self) -> int:
        """The size of a disk on which the copy fits and on which nothing stops the load."""
        return math.ceil((self.total_bytes - self.free_bytes + self.needed_bytes) / FULL_SHARE)


def needed_bytes(live_bytes: int, manifest: Manifest | None = None) -> int:
    """Return the bytes that a second copy will take at most: 1.3 times the live one, or what the dump grows to if more."""
    plain_bytes = manifest.plain_bytes if manifest else 0
    return round(max(live_bytes * _GROWTH, plain_bytes * _PLAIN_GROWTH))


def of(server: Server, manifest: Manifest | None = None) -> Room | None:
    """Return the room for a copy of a backup, or of the live database; None if the server's disk can't be seen."""
    return for_copy(server.volume, server.wal_bytes, needed_bytes(server.live_bytes or 0, manifest))


def for_copy(volume: Volume | None, wal_bytes: int, copy_bytes: int) -> Room | None:
    """Return the room for a copy of this size; None if the disk can't be seen.

    What is loaded goes into the WAL as well, which grows up to the server's limit before it gives any back (on Fly that is a
    tenth of the disk): by `wal_bytes` from now on.
    """
    if volume is None:
        return None
    return Room(volume.total_bytes, volume.free_bytes, copy_bytes + min(copy_bytes, wal_bytes))
