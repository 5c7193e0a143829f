"""The commands that only look: each returns what flyctl prints on stdout (contract 1.1 to 1.4, 1.13, 1.21)."""

from __future__ import annotations

import copy
import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly import machines
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.platform import SPECIAL, newest_release

if TYPE_CHECKING:
    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import App, Machine, World

__all__ = [
    "checks",
    "clusters",
    "config",
    "managed",
    "releases",
    "render",
    "scale_show",
    "status",
    "version",
    "vms",
    "volumes",
    "whoami",
]


def render(value: object) -> str:
    """Return JSON as flyctl renders it: four spaces (contract 0.4)."""
    return json.dumps(value, indent=4) + "\n"


def version(session: Session, world: World) -> str:
    """`fly version`: needs nobody's token (contract 1.1)."""
    number = "0.4.70" if world.has_fault("old-version") else "0.4.87"
    if not session.call.is_set("json"):
        return f"fly v{number} linux/amd64 Commit: 31de2be4 BuildDate: 2026-08-20T12:00:00Z\n"
    told = {"Name": "flyctl", "Version": number, "Commit": "31de2be4", "BranchName": "",
            "BuildDate": "2026-08-20T12:00:00Z", "OS": "linux", "Architecture": "amd64", "Environment": "production"}  # fmt: skip
    return json.dumps(told, separators=(",", ":")) + "\n"


def whoami(session: Session, world: World) -> str:
    """`fly auth whoami` (contract 1.2)."""
    session.scopes(world)
    return render({"email": "me@example.com"}) if session.call.is_set("json") else "me@example.com\n"


def managed(world: World, name: str) -> list[Machine]:
    """Return the machines that Fly manages: v2 metadata, no release command, no console (contract 1.3)."""
    return [
        each
        for each in world.machines(name)
        if (
            metadata := each["shown"]
            .get("config", each["shown"].get("incomplete_config", {}))
            .get("metadata", {})
        )
        and metadata.get("fly_platform_version") == "v2"
        and metadata.get("fly_process_group") not in SPECIAL
    ]


def _shown(world: World, each: Machine) -> dict[str, Any]:
    """Return a machine as the API answers it: zero and empty keys are left out, a lost host has no config (contract 1.4)."""
    shown: dict[str, Any] = copy.deepcopy(each["shown"])
    if shown["host_status"] != "ok" or "unreachable" in world.data["faults"]:
        shown["host_status"] = "unreachable"
        shown["incomplete_config"] = shown.pop("config", {})
    if not shown["events"]:
        del shown["events"]
    if found := _checks_of(each):
        shown["checks"] = found
    return shown


def _checks_of(each: Machine) -> list[dict[str, Any]]:
    wanted = each["shown"].get("config", {}).get("services", [{}])[0].get("checks", [])
    up = each["shown"]["state"] == "started" and (not each["pid"] or machines.answers(each))
    told = (
        {"status": "passing", "output": "200"}
        if up
        else {"status": "critical", "output": "connect: connection refused"}
    )
    return [{"name": f"servicecheck-00-http-{3000 + number}", **told, "updated_at": each["shown"]["updated_at"]}
            for number, _ in enumerate(wanted)]  # fmt: skip


def status(session: Session, world: World) -> str:
    """`fly status` (contract 1.3)."""
    name, app = session.app(world)
    shown = [_shown(world, each) for each in managed(world, name)]
    is_up = any(each["state"] == "started" for each in shown)
    told = {
        "AppURL": f"https://{name}.fly.dev",
        "Deployed": bool(app["releases"]),
        "Hostname": f"{name}.fly.dev",
        "ID": name,
        "Machines": shown,
        "Name": name,
        "Organization": {"ID": "1", "InternalNumericID": "123", "Name": "Personal", "Slug": "personal", "RawSlug": "me",
                         "PaidPlan": False},
        "PlatformVersion": "machines",
        "Status": "deployed" if is_up else "suspended",
        "Version": app["releases"][0]["Version"] if app["releases"] else 0,
    }  # fmt: skip
    if world.has_fault("headless"):
        del told["Machines"]
    return render(told) if session.call.is_set("json") else f"App\n  Name     = {name}\n"


