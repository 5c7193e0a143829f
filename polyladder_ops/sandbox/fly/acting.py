"""The commands that change machines: each takes leases first, and yields what it prints while it works (contract 1.5, 1.6, 1.11)."""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from polyladder_ops.sandbox.fly import platform
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import App, Machine, World

__all__ = ["destroy", "leased", "start", "stop", "update"]

_OWNER = f"me@example.com#{os.getpid()}"


@contextlib.contextmanager
def leased(session: Session, folder: Path, identifier: str) -> Iterator[str]:
    """Within the block the machine's lease is ours; yield the app's name. A caller that is killed leaves the lease behind."""
    with changing(folder) as world:
        name, _ = session.app(world)
        if world.has_fault("replaced"):
            _replace(world, name, identifier)
        platform.lease(world, platform.find(world, name, identifier), _OWNER)
        freezes = world.has_fault("frozen")
    try:
        while freezes:
            time.sleep(0.05)
        yield name
    finally:
        with changing(folder) as world:
            if identifier in world.apps[name]["machines"]:
                platform.unlease(world.apps[name]["machines"][identifier], _OWNER)


def _replace(world: World, name: str, identifier: str) -> None:
    """A deploy put another machine in this one's place (contract 6.2, 10)."""
    old = platform.find(world, name, identifier)
    shown = old["shown"]
    group = shown["config"]["metadata"]["fly_process_group"]
    state = "started" if shown["state"] == "started" else "stopped"
    platform.make(
        world, name, group=group, region=shown["region"], guest=shown["config"]["guest"], state=state
    )
    platform.destroy(world, name, old)


def _identifiers(session: Session) -> list[str]:
    if not session.call.arguments:
        raise FlyError("a machine ID must be specified when not running interactively")
    return session.call.arguments


def stop(session: Session, folder: Path) -> Iterator[str]:
    """`fly machine stop`: one after the other, the first failure ends it; waits only with -w, and 60 s at most."""
    for identifier in _identifiers(session):
        with leased(session, folder, identifier) as name:
            yield f"Sending kill signal to machine {identifier}...\n"
            with changing(folder) as world:
                machine = platform.find(world, name, identifier)
                if machine["shown"]["state"] not in ("stopped", "stopping") and not world.has_fault(
                    "stop-lies"
                ):
                    platform.stop(world, machine)
            _wait(session, folder, name, identifier)
            yield f"{identifier} has been successfully stopped\n"
        with changing(folder) as world:
            if identifier in world.apps[name]["machines"] and world.has_fault("woken"):
                platform.wake(world, name)


def _wait(session: Session, folder: Path, name: str, identifier: str) -> None:
    limit = min(_seconds(session.call.text("wait-timeout", "0")), 60.0)
    deadline = time.monotonic() + min(limit, _moment(folder) * 20)
    while limit:
        with changing(folder) as world:
            if platform.find(world, name, identifier)["shown"]["state"] == "stopped":
                return
        if time.monotonic() > deadline:
            raise FlyError(f"machine {identifier} did not stop within the wait timeout: deadline_exceeded")
        time.sleep(0.05)


def _moment(folder: Path) -> float:
    with changing(folder) as world:
        return max(float(world.data["moment_s"]), 0.5)


def _seconds(text: str) -> float:
    found = re.fullmatch(r"(\d+)(s|m)?", text)
    if not found:
        raise FlyError(
            f'invalid argument "{text}" for "-w, --wait-timeout" flag: time: invalid duration "{text}"'
        )
    return int(found[1]) * (60 if found[2] == "m" else 1)


