"""What changed from one backup to the next, so that a person can see on which night the damage came in; pure."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops import besides
from polyladder_ops.terminal import many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from polyladder_ops.besides import Besides
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.contents import TableData

__all__ = ["Change", "changes", "everything", "one_by_one", "since"]

_COLUMN = re.compile(r'[^(),"\s]+|"(?:[^"]|"")*"')


@dataclass(frozen=True)
class Change:
    """One table of a backup against the backup before: rows then and now, None where the table was not there."""

    table: str
    before: int | None
    after: int | None
    reordered: bool = False  # its columns stand in another order, which is why the digests of its rows differ

    @property
    def lost(self) -> int:
        """How many rows fewer there are."""
        return max(0, (self.before or 0) - (self.after or 0))

    @property
    def rank(self) -> int:
        """How bad it is, as in `besides`; 0 for rows that are gone."""
        if self.kind in ("gone", "changed"):
            return 0 if self.lost else besides.LOST if self.kind == "gone" else besides.ALTERED
        return 0 if self.lost else besides.HARMLESS

    @property
    def kind(self) -> str:
        """One word: new, gone, emptied, grew, fell, reordered, or changed (as many rows, but others)."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        if self.before == self.after:
            return "reordered" if self.reordered else "changed"
        if self.after == 0:
            return "emptied"
        return "grew" if self.after > self.before else "fell"

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.table} is {self.kind} ({many(self.before or self.after or 0, 'row')})"
        if self.kind == "reordered":
            return f"{self.table} has its columns in another order (still {many(self.after, 'row')}, as many bytes)"
        if self.kind == "changed":
            return f"{self.table} changed (still {many(self.after, 'row')})"
        return f"{self.table} {self.kind} by {abs(self.after - self.before):,} ({self.before:,} → {many(self.after, 'row')})"


def changes(before: Backup, now: Backup) -> tuple[Change, ...]:
    """Return the tables whose rows differ between two backups, the greatest losses first.

    Of one whose manifest is sealed only names, rows and bytes are compared, and so of a table whose columns stand in another
    order: an heir's do after each restore.
    """
    is_known = not (before.manifest.is_sealed or now.manifest.is_sealed)
    old = {table.name: table if is_known else replace(table, digest="") for table in before.manifest.tables}
    new = {table.name: table if is_known else replace(table, digest="") for table in now.manifest.tables}
    found = [
        _change(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]
    return tuple(sorted(found, key=_order))


def _change(name: str, old: TableData | None, new: TableData | None) -> Change:
    is_reordered = (
        old is not None
        and new is not None
        and old.columns != new.columns
        and sorted(_COLUMN.findall(old.columns)) == sorted(_COLUMN.findall(new.columns))
        and (old.rows, old.size_bytes) == (new.rows, new.size_bytes)
    )
    return Change(name, old.rows if old else None, new.rows if new else None, is_reordered)


def _order(change: Change | Besides) -> tuple[int, int, bool, int, str]:
    """Return what puts the worst first: lost rows by their number, then all else by its rank, tables first, growth by the least."""
    if isinstance(change, Change):
        grown = (change.after or 0) - (change.before or 0)
        return (change.rank, -change.lost, False, grown, change.table)
    return (change.rank, 0, True, 0, str(change))


def everything(before: Backup, now: Backup) -> tuple[Change | Besides, ...]:
    """Return all that differs between two backups, rows and the rest, the worst first."""
    found: list[Change | Besides] = [*changes(before, now), *besides.changes(before.manifest, now.manifest)]
    return tuple(sorted(found, key=_order))


def since(backups: Sequence[Backup], backup: Backup) -> tuple[Change | Besides, ...] | None:
    """Return what changed since the complete backup before this one; None if there is none. `backups`: newest first."""
    older = backups[backups.index(backup) + 1 :]
    before = next((candidate for candidate in older if candidate.complete), None)
    return None if before is None else everything(before, backup)


def one_by_one(
    oldest_first: Iterable[Backup],
) -> Iterator[tuple[Backup, tuple[Change | Besides, ...] | None]]:
    """Yield each backup with what `since` says of it; no more than two are held."""
    before: Backup | None = None
    for backup in oldest_first:
        yield backup, None if before is None else everything(before, backup)
        before = backup if backup.complete else before
