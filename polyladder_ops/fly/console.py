"""Commands on a machine by `fly ssh console`: the last way in, where no key of ours is taken.

flyctl ends with 0 or 1 whatever the command's exit code is, may cut what it printed and end with 0, and prints lines of its own
among it (contract 1.14). So what counts stands between marks that are new for each call, with the command's own exit code.
"""

from __future__ import annotations

import re
import secrets
import shlex
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import BELOW
from polyladder_ops.fly import shell
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.stream import Outcome

if TYPE_CHECKING:
    from polyladder_ops.fly.flyctl import Flyctl

__all__ = ["Console", "marked", "read"]

_OPENING_S = 30.0  # a tunnel and a certificate of its own, for each call
# What the command prints goes straight out, what it says of errors is kept until it has ended.
_MARKED = "printf '%s\\n' {mark}a; exec 3>&1; said=$(bash -c {command} 2>&1 >&3 3>&-); code=$?; "
_MARKED += 'printf \'\\n%s\\n%s\\n%s\\n%s\\n\' {mark}b "$code" "$said" {mark}c'


@dataclass(frozen=True)
class Console:
    """One machine, by flyctl's own SSH; `before` says which ways were tried before this one."""

    flyctl: Flyctl
    app: str
    machine: str
    before: str = ""

    def run(self, command: str, *, limit_s: float = shell.RUN_S) -> str:
        """Return what a shell command printed. Raise FlyError if it does not end well, or not in time."""
        outcome = self.outcome(command, limit_s=limit_s)
        if outcome.code:
            raise shell.failed(command, outcome, self.machine, self.app)
        return outcome.out

    def outcome(self, command: str, *, limit_s: float = shell.RUN_S) -> Outcome:
        """Return how a shell command ended, whatever its exit code. Raise FlyError if that did not come back whole."""
        mark = secrets.token_hex(8)
        words = (
            "ssh",
            "console",
            "--machine",
            self.machine,
            "-q",
            "-C",
            shell.wrapped(marked(command, mark)),
        )
        try:
            text = replace(self.flyctl, deadline_s=limit_s + _OPENING_S).run(*words, app=self.app)
        except FlyError as error:
            raise self._told(error) from error
        if outcome := read(text, mark):
            return outcome
        raise self._told(
            FlyError(
                f"what `{shell.short(command)}` printed on machine {self.machine} was cut",
                detail="`fly ssh console` ended with exit code 0 all the same.",
                hint="Run it again; if this stays, run `fly version upgrade`.",
                name="cut",
                passes=True,
            )
        )

    def _told(self, error: FlyError) -> FlyError:
        """Return the error with what was tried before."""
        detail = BELOW.join(text for text in (error.detail, self.before) if text)
        return FlyError(error.message, detail=detail, hint=error.hint, name=error.name, passes=error.passes)


def marked(command: str, mark: str) -> str:
    """Return a command that prints between marks what this one prints, its exit code, and what it says of errors."""
    return _MARKED.format(mark=mark, command=shlex.quote(command))


def read(text: str, mark: str) -> Outcome | None:
    """Return what stands between the marks, whatever is around them; None if they are not all there. A terminal's CRLF is taken out."""
    whole = rf"{mark}a\n(.*)\n{mark}b\n(\d+)\n(.*)\n{mark}c\n"
    found = re.search(whole, text.replace("\r\n", "\n"), re.DOTALL)
    return Outcome(int(found[2]), found[1], found[3]) if found else None
