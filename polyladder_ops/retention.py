"""Which backups go and which stay, each with its reason; pure.

A backup goes when it is older than the rule's days, by the manifest's time, unless one of these holds:

- it is pinned;
- it is dated in the future (a clock was wrong, so its age says nothing);
- it is the newest complete one;
- it is one of the newest `keep_verified` verified ones;
- fewer than `keep_verified` are verified at all. Then nothing goes: of backups that nobody has looked at it isn't known
  which are the good ones, and bogus ones must not push those out.

One whose data is missing or cut, and one dated in the future, counts for none of these; an old incomplete one goes.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from polyladder_ops.catalog import Backup

__all__ = ["Decision", "Guards", "Rule", "decide", "guards"]

# A server's clock and ours differ; by more than this one of them is wrong.
_SKEW = timedelta(days=1)


@dataclass(frozen=True)
class Rule:
    """Days for which backups are kept, and how many verified ones stay however old they are (at least one)."""

    days: int
    keep_verified: int


@dataclass(frozen=True)
class Decision:
    """Whether a backup goes or stays, and why."""

    backup: Backup
    goes: bool
    why: str


@dataclass(frozen=True)
class Guards:
    """The backups that must stand while others go: the newest complete one and the newest verified ones."""

    newest: Backup | None
    verified: tuple[Backup, ...]

    @property
    def all(self) -> tuple[Backup, ...]:
        """Each of them, once or twice."""
        return (*([self.newest] if self.newest else []), *self.verified)


def guards(backups: Sequence[Backup], rule: Rule, now: datetime) -> Guards:
    """Return what no deletion may touch, of backups in any order."""
    ordered = sorted(backups, key=lambda backup: (backup.taken_at, backup.id), reverse=True)
    counted = [b for b in ordered if b.complete and not _is_of_the_future(b, now)]
    verified = [backup for backup in counted if backup.verified][: rule.keep_verified]
    return Guards(counted[0] if counted else None, tuple(verified))


def decide(backups: Sequence[Backup], rule: Rule, now: datetime) -> tuple[Decision, ...]:
    """Return a decision on each backup, in the order given."""
    kept = guards(backups, rule, now)
    return tuple(_judge(backup, rule, now, kept) for backup in backups)


def _judge(backup: Backup, rule: Rule, now: datetime, kept: Guards) -> Decision:
    if reason := _reason_to_stay(backup, rule, now, kept):
        return Decision(backup, goes=False, why=reason)
    flaw = f" and not complete: {backup.flaw}" if backup.flaw else ""
    return Decision(backup, goes=True, why=f"older than {_days(rule)}{flaw}")


def _reason_to_stay(backup: Backup, rule: Rule, now: datetime, kept: Guards) -> str:
    """Return the first reason that holds; empty if none does."""
    count, wanted = len(kept.verified), rule.keep_verified
    reasons = {
        "pinned": backup.pinned,
        "dated in the future": _is_of_the_future(backup, now),
        f"not older than {_days(rule)}": now - backup.taken_at <= timedelta(days=rule.days),
        "the newest complete one": kept.newest is not None and backup.path == kept.newest.path,
        f"among the {wanted} newest verified": backup.path in {guard.path for guard in kept.verified},
        f"nothing goes while only {count} of {wanted} are verified": count < wanted,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


def _is_of_the_future(backup: Backup, now: datetime) -> bool:
    return backup.taken_at > now + _SKEW


def _days(rule: Rule) -> str:
    return f"{rule.days} day" + "s" * (rule.days != 1)
