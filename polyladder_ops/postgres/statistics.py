"""The planner's statistics of a whole database, gathered by several connections; together they do what ANALYZE does."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops.postgres.team import Team

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["Table", "gather", "tables"]

_TOGETHER = 50
_WORTH_A_ROUND_TRIP = 1 << 20


@dataclass(frozen=True)
class Table:
    """One that ANALYZE looks at, with all its partitions; its name as SQL, in the bytes of the session."""

    name: bytes
    size_bytes: int


# As ANALYZE without a name chooses them, but that a partitioned one brings its partitions, however deep.
# What has foreign tables below it would have their servers asked, by us: of those only the plain partitions are looked at.
_TABLES = """
WITH RECURSIVE reaching (oid) AS (
    SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class f ON f.oid = i.inhrelid AND f.relkind = 'f'
    UNION SELECT i.inhparent FROM pg_catalog.pg_inherits i JOIN reaching ON reaching.oid = i.inhrelid
)
SELECT c.oid::regclass::text, pg_catalog.sum(pg_catalog.pg_relation_size(coalesce(p.relid, c.oid)))::int8 AS size
FROM pg_catalog.pg_class c
LEFT JOIN LATERAL (SELECT relid FROM pg_catalog.pg_partition_tree(c.oid) WHERE c.relkind = 'p') p ON true
WHERE c.relkind IN ('r', 'm', 'p') AND c.relpersistence <> 't' AND c.oid NOT IN (SELECT oid FROM reaching)
  AND (NOT c.relispartition OR c.relkind = 'r' AND pg_catalog.pg_partition_root(c.oid) IN (SELECT oid FROM reaching))
GROUP BY c.oid ORDER BY size DESC
"""


def tables(connection: Connection, *, views: bool | None = None) -> list[Table]:
    """Return what there is to analyze, the largest first; `views`: materialized views alone, or all but those."""
    _take_any_name(connection)
    kinds = {None: "'r', 'm', 'p'", True: "'m'", False: "'r', 'p'"}[views]
    found = connection.execute(_TABLES.replace("'r', 'm', 'p'", kinds).encode()).pgresult
    assert found is not None
    return [
        Table(found.get_value(row, 0) or b"", int(found.get_value(row, 1) or b"0"))
        for row in range(found.ntuples)
    ]


def _take_any_name(connection: Connection) -> None:
    """In SQL_ASCII a name can be bytes that are no text in any encoding; only a session that has none either takes them."""
    if connection.info.parameter_status("server_encoding") == "SQL_ASCII":
        connection.execute("SELECT pg_catalog.set_config('client_encoding', 'SQL_ASCII', false)")


def gather(connections: Sequence[Connection], tables: Sequence[Table]) -> None:
    """Analyze these tables. Raise psycopg.Error if the server refuses one or fails."""
    for connection in connections:
        _take_any_name(connection)
    statements = [b"ANALYZE " + b", ".join(names) for names in _portions(tables)]
    Team(connections).share(partial(_execute, statement=statement) for statement in statements)


def _execute(connection: Connection, statement: bytes) -> None:
    connection.execute(statement)


def _portions(tables: Sequence[Table]) -> Iterator[list[bytes]]:
    """Yield names: those of large tables alone, of small ones as many as are worth a round trip."""
    names, size = [], 0
    for table in tables:
        names.append(table.name)
        size += table.size_bytes
        if len(names) == _TOGETHER or size >= _WORTH_A_ROUND_TRIP:
            yield names
            names, size = [], 0
    if names:
        yield names
