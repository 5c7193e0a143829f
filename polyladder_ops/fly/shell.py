"""What runs texts of ours on a machine: by which way is not its user's business."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Protocol

from polyladder_ops.fly.failures import FlyError
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from polyladder_ops.fly.stream import Outcome

__all__ = ["RUN_S", "Shell", "failed", "short", "wrapped"]

RUN_S = 60.0
"""What a command gets, unless said otherwise."""
_LONGEST = 400


class Shell(Protocol):
    """A machine whose shell runs what we tell it."""

    @property
    def machine(self) -> str:
        """The machine's id."""

    def run(self, command: str, *, limit_s: float = RUN_S) -> str:
        """Return what a shell command printed, a text of some kilobytes. Raise FlyError if it does not end well, or not in time."""


def wrapped(command: str) -> str:
    """Return the words that have a shell run the command: Fly's server splits words and knows nothing else (contract 1.14)."""
    return f"bash -c {shlex.quote(command)}"


def short(command: str) -> str:
    """Return how a command is named in a sentence."""
    line = " ".join(command.split())
    return redact(line if len(line) <= 60 else f"{line[:60]}…")


def failed(command: str, outcome: Outcome, machine: str, app: str) -> FlyError:
    """Return what to tell of a command that ended badly; what it printed may be a secret, what it says of errors is none."""
    said = " ".join(redact(outcome.err).split())[:_LONGEST]
    return FlyError(
        f"`{short(command)}` failed on machine {machine}",
        detail=f"It ended with exit code {outcome.code}. {f'It says: {said}' if said else 'It said nothing.'}",
        hint=f"Look with `fly ssh console -a {app}`.",
        name="command-failed",
    )
