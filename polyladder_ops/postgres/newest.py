"""What is newest in a database: the last migration and the last row, read through the one door and within limits.

Both are for people only: what can't be had cheaply is not looked at, and that is said.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.proof import copy_out
from polyladder_ops.postgres.proof.copy_out import BeyondLimit, Limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["LIMIT_BYTES", "LIMIT_S", "Noted", "Rows", "latest", "migration", "migrations", "noted_in", "row"]

LIMIT_S = 5.0
LIMIT_BYTES = 64 << 20

# The last migration ---------------------------------------------------------------------------------------------------

_MIGRATIONS = """
SELECT n.nspname::text, pg_catalog.array_agg(a.attname::text), pg_catalog.array_agg(a.atttypid::int8)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relname = 'pgmigrations' AND c.relkind = 'r' AND n.nspname !~ '^pg_'
GROUP BY n.nspname ORDER BY n.nspname <> 'public', 1
"""
_TEXTS = (19, 25, 1042, 1043)  # name, text, character, character varying
_TIMES = (1082, 1114, 1184)  # date, timestamp, timestamptz
_NUMBERS = (20, 21, 23)
_KNOWN = {"name": _TEXTS, "run_on": _TIMES, "id": _NUMBERS}
_ESCAPED = re.compile(rb"\\(.)", re.DOTALL)
_ESCAPES = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"v": b"\v"}


@dataclass(frozen=True)
class Noted:
    """A migration that node-pg-migrate noted: its name, and when it ran as the server writes it (empty: it does not say)."""

    name: str
    run_on: str = ""


def migration(connection: Connection) -> str | None:
    """Return the newest migration that node-pg-migrate noted in its table `pgmigrations`, if there is one.

    Raise OpsError if that table is another's than node-pg-migrate's or too large, psycopg.Error if the server refuses.
    """
    noted = migrations(connection)
    return noted[-1].name if noted else None


def noted_in(connection: Connection) -> tuple[str, ...]:
    """Return the schemas that have a table `pgmigrations`, public first. Raise psycopg.Error if the server refuses."""
    return tuple(schema for schema, *_ in connection.execute(_MIGRATIONS).fetchall())


def migrations(connection: Connection, wanted: str = "") -> tuple[Noted, ...] | None:
    """Return what node-pg-migrate noted in its table `pgmigrations`, in its order, None if there is no such table.

    In the schema that is wanted; else in public, or else in any. Raise OpsError if that table is another's than node-pg-migrate's
    or too large, psycopg.Error if the server refuses.
    """
    found = [row for row in connection.execute(_MIGRATIONS).fetchall() if wanted in ("", row[0])]
    if not found:
        return None
    schema, names, types = found[0]
    there = dict(zip(names, types, strict=True))
    known = [name for name, fitting in _KNOWN.items() if there.get(name) in fitting]
    if "name" not in known or len(known) == 1:
        raise OpsError(
            f"{schema}.pgmigrations was not looked at: it has not the columns of node-pg-migrate's table"
        )
    limit = Limit(seconds=LIMIT_S, size_bytes=LIMIT_BYTES)
    try:
        text = b"".join(copy_out.columns(connection, sql.Identifier(schema, "pgmigrations"), known, limit))
    except BeyondLimit:
        raise OpsError(f"{schema}.pgmigrations was not looked at: {_beyond()}") from None
    rows = [dict(zip(known, map(_value, line.split(b"\t")), strict=True)) for line in text.split(b"\n")[:-1]]
    return tuple(Noted(row["name"] or "", row.get("run_on") or "") for row in sorted(rows, key=_when))


def _when(noted: Mapping[str, str | None]) -> tuple[str, int]:
    """Return what a migration is ordered by; times are ISO, so that their text orders as they do."""
    return noted.get("run_on") or "", int(noted.get("id") or 0)


def _value(field: bytes) -> str | None:
    if field == rb"\N":
        return None
    text = _ESCAPED.sub(lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), field)
    return text.decode("utf-8", "backslashreplace")


def _beyond() -> str:
    return f"it takes more than {LIMIT_S:g} s or {LIMIT_BYTES >> 20} MB"


# The last row ---------------------------------------------------------------------------------------------------------

# What tells when a row came: the first column of an index that is a time, and those of the usual names. Partitions by
# themselves. The smallest come first; what COPY will write is less than the table has on disk, and 28 bytes a time.
_CANDIDATES = """
SELECT n.nspname::text, c.relname::text, pg_catalog.array_agg(a.attname::text ORDER BY a.attnum),
       least(c.relpages::int8 * 8192, CASE WHEN c.reltuples > 0 THEN (c.reltuples * 28 * count(*))::int8 END) AS size
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = ''
WHERE c.relkind = 'r' AND c.relpersistence <> 't' AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
  AND a.atttypid IN ('timestamptz'::pg_catalog.regtype, 'timestamp'::pg_catalog.regtype)
  AND (a.attname IN ('created_at', 'updated_at', 'inserted_at') OR EXISTS (
    SELECT FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class x ON x.oid = i.indexrelid
    JOIN pg_catalog.pg_am m ON m.oid = x.relam
    WHERE i.indrelid = c.oid AND i.indkey[0] = a.attnum AND m.amname = 'btree' AND i.indpred IS NULL AND i.indisvalid))
