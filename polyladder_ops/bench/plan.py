"""What a person asks the benchmark for."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from polyladder_ops.errors import UsageError

__all__ = ["PARTS", "Link", "Plan", "parse", "parse_scale"]

PARTS = ("backup", "restore", "link", "road", "list")
_LINK_PAIRS = 3
_LISTS = 4


@dataclass(frozen=True)
class Link:
    """A network: how long a question and its answer travel, and how many bytes it takes in each direction."""

    round_trip_s: float = 0.05
    bytes_per_s: float = 10_000_000


@dataclass(frozen=True)
class Plan:
    """How much is measured: `scale` as in the sandbox (1 is about 50 MB of plain SQL), each way `pairs` times."""

    scale: float
    pairs: int
    parts: tuple[str, ...] = PARTS
    link: Link = Link()

    def rounds(self, part: str) -> int:
        """Return how often a part runs: what takes a minute less often, what takes no second more often."""
        if part == "link":
            return min(self.pairs, _LINK_PAIRS)
        return self.pairs * _LISTS if part == "list" else self.pairs


def parse(*, scale: str, pairs: str, only: str = "") -> Plan:
    """Return the plan that these texts ask for; no `only` is all parts. Raise UsageError if one can't be read."""
    size = parse_scale(scale, such_as="0.1, 1 or 12")
    if not re.fullmatch(r"[1-9][0-9]{0,2}", pairs):
        raise UsageError(
            f"--pairs={pairs} is no number of rounds", hint="Write a whole number from 1 to 999, such as 5."
        )
    wanted = only.split(",") if only else PARTS
    if unknown := [part for part in wanted if part not in PARTS]:
        raise UsageError(
            f"--only={only} names no part: {unknown[0]!r}", hint=f"Write one or more of {','.join(PARTS)}."
        )
    return Plan(size, int(pairs), tuple(part for part in PARTS if part in wanted))


def parse_scale(text: str, *, such_as: str) -> float:
    """Return the size that the text names. Raise UsageError if it is none."""
    try:
        size = float(text)
    except ValueError:
        size = math.nan
    if not 0 < size <= 1000:
        raise UsageError(f"--scale={text} is no size", hint=f"Write a number such as {such_as}.")
    return size
