"""The shape of the app's machines that must come back: kept on disk and in the machines' own metadata.

It is written before anything is touched, and never over one that is there: after a crash the machines are no longer as they
were, and what a second run would write down is the accident.
"""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, unusable, working_in
from polyladder_ops.fly.machines import Machine, managed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = [
    "Part",
    "Shape",
    "differences",
    "forget",
    "from_config",
    "from_marks",
    "grown",
    "is_over",
    "load",
    "mark_of",
    "of",
    "of_new_image",
    "save",
    "waits",
    "with_others",
    "without",
]


@dataclass(frozen=True)
class Part:
    """One machine of the shape; `ran` if it was started, `autostart` as in `Machine`. Empty or 0 where it is not known."""

    id: str
    group: str
    region: str
    size: str
    memory_mb: int
    autostart: bool | None
    ran: bool
    image: str = ""


@dataclass(frozen=True)
class Shape:
    """What must come back: machines by group, and each one that is known. `source` says where it was found."""

    app: str
    at: str
    counts: Mapping[str, int]
    parts: tuple[Part, ...]
    source: str = ""

    def part(self, machine: Machine) -> Part | None:
        """Return the part that a machine has in it, by its id."""
        return next((part for part in self.parts if part.id == machine.id), None)

    def regions(self, group: str) -> tuple[str, ...]:
        """Return where the group's machines were, each region once."""
        return tuple(dict.fromkeys(part.region for part in self.parts if part.group == group and part.region))

    def __str__(self) -> str:
        return ", ".join(f"{group}: {count}" for group, count in sorted(self.counts.items())) or "no machine"


def of(app: str, machines: tuple[Machine, ...]) -> Shape:
    """Return the shape that the app's machines have now; of what is marked, the one that its mark says."""
    parts = tuple(_part(each) for each in managed(machines))
    return Shape(app, _now(), dict(Counter(part.group for part in parts)), parts, "now")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _part(machine: Machine) -> Part:
    said = _read_mark(machine.mark)
    autostart = said["autostart"] if said else machine.autostart
    ran = said["ran"] if said else machine.state not in ("stopped", "suspended")
    return Part(
        machine.id,
        machine.group,
        machine.region,
        machine.size,
        machine.memory_mb,
        autostart,
        ran,
        machine.image,
    )


# --- in the machines ---


def mark_of(shape: Shape, machine: Machine) -> str:
    """Return what the machine keeps: `of=app:1/worker:2;autostart=true;ran=true`, without commas, which flyctl may part."""
    part = shape.part(machine) or _part(machine)
    groups = "/".join(f"{group}:{count}" for group, count in sorted(shape.counts.items()))
    autostart = "none" if part.autostart is None else str(part.autostart).lower()
    return f"of={groups};autostart={autostart};ran={str(part.ran).lower()}"


def _read_mark(mark: str) -> dict[str, Any] | None:
    found = re.fullmatch(r"of=((?:[\w-]*:\d+/?)+);autostart=(true|false|none);ran=(true|false)", mark)
    if not found:
        return None
    counts = {group: int(count) for group, count in re.findall(r"([\w-]*):(\d+)", found[1])}
    return {
        "counts": counts,
        "autostart": {"true": True, "false": False, "none": None}[found[2]],
        "ran": found[3] == "true",
    }


def from_marks(app: str, machines: tuple[Machine, ...]) -> Shape | None:
    """Return the shape that the machines themselves tell, None if none of them tells one."""
    said = next((read for each in managed(machines) if (read := _read_mark(each.mark))), None)
    if said is None:
        return None
    # A request can wake what was given its autostart back, and a mark beside it says that a start is not over: it has to run.
    awake = {each.id for each in machines if not each.mark and each.autostart}
    parts = tuple(replace(part, ran=part.ran or part.id in awake) for part in of(app, machines).parts)
    return Shape(app, "", said["counts"], parts, "the machines' metadata")


# --- from Fly's own settings of the app ---


def from_config(app: str, config: Mapping[str, Any], machines: tuple[Machine, ...]) -> Shape:
    """Return what the deployed fly.toml says of groups and autostart, over the machines that are there; one a group at least."""
    processes = config.get("processes")
    groups = sorted(processes) if isinstance(processes, Mapping) and processes else ["app"]
    served = _served(config, groups)
    there = [
        replace(part, autostart=served.get(part.group, part.autostart), ran=True)
        for part in of(app, machines).parts
    ]
    region = str(config.get("primary_region", ""))
    missing = [group for group in groups if group not in {part.group for part in there}]
    made = [Part("", group, region, "", 0, served.get(group), ran=True) for group in missing]
    parts = (*there, *made)
    return Shape(app, "", dict(Counter(part.group for part in parts)), parts, "fly config show")


def _served(config: Mapping[str, Any], groups: list[str]) -> dict[str, bool]:
    """Return whether a request wakes a group, of those that answer requests: [http_service] and [[services]] say it."""
    found: dict[str, bool] = {}
    services = config.get("services")
    for each in (config.get("http_service"), *(services if isinstance(services, list) else ())):
        if isinstance(each, Mapping):
            for group in each.get("processes") or groups:
                found[group] = found.get(group, False) or each.get("auto_start_machines", True) is not False
    return found


# --- on disk ---


