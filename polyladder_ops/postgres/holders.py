"""Who holds a database's lock, and who of them counts.

The key of the lock is public, and an advisory lock asks for no right: any role that may connect can hold it, in whichever
mode and for ever. So a session counts only if its role could change the database by itself, or is ours; a stranger's is passed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.postgres import application

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from polyladder_ops.postgres.session import Connection

__all__ = ["CLASS", "KEY", "MAY_END", "Holder", "end_strangers", "find", "rivals", "strangers"]

KEY = "pg_catalog.hashtextextended('polyladder-ops ' || %s, 0)"
"""What a database's name becomes as an advisory lock, in SQL."""
CLASS = "pg_catalog.hashtext('polyladder-ops beside a stranger ' || %s)"
"""The first half of the locks that are taken instead where a stranger holds that one; the second is a random number."""
MAY_END = """
(pg_catalog.pg_has_role(a.usesysid, 'USAGE') AND NOT r.rolsuper
 OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user)
 OR pg_catalog.pg_has_role('pg_signal_backend', 'USAGE') AND NOT r.rolsuper)"""
"""Whether we may end the session `a` of the role `r`, in SQL."""
# Who may make databases, if there is none of the name; else who may alter it, or make schemas in it, as a restore in place
# does. And our own role: whatever it may, its runs must not meet.
_COUNTS = """
(r.rolsuper OR r.rolname = session_user OR CASE WHEN d.oid IS NULL THEN r.rolcreatedb
 ELSE pg_catalog.pg_has_role(a.usesysid, d.datdba, 'MEMBER')
   OR pg_catalog.has_database_privilege(a.usesysid, d.oid, 'CREATE') END)"""
# In whichever database: another role's maintenance database may be another one, whose locks don't keep us out by themselves.
# A prepared transaction holds its locks without a session.
_HOLDERS = f"""
SELECT DISTINCT l.pid, coalesce(l.pid = pg_catalog.pg_backend_pid(), false) AS is_ours,
       coalesce(a.application_name, '') AS application, coalesce(r.rolname, '')::text AS role,
       coalesce(pg_catalog.host(a.client_addr), 'its own machine') AS address, a.backend_start AS since,
       coalesce({_COUNTS}, false) AS counts, coalesce({MAY_END}, false) AS may_end,
       CASE WHEN a.state <> 'active'
            THEN extract(epoch FROM pg_catalog.clock_timestamp() - a.state_change) END::float8 AS silent_s
FROM pg_catalog.pg_locks l CROSS JOIN (SELECT n.name, {KEY} AS key, {CLASS} AS class FROM (SELECT %s::text AS name) n) k
LEFT JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
LEFT JOIN pg_catalog.pg_roles r ON r.oid = a.usesysid
LEFT JOIN pg_catalog.pg_database d ON d.datname = k.name
WHERE l.locktype = 'advisory' AND l.granted
  AND (l.objsubid = 1 AND l.classid::int8 = (k.key >> 32) & 4294967295 AND l.objid::int8 = k.key & 4294967295
       OR l.objsubid = 2 AND l.classid::int8 = k.class::int8 & 4294967295)
ORDER BY is_ours DESC, since
""".replace("|| %s", "|| n.name")
_END = f"SELECT pg_catalog.pg_terminate_backend(pid) FROM ({_HOLDERS}) h WHERE may_end AND NOT counts AND NOT is_ours"


@dataclass(frozen=True)
class Holder:
    """A session that holds a database's lock; `pid` is None for a prepared transaction, `since` if we may not see it.

    `silent_s` is for how long it has said nothing, None if it is at work. A run that lives says a word every five seconds.
    """

    pid: int | None
    is_ours: bool
    application: str
    role: str
    address: str
    since: datetime | None
    counts: bool
    may_end: bool
    silent_s: float | None = None

    @property
    def when(self) -> str:
        """From where and since when; of another role's session only its name is shown to everybody."""
        return f", from {self.address}, since {self.since:%Y-%m-%d %H:%M:%S}Z" if self.since else ""

    @property
    def heard(self) -> str:
        """When it said a word; a run that lives does so every five seconds."""
        if not self.since:
            return ""
        return (
            ", at work now" if self.silent_s is None else f", last heard {max(0.0, self.silent_s):.0f} s ago"
        )

    def __str__(self) -> str:
        """Who it is, as a sentence without its full stop."""
        name = application.shown(self.application)
        if not name:
            who = (
                f"a session of the role {self.role}, process {self.pid}"
                if self.role
                else "a prepared transaction"
            )
            return f"It is {who}{self.when}{self.heard}"
        return f"It is {name.removeprefix('polyladder-ops ')}{self.when}{self.heard}"


def find(connection: Connection, database: str) -> tuple[Holder, ...]:
    """Return every session that holds the lock of a database, ours first. Raise psycopg.Error if it fails."""
    return tuple(Holder(*row) for row in connection.execute(_HOLDERS.encode(), [database]).fetchall())


def rivals(found: Iterable[Holder]) -> tuple[Holder, ...]:
    """Return the others that count: those whose role could change the database by itself, or is ours."""
    return tuple(h for h in found if h.counts and not h.is_ours)


def strangers(found: Iterable[Holder]) -> tuple[Holder, ...]:
    """Return those that only keep others out, and could not change anything."""
    return tuple(h for h in found if not h.counts and not h.is_ours)


def end_strangers(connection: Connection, database: str) -> None:
    """End the strangers' sessions that we may end; they go soon after. Raise psycopg.Error if it fails."""
    connection.execute(_END.encode(), [database])
