"""What was measured, as a person and as a program read it; medians, their ratios, and what the targets say of them."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from statistics import median
from typing import TYPE_CHECKING, Any

from polyladder_ops import terminal
from polyladder_ops.bench.targets import (
    COMPARISONS,
    ENOUGH_PAIRS,
    ENOUGH_SCALE,
    MEMORY,
    MEMORY_LIMIT,
    OURS,
    Comparison,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from datetime import datetime

    from polyladder_ops.bench.plan import Plan
    from polyladder_ops.usage import Usage

__all__ = ["Finding", "Report", "Way"]

_GB = 1_000_000_000
NOTES = (
    "CPU and memory are those of the programs named, children included (memory: the largest one); the server's own are not counted",
    "a restore's time counts only if every table then has its source's number of rows, and every kind of object its number",
)


@dataclass(frozen=True)
class Way:
    """One way of doing it and its runs, in their order; `plain_bytes` are those of the SQL that it moved."""

    name: str
    runs: tuple[Usage, ...]
    plain_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Median by the clock on the wall."""
        return median(run.seconds for run in self.runs)

    @property
    def cpu_seconds(self) -> float | None:
        """Median of processor seconds, children included; None where the system does not count them."""
        known = [run.cpu_seconds for run in self.runs if run.cpu_seconds is not None]
        return median(known) if known else None

    @property
    def cpu_seconds_per_gb(self) -> float | None:
        """The same for a gigabyte of plain SQL; None too if it moved none."""
        cpu = self.cpu_seconds
        return None if cpu is None or not self.plain_bytes else cpu * _GB / self.plain_bytes

    @property
    def peak_bytes(self) -> int | None:
        """Memory of the largest process in any run; None if it was not measured."""
        return max((run.peak_bytes for run in self.runs if run.peak_bytes is not None), default=None)


@dataclass(frozen=True)
class Finding:
    """What became of a comparison; `met` is None if there is no target, or if the run was too small to judge."""

    comparison: Comparison
    ratio: float
    cpu_ratio: float | None
    met: bool | None

    def __str__(self) -> str:
        one, other = self.comparison.what, self.comparison.against
        return f"{one} / {other} is {self.ratio:.2f}, at most {self.comparison.target} is the target"


@dataclass(frozen=True)
class Report:
    """What was measured, on what; `machine` are texts by their names."""

    plan: Plan
    began_at: datetime
    ways: tuple[Way, ...]
    machine: Mapping[str, str]

    @property
    def is_judged(self) -> bool:
        """Whether it is large enough to say whether a target is met."""
        return self.plan.scale >= ENOUGH_SCALE and self.plan.pairs >= ENOUGH_PAIRS

    def findings(self) -> list[Finding]:
        """Return what became of every comparison whose two ways were measured, and of memory at last."""
        known = {way.name: way for way in self.ways}
        found = [
            self._finding(each, *_ratio(known[each.what], known[each.against]))
            for each in COMPARISONS
            if each.what in known and each.against in known
        ]
        peaks = [way.peak_bytes for way in self.ways if way.name in OURS and way.peak_bytes]
        return [*found, self._finding(MEMORY, max(peaks) / MEMORY_LIMIT)] if peaks else found

    def _finding(self, comparison: Comparison, ratio: float, cpu_ratio: float | None = None) -> Finding:
        limit = comparison.at_most
        return Finding(
            comparison, ratio, cpu_ratio, ratio <= limit if limit is not None and self.is_judged else None
        )

    def missed(self) -> list[Finding]:
        """Return the findings that miss their target."""
        return [finding for finding in self.findings() if finding.met is False]

    def as_json(self) -> dict[str, Any]:
        """Return everything, each run included, as JSON takes it."""
        return {
            "began_at": self.began_at.isoformat(timespec="seconds"),
            **asdict(self.plan),
            "judged": self.is_judged,
            "ways": [_way_as_json(way) for way in self.ways],
            "comparisons": [_finding_as_json(finding) for finding in self.findings()],
            "machine": dict(self.machine),
            "notes": list(NOTES),
        }

    def as_text(self) -> str:
        """Return the tables that a person reads."""
        ways = [
            (
                way.name,
                _fixed(way.seconds),
                _fixed(way.cpu_seconds),
                _fixed(way.cpu_seconds_per_gb),
                None if way.peak_bytes is None else terminal.size(way.peak_bytes),
            )
            for way in self.ways
        ]
        findings = [
            (f.comparison.what, f.comparison.against, _fixed(f.ratio), _fixed(f.cpu_ratio), f.comparison.target, f.met)
            for f in self.findings()
        ]  # fmt: skip
        runs = [(way.name, " ".join(f"{run.seconds:.2f}" for run in way.runs)) for way in self.ways]
        tables = (
            terminal.table(ways, ("way", "wall s", "CPU s", "CPU s/GB", "peak memory")),
            terminal.table(findings, ("what", "against", "ratio", "CPU ratio", "target", "met"))
            if findings
            else "",
            terminal.table(runs, ("way", "wall s of each run, in order")),
            terminal.table(list(self._circumstances()), ("", "")).lstrip("\n"),
            "\n".join(f"note: {note}" for note in NOTES),
        )
        return "\n\n".join(filter(None, tables))

    def _circumstances(self) -> Iterator[tuple[str, str]]:
        yield "date", self.began_at.strftime("%Y-%m-%d %H:%M UTC")
        yield from self.machine.items()
        rounds = ", ".join(f"{part} {self.plan.rounds(part)}" for part in self.plan.parts)
        yield "run", f"scale {self.plan.scale:g}; pairs in turn: {rounds}"
        if not self.is_judged:
            yield (
                "verdict",
                f"none: a look, since that takes scale {ENOUGH_SCALE} and {ENOUGH_PAIRS} pairs at least",
            )
        else:
            yield "verdict", f"{len(self.missed())} of the targets missed"


def _ratio(one: Way, other: Way) -> tuple[float, float | None]:
    cpu = one.cpu_seconds / other.cpu_seconds if one.cpu_seconds and other.cpu_seconds else None
    return one.seconds / other.seconds, cpu


def _way_as_json(way: Way) -> dict[str, Any]:
    return {
        "name": way.name,
        "plain_bytes": way.plain_bytes,
        "seconds": round(way.seconds, 3),
        "cpu_seconds": _rounded(way.cpu_seconds),
        "cpu_seconds_per_gb": _rounded(way.cpu_seconds_per_gb),
        "peak_bytes": way.peak_bytes,
        "runs": [
            {
                "seconds": round(run.seconds, 3),
                "cpu_seconds": _rounded(run.cpu_seconds),
                "peak_bytes": run.peak_bytes,
            }
            for run in way.runs
        ],
    }


def _finding_as_json(finding: Finding) -> dict[str, Any]:
    return {
        "what": finding.comparison.what,
        "against": finding.comparison.against,
        "ratio": round(finding.ratio, 3),
        "cpu_ratio": _rounded(finding.cpu_ratio),
        "target": finding.comparison.at_most,
        "aim": finding.comparison.aim,
        "met": finding.met,
    }


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _fixed(number: float | None) -> str | None:
    return None if number is None else f"{number:.2f}"
