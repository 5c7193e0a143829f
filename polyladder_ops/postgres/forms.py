r"""The statements that pg_dump (9.6 to 18) writes into a plain dump of one database, each recognised from end to end.

What a statement runs at once is fixed: a materialized view stays empty, a subscription calls nobody, SELECT, INSERT and the
bounds of partitions hold literals. An expression that is only kept (a default, a check, a view, a function's body) is free.
A form says, too, what becomes of its statement where the dump is loaded by a login without rights.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.postgres import grammar, skeleton

if TYPE_CHECKING:
    from polyladder_ops.postgres.skeleton import Skeleton

__all__ = ["Form", "recognise"]


@dataclass(frozen=True)
class Form:
    """What kind of statement it is, and who may do it when.

    `late`: an owner, a grant, a comment: it belongs to the end and to the role that restores. `extension`: it goes to that
    role at once. `superuser`: a login without rights can't do it, and it runs nothing of the dump's, so that it may be
    handed to a superuser. `unsafe`: it is a superuser's because it can break the server. `runs_nothing`
    is told of a function: no literal in it is read by code of the dump's while it is made; `language` is its language.
    `validated`: it names a function that runs at once, for its own options and for those of what is made with it later.
    """

    name: str
    late: bool = False
    extension: bool = False
    superuser: bool = False
    unsafe: bool = False
    runs_nothing: bool = False
    language: bytes = b""
    validated: bool = False

    def __str__(self) -> str:
        """Return the name with the language."""
        return f"{self.name} in {self.language.decode('ascii', 'replace')}" if self.language else self.name


def recognise(statement: bytes, *, backslash_escapes: bool = False) -> Form | None:
    """Return the form of a statement, None if pg_dump writes none like it.

    `backslash_escapes` as in `standard_conforming_strings = off`.
    """
    if long := grammar.LONG[backslash_escapes].get(statement[:6]):
        return next((Form(name) for name, pattern in long if pattern.fullmatch(statement)), None)
    bones = skeleton.read(statement, backslash_escapes=backslash_escapes)
    if bones is None or grammar.head(bones.bones) != grammar.head(statement):
        return None
    for name, pattern in grammar.forms_like(bones.bones):
        if found := pattern.fullmatch(bones.bones):
            return (
                None
                if name in _OF_THE_USERS and _is_the_servers(name, bones)
                else _judged(name, found, bones)
            )
    return None


# Whose it is ----------------------------------------------------------------------------------------------------------

# Of what is the server's own pg_dump writes grants only. Whoever owns a function that everybody calls is everybody.
_OF_THE_USERS = frozenset({"alter depends on extension", "alter owner", "comment on", "security label"})
_SERVERS_SCHEMAS = (b"pg_catalog", b"information_schema", b"pg_toast")
_SERVERS_LANGUAGES = (b"c", b"internal", b"plpgsql", b"sql")
_THING = re.compile(
    rb"(?:ALTER|COMMENT ON|SECURITY LABEL (?:FOR (?:%(name)b|') )?ON) (?P<kind>[A-Z]++(?: [A-Z]++)*+) "
    rb"(?:%(name)b ON (?:DOMAIN )?)?(?P<first>%(name)b)(?P<more>\.)?" % {b"name": rb'(?:[a-z_][a-z0-9_]*+|")'}
)
# Their names stand alone. All others have a schema before them when pg_dump gives an owner: without, pg_catalog's are found.
_ALONE = frozenset(
    {
        b"EVENT TRIGGER",
        b"FOREIGN DATA WRAPPER",
        b"LANGUAGE",
        b"PROCEDURAL LANGUAGE",
        b"PUBLICATION",
        b"SCHEMA",
        b"SERVER",
        b"SUBSCRIPTION",
    }
)


def _is_the_servers(name: str, bones: Skeleton) -> bool:
    """Whether a statement about something that exists is about what every server has."""
    thing = _THING.match(bones.bones)
    if thing is None:  # a large object, a cast; or an operator without its schema
        return name == "alter owner" and not bones.bones.startswith(b"ALTER LARGE OBJECT ")
    first, kind = _named(thing, "first", bones), thing["kind"]
    if kind.endswith(b"LANGUAGE"):
        return first in _SERVERS_LANGUAGES
    if kind == b"SCHEMA" or thing["more"]:
        return first in _SERVERS_SCHEMAS
    return name == "alter owner" and kind not in _ALONE


# Who may do it when ---------------------------------------------------------------------------------------------------

_LATE = frozenset(
    {
        "alter owner",
        "alter default privileges",
        "alter depends on extension",
        "alter event trigger",
        "comment on",
        "create event trigger",
        "grant",
        "refresh materialized view",
        "security label",
    }
)
_SUPERUSERS = frozenset(
    {
        "alter operator family",
        "alter publication",
        "create access method",
        "create aggregate",
        "create base type",
        "create cast",
        "create foreign data wrapper",
        "create foreign table",
        "create function",
        "create language",
        "create operator",
        "create operator class",
        "create operator family",
        "create publication",
        "create range type",
        "create server",
        "create shell type",
        "create subscription",
        "create text search parser",
        "create text search template",
        "create transform",
        "create trigger",
        "create user mapping",
    }
)
_UNSAFE = frozenset(
    {
        "alter operator family",
        "create base type",
        "create cast",
        "create operator class",
    }
)
_EVERYBODYS = (b"sql", b"plpgsql")
# What a function in any other language may do is whatever the server's account may (plpython3u, plperlu, c, internal).
_TRUSTED = (*_EVERYBODYS, b"plperl", b"pltcl", b"plv8", b"plcoffee", b"plls", b"pllua")
_LOGIN = re.compile(rb" ON login\b")  # it runs whenever a superuser comes in, too
# Such an expression is planned when its table is made, and a function that says it is immutable is called then.
_PLANNED = re.compile(rb"\bGENERATED\b")
_COMMENT_ON_EXTENSION = re.compile(rb"COMMENT ON EXTENSION ")
# A literal is read while its statement is looked at: by a composite type or an array whose parts are domains, and those
# run a CHECK. Only those that name a type of the server's are harmless.
_OPTIONS = re.compile(rb"OPTIONS \x01[^\x01\x02]*+\x02")
# What stands before it matters as well: m.c '(1)'::text is one of m.c.
_HARMLESS_LITERAL = re.compile(
    rb"(?:[(,=<>~!@#%^&|*/+\[\x01-]|\b(?:DEFAULT|AND|OR|NOT|WHEN|THEN|ELSE|IN|LIKE|ILIKE|BETWEEN|FROM|ESCAPE|RETURN|SELECT)) ?"
    rb"'::(?:text|integer|bigint|smallint|numeric|real|double precision|boolean|date|character varying|bpchar|uuid|name"
    rb"|timestamp with(?:out)? time zone|interval|regclass|json|jsonb)(?:\x01[\d, ]*+\x02)*+(?![\w.\"\x01]|::)"
)


def _judged(name: str, found: re.Match[bytes], bones: Skeleton) -> Form:
    """Return the form with what its own words say."""
    if name == "create extension" or _COMMENT_ON_EXTENSION.match(bones.bones):
        return Form(name, extension=True)
    form = Form(name, late=name in _LATE, superuser=name in _SUPERUSERS, unsafe=name in _UNSAFE)
    parts = found.groupdict()
    if form.superuser:
        form = replace(
            form, superuser=_runs_nothing(parts) and not (parts.get("initial") or parts.get("parent"))
        )
    if name == "create event trigger" and _LOGIN.search(bones.bones):
        form = replace(form, unsafe=True)
    if name == "create foreign table" and _PLANNED.search(bones.bones):
        form = replace(form, superuser=False)
    if name == "create range type":
        form = replace(form, superuser=parts["canonical"] is not None)
    if name in ("create foreign data wrapper", "create language"):
        form = replace(form, validated=parts["validator"] is not None)
    if name == "create function":
        language = _named(found, "language", bones)
        by_superuser = form.superuser and language not in _EVERYBODYS
        quiet = form.superuser
        form = replace(
            form,
            language=language,
            superuser=by_superuser,
            runs_nothing=quiet,
            unsafe=language not in _TRUSTED,
        )
    return form


def _runs_nothing(parts: dict[str, bytes | None]) -> bool:
    """Whether no literal of an expression in it can run code of the dump's."""
    for part in ("free", "guard", "arguments", "body"):
        text = _OPTIONS.sub(b"", parts.get(part) or b"")
        if text.count(b"'") != sum(1 for _ in _HARMLESS_LITERAL.finditer(text)):
            return False
    return True


def _named(found: re.Match[bytes], part: str, bones: Skeleton) -> bytes:
    """Return a name, as it is or with its schema, unquoted; empty if there is none."""
    if found[part] is None:
        return b""
    place, words = found.start(part), found[part].split(b".")
    names = []
    for word in words:
        names.append(bones.name_at(place, place + len(word)))
        place += len(word) + 1
    return b".".join(names)
