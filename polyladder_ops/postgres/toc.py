"""The entries of a plain dump: pg_dump writes a comment before each, with its kind, and then its statements.

Kinds come from the comment; names come from the statements, where they are quoted and qualified. (In a comment a name
stands as it is, and a table may be called ``x; Type: TABLE``.) Everything is bytes in the dump's own encoding.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from polyladder_ops.postgres.contents import decode

__all__ = [
    "QUALIFIED",
    "Entry",
    "Heading",
    "attached",
    "constraint",
    "domain",
    "heading",
    "index_of",
    "is_owner",
    "parts",
    "pieces",
    "referenced",
    "root",
    "sequence_set",
]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
QUALIFIED = rb"%(name)s(?:\.%(name)s)*" % {b"name": _NAME}
_SPELLED = re.compile(QUALIFIED)
_PART = re.compile(_NAME)
# Greedy: if a name looks like the rest of a heading, the rest is what stands last.
_HEADING = re.compile(
    rb"-- (?:Data for )?Name: (?P<name>.*); Type: (?P<kind>[A-Z][A-Z ]*); Schema: (?P<schema>.*); Owner: (?P<owner>.*)\Z",
    re.DOTALL,
)
# What pg_dump makes has its words in capitals, and a name in front of which all of them stand.
_MAKES = re.compile(
    rb"CREATE(?:\s+[A-Z]+)+\s+(?P<name>(?:%(name)s\.)?(?:%(name)s|[-+*/<>=~!@#%%^&|`?]+))" % {b"name": _NAME}
)
_MULTIRANGE = re.compile(rb"\bmultirange_type_name = (%b)" % QUALIFIED)
_IDENTITY = re.compile(rb"\sADD GENERATED .*?\sSEQUENCE NAME (%b)" % QUALIFIED, re.DOTALL)
_ON_TABLE = {
    "TABLE": re.compile(rb"CREATE (?:UNLOGGED )?TABLE (%b)" % QUALIFIED),
    "TABLE ATTACH": re.compile(rb"ALTER TABLE ONLY %b ATTACH PARTITION (%b)" % (QUALIFIED, QUALIFIED)),
    "SEQUENCE OWNED BY": re.compile(
        rb"ALTER SEQUENCE %b OWNED BY (%b)\.%b\Z" % (QUALIFIED, QUALIFIED, _NAME)
    ),
    "INDEX": re.compile(rb"CREATE (?:UNIQUE )?INDEX %b ON (?:ONLY )?(%b)" % (_NAME, QUALIFIED)),
    "STATISTICS": re.compile(rb"CREATE STATISTICS .*\sFROM (%b)\Z" % QUALIFIED, re.DOTALL),
}
_ALTER_TABLE = re.compile(rb"ALTER TABLE (?:ONLY )?(%b)" % QUALIFIED)
_ALTERED = {"DEFAULT", "SEQUENCE", "CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT", "ROW SECURITY"}
_ROOT = re.compile(rb"ALTER TABLE ONLY (%b) ATTACH PARTITION" % QUALIFIED)
_REFERENCES = re.compile(rb"FOREIGN KEY .*\) REFERENCES (%b)\(" % QUALIFIED, re.DOTALL)
_CONSTRAINT = re.compile(rb"\sADD CONSTRAINT (%b)\s" % _NAME)
_INDEX = re.compile(rb"CREATE (?:UNIQUE )?INDEX (%b) ON " % _NAME)
_SETVAL = re.compile(rb"SELECT pg_catalog\.setval\('((?:[^']|'')*)', ")
_COMMENT_ON_INDEX = re.compile(rb"COMMENT ON INDEX (%b) IS " % QUALIFIED)
_DOMAIN = re.compile(rb"ALTER DOMAIN (%b)" % QUALIFIED)
_OWNER = re.compile(rb"ALTER .* OWNER TO %b\Z" % _NAME, re.DOTALL)


@dataclass(frozen=True)
class Heading:
    """What the comment before an entry says; `name` is for people, it is neither quoted nor qualified."""

    name: bytes
    kind: str
    schema: bytes
    owner: bytes


def heading(comment: bytes) -> Heading | None:
    """Return what a comment says of the entry that it begins, None if it is another comment."""
    found = _HEADING.match(comment)
    if found is None:
        return None
    owner = found["owner"].partition(b"; Tablespace: ")[0]
    return Heading(found["name"], found["kind"].decode("ascii"), found["schema"], owner)


@dataclass(frozen=True)
class Entry:
    """One entry of a dump, by its place; `settings` are the SET statements that hold for it beside the dump's first ones.

    Who owns what it makes is left out: the statements make everything ours.
    """

    place: int
    heading: Heading
    statements: tuple[bytes, ...]
    settings: tuple[bytes, ...] = ()

    @property
    def kind(self) -> str:
        """The kind in pg_dump's words: TABLE, DEFAULT, FK CONSTRAINT …"""
        return self.heading.kind

    @property
    def text(self) -> bytes:
        """All statements together, to look for names in."""
        return b"\n".join(self.statements)

    @property
    def makes(self) -> tuple[bytes, ...]:
        """What comes into being by it: names as the dump spells them, none for what has no name."""
        first = self.statements[0] if self.statements else b""
        if identity := _IDENTITY.search(first) if self.kind == "SEQUENCE" else None:
            return (identity[1],)
        made = _MAKES.match(first)
        if made is None or self.kind in ("CAST", "TRANSFORM"):
            return ()
        return (made["name"], *(name[1] for name in _MULTIRANGE.finditer(first)))

    @property
    def table(self) -> bytes:
        """The table that it is, or a part of; empty for what hangs on none."""
        pattern = _ON_TABLE.get(self.kind) or (_ALTER_TABLE if self.kind in _ALTERED else None)
        found = pattern.match(self.statements[0]) if pattern and self.statements else None
        return found[1] if found else b""

    @property
    def index(self) -> tuple[bytes, ...]:
        """The name of the index that it makes, with its schema, which is the table's."""
        pattern = {"INDEX": _INDEX, "CONSTRAINT": _CONSTRAINT}.get(self.kind)
        found = pattern.search(self.statements[0]) if pattern and self.statements else None
        return (*_PART.findall(self.table)[:-1], found[1]) if found else ()


