"""The parts of the benchmark one after the other, on one server that is made for them and gone afterwards."""

from __future__ import annotations

import shutil
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from polyladder_ops.bench import stage as stages
from polyladder_ops.bench.linked import Linked
from polyladder_ops.bench.listing import Listing
from polyladder_ops.bench.report import Report, Way
from polyladder_ops.bench.restores import Restores
from polyladder_ops.bench.road import ByRoad, OverLink
from polyladder_ops.bench.stage import Say, Stage
from polyladder_ops.bench.ways import Backups
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.bench.plan import Plan
    from polyladder_ops.usage import Usage

__all__ = ["run"]

_LINK_SCALE = 1.0


class Part(Protocol):
    """Some ways that are measured in turn, and how many bytes of plain SQL each of them moves."""

    plain_bytes: int

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""

    def tidy(self) -> None:
        """Remove what a pair left."""


def run(plan: Plan, *, say: Say) -> Report:
    """Return what was measured; `say` is told each step.

    Raise OpsError if a program of the old way is missing, or if any way fails: a time of a failure is worth nothing.
    """
    began_at, before = datetime.now(UTC), stages.load()
    _look_for_programs(plan)
    ways: list[Way] = []
    with stages.folders() as (home, folder), ExitStack() as ends:
        stage = Stage(home, folder, say)
        machine: dict[str, str] = {}
        for name in plan.parts:
            for part in _parts(name, plan, stage, ends):
                if isinstance(part, Linked | OverLink):
                    machine["link" if name == "link" else f"link of the {name}"] = part.seen()
                ways += _measured(name, part, plan.rounds(name), stage)
        machine |= _data(ways) | stage.versions()
    machine |= {"load before, after": f"{before}; {stages.load()}"}
    return Report(plan, began_at, tuple(ways), machine)


def _look_for_programs(plan: Plan) -> None:
    needed = ("bash", "gzip", "gunzip", *(("ssh", "socat") if "road" in plan.parts else ()))
    if missing := [name for name in needed if shutil.which(name) is None]:
        raise OpsError(
            f"the old way needs {' and '.join(missing)}",
            detail="It is measured exactly as the old scripts did it.",
            hint="Install what is missing, or run the benchmark on Linux or macOS.",
        )


def _parts(name: str, plan: Plan, stage: Stage, ends: ExitStack) -> Iterator[Part]:
    """Yield what a part is made of, each ready to run."""
    small = min(plan.scale, _LINK_SCALE)
    if name == "backup":
        yield Backups(stage, plan.scale)
    elif name == "restore":
        yield Restores(stage, plan.scale)
    elif name == "link":
        yield Linked(stage, small, plan.link, ends)
    elif name == "road":
        yield ByRoad(stage, plan.scale, ends)
        yield OverLink(stage, small, plan.link, ends)
    else:
        yield Listing(stage)


def _measured(name: str, part: Part, pairs: int, stage: Stage) -> Iterator[Way]:
    done = []
    for number in range(1, pairs + 1):
        stage.say(f"{name}: pair {number} of {pairs} …")
        done.append(_round(part, stage))
        part.tidy()
    for way in done[0]:
        yield Way(way, tuple(took[way] for took in done), part.plain_bytes)


def _round(part: Part, stage: Stage) -> dict[str, Usage]:
    took = {}
    for name, way in part.ways().items():
        stage.settle()
        took[name] = way()
    return took


def _data(ways: list[Way]) -> dict[str, str]:
    sizes = sorted({way.plain_bytes for way in ways if way.plain_bytes}, reverse=True)
    return {"data": " and ".join(f"{size:,}" for size in sizes) + " bytes of plain SQL"} if sizes else {}