def start(session: Session, folder: Path) -> Iterator[str]:
    """`fly machine start`: does not wait for checks; 412 amid `replacing`, no capacity on a full host (contract 1.6)."""
    for identifier in _identifiers(session):
        with leased(session, folder, identifier) as name:
            with changing(folder) as world:
                machine = platform.find(world, name, identifier)
                state = machine["shown"]["state"]
                if world.has_fault("no-capacity"):
                    raise FlyError(
                        "could not start machine due to lack of capacity."
                        f" Try 'flyctl machine clone {identifier} -a {name}'"
                    )
                if state not in ("started", "starting", "stopped", "suspended", "created"):
                    raise FlyError(
                        f"could not start machine {identifier}: failed to start VM {identifier}: failed_precondition:"
                        f" unable to start machine from current state: '{state}'"
                    )
                if state not in ("started", "starting"):
                    platform.start(world, name, machine, source="user")
            yield f"{identifier} has been started\n"


def update(session: Session, folder: Path) -> Iterator[str]:
    """`fly machine update`: a stopped machine is `replacing` for a moment, a started one reboots (contract 1.11)."""
    for identifier in _identifiers(session)[:1]:
        with leased(session, folder, identifier) as name:
            if not session.call.is_set("yes"):
                yield f"Configuration changes to be applied to machine: {identifier} ()\n"
                raise FlyError("yes flag must be specified when not running interactively")
            yield f"Updating machine {identifier}\n"
            with changing(folder) as world:
                _update(session, world, name, platform.find(world, name, identifier))
            yield (
                f"Machine {identifier} updated successfully!\n\nMonitor machine status here:\n"
                f"https://fly.io/apps/{name}/machines/{identifier}\n"
            )


def _update(session: Session, world: World, name: str, machine: Machine) -> None:
    if machine["shown"]["host_status"] != "ok" or "unreachable" in world.data["faults"]:
        raise FlyError("the machine is on an unreachable host, try again later")
    if not world.has_fault("update-lies"):
        _configure(session, machine)
    platform.take_secrets(world.apps[name], machine)
    moment = 3600.0 if world.has_fault("stuck") else float(world.data["moment_s"])
    if machine["shown"]["state"] == "started":
        _reboot(world, world.apps[name], name, machine)
    else:
        world.becomes(machine, "replacing", after_s=moment, then="stopped")


def _reboot(world: World, _app: App, name: str, machine: Machine) -> None:
    from polyladder_ops.sandbox.fly import machines

    machines.force_to_end(machine)
    platform.start(world, name, machine, source="flyd")


def _configure(session: Session, machine: Machine) -> None:
    """Change what the flags say; autostart and autostop only where there are services (contract 1.11)."""
    config = machine["shown"]["config"]
    for service in config.get("services", []):
        if "autostart" in session.call.flags:
            service["autostart"] = session.call.is_set("autostart")
        if "autostop" in session.call.flags:
            service["autostop"] = session.call.text("autostop")
    for pair in session.call.flags.get("metadata", []):
        key, has_value, value = pair.partition("=")
        if not has_value:
            raise FlyError(f"invalid key/value pair specified for metadata: {pair}")
        if value:
            config["metadata"][key] = value
        else:
            config["metadata"].pop(key, None)
    if memory := session.call.text("vm-memory"):
        config["guest"]["memory_mb"] = int(memory)
    if image := session.call.text("image"):
        config["image"] = image


def destroy(session: Session, folder: Path) -> Iterator[str]:
    """`fly machine destroy` (contract 1.8)."""
    for identifier in _identifiers(session):
        with changing(folder) as world:
            name, _ = session.app(world)
            machine = platform.find(world, name, identifier)
            state = machine["shown"]["state"]
            if state == "started" and not session.call.is_set("force"):
                raise FlyError(
                    f"machine {identifier} currently started, either stop first or use --force flag"
                )
            platform.destroy(world, name, machine)
        yield (
            f"machine {identifier} was found and is currently in {state} state, attempting to destroy...\n"
            f"{identifier} has been destroyed\n"
        )


COMMANDS: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {
    ("machine", "stop"): stop,
    ("machine", "start"): start,
    ("machine", "update"): update,
    ("machine", "destroy"): destroy,
}
"""By words what runs."""
