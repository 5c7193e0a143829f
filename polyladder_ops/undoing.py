"""Taking back what a run made when it ends or fails, in the sight of who waits.

The error that ended the run stays the error, and tells of what could not be taken back. What is still to be taken back
is known at any moment, for whoever leaves the clean-up (`interrupts.py`).
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops import interrupts
from polyladder_ops.errors import Interrupted, OpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["at_work", "in_sight", "left", "standing", "undo_after", "undone", "undone_if_failing"]

_NEXT_PROOF = "The next proof on that server drops it."
_A_MOMENT_S = 1.0


@dataclass
class _Sight:
    """Who is told of clean-ups, what finishes one that is left, what is to be taken back still, what went wrong."""

    say: Callable[[str], None] = lambda _sentence: None
    finish: str = ""
    standing: list[str] = field(default_factory=list)
    last: list[Callable[[], None]] = field(default_factory=list)
    error: BaseException | None = None
    told: set[str] = field(default_factory=set)


_sights = [_Sight()]  # the last one is told


@contextlib.contextmanager
def in_sight(say: Callable[[str], None], *, finish: str = "") -> Iterator[None]:
    """Within the block `say` hears of each clean-up before it runs; `finish` is the hint that tells what finishes one."""
    _sights.append(_Sight(say, finish))
    try:
        yield
    finally:
        _sights.pop()


@contextlib.contextmanager
def standing(sentence: str, last: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Within the block this would be true if the process ended at once; `last` is what it still does then, in no time."""
    sight = _sights[-1]
    sight.standing.append(sentence)
    sight.last.append(last)
    try:
        yield
    finally:
        sight.standing.remove(sentence)
        sight.last.remove(last)


def left(signal: str) -> OpsError:
    """Return what to tell of a run that ends amid its clean-up, by this signal or, without one, because of its time."""
    sight = _sights[-1]
    for last in reversed(sight.last):
        last()
    there = [f"{sentence}." for sentence in dict.fromkeys(reversed(sight.standing)) if sentence]
    if isinstance(sight.error, OpsError):
        there.append(f"Before that: {sight.error.message}.")
    finish = sight.finish if any(sight.standing) else ""
    said = f"interrupted by {signal}" + (", so the clean-up was left" if any(sight.standing) else "")
    if not signal:
        said = f"the clean-up did not come to its end within {interrupts.LIMIT_S:g} s, and was left"
    kind = Interrupted if signal or isinstance(sight.error, KeyboardInterrupt) else OpsError
    return kind(said, detail=" ".join(there), hint=finish)


@contextlib.contextmanager
def at_work(doing: str, error: BaseException | None = None, *, done: str = "") -> Iterator[None]:
    """Within the block a clean-up, which is told before; and its end too, as `done`, if it took more than a moment."""
    sight = _sights[-1]
    # Dropping ten thousand tables takes its time, and what is proved must not end as a failure for it.
    with interrupts.cleaning(limited=error is not None):
        sight.error = sight.error or error
        if error is not None and doing not in sight.told:
            sight.told.add(doing)
            _say(sight, f"{doing} …")
        began = time.monotonic()
        yield
        if error is not None and done and time.monotonic() - began > _A_MOMENT_S:
            _say(sight, f"{done} ({time.monotonic() - began:.1f} s)")


def _say(sight: _Sight, sentence: str) -> None:
    """Tell it, if anybody is there: a terminal that was closed must not keep anything from being cleaned up."""
    with contextlib.suppress(OSError, ValueError):
        sight.say(sentence)


@contextlib.contextmanager
def undone(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` when the block ends, however it ends; if both fail, the block's own error tells of both."""
    with standing(f"Perhaps still there: {what}"):
        with undone_if_failing(what, undo):
            yield
        with at_work(f"dropping {what}"):
            undo()
    interrupts.held()


@contextlib.contextmanager
def undone_if_failing(what: str, undo: Callable[[], None]) -> Iterator[None]:
    """Call `undo` if the block fails; if that fails too, the block's own error stays the error and tells of both."""
    with standing(f"Perhaps still there: {what}"):
        try:
            yield
        except BaseException as error:
            undo_after(error, what, undo)
            raise


def undo_after(
    error: BaseException,
    what: str,
    undo: Callable[[], None],
    *,
    words: tuple[str, str, str] = ("dropping", "dropped", "there"),
) -> None:
    """Call `undo` because of this error; if that fails too, the error tells of both. Raise Interrupted if it was a Ctrl-C.

    `words` are what it does, what it has done then, what `what` still is otherwise.
    """
    doing, done, is_still = words
    try:
        with at_work(f"{doing} {what}", error, done=f"{done} {what}"):
            undo()
    except OpsError as failed:
        _tell(f"{what} is still {is_still}", failed, error)


def _tell(sentence: str, failed: OpsError, error: BaseException) -> None:
    stays = f"Besides, {sentence}: {failed.detail or failed.message}"
    if isinstance(error, KeyboardInterrupt):
        said = f"interrupted by {str(error) or 'Ctrl-C'}"
        raise Interrupted(said, detail=stays, hint=_sights[-1].finish or _NEXT_PROOF) from error
    if isinstance(error, OpsError):
        error.detail = f"{error.detail} {stays}".strip()
