r"""Whose hands a dump's statement goes through: the login's that loads it, or the database owner's, and when.

What runs a user's code (rows, constraints, indexes over expressions) is always the login's. What decides who owns what
and who may do what comes last and is the owner's; none of it runs code as the one who says it, but REFRESH, which the
server does as the view's owner with his rights alone (tried on 13 to 18).
"""

from __future__ import annotations

import re
from enum import Enum
from typing import TYPE_CHECKING

from polyladder_ops.postgres import forms

if TYPE_CHECKING:
    from polyladder_ops.postgres.forms import Form

__all__ = ["REFUSED", "Hand", "Moment", "for_a_superuser", "hand", "moment", "refreshed"]


class Hand(Enum):
    """Who says a statement, and when."""

    LOADER = "the login, in its place"
    OWNER = "the owner, in its place"
    LAST = "the owner, when everything else is done"
    BOTH = "the login and the owner: by which rules what follows is read"


class Moment(Enum):
    """When the owner says what comes last."""

    NOTES = "before what was loaded is looked at: comments, labels"
    RIGHTS = "when it is known to be the source's: owners, grants"
    REFRESH = "then, since a view's query runs as its owner"
    VERY_LAST = "event triggers, which answer whatever is said after them"


REFUSED = ("42501", "42P13")
"""SQLSTATEs with which a server refuses what only a superuser may do; the second one's are aggregates over `internal`."""

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
# Around a grant that somebody made who had it with the option to grant it (pg_dump).
_SESSION = re.compile(rb"(?:SET|RESET) SESSION AUTHORIZATION\b")
_SETTING = re.compile(rb"(?:RE)?SET |SELECT (?:pg_catalog\.)?set_config\(")
_REFRESH = b"REFRESH MATERIALIZED VIEW "
_NOTE = re.compile(rb"COMMENT ON |SECURITY LABEL |ALTER .* DEPENDS ON EXTENSION %b\Z" % _NAME, re.DOTALL)
_EVENT_TRIGGER = re.compile(rb"(?:CREATE|ALTER|COMMENT ON) EVENT TRIGGER ")
_EXTENSION = re.compile(rb"CREATE EXTENSION |COMMENT ON EXTENSION ")
# A literal in such a statement is no name's: it ends as an owner's does, and sets a default (tried).
_QUOTED = re.compile(rb'"(?:[^"]|"")*+"')
_LITERAL = re.compile(rb"'|(?<![\w$\x80-\xff])\$")
_LAST = re.compile(
    rb"ALTER .* OWNER TO %b\Z|GRANT |CREATE USER MAPPING |REVOKE |ALTER DEFAULT PRIVILEGES |REFRESH MATERIALIZED VIEW |COMMENT ON "
    rb"|SECURITY LABEL |(?:CREATE|ALTER) EVENT TRIGGER |ALTER .* DEPENDS ON EXTENSION %b\Z" % (_NAME, _NAME),
    re.DOTALL,
)


def hand(statement: bytes) -> Hand:
    """Return whose this statement is."""
    if _SESSION.match(statement):
        return Hand.LAST
    if _SETTING.match(statement):
        return Hand.BOTH
    if _EXTENSION.match(statement):
        return Hand.OWNER
    if not _LAST.match(statement) or (statement.startswith(b"ALTER ") and _has_literal(statement)):
        return Hand.LOADER
    return Hand.LAST


def _has_literal(statement: bytes) -> bool:
    return _LITERAL.search(_QUOTED.sub(b"", statement)) is not None


def moment(statement: bytes) -> Moment:
    """Return when a statement is said that comes last."""
    if _EVENT_TRIGGER.match(statement):
        return Moment.VERY_LAST
    if statement.startswith(_REFRESH):
        return Moment.REFRESH
    return Moment.NOTES if _NOTE.match(statement) else Moment.RIGHTS


def refreshed(statement: bytes) -> bytes:
    """Return the name of the materialized view that a statement fills, as it is spelled."""
    return statement.removeprefix(_REFRESH)


def for_a_superuser(statement: bytes, *, backslash_escapes: bool = False) -> Form | None:
    """Return the form of a statement that a superuser may do in the login's place, None if it is the login's or nobody's.

    It is judged by the whole statement: one that runs something at once (an aggregate's first value is put through a
    domain's CHECK by whoever makes it) stays the login's. A list of what is forbidden would not hold: LANGUAGE internal
    AS 'be_lo_export', made by a superuser, let a CHECK write a file (tried). A superuser's function in everybody's
    language is LEAKPROOF, or sets what only superusers set; it is given back at once.
    """
    form = forms.recognise(statement, backslash_escapes=backslash_escapes)
    return form if form and (form.superuser or form.runs_nothing) else None
