"""What the manifest says of a database beside its rows, all read in the dump's own snapshot."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import errors

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import inventory, newest, not_included, properties
from polyladder_ops.postgres.contents import Contents, decode
from polyladder_ops.postgres.session import PINNED, Connection, translated
from polyladder_ops.postgres.snapshot import GIVE_WAY_S, Changed, room_for_locks

if TYPE_CHECKING:
    from polyladder_ops.postgres.inventory import Inventory
    from polyladder_ops.postgres.properties import DatabaseProperties, Extension, Role
    from polyladder_ops.postgres.snapshot import Snapshot

__all__ = ["Survey", "clock", "left_out", "outdated", "password_verifiers", "read", "unset"]

# What pg_dump writes a COPY for (its selectDumpableTable and makeTableDataInfo): not what an extension brings.
_WITH_ROWS = """
SELECT pg_catalog.convert_to(n.nspname::text, e), pg_catalog.convert_to(c.relname::text, e),
       pg_catalog.convert_to(rn.nspname::text, e), pg_catalog.convert_to(r.relname::text, e)
FROM pg_catalog.getdatabaseencoding() AS e
CROSS JOIN pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_catalog.pg_class r ON r.oid = pg_catalog.pg_partition_root(c.oid)
LEFT JOIN pg_catalog.pg_namespace rn ON rn.oid = r.relnamespace
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# What pg_dump writes a setval for.
_SEQUENCES = """
SELECT pg_catalog.convert_to(n.nspname::text, e), pg_catalog.convert_to(c.relname::text, e)
FROM pg_catalog.getdatabaseencoding() AS e
CROSS JOIN pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
ORDER BY 1, 2
"""
# Else a transaction without our table locks would wait for ever.
_GIVE_WAY = f"SET LOCAL lock_timeout = {GIVE_WAY_S * 1000:.0f}".encode()
_CAN_REFUSE_VIEWS = "SELECT pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL"
_REFUSES_VIEWS_SINCE = {"12": "12.20", "13": "13.16", "14": "14.13", "15": "15.8", "16": "16.4"}
_PART = re.compile(r'"((?:[^"]|"")+)"|([^".]+)')


@dataclass(frozen=True)
class Survey:
    """The facts of one snapshot."""

    session: dict[str, str]
    inventory: Inventory
    extensions: tuple[Extension, ...]
    roles: tuple[Role, ...]
    properties: DatabaseProperties
    migration_head: str | None
    prepared_transactions: tuple[str, ...]
    materialized_views: tuple[str, ...]
    not_included: tuple[str, ...]
    lost: tuple[str, ...]
    warnings: tuple[str, ...] = ()


def read(connection: Connection, held: Snapshot) -> Survey:
    """Return the facts as this transaction sees them; it holds no lock afterwards that it did not hold before.

    To write a view's definition takes locks on what it reads from. If we kept them, a REFRESH would wait for us, pg_dump
    behind it, and we for pg_dump: the server sees no deadlock in that (tried).
    Raise Changed if somebody holds such a lock or drops what is read, LocksExhausted if the server has no room for more of them, OpsError if
    it fails.
    """
    with translated("could not read the catalog"), room_for_locks():
        try:
            with connection.transaction(force_rollback=True):
                connection.execute(_GIVE_WAY)
                return _read(connection, held)
        except (errors.LockNotAvailable, errors.DeadlockDetected) as error:
            raise Changed("somebody holds a lock on a view or another object") from error
        except inventory.Dropped as error:
            raise Changed(error.message) from error


