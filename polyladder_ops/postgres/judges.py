r"""Which tables' rows are judged, while they come, by code that may read other tables.

A CHECK, a generated column or the bounds of a partition can call a function; whatever it claims to be, it may look into
another table, and then its rows must come when that one's are in, as they do with psql. A generated column that was
computed too early is wrong for ever, and no digest sees it: COPY leaves such columns out. So a function counts as
harmless only if every word of its text is understood; what is not costs speed, never rows. A name is known by its last word,
in small letters: functions find each other by paths, quotes and capitals.
"""

from __future__ import annotations

import re
from collections import defaultdict

__all__ = ["Judges"]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_QUALIFIED = rb"(?:%b\.)?%b" % (_NAME, _NAME)
_CODE = re.compile(rb"CREATE (?:OR REPLACE )?(?:FUNCTION|PROCEDURE|AGGREGATE) (%b)" % _QUALIFIED)
_TYPE = re.compile(rb"(?:CREATE (?:DOMAIN|TYPE)|ALTER DOMAIN) (%b)" % _QUALIFIED)
_TABLE = re.compile(
    rb"CREATE (?:UNLOGGED |FOREIGN )?TABLE (%(table)b)|ALTER TABLE (?:ONLY )?(%(table)b)\s+ADD CONSTRAINT %(name)b CHECK\b"
    % {b"table": _QUALIFIED, b"name": _NAME}
)
# Clients before 10.3 write bare names; then nobody can tell whose function is called.
_BARE_NAMES = re.compile(rb"SET search_path = (?!''|\"\"|pg_catalog\Z)")
_WORD = re.compile(rb'"(?:[^"]|"")+"|[A-Za-z_\x80-\xff][\w$\x80-\xff]*')
_CALL = re.compile(rb"(\.\s*)?(%b)\s*\(" % _NAME)
_READABLE = re.compile(rb"\bLANGUAGE (?:sql|plpgsql)\b")
# What reads or changes a table, or hides what does.
_READS = re.compile(
    rb"\b(?:FROM|TABLE|EXECUTE|PERFORM|JOIN|INTO|USING|CALL|UPDATE|MERGE|DELETE|COPY|LOCK|TRUNCATE|search_path)\b"
    rb"|--|/\*|U&|\bOPERATOR\s*\(",
    re.IGNORECASE,
)
_HARMLESS = frozenset(
    b"abs array_length array_position array_to_string arraycontains avg bool btrim cardinality case cast ceil"
    b" char chr coalesce concat concat_ws date_bin date_part date_trunc decode digest encode exists extract floor format"
    b" greatest immutable initcap jsonb_array_length jsonb_build_object jsonb_typeof least left length lower lpad ltrim make_date"
    b" make_interval max md5 min mod normalize not nullif numeric octet_length over overlay parallel position power quote_ident"
    b" quote_literal regexp_count regexp_like regexp_replace repeat replace return returns reverse right round row rpad rtrim"
    b" select setweight sha256 sha512 sign split_part sqrt starts_with strict strpos substr substring sum then timezone"
    b" to_char to_date to_number to_timestamp to_tsvector translate trim trunc unaccent upper varchar varying when"
    b" and or in any all array as if elsif else between check values".split()
)
# Of the system's own, those that read tables, sequences or catalogs. Bare names in a deparsed table are the system's.
_CURIOUS = re.compile(
    rb"\b(?:\w+_to_xml\w*|ts_stat|ts_rewrite|lo_\w+|to_reg\w+|pg_\w+|\w*val|has_\w+|txid_\w+)\s*\("
)
_RANGE = re.compile(rb"\b(?:canonical|subtype_opclass) = ")
_DECIDES = re.compile(rb"\b(?:CHECK|GENERATED ALWAYS AS|PARTITION BY)\b")
_OWN_CLASS = re.compile(rb"\nPARTITION BY [^\n]*%b\.%b" % (_NAME, _NAME))
_OPERATOR = re.compile(rb"\bOPERATOR\((?!pg_catalog\.)")
# COPY names all columns, so no default is asked; and a type has its modifier: vector(3).
_OTHER_CALLS = re.compile(
    rb"\bDEFAULT \(?(?:%(name)b\.)?%(name)b\(|^    %(name)b %(name)b\.%(name)b\([\w, ]*\)" % {b"name": _NAME},
    re.MULTILINE,
)


