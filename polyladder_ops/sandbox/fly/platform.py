"""What Fly's own side does: makes, starts, stops, destroys machines, hands them secrets, holds leases (contract 1.4 to 1.12)."""

from __future__ import annotations

import secrets as random
import time
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly import disks, machines
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.world import timestamp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.sandbox.fly.world import App, Machine, World

__all__ = [
    "destroy", "event", "find", "lease", "make", "newest_release", "release", "start", "stop", "take_secrets", "unlease", "wake",
]  # fmt: skip

SPECIAL = ("fly_app_release_command", "fly_app_console", "fly_app_test_machine_command")


def find(world: World, name: str, identifier: str) -> Machine:
    """Return a machine by its id. Raise FlyError if the app has none of that id."""
    found = world.apps[name]["machines"].get(identifier)
    if found is None:
        raise FlyError(f"machine {identifier} was not found in app '{name}'")
    return found  # type: ignore[no-any-return]


def newest_release(app: App) -> dict[str, Any]:
    """Return the newest release, whether it is complete or failed (contract 1.12). Raise FlyError if there is none."""
    if not app["releases"]:
        raise FlyError(
            "this app has no complete releases. Run `fly deploy` to create one and rerun this command"
        )
    return app["releases"][0]  # type: ignore[no-any-return]


def release(
    world: World, app: App, *, status: str = "complete", image: str = "", text: str = "Release"
) -> None:
    """Add a release; without an image it has the one before it."""
    before = app["releases"][0]["ImageRef"] if app["releases"] else ""
    made = {
        "ID": random.token_hex(8),
        "Version": app["releases"][0]["Version"] + 1 if app["releases"] else 1,
        "Stable": status == "complete",
        "InProgress": False,
        "Reason": "",
        "Description": text,
        "Status": status,
        "DeploymentStrategy": "",
        "Metadata": None,
        "User": {"ID": "1", "Name": "me", "Email": "me@example.com"},
        "EvaluationID": "",
        "CreatedAt": timestamp(),
        "ImageRef": image or before or f"registry.fly.io/polyladder:deployment-01J{world.number('image'):07}",
    }
    app["releases"].insert(0, made)


def make(
    world: World,
    name: str,
    *,
    group: str,
    region: str,
    guest: Mapping[str, Any],
    state: str = "started",
    managed: bool = True,
) -> Machine:
    """Return a new machine of the newest release, with the app's newest secrets, started unless said otherwise."""
    app = world.apps[name]
    image, number = newest_release(app)["ImageRef"], app["releases"][0]["Version"]
    identifier = f"{world.number('machine'):02x}{random.token_hex(6)}"
    metadata = {"fly_process_group": group, "fly_release_id": "r", "fly_release_version": str(number),
                "fly_flyctl_version": "0.4.87"}  # fmt: skip
    if managed:
        metadata["fly_platform_version"] = "v2"
    config: dict[str, Any] = {
        "env": dict(app["env"]),
        "init": {},
        "guest": dict(guest),
        "metadata": metadata,
        "image": image,
        "restart": {"policy": "on-failure", "max_retries": 10},
        "auto_destroy": False,
    }
    config |= {
        key: value
        for key, value in app["groups"].get(group, {}).items()
        if key in ("services", "checks", "mounts") and value
    }
    repository, _, tag = image.rpartition(":")
    now = timestamp()
    shown = {
        "id": identifier,
        "name": f"red-sun-{world.number('name'):04}",
        "state": "stopped",
        "region": region,
        "image_ref": {
            "registry": "registry.fly.io",
            "repository": repository.partition("/")[2],
            "tag": tag,
            "digest": f"sha256:{random.token_hex(32)}",
        },
        "instance_id": f"01J{random.token_hex(11).upper()}",
        "version": f"01J{random.token_hex(11).upper()}",
        "private_ip": f"fdaa:0:1234:a7b:{identifier[:4]}:2",
        "created_at": now,
        "updated_at": now,
        "config": config,
        "events": [],
        "host_status": "ok",
        "cordoned": False,
    }
    machine: Machine = {
        "shown": shown,
        "until": None,
        "next": "",
        "lease": None,
        "port": 0,
        "pid": 0,
        "secrets": {},
        "vault": 0,
    }
    take_secrets(app, machine)
    app["machines"][identifier] = machine
    if state == "started":
        start(world, name, machine, source="user")
    return machine


