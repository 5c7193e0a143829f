"""The schema public, as the pg_dump that made a dump takes it for given: what it does not write it expects to be there.

Up to 14 it expects that everybody may create in it, from 15 on that nobody but the owner may (that is how servers of
these majors make it), and only from 15 on it writes who owns it. That a database has no such schema it never writes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import errors, sql

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["expect"]

_CHANGED_IN = 15


def expect(connection: Connection, *, client_major: int, owner: str | None) -> None:
    """Make an empty database's schema public what a client of this major expects; `owner` is the source's, None: it has none.

    Where our role may not, or the owner is missing, it stays as it is, and the proof tells.
    """
    if connection.execute("SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'public'").fetchone() is None:
        return
    for statement in _statements(connection.info.server_version // 10000, client_major, owner):
        try:
            with connection.transaction():
                connection.execute(statement)
        except (errors.InsufficientPrivilege, errors.UndefinedObject, errors.DependentObjectsStillExist):
            continue


def _statements(server_major: int, client_major: int, owner: str | None) -> list[sql.Composed | sql.SQL]:
    if owner is None:
        return [sql.SQL("DROP SCHEMA public")]
    if client_major >= _CHANGED_IN:
        revoked = sql.SQL("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
        return [revoked] if server_major < _CHANGED_IN else []
    owned = sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(owner))
    granted = sql.SQL("GRANT CREATE ON SCHEMA public TO PUBLIC")
    return [owned, granted] if server_major >= _CHANGED_IN else [owned]
