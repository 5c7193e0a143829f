"""Volumes that are made larger, and the `df` of the machine that has one (flyctl, volumes/extend.go; contract 1.21).

This computer's disk is not the machine's: so a machine gets a `df` of its own, first in its PATH, that knows the size of the
stand-in's volume, and counts as used what lies in the folder.
"""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import App, Machine

__all__ = ["COMMANDS", "extend", "give", "grow"]

_KB_A_GB = 1017856  # what ext4 leaves of a volume of 1 GB
_SIZE = "kilobytes"
_RESTART = "You will need to stop and start your Machine to increase the size of the file system\n"
_GROWN = "Your Machine got its volume size extended without needing a restart\n"
_DF = """#!/bin/sh
# `df -Pk FOLDER` or `df -PB1 FOLDER`.
unit=1
for word in "$@"; do
  case "$word" in -*B1*) unit=1024 ;; esac
  folder=$word
done
total=$(cat {size})
used=$(find "$folder" -type f -exec ls -ln {{}} + 2>/dev/null | awk '{{ sum += $5 }} END {{ print int(sum / 1024) }}')
echo "Filesystem blocks Used Available Capacity Mounted-on"
awk -v t="$total" -v u="$used" -v n=$unit 'BEGIN {{ printf "/dev/vdc %d %d %d 0%% /data\\n", t * n, u * n, (t - u) * n }}'
"""


def give(app: App, folder: Path) -> None:
    """Put a `df` for the app's first volume into a folder that each account can enter."""
    (volume,) = app["volumes"][:1]
    app["disk"] = {"volume": volume["id"], "folder": str(folder)}
    path = folder / "df"
    path.write_text(_DF.format(size=shlex.quote(str(folder / _SIZE))), encoding="utf-8")
    path.chmod(0o755)
    grow(app)


def grow(app: App) -> None:
    """Let the file system have the size of its volume, as it has after a start of its machine."""
    if disk := app.get("disk"):
        (size_gb,) = (each["size_gb"] for each in app["volumes"] if each["id"] == disk["volume"])
        path = Path(disk["folder"], _SIZE)
        path.write_text(f"{size_gb * _KB_A_GB}\n", encoding="utf-8")
        path.chmod(0o644)


def extend(session: Session, folder: Path) -> Iterator[str]:
    """`fly volumes extend`: never smaller; most machines see it at once, older ones after a stop and a start."""
    with changing(folder) as world:
        name, app = session.app(world)
        volume, size_gb = _asked(session, app)
        waits = world.has_fault("extend-waits")
        if not world.has_fault("extend-lies"):
            volume["size_gb"] = size_gb
            for machine in world.machines(name):
                _mount(machine, volume)
            if not waits:
                grow(app)
    yield f"{'ID':>20}: {volume['id']}\n{'App':>20}: {name}\n{'Size GB':>20}: {size_gb}\n"
    yield _RESTART if waits else _GROWN


def _asked(session: Session, app: App) -> tuple[dict[str, Any], int]:
    if not session.call.arguments:
        raise FlyError("volume ID must be specified when not running interactively")
    wanted = session.call.text("size")
    if not re.fullmatch(r"\d+", wanted):
        raise FlyError("Volume size must be specified")
    volume = next((each for each in app["volumes"] if each["id"] == session.call.arguments[0]), None)
    if volume is None:
        raise FlyError(f"failed to extend volume: volume {session.call.arguments[0]} not found")
    if int(wanted) <= volume["size_gb"]:
        raise FlyError("failed to extend volume: invalid_argument: a volume can only be made larger")
    return volume, int(wanted)


def _mount(machine: Machine, volume: dict[str, Any]) -> None:
    for mount in machine["shown"].get("config", {}).get("mounts", []):
        if mount["volume"] == volume["id"]:
            mount["size_gb"] = volume["size_gb"]


COMMANDS: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {("volumes", "extend"): extend}
"""By words what runs."""
