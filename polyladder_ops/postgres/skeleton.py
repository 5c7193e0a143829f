"""The bones of a statement: its words and its outermost parentheses, with every literal and quoted name reduced to one mark.

`'` stands for a literal, `"` for a quoted name. Parentheses and brackets inside others are two other bytes, so that a
regular expression can say "from here to the end of this pair". What pg_dump never writes outside literals (comments,
dollar signs in names, literals that go on after a line break) has no bones at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["CLOSE", "OPEN", "Skeleton", "read"]

OPEN, CLOSE = b"\x01", b"\x02"
"""What stands for a parenthesis or bracket inside others."""

_BEFORE = rb"(?<![\w$\x80-\xff])"
_ESCAPED = rb"'(?:[^'\\]|''|\\[\s\S])*+'"
_OTHERS = (
    rb'|(?P<name>"(?:[^"]|"")*+")'
    rb"|(?P<dollar>%(before)b(?P<tag>\$(?:[A-Za-z_\x80-\xff][\w\x80-\xff]*+)?\$)[\s\S]*?(?P=tag))"
    rb"|(?P<parameter>%(before)b\$\d++(?![\w$\x80-\xff]))"
    # Comments, names with a dollar sign, Unicode escapes, our own two bytes, prefixes that not every server sees, loose ends.
    rb"|--|/\*|[$'\"\\\x00-\x08]|%(before)b[Uu]&(?=['\"])|(?<=[\d.])[EeBbXxUu](?=['&])|[BbXx](?='(?![0-9A-Fa-f]*+'))"
) % {b"before": _BEFORE}
_STARTS = rb"(?=['\"$/\\EeUuBbXx\x00-\x08-])(?:"  # looked at first, for speed
_TOKEN = re.compile(rb"%b(?P<literal>%b[Ee]%b|'(?:[^']|'')*+')%b)" % (_STARTS, _BEFORE, _ESCAPED, _OTHERS))
_ESCAPED_TOKEN = re.compile(rb"%b(?P<literal>(?:%b[Ee])?%b)%b)" % (_STARTS, _BEFORE, _ESCAPED, _OTHERS))
_BLANK = re.compile(rb"\s++")
_PAIRS = re.compile(rb"[()\[\]]")
_CLOSED_BY = {ord("("): ord(")"), ord("["): ord("]")}
_JOINED = re.compile(rb"' ?'")


class _NotOursError(Exception):
    """The statement holds what pg_dump never writes outside literals."""


@dataclass(frozen=True)
class Skeleton:
    """`bones`, and the quoted names in their order, with their quotes."""

    bones: bytes
    names: tuple[bytes, ...]

    def name_at(self, place: int, end: int) -> bytes:
        """Return the name that stands between two places of the bones, without quotes."""
        found = self.bones[place:end]
        if found != b'"':
            return found
        return self.names[self.bones.count(b'"', 0, place)][1:-1].replace(b'""', b'"')


def read(statement: bytes, *, backslash_escapes: bool = False) -> Skeleton | None:
    """Return a statement's skeleton; None if it can't be one of pg_dump's."""
    names: list[bytes] = []

    def mark(found: re.Match[bytes]) -> bytes:
        if found.lastgroup == "name":
            names.append(found[0])
            return b'"'
        if found.lastgroup == "parameter":
            return found[0]
        if found.lastgroup is None:
            raise _NotOursError
        return b"'"

    token = _ESCAPED_TOKEN if backslash_escapes else _TOKEN
    try:
        bones = token.sub(mark, statement)
        bones = _BLANK.sub(b" ", bones).replace(b"( ", b"(").replace(b" )", b")").strip()
        if _JOINED.search(bones):
            return None
        return Skeleton(_outermost(bones), tuple(names))
    except _NotOursError:
        return None


def _outermost(bones: bytes) -> bytes:
    """Return the same with every pair inside another in our own two bytes."""
    open_pairs: list[int] = []
    inner: bytearray | None = None
    for found in _PAIRS.finditer(bones):
        place = found.start()
        byte = bones[place]
        if closed_by := _CLOSED_BY.get(byte):
            open_pairs.append(closed_by)
            depth, ours = len(open_pairs), OPEN
        else:
            depth, ours = len(open_pairs), CLOSE
            if not open_pairs or open_pairs.pop() != byte:
                raise _NotOursError
        if depth > 1:
            inner = inner if inner is not None else bytearray(bones)
            inner[place : place + 1] = ours
    if open_pairs:
        raise _NotOursError
    return bones if inner is None else bytes(inner)
