"""In which order a faithful dump brings back the columns of a table that inherits some: not always in the source's.

pg_dump writes of such a table only what is its own, and the server puts what is inherited before that: the parents'
columns, parent by parent, merged by name, then the others. A partition's columns are written out, in their order.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyladder_ops.postgres import queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import psycopg

__all__ = ["Heir", "expected", "moved", "read"]


@dataclass(frozen=True)
class Heir:
    """A table that inherits or is inherited from; `columns` are quoted, `parents` in the order in which it has them."""

    oid: int
    name: str
    columns: tuple[str, ...]
    parents: tuple[int, ...]


def read(connection: psycopg.Connection[Any]) -> tuple[Heir, ...]:
    """Return the tables of the connection's database that inherit, and those that they inherit from."""
    rows = queries.rows(connection, queries.load("inventory_order.sql"))
    return tuple(Heir(oid, name, tuple(columns), tuple(parents)) for oid, name, columns, parents in rows)


def expected(heirs: Iterable[Heir]) -> dict[int, tuple[str, ...]]:
    """Return for each table the columns in the order in which a faithful dump brings them back."""
    by_oid = {heir.oid: heir for heir in heirs}
    known: dict[int, tuple[str, ...]] = {}
    for oid in by_oid:
        _expect(oid, by_oid, known)
    return known


def _expect(oid: int, by_oid: Mapping[int, Heir], known: dict[int, tuple[str, ...]]) -> tuple[str, ...]:
    if oid not in known:
        heir = by_oid[oid]
        inherited = [name for parent in heir.parents for name in _expect(parent, by_oid, known)]
        known[oid] = tuple(dict.fromkeys([*inherited, *heir.columns]))
    return known[oid]


def moved(heirs: Iterable[Heir]) -> list[str]:
    """Return the names of the tables whose columns come back in another order."""
    heirs = tuple(heirs)
    order = expected(heirs)
    return [heir.name for heir in heirs if order[heir.oid] != heir.columns]
