r"""What of a dump may be loaded side by side, and what must wait for what; rules over the statements that pg_dump writes.

A dump is a row of sections. Each begins with statements that one connection does in the dump's order; then come rows
and index builds, which any number of connections may do at the same time; the next other statement ends it, and waits
for all of them. So a dump that is like no other loses speed here, never its order.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum

__all__ = ["Build", "Kind", "build", "defines_operators", "kind"]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_QUALIFIED = rb"(?:%b\.)?%b" % (_NAME, _NAME)


class Kind(Enum):
    """How a statement stands to its neighbours."""

    SETTING = "every session needs it, in its place"
    VALUE = "one connection does it beside the others' rows: sequences, large objects"
    BUILD = "it may be done beside others"
    LATE = "it speaks of indexes that were built before it, and no build needs it"
    BARRIER = "everything before it is done before it, everything after it after it"


@dataclass(frozen=True)
class Build:
    """An index, alone or as a constraint: `table` as the dump spells it, `place` among the dump's statements.

    An `ordered` one goes after the others of its table in the dump's order: adding a constraint locks the table, and a
    foreign key takes the oldest unique index that fits. A `plain` one reads nothing but its own table's rows.
    """

    text: bytes
    place: int
    table: bytes
    ordered: bool
    plain: bool


_SETTING = re.compile(rb"(?:RE)?SET |SELECT (?:pg_catalog\.)?set_config\(")
# BEGIN and COMMIT are pg_dump's own, around large objects.
_VALUE = re.compile(
    rb"SELECT (?:pg_catalog\.)?(?:setval|lo_create|lo_open|lowrite|lo_close)\(|(?:BEGIN|COMMIT)\Z"
    rb"|(?:ALTER|COMMENT ON) LARGE OBJECT\s|(?:GRANT|REVOKE) [A-Z, ]+ ON LARGE OBJECT\s"
)
_LATE = re.compile(
    rb"COMMENT ON (?:INDEX|CONSTRAINT)\s"
    rb"|ALTER INDEX %(table)b (?:ATTACH PARTITION|ALTER COLUMN \d+ SET STATISTICS|DEPENDS ON EXTENSION)\s"
    rb"|ALTER TABLE (?:ONLY )?%(table)b (?:CLUSTER ON|REPLICA IDENTITY USING INDEX)\s"
    % {b"table": _QUALIFIED}
)
_INDEX = re.compile(
    rb"CREATE (?P<unique>UNIQUE )?INDEX %b ON (?:ONLY )?(?P<table>%b) USING (?P<rest>.*)"
    % (_NAME, _QUALIFIED),
    re.DOTALL,
)
_CONSTRAINT = re.compile(
    rb"ALTER TABLE (?:ONLY )?(?P<table>%b)\s+ADD CONSTRAINT %b (?P<kind>PRIMARY KEY|UNIQUE|EXCLUDE)\s"
    % (_QUALIFIED, _NAME)
)
# Columns by their names alone: the type's own operator class, no expression, no condition.
_PLAIN_COLUMN = rb"%b(?: DESC)?(?: NULLS (?:FIRST|LAST))?" % _NAME
_PLAIN = re.compile(
    rb"(?:btree|hash|gin|gist|spgist|brin) \(%(column)b(?:, %(column)b)*\)"
    rb"(?: INCLUDE \(%(name)b(?:, %(name)b)*\))?(?: NULLS NOT DISTINCT)?(?: WITH \([^()]*\))?"
    % {b"column": _PLAIN_COLUMN, b"name": _NAME}
)


def kind(statement: bytes) -> Kind:
    """Return how this statement stands to its neighbours; what is not known is a barrier."""
    if _SETTING.match(statement):
        return Kind.SETTING
    if _VALUE.match(statement):
        return Kind.VALUE
    if _INDEX.match(statement) or _CONSTRAINT.match(statement):
        return Kind.BUILD
    return Kind.LATE if _LATE.match(statement) else Kind.BARRIER


def build(statement: bytes, place: int) -> Build:
    """Return what a statement of the kind BUILD builds."""
    if index := _INDEX.match(statement):
        plain = _PLAIN.fullmatch(index["rest"]) is not None
        return Build(statement, place, index["table"], ordered=index["unique"] is not None, plain=plain)
    constraint = _CONSTRAINT.match(statement)
    assert constraint is not None
    return Build(statement, place, constraint["table"], ordered=True, plain=constraint["kind"] != b"EXCLUDE")


def defines_operators(statement: bytes) -> bool:
    """Whether the dump brings an operator class of its own: then no index is plain by its columns' names alone."""
    return statement.startswith((b"CREATE OPERATOR CLASS ", b"CREATE OPERATOR FAMILY "))
