"""The whole way from here to the database server inside Fly, with nothing but a token or a login.

SSH with a key of ours leads to the server's own socket, and carries bytes. Where a machine does not let that in, flyctl's own console
runs our commands, and the server is reached by its port; each refusal is told.
"""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import certificates, databases, entrances, primary, tunnel
from polyladder_ops.fly.console import Console
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.remote import Remote, logged_in
from polyladder_ops.postgres import session

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.fly.api import Api
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.primary import Surroundings
    from polyladder_ops.fly.shell import Shell
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["Road", "opened"]

_SSH = 22
_NOT_LET_IN = ("denied", "connection-lost")


@dataclass(frozen=True)
class Road:
    """The machine with the primary, how it is reached, its server as postgres, and the app's databases there.

    `remote` carries bytes to and from the machine; there is none where it lets nobody in but flyctl's own console.
    """

    machine: Machine
    seen: Surroundings
    remote: Remote | None
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
    organisation: Callable[[], str] | None = None,
) -> Iterator[Road]:
    """Within the block a way to the server of the database's app; two calls of flyctl, up to six where ways are refused.

    `folder` is one of ours for what a run keeps for a moment. Raise OpsError or Refused, explained, if there is none.
    """
    say(f"looking for the primary of {app} …")
    machine = primary.find(flyctl, app, organisation=organisation)
    with contextlib.ExitStack() as stack:
        shell = _Shore(flyctl, api, app, folder, say).shell(stack, machine)
        seen = primary.look(shell, needs_password=entrances.needs_password(shell))
        _expect(seen, machine, app)
        server = stack.enter_context(entrances.opened(flyctl, app, machine, seen, shell, folder=folder))
        remote = shell if isinstance(shell, Remote) else None
        yield _looked(machine, replace(seen, password=""), remote, server)


@dataclass(frozen=True)
class _Shore:
    """What it takes to get to a machine."""

    flyctl: Flyctl
    api: Api | None
    app: str
    folder: Path
    say: Callable[[str], None]

    def shell(self, stack: contextlib.ExitStack, machine: Machine) -> Shell:
        """Return a shell on the machine: by SSH with a key of ours; where that is refused, by flyctl's own console."""
        try:
            certificate = certificates.obtained(self.flyctl, self.api, self.app, self.folder)
        except FlyError as error:
            return self._console(machine, error)
        self.say(f"opening a tunnel to machine {machine.id} of {self.app} …")
        answers = tunnel.ssh_answers
        way = stack.enter_context(tunnel.opened(self.flyctl, self.app, machine, _SSH, answers=answers))
        try:
            return stack.enter_context(logged_in(way, certificate))
        except FlyError as error:
            if error.name not in _NOT_LET_IN:
                raise
            stack.close()
            return self._console(machine, error)

    def _console(self, machine: Machine, refused: FlyError) -> Console:
        self.say(f"going by `fly ssh console`, because {refused.in_a_line}")
        return Console(self.flyctl, self.app, machine.id, before=f"Before that: {refused.in_a_line}")


def _looked(machine: Machine, seen: Surroundings, remote: Remote | None, server: Target) -> Road:
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
    way = replace(server.way, system_identifier=found.system_identifier, databases=names)
    return Road(machine, seen, remote, replace(server, way=way), names)


def _expect(seen: Surroundings, machine: Machine, app: str) -> None:
    """Return if the server's own socket is there on the machine. Raise Refused or OpsError if not."""
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
