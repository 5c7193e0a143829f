"""A real PgBouncer before a server, in whichever mode."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.sandbox import place

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HOST = "127.0.0.1"
IGNORED = "options, extra_float_digits"


def program() -> str | None:
    """Return PgBouncer's path, None if it is not installed."""
    return shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@contextlib.contextmanager
def bouncer(
    server: Target, mode: str, *others: Target, ignored: str = IGNORED, **more: str | int
) -> Iterator[Target]:
    """Within the block the target behind a pooler in this mode, which knows `others` of the server's roles too."""
    found, port = program(), place.free_port()
    assert found is not None
    account = portable.system_account(place.ACCOUNT)
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    portable.give_to(folder, account)
    settings: dict[str, str | int] = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": str(folder / "users"),
        "pool_mode": mode,
        "logfile": str(folder / "log"),
        **({"ignore_startup_parameters": ignored} if ignored else {}),
        **more,
    }
    lines = [f"{name} = {value}" for name, value in settings.items()]
    files = {
        "ini": f"[databases]\n* = host={server.host} port={server.port}\n[pgbouncer]\n" + "\n".join(lines),
        "users": _users([server, *others]),
    }
    for name, text in files.items():
        portable.write_private(folder / name, text)
        portable.give_to(folder / name, account)
    process = subprocess.Popen(
        [found, "-q", str(folder / "ini")],
        cwd=folder,
        env=portable.clean_environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **portable.acting_as(account),
    )
    try:
        _wait(process, port, folder)
        yield Target.of(**{**server.parameters, "host": HOST, "port": str(port)})
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder)


def _users(targets: Sequence[Target]) -> str:
    quoted = [[text.replace('"', '""') for text in (t.user, t.password)] for t in targets]
    return "".join(f'"{user}" "{password}"\n' for user, password in quoted)


def _wait(process: subprocess.Popen[bytes], port: int, folder: Path) -> None:
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(OSError), socket.create_connection((HOST, port), timeout=1):
            return
        is_early = process.poll() is None and time.monotonic() < deadline
        assert is_early, (folder / "log").read_text()
        time.sleep(0.02)
