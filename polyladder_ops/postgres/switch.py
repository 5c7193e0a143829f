"""The switch: one name goes from one database to another in a blink, or nothing happens.

Both renames, the notes and the opening stand in one transaction, so that whatever dies when, one complete database has
the live name. What is not in it is the fence before: `ALLOW_CONNECTIONS false` has to be committed to keep the app's
reconnecting sessions out. It is noted in the same transaction as it is made, so that the next run can take it away.

All of it goes through the session that holds the lock (`locks.py`): without the lock nothing can be changed.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import errors, sql

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import locks, marks
from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.marks import Mark
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "Switched",
    "by_hand",
    "close",
    "comment_of",
    "exchange",
    "fence_of",
    "let_in",
    "names",
    "oid_of",
    "publish",
    "reopen",
]

_TRIES = 4
_EACH_S = 3.0  # that the app is kept out at a time, before it is let in again and another try is made
_PAUSE_S = 1.0
_LOOK_S = 0.005
_RENAME_S = 2  # the server itself would wait five seconds for a session or a prepared transaction that stays
_IN_USE = (errors.ObjectInUse, errors.LockNotAvailable, errors.QueryCanceled)


@dataclass(frozen=True)
class Switched:
    """What a switch did: the name that is live, the one that the database before has now, and how long nobody got in."""

    live: str
    aside: str
    outage_s: float
    at: datetime


def names(connection: Connection) -> frozenset[str]:
    """Return the names of all databases of this server."""
    return frozenset(
        name for (name,) in connection.execute("SELECT datname FROM pg_catalog.pg_database").fetchall()
    )


def oid_of(connection: Connection, name: str) -> int | None:
    """Return the oid of the database that has this name now, None if there is none."""
    row = connection.execute(
        "SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = %s", [name]
    ).fetchone()
    return None if row is None else int(row[0])


def comment_of(connection: Connection, name: str) -> str:
    """Return a database's own comment, without any note of ours."""
    found = _state(connection, name)
    return "" if found is None else found.comment


def fence_of(connection: Connection, live: str, by: str, backup: str, migration_head: str | None) -> Mark:
    """Return the note for a switch of this database, with what has to come back if it fails."""
    found = _state(connection, live)
    if found is None:
        raise OpsError(f"there is no database {live} any more", hint="Look with `invoke restore.status`.")
    return marks.Mark(
        kind="fenced",
        live=live,
        at=found.at,
        by=by,
        backup=backup,
        migration_head=migration_head,
        comment=found.comment,
        was_open=found.is_open,
        oid=found.oid,
    )


@dataclass(frozen=True)
class _State:
    """A database's own comment, whether it takes sessions, and the server's clock, by which backups are dated too."""

    comment: str
    is_open: bool
    oid: int
    at: datetime


def _state(connection: Connection, name: str) -> _State | None:
    row = connection.execute(
        "SELECT coalesce(pg_catalog.shobj_description(oid, 'pg_database'), ''), datallowconn, oid::int8,"
        " pg_catalog.clock_timestamp() FROM pg_catalog.pg_database WHERE datname = %s",
        [name],
    ).fetchone()
    return None if row is None else _State(marks.inner(row[0]), *row[1:])


def by_hand(live: str, aside: str, comment: str) -> tuple[str, ...]:
    """Return the SQL lines that take a switch back by hand, for psql in the maintenance database."""
    old, new, other = (_quoted(name) for name in (aside, live, aside.replace("_aside_", "_other_")))
    name = sql.Literal(live).as_string(None)
    return (
        f"ALTER DATABASE {new} ALLOW_CONNECTIONS false;",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {name};",
        f"BEGIN; ALTER DATABASE {new} RENAME TO {other}; ALTER DATABASE {old} RENAME TO {new}; COMMIT;",
        marks.comment(live, comment).as_string(None) + ";",
        f"ALTER DATABASE {new} ALLOW_CONNECTIONS true;",
    )


def _quoted(name: str) -> str:
    return sql.Identifier(name).as_string(None)


def publish(connection: Connection, live: str, ready: str, comment: str) -> Switched:
    """Give the database `ready`, which takes no sessions, the live name that no other one has, and open it.

    Raise OpsError if another took the name meanwhile.
    """
    began = time.monotonic()
    with translated(f"could not rename {ready} to {live}"):
        end_sessions(connection, ready, until=began + _EACH_S)
        with connection.transaction():
            _rename(connection, ready, live)
            _open(connection, live, comment)
    return Switched(live, "", time.monotonic() - began, datetime.now(UTC))