GROUP BY n.nspname, c.relname, c.relpages, c.reltuples ORDER BY size, 1, 2
"""
_NOW = "SELECT pg_catalog.clock_timestamp()::text"
_TIME = re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?:\+00)?")
_NAMED = 3  # of the tables that were not looked at


@dataclass(frozen=True)
class Rows:
    """The table with the newest time in it and that time (UTC), if there is one; `unread` says what was not looked at."""

    newest: tuple[str, datetime] | None = None
    unread: tuple[str, ...] = ()


def row(connection: Connection, *, seconds: float = LIMIT_S, size_bytes: int = LIMIT_BYTES) -> Rows:
    """Return the newest row of the tables that can be looked at within these limits, all of them together.

    The session must write times as ISO in UTC. Raise psycopg.Error if the server fails at the catalog.
    """
    limit = Limit(seconds=seconds, size_bytes=size_bytes)
    now = _text(connection, _NOW)
    found: list[tuple[bytes, str]] = []
    failed: list[str] = []
    skipped: list[str] = []
    for schema, table, names, size in connection.execute(_CANDIDATES).fetchall():
        name = f"{schema}.{table}"
        if size > limit.left_bytes or limit.is_over or connection.closed:
            skipped.append(name)
            continue
        try:
            time = latest(copy_out.columns(connection, sql.Identifier(schema, table), names, limit), now)
        except BeyondLimit:
            skipped.append(name)
        except psycopg.Error as error:
            failed.append(f"{name}: {' '.join(str(error).split())}")
        else:
            found.append((time, name))
    time, name = max(found, default=(b"", ""))
    return Rows(
        (name, _instant(time)) if time else None, tuple(_unread(skipped, failed, seconds, size_bytes))
    )


def _unread(skipped: Sequence[str], failed: Sequence[str], seconds: float, size_bytes: int) -> Iterator[str]:
    limits = f"not looked at within {seconds:g} s and {size_bytes >> 20} MB"
    for names, between in ((failed, "; "), (skipped, ", ")):
        if names:
            more = f" and {len(names) - _NAMED} more" if names[_NAMED:] else ""
            yield (f"{limits}: " if names is skipped else "") + between.join(names[:_NAMED]) + more


def latest(pieces: Iterable[bytes], until: bytes) -> bytes:
    """Return the latest time in COPY text that is not after `until`, empty if there is none; all of it ISO in UTC.

    Such texts order as their times do, but for years before Christ and after 9999 and for infinity: those don't count.
    """
    best = rest = b""
    for piece in pieces:
        whole, _, rest = (rest + piece).rpartition(b"\n")
        fields = whole.replace(b"\t", b"\n").split(b"\n")
        likely = [field for field in fields if best < field <= until]
        best = max(filter(_TIME.fullmatch, likely), default=best)
    return best


def _instant(time: bytes) -> datetime:
    return datetime.fromisoformat(time.decode().removesuffix("+00")).replace(tzinfo=UTC)


def _text(connection: Connection, query: str) -> bytes:
    found = connection.execute(query.encode()).fetchone()
    assert found is not None
    return str(found[0]).encode()
