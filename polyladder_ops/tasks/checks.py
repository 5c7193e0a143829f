"""The task that asks a database the questions of POLYLADDER_CHECKS: the checklist after a restore."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops import output
from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks.backup import JSON, SITE, print_json
from polyladder_ops.tasks.boundary import is_dry, open_settings, task

if TYPE_CHECKING:
    from invoke.context import Context

__all__ = ["check"]


@task(
    name="check",
    help={
        "database": "Ask this database of the server (default: the live one).",
        "checks": "File with the questions (default: POLYLADDER_CHECKS).",
        "site": SITE,
        "json": JSON,
    },
)
def check(c: Context, database: str = "", checks: str = "", site: str = "", json: bool = False) -> None:
    """Ask the database your questions of POLYLADDER_CHECKS.

    Each in a read-only transaction that is rolled back. Exits 3 if an answer is not the one that the file expects.

    Examples:
        invoke restore.check
        invoke restore.check --database=yesterday --checks=checks.sql
    """
    from pathlib import Path

    from polyladder_ops import checks as checks_
    from polyladder_ops import terminal
    from polyladder_ops.site import Site

    place = Site(open_settings(c, site=site, checks=checks), output.step)
    wanted = checks_.read(Path(place.settings.needed("POLYLADDER_CHECKS")))
    target = place.target()
    target = target.with_database(database) if database else target
    if is_dry(c):
        output.line(f"would ask {target} {len(wanted)} questions")
        return
    for sentence in checks_.who_asks(target):
        output.note(f"note: {sentence}")
    answers = checks_.run(target, wanted)
    if json:
        print_json(
            [
                {
                    "check": a.check.name,
                    "expect": a.check.expect,
                    "ok": a.ok,
                    "seen": a.seen,
                    "seconds": round(a.seconds, 3),
                }
                for a in answers
            ]
        )
    else:
        rows = [
            (a.check.name, a.ok, a.check.expect, a.seen.removeprefix("got "), terminal.duration(a.seconds))
            for a in answers
        ]
        output.lines(terminal.table(rows, ("check", "ok", "expected", "seen", "time")))
    if wrong := [answer for answer in answers if not answer.ok]:
        raise Mismatch(
            f"{len(wrong)} of {len(answers)} answers are not as expected",
            detail="\n        ".join(f"{answer.check.name}: {answer.said}" for answer in wrong[:5]),
            hint=f"Look at {target}, or correct the file if it expects the wrong thing.",
        )