def vms(session: Session, world: World) -> str:
    """`fly machine list`: everything, consoles and `machine run` too (contract 1.4)."""
    name, _ = session.app(world)
    found = [_shown(world, each) for each in world.machines(name)]
    if not session.call.is_set("json"):
        return (
            f"{len(found)} machines have been retrieved from app {name}.\n"
            if found
            else f"No machines are available on this app {name}\n"
        )
    return f"No machines are available on this app {name}\n" if world.has_fault("english") else render(found)


def scale_show(session: Session, world: World) -> str:
    """`fly scale show`: started and stopped machines by group (contract 1.13)."""
    name, _ = session.app(world)
    groups: dict[str, list[Machine]] = {}
    for each in managed(world, name):
        if "config" in each["shown"]:
            groups.setdefault(each["shown"]["config"]["metadata"]["fly_process_group"], []).append(each)
    rows = []
    for group, found in sorted(groups.items()):
        guest = found[0]["shown"]["config"]["guest"]
        rows.append({
            "Process": group, "Count": len(found), "CPUKind": guest["cpu_kind"], "CPUs": guest["cpus"],
            "Memory": guest["memory_mb"], "Regions": dict(Counter(each["shown"]["region"] for each in found)),
        })  # fmt: skip
    return render(rows)


def releases(session: Session, world: World) -> str:
    """`fly releases`, newest first (contract 1.21)."""
    _, app = session.app(world)
    return render(app["releases"][:25])


def checks(session: Session, world: World) -> str:
    """`fly checks list` (contract 1.21)."""
    name, _ = session.app(world)
    return render({each["shown"]["id"]: _checks_of(each) for each in managed(world, name)})


def config(session: Session, world: World) -> str:
    """`fly config show`: the deployed fly.toml as JSON (contract 1.21)."""
    name, app = session.app(world)
    newest_release(app)
    return render(_toml(name, app))


def _toml(name: str, app: App) -> dict[str, Any]:
    """Return the fly.toml of section 9.1; `processes` only if there is more than the one group (contract 9.1: it has none)."""
    told: dict[str, Any] = {"app": name, "primary_region": app["region"], "env": dict(app["env"])}
    served = [group for group, each in app["groups"].items() if each.get("services")]
    if set(app["groups"]) != {"app"}:
        told["processes"] = {group: f"node {group}.js" for group in app["groups"]}
    if served:
        told["http_service"] = {"internal_port": 3000, "force_https": True, "auto_stop_machines": "stop",
                                "auto_start_machines": True, "min_machines_running": 0, "processes": served}  # fmt: skip
    if app["vm"]:
        told["vm"] = [
            {
                "memory": f"{app['vm']['memory_mb']}mb",
                "cpu_kind": app["vm"]["cpu_kind"],
                "cpus": app["vm"]["cpus"],
            }
        ]
    return told


def volumes(session: Session, world: World) -> str:
    """`fly volumes list` (contract 1.21)."""
    _, app = session.app(world)
    return render(app["volumes"])


def clusters(session: Session, world: World) -> str:
    """`fly mpg list`: English where there is none, and nothing for tokens of the old kind (contract 1.20)."""
    if not session.is_of_new_kind:
        raise FlyError("MPG commands require updated tokens but found older-style tokens.")
    if not session.scopes(world) & {"personal", "org", "readonly"}:
        raise FlyError("failed retrieving organization with slug: Not authorized to access this organization")
    organisation = session.call.text("org")
    if not organisation:
        raise FlyError("prompt: non interactive")
    if organisation != world.data["organisation"]:
        raise FlyError(
            f"failed retrieving organization with slug {organisation}: Could not find Organization"
        )
    found = world.data.get("clusters", [])
    return render(found) if found else f"No managed postgres clusters found in organization {organisation}\n"


def missing(command: tuple[str, ...]) -> FlyError:
    """Return what the stand-in says of a command that it does not play."""
    return FlyError(f"the stand-in does not know `fly {' '.join(command)}`")
