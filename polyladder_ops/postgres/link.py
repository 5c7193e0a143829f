"""The link: whether it is this very database that the app asks when it is asked.

The app does not say which database it has, and it gives its sessions no name. But its health page asks a question: if a
session on this database (by its oid, on the server with this system identifier) has a query that began between our request and
its answer, by the server's own clock, that was it; and if there is none, the app asks another database. Three requests, since
another program may ask something in one of those moments.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from polyladder_ops.postgres import application, session

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from polyladder_ops.postgres.session import Connection, Identity

__all__ = ["REQUESTS", "Asker", "Link", "Window", "decide", "during"]

REQUESTS = 3
_CLOCK = "SELECT pg_catalog.clock_timestamp()"
# Of other roles' sessions a role that may not read statistics sees no times: they are hidden, as with track_activities off.
_SESSIONS = f"""
SELECT usename::text, coalesce(application_name, ''), coalesce(pg_catalog.host(client_addr), 'local'),
       query_start BETWEEN %s AND pg_catalog.clock_timestamp(), query_start IS NULL AND (state IS NULL OR state = 'disabled')
FROM pg_catalog.pg_stat_activity
WHERE datid = %s AND pid <> pg_catalog.pg_backend_pid() AND usename IS NOT NULL
  AND (backend_type IS NULL OR backend_type = 'client backend')
  AND coalesce(application_name, '') !~ '{application.OURS}'
"""
_T = TypeVar("_T")


@dataclass(frozen=True, order=True)
class Asker:
    """Who asked: a role from an address, under a name that the real app leaves empty."""

    role: str
    application: str
    address: str


@dataclass(frozen=True)
class Window:
    """Who asked this database something while something was done, and how many sessions may not be looked at."""

    askers: frozenset[Asker]
    hidden: int = 0


@dataclass(frozen=True)
class Link:
    """Whether the app is linked to this database, in words, and what to do if it is not or can't be told."""

    ok: bool
    seen: str
    hint: str = ""


def during(connection: Connection, database_oid: int, act: Callable[[], _T]) -> tuple[Window, _T]:
    """Return who asked this database while `act` was done, by the server's clock, and what it returned.

    Raise OpsError if the server can't be asked.
    """
    with session.translated("could not look at the sessions of the database"):
        row = connection.execute(_CLOCK).fetchone()
        assert row is not None
        result = act()
        rows = connection.execute(_SESSIONS, [row[0], database_oid]).fetchall()
    askers = frozenset(Asker(role, application.shown(name), at) for role, name, at, asked, _ in rows if asked)
    return Window(askers, sum(hidden for *_, hidden in rows)), result


def decide(windows: Sequence[Window], quiet: Window, place: Identity) -> Link:
    """Return whether the same asker stands in every window of a request; `quiet` is one without a request."""
    where = f"{place.database} (oid {place.database_oid}, system {place.system_identifier})"
    steady = frozenset.intersection(*(window.askers for window in windows)) if windows else frozenset()
    if steady:
        who = min(steady - quiet.askers, default=min(steady))
        busy = "; it asks without our requests, too" if who in quiet.askers else ""
        return Link(
            True, f"{who.role} ({who.address}) asked {where} at each of {len(windows)} requests{busy}"
        )
    if hidden := max((window.hidden for window in windows), default=0):
        return Link(
            False,
            f"can't be told: our role may not see what {hidden} sessions on {where} do",
            "Let our role look: GRANT pg_read_all_stats TO it, as a superuser; track_activities must be on.",
        )
    return Link(
        False,
        f"nobody asked {where} when the app was asked: it uses another database",
        "Compare the app's secret DATABASE_URL with this database, and look whether an old machine still runs.",
    )
