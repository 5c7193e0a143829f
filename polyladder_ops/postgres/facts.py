"""What a restore has to know of a server and of the live database before it touches anything; only looked at here.

What can't be read of a damaged live database is left open and named (`unread`): it must not block its own rescue.
"""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import psycopg

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import application, capacity, databases, newest, queries, standbys, volume
from polyladder_ops.postgres.holders import MAY_END
from polyladder_ops.postgres.poolers import Pooled
from polyladder_ops.postgres.session import Identity, connect, identify, is_relayed, translated

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from datetime import datetime

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.standbys import Standby
    from polyladder_ops.postgres.volume import Volume

__all__ = ["Live", "Server", "Session", "read_live", "read_migration_head", "read_server"]

_LOCKED_S = 1  # that a question waits for a table which somebody has locked
# They keep names of databases, or of themselves in other places, and take no notice of a renaming.
_NAMING = ("pg_cron", "pg_partman_bgw", "timescaledb", "pglogical", "citus", "pg_squeeze")


@dataclass(frozen=True)
class Session:
    """Somebody who is connected to the live database."""

    pid: int
    role: str
    application: str
    can_be_ended: bool
    is_idle: bool = False  # outside of any transaction


@dataclass(frozen=True)
class Server:
    """The server as its maintenance database shows it, and what it holds of the live database."""

    identity: Identity
    role: str
    is_superuser: bool
    can_create: bool
    can_make_roles: bool
    through_pooler: bool
    extensions: Mapping[str, str]
    roles: frozenset[str]
    tablespaces: frozenset[str]
    volume: Volume | None
    standbys: tuple[Standby, ...]
    out_of_reach: tuple[Standby, ...]
    # Of the live database; `live_oid` is None if there is none of that name.
    live_oid: int | None
    live_bytes: int | None
    is_owner: bool
    sessions: tuple[Session, ...]
    prepared: tuple[str, ...]
    slots: tuple[str, ...]
    subscriptions: tuple[str, ...]
    # What our role may do: make objects theirs, and what it may not: make these extensions.
    gives_to: frozenset[str]
    for_superusers: frozenset[str]
    is_half_dropped: bool = False  # the live one
    # What loading may take of the machine: all of its memory, 0 if unknown, and what the WAL may grow by.
    memory_bytes: int = 0
    wal_bytes: int = 0


@dataclass(frozen=True)
class Live:
    """What only the live database itself can tell; `unread` says what it could not."""

    migration_head: str | None = None
    newest: tuple[str, datetime] | None = None
    publications: tuple[str, ...] = ()
    naming_extensions: tuple[str, ...] = ()
    unread: tuple[str, ...] = ()


def read_server(connection: Connection, server: Target, live: str) -> Server:
    """Return what the server says of itself and of the database `live`. Raise OpsError if it fails."""
    with translated("could not look at the server"):
        identity = identify(connection)
        oid, size, is_owner, is_half = _one(connection, _DATABASE, live) or (None, None, False, False)
        role, is_superuser, can_create, can_make_roles = _one(connection, _ROLE) or ("", False, False, False)
        there = standbys.find(connection)
        return Server(
            identity=identity,
            role=role,
            is_superuser=is_superuser,
            can_create=can_create,
            can_make_roles=can_make_roles,
            through_pooler=is_relayed(connection),
            extensions=databases.available_extensions(connection),
            roles=frozenset(_column(connection, "SELECT rolname FROM pg_catalog.pg_roles")),
            tablespaces=databases.tablespaces(connection),
            volume=volume.measure(connection, is_far=server.way is not None),
            standbys=there,
            out_of_reach=tuple(s for s in there if standbys.reach(server, s) is None),
            live_oid=oid,
            live_bytes=size,
            is_owner=is_owner,
            sessions=tuple(
                Session(pid, role, application.shown(name), *rest)
                for pid, role, name, *rest in connection.execute(_SESSIONS, [live]).fetchall()
            ),
            prepared=_column(
                connection, "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s", live
            ),
            slots=_column(connection, _SLOTS, live),
            subscriptions=_column(connection, _SUBSCRIPTIONS, live),
            gives_to=frozenset(name for (name,) in queries.rows(connection, _GIVES_TO)),
            for_superusers=frozenset(_column(connection, _FOR_SUPERUSERS)),
            is_half_dropped=is_half,
            memory_bytes=capacity.read(connection).memory_bytes,
            wal_bytes=volume.wal_bytes(connection),
        )


