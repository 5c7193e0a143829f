"""The whole way from here to the database server's own socket inside Fly, with nothing but a token or a login."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import certificates, primary, tunnel
from polyladder_ops.fly.bridge import bridged
from polyladder_ops.fly.remote import logged_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.fly.api import Api
    from polyladder_ops.fly.bridge import Bridge
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.primary import Surroundings
    from polyladder_ops.fly.remote import Remote

__all__ = ["USER", "Road", "opened"]

USER = "postgres"
"""Whom the server's own socket lets in without a password; nobody else (contract 4.2)."""
_SSH = 22


@dataclass(frozen=True)
class Road:
    """Where libpq connects as `USER`: `folder` as its host, `port` as its port; and the machine at the other end."""

    machine: Machine
    seen: Surroundings
    remote: Remote
    bridge: Bridge

    @property
    def folder(self) -> Path:
        """The folder of our socket."""
        return self.bridge.folder

    @property
    def port(self) -> int:
        """The number in the socket's name."""
        return self.bridge.port


@contextlib.contextmanager
def opened(
    flyctl: Flyctl,
    api: Api | None,
    app: str,
    folder: Path,
    *,
    say: Callable[[str], None] = lambda _sentence: None,
) -> Iterator[Road]:
    """Within the block a way to the server of the database's app; two calls of flyctl, one more where the API refuses.

    `folder` is one of ours for what a run keeps for a moment. Raise OpsError or Refused, explained, if there is none.
    """
    say(f"looking for the primary of {app} …")
    machine = primary.find(flyctl, app)
    certificate = certificates.obtained(flyctl, api, app, folder)
    say(f"opening a tunnel to machine {machine.id} of {app} …")
    with (
        tunnel.opened(flyctl, app, machine, _SSH, answers=tunnel.ssh_answers) as way,
        logged_in(way, certificate) as remote,
    ):
        seen = primary.look(remote)
        _expect(seen, machine, app)
        with bridged(
            remote, f"exec socat - {shlex.quote(f'UNIX-CONNECT:{seen.socket}')}", seen.port
        ) as bridge:
            yield Road(machine, seen, remote, bridge)


def _expect(seen: Surroundings, machine: Machine, app: str) -> None:
    """Return if the server's own socket can be reached on the machine. Raise Refused or OpsError if not."""
    if seen.is_zombie:
        raise Refused(
            f"{app} has lost its quorum: machine {machine.id} is a zombie",
            detail="PostgreSQL is stopped there on purpose, or lets nobody write; the data is whole.",
            hint=f"In `fly ssh console -a {app}` as postgres: `repmgr -f /data/repmgr.conf cluster show`, then unregister"
            " the member that is gone.",
        )
    if not seen.socket:
        raise OpsError(
            f"PostgreSQL does not run on machine {machine.id} of {app}",
            detail=f"There is no socket of port {seen.port} there.",
            hint=f"Look with `fly logs -a {app}` and `fly checks list -a {app}`.",
        )
    if not seen.has_socat:
        raise OpsError(
            f"machine {machine.id} of {app} has no socat",
            detail="The way to the server's own socket needs it; Fly's image has it.",
            hint="Set DATABASE_URL to the database's address instead.",
        )
