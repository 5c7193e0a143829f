r"""Which tables' rows are judged, while they come, by somebody's own code that may read other tables.

A CHECK, a generated column or the bounds of a partition can call a function; whatever it claims to be, it may look into
another table, and then its rows must come when that one's are in, as they do with psql. Only functions that the dump
itself makes are asked: an extension's are C code, which does not. A function is harmless if nothing in its text, nor in
what it calls, can read a table. What is not understood counts as judged: that costs speed, not rows.
"""

from __future__ import annotations

import re
from collections import defaultdict

__all__ = ["Judges"]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_QUALIFIED = rb"(?:%b\.)?%b" % (_NAME, _NAME)
_CODE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|AGGREGATE) (%b)" % _QUALIFIED)
_TYPE = re.compile(rb"(?:CREATE (?:DOMAIN|TYPE)|ALTER DOMAIN) (%b)" % _QUALIFIED)
_TABLE = re.compile(rb"(?:CREATE (?:UNLOGGED |FOREIGN )?TABLE|ALTER TABLE(?: ONLY)?) (%b)" % _QUALIFIED)
# Clients before 10.3 write bare names; then nobody can tell whose function is called.
_BARE_NAMES = re.compile(rb"SET search_path = (?!''|\"\"|pg_catalog\Z)")
# Whatever reads a table in SQL or PL/pgSQL has one of these words, or finds others by bare names; no other language is read.
_READS = re.compile(rb"\b(?:FROM|TABLE|EXECUTE|PERFORM|JOIN|INTO|USING|CALL|search_path)\b", re.IGNORECASE)
_READABLE = re.compile(rb"\bLANGUAGE (?:sql|plpgsql)\b")
# Under the empty search_path of a dump only the system's own functions have bare names.
_CALL = re.compile(rb"(%b\.%b)\s?\(" % (_NAME, _NAME))
_OPERATOR = re.compile(rb"\bOPERATOR\((?!pg_catalog\.)")
_RANGE = re.compile(rb"\b(?:canonical|subtype_opclass) = ")
_DECIDES = re.compile(rb"\b(?:CHECK|GENERATED ALWAYS AS|PARTITION BY)\b")
_DEFAULT = re.compile(
    rb"\bDEFAULT \(?%b\.%b\(" % (_NAME, _NAME)
)  # COPY names all columns: no default is asked
_PARENTS = re.compile(rb"\bINHERITS \((%b(?:, %b)*)\)" % (_QUALIFIED, _QUALIFIED))


class Judges:
    """Notices what a dump makes, statement by statement; tells of a table whether its rows need the dump's order."""

    def __init__(self) -> None:
        self._code: dict[bytes, bytes] = defaultdict(bytes)
        self._types: dict[bytes, bytes] = defaultdict(bytes)
        self._tables: dict[bytes, bytes] = defaultdict(bytes)
        self._operators = self._casts = self._all = False

    def notice(self, statement: bytes) -> None:
        """Take one statement of the dump."""
        if made := _CODE.match(statement):
            self._code[made[1]] += statement  # functions of one name are taken for one
        elif made := _TYPE.match(statement):
            self._types[made[1]] += statement
        elif (made := _TABLE.match(statement)) and self._matters(statement):
            self._tables[made[1]] += statement
        self._operators |= statement.startswith(b"CREATE OPERATOR ")
        self._casts |= statement.startswith(b"CREATE CAST ") and b" WITH FUNCTION " in statement
        self._all |= _BARE_NAMES.match(statement) is not None

    def _matters(self, table: bytes) -> bool:
        return bool(_DECIDES.search(table) or _PARENTS.search(table) or self._types)

    def judged(self) -> frozenset[bytes] | None:
        """Return the tables, as the dump spells them, whose rows need the dump's order; None if all do."""
        types = self._judged_types()
        found = {name for name, text in self._tables.items() if self._is_judged(text, types)}
        while more := {name for name in self._tables.keys() - found if self._has_parent(name, found)}:
            found |= more
        # The leaves of such a root have no word of it in their own definitions.
        is_root_judged = any(b"PARTITION BY" in self._tables[name] for name in found)
        return None if self._all or is_root_judged else frozenset(found)

    def _judged_types(self) -> set[bytes]:
        found = {n for n, text in self._types.items() if _RANGE.search(text) or self._may_read(text)}
        while more := {n for n in self._types.keys() - found if any(f in self._types[n] for f in found)}:
            found |= more
        return found

    def _is_judged(self, table: bytes, types: set[bytes]) -> bool:
        if any(name in table for name in types):
            return True
        return _DECIDES.search(table) is not None and self._may_read(_DEFAULT.sub(b"", table))

    def _has_parent(self, table: bytes, among: set[bytes]) -> bool:
        parents = _PARENTS.search(self._tables[table])
        return parents is not None and any(name in parents[1] for name in among)

    def _may_read(self, text: bytes) -> bool:
        """Whether something that this text calls, or what that calls in turn, may read a table."""
        called, waiting = set[bytes](), [text]
        while waiting:
            text = waiting.pop()
            if self._casts or (self._operators and _OPERATOR.search(text)):
                return True
            for name in set(_CALL.findall(text)) & self._code.keys() - called:
                called.add(name)
                waiting.append(self._code[name])
        return any(
            not _READABLE.search(code) or _READS.search(code) for code in map(self._code.get, called) if code
        )
