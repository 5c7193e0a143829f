"""What a dump holds, counted and digested while its bytes pass by: rows of tables, sequence values, large objects.

Digests are 128-bit xxh3: they find accidents at the speed of memory. That nobody changed the file on purpose is what
its sha256 (and later a signature) is for.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import xxhash

from polyladder_ops.postgres.lexer import DumpError

__all__ = [
    "ALGORITHM",
    "Contents",
    "Ledger",
    "LargeObject",
    "RowDigest",
    "SequenceValue",
    "TableData",
    "decode",
]

ALGORITHM = "xxh3-128"
_ROOT = b"-- load via partition root "
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')*)', (-?\d+), (true|false)\)")
_LO_OPEN = re.compile(rb"SELECT pg_catalog\.lo_open\('(\d+)', \d+\)")
_LO_WRITE = re.compile(rb"SELECT pg_catalog\.lowrite\(0, '\\{1,2}x([0-9a-fA-F]*)'\)")
_CREATE = re.compile(rb'CREATE (?:UNLOGGED )?TABLE ((?:[^\s"(]|"(?:[^"]|"")+")+)')
_ENCODING = re.compile(rb"SET client_encoding = '([\w-]+)'")


@dataclass(frozen=True)
class TableData:
    """The rows of one table as COPY text.

    `digest` is `order_free` (a sum over rows) where a restore may put rows elsewhere: in other leaves of a partitioned
    table, or among the rows that an extension brought into a table of its own.
    """

    name: str
    columns: str
    rows: int
    size_bytes: int
    digest: str
    order_free: bool = False


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


class RowDigest:
    """Rows and digest of one table, from blocks of COPY text; order-free ones look at each row by itself."""

    def __init__(self, *, order_free: bool) -> None:
        self.order_free = order_free
        self.rows = self.size_bytes = self._sum = 0
        self._hash = xxhash.xxh3_128()
        self._rest = b""
        self._order: Sequence[int] | None = None

    def begin(self, order: Sequence[int] | None) -> None:
        """Start a run of rows whose columns must be put into this order first; None keeps them."""
        self._order = order

    def update(self, data: bytes) -> None:
        """Take the next bytes of rows; blocks may begin and end anywhere."""
        self.rows += data.count(b"\n")
        self.size_bytes += len(data)
        if not self.order_free:
            self._hash.update(data)
            return
        *lines, self._rest = (self._rest + data).split(b"\n")
        if order := self._order:
            lines = [
                b"\t".join([fields[i] for i in order]) for fields in (line.split(b"\t") for line in lines)
            ]
        self._sum += sum(map(xxhash.xxh3_128_intdigest, lines))

    def hexdigest(self) -> str:
        """Return 32 hexadecimal digits."""
        return f"{self._sum % (1 << 128):032x}" if self.order_free else self._hash.hexdigest()


def decode(name: bytes, encoding: str) -> str:
    """Return a name of the dump as text; bytes that the encoding does not know stay visible as escapes."""
    python = (
        re.sub(r"^WIN(\d+)$", r"cp\1", encoding.upper())
        .replace("SQL_ASCII", "ascii")
        .replace("KOI8", "koi8-")
    )
    python = re.sub(r"^LATIN(\d+)$", lambda m: _LATIN.get(m[1], f"latin{m[1]}"), python)
    try:
        codec = codecs.lookup(python).name
    except LookupError:
        codec = "ascii"
    return name.decode(codec, "backslashreplace")


# PostgreSQL counts its LATIN encodings as ISO 8859 does not (docs, 23.3.1).
_LATIN = {
    "5": "iso8859-9",
    "6": "iso8859-10",
    "7": "iso8859-13",
    "8": "iso8859-14",
    "9": "iso8859-15",
    "10": "iso8859-16",
}


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
    _current: RowDigest | None = None
    _open_object: int = 0
    _via_root: bool = False

    def comment(self, text: bytes) -> None:
        """Notice that the next COPY feeds a partition root, whose rows may come back from other leaves."""
        if text.startswith(_ROOT):
            self._via_root = True

    def statement(self, text: bytes) -> None:
        """Keep sequence values and large objects; everything else is the schema's matter."""
        self._via_root = False
        if created := _CREATE.match(text):
            self._created.add(created[1])
        if not text.startswith((b"SELECT pg_catalog.", b"SET client_encoding")):
            return
        if setval := _SETVAL.fullmatch(text):
            self._sequences[setval[1].replace(b"''", b"'")] = (int(setval[2]), setval[3] == b"true")
        elif opened := _LO_OPEN.fullmatch(text):
            self._open_object = int(opened[1])
            self._large_objects.setdefault(self._open_object, (0, xxhash.xxh3_128()))
        elif written := _LO_WRITE.fullmatch(text):
            self._large_object(bytes.fromhex(written[1].decode()))
        elif encoding := _ENCODING.fullmatch(text):
            self._encoding = encoding[1].decode()

    def _large_object(self, data: bytes) -> None:
        if not self._open_object:
            raise DumpError("the dump writes to a large object that it has not opened")
        size, digest = self._large_objects[self._open_object]
        digest.update(data)
        self._large_objects[self._open_object] = (size + len(data), digest)

    def is_empty_yet(self, table: bytes) -> bool:
        """Whether the next COPY brings the first rows of a table that the dump itself has made, and not by its root."""
        return table in self._created and table not in self._tables and not self._via_root

    def copy_begin(self, _statement: bytes, table: bytes, columns: bytes) -> None:
        """Start or go on with a table; leaves of one root are one table whatever order their columns have."""
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
    split = re.compile(rb'(?:[^,"]|"(?:[^"]|"")*")+')
    columns = {name.strip(): place for place, name in enumerate(split.findall(given[1:-1]))}
    try:
        return [columns[name.strip()] for name in split.findall(wanted[1:-1])]
    except KeyError:
        raise DumpError("the partitions of one table have different columns") from None
