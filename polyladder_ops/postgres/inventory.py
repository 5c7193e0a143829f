"""The objects of a database, each with owner, privileges and a definition that a faithful restore does not change.

Whatever pg_dump carries is in here, and nothing else: no members of extensions (but privileges changed on them), nothing
temporary or of the system. Left out is what has no meaning or never survives: oids, places of dropped columns, storage,
statistics, where sequences stand, whether a subscription runs. Rules and names the server chose by itself are only
written where pg_dump keeps them, so that a restore into a newer major stays equal as far as it can be.

All that has one spelling is exact. An expression has many (a server writes it anew from what it has understood), so
each is told apart by the place where it stands, its slot; `proof/renderings.py` says when two of them are the same.

The SQL is in the files beside this module; `queries.py` says how they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import casts, column_order, grants, queries
from polyladder_ops.postgres.described import CatalogEntry, Inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

    import psycopg

__all__ = ["CatalogEntry", "CatalogObject", "Dropped", "Inventory", "digest", "entries", "look", "read"]

_OBJECTS = ("inventory_relations.sql", "inventory_types.sql", "inventory_database.sql")
_Key = tuple[int, int]


class Dropped(OpsError):  # noqa: N818 - what happened to it, not to us
    """An object of the snapshot has no name any more: the server looks past the snapshot for it."""

    def __init__(self, kind: str) -> None:
        super().__init__(
            "an object was dropped while the catalog was read",
            detail=f"Its kind is {kind}.",
            hint="Try again when no migration runs.",
        )


@dataclass(frozen=True)
class CatalogObject:
    """One object: its kind, its qualified and quoted name, and what pg_dump would say of it.

    `grants` are sentences as in `grants.py`, those on a column behind `(column)`. `definition` is for people and for
    `digest`: one fact a line, only what departs from the plainest case. Passwords in it are sealed, not written out.
    `exact` is the same without the texts of `expressions`, which are (slot, text), but with more of what stands in them.
    """

    kind: str
    name: str
    owner: str
    grants: tuple[str, ...]
    definition: str
    exact: str = ""
    expressions: tuple[tuple[str, str], ...] = ()


def entries(connection: psycopg.Connection[Any]) -> tuple[CatalogEntry, ...]:
    """Return the inventory of the connection's database as a manifest keeps it."""
    return look(connection).entries


def look(
    connection: psycopg.Connection[Any],
    *,
    as_of: int | None = None,
    as_restored: bool = False,
    populated: Collection[str] = (),
) -> Inventory:
    """Return the inventory as a manifest keeps it, with the expressions that it keeps apart.

    `as_of` and `populated` are `read`'s; `as_restored` gives the columns the order in which a faithful dump brings them back.
    """
    heirs = column_order.read(connection) if as_restored else ()
    found = read(connection, as_of=as_of, order=column_order.expected(heirs), populated=populated)
    return Inventory(
        tuple(CatalogEntry(o.kind, o.name, o.owner, o.grants, digest(o), _digest(o.exact)) for o in found),
        {(o.kind, o.name, slot): text for o in found for slot, text in o.expressions},
        tuple(column_order.moved(heirs)),
    )


def digest(catalog_object: CatalogObject) -> str:
    """Return the xxh3-128 of the definition, 32 hexadecimal digits."""
    return _digest(catalog_object.definition)


def _digest(text: str) -> str:
    return xxhash.xxh3_128_hexdigest(text.encode())


def read(
    connection: psycopg.Connection[Any],
    *,
    as_of: int | None = None,
    order: Mapping[int, Sequence[str]] | None = None,
    populated: Collection[str] = (),
) -> tuple[CatalogObject, ...]:
    """Return the inventory of the connection's database, ordered by kind and name.

    What majors after `as_of` (None: the server's own) brought is left out of what is exact; `order` is that of columns by
    their table, where it is to be another one; `populated` are materialized views that are told as if they were filled. Works in the caller's transaction, five round trips; until that ends the
    settings that bend the server's spelling (search_path, TimeZone …) are pinned. Any role may read; only a superuser
    sees a subscription's target. Raise Dropped if somebody drops an object meanwhile.
    """
    notes, column_grants = _notes(connection)
    order = order or {}
    as_of = as_of or connection.info.server_version // 10000
    objects = [
        _object(
            _as_populated(row) if row[3] in populated else row,
            notes[row[1], row[2]],
            column_grants[row[1], row[2]],
            order=order.get(row[2], ()),
            as_of=as_of,
        )
        for file in _OBJECTS
        for row in queries.rows(connection, queries.load(file))
    ]
    return tuple(sorted([*objects, *_changed_privileges(connection)], key=lambda o: (o.kind, o.name)))


