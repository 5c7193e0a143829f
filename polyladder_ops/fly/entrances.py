"""The two ways in to the database server, once its machine is reached: by its own socket, or by its port with Fly's own password."""

from __future__ import annotations

import contextlib
import shlex
from dataclasses import replace
from typing import TYPE_CHECKING

from polyladder_ops import sockets
from polyladder_ops.errors import BELOW, OpsError
from polyladder_ops.fly import bridge, tunnel
from polyladder_ops.fly.primary import USER
from polyladder_ops.fly.remote import Remote
from polyladder_ops.postgres import hints, session
from polyladder_ops.postgres.conninfo import Target, Way

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.primary import Surroundings
    from polyladder_ops.fly.shell import Shell

__all__ = ["by_port", "by_socket", "needs_password", "opened"]

_MAINTENANCE = "postgres"
# Nobody promises that the machine ends what has lost its connection: what is idle for six hours nobody waits for any more.
_CARRY = f"exec socat -T {6 * 3600} -"
_RESET = r"""printf '%s\n' '\getenv new OPERATOR_PASSWORD' "ALTER ROLE postgres PASSWORD :'new'" | psql -U postgres -p """


def needs_password(shell: Shell) -> bool:
    """Whether the server is reached by its port at all events: flyctl's console carries no sessions, Windows has no such sockets."""
    return not (isinstance(shell, Remote) and sockets.exist())


def opened(
    flyctl: Flyctl, app: str, machine: Machine, seen: Surroundings, shell: Shell, *, folder: Path
) -> AbstractContextManager[Target]:
    """Return a block within which the server can be reached, for `USER`; it raises OpsError if that is not let in."""
    name = f"{app} on Fly (machine {machine.id})"
    if isinstance(shell, Remote) and seen.has_socat and not needs_password(shell):
        return by_socket(shell, seen, name, folder)
    return by_port(flyctl, app, machine, seen, name)


@contextlib.contextmanager
def by_socket(remote: Remote, seen: Surroundings, name: str, folder: Path) -> Iterator[Target]:
    """Within the block the server: `USER` by its own socket, logins of a run by its port inside the machine."""
    own = f"{_CARRY} {shlex.quote(f'UNIX-CONNECT:{seen.socket}')}"
    with (
        bridge.bridged(remote, own, seen.port, folder) as ours,
        bridge.bridged(remote, f"{_CARRY} TCP:127.0.0.1:{seen.port}", seen.port, folder) as theirs,
    ):
        logins = {"host": str(theirs.folder)}
        # SSH does the work of TLS, and the server's own socket has none.
        server = Target.of(
            host=str(ours.folder), port=ours.port, user=USER, dbname=_MAINTENANCE, sslmode="disable"
        )
        with _told(lambda: next(iter(ours.lost), None)):
            yield replace(server, way=Way(name, logins=logins))


@contextlib.contextmanager
def by_port(flyctl: Flyctl, app: str, machine: Machine, seen: Surroundings, name: str) -> Iterator[Target]:
    """Within the block the server, by a tunnel to its port: whoever else uses this computer is asked for a password there.

    Raise OpsError, explained, if Fly's own password is missing, or is not the server's any more.
    """
    if not seen.password:
        raise OpsError(
            f"{app} has no OPERATOR_PASSWORD",
            detail=f"Machine {machine.id} is reached in a way by which its server asks for the password of {USER}.",
            hint=f"Look with `fly secrets list -a {app}`; until it is there again, set DATABASE_URL with a login that you know.",
        )
    with tunnel.opened(flyctl, app, machine, seen.port, answers=tunnel.postgres_answers) as way:
        server = Target.of(
            host=tunnel.HOST, port=way.port, user=USER, password=seen.password, dbname=_MAINTENANCE,
            sslmode="prefer",  # Fly's image has no TLS; the tunnel encrypts
            # Should flyctl die, whoever else uses this computer may take its port, and ask for the password as it is.
            require_auth="scram-sha-256,md5",
        )  # fmt: skip
        server = replace(server, way=Way(name))
        _expect_let_in(server, app, seen.port)
        with _told(way.why_lost):
            yield server


@contextlib.contextmanager
def _told(why_lost: Callable[[], OpsError | None]) -> Iterator[None]:
    """Within the block what fails because the way was lost says what became of it; libpq knows only that the server is gone."""
    try:
        yield
    except OpsError as error:
        if type(error) is not OpsError or (lost := why_lost()) is None:
            raise
        detail = BELOW.join((lost.in_a_line, error.detail))
        hint = lost.hint if error.hint in ("", hints.ASK_DOCTOR) else error.hint
        raise OpsError(error.message, detail=detail, hint=hint) from error


def _expect_let_in(server: Target, app: str, port: int) -> None:
    try:
        session.connect(server).close()
    except OpsError as error:
        if "password authentication failed" not in error.detail:
            raise
        raise OpsError(
            f"OPERATOR_PASSWORD of {app} is not the password of {USER} any more",
            detail=f"Somebody has changed it in the server. {error.detail}",
            hint=f"Set DATABASE_URL with the one that counts; or make it Fly's again, in `fly ssh console -a {app}`:"
            f" `{_RESET}{port}`.",
        ) from error