def _last(name: bytes) -> bytes:
    """Return the last word of a name as all spellings of it have it."""
    words: list[bytes] = _WORD.findall(name)
    return words[-1].strip(b'"').replace(b'""', b'"').lower()


def _words(text: bytes) -> set[bytes]:
    return {word.strip(b'"').replace(b'""', b'"').lower() for word in _WORD.findall(text)}


class Judges:
    """Notices what a dump makes, statement by statement; tells of a table whether its rows need the dump's order."""

    def __init__(self) -> None:
        self._code: dict[bytes, list[bytes]] = defaultdict(list)  # by last word
        self._shapes: dict[bytes, bytes] = defaultdict(bytes)  # types, domains and tables, by name
        self._tables: set[bytes] = set()
        self._operators = self._casts = self._all = False

    def notice(self, statement: bytes) -> None:
        """Take one statement of the dump."""
        if made := _CODE.match(statement):
            self._code[_last(made[1])].append(statement)
        elif made := _TYPE.match(statement):
            self._shapes[made[1]] += statement
        elif made := _TABLE.match(statement):
            self._shapes[made[1] or made[2]] += statement
            self._tables.add(made[1] or made[2])
        self._operators |= statement.startswith(b"CREATE OPERATOR ")
        self._casts |= statement.startswith(b"CREATE CAST ") and b" WITH FUNCTION " in statement
        self._all |= _BARE_NAMES.match(statement) is not None

    def judged(self) -> frozenset[bytes] | None:
        """Return the tables, as the dump spells them, whose rows need the dump's order; None if all do."""
        found = {name for name, text in self._shapes.items() if self._is_judged(text)}
        # What holds or inherits a judged type or table is judged by it, and so is a function that handles one.
        more = found
        while more:
            last = {_last(name) for name in more}
            self._code_of(last)
            more = {n for n, text in self._shapes.items() if n not in found and self._meets(text, last)}
            found = found | more
        # The leaves of a judged root have no word of it in their own definitions; a multirange has a name of its own.
        texts = [self._shapes[name] for name in found]
        is_wide = any(b"\nPARTITION BY " in text or b" AS RANGE " in text for text in texts)
        return None if self._all or is_wide else frozenset(found & self._tables)

    def _code_of(self, types: set[bytes]) -> None:
        """Take functions for unreadable whose text names one of these types."""
        for texts in self._code.values():
            if any(types & _words(text) for text in texts):
                texts.append(b"")

    def _meets(self, text: bytes, last: set[bytes]) -> bool:
        return bool(last & _words(text)) or self._is_judged(text)

    def _is_judged(self, text: bytes) -> bool:
        if _RANGE.search(text):
            return True
        text = _OTHER_CALLS.sub(b"", text)
        if not _DECIDES.search(text):
            return False
        if self._casts or _CURIOUS.search(text):
            return True
        if self._operators and (_OWN_CLASS.search(text) or _OPERATOR.search(text)):
            return True
        return any(
            not self._is_harmless(_last(name), set()) if qualified or _last(name) in self._code else False
            for qualified, name in _CALL.findall(_without_head(text))
        )

    def _is_harmless(self, function: bytes, asked: set[bytes]) -> bool:
        """Whether no function of this name, nor what it calls, can read a table."""
        if function not in self._code:
            return function in _HARMLESS
        if function in asked:
            return True  # whoever asked first goes on
        asked.add(function)
        return all(self._is_understood(text, asked) for text in self._code[function])

    def _is_understood(self, text: bytes, asked: set[bytes]) -> bool:
        if not _READABLE.search(text) or _READS.search(text) or self._casts:
            return False
        return all(self._is_harmless(_last(name), asked) for _, name in _CALL.findall(text))


def _without_head(text: bytes) -> bytes:
    """Return what follows the name in CREATE TABLE name (…): it is no call."""
    return text.partition(b"(")[2] if text.startswith(b"CREATE") else text