def exchange(connection: Connection, ready: str, comment: str, fence: Mark, aside: str) -> Switched:
    """Give the live name to the database `ready`, and the name `aside` to the one that had it, which stays closed.

    `ready` takes no sessions yet, `fence` is the note on the live one meanwhile. Sessions on both are ended; what
    reconnects in a loop is kept out. Raise Refused if sessions don't end: then the old one is live and open as before.
    Raise OpsError or psycopg.Error if the server fails: then `leftovers.settle` finds out what is true.
    """
    for attempt in range(_TRIES):
        time.sleep(_PAUSE_S if attempt else 0)
        locks.check(connection, fence.live)
        began = time.monotonic()
        _close_with(connection, fence)
        try:
            _exchange_closed(connection, ready, comment, fence, aside)
        except _IN_USE as error:
            why = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
            still = _sessions(connection, fence.live) or [why]
            reopen(connection, fence.live, fence)
        except errors.InsufficientPrivilege as error:
            still = [f"{error.diag.message_primary}, {error.diag.message_detail}"]
            reopen(connection, fence.live, fence)
            break
        else:
            return Switched(fence.live, aside, time.monotonic() - began, datetime.now(UTC))
    raise Refused(
        f"the sessions on {fence.live} did not end, so it was left as it was",
        detail=f"Still there: {'; '.join(filter(None, still)) or 'sessions that come and go'}.",
        hint="End them where they run (stop the app), then try again.",
    )


def _close_with(connection: Connection, fence: Mark) -> None:
    with connection.transaction():
        _allow(connection, fence.live, yes=False)
        connection.execute(marks.comment(fence.live, fence.text))


def _exchange_closed(connection: Connection, ready: str, comment: str, fence: Mark, aside: str) -> None:
    live, until = fence.live, time.monotonic() + _EACH_S
    for name in (live, ready):
        end_sessions(connection, name, until=until)
    with connection.transaction():
        _give_up_after(connection, _RENAME_S)
        _rename(connection, live, aside)
        connection.execute(marks.comment(aside, fence.model_copy(update={"kind": "aside"}).text))
        _rename(connection, ready, live)
        _open(connection, live, comment)
        _give_up_after(connection, 0)  # a COMMIT that waits for a synchronous standby must not be cut short


def _give_up_after(connection: Connection, seconds: int) -> None:
    """Let no statement of this transaction from the next one on take longer; 0 lifts that."""
    connection.execute(
        "SELECT pg_catalog.set_config(name, %s, true) FROM unnest(ARRAY['lock_timeout', 'statement_timeout']) name",
        [f"{seconds}s"],
    )


def end_sessions(connection: Connection, name: str, *, until: float) -> None:
    """Return when no session is left on a database that takes none. Raise psycopg's ObjectInUse if some stay.

    Autovacuum, which belongs to no role, gives way to a renaming by itself.
    """
    while True:
        # A session may have passed the fence's place just before the fence was there.
        left = connection.execute(
            "SELECT count(pg_catalog.pg_terminate_backend(pid)) FROM pg_catalog.pg_stat_activity"
            " WHERE datname = %s AND pid <> pg_catalog.pg_backend_pid() AND usesysid IS NOT NULL",
            [name],
        ).fetchone()
        if left == (0,):
            return
        if time.monotonic() > until:
            raise errors.ObjectInUse(f"sessions on {name} did not end")
        time.sleep(_LOOK_S)


def _sessions(connection: Connection, name: str) -> list[str]:
    rows = connection.execute(
        "SELECT pid, coalesce(usename, 'the server'), coalesce(nullif(application_name, ''), backend_type, 'a session')"
        " FROM pg_catalog.pg_stat_activity WHERE datname = %s ORDER BY backend_start LIMIT 5",
        [name],
    ).fetchall()
    prepared = connection.execute(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s ORDER BY prepared LIMIT 5", [name]
    ).fetchall()
    return [
        *(f"process {pid} of {user} ({what})" for pid, user, what in rows),
        *(f"the prepared transaction {gid}" for (gid,) in prepared),
    ]


def reopen(connection: Connection, name: str, mark: Mark) -> None:
    """Take the note of a switch off that did not come to its end, and its fence. Raise OpsError if the server refuses."""
    with translated(f"could not open {name} again"), connection.transaction():
        connection.execute(marks.comment(name, mark.comment))
        _allow(connection, name, yes=mark.was_open)


def close(connection: Connection, name: str) -> None:
    """Let no new session into a database; those that are there stay. Raise OpsError if the server refuses."""
    with translated(f"could not close {name}"):
        _allow(connection, name, yes=False)


def let_in(connection: Connection, name: str) -> None:
    """Let sessions into a database again, whatever is noted of it. Raise OpsError if the server refuses."""
    with translated(f"could not open {name}"):
        _allow(connection, name, yes=True)


def _open(connection: Connection, name: str, comment: str) -> None:
    connection.execute(marks.comment(name, comment))
    _allow(connection, name, yes=True)


def _allow(connection: Connection, name: str, *, yes: bool) -> None:
    word = sql.SQL("true" if yes else "false")
    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), word))


def _rename(connection: Connection, old: str, new: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )
