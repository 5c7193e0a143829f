"""The time zone in which somebody's pg_dump wrote times: it takes the database's own and does not say which.

Our own dumps are in UTC. Times are written with their offset, so two texts that are equal in any zone are equal times:
rows that read back as the file has them under one zone of the server are proved.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from polyladder_ops.postgres.proof import read_back
from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.contents import Contents, TableData
    from polyladder_ops.postgres.session import Connection

__all__ = ["read_again"]

# The zone of the database or server first; UTC was read already. Of a table that is not small no more are tried.
_TEXT = "SELECT pg_catalog.set_config('client_encoding', 'UTF8', false)"
_LIKELY = "SELECT reset_val FROM pg_catalog.pg_settings WHERE name = 'TimeZone'"
_ALL = "SELECT name FROM pg_catalog.pg_timezone_names WHERE name !~ '^(posix|right)/' ORDER BY name"
_SMALL_BYTES = 1 << 22
_PROBES = 3


def read_again(connection: Connection, wanted: Contents, found: Contents) -> Contents:
    """Return `found`, with the tables that read otherwise as the zone of the dump shows them, if there is such a zone.

    Raise OpsError if the server fails.
    """
    there = {table.name: table for table in found.tables}
    other = [table for table in wanted.tables if _may_be_equal(table, there.get(table.name))]
    with translated("could not read the database back"):
        other.sort(key=lambda table: table.size_bytes)
        equal = {table.name: table for table in _equal(connection, other, wanted.encoding)}
    return replace(found, tables=tuple(equal.get(table.name, table) for table in found.tables))


def _may_be_equal(wanted: TableData, found: TableData | None) -> bool:
    return (
        found is not None and wanted != found and (wanted.columns, wanted.rows) == (found.columns, found.rows)
    )


def _equal(connection: Connection, tables: Sequence[TableData], encoding: str) -> Iterator[TableData]:
    """Yield those of the tables, smallest first, that read as they are wanted in one of the server's zones."""
    left = list(tables)
    for zone, is_likely in _zones(connection) if left else ():
        probes = (
            left if is_likely else [table for table in left[:_PROBES] if table.size_bytes <= _SMALL_BYTES]
        )
        if not probes:
            return
        connection.execute("SELECT pg_catalog.set_config('TimeZone', %s, false)", [zone])
        same = set(probes) & set(read_back.read_tables(connection, probes, encoding))
        if same and not is_likely:
            same |= set(left[_PROBES:]) & set(read_back.read_tables(connection, left[_PROBES:], encoding))
        yield from same
        left = [table for table in left if table not in same]


def _zones(connection: Connection) -> Iterator[tuple[str, bool]]:
    for query, is_likely in ((_LIKELY, True), (_ALL, False)):
        connection.execute(_TEXT)
        yield from ((zone, is_likely) for (zone,) in connection.execute(query).fetchall())
