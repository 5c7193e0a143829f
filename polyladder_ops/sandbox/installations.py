"""Which PostgreSQL servers could be started here, and the one for a proof: of the major that the backup came from.

Another major may write the same thing otherwise, so that nothing is proved by what comes out there. What the system has
installed is only run, on a folder of ours: its own clusters, services and settings are left alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.portable import Account

__all__ = ["Installation", "choose", "embedded", "examine", "find", "how_to_install"]

_PROGRAMS = ("initdb", "pg_ctl", "postgres")
_TIMEOUT_S = 15.0


@dataclass(frozen=True)
class Installation:
    """A PostgreSQL whose programs lie in `folder`; `is_embedded` if it is the wheel's."""

    folder: Path
    major: int
    is_embedded: bool = False

    def __str__(self) -> str:
        return "the embedded PostgreSQL" if self.is_embedded else f"PostgreSQL {self.major} in {self.folder}"


def find(account: Account | None = None) -> tuple[Installation, ...]:
    """Return what could be started, by the account that is given: the system's own in the usual places, on PATH, the wheel's."""
    folders = [Path(folder) for folder in clients.folders()]
    configured = shutil.which("pg_config")
    if configured and (said := _said(configured, "--bindir")):
        folders.append(Path(said.strip()))
    found = [examine(folder) for folder in dict.fromkeys(_real(folder) for folder in folders)]
    local = [one for one in found if one is not None and portable.is_reachable(one.folder, account)]
    wheel = embedded()
    return (*([wheel] if wheel else []), *(one for one in local if not wheel or one.folder != wheel.folder))


def choose(found: Sequence[Installation], major: int) -> Installation:
    """Return the installation for a proof of a backup of this major: one of it, else the embedded one, which proves less.

    Raise OpsError if there is neither.
    """
    fitting = [one for one in found if one.major == major] or [one for one in found if one.is_embedded]
    if not fitting:
        raise OpsError(
            f"there is no PostgreSQL {major} here to restore into",
            detail="Neither a local installation of it nor the embedded one was found.",
            hint=how_to_install(major),
        )
    return fitting[0]


def how_to_install(major: int) -> str:
    """Return the sentence that says how to get a server for proofs of this major."""
    return (
        f"Install PostgreSQL {major}'s server (Debian: {clients.for_debian(f'postgresql-{major}')};"
        f" macOS: `brew install postgresql@{major}`), or set POLYLADDER_SCRATCH_URL to a server of version {major}."
    )


@cache
def examine(folder: Path) -> Installation | None:
    """Return the installation whose programs lie there, None if there is no whole one or it does not say its version."""
    if not all(shutil.which(program, path=str(folder)) for program in _PROGRAMS):
        return None
    postgres = shutil.which("postgres", path=str(folder))
    version = re.match(r"postgres \(PostgreSQL\) (\d+)", _said(str(postgres), "--version"))
    return Installation(folder, int(version[1])) if version else None


def embedded() -> Installation | None:
    """Return the wheel's, None if it is not installed."""
    folder = clients.embedded_folder()
    found = examine(folder) if folder else None
    return Installation(found.folder, found.major, is_embedded=True) if found else None


def _real(folder: Path) -> Path:
    """Return where the programs really lie: what stands on PATH may be links to them, one by one."""
    postgres = shutil.which("postgres", path=str(folder))
    return Path(postgres).resolve().parent if postgres else folder


def _said(*argv: str) -> str:
    try:
        done = subprocess.run(
            argv,
            env=portable.clean_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode(errors="replace")
