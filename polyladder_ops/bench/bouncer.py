"""A PgBouncer in front of the benchmark's server, as many apps have one: it keeps clients out longer than a switch does.

Who waited for the live database hears once that it does not exist; PgBouncer then does not ask the server again for
`server_login_retry` seconds, 15 if nobody has set it.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.sandbox import place

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["PROGRAM", "RETRY_S", "in_front_of", "program"]

PROGRAM = "pgbouncer"
RETRY_S = 1
"""What README tells people to set as `server_login_retry`."""
_STARTS_S = 10.0


def program() -> str:
    """Return the path of PgBouncer, empty if it is not installed."""
    places = ("/usr/sbin", "/usr/local/sbin")
    return shutil.which(PROGRAM) or next(
        (found for folder in places if (found := shutil.which(PROGRAM, path=folder))), ""
    )


@contextlib.contextmanager
def in_front_of(target: Target, folder: Path) -> Iterator[Target]:
    """Within the block a PgBouncer, its files in this new folder, hands sessions of the target's role on; yields its address.

    Raise OpsError if it does not start.
    """
    account, port = portable.system_account(place.ACCOUNT), place.free_port()  # it refuses to run as root
    folder.mkdir(mode=0o700)
    settings = {
        "listen_addr": place.HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "trust",
        "auth_file": "users",  # from its own folder: its account may not pass through those above
        "pool_mode": "session",
        "server_login_retry": RETRY_S,
        "ignore_startup_parameters": "options,extra_float_digits",
        "logfile": "log",
    }
    lines = "".join(f"{name} = {value}\n" for name, value in settings.items())
    portable.write_private(
        folder / "ini", f"[databases]\n* = host={target.host} port={target.port}\n[pgbouncer]\n{lines}"
    )
    portable.write_private(folder / "users", f'"{target.user}" "{target.password}"\n')
    for path in (folder, folder / "ini", folder / "users"):
        portable.give_to(path, account)
    process = portable.start(
        [program(), "-q", "ini"],
        env=portable.clean_environment(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        **portable.acting_as(account),
    )
    try:
        _wait(process, port, folder / "log")
        yield Target.of(**{**target.parameters, "host": place.HOST, "port": str(port)})
    finally:
        portable.end(process)


def _wait(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    deadline = time.monotonic() + _STARTS_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError), socket.create_connection((place.HOST, port)):
            return
        time.sleep(0.05)
    said = log.read_text(encoding="utf-8", errors="replace") if log.exists() else ""
    raise OpsError("PgBouncer does not start", detail=" ".join(said.split())[-500:] or "It said nothing.")
