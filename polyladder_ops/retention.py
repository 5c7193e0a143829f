"""Which backups go and which stay, each with its reason; pure.

A backup goes when it is older than the rule's days, by the manifest's time, unless one of these holds:

- it is pinned;
- it is dated in the future (a clock was wrong, so its age says nothing);
- it is the newest complete one;
- it is one of the `keep_verified` verified ones that count first: those that were restored, then those of which only the
  bytes were looked at, each the newest first;
- fewer than `keep_verified` are verified at all. Then nothing goes: of backups that nobody has looked at it isn't known
  which are the good ones, and bogus ones must not push those out.

One whose data is missing or cut, and one dated in the future, counts for none of these; an old incomplete one goes. One
of which it was just seen that it is damaged counts for none either, and stays: somebody has to look at it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Container, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

__all__ = ["Candidate", "Decision", "Guards", "Rule", "decide", "guards"]


class Candidate(Protocol):
    """What is asked of a backup. All but its name and time may have to be read, so it is asked only if it matters."""

    @property
    def id(self) -> str:
        """Its name."""

    @property
    def path(self) -> Path:
        """Its data file, there or not."""

    @property
    def taken_at(self) -> datetime:
        """The server's clock at the snapshot."""

    @property
    def complete(self) -> bool:
        """Whether manifest and data agree."""

    @property
    def level(self) -> str:
        """How deep it was verified, `stored` or `restore`; empty if it is not complete, not verified, or a failure stands."""

    @property
    def pinned(self) -> bool:
        """Whether somebody wants it kept."""

    @property
    def flaw(self) -> str:
        """Why it is not complete; empty if it is."""


B = TypeVar("B", bound=Candidate)

# A server's clock and ours differ; by more than this one of them is wrong.
_SKEW = timedelta(days=1)


@dataclass(frozen=True)
class Rule:
    """Days for which backups are kept, and how many verified ones stay however old they are (at least one)."""

    days: int
    keep_verified: int


@dataclass(frozen=True)
class Decision(Generic[B]):
    """Whether a backup goes or stays, and why."""

    backup: B
    goes: bool
    why: str


@dataclass(frozen=True)
class Guards(Generic[B]):
    """The backups that must stand while others go: the newest complete one and the newest verified ones."""

    newest: B | None
    verified: tuple[B, ...]

    @property
    def all(self) -> tuple[B, ...]:
        """Each of them, once or twice."""
        return (*([self.newest] if self.newest else []), *self.verified)


def guards(
    backups: Sequence[B], rule: Rule, now: datetime, *, damaged: Container[Path] = frozenset()
) -> Guards[B]:
    """Return what no deletion may touch, of backups in any order; the `damaged` ones count for nothing."""
    ordered = sorted(backups, key=lambda backup: (backup.taken_at, backup.id), reverse=True)
    counted = [b for b in ordered if b.path not in damaged and not _is_of_the_future(b, now)]
    newest = next((backup for backup in counted if backup.complete), None)
    # The sort is stable: of the same level the newest first.
    verified = sorted((b for b in counted if b.level), key=lambda b: b.level != "restore")
    return Guards(newest, tuple(verified[: rule.keep_verified]))


def decide(
    backups: Sequence[B], rule: Rule, now: datetime, *, damaged: Container[Path] = frozenset()
) -> tuple[Decision[B], ...]:
    """Return a decision on each backup, in the order given."""
    kept = guards(backups, rule, now, damaged=damaged)
    return tuple(_judge(backup, rule, now, kept, is_damaged=backup.path in damaged) for backup in backups)


def _judge(backup: B, rule: Rule, now: datetime, kept: Guards[B], *, is_damaged: bool) -> Decision[B]:
    if is_damaged:
        return Decision(backup, goes=False, why="damaged, and somebody should look at it")
    if reason := next(_reasons_to_stay(backup, rule, now, kept), ""):
        return Decision(backup, goes=False, why=reason)
    flaw = f" and not complete: {backup.flaw}" if backup.flaw else ""
    return Decision(backup, goes=True, why=f"older than {_days(rule)}{flaw}")


def _reasons_to_stay(backup: B, rule: Rule, now: datetime, kept: Guards[B]) -> Iterator[str]:
    """Yield the reasons that hold; the first one is told."""
    count, wanted = len(kept.verified), rule.keep_verified
    if backup.pinned:
        yield "pinned"
    if _is_of_the_future(backup, now):
        yield "dated in the future"
    if now - backup.taken_at <= timedelta(days=rule.days):
        yield f"not older than {_days(rule)}"
    if kept.newest is not None and backup.path == kept.newest.path:
        yield "the newest complete one"
    if backup.path in {guard.path for guard in kept.verified}:
        yield f"among the {wanted} best verified"
    if count < wanted:
        yield f"nothing goes while only {count} of {wanted} are verified"


def _is_of_the_future(backup: Candidate, now: datetime) -> bool:
    return backup.taken_at > now + _SKEW


def _days(rule: Rule) -> str:
    return f"{rule.days} day" + "s" * (rule.days != 1)
