"""Secrets: kept by the app, known to a machine only once it was updated or made (contract 1.21)."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from polyladder_ops.sandbox.fly import machines, platform
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.looking import managed, render

if TYPE_CHECKING:
    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import App, World

__all__ = ["change", "deploy", "listed", "sync"]

_STAGED = "Secrets have been staged, but not set on VMs. Deploy or update machines in this app for the secrets to take effect.\n"


def listed(session: Session, world: World) -> str:
    """`fly secrets list`: a digest, never a value; Deployed, Partial or Staged by what the machines hold."""
    name, app = session.app(world)
    known = [each["secrets"] for each in managed(world, name)]
    rows = []
    for key, value in sorted(app["secrets"].items()):
        holders = sum(held.get(key) == value for held in known)
        status = "Deployed" if known and holders == len(known) else "Partial" if holders else "Staged"
        rows.append(
            {"name": key, "digest": hashlib.sha256(value.encode()).hexdigest()[:16], "status": status}
        )
    return render(rows)


def change(session: Session, world: World) -> str:
    """`fly secrets set`, `import`, `unset`: started machines restart with the new ones, stopped ones stay; not with --stage."""
    name, app = session.app(world)
    if session.call.command[1] == "unset":
        for key in session.call.arguments:
            app["secrets"].pop(key, None)
    else:
        app["secrets"].update(_given(session))
    app["secrets_version"] += 1
    if session.call.is_set("stage"):
        return _STAGED
    return _deploy(world, name, app)


def _given(session: Session) -> dict[str, str]:
    """Return names with values; `K=-` reads the one value from stdin, `import` lines of K=V."""
    words = session.stdin.splitlines() if session.call.command[1] == "import" else session.call.arguments
    given: dict[str, str] = {}
    for word in words:
        key, has_value, value = word.partition("=")
        if not has_value:
            raise FlyError(f"Secrets must be provided as NAME=VALUE pairs ({key} is invalid)")
        given[key] = session.stdin if value == "-" else value
    return given


def deploy(session: Session, world: World) -> str:
    """`fly secrets deploy`. Raise FlyError if there is no machine."""
    name, app = session.app(world)
    if not managed(world, name):
        raise FlyError("no machines available to deploy")
    return _deploy(world, name, app)


def _deploy(world: World, name: str, app: App) -> str:
    platform.release(world, app, text="Secrets")
    for machine in managed(world, name):
        platform.take_secrets(app, machine)
        if machine["shown"]["state"] == "started":
            machines.force_to_end(machine)
            platform.start(world, name, machine, source="flyd")
    return ""


def sync(session: Session, world: World) -> str:
    """`fly secrets sync`: prints nothing."""
    session.app(world)
    return ""
