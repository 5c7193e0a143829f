"""The server's side of a pg_dump whose run is dead: behind a link that fell silent nothing else would end it for hours.

A pg_dump is named after the session whose snapshot it reads. That session ends by itself when its run falls silent
(`heartbeat.py`); a dump that is there without it belongs to nobody any more, and holds every table's lock.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["end", "name"]

_NAME = "polyladder-ops pg_dump of "
# Our own role's only. A number may have been given anew: the snapshot's session was there before its dump.
_END = """
SELECT count(pg_catalog.pg_terminate_backend(d.pid)) FROM pg_catalog.pg_stat_activity d
WHERE d.usename = session_user AND d.application_name ~ %s AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_stat_activity s
    WHERE s.pid::text = pg_catalog.substr(d.application_name, %s) AND s.backend_start <= d.backend_start)
"""


def name(snapshot_of: int) -> str:
    """Return what a pg_dump calls itself that reads the snapshot of this process of the server."""
    return f"{_NAME}{snapshot_of}"


def end(connection: Connection) -> int:
    """End the dumps of our role's dead runs, and return how many. Raise psycopg.Error if the server fails."""
    row = connection.execute(_END, [f"^{_NAME}[0-9]+$", len(_NAME) + 1]).fetchone()
    return int(row[0]) if row else 0
