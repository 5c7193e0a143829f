"""What time it is, by whom: this machine's clock and the server's, of which either may be wrong.

A backup is dated by its server's clock. One that is dated after the present was made while a clock was ahead: it may be the
oldest of all, so it is no `latest`, whatever else it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

__all__ = ["SKEW", "Present", "ours"]

SKEW = timedelta(minutes=5)
"""How far a machine's clock may be behind the server's before we take the server's for wrong, where it can't be asked."""


def ours() -> datetime:
    """Return this machine's present."""
    return datetime.now(UTC)


@dataclass(frozen=True)
class Present:
    """The present by this machine's clock, and by the server's; None if that was not asked."""

    ours: datetime
    servers: datetime | None = None

    @property
    def at(self) -> datetime:
        """The server's clock dates backups, so it tells how old one is."""
        return self.servers or self.ours

    @property
    def until(self) -> datetime:
        """The instant after which a backup is of the future."""
        return self.servers or self.ours + SKEW

    @property
    def said(self) -> str:
        """What time it is, and by which clock: ``2026-11-22 11:37:48Z by the server's clock``."""
        whose = "the server's" if self.servers else "this machine's"
        return f"{self.at:%Y-%m-%d %H:%M:%S}Z by {whose} clock"
