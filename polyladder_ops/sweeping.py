"""What killed runs left on this machine: every command removes it, and names what it may not.

A kill gives nobody the time to clean up, and what lies there then is production's: rows in half a backup or a scratch
server. So no command waits for one of its own kind. What lives is known by its lock, which the system lets go of with
the process.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from polyladder_ops import trials
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.workspace import Swept, sweep
from polyladder_ops.workspace import is_candidate as is_run

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["sweep_machine"]

_NO_WAIT_S = 0.0  # whoever holds a folder's lock sweeps it, or the next command does


def sweep_machine(state: Path, backups: Path, *, look_only: bool = False) -> Swept:
    """Return what was removed below the state folder and beside the backups, and what is still there; it waits for nobody."""
    swept = Swept()
    for parent in dict.fromkeys((state / "runs", backups)):
        if any(map(is_run, _names(parent))):
            try:
                swept += sweep(parent, timeout_s=_NO_WAIT_S, look_only=look_only)
            except Refused:
                pass
            except OpsError as error:
                swept += Swept(
                    left=(f"what killed runs left in {parent} could not be swept: {error.message}",)
                )
    if _names(state / "scratch"):
        from polyladder_ops.sandbox import scratch  # late: most commands find none

        swept += scratch.sweep(state / "scratch", look_only=look_only)
    tried = (
        state,
        state.parent,
        backups,
        backups.parent,
    )  # the nearest one that is there, before the folder is
    return swept + trials.sweep(dict.fromkeys(tried), look_only=look_only)


def _names(folder: Path) -> list[str]:
    try:
        return os.listdir(folder)  # noqa: PTH208 - names are enough, of ten thousand files
    except OSError:
        return []
