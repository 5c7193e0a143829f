"""Looking after a restore while it works: is the lock still ours, does the server's disk not get too full."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import volume

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.postgres.session import Connection

__all__ = ["Watch"]

_BEAT_S = 2.0  # between two looks


@dataclass
class Watch:
    """Counts bytes, and looks every other second whether the lock is still ours and the server's disk not too full.

    `held` returns the session that holds the lock; `is_far` says that the server is on another machine.
    """

    held: Callable[[], Connection]
    report: Callable[[int], None]
    full: float | None
    is_far: bool = False
    looked_at: float = field(default_factory=time.monotonic)

    def __call__(self, size: int) -> None:
        """Count bytes. Raise OpsError if the lock is lost for good, or the disk too full."""
        self.report(size)
        if time.monotonic() - self.looked_at < _BEAT_S:
            return
        connection = self.held()
        disk = volume.measure(connection, is_far=self.is_far) if self.full else None
        if disk and self.full and disk.used_share > self.full:
            raise OpsError(
                f"the server's disk is {disk.used_share:.0%} full",
                detail=f"More than {self.full:.0%} would endanger the live database, so the copy was dropped.",
                hint="Enlarge the server's volume, or accept it with --accept=space.",
            )
        self.looked_at = time.monotonic()
