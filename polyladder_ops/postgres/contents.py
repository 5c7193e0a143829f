"""What a dump holds, counted and digested while its bytes pass by: rows of tables, sequence values, large objects.

Digests are 128-bit xxh3: they find accidents at the speed of memory. That nobody changed the file on purpose is what
its sha256 (and later a signature) is for.
"""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import xxhash

from polyladder_ops.postgres.lexer import DumpError, setting_of

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "ALGORITHM",
    "NOT_LOOKED_AT",
    "Contents",
    "LargeObject",
    "Ledger",
    "RowDigest",
    "SequenceValue",
    "TableData",
    "decode",
]

ALGORITHM = "xxh3-128"
NOT_LOOKED_AT = (
    "not looked at"  # as the digest of rows that could not be read without running somebody else's code
)
_ROOT = b"-- load via partition root "
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')*)', (-?\d+), (true|false)\)")
_LO_OPEN = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', \d+\)")
_LO_WRITE = re.compile(rb"SELECT pg_catalog\.lowrite\(0, '\\{1,2}x((?:[0-9a-fA-F]{2})*)'\)")
_CREATE = re.compile(rb'CREATE (?:UNLOGGED )?TABLE ((?:[^\s"(]|"(?:[^"]|"")+")+)')
_INSERT = re.compile(rb'INSERT INTO ((?:[^\s"(]|"(?:[^"]|"")+")+)')
_COLUMN = re.compile(rb'[^,"\s]+|"(?:[^"]|"")*"')
_LO_CLOSE = b"SELECT pg_catalog.lo_close(0)"
# Clients before 10.3 write names without their schema, and say once for many which it is.
_SEARCH_PATH = re.compile(rb'SET search_path = ((?:[^\s",]|"(?:[^"]|"")+")+), pg_catalog')
_BARE_NAME = re.compile(rb'[^".]+|"(?:[^"]|"")+"')
_HUGE = 1 << 20  # bytes of one row; no block is longer


@dataclass(frozen=True)
class TableData:
    """The rows of one table as COPY text.

    `digest` is `order_free` (a sum over rows) where a restore may put rows elsewhere: in other leaves of a partitioned
    table, or among the rows that an extension brought into a table of its own. `has_huge_rows` only tells a reader what
    memory one of them will take; who does not know says yes.
    """

    name: str
    columns: str
    rows: int
    size_bytes: int
    digest: str
    order_free: bool = False
    has_huge_rows: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class SequenceValue:
    """Where a sequence stands; `called` as in setval's third argument."""

    name: str
    value: int
    called: bool


@dataclass(frozen=True)
class LargeObject:
    """One large object's bytes."""

    oid: int
    size_bytes: int
    digest: str


@dataclass(frozen=True)
class Contents:
    """Everything a dump loads, by name as the dump spells it."""

    encoding: str = "UTF8"
    tables: tuple[TableData, ...] = ()
    sequences: tuple[SequenceValue, ...] = ()
    large_objects: tuple[LargeObject, ...] = ()

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(table.rows for table in self.tables)

    @property
    def size_bytes(self) -> int:
        """Bytes of all rows as COPY writes them, and of all large objects."""
        return sum(table.size_bytes for table in self.tables) + sum(o.size_bytes for o in self.large_objects)


