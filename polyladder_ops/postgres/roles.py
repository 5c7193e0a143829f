"""Making the roles that a backup's objects belong to, on a server that has not got them; passwords are in no backup."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from polyladder_ops.postgres import alterations, properties, role_marks
from polyladder_ops.postgres.alterations import NotApplied
from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Collection, Container, Iterator, Sequence

    from polyladder_ops.postgres.properties import Membership, Role
    from polyladder_ops.postgres.session import Connection

__all__ = ["create_missing", "drop", "finish"]

_ALWAYS = {"inherit": "INHERIT", "createrole": "CREATEROLE", "createdb": "CREATEDB"}
_BY_SUPERUSERS = {"superuser": "SUPERUSER", "replication": "REPLICATION", "bypassrls": "BYPASSRLS"}


def create_missing(
    connection: Connection, wanted: Sequence[Role], live: str
) -> tuple[tuple[str, ...], tuple[NotApplied, ...]]:
    """Make those of the roles that the server has not got, all or none, with attributes, settings and memberships.

    They can't log in, and are marked as made for the database `live`, until `finish` is told that it has come.

    Return their names, and what of them could not be given: what only a superuser may give (SUPERUSER, REPLICATION,
    BYPASSRLS) if we are none, and memberships of roles that are there, which are not touched. They have no password, so
    nobody can log in by one. Raise OpsError if the server refuses.
    """
    with translated("could not make the missing roles"), connection.transaction():
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_catalog.pg_roles").fetchall()}
        row = connection.execute(
            "SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
        ).fetchone()
        missing = [role for role in wanted if role.name not in there]
        for role in missing:
            connection.execute(_creation(role, as_superuser=row == (True,)))
        made = {role.name for role in missing}
        tried = [result for role in missing for result in _rest(connection, role, there | made)]
        role_marks.put(connection, {role.name: _comment(role) for role in missing}, live)
    lacking = [
        *(what for role in missing if row != (True,) for what in _withheld(role)),
        *filter(None, tried),
        *(what for role in wanted if role.name in there for what in _untouched(role, made)),
    ]
    return tuple(role.name for role in missing), tuple(lacking)


def finish(connection: Connection, wanted: Sequence[Role], made: Collection[str]) -> None:
    """Let those that were made log in as they should, and take our mark off them; so with what another restore made of them.

    Raise psycopg.Error if the server refuses: it stands in the transaction of a switch.
    """
    marked = {one.name for one in role_marks.find(connection)} if wanted else set()
    for role in (role for role in wanted if role.name in made or role.name in marked):
        if role.login:
            connection.execute(sql.SQL("ALTER ROLE {} LOGIN").format(sql.Identifier(role.name)))
        if role.name in marked:
            connection.execute(role_marks.comment(role.name, _comment(role)))


def _comment(role: Role) -> str:
    """Return a role's own comment: a backup may have been taken while a restore was making it."""
    return "" if role_marks.is_mark(role.comment) else role.comment


def drop(connection: Connection, names: Sequence[str]) -> None:
    """Drop the roles, all or none. Raise OpsError if the server refuses: something belongs to one of them."""
    with translated("could not drop the roles that were made"), connection.transaction():
        connection.execute(
            sql.SQL("DROP ROLE IF EXISTS {}").format(sql.SQL(", ").join(map(sql.Identifier, names)))
        )


def _creation(role: Role, *, as_superuser: bool) -> sql.Composed:
    words = _ALWAYS | (_BY_SUPERUSERS if as_superuser else {})
    attributes = " ".join(word if getattr(role, name) else f"NO{word}" for name, word in words.items())
    until = (
        sql.SQL(" VALID UNTIL {}").format(sql.Literal(role.valid_until)) if role.valid_until else sql.SQL("")
    )
    return sql.SQL("CREATE ROLE {} NOLOGIN {} CONNECTION LIMIT {}{}").format(
        sql.Identifier(role.name), sql.SQL(attributes), sql.Literal(role.connection_limit), until
    )


def _withheld(role: Role) -> Iterator[NotApplied]:
    for attribute, word in _BY_SUPERUSERS.items():
        if getattr(role, attribute):
            yield NotApplied(f"{word} of role {role.name}", "only a superuser can give it")


def _untouched(role: Role, made: Container[str]) -> Iterator[NotApplied]:
    for membership in role.memberships:
        if membership.role in made:
            yield NotApplied(
                f"the membership of {role.name} in {membership.role}",
                f"{role.name} was there already and is left as it is",
            )


def _rest(connection: Connection, role: Role, there: Container[str]) -> Iterator[NotApplied | None]:
    """Give a new role its memberships and settings; each that is refused is a result, not an end."""

    def stored() -> dict[tuple[str, str], str]:
        return {(r.name, name): value for r in properties.roles(connection) for name, value in r.settings}

    for statement in _memberships(role, there, connection.info.server_version // 10000):
        yield alterations.tried(connection, f"a membership of role {role.name}", statement)
    yield from alterations.role_settings(connection, role.name, role.settings, stored)


def _memberships(role: Role, there: Container[str], major: int) -> Iterator[sql.Composed]:
    for membership in role.memberships:
        if membership.role in there or membership.role.startswith("pg_"):
            grant = sql.SQL("GRANT {} TO {}").format(
                sql.Identifier(membership.role), sql.Identifier(role.name)
            )
            yield grant + _options(membership, major)


def _options(membership: Membership, major: int) -> sql.SQL:
    if major < 16 or membership.inherit is None:
        return sql.SQL(" WITH ADMIN OPTION" if membership.admin else "")
    words = {"ADMIN": membership.admin, "INHERIT": membership.inherit, "SET": membership.set}
    return sql.SQL(
        " WITH " + ", ".join(f"{word} {'TRUE' if value else 'FALSE'}" for word, value in words.items())
    )
