"""What a database holds under the names of a dump, read back from the server.

Rows are read by COPY TO with the dump's own column lists under the dump's own settings, so that the text is the same
if the values are. Where the dump loads through a partition root, rows may come back from other leaves: there each row
counts by itself, in any order, and the leaves are read one by one (why not by a SELECT: see `copy_out`).
"""

from __future__ import annotations

import contextlib
import threading
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import xxhash
from psycopg import errors, pq, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import NOT_LOOKED_AT, Contents, LargeObject, RowDigest, TableData
from polyladder_ops.postgres.lexer import is_copy_target
from polyladder_ops.postgres.proof import copy_out, sequences
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
        for sequence in wanted.sequences:
            _check(sequence.name)
        values = tuple(sequences.read(connection, [s.name for s in wanted.sequences]))
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
        return replace(wanted, tables=tuple(tables), sequences=values, large_objects=tuple(large_objects))


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
    there = _relations(connections[0], [table.name for table in wanted], encoding)
    for connection in connections:
        # From here on rows come as in the dump, and SQL_ASCII (which no client can decode) as plain bytes.
        connection.execute(_ENCODE, [encoding])
    tables = _Tables(there, progress)
    tasks = [*beside, *tables.tasks([table for table in wanted if table.name in there])]
    tasks.sort(key=lambda task: task.size_bytes, reverse=True)
    Team(connections).share((task.read for task in tasks), here=meanwhile)
    return [tables.found[table.name] for table in wanted if table.name in there]


@dataclass(frozen=True)
class _Relation:
    """A table that is there.

    `leaves` hold the rows of a partitioned one, as SQL in the dump's encoding, but for those that the dump fills by their
    own names. `condition` says which rows pg_dump takes if an extension says so; `is_trusted` whether it can be run.
    """

    is_partitioned: bool = False
    leaves: tuple[bytes, ...] = ()
    condition: str = ""
    is_trusted: bool = True


# An extension's condition is its author's SQL, and pg_dump runs it too. It is run only where nobody but a superuser or
# ourselves can have made it mean something else: who owns the table can give it an index, who owns the extension its
# functions, and who owns the schema of a database that takes sessions can put another table in its place.
_RELATIONS = """
WITH trusted AS (
  SELECT r.oid FROM pg_catalog.pg_roles r CROSS JOIN pg_catalog.pg_database d LEFT JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
  WHERE d.datname = pg_catalog.current_database()
    AND (r.rolsuper OR r.rolname = current_user
         OR r.rolname = 'pg_database_owner' AND (o.rolsuper OR o.rolname = current_user))
), configuration AS (
  SELECT t.oid, t.condition, e.extowner FROM pg_catalog.pg_extension e,
         LATERAL ROWS FROM (pg_catalog.unnest(e.extconfig), pg_catalog.unnest(e.extcondition)) AS t (oid, condition)
), named AS (SELECT name, pg_catalog.to_regclass(name) AS oid FROM pg_catalog.unnest(%(names)s::text[]) AS name)
SELECT named.name, c.relkind = 'p', CASE WHEN c.relkind = 'p' THEN ARRAY(
         SELECT pg_catalog.convert_to(pg_catalog.format('%%I.%%I', s.nspname, l.relname), %(encoding)s)
         FROM pg_catalog.pg_partition_tree(c.oid) t JOIN pg_catalog.pg_class l ON l.oid = t.relid
         JOIN pg_catalog.pg_namespace s ON s.oid = l.relnamespace
         WHERE l.relkind = 'r' AND NOT EXISTS (SELECT FROM named o WHERE o.oid = l.oid)) END,
       coalesce(e.condition, ''),
       c.relowner IN (TABLE trusted) AND e.extowner IN (TABLE trusted)
       AND (n.nspowner IN (TABLE trusted) OR NOT d.datallowconn)
FROM named JOIN pg_catalog.pg_class c ON c.oid = named.oid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
LEFT JOIN configuration e ON e.oid = c.oid
WHERE c.relkind IN ('r', 'p')
"""


def _relations(connection: Connection, names: Sequence[str], encoding: str) -> dict[str, _Relation]:
    """Return for each name what is there; under the name of a table a view or foreign table is not it."""
    for name in names:
        _check(name)
    found = connection.execute(_RELATIONS, {"names": list(names), "encoding": encoding}).fetchall()
    return {
        name: _Relation(is_partitioned, tuple(leaves or ()), condition, bool(is_trusted))
        for name, is_partitioned, leaves, condition, is_trusted in found
    }


def _check(name: str, columns: str = "") -> sql.SQL:
    """Return a piece of SQL that a manifest spells. Raise OpsError if it is anything but a name and its columns."""
    if not is_copy_target(name, columns):
        raise OpsError("the manifest names something that is no table", detail=f"It says {name[:80]!a}.")
    return sql.SQL(name)


class _Tables:
    """Tables that are read back; `found` is filled by whoever does the tasks."""

    def __init__(self, there: Mapping[str, _Relation], progress: Callable[[int], None] | None) -> None:
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
        queries = [
            (digest, q)
            for table, digest in zip(portion, digests, strict=True)
            for q in self._queries(connection, table)
        ]
        for begin in range(0, len(queries), _TOGETHER):
            some = queries[begin : begin + _TOGETHER]
            for place, piece in copy_out.rows(connection, [query for _, query in some]):
                some[place][0].update(piece)
                if self._progress:
                    with self._telling:
                        self._progress(len(piece))
        for table, digest in zip(portion, digests, strict=True):
            read = replace(table, rows=digest.rows, size_bytes=digest.size_bytes, digest=digest.hexdigest())
            self.found[table.name] = self._judged(table, read)

    def _judged(self, wanted: TableData, read: TableData) -> TableData:
        """Return what was read; of a table that was read as a whole, though not all of it was dumped, only if it is equal."""
        relation = self._there[wanted.name]
        if relation.condition and not relation.is_trusted and read != wanted:
            return replace(wanted, rows=0, size_bytes=0, digest=NOT_LOOKED_AT)
        return read

    def _queries(self, connection: Connection, table: TableData) -> Iterator[bytes]:
        relation = self._there[table.name]
        encoding = connection.info.encoding
        name, columns = (
            piece.encode("utf-8" if encoding == "ascii" else encoding)
            for piece in (_check(table.name, table.columns).as_string(None), table.columns)
        )
        if relation.is_partitioned:
            yield from (b"COPY %b %b TO STDOUT" % (leaf, columns) for leaf in relation.leaves)
        elif relation.condition and relation.is_trusted:
            parts = (
                columns[1:-1],
                name,
                relation.condition.encode("utf-8" if encoding == "ascii" else encoding),
            )
            yield b"COPY (SELECT %b FROM ONLY %b %b) TO STDOUT" % parts
        else:
            yield b"COPY %b %b TO STDOUT" % (name, columns)


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
