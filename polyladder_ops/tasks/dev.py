"""Tasks for those who change this project: the checks that CI runs, and the benchmark."""

from __future__ import annotations

import json as json_
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from invoke.collection import Collection

from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks.backup import JSON
from polyladder_ops.tasks.boundary import project_root, refuse_dry, task

if TYPE_CHECKING:
    from invoke.context import Context

__all__ = ["collection"]

PLATFORMS = ("linux", "darwin", "win32")


@task(help={"tests": "Run the tests too (the default); --no-tests is quick."})
def check(c: Context, tests: bool = True) -> None:
    """Run what CI runs: lint, types, tests.

    Examples:
        invoke dev.check
        invoke dev.check --no-tests
    """
    _run("ruff", "format", "--check", ".")
    _run("ruff", "check", ".")
    for platform in PLATFORMS:
        _run("mypy", "--platform", platform)
    if tests:
        _run("pytest", "-n", str(os.cpu_count() or 2))


@task(
    help={
        "scale": "Size of the data: 1 is 50 MB of plain SQL (default: 12, 600 MB).",
        "pairs": "Rounds in which each way runs once, in turn (default: 5).",
        "json": JSON,
    }
)
def bench(c: Context, scale: str = "12", pairs: str = "5", json: bool = False) -> None:
    """Time us against the old scripts' way.

    Runs on a throw-away server with data of this scale and a fixed seed. Prints medians of wall clock and CPU, ratios,
    peak memory, versions and cores; changes nothing else.

    Examples:
        invoke dev.bench
        invoke dev.bench --scale=2 --pairs=3
    """
    refuse_dry(c)
    from polyladder_ops import benchmark

    plan = benchmark.parse(scale=scale, pairs=pairs)
    report = benchmark.run(plan, say=lambda text: print(text, file=sys.stderr, flush=True))
    print(json_.dumps(report.as_json(), indent=1) if json else report.as_text())


def _run(*argv: str) -> None:
    """Run a tool of this environment, its output as it comes. Raise Mismatch if it is not content."""
    print("+", *argv, file=sys.stderr, flush=True)
    done = subprocess.run([sys.executable, "-m", *argv], check=False, cwd=project_root(Path.cwd()))
    if done.returncode:
        raise Mismatch(f"{argv[0]} is not content", hint="Its words are above.")


collection = Collection("dev")
collection.add_task(check, name="check")
collection.add_task(bench, name="bench")
