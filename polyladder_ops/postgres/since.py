"""What was written to a database since a restore made it live, asked of the server's counters and catalogs only.

While a restored copy is shut nobody but us is in it; what its counters say then is its `Baseline`, which the mark of the database
that was set aside keeps. Nothing was written if the server has given out no transaction since the mark; else what is counted
more than then was written, and what a catalog's row says of a later transaction was made or changed. No row of any table is
read, whatever its size: the answer is there within `LIMIT_S`, or it is said that it can't be told.
"""

from __future__ import annotations

import hashlib
import time
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql
from pydantic import BaseModel, ConfigDict

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import catalog_changes
from polyladder_ops.postgres.contents import SequenceValue
from polyladder_ops.postgres.proof import sequences
from polyladder_ops.postgres.proof.differences import Difference, moved
from polyladder_ops.postgres.session import connect, given_up_after
from polyladder_ops.terminal import many

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["LIMIT_S", "Baseline", "Since", "ask", "baseline"]

LIMIT_S = 5.0
"""Within which the question is answered, or is given up."""

_ONE_S = 4  # that one statement may take; less than the whole, so that the server says why
_LOCKED_S = 1
_RESET_S = 2.0  # that a collector of statistics (before 15) may take to set counters back
_PAUSE_S = 0.05
_COLLECTED_S = 1.0  # after which a collector of statistics (before 15) has what sessions told it before
_TOLD_APART = 2**31  # transactions, of which a row of a catalog keeps the last 32 bits
_EITHER_WAY = "kept or rolled back"
_MOST = 2000  # tables whose counters are noted one by one
_REPORTED_S = (
    11  # after which a session that does nothing has told what it did (since 15: 10 s; before, it may never)
)


class Baseline(BaseModel):
    """A database (its oid) before it went live: when its counters were set to 0, what they counted by table since, how many
    rows each of its catalogs had (`entries`: all of them, for older versions), where its sequences stood, as one digest,
    and the number of the server's next transaction, of 64 bits.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    oid: int
    reset: str | None
    counted: dict[int, int]
    entries: int
    sequences: str
    kinds: dict[str, int] | None = None
    next_xid: int | None = None


@dataclass(frozen=True)
class Since:
    """What was written since, and why there may be more than that; without either nothing was found.

    That nothing was written is for certain only if the server has given out no transaction since: a catalog that is not
    looked at, or a row that somebody else changed afterwards, tells nothing. `unread` is what our role may not look at.
    """

    changes: tuple[Difference, ...] = ()
    unsure: str = ""
    is_certain: bool = field(default=False, compare=False)
    unread: tuple[str, ...] = field(default=(), compare=False)


_COUNTED = """
SELECT c.oid::int8, CASE WHEN c.oid = 2613 THEN '' ELSE pg_catalog.format('%I.%I', n.nspname, c.relname) END,
       pg_catalog.pg_stat_get_tuples_inserted(c.oid), pg_catalog.pg_stat_get_tuples_updated(c.oid),
       pg_catalog.pg_stat_get_tuples_deleted(c.oid)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.oid = 2613 OR c.relkind IN ('r', 'm') AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
