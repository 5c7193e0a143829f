"""How each kind of expression is made once more from a text: values, which `renderings.py` sends.

Where it can be done on the object itself it is, since the text may name it. What would look at rows (an index, a generated
column, an exclusion) is made of an empty table with the same columns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from psycopg import sql

__all__ = ["Place", "Remake", "remake"]

_NEW = "polyladder_remade"
_EMPTY = f"pg_temp.{_NEW}"
_IDENTIFIER = r'(?:"(?:[^"]|"")+"|[^\s"]+)'
_ON = re.compile(rf"(?P<own>{_IDENTIFIER}) on (?P<table>.+)", re.DOTALL)
_QUALIFIED = re.compile(r'(?P<schema>"(?:[^"]|"")+"|[^\s".]+)\.(?P<own>.+)', re.DOTALL)
_INDEX = re.compile(
    rf"CREATE (?:UNIQUE )?INDEX {_IDENTIFIER} ON (?:ONLY )?"
    r'(?P<table>(?:"(?:[^"]|"")+"|[^\s".]+)\.(?:"(?:[^"]|"")+"|[^\s".]+)) (?=USING )'
)
_TRIGGER = re.compile(rf"CREATE (?:CONSTRAINT )?TRIGGER (?P<own>{_IDENTIFIER}) ")


@dataclass(frozen=True)
class Remake:
    """How an expression is made again: statements, then a question; `worded` makes its answer what is compared."""

    statements: tuple[str, ...]
    question: str
    worded: Callable[[str], str] = str


@dataclass(frozen=True)
class Place:
    """Where an expression stands, what the restored object says there, and what else must be known of it."""

    name: str
    slot: str
    found: str
    types: Mapping[tuple[str, str], str]
    roots: Mapping[str, tuple[str, str]]


def remake(kind: str, place: Place, text: str) -> Remake | None:
    """Return how to make this expression again, None if nobody knows."""
    word, _, rest = place.slot.partition(" ")
    make = _MAKERS.get((kind, place.slot)) or _MAKERS.get((kind, word)) or _MAKERS.get(("", word))
    return make(place, rest, text) if make else None


def _literal(text: str) -> str:
    return sql.Literal(text).as_string(None)


def _oid(name: str, kind: str = "regclass") -> str:
    return f"{_literal(name)}::pg_catalog.{kind}"


def _like(name: str, more: str = "") -> str:
    """A table with these columns and no rows: to make an index of it costs nothing, and runs nobody's code."""
    return f"CREATE TEMPORARY TABLE {_NEW} (LIKE {name}{more})"


def _default(place: Place, rest: str, text: str) -> Remake:
    column = rest.removeprefix("of ")
    return Remake(
        (f"ALTER TABLE ONLY {place.name} ALTER COLUMN {column} SET DEFAULT {text}",),
        f"{_OF_COLUMN} WHERE d.adrelid = {_oid(place.name)} AND pg_catalog.quote_ident(a.attname) = {_literal(column)}",
    )


_OF_COLUMN = (
    "SELECT pg_catalog.pg_get_expr(d.adbin, d.adrelid) FROM pg_catalog.pg_attrdef d"
    " JOIN pg_catalog.pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum"
)


def _generated(place: Place, rest: str, text: str) -> Remake | None:
    if (place.name, rest) not in place.types:
        return None
    how = place.slot.partition(" ")[0]
    column = f", {_NEW} {place.types[place.name, rest]} GENERATED ALWAYS AS ({text}) {how}"
    return Remake(
        (_like(place.name, column),),
        f"{_OF_COLUMN} WHERE d.adrelid = {_oid(_EMPTY)} AND a.attname = '{_NEW}'",
    )


