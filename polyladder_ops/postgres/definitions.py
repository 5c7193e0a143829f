"""Which of a dump's definitions a table needs, found by the names that stand in them; pure.

A dump does not say what depends on what, but pg_dump qualifies every name outside the bodies of functions. So a
definition is needed if its name stands anywhere in one that is needed: in code, in a literal (``nextval('…')``) or in a
body, where a function may also stand without its schema. That is at times too much, which costs nothing: what is too
much comes without rows.
"""

from __future__ import annotations

import re
from collections import defaultdict
from typing import TYPE_CHECKING

from polyladder_ops.postgres.toc import QUALIFIED, root

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from polyladder_ops.postgres.toc import Entry

__all__ = ["Definitions"]

_WORD = re.compile(rb"[\w\x80-\xff]+")
_PIECE = re.compile(rb'"(?:[^"]|"")+"|[^".]+')
_SPELLED = re.compile(QUALIFIED)
_WITH_SCHEMA = re.compile(rb"\sWITH SCHEMA (%b)\Z" % QUALIFIED)
_INHERITS = re.compile(rb"\)\s*INHERITS \((.*)\)", re.DOTALL)
_PARTITIONED = re.compile(rb"\)\s*PARTITION BY [^;]*\Z")
_USING = re.compile(rb"\sUSING (%b)" % QUALIFIED)
_ROUTINES = {"FUNCTION", "PROCEDURE", "AGGREGATE"}
# What belongs to a table without being named by it, and to a type.
_OF_TABLES = {"DEFAULT", "SEQUENCE", "SEQUENCE OWNED BY"}
_OF_TYPES = {"CAST", "OPERATOR CLASS", "OPERATOR FAMILY", "TRANSFORM"}
_TYPES = {"TYPE", "DOMAIN", "SHELL TYPE"}
# Access methods that need no extension, and the extension that lends them operators for plain types, which nothing names.
_METHODS = {
    b"btree": b"",
    b"hash": b"",
    b"gist": b"btree_gist",
    b"gin": b"btree_gin",
    b"spgist": b"",
    b"brin": b"",
}


