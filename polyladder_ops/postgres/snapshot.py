"""One instant of a database, held still: tables locked first, then a snapshot that pg_dump and we both look through.

The order matters. TRUNCATE and rewriting ALTER TABLE are not MVCC-safe: between a snapshot and pg_dump's own lock they
leave 0 rows in the dump, and a count in the same snapshot says 0 too. LOCK takes no snapshot, so as the first statement
of the transaction it closes that gap (PostgreSQL docs, 13.6 Caveats; tried).
"""

from __future__ import annotations

import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import heartbeat, orphans, watched
from polyladder_ops.postgres.session import Connection, translated

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.watched import Watched

__all__ = [
    "GIVE_WAY_S",
    "Changed",
    "LocksExhausted",
    "Relation",
    "Snapshot",
    "hold",
    "moved",
    "relations",
    "respelled",
    "room_for_locks",
    "unchanged",
]

LOCK_WAIT_S = 20.0
# Shorter than the server's deadlock_timeout (1 s): a migration that waits for us while we wait for it must win.
GIVE_WAY_S = 0.5
_PAUSE_S = 0.1
_LOCKED_KINDS = ("r", "p")  # what pg_dump locks too
_BATCH = 500

_RELATIONS = """
SELECT c.oid::int8, n.nspname, c.relname, c.relkind::text, c.relfilenode::int8
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm', 'S') AND c.relpersistence <> 't'
  AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp_|toast_temp_)'
ORDER BY c.oid
"""
_CAPACITY = """
SELECT pg_catalog.current_setting('max_locks_per_transaction')::int8
     * (pg_catalog.current_setting('max_connections')::int8
        + pg_catalog.current_setting('max_prepared_transactions')::int8)
"""


_FAILED = "could not take a snapshot of the database"


class Changed(Exception):  # noqa: N818 - a reason to look again, seen only by the retry
    """The tables changed while they were being locked or dumped; another try may meet a quieter moment."""


class LocksExhausted(OpsError):  # noqa: N818 - it names the state of the server
    """The server ran out of room for locks while tables were being locked, by us or by pg_dump."""

    def __init__(self, detail: str) -> None:
        hint = "Raise max_locks_per_transaction on the server, restart it, then try again."
        super().__init__("the server has no room for that many locks", detail=detail, hint=hint)


@dataclass(frozen=True)
class Relation:
    """A table, materialized view or sequence, and the file that holds it (0 for a partitioned table)."""

    oid: int
    schema: str
    name: str
    kind: str
    filenode: int

    @property
    def identifier(self) -> sql.Identifier:
        """The qualified name, quoted."""
        return sql.Identifier(self.schema, self.name)


@dataclass(frozen=True)
class Snapshot:
    """The instant: its exported name, `pg_current_snapshot()`, WAL position and the server's clock."""

    name: str
    text: str
    wal_position: str
    taken_at: datetime
    locked: bool
    relations: tuple[Relation, ...]
    watched: Watched = field(repr=False, default=frozenset())
    in_rows: frozenset[str] = frozenset()  # the kinds of what is watched that rows are spelled by


def relations(connection: Connection) -> tuple[Relation, ...]:
    """Return all tables, materialized views and sequences of the database, ordered by oid."""
    return tuple(Relation(*row) for row in connection.execute(_RELATIONS).fetchall())


def _tables(listed: tuple[Relation, ...]) -> tuple[Relation, ...]:
    """Return those whose rows pg_dump reads through the snapshot."""
    return tuple(relation for relation in listed if relation.kind in _LOCKED_KINDS)


@contextmanager
def hold(
    connection: Connection, *, lock: bool = True, lock_wait_s: float = LOCK_WAIT_S
) -> Iterator[Snapshot]:
    """Within the block every table is locked against TRUNCATE and ALTER, and the snapshot can be imported.

    Without `lock`, or with more tables than the server has room for, only the snapshot is held and `unchanged` must be
    asked afterwards. Raise Changed if the tables changed meanwhile, LocksExhausted if the server has no room after
    all, OpsError if they can't be locked. After the first two the connection can be used again, else close it.
    """
    try:
        with translated(_FAILED):
            orphans.end(connection)
            snapshot = _held(connection, lock=lock, lock_wait_s=lock_wait_s)
        with heartbeat.kept(connection):
            yield snapshot
    except (Changed, LocksExhausted):
        _roll_back(connection)
        raise
    # After any other error the server is not asked for anything: its silence may be the error.
    _roll_back(connection)


