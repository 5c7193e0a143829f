"""What time it is, by whom: this machine's clock and the server's, of which either may be wrong.

A backup is dated by its server's clock. One that is dated after the present was made while a clock was ahead: it may be the
oldest of all, so it is no `latest`, whatever else it is.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

__all__ = ["SKEW", "ours"]

SKEW = timedelta(minutes=5)
"""How far a machine's clock may be behind the server's before we take the server's for wrong, where it can't be asked."""


def ours() -> datetime:
    """Return this machine's present."""
    return datetime.now(UTC)
