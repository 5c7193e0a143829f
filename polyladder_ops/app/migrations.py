"""Migrations: what is noted against what the checkout has, the run, and whether everything moved as it should.

Look, decide, run, look again: the program's exit code is one claim among others. It must have noted exactly the files that were
pending, what it made must be the owner's, and no index may have come out invalid.
"""

from __future__ import annotations

import queue
import re
import subprocess
import threading
import time
from collections import Counter, deque
from contextlib import closing
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.app.checkout import environment
from polyladder_ops.errors import Interrupted, Mismatch, OpsError
from polyladder_ops.lifeline import lifeline
from polyladder_ops.postgres import definitions_seen, locks, migration_login, session
from polyladder_ops.postgres.grants import quoted
from polyladder_ops.redaction import redact
from polyladder_ops.terminal import many, plain
from polyladder_ops.undoing import at_work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.app.checkout import Checkout
    from polyladder_ops.app.migration_files import File
    from polyladder_ops.app.node_pg_migrate import Options
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.definitions_seen import Seen
    from polyladder_ops.postgres.migration_login import Login
    from polyladder_ops.postgres.session import Connection

__all__ = ["Ended", "Level", "compare", "expect_to_go", "expect_told", "from_zero", "judge", "look", "run"]

_KEPT_LINES = 12
_KEPT_REASONS = 4
# node prints an error's reason first, and below it all that the error does not know.
_REASON = re.compile(r"\berror\b|\bERR_", re.IGNORECASE)
_UNKNOWN = re.compile(r"\s*\w+: undefined,?")
_LONGEST = 400
_MOST_BYTES = 1 << 20  # of one line; the rest of it is passed over
_QUIET_S = 10.0
_TICK_S = 0.2


@dataclass(frozen=True)
class Level:
    """How a database stands against a checkout, by the names of migrations, each in its order.

    `pending` are files that are not noted, `gone` is noted and has no file, `misplaced` are pending ones that stand before one that ran
    (node-pg-migrate refuses them), `doubled` are names that two files or two notes have.
    """

    pending: tuple[File, ...] = ()
    gone: tuple[str, ...] = ()
    misplaced: tuple[str, ...] = ()
    doubled: tuple[str, ...] = ()
    head: str = ""

    @property
    def is_level(self) -> bool:
        """Whether the checkout's files are what is noted, no more and no less."""
        return not (self.pending or self.gone or self.doubled)


@dataclass(frozen=True)
class Ended:
    """How the program ended, and its last lines and reasons, without secrets."""

    code: int
    said: tuple[str, ...] = ()


def compare(files: Sequence[File], noted: Sequence[str]) -> Level:
    """Return how what is noted (oldest first) stands against the files (in their order)."""
    known = {file.name for file in files}
    there = set(noted)
    pending = tuple(file for file in files if file.name not in there)
    last = max((at for at, file in enumerate(files) if file.name in there), default=-1)
    twice = [
        name
        for names in (noted, [file.name for file in files])
        for name, n in Counter(names).items()
        if n > 1
    ]
    return Level(
        pending,
        tuple(name for name in noted if name not in known),
        tuple(file.name for file in files[: last + 1] if file.name not in there),
        tuple(dict.fromkeys(twice)),
        noted[-1] if noted else "",
    )


def look(target: Target, schema: str = "public") -> Seen:
    """Return what the database has now, and notes in this schema. Raise OpsError if it can't be looked at."""
    with closing(session.connect(target)) as connection:
        return definitions_seen.look(connection, schema)


def expect_told(seen: Seen, options: Options) -> None:
    """Return if it is known which table the migrations are noted in. Raise OpsError if it can't be told: it may be another one."""
    if seen.elsewhere and not options.is_sure:
        here = () if seen.noted is None else (options.schema,)
        raise OpsError(
            "where the migrations are noted can't be told",
            detail=f"The database has a table pgmigrations in {_listed([*here, *seen.elsewhere])}; what runs them names no schema.",
            hint="Put --migrations-schema=NAME into POLYLADDER_MIGRATE_COMMAND, or into the script migrate:up.",
        )


def from_zero(seen: Seen, level: Level, options: Options) -> str:
    """Return in a sentence that every migration would run on a database that has tables; empty if that is not so."""
    if seen.names or not level.pending or not (seen.tables or seen.elsewhere):
        return ""
    table = f"{plain(options.schema)}.pgmigrations"
    lack = f"there is no table {table}" if seen.noted is None else f"{table} has no row"
    other = f", but one in {_listed(seen.elsewhere)}" if seen.elsewhere else ""
    return f"It has {many(seen.tables, 'table')}, and {lack}{other}: every migration would run, from the first one on."


def expect_to_go(level: Level, *, down: bool = False) -> None:
    """Return if a run can move the database as it should. Raise OpsError, before anything runs, if it can't.

    Whatever is in the way only matters where something must be changed.
    """
    if not (down or level.pending):
        return
    if level.doubled:
        raise OpsError(
            f"a migration's name is there twice: {plain(level.doubled[0])}",
            detail="Two files of one name would both run; of two equal notes one is wrong.",
            hint="Rename the file, or delete the note, after a look at `invoke migrate.status`.",
        )
    gone = [name for name in level.gone if not down or name == level.head]
    if gone:
        raise OpsError(
            f"the checkout does not know {plain(gone[-1])}, which the database has",
            detail=f"{len(level.gone)} of what the database notes have no file; it is of another release.",
            hint="Check out the release that made this database's head, or restore a backup from before it.",
        )
    if level.misplaced and not down:
        raise OpsError(
            f"{plain(level.misplaced[0])} did not run, and one behind it did",
            detail="node-pg-migrate refuses that: the order of migrations is their names' order.",
            hint="Look at `invoke migrate.status`; rename the file so that it comes last.",
        )


def judge(
    before: Seen, after: Seen, wanted: Sequence[str], ended: Ended, owner: str, *, halving: Sequence[str] = ()
) -> None:
    """Return if a run came to what it should: `wanted` are the names that must be noted now, oldest first.

    Of the files in `halving` what they did may stay though they failed.

    Raise OpsError if the program failed, Mismatch if it did not and the database is not as it should be.
    """
    if ended.code != 0:
        moved = len(after.names) - len(before.names)
        raise OpsError(
            "the migration failed" + (f"; the database moved by {moved:+d}" if moved else ""),
            detail=f"{_left(before, after, halving)} The program ended with {ended.code} and said: {' / '.join(ended.said)}",
            hint=_cure(ended),
        )
    if sorted(after.names) != sorted(wanted):
        lacking = [name for name in wanted if name not in after.names]
        more = [name for name in after.names if name not in wanted]
        raise Mismatch(
            "the program ended well, but the database did not move as it should",
            detail=f"Not noted: {_listed(lacking)}. Noted and not expected: {_listed(more)}.",
            hint="Look at `invoke migrate.status`, and at what the program said.",
        )
    if strangers := after.strangers(before, owner):
        raise Mismatch(
            f"what the migration made is not all {owner}'s",
            detail=f"Another role's: {_listed(strangers)}; unless another session made it meanwhile.",
            hint=f"ALTER … OWNER TO {quoted(owner)}; else a backup by {owner} lacks them, and the app may not use them.",
        )
    if invalid := after.invalid - before.invalid:
        raise Mismatch(
            f"an index came out invalid: {_listed(sorted(invalid))}",
            detail="CREATE INDEX CONCURRENTLY failed after it had begun; nothing uses that index.",
            hint="Drop it and build it again.",
        )


def _left(before: Seen, after: Seen, halving: Sequence[str]) -> str:
    if after.names == before.names and after.digest == before.digest and halving:
        return f"No definition was changed, BUT ROWS MAY BE, and are not compared: {_listed(halving)} ends its transaction."
    if after.digest == before.digest and after.names == before.names:
        return "Nothing was changed."
    if before.noted is None and not after.names and _only_their_table(before, after):
        return "Nothing was changed, but that the table pgmigrations is there now."
    if after.names == before.names:
        return (
            "Something was CHANGED AND IS NOT NOTED: a COMMIT in a file, noTransaction, or another session."
        )
    return "What ran before the failure is noted and stays."


def _only_their_table(before: Seen, after: Seen) -> bool:
    """Whether nothing came but the table of notes, which is made before the first transaction."""
    return all(re.search(r"\bpgmigrations(_id_seq)?$", each.name) for each in after.owned ^ before.owned)


def _cure(ended: Ended) -> str:
    said = " ".join(ended.said)
    known = {
        "No projects matched": "The package is not in this workspace: check POLYLADDER_APP_DIR.",
        "node_modules missing": "Run `pnpm install` in the checkout.",
        "lock timeout": "Another session holds a lock that it waited for: wait until that is done, or end it, then run it again.",
        "permission denied to create extension": "A superuser has to run that CREATE EXTENSION first.",
        "Another migration is already running": "Wait for it, or look in pg_stat_activity who holds its lock.",
        "self-signed certificate": "Put sslmode=require into DATABASE_URL, or the certificate's file as sslrootcert.",
    }
    return next(
        (cure for piece, cure in known.items() if piece in said), "Correct the file, and run it again."
    )


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(map(plain, names[:5])) + more if names else "none"


# The run --------------------------------------------------------------------------------------------------------------


def run(
    server: Connection, target: Target, checkout: Checkout, direction: str, *, say: Callable[[str], object]
) -> tuple[Ended, str]:
    """Run the checkout's migrations `up` or `down`; return how the program ended, and the owner whose objects it made.

    `server` is the session that holds the database's lock. `say` hears each line of the program, without secrets. Ended early,
    neither the program's group nor a session of its on the server is left; killed, the program's group ends too. Raise OpsError
    if it can't be started, or if the lock is lost meanwhile: then it is ended, and what the database notes is told.
    """
    with migration_login.opened(server, target) as login, lifeline() as ends_with_us:
        program = _Program(checkout, direction, login)
        ends_with_us(program.process)
        try:
            ended = program.watch(say, server, login)
            program.end()
            _expect_alone(server, target)
        except BaseException as error:
            with at_work("ending the migration", error):
                program.end()
                left = _ended_sessions(server, target, login)
            _tell(error, target, checkout.options.schema, left)
            raise
        migration_login.end_sessions(server, login)
    return ended, login.owner


def _expect_alone(server: Connection, target: Target) -> None:
    """Return if this session still holds the lock. Raise OpsError if it is lost: another run may have begun beside."""
    try:
        locks.check(server, target.database)
    except OpsError as error:
        raise OpsError(
            f"the lock on {target.database} was lost while the migration ran",
            detail=f"{error.detail} Another run may have changed it meanwhile.".strip(),
            hint="Look at `invoke migrate.status`.",
        ) from error


def _ended_sessions(server: Connection, target: Target, login: Login) -> str:
    """End the migration's sessions; return in a sentence why one may be left, empty if none is."""
    try:
        with migration_login.living(server, target) as connection:
            migration_login.end_sessions(connection, login)
    except OpsError as error:
        return f"A session of the migration may be left: {error.in_a_line}"
    return ""


def _tell(error: BaseException, target: Target, schema: str, left: str) -> None:
    """Say of a run that was interrupted, or lost its lock, what the database notes now."""
    if not isinstance(error, KeyboardInterrupt | OpsError):
        return
    now = f"{_noted_now(target, schema)} {left}".strip()
    if isinstance(error, KeyboardInterrupt):
        raise Interrupted(
            f"interrupted by {str(error) or 'Ctrl-C'}", detail=now, hint="Look at `invoke migrate.status`."
        ) from error
    error.detail = f"{error.detail} {now}".strip()


def _noted_now(target: Target, schema: str) -> str:
    try:
        names = look(target, schema).names
    except OpsError as error:
        return f"What {target.database} notes now is not known: {error.in_a_line}"
    head = plain(names[-1]) if names else "none"
    return f"{target.database} notes {len(names)} migrations now, the last one is {head}."


class _Program:
    def __init__(self, checkout: Checkout, direction: str, login: Login) -> None:
        self.process = portable.start(
            checkout.argv(direction),
            env=environment(login.variables),
            cwd=checkout.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self._heard: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self._reader.start()

    def _read(self, pipe: IO[bytes]) -> None:
        while line := pipe.readline(_MOST_BYTES):
            self._heard.put(line)
        self._heard.put(None)

    def watch(self, say: Callable[[str], object], server: Connection, login: Login) -> Ended:
        """Return how it ended; say its lines, and, when it has been quiet for ten seconds, whom it waits for.

        It is ended when the lock's session is lost, of which the heartbeat of that hears.
        """
        kept: deque[tuple[int, str]] = deque(maxlen=_KEPT_LINES)
        reasons: deque[tuple[int, str]] = deque(maxlen=_KEPT_REASONS)
        for number, line in enumerate(self._lines(say, server, login)):
            # Secrets go before the line is cut: half of one would not be known.
            text = plain(redact(line.decode("utf-8", "replace").rstrip()))[:_LONGEST]
            if text:
                say(text)
                if not _UNKNOWN.fullmatch(text):
                    (reasons if _REASON.search(text) else kept).append((number, text.strip()))
        return Ended(self.process.wait(), tuple(text for _, text in sorted([*reasons, *kept])))

    def _lines(self, say: Callable[[str], object], server: Connection, login: Login) -> Iterator[bytes]:
        quiet_since = time.monotonic()
        while True:
            if server.closed:
                portable.end_group(self.process)
                return
            try:
                line = self._heard.get(timeout=_TICK_S)
            except queue.Empty:
                if self.process.poll() is not None and not self._reader.is_alive():
                    return
                if self.process.poll() is not None:
                    portable.end_group(self.process)  # what it left behind holds the pipe open
                elif time.monotonic() - quiet_since > _QUIET_S:
                    quiet_since = time.monotonic()
                    for who in migration_login.blockers(server, login):
                        say(f"it waits for a lock that {plain(who)} holds")
                continue
            if line is None:
                return
            quiet_since = time.monotonic()
            yield line

    def end(self) -> None:
        """Make sure that nothing of it runs any more."""
        portable.end_group(self.process)
        self._reader.join(10)
        if self.process.stdout and not self._reader.is_alive():
            self.process.stdout.close()
