"""Whether a database holds exactly what a dump held: values compared with values; equal or not, no tolerance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from polyladder_ops.postgres.contents import NOT_LOOKED_AT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from polyladder_ops.postgres.contents import Contents, LargeObject, SequenceValue, TableData
    from polyladder_ops.postgres.described import CatalogEntry, Expressions, Inventory

__all__ = ["Difference", "compare_by_replay", "compare_contents", "compare_objects", "moved", "needs_replay"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Difference:
    """One thing that is not as it was dumped; `name` is the table, sequence or object, `part` what of a database differs."""

    kind: str
    name: str
    detail: str
    part: str = ""

    @property
    def item(self) -> str:
        """Its name for `accept`; a database's own is none, since a copy's is made for one run."""
        return f"{self.kind}:{self.part or self.name}"

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.detail}"


def compare_contents(wanted: Contents, found: Contents) -> list[Difference]:
    """Return what differs between a manifest's contents and those read back, each by name."""
    return [
        *_compared(
            "table", {t.name: t for t in wanted.tables}, {t.name: t for t in found.tables}, _rows_differ
        ),
        *_compared(
            "sequence", {s.name: s for s in wanted.sequences}, {s.name: s for s in found.sequences}, moved
        ),
        *_compared(
            "large object",
            {str(o.oid): o for o in wanted.large_objects},
            {str(o.oid): o for o in found.large_objects},
            _bytes_differ,
        ),
    ]


def _rows_differ(wanted: TableData, found: TableData) -> str:
    if found.digest == NOT_LOOKED_AT:
        return (
            "it was not looked at: which of its rows were dumped is up to an extension that is no superuser's"
        )
    if wanted.columns != found.columns:
        return "its columns are not the columns that were dumped"
    if wanted.rows != found.rows:
        return f"it has {found.rows} rows instead of {wanted.rows}"
    return f"its {found.rows} rows are not the rows that were dumped"


def _bytes_differ(wanted: LargeObject, found: LargeObject) -> str:
    if wanted.size_bytes != found.size_bytes:
        return f"it has {found.size_bytes} bytes instead of {wanted.size_bytes}"
    return f"its {found.size_bytes} bytes are not the bytes that were dumped"


def moved(wanted: SequenceValue, found: SequenceValue) -> str:
    """Return where a sequence stands: the same number may be its next one, or the last that was given."""
    said = {True: "called", False: "not called"}
    return (
        f"it stands at {found.value} ({said[found.called]}) instead of {wanted.value} ({said[wanted.called]})"
    )


def _compared(
    kind: str, wanted: Mapping[str, _T], found: Mapping[str, _T], why: Callable[[_T, _T], str]
) -> Iterable[Difference]:
    for name, value in wanted.items():
        if name not in found:
            yield Difference(kind, name, "it is missing")
        elif found[name] != value:
            yield Difference(kind, name, why(value, found[name]))
    yield from (Difference(kind, name, "it was not dumped") for name in found if name not in wanted)


def compare_objects(wanted: Inventory, found: Inventory, rendered: Expressions) -> list[Difference]:
    """Return what differs between the source's catalog objects and those of the database.

    All is held exactly but how a server renders an expression: one that is worded otherwise (``varchar CHECK (x IN …)``
    gains casts on its way through a dump) is equal only if it is what the source's own text comes to on this server,
    which `rendered` says.
    """
    there = {(entry.kind, entry.name): entry for entry in found.entries}
    differences = [
        Difference(entry.kind, entry.name, why)
        for entry in wanted.entries
        if (why := _inexact(entry, there.get((entry.kind, entry.name))))
    ]
    known = {(entry.kind, entry.name) for entry in wanted.entries}
    differences += [Difference(*key, "it was not in the source") for key in there if key not in known]
    named = {(difference.kind, difference.name) for difference in differences}
    return differences + [
        Difference(kind, name, f"its {slot} is not the one that was dumped")
        for (kind, name, slot), text in found.expressions.items()
        if (kind, name) not in named
        and text not in (wanted.expressions.get((kind, name, slot)), rendered.get((kind, name, slot)))
    ]


def _inexact(wanted: CatalogEntry, found: CatalogEntry | None) -> str:
    why = _why(wanted, found)
    if why != _RENDERED and why:
        return why
    return _RENDERED if found and wanted.exact != found.exact else ""


def needs_replay(wanted: Iterable[CatalogEntry], found: Iterable[CatalogEntry]) -> bool:
    """Whether `compare_by_replay` has something to decide by a replay."""
    there = {(entry.kind, entry.name): entry for entry in found}
    return any(_why(entry, there.get((entry.kind, entry.name))) == _RENDERED for entry in wanted)


def compare_by_replay(
    wanted: Iterable[CatalogEntry],
    found: Iterable[CatalogEntry],
    replayed: Callable[[], Iterable[CatalogEntry]],
) -> list[Difference]:
    """Return what differs, of a backup whose manifest holds no expressions: less than `compare_objects` can say.

    A definition that is rendered otherwise is equal if the dump's own statements, replayed into an empty database of the
    same server, render the same: what the dump itself lost is not seen.
    `replayed` gives that database's objects and is called only if there is something to decide.
    """
    there = {(entry.kind, entry.name): entry for entry in found}
    expected = {(entry.kind, entry.name): entry for entry in wanted}
    differences = [
        Difference(kind, name, why)
        for (kind, name), entry in expected.items()
        if (why := _why(entry, there.get((kind, name))))
    ]
    differences += [Difference(*key, "it was not in the source") for key in there if key not in expected]
    if not any(difference.detail == _RENDERED for difference in differences):
        return differences
    again = {(entry.kind, entry.name): entry.definition for entry in replayed()}
    return [
        difference
        for difference in differences
        if difference.detail != _RENDERED
        or again.get((difference.kind, difference.name)) != there[difference.kind, difference.name].definition
    ]


_RENDERED = "its definition is not the one that was dumped"


def _why(wanted: CatalogEntry, found: CatalogEntry | None) -> str:
    if found is None:
        return "it is missing"
    if wanted.owner != found.owner:
        return f"its owner is {found.owner} instead of {wanted.owner}"
    if wanted.grants != found.grants:
        lost = sorted(set(wanted.grants) - set(found.grants))
        gained = sorted(set(found.grants) - set(wanted.grants))
        return "its grants differ: " + "; ".join(
            [f"missing {g}" for g in lost] + [f"added {g}" for g in gained]
        )
    return _RENDERED if wanted.definition != found.definition else ""