ORDER BY 2
"""
"""Tables with their counters; 2613 is pg_largeobject, which holds the bytes of large objects."""
_RESET = "SELECT d.oid::int8, pg_catalog.pg_stat_get_db_stat_reset_time(d.oid)::text FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()"
_SEQUENCES = """
SELECT pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND n.nspname !~ '^pg_' ORDER BY c.oid
"""


def baseline(connection: Connection) -> Baseline | None:
    """Return what `ask` compares with; None if the database has too many tables to note, or can't be asked.

    The connection is to a copy in which nobody else is. Its counters are set back first, where we may.
    """
    with suppress(psycopg.Error, OpsError):
        oid, reset = _set_back(connection)
        counted = {oid: sum(counts) for oid, _, *counts in connection.execute(_COUNTED).fetchall()}
        counted = {oid: total for oid, total in counted.items() if total}
        if len(counted) <= _MOST:
            kinds = catalog_changes.count(connection)
            return Baseline(
                oid=oid,
                reset=reset,
                counted=counted,
                entries=sum(kinds.values()),
                sequences=_digest(_positions(connection)),
                kinds=kinds,
                next_xid=_next_xid(connection),
            )
    return None


def _set_back(connection: Connection) -> tuple[int, str | None]:
    """Set the counters of the database to 0 if we may; return its oid, and when they were."""
    (oid, before), deadline = _row(connection, _RESET), time.monotonic() + _RESET_S
    with suppress(errors.InsufficientPrivilege):
        connection.execute("SELECT pg_catalog.pg_stat_reset()")
        while (now := _row(connection, _RESET)[1]) == before and time.monotonic() < deadline:
            time.sleep(_PAUSE_S)
        before = now
    return oid, before


def _row(connection: Connection, question: str) -> tuple[int, str | None]:
    row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row[0], row[1]


def _next_xid(connection: Connection) -> int:
    row = connection.execute(
        "SELECT pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8"
    ).fetchone()
    assert row is not None
    return int(row[0])


def _positions(connection: Connection) -> dict[str, tuple[int, bool]]:
    names = [name for (name,) in connection.execute(_SEQUENCES).fetchall()]
    return {one.name: (one.value, one.called) for one in sequences.read(connection, names)}


def _digest(positions: Mapping[str, tuple[int, bool]]) -> str:
    return hashlib.blake2b(repr(sorted(positions.items())).encode(), digest_size=16).hexdigest()


def ask(live: Target, base: Baseline | None, xid: str, known: Mapping[str, tuple[int, bool]]) -> Since:
    """Return what was written to the database since the transaction `xid`, which the mark has, with which it went live.

    `known` is where its sequences stood, by name, if that is known. Never raises: what can't be asked is unsure.
    """
    if base is None or not xid:
        return Since(unsure="it was not noted what it held then")
    began = time.monotonic()
    settings = {"statement_timeout": f"{_ONE_S}s", "lock_timeout": f"{_LOCKED_S}s"}
    try:
        with closing(connect(live, settings=settings, timeout_s=int(LIMIT_S))) as connection:
            left = max(0.1, LIMIT_S - (time.monotonic() - began))
            with given_up_after(connection, left):
                return _asked(connection, base, xid, known)
    except (psycopg.Error, OpsError) as error:
        text = error.detail if isinstance(error, OpsError) else str(error)
        return Since(unsure=f"it can't be told in time: {' '.join(text.split())}".rstrip(". "))


def _asked(connection: Connection, base: Baseline, xid: str, known: Mapping[str, tuple[int, bool]]) -> Since:
    if base.next_xid is not None and _next_xid(connection) - base.next_xid >= _TOLD_APART:
        return Since(unsure="more transactions came since than rows of its catalogs can tell apart")
    moved = tuple(_moved(connection, base, known))  # which needs no transaction, as long as no 32 are counted
    if not moved and connection.execute("SELECT pg_catalog.age(%s::xid)", [xid]).fetchone() == (1,):
        return Since(
            is_certain=True
        )  # no transaction of any database of this server has written anything since
    oid, reset = _row(connection, _RESET)
    if oid != base.oid:
        return Since(unsure="it is another database than was restored")
    if _is_collected(connection):
        time.sleep(_COLLECTED_S)
    counted = connection.execute(_COUNTED).fetchall()
    less = any(sum(counts) < base.counted.get(oid, 0) for oid, _, *counts in counted)
    unsure = [
        "the server's counters were set back since" if less or reset != base.reset else "",
        "" if base.kinds else "an older version noted what it held then, and not what of it could be dropped",
    ]
    changes = [
        *_written(counted, base),
        *catalog_changes.since(connection, xid, base.kinds or {}),
        *moved,
    ]
    why = next(filter(None, unsure), "") or _uncounted(connection)
    return Since(tuple(changes), why, unread=catalog_changes.unread(connection))


def _is_collected(connection: Connection) -> bool:
    """Whether a process of its own collects what sessions count, and hands it out up to half a second late."""
    return connection.info.server_version < 150000


def _written(counted: list[tuple[int, str, int, int, int]], base: Baseline) -> Iterator[Difference]:
    """Return what is counted by table: the server counts rows whose transaction was rolled back, too."""
    for oid, name, *counts in counted:
        if (more := sum(counts) - base.counted.get(oid, 0)) <= 0:
            continue
        if not name:
            yield Difference("large objects", "", f"written since, {_EITHER_WAY}")
        elif oid in base.counted:
            yield Difference("table", name, f"{many(more, 'row')} since, {_EITHER_WAY}")
        else:
            said = "{:,} inserted, {:,} updated, {:,} deleted".format(*counts)
            yield Difference("table", name, f"rows since, {_EITHER_WAY}: {said}")


def _moved(
    connection: Connection, base: Baseline, known: Mapping[str, tuple[int, bool]]
) -> Iterator[Difference]:
    now = _positions(connection)
    if _digest(now) == base.sequences:
        return
    others = [name for name, at in now.items() if name in known and known[name] != at]
    for name in others:
        was, found = SequenceValue(name, *known[name]), SequenceValue(name, *now[name])
        yield Difference("sequence", name, moved(was, found))
    if not others:
        yield Difference("sequences", "", "they are others, or stand elsewhere")


_OFF = """
SELECT 1 FROM pg_catalog.pg_db_role_setting s CROSS JOIN pg_catalog.unnest(s.setconfig) c (item)
WHERE c.item ~ '^track_counts=' AND c.item !~* '^track_counts=(on|true|yes|1)$'
UNION ALL SELECT 1 WHERE pg_catalog.current_setting('track_counts') = 'off'
"""
_AT_WORK = """
SELECT 1 FROM pg_catalog.pg_stat_activity a
WHERE a.datname = pg_catalog.current_database() AND a.pid <> pg_catalog.pg_backend_pid() AND a.usesysid IS NOT NULL
  AND (a.state_change IS NULL OR a.state <> 'idle' OR {})
"""


def _uncounted(connection: Connection) -> str:
    """Return why there may be more than is counted."""
    if connection.execute(_OFF.encode()).fetchone():
        return "track_counts is off, at least for some"
    recent = sql.SQL("a.state_change > pg_catalog.clock_timestamp() - interval '{} s'").format(_REPORTED_S)
    when = sql.SQL("true") if _is_collected(connection) else recent
    if connection.execute(sql.SQL(_AT_WORK).format(when)).fetchone():
        return "sessions are there that have perhaps not told the server yet what they wrote"
    return ""
