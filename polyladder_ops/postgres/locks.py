"""One change of a database at a time: a lock in the server, which a dead holder lets go of by dying.

An advisory lock belongs to a session in one database, and a session in the live database would keep it from being
renamed. So it is taken in the maintenance database, and whoever holds it acts through the very session that holds it:
if that is lost, so is the ability to go on. A heartbeat shows that we live (`heartbeat.py`): nothing long is done on it.

Where a stranger holds the lock (`holders.py`), a run takes another one beside it that nobody can know before: first it takes
that, then it looks who else counts. Of two runs the second to take its lock sees the first, so that never both go on.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from contextlib import closing
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.portable import by_whom
from polyladder_ops.postgres import heartbeat, holders, orphans
from polyladder_ops.postgres.holders import CLASS, KEY
from polyladder_ops.postgres.session import Connection, backend_of, connect, translated
from polyladder_ops.terminal import plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.holders import Holder

__all__ = ["DURABLY", "KEY", "Busy", "acquire", "check", "exclusive", "holder", "maintenance"]

_MAINTENANCE = ("postgres", "template1")
_ENDING_S = 0.5  # that a stranger's session may take to go
_YIELDING_S = 1.0  # that another run which began at the same time may take to give way
_LOOK_S = 0.05
_TRIES = 5
DURABLY = """
SELECT pg_catalog.set_config(name, 'on', false) FROM pg_catalog.pg_settings
WHERE name = 'synchronous_commit' AND setting = 'off'
"""
"""What has a session wait for the disk: a switch that a crash of the server takes back would show the old rows after the new."""


class Busy(Refused):
    """Somebody else is changing this database."""


def maintenance(target: Target) -> Target:
    """Return the database of the target's server from which others are made, renamed and dropped.

    It is `postgres`, or `template1` where we can't get into that. Raise OpsError if neither lets us in, or if it is the
    target itself.
    """
    for name in _MAINTENANCE:
        if name == target.database:
            continue
        with contextlib.suppress(OpsError), closing(connect(target.with_database(name))):
            return target.with_database(name)
    with closing(connect(target.with_database(_MAINTENANCE[0]))):  # says what is wrong
        pass
    if target.database != _MAINTENANCE[0]:
        return target.with_database(_MAINTENANCE[0])
    raise OpsError(
        f"the database {target.database} can't be replaced",
        detail="It is the server's maintenance database, from which others are renamed.",
        hint="Keep the app's data in a database of its own.",
    )


@contextlib.contextmanager
def exclusive(
    server: Target,
    database: str,
    *,
    doing: str,
    say: Callable[[str], object] = lambda _sentence: None,
    ends: bool = True,
) -> Iterator[Connection]:
    """Within the block nobody else changes this database by our tasks; yields the session that holds the lock.

    A stranger's session that holds it (whose role could not change the database) is passed, ended first where we may, unless
    `ends` is false; `say` gets who it was. Raise Busy at once if another run does, naming what, who, from where and since when;
    OpsError if the server fails within the block and nobody there says it better.
    """
    named = server.changed(application_name=f"polyladder-ops {doing} {by_whom()}")
    with closing(connect(named)) as connection:
        with translated("could not take the lock"):
            passed = acquire(connection, database, ends=ends)
        for sentence in passed:
            say(sentence)
        with translated("could not make sure that what is changed stays changed"):
            connection.execute(DURABLY)
            orphans.end(connection)
        with heartbeat.kept(connection), translated(f"the server failed during `{doing}`"):
            yield connection


def acquire(connection: Connection, database: str, *, ends: bool = False) -> tuple[str, ...]:
    """Take the lock of a database until the session ends; return in sentences which strangers stood in the way.

    With `ends` their sessions are ended where we may. Raise Busy, holding nothing, if another session that counts holds
    it; psycopg.Error if the server fails.
    """
    took = _try(connection, database)
    found = holders.find(connection, database)
    if others := holders.rivals(found):
        if took:
            _let_go(connection, database)
        raise _busy(database, others)
    if took:
        return ()
    met = holders.strangers(found)
    ended = ends and any(h.may_end for h in met)
    if ended:
        holders.end_strangers(connection, database)
    beside = (
        None if _try(connection, database, for_s=_ENDING_S if ended else 0) else _beside(connection, database)
    )
    try:
        _wait_until_alone(connection, database)
    except Busy:
        _let_go(connection, database, beside)
        raise
    return tuple(_passed(database, h, ended=ended and h.may_end) for h in met)


def _try(connection: Connection, database: str, *, for_s: float = 0) -> bool:
    deadline = time.monotonic() + for_s
    question = f"SELECT pg_catalog.pg_try_advisory_lock({KEY})".encode()
    while connection.execute(question, [database]).fetchone() != (True,):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOOK_S)
    return True


def _beside(connection: Connection, database: str) -> int:
    """Take a lock that no stranger can have taken before, and return its number; whoever looks for holders finds it."""
    question = f"SELECT pg_catalog.pg_try_advisory_lock({CLASS}, %s)".encode()
    for _ in range(_TRIES):
        number = secrets.randbits(31)
        if connection.execute(question, [database, number]).fetchone() == (True,):
            return number
    raise OpsError(f"could not take the lock of {database}", hint="Run `invoke restore.status`.")


def _let_go(connection: Connection, database: str, beside: int | None = None) -> None:
    if beside is None:
        connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({KEY})".encode(), [database])
    else:
        connection.execute(f"SELECT pg_catalog.pg_advisory_unlock({CLASS}, %s)".encode(), [database, beside])


def _wait_until_alone(connection: Connection, database: str) -> None:
    """Return once no other session counts. Raise Busy if one stays: of two that began at once the older process goes on."""
    deadline = time.monotonic() + _YIELDING_S
    while others := holders.rivals(holders.find(connection, database)):
        is_first = backend_of(connection) < min(h.pid or 0 for h in others)
        if not is_first or time.monotonic() > deadline:
            raise _busy(database, others)
        time.sleep(_LOOK_S)


def _busy(database: str, others: Sequence[Holder]) -> Busy:
    return Busy(
        f"another run is changing {database}",
        detail=f"{others[0]}.",
        hint="Wait for it or end it where it runs; a run that died lets go by itself.",
    )


def _passed(database: str, met: Holder, *, ended: bool) -> str:
    who = f"the role {plain(met.role)}" if met.role else "a session without a role"
    who = who if met.pid else "a prepared transaction"
    done = "that session was ended" if ended else "it was passed"
    return f"{who} held the lock of {plain(database)}, which it could not change by itself{met.when}: {done}"


def holder(connection: Connection, database: str) -> str:
    """Return who holds the lock of a database, as a sentence without its full stop; empty if nobody does who counts."""
    with translated("could not ask who holds the lock"):
        found = holders.find(connection, database)
    return next((str(h) for h in found if h.is_ours or h.counts), "")


def check(connection: Connection, database: str) -> None:
    """Return if this session still holds the lock. Raise OpsError if it is lost: nothing may be changed any more."""
    lost = f"the lock on {database} was lost, so nothing more was changed"
    with translated(lost):
        found = holders.find(connection, database)
    if not any(h.is_ours for h in found):
        raise OpsError(lost, hint="Run `invoke restore.status`, then try again.")