class RowDigest:
    """Rows and digest of one table, from blocks of COPY text; order-free ones look at each row by itself."""

    def __init__(self, *, order_free: bool) -> None:
        self.order_free = order_free
        self.rows = self.size_bytes = self._sum = 0
        self.has_huge_rows = False
        self._begun = 0  # bytes of a row that goes on
        self._hash = xxhash.xxh3_128()
        self._row = xxhash.xxh3_128()  # of a row that goes on, digested as it comes: rows can be huge
        self._pieces: list[bytes] = []  # of a row that goes on and must be put into another order first
        self._order: Sequence[int] | None = None

    def begin(self, order: Sequence[int] | None) -> None:
        """Start a run of rows whose columns must be put into this order first; None keeps them."""
        self._order = order

    def update(self, data: bytes) -> None:
        """Take the next bytes of rows; blocks may begin and end anywhere."""
        self.rows += data.count(b"\n")
        self.size_bytes += len(data)
        self._measure(data)
        if not self.order_free:
            self._hash.update(data)
        elif self._order is None:
            self._add(data)
        else:
            self._add_reordered(data, self._order)

    def _measure(self, data: bytes) -> None:
        """Notice a huge row by the newlines that are next to the ends of blocks."""
        first = data.find(b"\n")
        self._begun += len(data) if first < 0 else first
        self.has_huge_rows |= self._begun >= _HUGE
        if first >= 0:
            self._begun = len(data) - data.rfind(b"\n") - 1

    def _add(self, data: bytes) -> None:
        first, ended, rest = data.partition(b"\n")
        self._row.update(first)
        if not ended:
            return
        *rows, begun = rest.split(b"\n")
        self._sum += self._row.intdigest() + sum(map(xxhash.xxh3_128_intdigest, rows))
        self._row = xxhash.xxh3_128(begun)

    def _add_reordered(self, data: bytes, order: Sequence[int]) -> None:
        self._pieces.append(data)
        if b"\n" in data:
            *rows, begun = b"".join(self._pieces).split(b"\n")
            self._pieces = [begun]
            self._sum += sum(xxhash.xxh3_128_intdigest(_reordered(row, order)) for row in rows)

    def hexdigest(self) -> str:
        """Return 32 hexadecimal digits."""
        return f"{self._sum % (1 << 128):032x}" if self.order_free else self._hash.hexdigest()


def _reordered(row: bytes, order: Sequence[int]) -> bytes:
    fields = row.split(b"\t")
    if len(fields) != len(order):
        raise DumpError("the dump holds a row with more or fewer columns than its table")
    return b"\t".join([fields[place] for place in order])


def decode(name: bytes, encoding: str) -> str:
    """Return a name of the dump as text; bytes that the encoding does not know stay visible as escapes."""
    python = re.sub(r"^WIN(\d+)$", r"cp\1", encoding.upper()).replace("KOI8", "koi8-")
    try:
        codec = codecs.lookup(python).name
    except (
        LookupError
    ):  # EUC_TW and MULE_INTERNAL, which only PostgreSQL knows; SQL_ASCII is anything, UTF-8 at best
        codec = "utf-8" if encoding.upper() == "SQL_ASCII" else "ascii"
    return name.decode(codec, "backslashreplace")


@dataclass
class _Table:
    columns: bytes
    data: RowDigest


