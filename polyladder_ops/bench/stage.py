"""Where the benchmark happens: a throw-away server with data, a private folder, and programs that are measured in it.

All programs are of the same PostgreSQL. The password goes by PGPASSFILE, since in argv everybody sees it. What is dirty in
memory is written out between the runs, so that nobody pays for another.
"""

from __future__ import annotations

import contextlib
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from polyladder_ops import portable, usage
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients, session
from polyladder_ops.redaction import redact
from polyladder_ops.sandbox import place, seed, server

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.usage import Usage

__all__ = ["SITE", "Say", "Stage", "folders", "load", "url"]

SITE = "bench"
_PREFIX = "polyladder-bench-"
Say = Callable[[str], None]


def load() -> str:
    """Return the machine's load averages as a text."""
    averages = usage.load_average()
    return "unknown" if averages is None else " ".join(f"{number:.2f}" for number in averages)


@contextlib.contextmanager
def folders() -> Iterator[tuple[Path, Path]]:
    """Within the block a place for the server and a private folder for all else; gone afterwards, the server too."""
    _sweep()
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    try:
        folder.chmod(0o711)  # the account that root gives the server passes through
        private = folder / "private"
        portable.make_private_directory(private)
        yield folder / "server", private
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder / "private", ignore_errors=True)
    if (folder / "server" / place.STATE).exists():
        server.Server(folder / "server").remove()
    shutil.rmtree(folder, ignore_errors=True)


def _sweep() -> None:
    """Remove what benchmarks that were killed left: their servers would run for ever."""
    for state in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/server/{place.STATE}"):
        folder = state.parents[1]
        with contextlib.suppress(OSError, OpsError):
            # Everybody may put a folder there, with a state that names any other folder as the server's.
            if portable.is_ours(folder) and not portable.is_alive(place.read(state.parent).maker):
                _remove(folder)


def url(target: Target, password: str = "") -> str:
    """Return the URL of a target; without a password it may stand in argv."""
    login = f"{target.user}:{quote(password, safe='')}" if password else target.user
    return f"postgresql://{login}@{target.host}:{target.port}/{target.database}"


class Stage:
    """The server, made when it is first asked for, its clients, and a folder to work in."""

    def __init__(self, home: Path, folder: Path, say: Say) -> None:
        self.folder = folder
        self._home = home
        self.say = say
        self._filled: dict[float, Target] = {}
        # With a root of its own no .env of the project is read.
        (folder / "tasks.py").write_text("from polyladder_ops.tasks import ns\n", encoding="utf-8")

    @cached_property
    def server(self) -> Target:
        """The server, by a database that is nobody's."""
        self.say("making a PostgreSQL of our own …")
        return server.create(self._home, trusts_socket=True).target()

    @cached_property
    def _identity(self) -> session.Identity:
        with contextlib.closing(session.connect(self.server)) as connection:
            return session.identify(connection)

    @cached_property
    def client(self) -> clients.Client:
        """The pg_dump for it; psql, createdb and pg_restore are taken from beside it."""
        return clients.choose(clients.find_clients(), self._identity.major, need_tls=False)

    @cached_property
    def _passfile(self) -> Path:
        path = self.folder / "pgpass"
        portable.write_private(path, f"*:*:*:*:{self.server.password}\n")
        return path

    def state(self) -> place.State:
        """Return where the server is, and its own socket, which lets its superuser in."""
        return place.read(self._home)

    def filled(self, scale: float) -> Target:
        """Return a database with the sandbox's data at this scale, made when it is first asked for."""
        if scale not in self._filled:
            target = self.server.with_database(f"{seed.DATABASE}_{len(self._filled)}")
            self.say(f"filling a database at scale {scale:g} …")
            seed.fill(target, scale=scale)
            self._filled[scale] = target
        return self._filled[scale]

    def settle(self) -> None:
        """Write out what the server and every other program left to be written later."""
        if "server" in self.__dict__:
            with contextlib.closing(session.connect(self.server)) as connection:
                connection.execute("CHECKPOINT")
        usage.sync_disks()

    def script(self, text: str, *words: str, variables: Mapping[str, str] | None = None) -> Usage:
        """Run a line of bash with these words, which finds the programs of our PostgreSQL first."""
        found = [str(self.client.program.parent), portable.clean_environment().get("PATH", os.defpath)]
        paths = {"PATH": os.pathsep.join(found), "PSQLRC": os.devnull}
        return self.measured(["bash", "-c", text, "bench", *words], {**paths, **(variables or {})})

    def measured(
        self,
        argv: Sequence[str],
        variables: Mapping[str, str] | None = None,
        *,
        said_to_it: str = "",
        cwd: Path | None = None,
    ) -> Usage:
        """Run a program, its output thrown away. Raise OpsError with its last words if it fails."""
        secret = {"PGPASSFILE": str(self._passfile)} if "server" in self.__dict__ else {}
        env = portable.clean_environment({**secret, **(variables or {})})
        with (
            tempfile.TemporaryFile(dir=self.folder) as said,
            tempfile.TemporaryFile(dir=self.folder) as told,
        ):
            told.write(said_to_it.encode())
            told.seek(0)
            took = usage.measured(
                argv, env=env, cwd=cwd or self.folder, stdin=told, stdout=subprocess.DEVNULL, stderr=said
            )
            if took.returncode == 0:
                return took
            said.seek(0)
            words = " ".join(redact(said.read().decode(errors="replace")).split())[-1500:]
        raise OpsError(
            f"{Path(argv[0]).name} failed with exit code {took.returncode}, so there is nothing to measure",
            detail=words or "It said nothing.",
        )

    def versions(self) -> dict[str, str]:
        """Return what all ways stand on."""
        postgres = {}
        if "server" in self.__dict__:
            postgres = {"PostgreSQL": self._identity.server_version, "pg_dump": self.client.version}
        try:
            isal = version("isal")
        except PackageNotFoundError:
            isal = "none, zlib instead"
        return {
            **postgres,
            "gzip": _version_of_gzip(),
            "isal": isal,
            "Python": platform.python_version(),
            "system": f"{platform.platform(terse=True)} {platform.machine()}",
            "cores": str(os.cpu_count()),
        }


def _version_of_gzip() -> str:
    said = subprocess.run(
        ["gzip", "--version"], env=portable.clean_environment(), capture_output=True, check=False
    )
    return (said.stdout or said.stderr).decode(errors="replace").split("\n", 1)[0]
