"""What changed from one backup to the next besides rows: all else that a manifest holds, by what it means; pure.

An index that is gone, a sequence that was set back, a grant that was taken away: the rows are all there, and the database is
not what it was.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, fields
from functools import cache
from typing import TYPE_CHECKING, TypeVar

from polyladder_ops import expressions
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import grants
from polyladder_ops.terminal import many

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.described import CatalogEntry, DatabaseProperties, Role

__all__ = ["ALTERED", "DATA", "HARMLESS", "LOST", "POSITION", "Besides", "changes"]

DATA, POSITION, LOST, ALTERED, HARMLESS = range(1, 6)
"""How bad a change is, the worst first: data that is no row, a sequence set back, something gone, changed, or new."""
_NAMED = 5  # of many alike
_T = TypeVar("_T")
_Texts = tuple["Callable[[str, str], object]", "Callable[[str, str], object]"]


@dataclass(frozen=True)
class Besides:
    """One thing against the backup before: what it is, its name, what happened to it in a few words, and how bad that is."""

    thing: str
    name: str
    what: str
    rank: int

    def __str__(self) -> str:
        return f"{self.thing} {self.name} {self.what}".replace("  ", " ")


def changes(before: Manifest, now: Manifest) -> tuple[Besides, ...]:
    """Return what differs but for rows, the worst first; of a sealed manifest, or one without objects, only that it isn't known."""
    if before.is_sealed or now.is_sealed:
        return (Besides("the rest is sealed:", "", "set BACKUP_AGE_IDENTITY_FILE to see it", HARMLESS),)
    if not (before.knows_objects and now.knows_objects):
        return ()
    found = [
        *_large_objects(before, now),
        *_sequences(before, now),
        *_objects(before, now),
        *_extensions(before, now),
        *_roles(before, now),
        *_properties(before.properties, now.properties),
        *_rest(before, now),
    ]
    return tuple(sorted(found, key=lambda change: (change.rank, change.thing, change.name)))


def _pairs(old: Mapping[str, _T], new: Mapping[str, _T]) -> Iterator[tuple[str, _T | None, _T | None]]:
    """Yield what differs, by name: then and now, None where it was not there."""
    for name in sorted(old.keys() | new.keys()):
        if old.get(name) != new.get(name):
            yield name, old.get(name), new.get(name)


def _large_objects(before: Manifest, now: Manifest) -> Iterator[Besides]:
    """Yield at most three: there may be as many of them as rows."""
    old, new = ({str(o.oid): o for o in m.large_objects} for m in (before, now))
    differing = list(_pairs(old, new))
    gone = [name for name, _, there in differing if there is None]
    come = [name for name, was, _ in differing if was is None]
    altered = [name for name, was, there in differing if was and there]
    for names, what, rank in ((gone, "gone", DATA), (altered, "changed", DATA), (come, "new", HARMLESS)):
        if names:
            verb = "is" if len(names) == 1 else "are"
            thing = "large object" if len(names) == 1 else "large objects"
            yield Besides(thing, _some(names), what if what == "changed" else f"{verb} {what}", rank)


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def _sequences(before: Manifest, now: Manifest) -> Iterator[Besides]:
    old, new = ({s.name: s for s in m.sequences} for m in (before, now))
    for name, was, there in _pairs(old, new):
        if was and there:
            is_back = (there.value, there.called) < (was.value, was.called)
            moved = f"{was.value:,} → {there.value:,}"
            if was.value == there.value:
                moved += " (not used yet)" if is_back else " (used)"
            what = f"was set back: {moved}" if is_back else f"went on: {moved}"
            yield Besides("sequence", name, what, POSITION if is_back else HARMLESS)


def _objects(before: Manifest, now: Manifest) -> Iterator[Besides]:
    old, new = ({f"{o.kind} {o.name}": o for o in m.objects} for m in (before, now))
    tables = {
        table.name for m in (before, now) for table in m.tables
    }  # that such a one is gone its rows tell
    large = {str(o.oid) for m in (before, now) for o in m.large_objects}
    majors = before.source.server_major, now.source.server_major
    texts = _texts_of(before), _texts_of(now)
    respelled = []
    for _, was, there in _pairs(old, new):
        one = there or was
        assert one is not None
        if was and there:
            yield from _altered(was, there, min(majors))
            defined = _defined(was, there, texts, is_same_major=len(set(majors)) == 1)
            respelled += [f"{one.kind} {one.name}"] if defined == "respelled" else []
            if defined == "otherwise":
                yield Besides(one.kind, one.name, "is defined otherwise", ALTERED)
        elif not (one.kind in ("table", "large object") and one.name in tables | large):
            yield Besides(one.kind, one.name, "is new" if there else "is gone", HARMLESS if there else LOST)
    if respelled:
        what = "may be defined otherwise, or only spelled so by another server"
        yield Besides(f"{many(len(respelled), 'object')}:", _some(respelled), what, ALTERED)


def _altered(was: CatalogEntry, there: CatalogEntry, major: int) -> Iterator[Besides]:
    if was.owner != there.owner:
        yield Besides(was.kind, was.name, f"belongs to {there.owner} instead of {was.owner}", ALTERED)
    old, new = (_privileges(grants.as_of(entry.grants, major)) for entry in (was, there))
    yield from _privileges_moved(was.kind, was.name, old, new)


