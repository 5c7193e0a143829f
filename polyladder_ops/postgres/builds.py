"""In which order the index builds of a dump may be done by several connections; a decision, no acts."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from polyladder_ops.postgres.sections import Build

__all__ = ["Builds", "Unit"]


class Builds:
    """The index builds of a section, handed out largest table first.

    Those that must keep their order are one unit for each table; the others of a table follow them one by one.
    """

    def __init__(
        self, builds: Sequence[tuple[str, Build]], blocks: Mapping[str, int], size: Callable[[str], int]
    ) -> None:
        self._blocks = blocks
        chains: dict[str, list[Build]] = {}
        for table, build in builds:
            if build.ordered:
                chains.setdefault(table, []).append(build)
        units = [Unit(table, tuple(chain), first=True) for table, chain in chains.items()]
        units += [Unit(table, (build,), first=False) for table, build in builds if not build.ordered]
        self._waiting = sorted(units, key=lambda unit: -size(unit.table))
        self._unfinished = len(units)
        self._behind = Counter(chains.keys())  # tables whose first unit is not finished

    @property
    def are_taken(self) -> bool:
        """Whether nothing is left to be taken."""
        return not self._waiting

    @property
    def are_finished(self) -> bool:
        """Whether all of them are there."""
        return not self._unfinished

    def take(self, loaded: Mapping[str, int], *, everything: bool) -> Unit | None:
        """Return one that may be built now; `everything` says that all rows are in."""
        for unit in self._waiting:
            if (unit.first or not self._behind[unit.table]) and (everything or self._may_start(unit, loaded)):
                self._waiting.remove(unit)
                return unit
        return None

    def _may_start(self, unit: Unit, loaded: Mapping[str, int]) -> bool:
        blocks = self._blocks.get(unit.table, 0)
        return unit.is_plain and 0 < blocks == loaded[unit.table]

    def finished(self, unit: Unit) -> None:
        """Note that one is there; what follows it may be taken."""
        self._unfinished -= 1
        if unit.first:
            del self._behind[unit.table]


@dataclass(frozen=True)
class Unit:
    """Builds of one table that one connection does after one another; `first` before all others of the table."""

    table: str
    builds: tuple[Build, ...]
    first: bool

    @property
    def is_plain(self) -> bool:
        """Whether it reads nothing but its own table's rows."""
        return all(build.plain for build in self.builds)
