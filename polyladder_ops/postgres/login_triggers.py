"""Keeps our sessions out of a database's login triggers (17 and later): they would run code of the app at each of ours.

One that notes who logs in writes a row into what we have just proved, waits for the locks that we hold, and counts our
own sessions as visits. A superuser may switch event triggers off, but only in the words with which a session begins; another
role, and an older server, refuse the whole session for them. So the first session to a server shows whether it may be
done, and all others begin so. That first one is noted, where its database has such a trigger.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import psycopg

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from polyladder_ops.postgres.session import Connection

__all__ = ["opened", "option", "that_run"]

_SINCE = 17
_OFF = "-c event_triggers=off"
_NAMING = ("host", "hostaddr", "port", "user")
# The servers and roles of this run that are known to allow it.
_ALLOWED: set[tuple[str, ...]] = set()
_Session = TypeVar("_Session", bound="psycopg.Connection[Any]")
_THAT_RUN = """
SELECT evtname::text FROM pg_catalog.pg_event_trigger WHERE evtevent = 'login' AND evtenabled IN ('O', 'A') ORDER BY 1
"""


def option(parameters: Mapping[str, str]) -> str:
    """Return what a session's `options` must say to begin without login triggers; empty where that is not known to be allowed."""
    return _OFF if _key(parameters) in _ALLOWED else ""


def opened(parameters: Mapping[str, str], opening: Callable[[Mapping[str, str]], _Session]) -> _Session:
    """Return the session that `opening` opens, without login triggers if they may be left out.

    One that refuses everybody does not refuse us then. Raise what `opening` raises.
    """
    if option(parameters):
        return opening(_quietly(parameters))
    try:
        connection = opening(parameters)
    except psycopg.OperationalError as refused:
        if "CONTEXT:" not in str(refused):  # no code has run: it is not a trigger's doing
            raise
        try:
            connection = opening(_quietly(parameters))
        except psycopg.OperationalError:
            raise refused from None
    if connection.info.server_version // 10000 >= _SINCE and _is_superuser(connection):
        _ALLOWED.add(_key(parameters))
    return connection


def that_run(connection: Connection) -> tuple[str, ...]:
    """Return the names of the login triggers that run in each of our sessions, since our role may not leave them out."""
    if connection.info.server_version // 10000 < _SINCE or _is_superuser(connection):
        return ()
    return tuple(name for (name,) in connection.execute(_THAT_RUN.encode()).fetchall())


def _quietly(parameters: Mapping[str, str]) -> dict[str, str]:
    return {**parameters, "options": f"{parameters.get('options', '')} {_OFF}".strip()}


def _is_superuser(connection: psycopg.Connection[Any]) -> bool:
    return connection.info.parameter_status("is_superuser") == "on"


def _key(parameters: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(parameters.get(name, "") for name in _NAMING)
