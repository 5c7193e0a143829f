"""The SSH server that Fly's init runs in every machine: certificates of the organisation only, no shell, no forwarding (contract 2.1).

`python -m polyladder_ops.sandbox.fly.hallpass FOLDER APP MACHINE` serves until it is ended, or until its world is gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shlex
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import asyncssh

from polyladder_ops import portable
from polyladder_ops.sandbox.fly import machines, platform, world

__all__ = ["FLYCTL", "serve"]

FLYCTL = "Go"
"""The program that flyctl's own SSH says it is."""

_PORT = 22
_PIECE = 128 << 10


class _Server(asyncssh.SSHServer):
    """Lets nobody in but by a certificate, and opens no way further: asyncssh refuses what is not granted here."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._connection: Any = None

    def connection_made(self, conn: asyncssh.SSHServerConnection) -> None:
        self._connection = conn

    def begin_auth(self, username: str) -> bool:
        del username
        client = self._connection.get_extra_info("client_version")
        with world.changing(self._folder) as here:
            if not client.endswith(f"-{FLYCTL}") and here.has_fault("ssh-denies"):
                self._connection.set_authorized_keys([])
        return True

    def password_auth_supported(self) -> bool:
        return False


async def _run(process: asyncssh.SSHServerProcess[bytes], env: dict[str, str]) -> None:
    """Run the command's words as a program; there is no shell that would make more of them."""
    if process.command is None:
        process.stderr.write(b"a shell is not what this stands for\n")
        process.exit(1)
        return
    words = shlex.split(process.command)
    try:
        # A program outlives the connection that it was started by (contract 6.4, 31).
        child = await asyncio.create_subprocess_exec(
            *words, stdin=PIPE, stdout=PIPE, stderr=PIPE, env=env, cwd="/", start_new_session=True
        )
    except (OSError, IndexError):
        name = words[0] if words else ""
        said = (
            f"fork/exec {name}: no such file or directory"
            if "/" in name
            else f'exec: "{name}": executable file not found in $PATH'
        )
        process.stderr.write(said.encode() + b"\n")
        process.exit(1)
        return
    feeding = asyncio.create_task(_feed(process, child))
    # asyncssh's own redirection may close the channel before the exit code is out.
    await asyncio.gather(_tell(child.stdout, process.stdout), _tell(child.stderr, process.stderr))
    code = await child.wait()
    feeding.cancel()
    process.stdout.write_eof()
    if code < 0:
        process.exit_with_signal({9: "KILL", 15: "TERM"}.get(-code, "ABRT"))
    else:
        process.exit(code)


async def _tell(source: Any, sink: Any) -> None:
    with contextlib.suppress(OSError, asyncssh.Error):
        while piece := await source.read(_PIECE):
            sink.write(piece)
            await sink.drain()


async def _feed(process: asyncssh.SSHServerProcess[bytes], child: asyncio.subprocess.Process) -> None:
    assert child.stdin is not None
    with contextlib.suppress(OSError, asyncssh.Error):
        while piece := await process.stdin.read(_PIECE):
            child.stdin.write(piece)
            await child.stdin.drain()
        child.stdin.close()


async def serve(folder: Path, app: str, identifier: str) -> None:
    """Serve on a port of this machine that the world then knows, while the world is there."""
    with world.changing(folder) as here:
        machine = platform.find(here, app, identifier)
        authority, host_key = here.data["authority"]["public"], machine["ssh"]["host_key"]
        env = portable.clean_environment(
            {**machine["ssh"]["env"], **machine["secrets"], "FLY_MACHINE_ID": identifier}
        )

    async def run(process: Any) -> None:
        await _run(process, env)

    acceptor = await asyncssh.listen(
        machines.HOST,
        0,
        server_factory=lambda: _Server(folder),
        server_host_keys=[asyncssh.import_private_key(host_key)],
        authorized_client_keys=asyncssh.import_authorized_keys(f"cert-authority {authority}"),
        process_factory=run,
        sftp_factory=True,
        encoding=None,
        allow_scp=False,
        agent_forwarding=False,
    )
    with world.changing(folder) as here:
        machine = platform.find(here, app, identifier)
        machine.setdefault("behind", {})[str(_PORT)] = [machines.HOST, acceptor.get_port()]
        machine["ssh"]["pid"] = os.getpid()
    while world.exists(folder):  # noqa: ASYNC110 - who deletes it is another process
        await asyncio.sleep(0.5)


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), sys.argv[2], sys.argv[3]))
