"""Picks from a dump that passes by what belongs to some of its tables, and says when nothing more can come.

pg_dump writes definitions, then rows and sequence values, then what stands on rows: constraints, indexes, statistics,
triggers, foreign keys. So definitions are kept until the first rows come, looked through for what the tables need, and
handed on in their order; of the rest each entry is decided on by itself. Rows of other tables go nowhere.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from polyladder_ops.postgres import toc
from polyladder_ops.postgres.contents import decode
from polyladder_ops.postgres.definitions import Definitions
from polyladder_ops.postgres.lexer import Handler
from polyladder_ops.postgres.toc import Entry, Heading

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

__all__ = ["Enough", "Picker", "Receiver"]

# Kinds behind the definitions, in pg_dump's order; those from `_LAST` on hold nothing of ours.
_BEHIND = {
    "TABLE DATA",
    "SEQUENCE SET",
    "BLOBS",
    "BLOB METADATA",
    "BLOB COMMENTS",
    "STATISTICS DATA",
    "CONSTRAINT",
}
_BEHIND |= {"CHECK CONSTRAINT", "INDEX", "INDEX ATTACH", "STATISTICS", "RULE", "TRIGGER", "FK CONSTRAINT"}
_LAST = {
    "POLICY",
    "ROW SECURITY",
    "PUBLICATION",
    "PUBLICATION TABLE",
    "PUBLICATION TABLES IN SCHEMA",
    "SUBSCRIPTION",
}
_LAST |= {
    "SUBSCRIPTION TABLE",
    "EVENT TRIGGER",
    "MATERIALIZED VIEW DATA",
    "ACL",
    "ACL LANGUAGE",
    "DEFAULT ACL",
}
_ON_ROWS = {"CONSTRAINT", "CHECK CONSTRAINT", "INDEX", "STATISTICS"}
_VIA_ROOT = b"-- load via partition root "
_TABLESPACE = b"SET default_tablespace"
_SETTING = re.compile(rb"SET (\w+) = ")


class Enough(Exception):  # noqa: N818 - good news
    """Everything that was wanted has passed; nothing of it can come any more."""


class Receiver(Handler, Protocol):
    """Receives what was picked: entries whole, the dump's first statements and rows as from the lexer."""

    def entry(self, entry: Entry, /) -> None:
        """One entry, its settings not yet told."""


