"""What a database holds under the names of a dump, read back from the server.

Rows are read by COPY TO with the dump's own column lists under the dump's own settings, so that the text is the same
if the values are. Where the dump loads through a partition root, rows may come back from other leaves: there each row
counts by itself, in any order.
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import xxhash
from psycopg import errors, pq, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Contents, LargeObject, RowDigest, SequenceValue, TableData
from polyladder_ops.postgres.lexer import is_copy_target
from polyladder_ops.postgres.proof import copy_out
from polyladder_ops.postgres.session import Connection, translated
from polyladder_ops.postgres.team import Team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

__all__ = ["read_contents", "read_tables"]

_PIECE = 1 << 18
_TOGETHER = 50


def read_contents(
    connection: Connection,
    wanted: Contents,
    *,
    others: Sequence[Connection] = (),
    progress: Callable[[int], None] | None = None,
    meanwhile: Callable[[], object] | None = None,
) -> Contents:
    """Return what this database holds under the names of `wanted`: its tables, sequences and all large objects.

    `others` read beside the connection, under the same settings as it; `meanwhile` is called here while all of them read
    in threads. A table or sequence that is not there is left out, one that lacks a column has none. Raise OpsError if the
    server fails.
    """
    with translated("could not read the database back"):
        there = _relations(connection, [s.name for s in wanted.sequences])
        sequences = tuple(_sequences(connection, [s.name for s in wanted.sequences if s.name in there]))
        large_objects: list[LargeObject] = []
        size = sum(o.size_bytes for o in wanted.large_objects)
        beside = [_Task(size, lambda reader: large_objects.extend(_large_objects(reader)))]
        tables = _read_tables(
            [connection, *others],
            wanted.tables,
            wanted.encoding,
            progress=progress,
            beside=beside,
            meanwhile=meanwhile,
        )
        return replace(wanted, tables=tuple(tables), sequences=sequences, large_objects=tuple(large_objects))


def read_tables(connection: Connection, wanted: Sequence[TableData], encoding: str) -> list[TableData]:
    """Return what these tables hold, as far as they are there, in the text that the session writes in this encoding."""
    return _read_tables([connection], wanted, encoding)


@dataclass(frozen=True)
class _Task:
    """Something that any of the connections can read, and how much it is."""

    size_bytes: int
    read: Callable[[Connection], None]


_ENCODE = "SELECT pg_catalog.set_config('client_encoding', %s, false)"


def _read_tables(
    connections: Sequence[Connection],
    wanted: Sequence[TableData],
    encoding: str,
    *,
    progress: Callable[[int], None] | None = None,
    beside: Sequence[_Task] = (),
    meanwhile: Callable[[], object] | None = None,
) -> list[TableData]:
    """Return what these tables hold, a table read by one connection as a whole, the largest first."""
    connections[0].execute(_ENCODE, ["UTF8"])
    there = _relations(connections[0], [table.name for table in wanted])
    for connection in connections:
        # From here on rows come as in the dump, and SQL_ASCII (which no client can decode) as plain bytes.
        connection.execute(_ENCODE, [encoding])
    tables = _Tables(there, progress)
    tasks = [*beside, *tables.tasks([table for table in wanted if table.name in there])]
    tasks.sort(key=lambda task: task.size_bytes, reverse=True)
    Team(connections).share((task.read for task in tasks), here=meanwhile)
    return [tables.found[table.name] for table in wanted if table.name in there]


_RELATIONS = """
SELECT name, c.relkind::text, coalesce(e.condition, '')
FROM pg_catalog.unnest(%s::text[]) AS name
JOIN pg_catalog.pg_class c ON c.oid = pg_catalog.to_regclass(name)
LEFT JOIN (SELECT t.oid, t.condition FROM pg_catalog.pg_extension,
           LATERAL unnest(extconfig, extcondition) AS t (oid, condition)) e ON e.oid = c.oid
"""


def _relations(connection: Connection, names: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Return for each name that is there its kind, and which rows of it pg_dump takes if an extension says so."""
    for name in names:
        _check(name)
    return {
        name: (kind, rows) for name, kind, rows in connection.execute(_RELATIONS, [list(names)]).fetchall()
    }


def _check(name: str, columns: str = "") -> sql.SQL:
    """Return a piece of SQL that a manifest spells. Raise OpsError if it is anything but a name and its columns."""
    if not is_copy_target(name, columns):
        raise OpsError("the manifest names something that is no table", detail=f"It says {name[:80]!a}.")
    return sql.SQL(name)


