"""The switch: one name goes from one database to another in a blink, or nothing happens.

All of it stands in one transaction: both renames, the mark on the old database and its closing, the new one's properties
and its opening. The first rename is the fence: it takes the lock of the live database, for which every new session waits,
while another connection ends those that are there (`ending.py`). Nothing of it is committed before the end, so that
whatever dies when, the server itself takes it back, and one complete database has the live name. A session of ours that
falls silent in it is ended by the server.

It goes through the session that holds the lock (`locks.py`): without the lock nothing can be changed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from psycopg import errors, sql

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import application, locks, marks, printable
from polyladder_ops.postgres.ending import Ender
from polyladder_ops.postgres.session import connect, given_up_after, translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Mark, Marked
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "Ready",
    "Switched",
    "by_hand",
    "close",
    "close_again",
    "comment_of",
    "exchange",
    "let_copy",
    "let_in",
    "names",
    "note_of",
    "oid_of",
    "open_to_dump",
    "publish",
    "reopen",
    "to_look_into",
]

_TRIES = 4
_EACH_S = 3  # that the app waits for one of our statements, before it is let in again and another try is made
_PAUSE_S = 1.0
_KICKED_S = 0.05  # sessions are ended this long before the rename: if it finds one, the server looks again 100 ms later
_SILENT_S = 10  # without a word from us, after which the server takes back what we began
_BEGUN_S = 12.0  # until COMMIT; later the server has taken it back
_COMMIT_S = (
    8.0  # more, in all, for one that waits for a synchronous standby: then the app gets in without that
)
_IN_USE = (errors.ObjectInUse, errors.LockNotAvailable, errors.QueryCanceled)
Step = Callable[["Connection", str], object]


def _nothing(_connection: Connection, _name: str) -> None:
    """Leave the database as it is."""


@dataclass(frozen=True)
class Ready:
    """The database that is to be live: its name and oid now, and what is done to it in the switch's transaction.

    `before` stands before anybody waits; `after`, once it has the live name, is the last thing before COMMIT. Both get
    the connection and the name that it has then; what they raise takes the switch back.
    """

    name: str
    oid: int | None
    before: Step = _nothing
    after: Step = _nothing


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


def note_of(connection: Connection, live: str, by: str, backup: str, migration_head: str | None) -> Mark:
    """Return the mark for this database once it is set aside, with what has to come back if it is live again."""
    found = _state(connection, live)
    if found is None:
        raise OpsError(f"there is no database {live} any more", hint="Look with `invoke restore.status`.")
    return marks.Mark(
        kind="aside",
        live=live,
        at=found.at,
        by=by,
        backup=backup,
        migration_head=migration_head,
        was_open=found.is_open,
        oid=found.oid,
        own=found.own,
        serial=found.serial,
    )


@dataclass(frozen=True)
class _State:
    """A database's own comment, whether it takes sessions, what our role has set there where a mark goes, the server's clock.

    `serial` is the number of the server's next transaction.
    """

    comment: str
    is_open: bool
    oid: int
    at: datetime
    serial: int
    own: str | None


def _state(connection: Connection, name: str) -> _State | None:
    row = connection.execute(_STATE, [name]).fetchone()
    if row is None:
        return None
    comment, is_open, oid, at, serial, setting = row
    own = setting and marks.own_setting(setting.partition("=")[2])
    return _State(marks.inner(comment), is_open, oid, at, serial, own)


_STATE = """
SELECT coalesce(pg_catalog.shobj_description(d.oid, 'pg_database'), ''), d.datallowconn, d.oid::int8, pg_catalog.clock_timestamp(),
       pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text::int8,
       (SELECT c.item FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_roles r ON r.oid = s.setrole
        CROSS JOIN pg_catalog.unnest(s.setconfig) c (item)
        WHERE s.setdatabase = d.oid AND r.rolname = current_user AND pg_catalog.starts_with(c.item, 'application_name='))
