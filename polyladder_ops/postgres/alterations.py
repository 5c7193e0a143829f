"""Changes to a whole database, read back: grants that end exactly equal, settings as values.

All together in one round trip if that makes it so, otherwise each tried by itself: then one that is refused costs no other.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from polyladder_ops.postgres import grants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    Settings = Mapping[tuple[str, str], str]
    Change = tuple[str, list[sql.Composed]]

__all__ = [
    "NotApplied",
    "at_once",
    "grant",
    "is_carried",
    "named",
    "never_carried",
    "regranting",
    "role_settings",
    "setting",
    "settings",
    "tried",
]

_NEVER_CARRIED = (
    "",
    "default_transaction_read_only",
)  # of the database, so of all roles; one role's own is its rights
# The lists whose elements the server quotes, of those that a database can have: pg_dump has the same names by heart
# (variable_is_guc_list_quote), since no extension may add to them.
_QUOTED_LISTS = {"local_preload_libraries", "search_path", "session_preload_libraries", "temp_tablespaces"}


@dataclass(frozen=True)
class NotApplied:
    """Something that was left as it was, and why."""

    what: str
    reason: str

    def __str__(self) -> str:
        return f"{self.what}: {self.reason}"


def named(role: str, name: str) -> str:
    """Return how sentences call a setting of the database, or of a role in it."""
    return f"{name} of role {role}" if role else name


def is_carried(role: str, name: str) -> bool:
    """Return whether a restored database gets this setting of the database, or of a role in it."""
    return (role, name) != _NEVER_CARRIED


def tried(connection: psycopg.Connection[Any], what: str, *statements: sql.Composed) -> NotApplied | None:
    """Run the statements in a savepoint; return why they failed."""
    try:
        with connection.transaction():
            for statement in statements:
                connection.execute(statement)
    except psycopg.Error as error:
        return NotApplied(what, _said(error))
    return None


def _said(error: psycopg.Error) -> str:
    return error.diag.message_primary or type(error).__name__


def at_once(
    connection: psycopg.Connection[Any], statements: Iterable[sql.Composed], as_wanted: Callable[[], bool]
) -> bool:
    """Run all the statements, in one round trip; whether all is as wanted then. Otherwise it is as it was before.

    They go as messages of their own: a server that logs the one that it refuses does not log the others' values.
    """
    try:
        with connection.transaction() as savepoint:
            with connection.pipeline():
                for statement in statements:
                    connection.execute(statement)
            if as_wanted():
                return True
            raise psycopg.Rollback(savepoint)
    except psycopg.Error:
        return False
    return False


def grant(
    connection: psycopg.Connection[Any],
    database: str,
    owner: str,
    before: Iterable[str],
    wanted: Iterable[str],
) -> Iterator[NotApplied | None]:
    """Make the grants of a database these, one by one. Arguments as in `regranting`."""
    for what, statements in regranting(database, owner, before, wanted):
        yield tried(connection, what, *statements)


def regranting(database: str, owner: str, before: Iterable[str], wanted: Iterable[str]) -> Iterator[Change]:
    """Take everything from everybody, PUBLIC and the owner too, then give what is wanted, the owner's grants first.

    Yields what each change is called, and its statements. `owner` is who owns the database in `wanted`; should it have
    another owner, that one gives in its place.
    """
    before, wanted = set(before), set(wanted)
    if before == wanted:
        return
    name = sql.Identifier(database)
    for grantee in sorted({grants.parse(sentence).grantee for sentence in before}):
        revoke = sql.SQL("REVOKE ALL ON DATABASE {} FROM {} CASCADE").format(name, _grantee(grantee))
        yield f"a revoke from {grantee or grants.PUBLIC}", [revoke]
    for given in _chained(map(grants.parse, sorted(wanted)), owner):
        yield f"the grant {given}", [*_granting(name, given, owner)]


def _grantee(role: str) -> sql.Composable:
    return sql.Identifier(role) if role else sql.SQL(grants.PUBLIC)


def _chained(given: Iterable[grants.Grant], owner: str) -> Iterator[grants.Grant]:
    """Yield the grants so that whoever hands on a grant option has got it before."""
    waiting, holders = list(given), {owner}
    while waiting:
        ready = [grant for grant in waiting if grant.grantor in holders] or waiting
        yield from ready
        holders |= {grant.grantee for grant in ready}
        waiting = [grant for grant in waiting if grant not in ready]


def _granting(database: sql.Identifier, given: grants.Grant, owner: str) -> Iterator[sql.Composed]:
    """Yield the statements for one grant; one that is not the owner's must be given by its grantor."""
    if given.grantor != owner:
        yield sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(given.grantor))
    for option in ("", "*"):
        names = [p.removesuffix("*") for p in given.privileges if p.endswith("*") == bool(option)]
        if names:
            yield sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(", ").join(map(sql.SQL, names)),
                database,
                _grantee(given.grantee),
                sql.SQL(" WITH GRANT OPTION" if option else ""),
            )
    if given.grantor != owner:
        yield sql.SQL("SET LOCAL ROLE NONE").format()


