"""The server's clock, by which backups are dated."""

from __future__ import annotations

from datetime import UTC
from typing import TYPE_CHECKING

from polyladder_ops.postgres import session

if TYPE_CHECKING:
    from datetime import datetime

    from polyladder_ops.postgres.conninfo import Target

__all__ = ["read"]


def read(target: Target, *, timeout_s: int = 5) -> datetime:
    """Return the server's present. Raise OpsError if it can't be asked within about that time."""
    with (
        session.connect(target, timeout_s=timeout_s) as connection,
        session.given_up_after(connection, timeout_s),
        session.translated("could not ask for the server's time"),
    ):
        row = connection.execute("SELECT pg_catalog.clock_timestamp()").fetchone()
    assert row is not None
    present: datetime = row[0]
    return present.astimezone(UTC)
