"""The whole way from here to the database server's own socket inside Fly, with nothing but a token or a login."""

from __future__ import annotations

import contextlib
import shlex
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import bridge, certificates, databases, primary, tunnel
from polyladder_ops.fly.remote import logged_in
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.fly.api import Api
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.primary import Surroundings
    from polyladder_ops.fly.remote import Remote

__all__ = ["USER", "Road", "opened"]

USER = "postgres"
"""Whom the server's own socket lets in without a password; nobody else (contract 4.2)."""
_SSH = 22
_MAINTENANCE = "postgres"


@dataclass(frozen=True)
class Road:
    """The machine with the primary, how it is reached, its server as `USER`, and the app's databases there."""

    machine: Machine
    seen: Surroundings
    remote: Remote
    server: Target
    databases: tuple[str, ...]

    def target(self, database: str) -> Target:
        """Return this database of the server."""
        return self.server.with_database(database)


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
        with _entered(remote, seen, f"{app} on Fly (machine {machine.id})", folder) as server:
            yield _looked(machine, seen, remote, server)


@contextlib.contextmanager
def _entered(remote: Remote, seen: Surroundings, name: str, folder: Path) -> Iterator[Target]:
    """Within the block the server: `USER` by its own socket, logins of a run by its port inside the machine."""
    own = f"exec socat - {shlex.quote(f'UNIX-CONNECT:{seen.socket}')}"
    with (
        bridge.bridged(remote, own, seen.port, folder) as ours,
        bridge.bridged_port(remote, f"exec socat - TCP:127.0.0.1:{seen.port}") as port,
    ):
        logins = {"host": bridge.HOST, "port": str(port)}
        # SSH does the work of TLS, and the server's own socket has none.
        server = Target.of(
            host=str(ours.folder), port=ours.port, user=USER, dbname=_MAINTENANCE, sslmode="disable"
        )
        yield replace(server, way=Way(name, logins=logins))


def _looked(machine: Machine, seen: Surroundings, remote: Remote, server: Target) -> Road:
    """Return the road, whose sessions will each be expected on the server that answers now. Raise OpsError if it is a standby."""
    with closing(session.connect(server)) as connection:
        found = session.identify(connection)
        names = databases.of_apps(connection)
    assert server.way is not None
    if found.is_standby:
        raise OpsError(
            f"{server.way.name} is a standby",
            detail="Fly's checks call it the primary; they tell of a change up to 15 s late.",
            hint="Run it again in a moment.",
        )
    way = replace(server.way, system_identifier=found.system_identifier)
    return Road(machine, seen, remote, replace(server, way=way), names)


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
