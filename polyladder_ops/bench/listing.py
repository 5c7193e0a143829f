"""How long `invoke --list` takes where our tasks are mounted, against a file with one empty task."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from polyladder_ops.bench import targets

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.bench.stage import Stage
    from polyladder_ops.usage import Usage

__all__ = ["Listing"]

_EMPTY = "from invoke import task\n\n\n@task\ndef nothing(c):\n    pass\n"


class Listing:
    """The two ways; the first run of each compiles its file and is not counted."""

    plain_bytes = 0

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._empty = stage.folder / "empty"
        self._empty.mkdir()
        (self._empty / "tasks.py").write_text(_EMPTY, encoding="utf-8")
        for way in self.ways().values():
            way()

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        return {
            targets.LIST: lambda: self._list(self._stage.folder),
            targets.EMPTY_LIST: lambda: self._list(self._empty),
        }

    def tidy(self) -> None:
        """Do nothing: no run leaves anything."""

    def _list(self, folder: Path) -> Usage:
        return self._stage.measured([sys.executable, "-m", "invoke", "--list"], cwd=folder)
