"""Whether a wait for a server goes on, decided by what the server shows of the session that is waited for.

Work may take an hour (an index); silence ends. The numbers stand in one place, for all threads of a command.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Answer", "Limits", "Seen", "Unanswered", "allow", "limits", "verdict"]


class Unanswered(Exception):  # noqa: N818 - it names what happened
    """Nothing came from a server, and the wait for it was ended; the text says what is known of it."""


@dataclass(frozen=True)
class Limits:
    """How many seconds a wait may take.

    `ask_s` until the server is asked, and while a backend may be idle; `silent_s` without any answer; `unseen_s` with answers
    that do not show the session; `each_s` is what a person allows (`-T`), None if nobody said it.
    """

    ask_s: float = 10.0
    silent_s: float = 30.0
    unseen_s: float = 900.0
    each_s: float | None = None


_limits = Limits()


def limits() -> Limits:
    """Return the limits that hold now."""
    return _limits


@contextlib.contextmanager
def allow(seconds: float | None = None, *, given: Limits | None = None) -> Iterator[None]:
    """Within the block no wait takes longer than these seconds, work or not; None: as long as there is work."""
    global _limits  # noqa: PLW0603 - one command, one set of limits, in all of its threads
    before = _limits
    _limits = given or Limits(each_s=seconds)
    try:
        yield
    finally:
        _limits = before


@dataclass(frozen=True)
class Seen:
    """What the server shows of a session: state ('' if it hides it), what it waits for, seconds in that state."""

    state: str
    waits_for: str
    event: str
    since_s: float


@dataclass(frozen=True)
class Answer:
    """What the server answered, if it did: the session, None if it shows none of it; `refused` if we were not let in."""

    seen: Seen | None
    refused: bool = False


def verdict(
    waited_s: float, answer: Answer | None, limits: Limits, *, idle_s: float, may_come: bool = False
) -> str:
    """Return why a wait of so long ends, as a sentence without its full stop; empty if it goes on.

    `answer` is None if the server has not been heard since the wait began. `idle_s` is how long a backend may be idle
    meanwhile, `may_come` whether its session may not have begun yet.
    """
    if limits.each_s is not None and waited_s >= limits.each_s:
        return f"nothing came from the server for {waited_s:.0f} s, and -T allows {limits.each_s:g} s"
    if answer is None:
        return _after(
            waited_s,
            limits.silent_s,
            "nothing came from the server for {:.0f} s, and it did not answer another question",
        )
    if answer.refused:
        return _after(
            waited_s,
            limits.unseen_s,
            "nothing came from the server for {:.0f} s, and it let nobody in to ask why",
        )
    if answer.seen is None:
        limit_s = limits.silent_s if may_come else limits.ask_s
        return _after(
            waited_s, limit_s, "nothing came for {:.0f} s, and the server has no such session any more"
        )
    return _of_session(waited_s, answer.seen, limits, idle_s)


def _of_session(waited_s: float, seen: Seen, limits: Limits, idle_s: float) -> str:
    if seen.state in ("", "disabled"):
        return _after(
            waited_s,
            limits.unseen_s,
            "nothing came for {:.0f} s, and the server does not show what the session does",
        )
    if (
        seen.event == "ProcSignalBarrier"
    ):  # a DROP DATABASE; who is stuck in a write never hears of it (15 and later)
        return _after(
            waited_s,
            limits.silent_s,
            "the server has waited for {:.0f} s for another of its sessions, which does not answer",
        )
    is_idle = seen.state.startswith("idle") and seen.since_s >= idle_s
    if is_idle or (seen.state == "active" and seen.waits_for == "Client"):
        return _after(
            waited_s,
            idle_s,
            "nothing came for {:.0f} s, and the server waits for us: the link in between is silent",
        )
    return ""


def _after(waited_s: float, limit_s: float, sentence: str) -> str:
    return sentence.format(waited_s) if waited_s >= limit_s else ""