class Picker:
    """The handler that hands on what some tables need; raise Enough from `comment` as soon as it has all.

    `tables` are the extracted tables, as soon as they are known, the partitions of roots among them; `left_out` are
    sentences on foreign keys that lead out of them, `foreign_keys_left` their names as the inventory has them.
    """

    def __init__(
        self,
        receiver: Receiver,
        is_wanted: Callable[[tuple[str, ...]], bool],
        *,
        encoding: str,
        without: Collection[str] = (),
        decided: Callable[[Picker], None] = lambda _picker: None,
    ) -> None:
        """`without` are extensions to leave out; `decided` is called when the tables are known, before anything is handed on."""
        self.tables: list[bytes] = []
        self._wanted: frozenset[bytes] = frozenset()
        self.left_out: list[str] = []
        self.foreign_keys_left: list[str] = []
        self.definitions = Definitions(())
        self._receiver = receiver
        self._is_wanted = is_wanted
        self._encoding = encoding
        self._without = {name.encode() for name in without} | {b'"%b"' % name.encode() for name in without}
        self._decided = decided
        self._before: list[Entry] | None = []
        self._comments: dict[int, int] = {}  # the place of each COMMENT, and of what it speaks of
        self._place = self._subject = 0
        self._heading: Heading | None = None
        self._statements: list[bytes] = []
        self._settings: dict[
            bytes, bytes
        ] = {}  # as the last statements have them: they precede the next heading
        self._at_heading: tuple[bytes, ...] = ()
        self._indexes: set[tuple[bytes, ...]] = set()
        self._handed: set[int] = set()
        self._root_comment = b""
        self._copying = False

    def has(self, table: bytes) -> bool:
        """Whether this is one of the extracted tables."""
        return table in self._wanted

    # What the lexer tells -----------------------------------------------------------------------------------------

    def comment(self, text: bytes) -> None:
        """Begin an entry, if the comment is its heading."""
        if text.startswith(_VIA_ROOT):
            self._root_comment = text
        elif heading := toc.heading(text):
            self._end_entry()
            self._heading, self._at_heading = heading, tuple(self._settings.values())
            if heading.kind in _BEHIND | _LAST:
                self._decide()
            if heading.kind in _LAST:
                raise Enough

    def statement(self, text: bytes) -> None:
        """Keep the statement until its entry is whole."""
        self._root_comment = b""
        if self._heading is None:
            self._receiver.statement(text)
        elif setting := _SETTING.match(text):
            if not text.startswith(_TABLESPACE):
                self._settings[setting[1]] = text
        elif not self._heading.kind.startswith("BLOB") and not toc.is_owner(text):
            self._statements.append(text)

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Hand on the rows of the wanted tables."""
        self._copying = table in self._wanted
        if self._copying:
            if self._root_comment:
                self._receiver.comment(self._root_comment)
            self._receiver.copy_begin(statement, table, columns)
        self._root_comment = b""

    def copy_data(self, data: bytes) -> None:
        """Hand on rows, or nothing."""
        if self._copying:
            self._receiver.copy_data(data)

    def copy_end(self) -> None:
        """End them."""
        if self._copying:
            self._receiver.copy_end()

    def close(self) -> None:
        """Say that the dump has ended, for one that holds nothing behind what was wanted."""
        self._end_entry()
        self._decide()

    # Decisions ----------------------------------------------------------------------------------------------------

    def _end_entry(self) -> None:
        if self._heading is None:
            return
        self._place += 1
        entry = Entry(self._place, self._heading, tuple(self._statements), self._at_heading)
        self._heading, self._statements = None, []
        if entry.kind in ("COMMENT", "SECURITY LABEL"):
            self._comments[entry.place] = self._subject
        else:
            self._subject = entry.place
        if self._before is not None:
            self._before.append(entry)
        elif self._belongs(entry):
            for needed in self.definitions.need(entry) if entry.kind in _ON_ROWS else ():
                self._hand_on(needed)
            self._hand_on(entry)

    def _decide(self) -> None:
        """Find what the wanted tables need among all definitions, and hand it on."""
        if self._before is None:
            return
        before, self._before = self._before, None
        self.definitions = Definitions(before, without=self._without)
        self.tables = self.definitions.tables(lambda name: self._is_wanted(toc.parts(name, self._encoding)))
        self._wanted = frozenset(self.tables)
        self._decided(self)
        needed = {entry.place for entry in self.definitions.take(self.tables)}
        for entry in before:
            if entry.place in needed or (entry.kind == "COMMENT" and self._comments[entry.place] in needed):
                self._hand_on(entry)

    def _hand_on(self, entry: Entry) -> None:
        self._handed.add(entry.place)
        if entry.index:
            self._indexes.add(entry.index)
        self._receiver.entry(entry)

    def _belongs(self, entry: Entry) -> bool:
        """Whether an entry behind the definitions is one of the wanted tables'."""
        kind, is_ours = entry.kind, entry.table in self._wanted
        if kind == "COMMENT":
            index = toc.index_of(entry)
            return index in self._indexes if index else self._comments[entry.place] in self._handed
        if kind == "INDEX ATTACH":
            return set(toc.attached(entry)) <= self._indexes
        if kind == "FK CONSTRAINT":
            return is_ours and self._keeps(entry)
        is_part = self.definitions.is_taken(toc.sequence_set(entry)) or self.definitions.is_taken(
            toc.domain(entry)
        )
        return is_part or (is_ours and kind in _ON_ROWS)

    def _keeps(self, foreign_key: Entry) -> bool:
        """Whether the table that it refers to is there too; if not, it is noted as left out."""
        other = toc.referenced(foreign_key)
        if other in self._wanted:
            return True
        name, table = (decode(n, self._encoding) for n in (toc.constraint(foreign_key), foreign_key.table))
        self.foreign_keys_left.append(f"{name} on {table}")
        self.left_out.append(
            f"foreign key {name} on {table}, which refers to {decode(other, self._encoding)}"
        )
        return False