@dataclass
class Ledger:
    """The handler that takes the dump's inventory; `contents` is what has passed so far."""

    _encoding: str = "UTF8"
    _tables: dict[bytes, _Table] = field(default_factory=dict)
    _sequences: dict[bytes, tuple[int, bool]] = field(default_factory=dict)
    _large_objects: dict[int, tuple[int, xxhash.xxh3_128]] = field(default_factory=dict)
    _created: set[bytes] = field(default_factory=set)
    _inserted: set[bytes] = field(default_factory=set)
    _current: RowDigest | None = None
    _open_object: int = 0  # 0 is no large object's number
    _schema: bytes = b""  # of names without one
    _backslashes_are_doubled: bool = False
    _via_root: bool = False

    def comment(self, text: bytes) -> None:
        """Notice that the next COPY feeds a partition root, whose rows may come back from other leaves."""
        if text.startswith(_ROOT):
            self._via_root = True

    def statement(self, text: bytes) -> None:
        """Keep sequence values and large objects; everything else is the schema's matter."""
        self._via_root = False
        # Rows that come to a partitioned table by its own name end in leaves; not every client says so in a comment.
        if (created := _CREATE.match(text)) and b"\n)\nPARTITION BY " not in text:
            self._created.add(self.qualified(created[1]))
        if text.startswith(b"SET "):
            self._setting(text)
        elif text.startswith(b"SELECT pg_catalog."):
            self._call(text)
        elif inserted := _INSERT.match(text):
            self._inserted.add(self.qualified(inserted[1]))

    def qualified(self, name: bytes) -> bytes:
        """Return a name as the dump spells it, with the schema that it means here if it has none."""
        bare = self._schema and _BARE_NAME.fullmatch(name)
        return self._schema + b"." + name if bare else name

    def _setting(self, text: bytes) -> None:
        if path := _SEARCH_PATH.fullmatch(text):
            self._schema = path[1]
        name, value = setting_of(text) or (b"", b"")
        if name == b"client_encoding":
            self._encoding = value.decode().upper()
        elif name == b"standard_conforming_strings":
            self._backslashes_are_doubled = value == b"off"

    def _call(self, text: bytes) -> None:
        if setval := _SETVAL.fullmatch(text):
            name = setval[1].replace(b"''", b"'")
            if self._backslashes_are_doubled:
                name = name.replace(rb"\\", b"\\")
            self._sequences[self.qualified(name)] = (int(setval[2]), setval[3] == b"true")
        elif opened := _LO_OPEN.fullmatch(text):
            self._open(int(opened[1]))
        elif written := _LO_WRITE.fullmatch(text):
            self._write(bytes.fromhex(written[1].decode()))
        elif text == _LO_CLOSE:
            self._open_object = 0

    def _open(self, oid: int) -> None:
        if oid in self._large_objects:  # the second time would overwrite the first
            raise DumpError(f"the dump fills large object {oid} twice")
        self._open_object = oid
        self._large_objects[oid] = (0, xxhash.xxh3_128())

    def _write(self, data: bytes) -> None:
        if not self._open_object:
            raise DumpError("the dump writes to a large object that it has not opened")
        size, digest = self._large_objects[self._open_object]
        digest.update(data)
        self._large_objects[self._open_object] = (size + len(data), digest)

    def is_empty_yet(self, table: bytes) -> bool:
        """Whether the next COPY brings the first rows of a table that the dump itself has made, and not by its root."""
        name = self.qualified(table)
        has_rows = name in self._tables or name in self._inserted
        return name in self._created and not has_rows and not self._via_root

    def copy_begin(self, _statement: bytes, table: bytes, columns: bytes) -> None:
        """Start or go on with a table; leaves of one root are one table whatever order their columns have."""
        table = self.qualified(table)
        order_free = self._via_root or table not in self._created
        entry = self._tables.setdefault(table, _Table(columns, RowDigest(order_free=order_free)))
        order = None
        if entry.columns != columns or entry.data.order_free != order_free:
            if not (order_free and entry.data.order_free):
                raise DumpError(f"the dump fills {decode(table, self._encoding)} twice, in different ways")
            order = _order(entry.columns, columns)
        entry.data.begin(order)
        self._current, self._via_root = entry.data, False

    def copy_data(self, data: bytes) -> None:
        """Count and digest rows."""
        assert self._current is not None
        self._current.update(data)

    def copy_end(self) -> None:
        """Close the table's rows."""
        self._current = None

    @property
    def contents(self) -> Contents:
        """What has passed so far, in the dump's order."""
        return Contents(
            self._encoding,
            tuple(
                TableData(
                    decode(name, self._encoding),
                    decode(table.columns, self._encoding),
                    table.data.rows,
                    table.data.size_bytes,
                    table.data.hexdigest(),
                    table.data.order_free,
                    table.data.has_huge_rows,
                )
                for name, table in self._tables.items()
            ),
            tuple(SequenceValue(decode(n, self._encoding), v, c) for n, (v, c) in self._sequences.items()),
            tuple(
                LargeObject(oid, size, d.hexdigest())
                for oid, (size, d) in sorted(self._large_objects.items())
            ),
        )


def _order(wanted: bytes, given: bytes) -> list[int]:
    """Return for each wanted column its place among the given ones. Raise DumpError if they are not the same set."""
    names = [_COLUMN.findall(columns[1:-1]) for columns in (wanted, given)]
    if sorted(names[0]) != sorted(names[1]):
        raise DumpError("the partitions of one table have different columns")
    return [names[1].index(name) for name in names[0]]
