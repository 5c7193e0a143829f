"""What changed from one backup to the next, so that a person can see on which night the damage came in; pure."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.terminal import many

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from polyladder_ops.catalog import Backup

__all__ = ["Change", "changes", "one_by_one", "since"]


@dataclass(frozen=True)
class Change:
    """One table of a backup against the backup before: rows then and now, None where the table was not there."""

    table: str
    before: int | None
    after: int | None

    @property
    def kind(self) -> str:
        """One word: new, gone, emptied, grew, fell, or changed (as many rows, but others)."""
        if self.before is None:
            return "new"
        if self.after is None:
            return "gone"
        if self.before == self.after:
            return "changed"
        if self.after == 0:
            return "emptied"
        return "grew" if self.after > self.before else "fell"

    def __str__(self) -> str:
        if self.before is None or self.after is None:
            return f"{self.table} is {self.kind} ({many(self.before or self.after or 0, 'row')})"
        if self.kind == "changed":
            return f"{self.table} changed (still {many(self.after, 'row')})"
        return f"{self.table} {self.kind} by {abs(self.after - self.before):,} ({self.before:,} → {many(self.after, 'row')})"


def changes(before: Backup, now: Backup) -> tuple[Change, ...]:
    """Return the tables whose rows differ between two backups: what is gone or emptied first, then the greatest losses.

    Of one whose manifest is sealed only names, rows and bytes are compared.
    """
    is_known = not (before.manifest.is_sealed or now.manifest.is_sealed)
    old = {table.name: table if is_known else replace(table, digest="") for table in before.manifest.tables}
    new = {table.name: table if is_known else replace(table, digest="") for table in now.manifest.tables}
    found = [
        Change(name, old[name].rows if name in old else None, new[name].rows if name in new else None)
        for name in sorted(old.keys() | new.keys())
        if name not in old or name not in new or old[name] != new[name]
    ]
    return tuple(
        sorted(found, key=lambda change: (bool(change.after), (change.after or 0) - (change.before or 0)))
    )


def since(backups: Sequence[Backup], backup: Backup) -> tuple[Change, ...] | None:
    """Return what changed since the complete backup before this one; None if there is none. `backups`: newest first."""
    older = backups[backups.index(backup) + 1 :]
    before = next((candidate for candidate in older if candidate.complete), None)
    return None if before is None else changes(before, backup)


def one_by_one(oldest_first: Iterable[Backup]) -> Iterator[tuple[Backup, tuple[Change, ...] | None]]:
    """Yield each backup with what `since` says of it; no more than two are held."""
    before: Backup | None = None
    for backup in oldest_first:
        yield backup, None if before is None else changes(before, backup)
        before = backup if backup.complete else before
