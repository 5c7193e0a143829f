"""`fly ssh console -C`: words that a machine runs, as flyctl brings them there and back (contract 1.14).

It talks to the machine's own SSH server, with a certificate for this app that lasts for this call.
"""

from __future__ import annotations

import asyncio
import re
import sys
from typing import TYPE_CHECKING, Any

import asyncssh

from polyladder_ops.sandbox.fly import credentials
from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.hallpass import FLYCTL
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import Machine, World

__all__ = ["COMMANDS", "console"]

_MAY = ("personal", "org", "deploy:{}", "ssh:{}")
_NOT_THERE = re.compile(rb'^(?:exec: "|fork/exec )')


def console(session: Session, folder: Path) -> Iterator[str]:
    """`fly ssh console -C`: stdin goes there until its end; the exit code is 0 or 1, whatever the command's was."""
    with changing(folder) as world:
        name, _ = session.app(world)
        machine, told = _chosen(session, world, name)
        key, certificate = _certificate(session, world, name)
        is_noisy, is_terminal, is_cut = (world.has_fault(each) for each in ("noise", "crlf", "output-cut"))
    yield f"No machine specified, using {machine['shown']['id']} in region iad\n" if is_noisy else told
    words = session.call.text("command")
    out, err, code = asyncio.run(_run(machine, key, certificate, words))
    if is_terminal:
        out, err = (out + err).replace(b"\n", b"\r\n"), b""
    _say(out[: len(out) // 2] if is_cut else out, err)
    if code != 0 and not is_cut:
        raise FlyError(_ended(words, err, code))


def _chosen(session: Session, world: World, name: str) -> tuple[Machine, str]:
    """Return the machine and what is said of the choice; none that is not started is woken."""
    up = [each for each in world.machines(name) if each["shown"]["state"] == "started"]
    if not up:
        raise FlyError(
            f"app {name} has no started VMs.\nIt may be unhealthy or not have been deployed yet.\n"
            "Try the following command to verify:\n\nfly status"
        )
    if named := session.call.text("machine"):
        if found := [each for each in up if each["shown"]["id"] == named]:
            return found[0], ""
        raise FlyError(f'--machine="{named}" not found/started')
    shown = up[0]["shown"]
    return up[0], f"No machine specified, using {shown['id']} in region {shown['region']}\n" if up[1:] else ""


def _certificate(session: Session, world: World, name: str) -> tuple[str, str]:
    """Return a key and a certificate for it, for the machines of this app."""
    if world.has_fault("no-certificate") or not session.scopes(world) & {each.format(name) for each in _MAY}:
        raise FlyError(
            "create ssh certificate: Not authorized to access this issueCertificate"
            " (if you haven't created a key for your org yet, try `flyctl ssh issue`)"
        )
    if world.has_fault("no-tunnel"):
        raise FlyError("ssh: can't build tunnel for personal: tunnel unavailable for organization personal")
    key = credentials.new_key()
    authority = str(world.data["authority"]["private"])
    return key, credentials.signed(authority, credentials.public_of(key), ("root", "fly"), seconds=3600)


async def _run(machine: Machine, key: str, certificate: str, words: str) -> tuple[bytes, bytes, int | None]:
    """Return what the command printed on both streams, and its exit code; None if a signal ended it."""
    behind = machine.get("behind", {}).get("22")
    if not behind:
        raise FlyError(
            f"error connecting to SSH server: connect tcp [{machine['shown']['private_ip']}]:22: operation timed out"
        )
    pair = asyncssh.import_private_key(key), asyncssh.import_certificate(certificate)
    options: dict[str, Any] = {
        "client_version": FLYCTL,
        "known_hosts": None,
        "config": None,
        "agent_path": None,
    }
    try:
        async with asyncssh.connect(*behind, username="root", client_keys=[pair], **options) as connection:
            given = await asyncio.to_thread(sys.stdin.buffer.read)
            done = await connection.run(words, input=given, encoding=None)
    except asyncssh.PermissionDenied:
        raise FlyError("error connecting to SSH server: ssh: unable to authenticate") from None
    except (OSError, asyncssh.Error) as error:
        raise FlyError(f"error connecting to SSH server: ssh: handshake failed: {error}") from None
    code = None if done.exit_signal else done.exit_status
    return _bytes(done.stdout), _bytes(done.stderr), code


def _bytes(came: Any) -> bytes:
    return bytes(came or b"")


def _say(out: bytes, err: bytes) -> None:
    for stream, content in ((sys.stdout, out), (sys.stderr, err)):
        stream.flush()
        stream.buffer.write(content)
        stream.buffer.flush()


def _ended(words: str, err: bytes, code: int | None) -> str:
    if code is None:
        return "ssh shell: wait: remote command exited without exit status or exit signal"
    if _NOT_THERE.match(err):
        return f"ssh shell: ssh: command {words} failed"
    return f"ssh shell: Process exited with status {code}"


COMMANDS: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {("ssh", "console"): console}
"""By words what runs."""
