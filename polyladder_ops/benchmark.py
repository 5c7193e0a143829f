"""How fast backup and verify are against the scripts that they replace, measured side by side on one throw-away server.

Every way runs once a pair, in turn, so that what else the machine does falls on all of them alike; numbers are medians.
The old way is the scripts' own line, through bash; only the password goes by PGPASSFILE, since in argv everybody sees
it. All use the same pg_dump. What is dirty on disk is written out between the runs, so that nobody pays for another.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from polyladder_ops import backups, portable, terminal
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.portable import Usage
from polyladder_ops.postgres import clients, session
from polyladder_ops.redaction import redact
from polyladder_ops.sandbox import place, seed, server

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

__all__ = ["COMPARED", "Plan", "Report", "Way", "folders", "load", "parse", "run"]

SITE = "bench"
_PREFIX = "polyladder-bench-"
_GB = 1_000_000_000
_ENOUGH = 5
Say = Callable[[str], None]

OURS, LIBRARY, OLD, FLOOR = "backup", "backup, without start-up", "old backup", "pg_dump >/dev/null"
VERIFY, GUNZIP = "verify", "gunzip -t"
COMPARED = ((OURS, OLD), (OURS, FLOOR), (LIBRARY, FLOOR), (VERIFY, GUNZIP))
"""Which way is held against which."""

# The scripts' own words; pipefail only lets the benchmark notice a pg_dump that failed, which the scripts did not.
_OLD_SCRIPT = (
    'set -o pipefail; pg_dump "$DATABASE_URL" --no-owner --no-acl | gzip > "$1" && exec gunzip -t "$1"'
)


@dataclass(frozen=True)
class Plan:
    """How much is measured: `scale` as in the sandbox (1 is about 50 MB of plain SQL), each way `pairs` times."""

    scale: float
    pairs: int


def parse(*, scale: str, pairs: str) -> Plan:
    """Return the plan that these texts ask for. Raise UsageError if one is no such number."""
    try:
        size = float(scale)
    except ValueError:
        size = math.nan
    if not 0 < size <= 1000:
        raise UsageError(f"--scale={scale} is no size", hint="Write a number such as 0.1, 1 or 12.")
    if not re.fullmatch(r"[1-9][0-9]{0,2}", pairs):
        raise UsageError(
            f"--pairs={pairs} is no number of rounds", hint="Write a whole number from 1 to 999, such as 5."
        )
    return Plan(size, int(pairs))


@dataclass(frozen=True)
class Way:
    """One way of doing it and its runs, in their order."""

    name: str
    runs: tuple[Usage, ...]

    @property
    def seconds(self) -> float:
        """Median by the clock on the wall."""
        return median(run.seconds for run in self.runs)

    @property
    def cpu_seconds(self) -> float | None:
        """Median of processor seconds, children included; None where the system does not count them."""
        known = [run.cpu_seconds for run in self.runs if run.cpu_seconds is not None]
        return median(known) if known else None

    @property
    def peak_bytes(self) -> int | None:
        """Memory of the largest process in any run; None if it was not measured."""
        return max((run.peak_bytes for run in self.runs if run.peak_bytes is not None), default=None)


@dataclass(frozen=True)
class Report:
    """What was measured, on what; `machine` are texts by their names."""

    plan: Plan
    began_at: datetime
    plain_bytes: int
    ways: tuple[Way, ...]
    machine: Mapping[str, str]

    def ratios(self) -> list[tuple[str, float, float | None]]:
        """Return what was compared, with the ratio of the medians by the wall and by the processor."""
        known = {way.name: way for way in self.ways}
        return [
            (f"{one} / {other}", *_ratio(known[one], known[other]))
            for one, other in COMPARED
            if one in known and other in known
        ]

    def as_json(self) -> dict[str, Any]:
        """Return everything, each run included, as JSON takes it."""
        return {
            "began_at": self.began_at.isoformat(timespec="seconds"),
            "scale": self.plan.scale,
            "pairs": self.plan.pairs,
            "plain_bytes": self.plain_bytes,
            "ways": [self._as_row(way) for way in self.ways],
            "ratios": [
                {"what": what, "wall": round(wall, 3), "cpu": _rounded(cpu)}
                for what, wall, cpu in self.ratios()
            ],
            "machine": dict(self.machine),
        }

    def _as_row(self, way: Way) -> dict[str, Any]:
        return {
            "name": way.name,
            "seconds": round(way.seconds, 3),
            "cpu_seconds": _rounded(way.cpu_seconds),
            "cpu_seconds_per_gb": _rounded(self._per_gb(way)),
            "peak_bytes": way.peak_bytes,
            "runs": [
                {
                    "seconds": round(run.seconds, 3),
                    "cpu_seconds": _rounded(run.cpu_seconds),
                    "peak_bytes": run.peak_bytes,
                }
                for run in way.runs
            ],
        }

    def _per_gb(self, way: Way) -> float | None:
        return None if way.cpu_seconds is None else way.cpu_seconds * _GB / self.plain_bytes

    def as_text(self) -> str:
        """Return the tables that a person reads."""
        ways = [
            (
                way.name,
                _fixed(way.seconds),
                f"{min(run.seconds for run in way.runs):.2f}-{max(run.seconds for run in way.runs):.2f}",
                _fixed(way.cpu_seconds),
                _fixed(self._per_gb(way)),
                None if way.peak_bytes is None else terminal.size(way.peak_bytes),
            )
            for way in self.ways
        ]
        ratios = [(what, _fixed(wall), _fixed(cpu)) for what, wall, cpu in self.ratios()]
        few = "" if self.plan.pairs >= _ENOUGH else f" (fewer than {_ENOUGH}: a look, not a measurement)"
        on = {
            "date": self.began_at.strftime("%Y-%m-%d %H:%M UTC"),
            "data": f"scale {self.plan.scale:g}, {self.plain_bytes:,} bytes of plain SQL",
            "pairs": f"{self.plan.pairs}{few}",
            **self.machine,
        }
        return "\n\n".join(
            (
                terminal.table(ways, ("way", "wall s", "min-max", "CPU s", "CPU s/GB", "peak memory")),
                terminal.table(ratios, ("medians compared", "wall", "CPU")),
                terminal.table(list(on.items()), ("", "")).lstrip("\n"),
            )
        )


def _ratio(one: Way, other: Way) -> tuple[float, float | None]:
    cpu = one.cpu_seconds / other.cpu_seconds if one.cpu_seconds and other.cpu_seconds else None
    return one.seconds / other.seconds, cpu


def _rounded(number: float | None) -> float | None:
    return None if number is None else round(number, 3)


def _fixed(number: float | None) -> str | None:
    return None if number is None else f"{number:.2f}"


def run(plan: Plan, *, say: Say) -> Report:
    """Return what was measured on a server that is made for it and gone afterwards; `say` is told each step.

    Raise OpsError if a program of the old way is missing, or if any way fails: a time of a failure is worth nothing.
    """
    began_at = datetime.now(UTC)
    machine = _programs()
    before = load()
    with folders() as (home, folder):
        say("making a PostgreSQL of our own …")
        target = server.create(home).target(seed.DATABASE)
        say(f"filling it at scale {plan.scale:g} …")
        seed.fill(target, scale=plan.scale)
        bench = _Bench(target, folder)
        machine |= bench.versions()
        bench.warm_up()
        rounds = []
        for number in range(1, plan.pairs + 1):
            say(f"pair {number} of {plan.pairs} …")
            rounds.append(bench.round())
    machine |= {"cores": str(os.cpu_count()), "load before, after": f"{before}; {load()}"}
    ways = tuple(Way(name, tuple(done[name] for done in rounds)) for name in rounds[0])
    return Report(plan, began_at, bench.plain_bytes, ways, machine)


def _programs() -> dict[str, str]:
    """Return the version of gzip. Raise OpsError if the old way has not what it needs."""
    if missing := [name for name in ("bash", "gzip", "gunzip") if shutil.which(name) is None]:
        raise OpsError(
            f"the old way needs {' and '.join(missing)}",
            detail="It is measured exactly as the old scripts did it.",
            hint="Install what is missing, or run the benchmark on Linux or macOS.",
        )
    said = subprocess.run(
        ["gzip", "--version"], env=portable.clean_environment(), capture_output=True, check=False
    )
    return {"gzip": (said.stdout or said.stderr).decode(errors="replace").split("\n", 1)[0]}


def load() -> str:
    """Return the machine's load averages as a text."""
    averages = portable.load_average()
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


