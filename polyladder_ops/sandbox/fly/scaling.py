"""`fly scale count`: makes machines of the newest release, or destroys them (contract 1.12)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly import platform
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.looking import managed
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import App, Machine, World

__all__ = ["count"]

_DEFAULT = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


def count(session: Session, folder: Path) -> Iterator[str]:
    """Destroy or make machines until each named group has its count; nobody waits for them to start."""
    with changing(folder) as world:
        name, app = session.app(world)
        platform.newest_release(app)
        plan = [(group, _of(world, name, group), wanted) for group, wanted in _wanted(session, app).items()]
        lines = [line for group, have, wanted in plan for line in _lines(session, app, group, have, wanted)]
        if not lines:
            yield "App already scaled to desired state. No need for changes\n"
            return
        yield f"App '{name}' is going to be scaled according to this plan:\n" + "".join(lines)
        if not session.call.is_set("yes"):
            raise FlyError("--yes flag must be specified when not running interactively")
        for _, have, wanted in plan:
            for machine in have[wanted:]:
                platform.lease(world, machine, "scale")
        yield "Executing scale plan\n"
        for group, have, wanted in plan:
            for machine in have[wanted:]:
                yield f"  Destroyed {machine['shown']['id']} group:{group} {_where(machine)}\n"
                platform.destroy(world, name, machine)
            for number in range(wanted - len(have)):
                region = _regions(session, app, world, name)
                made = platform.make(world, name, group=group, region=region[number % len(region)],
                                     guest=_guest(session, app, world, name))  # fmt: skip
                yield f"  Created {made['shown']['id']} group:{group} {_where(made)}\n"


def _of(world: World, name: str, group: str) -> list[Machine]:
    """Return a group's machines; those of a lost host, without config, are skipped silently."""
    return [
        each
        for each in managed(world, name)
        if each["shown"].get("config", {}).get("metadata", {}).get("fly_process_group") == group
    ]


def _wanted(session: Session, app: App) -> dict[str, int]:
    """Return the count by group; a plain number is for `app`, or for -g."""
    wanted: dict[str, int] = {}
    for word in session.call.arguments:
        group, has_group, number = word.rpartition("=")
        if not re.fullmatch(r"\d+", number):
            raise FlyError(f"invalid count: {word}")
        wanted[group if has_group else session.call.text("process-group", "app")] = int(number)
    if unknown := sorted(set(wanted) - set(app["groups"])):
        valid = " ".join(sorted(app["groups"]))
        raise FlyError(
            f"Attempting to scale unknown process groups [{' '.join(unknown)}] but valid names are [{valid}]"
        )
    return wanted


def _lines(session: Session, app: App, group: str, have: list[Machine], wanted: int) -> list[str]:
    more = wanted - len(have)
    if not more:
        return []
    region = have[0]["shown"]["region"] if have else session.call.text("region", app["region"]).split(",")[0]
    guest = have[0]["shown"]["config"]["guest"] if have else (app["vm"] or _DEFAULT)
    return [f"  {more:+4d} machines for group '{group}' on region '{region}' of size '{_size(guest)}'\n"]


def _size(guest: dict[str, Any]) -> str:
    return f"{guest['cpu_kind']}-cpu-{guest['cpus']}x"


def _where(machine: Machine) -> str:
    return f"region:{machine['shown']['region']} size:{_size(machine['shown']['config']['guest'])}"


def _regions(session: Session, app: App, world: World, name: str) -> list[str]:
    """Return -r, else where any group has a machine, else the release's primary region."""
    if given := session.call.text("region"):
        return given.split(",")
    there = list(dict.fromkeys(each["shown"]["region"] for each in managed(world, name)))
    return there or [app["region"]]


def _guest(session: Session, app: App, world: World, name: str) -> dict[str, Any]:
    """Return the size: the release's [[vm]] wins; --vm-* count only without it and without any machine; else 256 MB."""
    if app["vm"]:
        return dict(app["vm"])
    there = managed(world, name)
    if there:
        return dict(there[0]["shown"]["config"]["guest"])
    memory = session.call.text("vm-memory")
    return {**_DEFAULT, **({"memory_mb": int(memory)} if memory else {})}