def _held(connection: Connection, *, lock: bool, lock_wait_s: float) -> Snapshot:
    """Begin the transaction; where a lock can't be had soon, let go of all of them and begin anew."""
    deadline = time.monotonic() + lock_wait_s
    while True:
        before = relations(connection)
        locks = lock and _fits(connection, len(before))
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        try:
            if locks:
                _lock(connection, list(_tables(before)), min(lock_wait_s, GIVE_WAY_S))
            return _export(connection, before, locked=locks)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            if time.monotonic() > deadline:
                raise OpsError(
                    "a table is locked by somebody else",
                    detail=f"Waited {lock_wait_s:g} s for it: {_text(error)}.",
                    hint="Wait for the migration or the VACUUM FULL to end, then try again.",
                ) from error
            _roll_back(connection)
            time.sleep(_PAUSE_S)


def _roll_back(connection: Connection) -> None:
    with suppress(psycopg.Error):  # a connection that is gone has rolled back
        connection.execute("ROLLBACK")


def _fits(connection: Connection, relations_count: int) -> bool:
    """Whether the server's lock table holds all of them with room for everyone else.

    Our lock and pg_dump's on one table share an entry but not its holders' entries: at 12,000 tables and default
    settings pg_dump passes alone and runs out of shared memory beside us (tried).
    """
    row = connection.execute(_CAPACITY).fetchone()
    assert row is not None
    return relations_count <= int(row[0]) * 3 // 4


def _lock(connection: Connection, targets: list[Relation], wait_s: float) -> None:
    connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(f"{int(wait_s * 1000)}ms")))
    for begin in range(0, len(targets), _BATCH):
        names = [
            sql.SQL("ONLY {}").format(relation.identifier) for relation in targets[begin : begin + _BATCH]
        ]
        try:
            with room_for_locks():
                connection.execute(
                    sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(sql.SQL(", ").join(names))
                )
        except (errors.UndefinedTable, errors.InvalidSchemaName, errors.WrongObjectType) as error:
            raise Changed(_text(error)) from error
        except errors.InsufficientPrivilege as error:
            raise OpsError(
                "a table can't be read by this role",
                detail=f"{_text(error)}.",
                hint="Grant SELECT on it (or the role pg_read_all_data), or use the owner's DATABASE_URL.",
            ) from error


@contextmanager
def room_for_locks() -> Iterator[None]:
    """Within the block the server's lack of room for a lock becomes LocksExhausted; to read the catalog takes some too."""
    try:
        yield
    except errors.OutOfMemory as error:
        raise LocksExhausted(f"{_text(error)}.") from error


def _text(error: psycopg.Error) -> str:
    return " ".join(str(error).split()).rstrip(".")


def _export(connection: Connection, before: tuple[Relation, ...], *, locked: bool) -> Snapshot:
    row = connection.execute(
        "SELECT pg_catalog.pg_export_snapshot(), pg_catalog.pg_current_snapshot()::text,"
        " pg_catalog.pg_current_wal_lsn()::text, pg_catalog.clock_timestamp()"
    ).fetchone()
    assert row is not None
    inside = relations(connection)
    # With locks held a table that changed did so before them; the second look sees it as it is locked.
    if {(r.oid, r.schema, r.name) for r in _tables(inside)} != {
        (r.oid, r.schema, r.name) for r in _tables(before)
    }:
        raise Changed("the list of tables changed while they were being locked")
    name, text, position, taken_at = row
    # What the look itself locks is let go at once: pg_dump, beside our table locks, needs the room.
    with room_for_locks(), connection.transaction(force_rollback=True):
        seen, kinds = watched.read(connection), watched.in_rows(connection)
    return Snapshot(name, text, position, taken_at.astimezone(UTC), locked, inside, seen, kinds)


def moved(connection: Connection, snapshot: Snapshot) -> list[str]:
    """Return the kinds of which something has been changed or dropped since the snapshot, seen from outside of it.

    pg_dump reads all definitions before its first byte of output, in part past the snapshot, and so do we.
    """
    with room_for_locks():
        return watched.changed(connection, snapshot.watched)


def respelled(connection: Connection, snapshot: Snapshot) -> list[str]:
    """Return the same of what rows are spelled by: pg_dump reads them until its last byte, and what they name past it."""
    with room_for_locks():
        return watched.changed(connection, snapshot.watched, snapshot.in_rows)


def unchanged(connection: Connection, snapshot: Snapshot) -> bool:
    """Whether every table still has the file that it had in the snapshot, seen from a transaction of its own."""
    now = {relation.oid: relation.filenode for relation in relations(connection)}
    return all(now.get(relation.oid) == relation.filenode for relation in _tables(snapshot.relations))