def is_owner(statement: bytes) -> bool:
    """Whether the statement does nothing but give something to a role."""
    return _OWNER.fullmatch(statement) is not None


def root(attach: Entry) -> bytes:
    """Return the partitioned table of a TABLE ATTACH, empty for another entry."""
    found = _ROOT.match(attach.statements[0]) if attach.statements else None
    return found[1] if found else b""


def referenced(foreign_key: Entry) -> bytes:
    """Return the table that a FK CONSTRAINT refers to, empty if it can't be told."""
    found = _REFERENCES.search(foreign_key.text)
    return found[1] if found else b""


def constraint(entry: Entry) -> bytes:
    """Return the name of the constraint that an entry adds, without its table; empty if it adds none."""
    found = _CONSTRAINT.search(entry.text)
    return found[1] if found else b""


def index_of(comment: Entry) -> tuple[bytes, ...]:
    """Return the index that a COMMENT speaks of, as `Entry.index` writes it; empty if it speaks of something else.

    The comment of a constraint's index stands behind any other index. All others follow what they speak of.
    """
    found = _COMMENT_ON_INDEX.match(comment.text)
    return tuple(pieces(found[1])) if found else ()


def domain(check: Entry) -> bytes:
    """Return the domain that a CHECK CONSTRAINT belongs to, empty if it belongs to a table."""
    found = _DOMAIN.match(check.text)
    return found[1] if found else b""


def attached(index_attach: Entry) -> tuple[tuple[bytes, ...], ...]:
    """Return the two indexes that an INDEX ATTACH joins, as `Entry.index` writes them."""
    names = [word for word in _SPELLED.findall(index_attach.text) if b"." in word]
    return tuple(tuple(_PART.findall(name)) for name in names)


def sequence_set(entry: Entry) -> bytes:
    """Return the sequence whose value a SEQUENCE SET sets, empty for another entry."""
    found = _SETVAL.match(entry.statements[0]) if entry.statements else None
    return found[1].replace(b"''", b"'") if found else b""


def pieces(name: bytes) -> list[bytes]:
    """Return the parts of a spelled name as they stand."""
    return _PART.findall(name)


def parts(name: bytes, encoding: str) -> tuple[str, ...]:
    """Return the parts of a spelled name without their quotes: (schema, table)."""
    return tuple(
        part[1:-1].replace('""', '"') if part.startswith('"') else part
        for part in (decode(found, encoding) for found in pieces(name))
    )