FROM pg_catalog.pg_database d WHERE d.datname = %s
"""


def own_setting(connection: Connection, name: str) -> str | None:
    """Return what our role has set for itself in a database where a mark goes; None if nothing."""
    found = _state(connection, name)
    return None if found is None else found.own


def by_hand(live: str, aside: str, role: str, own: str | None = None) -> tuple[str, ...]:
    """Return the SQL lines that take a switch by this role back by hand, for psql in the maintenance database.

    `own` is the role's own setting there before, which the mark hides.
    """
    old, new, other = map(printable.identifier, (aside, live, aside.replace("_aside_", "_other_")))
    as_before = "RESET application_name" if own is None else f"SET application_name = {_value(own)}"
    return (
        f"ALTER DATABASE {new} ALLOW_CONNECTIONS false;",
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {printable.literal(live)};",
        f"BEGIN; ALTER DATABASE {new} RENAME TO {other}; ALTER DATABASE {old} RENAME TO {new}; COMMIT;",
        f"ALTER ROLE {printable.identifier(role)} IN DATABASE {new} {as_before};",
        f"ALTER DATABASE {new} ALLOW_CONNECTIONS true;",
    )


def _value(text: str) -> str:
    return printable.literal(text) if text else "''"


def to_look_into(maintenance: str, aside: str) -> tuple[str, ...]:
    """Return the lines that open a set-aside database to be looked into in psql, and close it again."""
    name = printable.identifier(aside)
    return (
        f"psql -d {maintenance}",
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS true;",
        printable.connect(aside),
        printable.connect(maintenance),  # the server closes no database from within
        f"ALTER DATABASE {name} ALLOW_CONNECTIONS false;",
    )


def publish(connection: Connection, live: str, ready: Ready) -> Switched:
    """Give the live name, which no other database has, to `ready`, and open it.

    Raise OpsError if another took the name meanwhile.
    """
    began = time.monotonic()
    with translated(f"could not rename {ready.name} to {live}"):
        Ender(connection, ready.name).clear(within_s=_EACH_S)
        with _in_one(connection):
            ready.before(connection, ready.name)
            _rename(connection, ready.name, live)
            _is_still(connection, live, ready.oid)
            _allow(connection, live, yes=True)
            ready.after(connection, live)
    return Switched(live, "", time.monotonic() - began, datetime.now(UTC))


def exchange(connection: Connection, server: Target, ready: Ready, note: Mark, aside: str) -> Switched:
    """Give the live name to the database `ready`, and the name `aside` to the one that had it, closed and with this mark.

    Sessions on both are ended, through another connection to the server; who connects meanwhile waits. Raise Refused if
    sessions don't end: then the old one is live and open as before. Raise OpsError or psycopg.Error if the server fails:
    then `settling.settled` finds out what is true.
    """
    with closing(connect(server)) as other:
        for attempt in range(_TRIES):
            time.sleep(_PAUSE_S if attempt else 0)
            locks.check(connection, note.live)
            try:
                return _exchanged(connection, other, ready, note, aside)
            except _IN_USE as error:
                why = " ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))
                still = _sessions(connection, note.live) or [why]
            except errors.InsufficientPrivilege as error:
                still = [": ".join(filter(None, (error.diag.message_primary, error.diag.message_detail)))]
                break
    raise Refused(
        f"the sessions on {note.live} did not end, so it was left as it was",
        detail=f"Still there: {'; '.join(filter(None, still)) or 'sessions that come and go'}.",
        hint="End them where they run (stop the app), then try again.",
    )


def _exchanged(connection: Connection, other: Connection, ready: Ready, note: Mark, aside: str) -> Switched:
    live, enders = note.live, [Ender(other, name) for name in (ready.name, note.live)]
    last: list[sql.Composed] = []
    with given_up_after(other, _BEGUN_S), _in_one(connection, last):
        ready.before(connection, ready.name)
        enders[0].clear(within_s=_EACH_S)
        began = time.monotonic()
        enders[1].clear(within_s=_KICKED_S, surely=False)
        with enders[1].going_on():
            _rename(connection, live, aside)  # from here on who connects waits
        locks.check(connection, live)
        _is_still(connection, aside, note.oid)
        with connection.pipeline():
            _rename(connection, ready.name, live)
            _allow(connection, aside, yes=False)
            connection.execute("SAVEPOINT polyladder_open")  # it has a number above all that was given before
            _allow(connection, live, yes=True)
            connection.execute("RELEASE SAVEPOINT polyladder_open")
        _is_still(connection, live, ready.oid)
        ready.after(connection, live)
        xid = _is_still(connection, live, ready.oid)  # its owner was given at a savepoint, perhaps
        last.append(marks.put(aside, note.model_copy(update={"name": aside, "xid": xid})))
    return Switched(live, aside, time.monotonic() - began, datetime.now(UTC))


@contextmanager
def _in_one(connection: Connection, last: Sequence[sql.Composed] = ()) -> Iterator[None]:
    """Within the block a transaction that the server takes back by itself if we fall silent, and we if it does.

    The statements that are in `last` by its end go with the message before its COMMIT.
    """
    # For the session, since between BEGIN and a setting of the transaction's own there would be a gap.
    connection.execute(
        "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', %s, false)", [f"{_SILENT_S}s"]
    )
    with (
        given_up_after(connection, _BEGUN_S + _COMMIT_S),
        connection.transaction(),
        given_up_after(connection, _BEGUN_S),
    ):
        _give_up_after(connection, _EACH_S)
        yield
        # A COMMIT that waits for a synchronous standby must not be cut short.
        connection.execute(sql.SQL("; ").join((*last, _limits(0))))


def _is_still(connection: Connection, name: str, oid: int | None) -> int:
    """Return the number of this transaction, or of the part of it (a savepoint has its own) that wrote the database's row, of 64 bits.

    Raise OpsError if the name that was just given is another database's: somebody renamed at the same time.
    """
    row = connection.execute(
        "SELECT d.oid::int8, pg_catalog.pg_current_xact_id()::text::int8, d.xmin::text::int8 FROM pg_catalog.pg_database d WHERE d.datname = %s",
        [name],
    ).fetchone()
    if row is None or row[0] != oid:
        raise OpsError(
            f"{name} would be another database than was looked at, so nothing was changed",
            detail="Somebody renamed databases at the same time.",
            hint="Look with `psql -l` and `invoke restore.status`.",
        )
    _, whole, part = row
    later = (part - whole) % 2**32  # a row keeps the last 32 bits
    return int(whole + later if later < 2**31 else whole)


def _give_up_after(connection: Connection, seconds: int) -> None:
    """Let no statement of this transaction from the next one on take longer; 0 lifts that."""
    connection.execute(_limits(seconds))


def _limits(seconds: int) -> sql.Composed:
    return sql.SQL(
        "SELECT pg_catalog.set_config(name, {}, true) FROM unnest(ARRAY['lock_timeout', 'statement_timeout']) name"
    ).format(f"{seconds}s")


def _sessions(connection: Connection, name: str) -> list[str]:
    rows = connection.execute(
        "SELECT pid, coalesce(usename, 'the server'), coalesce(application_name, ''), coalesce(backend_type, 'a session')"
        " FROM pg_catalog.pg_stat_activity WHERE datname = %s ORDER BY backend_start LIMIT 5",
        [name],
    ).fetchall()
    prepared = connection.execute(
        "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = %s ORDER BY prepared LIMIT 5", [name]
    ).fetchall()
    return [
        *(f"process {pid} of {user} ({application.shown(name) or what})" for pid, user, name, what in rows),
        *(f"the prepared transaction {gid}" for (gid,) in prepared),
    ]


def reopen(connection: Connection, marked: Marked) -> None:
    """Take mark or note off a live database, and open it if it was. Raise OpsError if the server refuses.

    Older versions closed it before a switch, and somebody may have renamed it back by hand.
    """
    name = marked.name
    with translated(f"could not open {name} again"), connection.transaction():
        connection.execute(marks.take_off(marked, name))
        _allow(connection, name, yes=marked.is_open or marked.mark.was_open)


def close(connection: Connection, name: str) -> None:
    """Let no new session into a database; those that are there stay. Raise OpsError if the server refuses."""
    with translated(f"could not close {name}"):
        _allow(connection, name, yes=False)


def let_in(connection: Connection, name: str) -> None:
    """Let sessions into a database again, whatever is noted of it. Raise OpsError if the server refuses."""
    with translated(f"could not open {name}"):
        _allow(connection, name, yes=True)


def let_copy(connection: Connection, name: str, *, yes: bool) -> None:
    """Mark a database as a template, or no more. Raise OpsError if the server refuses."""
    with translated(f"could not {'mark' if yes else 'unmark'} {name} as a template"):
        word = sql.SQL("true" if yes else "false")
        connection.execute(sql.SQL("ALTER DATABASE {} IS_TEMPLATE {}").format(sql.Identifier(name), word))


def open_to_dump(connection: Connection, marked: Marked) -> None:
    """Let sessions into a set-aside database, and note that it was us; so an older version's gets a mark, too.

    Whoever finds it open knows then that nobody has taken it into use. Raise OpsError if the server refuses.
    """
    _dumped(connection, marked, yes=True)


def close_again(connection: Connection, marked: Marked) -> None:
    """Let no new session into a set-aside database that was open to be dumped. Raise OpsError if the server refuses."""
    _dumped(connection, marked, yes=False)


def _dumped(connection: Connection, marked: Marked, *, yes: bool) -> None:
    # What it was noted with is the transaction after which all in the live database is new: it is another one now.
    mark = marked.mark.model_copy(update={"is_dumped": yes, "name": marked.name, "baseline": None})
    with translated(f"could not {'open' if yes else 'close'} {marked.name}"), connection.transaction():
        connection.execute(marks.put(marked.name, mark, marked.role))
        if marked.is_claim:
            connection.execute(marks.comment(marked.name, mark.comment))
        _allow(connection, marked.name, yes=yes)


def _allow(connection: Connection, name: str, *, yes: bool) -> None:
    word = sql.SQL("true" if yes else "false")
    connection.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS {}").format(sql.Identifier(name), word))


def _rename(connection: Connection, old: str, new: str) -> None:
    connection.execute(
        sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    )