_DATABASE = """
SELECT oid::int8,
       CASE WHEN pg_catalog.has_database_privilege(oid, 'CONNECT') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_database_size(oid) END,
       pg_catalog.pg_has_role(datdba, 'USAGE'), datconnlimit = -2
FROM pg_catalog.pg_database WHERE datname = %s
"""
_ROLE = """
SELECT rolname::text, rolsuper, rolsuper OR rolcreatedb, rolsuper OR rolcreaterole
FROM pg_catalog.pg_roles WHERE rolname = current_user
"""
_GIVES_TO = """
SELECT r.rolname::text FROM pg_catalog.pg_roles r
WHERE pg_catalog.pg_has_role(r.oid, 'SET')  -- 16+
WHERE pg_catalog.pg_has_role(r.oid, 'MEMBER')  -- -15
"""
_FOR_SUPERUSERS = """
SELECT v.name::text FROM pg_catalog.pg_available_extension_versions v
JOIN pg_catalog.pg_available_extensions e ON e.name = v.name AND e.default_version = v.version
WHERE v.name <> 'plpgsql' AND v.superuser AND NOT v.trusted AND pg_catalog.current_setting('is_superuser') <> 'on'
"""
_SESSIONS = f"""
SELECT a.pid, coalesce(a.usename, ''), coalesce(a.application_name, ''),
       {MAY_END}, coalesce(a.state = 'idle', false)
FROM pg_catalog.pg_stat_activity a JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
WHERE a.datname = %s ORDER BY a.backend_start
"""
_SLOTS = """
SELECT slot_name::text FROM pg_catalog.pg_replication_slots WHERE database = %s AND NOT temporary ORDER BY 1
"""
_SUBSCRIPTIONS = """
SELECT s.subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
WHERE d.datname = %s ORDER BY 1
"""


@dataclass
class _Reading:
    """Asks one question after the other, and goes on when one can't be answered."""

    connection: Connection
    unread: list[str] = field(default_factory=list)

    def ask(self, what: str, question: Callable[[Connection], Any], otherwise: Any) -> Any:
        try:
            return question(self.connection)
        except (psycopg.Error, OpsError, UnicodeError) as error:
            self.unread.append(f"{what}: {' '.join(str(error).split())}")
            return otherwise


def read_live(target: Target) -> Live:
    """Return what the live database tells of itself; never fails for what the database has suffered."""
    try:
        connection = _within_limits(target)
    except Pooled:
        raise
    except OpsError as error:
        return Live(unread=(f"{error.message}: {error.detail}".rstrip(". "),))
    with closing(connection):
        reading = _Reading(connection)
        migration = reading.ask("its newest migration", newest.migration, None)
        rows = reading.ask("its newest row", newest.row, newest.Rows())
        reading.unread += [f"its newest row: {why}" for why in rows.unread]
        return Live(
            migration_head=migration,
            newest=rows.newest,
            publications=reading.ask(
                "its publications",
                lambda c: _column(c, "SELECT pubname::text FROM pg_catalog.pg_publication ORDER BY 1"),
                (),
            ),
            naming_extensions=reading.ask(
                "its extensions",
                lambda c: _column(
                    c,
                    "SELECT extname::text FROM pg_catalog.pg_extension WHERE extname = ANY (%s)",
                    list(_NAMING),
                ),
                (),
            ),
            unread=tuple(reading.unread),
        )


def read_migration_head(target: Target) -> str | None:
    """Return the newest migration of a database, within a few seconds; None if it has none, or it can't be read.

    Raise Pooled if a pooler would give our session to others.
    """
    try:
        with closing(_within_limits(target)) as connection:
            return newest.migration(connection)
    except Pooled:
        raise
    except (OpsError, psycopg.Error, UnicodeError):
        return None


def _within_limits(target: Target) -> Connection:
    limits = {"statement_timeout": f"{newest.LIMIT_S:g}s", "lock_timeout": f"{_LOCKED_S}s"}
    return connect(target, settings=limits)


def _one(connection: Connection, query: Any, *parameters: object) -> tuple[Any, ...] | None:
    return connection.execute(query, parameters or None).fetchone()


def _column(connection: Connection, query: Any, *parameters: object) -> tuple[str, ...]:
    return tuple(value for (value,) in connection.execute(query, parameters or None).fetchall())