def _privileges_moved(thing: str, name: str, old: set[str], new: set[str]) -> Iterator[Besides]:
    if lost := sorted(old - new):
        yield Besides(thing, name, f"is no longer granted to {'; '.join(lost)}", LOST)
    if given := sorted(new - old):
        yield Besides(thing, name, f"is granted to {'; '.join(given)}", ALTERED)


def _privileges(sentences: Iterable[str]) -> set[str]:
    """Return each privilege for itself, `PUBLIC: SELECT`, whoever granted it; what is no plain grant as it stands."""
    found = set()
    for sentence in sentences:
        try:
            grant = grants.parse(sentence)
        except OpsError:
            found.add(sentence)
        else:
            found |= {f"{grant.grantee or grants.PUBLIC}: {privilege}" for privilege in grant.privileges}
    return found


def _defined(was: CatalogEntry, there: CatalogEntry, texts: _Texts, *, is_same_major: bool) -> str:
    """Return how an object's definition compares: `same`, `otherwise`, or `respelled` where that can't be told.

    `definition` is of all its text, in which a server's spelling and the order of an heir's columns differ by themselves;
    `exact` is of what has one spelling, in one major, and leaves out the texts of expressions.
    """
    if was.definition == there.definition:
        return "same"
    if not is_same_major:
        return "respelled"
    if was.exact != there.exact or not was.exact:
        return "otherwise"
    old, new = (of(was.kind, was.name) for of in texts)
    if old is None or new is None:
        return "respelled"
    return "same" if old == new else "otherwise"


def _texts_of(manifest: Manifest) -> Callable[[str, str], object]:
    """Return what tells the texts of an object's expressions; None where nobody can open them. Unpacked once, and only if asked."""

    @cache
    def all_texts() -> Mapping[tuple[str, str], dict[str, str]] | None:
        try:
            packed = expressions.unpacked(manifest, [])
        except OpsError:
            return None
        if packed is None:
            return None
        found: dict[tuple[str, str], dict[str, str]] = defaultdict(dict)
        for (kind, name, slot), text in packed.items():
            found[kind, name][slot] = text
        return found

    def of(kind: str, name: str) -> object:
        known = all_texts()
        return None if known is None else known.get((kind, name), {})

    return of


def _extensions(before: Manifest, now: Manifest) -> Iterator[Besides]:
    old, new = ({e.name: e for e in m.extensions} for m in (before, now))
    for name, was, there in _pairs(old, new):
        if was and there:
            told = f"is {there.version} in {there.schema} instead of {was.version} in {was.schema}"
            yield Besides("extension", name, told, ALTERED)
        else:
            yield Besides("extension", name, "is new" if there else "is gone", HARMLESS if there else LOST)


def _roles(before: Manifest, now: Manifest) -> Iterator[Besides]:
    old, new = ({role.name: role for role in m.roles} for m in (before, now))
    for name, was, there in _pairs(old, new):
        if was and there:
            yield Besides("role", name, f"changed: {', '.join(_fields(was, there))}", ALTERED)
        else:
            yield Besides("role", name, "is new" if there else "is gone", HARMLESS if there else LOST)


def _fields(was: Role, there: Role) -> list[str]:
    compared = [field.name for field in fields(was) if field.compare]
    return [name.replace("_", " ") for name in compared if getattr(was, name) != getattr(there, name)]


def _properties(was: DatabaseProperties, there: DatabaseProperties) -> Iterator[Besides]:
    thing = "the database"
    yield from _privileges_moved(thing, "", _privileges(was.grants), _privileges(there.grants))
    old, new = (
        {f"{role or ''} {name}".strip(): value for role, name, value in p.settings} for p in (was, there)
    )
    for name, before, after in _pairs(old, new):
        what = (
            "changed"
            if before is not None and after is not None
            else "is new"
            if before is None
            else "is gone"
        )
        yield Besides("the database's setting", name, what, ALTERED)
    for field in fields(was):
        name = field.name
        if name in ("grants", "settings") or getattr(was, name) == getattr(there, name):
            continue
        long = name in ("comment", "security_labels", "icu_rules")
        told = "changed" if long else f"is {getattr(there, name)} instead of {getattr(was, name)}"
        yield Besides(thing + "'s", name.replace("_", " "), told, ALTERED)


def _rest(before: Manifest, now: Manifest) -> Iterator[Besides]:
    """Yield what is neither an object nor a property: the migration, where it comes from, what is in no dump."""
    facts: list[tuple[str, Callable[[Manifest], object]]] = [
        ("the migration", lambda m: m.migration_head or "none"),
        ("the database's name", lambda m: m.source.database),
        ("the server", lambda m: f"system {m.source.system_identifier}"),
        ("the server", lambda m: f"PostgreSQL {m.source.server_version}"),
    ]
    for thing, fact in facts:
        if fact(before) != fact(now):
            yield Besides(thing, "", f"is {fact(now)} instead of {fact(before)}", ALTERED)
    for gid in sorted(set(now.prepared_transactions) - set(before.prepared_transactions)):
        yield Besides("prepared transaction", gid, "is open, and in no dump", ALTERED)
    for gid in sorted(set(before.prepared_transactions) - set(now.prepared_transactions)):
        yield Besides("prepared transaction", gid, "is open no longer", HARMLESS)
    for sentence in sorted(set(now.lost) - set(before.lost)):
        yield Besides("not in this backup:", sentence, "", LOST)