class Definitions:
    """The definitions of a dump, and what has been taken of them; each is given out once, in the dump's order."""

    def __init__(self, entries: Sequence[Entry], *, without: Collection[bytes] = ()) -> None:
        """`without` are the extensions that are not to be taken: the server has not got them."""
        self._entries = {entry.place: entry for entry in entries}
        self._taken: set[int] = set()
        self._makers: dict[bytes, list[Entry]] = defaultdict(list)
        self._schemas: dict[bytes, list[Entry]] = defaultdict(list)
        self._routines: dict[bytes, list[Entry]] = defaultdict(list)  # by name without schema
        self._by_word: dict[bytes, set[bytes]] = defaultdict(set)
        self._parts: dict[bytes, list[Entry]] = defaultdict(list)
        self._heirs: dict[bytes, bytes] | None = None
        self._extensions = [e for e in entries if e.kind == "EXTENSION" and not set(e.makes) & set(without)]
        for entry in entries:
            self._register(entry)

    def _register(self, entry: Entry) -> None:
        if entry.kind in (*_OF_TABLES, "TABLE ATTACH") and entry.table:
            self._parts[entry.table].append(entry)
        for name in entry.makes if entry.kind != "EXTENSION" else ():
            if entry.kind == "SCHEMA":
                self._schemas[name].append(entry)
                continue
            self._makers[name].append(entry)
            self._by_word[_key(name)].add(name)
            if entry.kind in _ROUTINES:
                self._routines[_pieces(name)[-1]].append(entry)

    def tables(self, is_wanted: Callable[[bytes], bool]) -> list[bytes]:
        """Return the tables that are wanted and all partitions of theirs, as the dump spells them."""
        leaves = defaultdict(list)
        for entry in self._of("TABLE ATTACH"):
            leaves[root(entry)].append(entry.table)
        found = [entry.table for entry in self._of("TABLE") if is_wanted(entry.table)]
        for name in found:  # it grows while we walk
            found += [leaf for leaf in leaves[name] if leaf not in found]
        return found

    def children(self, table: bytes) -> list[bytes]:
        """Return the tables that inherit from this one, partitions not among them."""
        if self._heirs is None:
            heirs = {e.table: _INHERITS.search(e.statements[0]) for e in self._of("TABLE")}
            self._heirs = {heir: found[1] for heir, found in heirs.items() if found}
        return [heir for heir, parents in self._heirs.items() if _stands_in(table, parents)]

    def root_of(self, table: bytes) -> bytes:
        """Return the partitioned table that a partition is attached to, empty if it is none."""
        return next(
            (root(entry) for entry in self._parts.get(table, ()) if entry.kind == "TABLE ATTACH"), b""
        )

    def is_partitioned(self, table: bytes) -> bool:
        """Whether a table has no rows of its own but partitions, perhaps none yet."""
        return any(
            _PARTITIONED.search(maker.statements[0])
            for maker in self._makers.get(table, ())
            if maker.kind == "TABLE"
        )

    def take(self, tables: Iterable[bytes]) -> list[Entry]:
        """Return the definitions of these tables and whatever they need that was not taken before."""
        return self._take(
            [maker for table in tables for maker in self._makers[table] if maker.kind == "TABLE"]
        )

    def need(self, entry: Entry) -> list[Entry]:
        """Return what this entry of the dump's later part needs that was not taken before."""
        return self._take(self._needs(entry))

    def is_taken(self, name: bytes) -> bool:
        """Whether what bears this name was taken."""
        return any(maker.place in self._taken for maker in self._makers.get(name, ()))

    def taken(self, *kinds: str) -> list[Entry]:
        """Return what was taken of these kinds."""
        return [entry for entry in self._of(*kinds) if entry.place in self._taken]

    def _of(self, *kinds: str) -> list[Entry]:
        return [entry for entry in self._entries.values() if entry.kind in kinds]

    def _take(self, first: Iterable[Entry]) -> list[Entry]:
        before = set(self._taken)
        queue = list(first)
        while queue:
            entry = queue.pop()
            if entry.place not in self._taken:
                self._taken.add(entry.place)
                queue += self._needs(entry)
            queue = queue or self._joining()
        return [self._entries[place] for place in sorted(self._taken - before)]

    def _joining(self) -> list[Entry]:
        """Return what was not asked for but belongs to what is there now: casts of types, partitions of their roots."""
        names = [name for entry in self.taken(*_TYPES) for name in entry.makes]
        joins = [e for e in self._of(*_OF_TYPES) if any(_stands_in(name, e.text) for name in names)]
        joins += [e for e in self._of("TABLE ATTACH") if self.is_taken(e.table) and self.is_taken(root(e))]
        return [entry for entry in joins if entry.place not in self._taken]

    def _needs(self, entry: Entry) -> list[Entry]:
        names = set(self._named(entry))
        needed = [maker for name in names for maker in self._makers[name]]
        needed += self._unqualified(entry) if entry.kind in _ROUTINES else []
        for name in (*entry.makes, *_WITH_SCHEMA.findall(entry.text)):
            needed += self._schemas.get(_pieces(name)[0], [])
        if entry.kind == "TABLE":
            needed += [part for part in self._parts[entry.table] if part.kind in _OF_TABLES]
        if entry.kind not in ("EXTENSION", "SCHEMA", "INDEX ATTACH"):
            needed += self._extensions_for(entry)
        return needed

    def _named(self, entry: Entry) -> Iterator[bytes]:
        """Yield the names of definitions that stand in an entry, in a literal with its quotes doubled or outside."""
        text = b"\n".join((*entry.settings, entry.text))  # an access method is named by a setting
        variants = {text, text.replace(b"''", b"'")}
        words = {b"", *(word for variant in variants for word in _WORD.findall(variant))}
        for word in words & self._by_word.keys():
            for name in self._by_word[word]:
                if any(_stands_in(name, variant) for variant in variants):
                    yield name

    def _unqualified(self, routine: Entry) -> list[Entry]:
        """Return the functions that the body of one may call without their schema."""
        words = set(_WORD.findall(routine.text))
        return [entry for name in words & self._routines.keys() for entry in self._routines[name]]

    def _extensions_for(self, entry: Entry) -> list[Entry]:
        """Return the extensions that this may use; what they bring is not in the dump, so it can only be guessed from below."""
        text = entry.text
        words = set(_WORD.findall(text))
        methods = set(_USING.findall(text)) if entry.kind in ("INDEX", "CONSTRAINT") else set()
        methods |= {b"gist"} if b" WITHOUT OVERLAPS)" in text else set()
        lenders = {_METHODS.get(method, b"") for method in methods}
        schemas = {_pieces(name)[0] for name in self._strange(entry)}
        return [
            e
            for e in self._extensions
            if methods - _METHODS.keys()
            or (words | lenders).intersection(e.makes)
            or schemas.intersection(_WITH_SCHEMA.findall(e.text))
        ]

    def _strange(self, entry: Entry) -> Iterator[bytes]:
        """Yield qualified names that the dump does not define: members of extensions, perhaps."""
        own = {*entry.makes, entry.table}
        for name in set(_SPELLED.findall(entry.text)):
            column_of = name.rpartition(b".")[0]
            known = name in self._makers or name in own or (b"." in column_of and column_of in self._makers)
            if b"." in name and not known:
                yield name


def _pieces(name: bytes) -> list[bytes]:
    """Return the parts of a spelled name; the last of an operator's is its sign."""
    return _PIECE.findall(name)


def _key(name: bytes) -> bytes:
    """Return a word that stands wherever the name does, empty if the name's last part has none (an operator)."""
    return max(_WORD.findall(_pieces(name)[-1]), key=len, default=b"")


def _alone(name: bytes) -> bytes:
    """Return a pattern for the name where it is not a piece of another one."""
    is_sign = not _WORD.match(name[-1:]) and not name.endswith(b'"')
    behind = rb"(?![-+*/<>=~!@#%^&|`?])" if is_sign else rb'(?![\w$\x80-\xff"])'
    return rb'(?<![\w$\x80-\xff".])' + re.escape(name) + behind


def _stands_in(name: bytes, text: bytes) -> bool:
    return name in text and re.search(_alone(name), text) is not None