def settings(
    connection: psycopg.Connection[Any],
    database: str,
    wanted: Settings,
    stored: Callable[[], Settings],
) -> Iterator[NotApplied | None]:
    """Set what is wanted by (role or "", name), reset what is there too much; `stored` reads back what is there."""
    before = stored()
    for what, statement in _resets(database, before, wanted):
        yield tried(connection, what, statement)
    for key, value in _missing(before, wanted):
        yield _set(connection, _holder(database, key[0]), key, value, stored)
    yield from never_carried(wanted)


def never_carried(wanted: Settings) -> Iterator[NotApplied]:
    """Yield those of the settings that no restored database gets."""
    for role, name in wanted:
        if not is_carried(role, name):
            what = f"the setting {named(role, name)}"
            yield NotApplied(what, "it is never carried over to a restored database")


def setting(database: str, before: Settings, wanted: Settings) -> Iterator[sql.Composed]:
    """Yield the statements that make `wanted` of `before`, each value in the way that the server most likely stores as it is."""
    yield from (statement for _, statement in _resets(database, before, wanted))
    for (role, name), value in _missing(before, wanted):
        way = _as_list if name.lower() in _QUOTED_LISTS else _as_literal
        yield from way(_holder(database, role), name, value)


def _resets(database: str, before: Settings, wanted: Settings) -> Iterator[tuple[str, sql.Composed]]:
    for role, name in sorted(before.keys() - wanted.keys()):
        if is_carried(role, name):
            reset = sql.SQL("{} RESET {}").format(_holder(database, role), sql.Identifier(name))
            yield f"the reset of {named(role, name)}", reset


def _missing(before: Settings, wanted: Settings) -> Iterator[tuple[tuple[str, str], str]]:
    for key, value in wanted.items():
        if is_carried(*key) and before.get(key) != value:
            yield key, value


def role_settings(
    connection: psycopg.Connection[Any],
    role: str,
    wanted: Iterable[tuple[str, str]],
    stored: Callable[[], Settings],
) -> Iterator[NotApplied | None]:
    """Give a role these settings for all databases; `stored` reads back what is there by (role, name)."""
    holder = sql.SQL("ALTER ROLE {}").format(sql.Identifier(role))
    for name, value in wanted:
        yield _set(connection, holder, (role, name), value, stored)


def _holder(database: str, role: str) -> sql.Composed:
    if not role:
        return sql.SQL("ALTER DATABASE {}").format(sql.Identifier(database))
    return sql.SQL("ALTER ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(database))


def _set(
    connection: psycopg.Connection[Any],
    holder: sql.Composed,
    key: tuple[str, str],
    value: str,
    stored: Callable[[], Settings],
) -> NotApplied | None:
    """Set one setting so that the server stores exactly this value; return why it could not.

    Which settings are lists, whose stored value is not what one literal gives (`search_path` of two schemas would
    become one name), only the server knows. So each way is tried and read back: as a literal, from the current
    value of this session (the server quotes), and as one literal an element (for lists that no session can set).
    """
    failure = None
    for way in (_as_literal, _from_current, _as_list):
        try:
            with connection.transaction() as savepoint:
                for statement in way(holder, key[1], value):
                    connection.execute(statement)
                if stored().get(key) == value:
                    return None
                raise psycopg.Rollback(savepoint)
        except psycopg.Error as error:
            failure = failure or _said(error)
    return NotApplied(f"the setting {named(*key)}", failure or "the server stores another value")


def _as_literal(holder: sql.Composed, name: str, value: str) -> Iterator[sql.Composed]:
    yield sql.SQL("{} SET {} TO {}").format(holder, sql.Identifier(name), sql.Literal(value))


def _from_current(holder: sql.Composed, name: str, value: str) -> Iterator[sql.Composed]:
    yield sql.SQL("SELECT pg_catalog.set_config({}, {}, true)").format(sql.Literal(name), sql.Literal(value))
    yield sql.SQL("{} SET {} FROM CURRENT").format(holder, sql.Identifier(name))


def _as_list(holder: sql.Composed, name: str, value: str) -> Iterator[sql.Composed]:
    elements = re.findall(r'"((?:[^"]|"")*)"|([^,\s]+)', value)
    literals = [sql.Literal(quoted.replace('""', '"') or bare) for quoted, bare in elements]
    yield sql.SQL("{} SET {} TO {}").format(holder, sql.Identifier(name), sql.SQL(", ").join(literals))