def _read(connection: Connection, held: Snapshot) -> Survey:
    prepared = _column(
        connection,
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY 1",
    )
    missing = not_included.read(connection)
    return Survey(
        session={**PINNED, "lc_monetary": _setting(connection, "lc_monetary")},
        inventory=inventory.look(connection, as_restored=True),
        extensions=properties.extensions(connection),
        roles=properties.roles(connection),
        properties=properties.read(connection),
        migration_head=_migration_head(connection),
        prepared_transactions=prepared,
        materialized_views=tuple(f"{r.schema}.{r.name}" for r in held.relations if r.kind == "m"),
        not_included=(
            *missing.lost,
            *missing.always,
            *(f"the prepared transaction {gid}" for gid in prepared),
        ),
        lost=missing.lost,
        warnings=outdated(
            _setting(connection, "server_version"),
            can_refuse_views=_row(connection, _CAN_REFUSE_VIEWS) == (True,),
        ),
    )


def outdated(version: str, *, can_refuse_views: bool) -> tuple[str, ...]:
    """Return in a sentence what pg_dump can't be kept from on an old server, with the update that cures it.

    It asks for a sequence's value by name, and by then that can be a view over anybody's function (CVE-2024-7348).
    """
    if can_refuse_views:
        return ()
    fixed = _REFUSES_VIEWS_SINCE.get(version.partition(".")[0], "the newest")
    danger = "whoever owns a sequence can have code of their own run as the role that takes the backup"
    return (f"on PostgreSQL {version} {danger}: update the server to {fixed}",)


def left_out(connection: Connection, dumped: Contents) -> list[str]:
    """Return the tables of this snapshot whose rows were not dumped, neither by themselves nor by their root.

    A table without rows has its COPY in the dump too, so one that has none was lost on the way.
    """
    there = {_parts(table.name) for table in dumped.tables}
    rows = connection.execute(_WITH_ROWS).fetchall()
    names = [tuple(decode(name or b"", dumped.encoding) for name in row) for row in rows]
    return [".".join(each[:2]) for each in names if not {each[:2], each[2:]} & there]


def unset(connection: Connection, dumped: Contents) -> list[str]:
    """Return the sequences of this snapshot whose values were not dumped: each has one, from the beginning."""
    there = {_parts(sequence.name) for sequence in dumped.sequences}
    rows = connection.execute(_SEQUENCES).fetchall()
    names = [tuple(decode(name or b"", dumped.encoding) for name in row) for row in rows]
    return [".".join(each) for each in names if each not in there]


def _parts(name: str) -> tuple[str, ...]:
    """Return schema and name, unquoted, of a name as a dump spells it."""
    return tuple(quoted.replace('""', '"') or plain for quoted, plain in _PART.findall(name))


def clock(connection: Connection) -> datetime:
    """Return the server's clock, now."""
    (now,) = _row(connection, "SELECT pg_catalog.clock_timestamp()")
    instant: datetime = now
    return instant.astimezone(UTC)


def password_verifiers(connection: Connection) -> dict[str, str]:
    """Return the stored verifier of each role that has one. Raise OpsError unless we may read them (superuser)."""
    (allowed,) = _row(connection, "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')")
    if not allowed:
        raise OpsError(
            "password verifiers can't be read by this role",
            detail="They are in pg_authid, which is for superusers.",
            hint="Leave --with-passwords out, or back up as a superuser.",
        )
    rows = connection.execute(
        "SELECT rolname, rolpassword FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL ORDER BY rolname"
    )
    return dict(rows.fetchall())


def _migration_head(connection: Connection) -> str | None:
    """Return the newest migration as this snapshot sees it; a table of that name that is another's keeps nobody from a backup."""
    try:
        with connection.transaction():
            return newest.migration(connection)
    except (errors.LockNotAvailable, errors.DeadlockDetected, errors.OutOfMemory):
        raise
    except (psycopg.Error, OpsError):
        return None


def _setting(connection: Connection, name: str) -> str:
    (value,) = _row(connection, "SELECT pg_catalog.current_setting(%s)", name)
    return str(value)


def _column(connection: Connection, query: Any) -> tuple[str, ...]:
    return tuple(value for (value,) in connection.execute(query).fetchall())


def _row(connection: Connection, query: Any, *parameters: object) -> tuple[Any, ...]:
    row = connection.execute(query, parameters or None).fetchone()
    assert row is not None
    return row