def _bound(place: Place, _rest: str, text: str) -> Remake | None:
    if place.name not in place.roots:
        return None
    root, key = place.roots[place.name]
    return Remake(
        (
            f"{_like(root)} PARTITION BY {key}",
            f"CREATE TEMPORARY TABLE {_NEW}_part PARTITION OF {_EMPTY} {text}",
        ),
        "SELECT pg_catalog.pg_get_expr(c.relpartbound, c.oid) FROM pg_catalog.pg_class c"
        f" WHERE c.oid = {_oid(f'{_EMPTY}_part')}",
    )


def _partition_key(place: Place, _rest: str, text: str) -> Remake:
    return Remake(
        (f"{_like(place.name)} PARTITION BY {text}",),
        f"SELECT pg_catalog.pg_get_partkeydef({_oid(_EMPTY)})",
    )


def _query(_place: Place, _rest: str, text: str) -> Remake:
    return Remake(
        (f"CREATE TEMPORARY VIEW {_NEW} AS {text}",), f"SELECT pg_catalog.pg_get_viewdef({_oid(_EMPTY)})"
    )


def _index(place: Place, _rest: str, text: str) -> Remake | None:
    wanted, found = _INDEX.match(text), _INDEX.match(place.found)
    if not wanted or not found:
        return None

    def worded(answer: str) -> str:
        made = _INDEX.match(answer)
        return found[0] + answer[made.end() :] if made else ""

    return Remake(
        (_like(found["table"]), f"CREATE INDEX {_NEW}_i ON {_EMPTY} {text[wanted.end() :]}"),
        f"SELECT pg_catalog.pg_get_indexdef({_oid(f'{_EMPTY}_i')})",
        worded,
    )


def _check(place: Place, _rest: str, text: str) -> Remake | None:
    owner = _ON.fullmatch(place.name)
    return owner and Remake(
        (f"ALTER TABLE {owner['table']} ADD CONSTRAINT {_NEW} CHECK ({text}) NOT VALID",),
        "SELECT pg_catalog.pg_get_expr(k.conbin, k.conrelid) FROM pg_catalog.pg_constraint k"
        f" WHERE k.conrelid = {_oid(owner['table'])} AND k.conname = '{_NEW}'",
    )


def _exclusion(place: Place, _rest: str, text: str) -> Remake | None:
    owner = _ON.fullmatch(place.name)
    return owner and Remake(
        (_like(owner["table"]), f"ALTER TABLE {_EMPTY} ADD CONSTRAINT {_NEW}_x {text}"),
        "SELECT pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k"
        f" WHERE k.conrelid = {_oid(_EMPTY)} AND k.conname = '{_NEW}_x'",
    )


def _trigger(place: Place, _rest: str, text: str) -> Remake | None:
    owner, wanted, found = _ON.fullmatch(place.name), _TRIGGER.match(text), _TRIGGER.match(place.found)
    if not owner or not wanted or not found:
        return None
    name = found["own"]
    return Remake(
        (f"{text[: wanted.start('own')]}{_NEW}{text[wanted.end('own') :]}",),
        "SELECT pg_catalog.pg_get_triggerdef(g.oid) FROM pg_catalog.pg_trigger g"
        f" WHERE g.tgrelid = {_oid(owner['table'])} AND g.tgname = '{_NEW}'",
        lambda answer: answer.replace(f"TRIGGER {_NEW} ", f"TRIGGER {name} ", 1),
    )


def _rule(place: Place, _rest: str, text: str) -> Remake | None:
    owner = _ON.fullmatch(place.name)
    return owner and Remake(
        (text.replace("CREATE RULE ", "CREATE OR REPLACE RULE ", 1),),
        "SELECT pg_catalog.pg_get_ruledef(r.oid) FROM pg_catalog.pg_rewrite r"
        f" WHERE r.ev_class = {_oid(owner['table'])} AND pg_catalog.quote_ident(r.rulename) = {_literal(owner['own'])}",
    )


