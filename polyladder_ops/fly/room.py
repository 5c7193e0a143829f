"""Which volumes of the database's app have to be how large for a second copy to fit, decided from Fly's list of them; pure.

What is loaded on the primary its replicas get too, so all that have a volume of the same name get the same size.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from polyladder_ops.errors import OpsError, Refused

__all__ = ["Step", "Volume", "read", "steps"]

_GIB = 1 << 30
# A file system on a volume of 1 GB tells of 0.97 GiB; one that tells of less than this has not grown with its volume.
_LEAST_SHARE = 0.8


@dataclass(frozen=True)
class Volume:
    """One volume; `machine` is the id of the machine that it is attached to, empty if it is attached to none."""

    id: str
    name: str
    size_gb: int
    machine: str = ""


@dataclass(frozen=True)
class Step:
    """One volume that is to be made larger."""

    volume: Volume
    size_gb: int

    @property
    def words(self) -> tuple[str, ...]:
        """The words of the command, but the app."""
        return ("volumes", "extend", self.volume.id, "-s", str(self.size_gb), "-y")

    def command(self, app: str) -> str:
        """Return the command as a person types it."""
        return f"fly {' '.join(self.words[:-1])} -a {app} -y"


def read(found: object) -> tuple[Volume, ...]:
    """Return the volumes of Fly's list. Raise OpsError if it is of another shape."""
    rows = found if isinstance(found, list) else [None]
    return tuple(map(_volume, rows))


def _volume(row: object) -> Volume:
    if isinstance(row, Mapping):
        identifier, size = row.get("id"), row.get("size_gb")
        if isinstance(identifier, str) and identifier and isinstance(size, int) and size > 0:
            return Volume(
                identifier, str(row.get("name", "")), size, str(row.get("attached_machine_id") or "")
            )
    raise OpsError(
        "Fly's list of volumes is of another shape than we know",
        detail="Each volume must have an id and a size.",
        hint="Run `fly version upgrade`, then again; report it if this stays.",
    )


def steps(
    volumes: tuple[Volume, ...], machine: str, app: str, *, total_bytes: int, wanted_bytes: int
) -> tuple[Step, ...]:
    """Return what makes a disk of `total_bytes`, as the primary's machine sees it, one of `wanted_bytes`; the primary's last.

    So a replica is never too small for what comes. Raise OpsError if no volume is the machine's, Refused if one was made
    larger and the machine does not see it yet.
    """
    ours = next((each for each in volumes if each.machine == machine), None)
    if ours is None:
        raise OpsError(
            f"no volume of {app} is attached to machine {machine}",
            detail="Which one to enlarge can't be told.",
            hint=f"Look with `fly volumes list -a {app}`.",
        )
    if total_bytes < ours.size_gb * _GIB * _LEAST_SHARE:
        raise not_seen((machine,), app, f"Volume {ours.id} has {ours.size_gb} GB, and the server sees less.")
    size_gb = max(ours.size_gb + 1, math.ceil(wanted_bytes / (total_bytes / ours.size_gb)))
    others = [each for each in volumes if each.machine and each.name == ours.name and each is not ours]
    return tuple(Step(each, size_gb) for each in (*others, ours) if each.size_gb < size_gb)


def not_seen(machines: tuple[str, ...], app: str, detail: str) -> Refused:
    """Return the refusal of a restore before machines were started anew: they see the size that their volumes had."""
    many = len(machines) > 1
    return Refused(
        f"{'machines' if many else 'machine'} {', '.join(machines)} of {app} must be restarted"
        f" before {'their volumes are' if many else 'its volume is'} larger for the server",
        detail=f"{detail} Nothing was restored.",
        hint=f"Run `fly machine restart {' '.join(machines)} -a {app}`: the app has no database for some seconds. Then run the"
        " same command again.",
    )
