"""Where sequences stand, read without a SELECT that could meet anything but a sequence."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import pq, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import SequenceValue

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["read"]

_TOGETHER = 50
_BY_OID = """
SELECT name, d.last_value, d.is_called
FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS n (name, place)
JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name) AND c.relkind = 'S'
CROSS JOIN LATERAL pg_catalog.pg_get_sequence_data(c.oid) d ORDER BY n.place
"""
_THERE = """
SELECT name, c.oid::int8
FROM pg_catalog.unnest(%s::text[]) WITH ORDINALITY AS n (name, place)
JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name) AND c.relkind = 'S' ORDER BY n.place
"""


def read(connection: Connection, names: Sequence[str]) -> Iterator[SequenceValue]:
    """Yield where the sequences of these names, spelled as SQL, stand; what is not there or is no sequence is left out.

    Raise OpsError if this role may not read one, psycopg.Error if the server fails or one is replaced meanwhile.
    """
    if connection.info.server_version >= 180000:
        for name, value, called in connection.execute(_BY_OID, [list(names)]).fetchall():
            if value is None:
                raise OpsError(f"permission denied for sequence {name}", hint="Grant SELECT on it.")
            yield SequenceValue(name, value, called)
        return
    inside = connection.info.transaction_status == pq.TransactionStatus.INTRANS
    there = connection.execute(_THERE, [list(names)]).fetchall()
    fences = list(_fences(connection, alone=not inside)) if there else []
    # What is set and locked ends with the statements; in a transaction of the caller's, with a savepoint.
    with connection.transaction(force_rollback=True) if inside else contextlib.nullcontext():
        for begin in range(0, len(there), _TOGETHER):
            yield from _by_name(connection, there[begin : begin + _TOGETHER], fences)


def _by_name(
    connection: Connection, there: Sequence[tuple[str, int]], fences: Sequence[sql.SQL]
) -> list[SequenceValue]:
    """Return where they stand, by a SELECT in whose place nothing can be put.

    All statements are one message and one transaction, so that nothing is held if we fall silent. A view or a foreign
    table is refused by the server where it can be told so; a plain table with an index would do as well, since to plan
    the SELECT calls the index's functions. So the sequences are locked first: to ask for a value by oid locks against
    DROP and RENAME until the end (tried on 13 to 17). ALTER SCHEMA RENAME looks at no such lock, only at that on the
    catalog, which is a superuser's to take; it is he who has something to lose. In a caller's transaction it would be
    held too long.
    """
    oids, names = [oid for _, oid in there], [name for name, _ in there]
    statements = [
        *fences,
        sql.SQL(
            "SELECT pg_catalog.count(pg_catalog.pg_sequence_last_value(s)) FROM pg_catalog.unnest({}::oid[]) AS s"
        ).format(sql.Literal(oids)),
        sql.SQL(
            "SELECT CAST(CASE WHEN pg_catalog.count(*) = {} THEN '1' ELSE 'a sequence was replaced' END AS int4)"
            " FROM ROWS FROM (pg_catalog.unnest({}::oid[]), pg_catalog.unnest({}::text[])) AS s (oid, name)"
            " WHERE pg_catalog.to_regclass(s.name) = s.oid"
        ).format(sql.Literal(len(oids)), sql.Literal(oids), sql.Literal(names)),
        sql.SQL(" UNION ALL ").join(
            sql.SQL("SELECT {}::int4 AS place, last_value, is_called FROM {}").format(place, sql.SQL(name))
            for place, name in enumerate(names)
        )
        + sql.SQL(" ORDER BY 1"),
    ]
    cursor = connection.execute(sql.SQL(";\n").join(statements))
    while cursor.nextset():
        pass
    return [SequenceValue(names[place], value, called) for place, value, called in cursor.fetchall()]


def _fences(connection: Connection, *, alone: bool) -> Iterator[sql.SQL]:
    """Yield what keeps anything else from being read, as far as this server and role have it."""
    found = connection.execute(
        "SELECT pg_catalog.current_setting('restrict_nonsystem_relation_kind', true) IS NOT NULL"
    ).fetchone()
    if found == (True,):
        yield sql.SQL("SET LOCAL restrict_nonsystem_relation_kind = 'view, foreign-table'")
    if alone and connection.info.parameter_status("is_superuser") == "on":
        yield sql.SQL("SET LOCAL lock_timeout = '500ms'")
        yield sql.SQL("LOCK TABLE pg_catalog.pg_namespace IN SHARE MODE")