class _Bench:
    """The database that is dumped, a folder to do it in, and one method for each way."""

    def __init__(self, target: Target, folder: Path) -> None:
        self.plain_bytes = 0
        self._target = target
        self._folder = folder
        self._backups = folder / "backups"
        with contextlib.closing(session.connect(target)) as connection:
            self._server = session.identify(connection)
        self._client = clients.choose(clients.find_clients(), self._server.major, need_tls=False)
        # With a root of its own no .env of the project is read.
        (folder / "tasks.py").write_text("from polyladder_ops.tasks import ns\n", encoding="utf-8")
        self._passfile = folder / "pgpass"
        portable.write_private(self._passfile, f"*:*:*:*:{target.password}\n")

    def versions(self) -> dict[str, str]:
        """Return what all ways stand on."""
        try:
            isal = version("isal")
        except PackageNotFoundError:
            isal = "none, zlib instead"
        return {
            "PostgreSQL": self._server.server_version,
            "pg_dump": self._client.version,
            "isal": isal,
            "Python": platform.python_version(),
            "system": f"{platform.platform(terse=True)} {platform.machine()}",
        }

    def warm_up(self) -> None:
        """Read everything once, so that the first way measured does not pay for a cold cache."""
        self._floor()

    def round(self) -> dict[str, Usage]:
        """Return what each way took, once each, in turn; their files are gone then."""
        ways = {
            OURS: lambda: self._invoke("backup"),
            OLD: self._old,
            LIBRARY: self._library,
            FLOOR: self._floor,
            VERIFY: lambda: self._invoke("verify", "--backup=latest"),
            GUNZIP: self._gunzip,
        }
        took = {}
        for name, way in ways.items():
            portable.sync_disks()
            took[name] = way()
        for made in (*self._backups.iterdir(), self._old_file):
            made.unlink() if made.is_file() else shutil.rmtree(made)
        return took

    @property
    def _old_file(self) -> Path:
        return self._folder / "old.sql.gz"

    def _invoke(self, *task: str) -> Usage:
        """Run a task of ours as people do, start-up included."""
        settings = {
            "POLYLADDER_SITE": SITE,
            "POLYLADDER_STATE_DIR": str(self._folder / "state"),
            "BACKUP_DIR": str(self._backups),
            "DATABASE_URL": self._url(quote(self._target.password, safe="")),
        }
        return self._measured([sys.executable, "-m", "invoke", *task], settings)

    def _library(self) -> Usage:
        began, cpu = time.perf_counter(), portable.cpu_seconds()
        made = backups.take(self._target, self._backups, site=SITE, private=self._folder / "state")
        seconds, cpu_after = time.perf_counter() - began, portable.cpu_seconds()
        self.plain_bytes = made.manifest.plain_bytes
        return Usage(0, seconds, None if cpu is None or cpu_after is None else cpu_after - cpu)

    def _old(self) -> Usage:
        folders = [str(self._client.program.parent), portable.clean_environment().get("PATH", os.defpath)]
        variables = {"PATH": os.pathsep.join(folders), "DATABASE_URL": self._url()}
        return self._measured(["bash", "-c", _OLD_SCRIPT, "old-backup", str(self._old_file)], variables)

    def _floor(self) -> Usage:
        return self._measured([str(self._client.program), "--no-password", f"--dbname={self._url()}"])

    def _gunzip(self) -> Usage:
        newest = max(self._backups.glob("*.sql.gz"))
        return self._measured(["gunzip", "-t", str(newest)])

    def _url(self, password: str = "") -> str:
        login = f"{self._target.user}:{password}" if password else self._target.user
        return f"postgresql://{login}@{self._target.host}:{self._target.port}/{self._target.database}"

    def _measured(self, argv: Sequence[str], variables: Mapping[str, str] | None = None) -> Usage:
        """Run a program, its output thrown away. Raise OpsError with its last words if it fails."""
        env = portable.clean_environment({"PGPASSFILE": str(self._passfile), **(variables or {})})
        with tempfile.TemporaryFile(dir=self._folder) as said:
            took = portable.measured(
                argv,
                env=env,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
            )
            if took.returncode == 0:
                return took
            said.seek(0)
            words = " ".join(redact(said.read().decode(errors="replace")).split())[-1500:]
        raise OpsError(
            f"{Path(argv[0]).name} failed with exit code {took.returncode}, so there is nothing to measure",
            detail=words or "It said nothing.",
        )