def _notes(connection: psycopg.Connection[Any]) -> tuple[dict[_Key, dict[str, str]], dict[_Key, list[str]]]:
    notes: dict[_Key, dict[str, str]] = defaultdict(dict)
    column_grants: dict[_Key, list[str]] = defaultdict(list)
    cast_otherwise: dict[_Key, set[str]] = defaultdict(set)
    for class_oid, oid, word, text in queries.rows(connection, queries.load("inventory_notes.sql")):
        if word.startswith("("):
            (grant,) = grants.canonical([text])
            column_grants[class_oid, oid].append(f"{word} {grant}")
        elif word == "=casts":
            cast_otherwise[class_oid, oid] |= casts.otherwise(**json.loads(text))
        else:
            notes[class_oid, oid][word] = text
    for key, found in cast_otherwise.items():
        notes[key]["=casts"] = ", ".join(sorted(found))
    return notes, column_grants


def _as_populated(row: tuple[Any, ...]) -> tuple[Any, ...]:
    *others, facts = row
    return (*others, json.dumps({**json.loads(facts), "not populated": False}))


def _object(
    row: tuple[Any, ...],
    notes: Mapping[str, str],
    column_grants: Iterable[str],
    *,
    order: Sequence[str],
    as_of: int,
) -> CatalogObject:
    kind, _class_oid, _oid, name, owner, acl, facts = row
    if name is None:
        raise Dropped(kind)
    given = [*grants.canonical(acl or ()), *column_grants]
    described = {**json.loads(facts), **notes}
    if secret := described.get("secret"):
        described["secret"] = _sealed(secret, f"{kind} {name}")
    return CatalogObject(
        kind,
        name,
        owner,
        tuple(sorted(given)),
        _rendered({word.lstrip("~"): fact for word, fact in described.items() if word[0] != "="}, _spelled),
        _exact(described, order, as_of),
        tuple(_expressions(list(described.values()))),
    )


def _exact(facts: Mapping[str, Any], order: Sequence[str], as_of: int) -> str:
    """Return what has one spelling: a word that begins with `~` holds none of it, one that begins with `=` nothing else."""
    exact = {word: fact for word, fact in facts.items() if word[0] != "~"}
    if order:
        exact["columns"] = sorted(exact["columns"], key=lambda column: order.index(column[0]))
    return _rendered(exact, lambda pieces: _without_expressions(pieces, as_of))


def _spelled(pieces: Mapping[str, str | None]) -> str:
    return "".join(text or "" for text in pieces.values())


def _without_expressions(pieces: Mapping[str, str | None], as_of: int) -> str:
    """Return in an expression's place that there is one, and what a major brought (`@18`) if the source had it."""
    return "".join(
        f"<{word}>" if word[0] != "@" else text if int(word[1:]) <= as_of else ""
        for word, text in pieces.items()
        if text is not None
    )


def _expressions(facts: Any) -> Iterator[tuple[str, str]]:
    for fact in facts:
        if isinstance(fact, list):
            yield from _expressions(fact)
        elif isinstance(fact, dict):
            yield from ((word, text) for word, text in fact.items() if word[0] != "@" and text is not None)


def _sealed(secret: str, salt: str) -> str:
    """Digests of definitions stand in a manifest that anybody may read: guessing a password must stay expensive."""
    return hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()


def _rendered(facts: Mapping[str, Any], spell: Callable[[Mapping[str, str | None]], str]) -> str:
    """Return one fact a line, lists item by item; continued lines are indented further, so no two facts look alike."""
    lines = []
    for word, of_many in sorted(facts.items()):
        fact = spell(of_many) if isinstance(of_many, dict) else of_many
        if fact is None or fact is False or fact in ("", []):
            continue
        if isinstance(fact, list):
            lines += [f"{word}:", *(f"  - {_indented(_joined(item, spell))}" for item in fact)]
        else:
            lines.append(f"{word}: {'yes' if fact is True else _indented(fact)}")
    return "\n".join(lines)


def _joined(item: Any, spell: Callable[[Mapping[str, str | None]], str]) -> str:
    pieces = item if isinstance(item, list) else [item]
    return "".join(spell(p) if isinstance(p, dict) else str(p) for p in pieces if p is not None)


def _indented(fact: Any) -> str:
    return str(fact).replace("\n", "\n    ")


def _changed_privileges(connection: psycopg.Connection[Any]) -> list[CatalogObject]:
    """Return what was granted (`+`) and revoked (`-`) on objects that came with the server or with an extension.

    Their owner, whoever made the cluster or the extension, is no part of a dump and is called `<owner>`.
    """
    changes: dict[str, list[str]] = defaultdict(list)
    for kind, identity, owner, part, acl, initial in queries.rows(
        connection, queries.load("inventory_privileges.sql")
    ):
        if identity is None:
            raise Dropped("privileges")
        now, before = (set(grants.canonical(a, owner=owner)) for a in (acl, initial))
        prefix = f"({part}) " if part else ""
        changes[f"{kind} {identity}"] += [f"+{prefix}{grant}" for grant in now - before]
        changes[f"{kind} {identity}"] += [f"-{prefix}{grant}" for grant in before - now]
    return [CatalogObject("privileges", name, "", tuple(sorted(c)), "") for name, c in changes.items() if c]
