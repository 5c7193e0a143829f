"""The objects of a database, each with owner, privileges and a definition that a faithful restore does not change.

Whatever pg_dump carries is in here, and nothing else: no members of extensions (but privileges changed on them), nothing
temporary or of the system. Left out is what has no meaning or never survives: oids, places of dropped columns, storage,
statistics, where sequences stand, whether a subscription runs. Rules and names the server chose by itself are only
written where pg_dump keeps them, so that a restore into a newer major stays equal as far as it can be.

The SQL is in the files beside this module; `queries.py` says how they are read.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import xxhash

from polyladder_ops.postgres import grants, queries
from polyladder_ops.postgres.described import CatalogEntry

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

__all__ = ["CatalogEntry", "CatalogObject", "digest", "entries", "read"]

_OBJECTS = ("inventory_relations.sql", "inventory_types.sql", "inventory_database.sql")
_Key = tuple[int, int]


@dataclass(frozen=True)
class CatalogObject:
    """One object: its kind, its qualified and quoted name, and what pg_dump would say of it.

    `grants` are sentences as in `grants.py`, those on a column behind `(column)`. `definition` is for people and for
    `digest`: one fact a line, only what departs from the plainest case. Passwords in it are sealed, not written out.
    """

    kind: str
    name: str
    owner: str
    grants: tuple[str, ...]
    definition: str


def entries(connection: psycopg.Connection[Any]) -> tuple[CatalogEntry, ...]:
    """Return the inventory of the connection's database as a manifest keeps it."""
    return tuple(CatalogEntry(o.kind, o.name, o.owner, o.grants, digest(o)) for o in read(connection))


def digest(catalog_object: CatalogObject) -> str:
    """Return the xxh3-128 of the definition, 32 hexadecimal digits."""
    return xxhash.xxh3_128_hexdigest(catalog_object.definition.encode())


def read(connection: psycopg.Connection[Any]) -> tuple[CatalogObject, ...]:
    """Return the inventory of the connection's database, ordered by kind and name.

    Works in the caller's transaction, five round trips; until that ends the settings that bend the server's
    spelling (search_path, TimeZone …) are pinned. Any role may read; only a superuser sees a subscription's target.
    """
    notes, column_grants = _notes(connection)
    objects = [
        _object(row, notes[row[1], row[2]], column_grants[row[1], row[2]])
        for file in _OBJECTS
        for row in queries.rows(connection, queries.load(file))
    ]
    return tuple(sorted([*objects, *_changed_privileges(connection)], key=lambda o: (o.kind, o.name)))


def _notes(connection: psycopg.Connection[Any]) -> tuple[dict[_Key, dict[str, str]], dict[_Key, list[str]]]:
    notes: dict[_Key, dict[str, str]] = defaultdict(dict)
    column_grants: dict[_Key, list[str]] = defaultdict(list)
    for class_oid, oid, word, text in queries.rows(connection, queries.load("inventory_notes.sql")):
        if word.startswith("("):
            (grant,) = grants.canonical([text])
            column_grants[class_oid, oid].append(f"{word} {grant}")
        else:
            notes[class_oid, oid][word] = text
    return notes, column_grants


def _object(row: tuple[Any, ...], notes: Mapping[str, str], column_grants: Iterable[str]) -> CatalogObject:
    kind, _class_oid, _oid, name, owner, acl, facts = row
    given = [*grants.canonical(acl or ()), *column_grants]
    described = {**json.loads(facts), **notes}
    if secret := described.get("secret"):
        described["secret"] = _sealed(secret, f"{kind} {name}")
    return CatalogObject(kind, name, owner, tuple(sorted(given)), _rendered(described))


def _sealed(secret: str, salt: str) -> str:
    """Digests of definitions stand in a manifest that anybody may read: guessing a password must stay expensive."""
    return hashlib.scrypt(secret.encode(), salt=salt.encode(), n=2**14, r=8, p=1, dklen=16).hex()


def _rendered(facts: Mapping[str, Any]) -> str:
    """Return one fact a line, lists item by item; continued lines are indented further, so no two facts look alike."""
    lines = []
    for word, fact in sorted(facts.items()):
        if fact is None or fact is False or fact in ("", []):
            continue
        if isinstance(fact, list):
            lines += [f"{word}:", *(f"  - {_indented(item)}" for item in fact)]
        else:
            lines.append(f"{word}: {'yes' if fact is True else _indented(fact)}")
    return "\n".join(lines)


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
        now, before = (set(grants.canonical(a, owner=owner)) for a in (acl, initial))
        prefix = f"({part}) " if part else ""
        changes[f"{kind} {identity}"] += [f"+{prefix}{grant}" for grant in now - before]
        changes[f"{kind} {identity}"] += [f"-{prefix}{grant}" for grant in before - now]
    return [CatalogObject("privileges", name, "", tuple(sorted(c)), "") for name, c in changes.items() if c]