class _Tables:
    """Tables that are read back; `found` is filled by whoever does the tasks."""

    def __init__(self, there: Mapping[str, tuple[str, str]], progress: Callable[[int], None] | None) -> None:
        self.found: dict[str, TableData] = {}
        self._there = there
        self._progress = progress
        self._telling = threading.Lock()

    def tasks(self, tables: Sequence[TableData]) -> Iterator[_Task]:
        """Yield what is to be done: large tables alone, small ones together as long as they are worth one round trip."""
        portion: list[TableData] = []
        huge = [table for table in tables if table.has_huge_rows]
        if huge:  # a connection keeps the room that its largest row took, so one has them all
            yield self._task(huge)
        others = [table for table in tables if not table.has_huge_rows]
        for table in sorted(others, key=lambda table: table.size_bytes, reverse=True):
            portion.append(table)
            if len(portion) == _TOGETHER or sum(t.size_bytes for t in portion) >= _PIECE:
                yield self._task(portion)
                portion = []
        if portion:
            yield self._task(portion)

    def _task(self, portion: Sequence[TableData]) -> _Task:
        return _Task(sum(t.size_bytes for t in portion), lambda reader: self._read(reader, portion))

    def _read(self, connection: Connection, portion: Sequence[TableData]) -> None:
        # In a transaction of the caller's this may fail alone.
        inside = connection.info.transaction_status == pq.TransactionStatus.INTRANS
        try:
            with connection.transaction() if inside else contextlib.nullcontext():
                self._copy(connection, portion)
        except errors.UndefinedColumn:
            if len(portion) > 1:
                for table in portion:
                    self._read(connection, [table])
            else:
                (table,) = portion
                self.found[table.name] = replace(table, columns="", rows=0, size_bytes=0, digest="")

    def _copy(self, connection: Connection, portion: Sequence[TableData]) -> None:
        digests = [RowDigest(order_free=table.order_free) for table in portion]
        for place, piece in copy_out.rows(connection, [self._query(connection, t) for t in portion]):
            digests[place].update(piece)
            if self._progress:
                with self._telling:
                    self._progress(len(piece))
        for table, digest in zip(portion, digests, strict=True):
            self.found[table.name] = replace(
                table, rows=digest.rows, size_bytes=digest.size_bytes, digest=digest.hexdigest()
            )

    def _query(self, connection: Connection, table: TableData) -> bytes:
        kind, condition = self._there[table.name]
        name = _check(table.name, table.columns)
        query = sql.SQL("COPY {} {} TO STDOUT").format(name, sql.SQL(table.columns))
        if kind == "p" or condition:
            # A partitioned table itself can't be copied before PostgreSQL 18; what is selected from it can.
            only = sql.SQL("" if kind == "p" else "ONLY")
            parts = sql.SQL(table.columns[1:-1]), only, name, sql.SQL(condition)
            query = sql.SQL("COPY (SELECT {} FROM {} {} {}) TO STDOUT").format(*parts)
        encoding = connection.info.encoding
        return query.as_string(None).encode("utf-8" if encoding == "ascii" else encoding)


def _sequences(connection: Connection, names: Sequence[str]) -> Iterable[SequenceValue]:
    for begin in range(0, len(names), _TOGETHER):
        some = names[begin : begin + _TOGETHER]
        each = [
            sql.SQL("SELECT {}::int4, last_value, is_called FROM {}").format(sql.Literal(place), _check(name))
            for place, name in enumerate(some)
        ]
        for place, value, called in connection.execute(
            sql.SQL(" UNION ALL ").join(each) + sql.SQL(" ORDER BY 1")
        ):
            yield SequenceValue(some[place], value, called)


def _large_objects(connection: Connection) -> Iterable[LargeObject]:
    """Read all large objects in pieces, many objects a round trip."""
    oids = [
        oid
        for (oid,) in connection.execute(
            "SELECT oid::int8 FROM pg_catalog.pg_largeobject_metadata ORDER BY 1"
        )
    ]
    for begin in range(0, len(oids), _TOGETHER):
        open_ones = {oid: xxhash.xxh3_128() for oid in oids[begin : begin + _TOGETHER]}
        digests, sizes, offset = dict(open_ones), dict.fromkeys(open_ones, 0), 0
        while open_ones:
            pieces = connection.execute(
                "SELECT o::int8, pg_catalog.lo_get(o::oid, %s, %s) FROM pg_catalog.unnest(%s::int8[]) AS o",
                [offset, _PIECE, list(open_ones)],
                binary=True,
            ).fetchall()
            for oid, piece in pieces:
                digests[oid].update(piece)
                sizes[oid] += len(piece)
                if len(piece) < _PIECE:
                    del open_ones[oid]
            offset += _PIECE
        yield from (LargeObject(oid, sizes[oid], digest.hexdigest()) for oid, digest in digests.items())
