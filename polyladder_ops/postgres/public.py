"""The schema public, as the pg_dump that made a dump takes it for given: what it does not write it expects to be there.

Up to 14 it expects that everybody may create in it, from 15 on that nobody but the owner may (that is how servers of
these majors make it), and only from 15 on it writes who owns it. That a database has no such schema it never writes.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import errors, sql

from polyladder_ops.postgres.session import is_usable

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["expect"]

_CHANGED_IN = 15
_LEFT_AS_IT_IS = (
    errors.InsufficientPrivilege,
    errors.UndefinedObject,
    errors.DependentObjectsStillExist,
    errors.InvalidSchemaName,
)


def expect(connection: Connection, *, client_major: int, owner: str | None) -> None:
    """Make an empty database's schema public what a client of this major expects; `owner` is the source's, None: it has none.

    Where there is none, our role may not, or the owner is missing, it stays as it is, and the proof tells.
    """
    statements = _statements(connection.info.server_version // 10000, client_major, owner)
    if statements and not _taken(connection, sql.SQL("; ").join(statements)) and len(statements) > 1:
        for statement in statements:
            _taken(connection, statement)


def _taken(connection: Connection, statements: sql.Composed | sql.SQL) -> bool:
    """Whether the server takes all of these; otherwise none. In one round trip unless in somebody's transaction."""
    alone = is_usable(connection)  # several statements in one message are a transaction of their own
    try:
        with contextlib.nullcontext() if alone else connection.transaction():
            connection.execute(statements)
    except _LEFT_AS_IT_IS:
        return False
    return True


def _statements(server_major: int, client_major: int, owner: str | None) -> list[sql.Composed | sql.SQL]:
    """Return what makes a new database's schema public what the client expects; nothing if it is that already."""
    if owner is None:
        return [sql.SQL("DROP SCHEMA public")]
    if client_major >= _CHANGED_IN:
        revoked = sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        return [revoked] if server_major < _CHANGED_IN else []
    owned = sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner))
    granted = sql.SQL("GRANT CREATE ON SCHEMA public TO PUBLIC")
    return [owned, granted] if server_major >= _CHANGED_IN else [owned]
