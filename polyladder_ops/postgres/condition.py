"""What ails a server that still answers: log that nobody fetches and nobody may drop, a database that takes no writes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["Condition", "Slot", "read"]


@dataclass(frozen=True)
class Slot:
    """A replication slot that nobody reads, and how many bytes of log the server keeps for it."""

    name: str
    kept_bytes: int


@dataclass(frozen=True)
class Condition:
    """`slots` are those for which more is kept than the server's log grows to by itself; `takes_writes` is of new sessions of the app."""

    slots: tuple[Slot, ...] = ()
    takes_writes: bool = True


# On a disk that is full to 90 % Fly's image writes the setting into each database, for all roles (contract 4.4).
_SLOTS = """
SELECT slot_name::text, kept::int8 FROM (
  SELECT slot_name, pg_catalog.pg_wal_lsn_diff(
    CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() ELSE pg_catalog.pg_current_wal_lsn() END,
    restart_lsn) AS kept
  FROM pg_catalog.pg_replication_slots WHERE NOT active AND NOT temporary AND restart_lsn IS NOT NULL) AS s
WHERE kept > pg_catalog.pg_size_bytes(pg_catalog.current_setting('max_wal_size')) ORDER BY 2 DESC, 1
"""
_READ_ONLY = """
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
  WHERE d.datname = %s AND s.setrole = 0
    AND EXISTS (SELECT FROM pg_catalog.unnest(s.setconfig) AS c WHERE c ~* '^default_transaction_read_only=(on|true|yes|1|t|y)$'))
"""


def read(connection: Connection, database: str) -> Condition:
    """Return what ails the server and this database of it. Raise psycopg.Error if the server fails."""
    slots = tuple(Slot(*row) for row in connection.execute(_SLOTS.encode()).fetchall())
    row = connection.execute(_READ_ONLY.encode(), [database]).fetchone()
    return Condition(slots, takes_writes=row != (True,))