def _policy(place: Place, _rest: str, text: str) -> Remake | None:
    owner = _ON.fullmatch(place.name)
    column = {"using": "polqual", "with check": "polwithcheck"}[place.slot]
    return owner and Remake(
        (f"ALTER POLICY {owner['own']} ON {owner['table']} {place.slot.upper()} ({text})",),
        f"SELECT pg_catalog.pg_get_expr(p.{column}, p.polrelid) FROM pg_catalog.pg_policy p"
        f" WHERE p.polrelid = {_oid(owner['table'])} AND pg_catalog.quote_ident(p.polname) = {_literal(owner['own'])}",
    )


def _statistics(place: Place, _rest: str, text: str) -> Remake | None:
    named, begin = _QUALIFIED.fullmatch(place.name), f"CREATE STATISTICS {place.name} "
    if not named or not text.startswith(begin):
        return None
    new = f"CREATE STATISTICS {named['schema']}.{_NEW} "
    return Remake(
        (new + text.removeprefix(begin),),
        "SELECT pg_catalog.pg_get_statisticsobjdef(x.oid) FROM pg_catalog.pg_statistic_ext x"
        f" WHERE x.stxnamespace = {_oid(named['schema'], 'regnamespace')} AND x.stxname = '{_NEW}'",
        lambda answer: answer.replace(new, begin, 1),
    )


def _function(place: Place, _rest: str, text: str) -> Remake:
    return Remake((text,), f"SELECT pg_catalog.pg_get_functiondef({_oid(place.name, 'regprocedure')})")


def _domain_default(place: Place, _rest: str, text: str) -> Remake:
    return Remake(
        (f"ALTER DOMAIN {place.name} SET DEFAULT {text}",),
        "SELECT coalesce(pg_catalog.pg_get_expr(t.typdefaultbin, 0), pg_catalog.quote_literal(t.typdefault))"
        f" FROM pg_catalog.pg_type t WHERE t.oid = {_oid(place.name, 'regtype')}",
    )


def _domain_check(place: Place, _rest: str, text: str) -> Remake:
    return Remake(
        (f"ALTER DOMAIN {place.name} ADD CONSTRAINT {_NEW} CHECK ({text}) NOT VALID",),
        "SELECT pg_catalog.pg_get_expr(k.conbin, 0) FROM pg_catalog.pg_constraint k"
        f" WHERE k.contypid = {_oid(place.name, 'regtype')} AND k.conname = '{_NEW}'",
    )


def _row_filter(_place: Place, rest: str, text: str) -> Remake:
    table = rest.removeprefix("of ")
    via_root = "WITH (publish_via_partition_root = true)"  # else a partitioned table may have no filter
    return Remake(
        (f"CREATE PUBLICATION {_NEW} FOR TABLE ONLY {table} WHERE ({text}) {via_root}",),
        "SELECT pg_catalog.pg_get_expr(r.prqual, r.prrelid) FROM pg_catalog.pg_publication_rel r"
        f" JOIN pg_catalog.pg_publication p ON p.oid = r.prpubid WHERE p.pubname = '{_NEW}'",
    )


_Maker = Callable[[Place, str, str], "Remake | None"]
_MAKERS: Mapping[tuple[str, str], _Maker] = {
    ("type", "default"): _domain_default,
    ("type", "check"): _domain_check,
    ("", "default"): _default,
    ("", "stored"): _generated,
    ("", "virtual"): _generated,
    ("table", "partition bound"): _bound,
    ("foreign table", "partition bound"): _bound,
    ("table", "partition key"): _partition_key,
    ("view", "query"): _query,
    ("materialized view", "query"): _query,
    ("index", "definition"): _index,
    ("constraint", "check"): _check,
    ("constraint", "exclusion"): _exclusion,
    ("trigger", "definition"): _trigger,
    ("rule", "definition"): _rule,
    ("policy", "using"): _policy,
    ("policy", "with"): _policy,
    ("statistics", "definition"): _statistics,
    ("function", "definition"): _function,
    ("procedure", "definition"): _function,
    ("publication", "where"): _row_filter,
}