def waits(path: Path) -> bool:
    """Whether a shape waits to come back. Raise OpsError if that can't be looked at."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise unusable(path.parent, error) from error
    return True


def save(path: Path, shape: Shape, *, over: bool = False) -> None:
    """Write the shape, durably, whole or not at all. Raise FileExistsError if one waits already, unless `over` is meant.

    Raise OpsError if it can't be written: then nothing of it is there.
    """
    fresh = path.with_name(f"{path.name}.{os.getpid()}")
    with working_in(path.parent):
        portable.make_private_directory(path.parent)
        fresh.unlink(missing_ok=True)
        portable.write_private(fresh, json.dumps(asdict(shape), indent=2) + "\n")
    try:
        if over:
            fresh.replace(path)
        else:
            os.link(fresh, path)
    finally:
        fresh.unlink(missing_ok=True)
    portable.sync_directory(path.parent)


def load(path: Path) -> Shape | None:
    """Return the shape that waits, None if there is none. Raise OpsError if it can't be read."""
    if not waits(path):
        return None
    try:
        return _read(path)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise OpsError(
            f"the shape of the app's machines in {path} can't be read",
            detail=f"{type(error).__name__}. It says what must come back after fly.stop or fly.scale.",
            hint="Look into the file; move it away if the machines are as they should be.",
        ) from error


def _read(path: Path) -> Shape:
    if not path.is_file():
        raise ValueError("no file")  # a pipe would be waited for
    found = json.loads(path.read_text(encoding="utf-8"))
    parts, counts = tuple(Part(**part) for part in found["parts"]), dict(found["counts"])
    texts = [text for part in parts for text in (part.id, part.group, part.region, part.size, part.image)]
    flags = [flag for part in parts for flag in (part.ran, part.autostart is True)]
    numbers = [*counts.values(), *(part.memory_mb for part in parts)]
    if not all(isinstance(text, str) for text in texts) or not all(isinstance(flag, bool) for flag in flags):
        raise TypeError("another kind of value")
    if any(not isinstance(number, int) or number < 0 for number in numbers) or found["app"] != path.stem:
        raise ValueError("a wrong number, or another app")
    return Shape(found["app"], str(found["at"]), counts, parts, str(path))


def forget(path: Path) -> None:
    """Remove the shape: it has come back."""
    path.unlink(missing_ok=True)
    if path.parent.is_dir():
        portable.sync_directory(path.parent)


# --- looking whether it came back ---


def grown(shape: Shape, machines: tuple[Machine, ...]) -> Shape:
    """Return the shape with as many machines as there are, where there are more: somebody made them since."""
    have = Counter(each.group for each in managed(machines))
    return replace(shape, counts={group: max(count, have[group]) for group, count in shape.counts.items()})


def is_over(shape: Shape, machines: tuple[Machine, ...]) -> bool:
    """Whether all of it is there, unmarked, and runs: somebody brought it back from elsewhere."""
    ours = managed(machines)
    new = [each for each in ours if each.group in shape.counts and not shape.part(each)]
    is_up = all(each.state == "started" or each.autostart for each in new)
    return is_up and not any(each.mark for each in ours) and not differences(grown(shape, machines), machines)


def of_new_image(shape: Shape, machines: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return the machines that the shape does not have and whose image nothing of it had."""
    before = {part.image for part in shape.parts}
    return tuple(each for each in managed(machines) if not shape.part(each) and each.image not in before)


def differences(shape: Shape, machines: tuple[Machine, ...], groups: Iterable[str] = ()) -> tuple[str, ...]:
    """Return in what the machines differ from the shape, by group: count, regions, sizes, autostart, what ran; only `groups` if said.

    A group that the shape does not have may have any count: it came back before, or a deploy made it.
    """
    found: list[str] = []
    for group in sorted(set(groups) or {*shape.counts, *(each.group for each in managed(machines))}):
        have = [each for each in managed(machines) if each.group == group]
        had = [part for part in shape.parts if part.group == group]
        if group in shape.counts:
            found += _of_group(group, shape.counts[group], had, have)
        found += [
            f"machine {each.id} of group {group} {what}" for each in have for what in _of_machine(shape, each)
        ]
    return tuple(found)


def _of_group(group: str, count: int, had: list[Part], have: list[Machine]) -> Iterable[str]:
    if len(have) != count:
        yield f"group {group} has {len(have)} of {count} machines"
    if len(had) == count == len(have):
        for what, before, now in (
            ("regions", [part.region for part in had], [each.region for each in have]),
            ("sizes", _sizes(had), _sizes(have)),
        ):
            if all(before) and sorted(before) != sorted(now):
                yield f"group {group} had {what} {' '.join(sorted(before))}, has {' '.join(sorted(now))}"


def _of_machine(shape: Shape, machine: Machine) -> Iterable[str]:
    if not machine.is_known:
        yield "can't be looked at: its host can't be reached"
        return
    part = shape.part(machine)
    before = (
        {part.autostart} if part else {each.autostart for each in shape.parts if each.group == machine.group}
    )
    if machine.autostart is False and before != {False}:
        yield "still has autostart off"
    if part and part.ran and machine.state != "started":
        yield f"ran before and is {machine.state}"


def _sizes(parts: Iterable[Part | Machine]) -> list[str]:
    return [f"{each.size} {each.memory_mb} MB" if each.memory_mb else "" for each in parts]


def with_others(shape: Shape, now: Shape) -> Shape:
    """Return the shape with the groups that it lacks, as they are now."""
    counts = {group: count for group, count in now.counts.items() if group not in shape.counts}
    parts = tuple(part for part in now.parts if part.group in counts)
    return replace(shape, counts={**shape.counts, **counts}, parts=(*shape.parts, *parts))


def without(shape: Shape, group: str) -> Shape:
    """Return the shape without one group: it came back, or somebody decided otherwise."""
    counts = {name: count for name, count in shape.counts.items() if name != group}
    return replace(shape, counts=counts, parts=tuple(part for part in shape.parts if part.group != group))