def take_secrets(app: App, machine: Machine) -> None:
    """Give a machine the newest secrets: so do update, deploy and creation; a restart does not (contract 1.21)."""
    machine["secrets"] = dict(app["secrets"])
    machine["vault"] = app["secrets_version"]


def event(machine: Machine, kind: str, status: str, source: str, **more: Any) -> None:
    """Add an event; only the newest twenty are kept (contract 3)."""
    made = {"type": kind, "status": status, "source": source, "timestamp": round(time.time() * 1000), **more}
    machine["shown"]["events"] = [made, *machine["shown"].get("events", [])][:20]


def start(world: World, name: str, machine: Machine, *, source: str) -> None:
    """Start a stopped machine; it is `started` after a moment in `starting`."""
    machines.start(world, world.apps[name], machine)
    disks.grow(world.apps[name])
    event(machine, "start", "started", source)
    world.becomes(machine, "starting", after_s=world.data["moment_s"], then="started")


def stop(world: World, machine: Machine, *, source: str = "user") -> None:
    """Stop a machine, which is `stopping` for a moment."""
    machines.ask_to_end(machine)
    event(
        machine, "exit", "stopped", source, request={"exit_event": {"exit_code": 0, "requested_stop": True}}
    )
    world.becomes(machine, "stopping", after_s=world.data["moment_s"], then="stopped")


def destroy(world: World, name: str, machine: Machine) -> None:
    """Destroy a machine at once, with kill=true: no signal that it could handle (contract 1.12)."""
    machines.force_to_end(machine)
    del world.apps[name]["machines"][machine["shown"]["id"]]


def wake(world: World, name: str, *, turn: int = 0, only: str = "") -> Machine | None:
    """Do what the proxy does at a request: return a machine that runs or is started now, None if none may be (contract 5.1).

    Those that run take turns; `only` is the one machine that is asked for.
    """
    served = [
        each
        for each in world.machines(name)
        if each["shown"].get("config", {}).get("services") and only in ("", each["shown"]["id"])
    ]
    up = [each for each in served if each["shown"]["state"] in ("started", "starting")]
    asleep = [
        each
        for each in served
        if each["shown"]["state"] in ("stopped", "suspended")
        and each["shown"]["config"]["services"][0].get("autostart", True) is not False
    ]
    if not up and asleep:
        machines.force_to_end(asleep[0])
        start(world, name, asleep[0], source="proxy")
    ready = [each for each in up if each["shown"]["state"] == "started"] or up or asleep[:1]
    return ready[turn % len(ready)] if ready else None


def lease(world: World, machine: Machine, owner: str) -> None:
    """Take a machine's lease. Raise FlyError while somebody else holds it: it outlives whoever was killed (contract 1.5)."""
    held = machine["lease"]
    if world.has_fault("lease-held"):
        held = {"owner": "deploy@example.com", "until": time.time() + 13}
    if held and held["until"] > time.time() and held["owner"] != owner:
        until = timestamp(held["until"])
        raise FlyError(
            f"failed to obtain lease: failed to get lease on VM {machine['shown']['id']}: lease currently held by"
            f" {held['owner'].partition('#')[0]}, expires at {until}"
        )
    if machine["shown"]["host_status"] == "ok":
        machine["lease"] = {"owner": owner, "until": time.time() + world.data["lease_s"]}


def unlease(machine: Machine, owner: str) -> None:
    """Give a lease of ours back."""
    if machine["lease"] and machine["lease"]["owner"] == owner:
        machine["lease"] = None
