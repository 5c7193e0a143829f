"""Whether the backups that a deletion leans on are whole: each is read to its end before anything is deleted.

A record tells what somebody saw once. Bytes rot without changing their size or their file's time, and then a backup that
no longer restores would be the reason for which the last one that does is deleted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops import retention, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.retention import Decision

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Catalog, Entry
    from polyladder_ops.retention import Rule

__all__ = ["Damage", "Judged", "Reader", "touched"]


@dataclass(frozen=True)
class Damage:
    """A backup that others would have been deleted for, and what is wrong with it; `seen` if its bytes were all read."""

    backup: Entry
    why: str
    seen: bool

    def __str__(self) -> str:
        return f"{self.backup.id} counts for nothing: {self.why}"


@dataclass(frozen=True)
class Judged:
    """What goes and what stays, the guards that justify it, and those that would have been guards and are damaged."""

    decisions: tuple[Decision[Entry], ...] = ()
    guards: tuple[Entry, ...] = ()
    damages: tuple[Damage, ...] = ()
    enough: bool = False  # as many whole ones stand as the rule wants

    @property
    def any_goes(self) -> bool:
        """Whether anything would be deleted."""
        return any(decision.goes for decision in self.decisions)


@dataclass
class Reader:
    """Reads each guard once, and again only if its file was touched since; reading takes long, so do it before a lock."""

    seen: dict[Path, tuple[object, Damage | None]] = field(default_factory=dict)

    def judge(self, found: Catalog, rule: Rule, now: datetime, *, begun: bool = False) -> Judged:
        """Return a decision on each backup, newest first, by guards that are whole.

        One whose manifest is unusable never goes. Where nothing goes, and no deletion was begun, nothing is read.
        """
        damages: dict[Path, Damage] = {}
        while True:
            kept = retention.guards(found.entries, rule, now, damaged=damages)
            decisions = retention.decide(found.entries, rule, now, damaged=damages)
            usable = tuple(
                _without_odd_data(d) for d in decisions if not d.goes or d.backup.facts is not None
            )
            enough = kept.newest is not None and len(kept.verified) >= rule.keep_verified
            judged = Judged(usable, kept.all, tuple(damages.values()), enough)
            fresh = self._damaged(kept.all) if judged.any_goes or begun else []
            if not fresh:
                return judged
            damages.update({damage.backup.path: damage for damage in fresh})

    def _damaged(self, guards: Sequence[Entry]) -> list[Damage]:
        unique = {guard.path: guard for guard in guards}
        return [damage for guard in unique.values() if (damage := self._look(guard))]

    def _look(self, guard: Entry) -> Damage | None:
        state = touched(guard.path)
        if self.seen.get(guard.path, (None, None))[0] != state or state is None:
            self.seen[guard.path] = (state, _read(guard))
        return self.seen[guard.path][1]


def _without_odd_data(decision: Decision[Entry]) -> Decision[Entry]:
    """Let stay what has a link or a device in its data's place: the data may be elsewhere, and the manifest is all that tells of it."""
    facts = decision.backup.facts if decision.goes else None
    if facts is None or not facts.oddity:
        return decision
    return Decision(decision.backup, goes=False, why="in place of its data is something that is no file")


def _read(guard: Entry) -> Damage | None:
    facts = guard.facts
    assert facts is not None, "what can't be opened guards nothing"
    if facts.failure:
        return Damage(guard, f"its verification failed ({facts.failure})", seen=False)
    try:
        size, sha256 = storage.fingerprint(guard.path)
    except OpsError as error:
        return Damage(guard, f"{error.message}. {error.detail}".rstrip(". "), seen=False)
    if (size, sha256) == (facts.size_bytes, facts.sha256):
        return None
    return Damage(guard, "the file's sha256 is not the one in the manifest", seen=True)


def touched(path: Path) -> tuple[int, int, int] | None:
    """Return what changes when somebody writes to a file; None if it is not there."""
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns
