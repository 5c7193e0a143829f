"""How long an app is kept out while a database is switched: clients hammer the live name while restores and undos change it.

The clients are processes of their own, each with a connection by name that it makes anew as soon as it is lost, as an app's
pool does. They note which database answered, by its oid, and when, on the one clock of the machine. What switches is what
people run: `replacement.replace` and `undo.undo`.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from polyladder_ops import backups, portable, replacement, settings, terminal
from polyladder_ops.bench import bouncer, stage
from polyladder_ops.bench.plan import parse_scale
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.redaction import redact
from polyladder_ops.restore import undo
from polyladder_ops.sandbox import seed, server
from polyladder_ops.site import Site

if TYPE_CHECKING:
    from polyladder_ops.postgres.switch import Switched

__all__ = ["TARGET_S", "Plan", "Report", "Switch", "Turn", "client", "judge", "parse", "run"]

TARGET_S = 0.5
"""How long a switch may keep a client out."""
RESTORE, UNDO = "restore", "undo"
_THINK_S = 0.002  # between two questions of a client
_RETRY_S = 0.005  # between two tries to get in again
_CALM_S = 0.3  # between all being in again and the next switch
_PATIENCE_S = 60.0
_MOST_CLIENTS = 64
_BEHIND = 2  # switches that are measured through PgBouncer: a restore and an undo
_QUESTION = "SELECT oid::int8 FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()"
_PROGRAM = "from polyladder_ops.bench.outage import client; client()"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Plan:
    """How much is measured: `scale` as in the sandbox, so many switches, so many clients."""

    scale: float
    switches: int
    clients: int


def parse(*, scale: str, switches: str, clients: str) -> Plan:
    """Return the plan that these texts ask for. Raise UsageError if one is no such number."""
    size = parse_scale(scale, such_as="0.02 or 1")
    if not re.fullmatch(r"[1-9][0-9]{0,2}", switches):
        raise UsageError(
            f"--switches={switches} is no number of switches", hint="Write a whole number from 1 to 999."
        )
    if not re.fullmatch(r"[1-9][0-9]?", clients) or int(clients) > _MOST_CLIENTS:
        raise UsageError(
            f"--clients={clients} is no number of clients",
            hint=f"Write a whole number from 1 to {_MOST_CLIENTS}.",
        )
    return Plan(size, int(switches), int(clients))


@dataclass(frozen=True)
class Turn:
    """When a client was first answered by a database, and what it had been answered last by the one before.

    Times are seconds on the machine's clock; of a client's first turn those of `before` are None.
    """

    oid: int
    first_at: float
    before_asked_at: float | None = None
    before_at: float | None = None


@dataclass(frozen=True)
class Switch:
    """One switch: seconds each client was kept out, all of them were, and the switch itself says; whether OLD came after NEW."""

    kind: str
    by_client: tuple[float, ...]
    all_s: float
    own_s: float
    went_back: bool


def judge(kind: str, own_s: float, turns: Sequence[Turn]) -> Switch:
    """Return what the clients' turns, one each, say of a switch.

    It went back if anybody was answered by the old database on a question that was asked after somebody had been
    answered by the new one.
    """
    first_new = min(turn.first_at for turn in turns)
    asked = [turn.before_asked_at for turn in turns if turn.before_asked_at is not None]
    left = [turn.before_at for turn in turns if turn.before_at is not None]
    by_client = tuple(turn.first_at - turn.before_at for turn in turns if turn.before_at is not None)
    return Switch(kind, by_client, max(first_new - max(left), 0.0), own_s, went_back=max(asked) > first_new)


@dataclass(frozen=True)
class Report:
    """What was measured, on what; `strayed` are the clients that were answered by another database than was live.

    `behind` are the switches whose clients came through PgBouncer, none where it is not installed.
    """

    plan: Plan
    began_at: datetime
    switches: tuple[Switch, ...]
    strayed: tuple[int, ...]
    machine: Mapping[str, str]
    behind: tuple[Switch, ...] = ()

    @property
    def longest_s(self) -> float:
        """How long the unluckiest client was kept out by a switch."""
        return max(seconds for switch in self.switches for seconds in switch.by_client)

    @property
    def went_back(self) -> bool:
        """Whether anybody ever saw the old database after the new one."""
        return bool(self.strayed) or any(switch.went_back for switch in (*self.switches, *self.behind))

    def rows(self) -> list[tuple[str, float, float, float]]:
        """Return who was kept out by what, and the least, the median and the most of it in seconds."""
        rows = []
        for kind in dict.fromkeys(switch.kind for switch in self.switches):
            some = [switch for switch in self.switches if switch.kind == kind]
            ways = {
                "each client": [seconds for switch in some for seconds in switch.by_client],
                "all clients": [switch.all_s for switch in some],
                "its own clock": [switch.own_s for switch in some],
            }
            rows += [(f"{kind}, {who}", min(s), median(s), max(s)) for who, s in ways.items()]
        for switch in self.behind:
            s = switch.by_client
            rows.append((f"{switch.kind}, each behind PgBouncer", min(s), median(s), max(s)))
        return rows

    def as_json(self) -> dict[str, Any]:
        """Return everything, each switch included, as JSON takes it."""
        return {
            "began_at": self.began_at.isoformat(timespec="seconds"),
            **asdict(self.plan),
            "target_s": TARGET_S,
            "longest_s": round(self.longest_s, 4),
            "old_after_new": self.went_back,
            "behind_pgbouncer_s": [[round(s, 4) for s in switch.by_client] for switch in self.behind],
            "outages": [
                {
                    "what": what,
                    "min_s": round(least, 4),
                    "median_s": round(middle, 4),
                    "max_s": round(most, 4),
                }
                for what, least, middle, most in self.rows()
            ],
            "runs": [
                {
                    "kind": switch.kind,
                    "clients_s": [round(seconds, 4) for seconds in switch.by_client],
                    "all_s": round(switch.all_s, 4),
                    "own_s": round(switch.own_s, 4),
                }
                for switch in self.switches
            ],
            "machine": dict(self.machine),
        }

    def as_text(self) -> str:
        """Return the tables that a person reads."""
        outages = [(what, *(f"{seconds:.3f}" for seconds in numbers)) for what, *numbers in self.rows()]
        on = {
            "longest": f"{self.longest_s:.3f} s for one client; at most {TARGET_S} s is the aim",
            "old after new": "SEEN" if self.went_back else "never",
            "switches": f"{len(self.switches)}, with {self.plan.clients} clients",
            "PgBouncer": f"server_login_retry = {bouncer.RETRY_S}; not part of the aim"
            if self.behind
            else "left out: it is not installed",
            "date": self.began_at.strftime("%Y-%m-%d %H:%M UTC"),
            **self.machine,
        }
        return "\n\n".join(
            (
                terminal.table(outages, ("kept out", "min s", "median s", "max s")),
                terminal.table(list(on.items()), ("", "")).lstrip("\n"),
            )
        )


def run(plan: Plan, *, say: Say) -> Report:
    """Return what was measured on a server that is made for it and gone afterwards; `say` is told each step.

    Where PgBouncer is installed, a restore and an undo are measured through one, too; the aim is not for that.
    Raise OpsError if a switch fails, or if a client does not get in again.
    """
    began_at, before = datetime.now(UTC), stage.load()
    with stage.folders() as (home, folder):
        say("making a PostgreSQL of our own …")
        target = server.create(home).target(seed.DATABASE)
        say(f"filling it at scale {plan.scale:g} …")
        seed.fill(target, scale=plan.scale)
        swaps = _Swaps(target, folder)
        app = Target.of(**{**target.parameters, "user": seed.APP_ROLE, "application_name": "app"})
        switches, strayed = _measured(app, plan, swaps, folder, say)
        behind: tuple[Switch, ...] = ()
        if bouncer.program():
            say("a PgBouncer in front of it …")
            with bouncer.in_front_of(app, folder.parent / "bouncer") as through:
                few = Plan(plan.scale, _BEHIND, plan.clients)
                behind, more = _measured(through, few, swaps, folder, say)
                strayed += more
        else:
            say(f"{bouncer.PROGRAM} is not installed, so nothing is measured behind one")
        machine = swaps.versions()
    machine |= {"cores": str(os.cpu_count()), "load before, after": f"{before}; {stage.load()}"}
    return Report(plan, began_at, switches, strayed, machine, behind)


def _measured(
    app: Target, plan: Plan, swaps: _Swaps, folder: Path, say: Say
) -> tuple[tuple[Switch, ...], tuple[int, ...]]:
    """Return what so many clients of this address saw of so many switches, and which of them strayed."""
    with _clients(app, plan.clients, folder) as clients:
        lived = [swaps.live_oid()]
        _wait(clients, lived[0])
        done = []
        for number in range(plan.switches):
            time.sleep(_CALM_S)
            kind, switched = swaps.switch()
            lived.append(swaps.live_oid())
            _wait(clients, lived[-1])
            say(f"switch {number + 1} of {plan.switches}: {kind}")
            done.append((kind, switched.outage_s))
        turns = [one.turns() for one in clients]
    strayed = tuple(n for n, one in enumerate(turns, 1) if [turn.oid for turn in one] != lived)
    switches = tuple(
        judge(kind, own_s, [one[number] for one in turns]) for number, (kind, own_s) in enumerate(done, 1)
    )
    return switches, strayed


class _Swaps:
    """The database that is switched to and fro: a restore of its backup, then back by an undo, and so on."""

    def __init__(self, target: Target, folder: Path) -> None:
        environ = {
            "POLYLADDER_SITE": stage.SITE,
            "POLYLADDER_STATE_DIR": str(folder / "state"),
            "BACKUP_DIR": str(folder / "backups"),
        }
        self._target = target
        self._site = Site(settings.load({}, environ=environ, root=folder))
        self._backup = backups.take(target, self._site.folder, site=stage.SITE, private=self._site.private)
        self._ways = {RESTORE: self._restore, UNDO: self._undo}
        self._next = RESTORE

    def switch(self) -> tuple[str, Switched]:
        """Switch once, and return how and what the switch says of itself."""
        kind, self._next = self._next, UNDO if self._next == RESTORE else RESTORE
        return kind, self._ways[kind]()

    def _restore(self) -> Switched:
        options = replacement.Options(name=self._target.database)
        return replacement.replace(
            self._target, self._backup, [], options, say=_nothing, confirm=_nothing
        ).switched

    def _undo(self) -> Switched:
        switched, _ = undo.undo(
            self._target, "", site=self._site, accept=frozenset(), say=_nothing, confirm=_nothing
        )
        return switched

    def live_oid(self) -> int:
        with contextlib.closing(session.connect(self._target)) as connection:
            return session.identify(connection).database_oid

    def versions(self) -> dict[str, str]:
        with contextlib.closing(session.connect(self._target)) as connection:
            identity = session.identify(connection)
        return {
            "PostgreSQL": identity.server_version,
            "Python": platform.python_version(),
            "system": f"{platform.platform(terse=True)} {platform.machine()}",
        }


def _nothing(_: object) -> None:
    """Hear what is said, and go on."""


# The clients ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Client:
    """One process that hammers, and the file into which it writes its turns."""

    process: subprocess.Popen[bytes]
    file: Path
    said: Path

    def turns(self) -> list[Turn]:
        whole = self.file.read_text(encoding="utf-8").rpartition("\n")[0] if self.file.exists() else ""
        return [Turn(**json.loads(line)) for line in whole.splitlines()]

    def end(self) -> None:
        if self.process.stdin:
            self.process.stdin.close()
        portable.end(self.process)


@contextlib.contextmanager
def _clients(target: Target, count: int, folder: Path) -> Iterator[list[_Client]]:
    """Within the block so many processes hammer the target's name."""
    with contextlib.ExitStack() as stack:
        started = []
        for number in range(count):
            one = _start(target.parameters, folder / f"client{target.port}_{number}")
            stack.callback(one.end)
            started.append(one)
        yield started


def _start(parameters: Mapping[str, str], path: Path) -> _Client:
    said = path.with_suffix(".said")
    with said.open("wb") as stderr:
        process = portable.start(
            [sys.executable, "-c", _PROGRAM],
            env=portable.clean_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
        )
    assert process.stdin is not None
    job = {"parameters": dict(parameters), "file": str(path)}
    process.stdin.write(json.dumps(job).encode() + b"\n")  # not in argv: it holds the password
    process.stdin.flush()
    return _Client(process, path, said)


def _wait(clients: Sequence[_Client], oid: int) -> None:
    """Return when every client was answered by this database last. Raise OpsError if one is not, or has ended."""
    deadline = time.monotonic() + _PATIENCE_S
    for number, one in enumerate(clients, 1):
        while [turn.oid for turn in one.turns()][-1:] != [oid]:
            if one.process.poll() is not None or time.monotonic() > deadline:
                words = redact(one.said.read_text(encoding="utf-8", errors="replace"))
                raise OpsError(
                    f"client {number} does not get into the database",
                    detail=" ".join(words.split())[-1500:] or "It said nothing.",
                )
            time.sleep(0.01)


def client() -> None:
    """Hammer what the first line on stdin names until stdin ends, and write each turn into the file named there."""
    job = json.loads(sys.stdin.readline())
    ended = threading.Event()
    threading.Thread(target=partial(_until_end, ended), daemon=True).start()
    turn: Turn | None = None
    last: tuple[float | None, float | None] = (None, None)
    with Path(job["file"]).open("a", encoding="utf-8") as file:
        for oid, asked_at, answered_at in _answers(Target.of(**job["parameters"]), ended):
            if turn is None or oid != turn.oid:
                turn = Turn(oid, answered_at, *last)
                file.write(json.dumps(asdict(turn)) + "\n")
                file.flush()
            last = (asked_at, answered_at)


def _until_end(ended: threading.Event) -> None:
    sys.stdin.read()  # ends with whoever started us, however that ended
    ended.set()


def _answers(target: Target, ended: threading.Event) -> Iterator[tuple[int, float, float]]:
    """Yield which database answered, when it was asked and when it had answered, from one connection after the other."""
    while not ended.is_set():
        try:
            with contextlib.closing(session.connect(target, timeout_s=5)) as connection:
                while not ended.is_set():
                    asked_at = time.monotonic()
                    with session.translated("the session was lost"):
                        row = connection.execute(_QUESTION).fetchone()
                    assert row is not None
                    yield row[0], asked_at, time.monotonic()
                    time.sleep(_THINK_S)
        except OpsError:
            time.sleep(_RETRY_S)
