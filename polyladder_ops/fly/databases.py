"""Which database of the server is the app's: the one that is named, else the one that bears the app's name."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.errors import UsageError
from polyladder_ops.postgres import databases, marks
from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["choose", "of_apps"]

_FLYS_OWN = ("postgres", "repmgr")
_OPEN = """
SELECT datname::text FROM pg_catalog.pg_database WHERE NOT datistemplate AND datallowconn AND datconnlimit <> -2 ORDER BY datname
"""


def of_apps(connection: Connection) -> tuple[str, ...]:
    """Return the server's databases that may be an app's: neither Fly's own, nor copies of a run, nor set aside."""
    with translated("could not list the databases"):
        names = [name for (name,) in connection.execute(_OPEN.encode()).fetchall()]
    aside = {each.name for each in (*marks.find(connection), *marks.of_others(connection))}
    return tuple(
        name for name in names if name not in {*_FLYS_OWN, *aside} and not databases.is_temporary(name)
    )


def choose(named: str | None, app: str, found: Sequence[str]) -> str:
    """Return the database: what a person named, else what Fly calls an app's, whether it is there or not.

    `fly postgres attach` makes it of the app's name, with `_` for `-`. Raise UsageError if there are others and not that one: it
    may be any of them, and a restore would replace it.
    """
    if named:
        return named
    usual = (app.replace("-", "_"), app)
    known = next((name for name in usual if name in found), "")
    if known or not found:
        return known or usual[0]
    raise UsageError(
        f"which database is the app's can't be told: there is no {usual[0]}",
        detail=f"The server has {', '.join(found)}.",
        hint=f"Name it: POLYLADDER_DATABASE={found[0] if len(found) == 1 else 'NAME'}",
    )
