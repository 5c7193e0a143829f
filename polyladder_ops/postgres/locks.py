"""One change of a database at a time: a lock in the server, which a dead holder lets go of by dying.

An advisory lock belongs to a session in one database, and a session in the live database would keep it from being
renamed. So it is taken in the maintenance database, and whoever holds it acts through the very session that holds it:
if that is lost, so is the ability to go on.
"""

from __future__ import annotations

import contextlib
from contextlib import closing
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.portable import by_whom
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import Connection, backend_of, connect, translated

if TYPE_CHECKING:
    from collections.abc import Iterator
    from datetime import datetime

    from psycopg.rows import TupleRow

__all__ = ["DURABLY", "KEY", "Busy", "check", "exclusive", "holder", "is_held_elsewhere", "maintenance"]

_MAINTENANCE = ("postgres", "template1")
KEY = "pg_catalog.hashtextextended('polyladder-ops ' || %s, 0)"
"""What a database's name becomes as an advisory lock, in SQL."""
# In whichever database: another role's maintenance database may be another one, whose locks don't keep us out by themselves.
_HOLDERS = f"""
SELECT a.application_name, coalesce(pg_catalog.host(a.client_addr), 'its own machine'), a.backend_start, a.pid
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_stat_activity a USING (pid) CROSS JOIN (SELECT {KEY} AS key) k
WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
  AND l.classid::int8 = (k.key >> 32) & 4294967295 AND l.objid::int8 = k.key & 4294967295
ORDER BY a.pid = pg_catalog.pg_backend_pid() DESC, a.backend_start
"""
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
def exclusive(server: Target, database: str, *, doing: str) -> Iterator[Connection]:
    """Within the block nobody else changes this database by our tasks; yields the session that holds the lock.

    Raise Busy at once if somebody does, naming what, who, from where and since when.
    """
    named = Target.of(**{**server.parameters, "application_name": f"polyladder-ops {doing} {by_whom()}"})
    with closing(connect(named)) as connection:
        with translated("could not take the lock"):
            row = connection.execute(f"SELECT pg_catalog.pg_try_advisory_lock({KEY})", [database]).fetchone()
            others = _others(connection, database)
        if row != (True,) or others:
            raise Busy(
                f"another run is changing {database}",
                detail=f"{_named(*others[0]) if others else 'It has just ended'}.",
                hint="Wait for it or end it where it runs; a run that died lets go by itself.",
            )
        with translated("could not make sure that what is changed stays changed"):
            connection.execute(DURABLY)
        yield connection


def _others(connection: Connection, database: str) -> list[TupleRow]:
    rows = connection.execute(_HOLDERS, [database]).fetchall()
    return [row for row in rows if row[3] != backend_of(connection)]


def is_held_elsewhere(connection: Connection, database: str) -> bool:
    """Whether another session holds the lock, whichever of the server's databases it is in. Raise psycopg.Error if it fails."""
    return bool(_others(connection, database))


def holder(connection: Connection, database: str) -> str:
    """Return who holds the lock of a database, as a sentence without its full stop; empty if nobody does."""
    with translated("could not ask who holds the lock"):
        row = connection.execute(_HOLDERS, [database]).fetchone()
    return "" if row is None else _named(*row)


def _named(name: str, address: str, since: datetime | None, _: int) -> str:
    who = f"It is {name.removeprefix('polyladder-ops ')}" if name else "It is another role's session"
    # Of another role's session only its name is shown to everybody.
    return f"{who}, from {address}, since {since:%Y-%m-%d %H:%M:%S}Z" if since else who


def check(connection: Connection, database: str) -> None:
    """Return if this session still holds the lock. Raise OpsError if it is lost: nothing may be changed any more."""
    lost = f"the lock on {database} was lost, so nothing more was changed"
    with translated(lost):
        row = connection.execute(_HOLDERS, [database]).fetchone()
    if row is None or row[3] != backend_of(connection):
        raise OpsError(lost, hint="Run `invoke restore.status`, then try again.")
