"""The schema public, as the pg_dump that made a dump takes it for given: what it does not write it expects to be there.

Up to 14 it expects that everybody may create in it, from 15 on that nobody but the owner may (that is how servers of
these majors make it), and only from 15 on it writes who owns it, and what comment it has. That a database has no such
schema it never writes.
"""

from __future__ import annotations

import contextlib
from dataclasses import replace
from typing import TYPE_CHECKING

from psycopg import errors, sql

from polyladder_ops.postgres.inventory import CatalogObject, digest
from polyladder_ops.postgres.session import is_usable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.postgres.described import CatalogEntry
    from polyladder_ops.postgres.session import Connection

__all__ = ["carried", "expect", "lost"]

_CHANGED_IN = 15
_AS_MADE = CatalogObject("schema", "public", "", (), "comment: standard public schema")
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


def lost(entries: Iterable[CatalogEntry], *, client_major: int) -> tuple[str, ...]:
    """Return in a sentence what this client does not write of the schema public, if there is anything to write."""
    has_own = any(_is_public(entry) and entry.definition != digest(_AS_MADE) for entry in entries)
    if client_major >= _CHANGED_IN or not has_own:
        return ()
    return (f"the comment on the schema public is in no dump of pg_dump {client_major}",)


def carried(entries: Iterable[CatalogEntry], *, client_major: int) -> tuple[CatalogEntry, ...]:
    """Return the entries as far as a dump of this client says what they are."""
    says = client_major >= _CHANGED_IN
    return tuple(entry if says or not _is_public(entry) else replace(entry, exact="") for entry in entries)


def _is_public(entry: CatalogEntry) -> bool:
    return (entry.kind, entry.name) == ("schema", "public")


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
