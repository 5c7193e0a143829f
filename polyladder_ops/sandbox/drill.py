"""The whole way once, on the sandbox: back up under a writer, verify, restore into a second database, prove, ask.

A drill must be able to fail: it demands that rows changed while the dump ran, and that the proof tells the live
database, which went on, from the restored one, which did not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops import backups, checks, loading, restoring, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, reader, session
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.sandbox.writer import Writer
from polyladder_ops.undoing import undone_if_failing

if TYPE_CHECKING:
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.checks import Check
    from polyladder_ops.loading import Loaded
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.snapshot import Snapshot

__all__ = ["COMMITS", "RESTORED", "Result", "Step", "run"]

RESTORED = "polyladder_drill"
COMMITS = 200
TABLES_MOVED = 5
_PATIENCE_S = 60.0


@dataclass(frozen=True)
class Step:
    """One thing that was done: whether it came out as it must, what was seen, how long it took."""

    name: str
    ok: bool
    seen: str
    seconds: float


@dataclass
class Result:
    """The steps in their order, and the backup that was made."""

    steps: list[Step] = field(default_factory=list)
    backup: Backup | None = None
    differences: tuple[differences.Difference, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every step came out as it must."""
        return bool(self.steps) and all(step.ok for step in self.steps)


Say = Callable[[str], None]


def run(
    live: Target,
    folder: Path,
    private: Path,
    *,
    site: str,
    say: Say,
    questions: Sequence[Check] = (),
    before_proof: Callable[[Target], None] | None = None,
) -> Result:
    """Return what came of a drill on this database, which must be the sandbox's.

    `say` is told each step as it begins. The restored database stays as `RESTORED` until the next drill, and is asked the
    questions, if there are any. Raise OpsError if a step could not be done at all. `before_proof` gets the restored
    database before it is proved.
    """
    result = Result()
    restored = live.with_database(RESTORED)

    say("backing up while a writer changes rows")
    with _timed(result, "backup under a writer") as report:
        result.backup, commits = _backup_under_writer(live, folder, private, site)
        total = sum(commits.values())
        report(
            f"{result.backup.manifest.rows:,} rows; {total:,} commits over {len(commits)} tables meanwhile",
            total >= COMMITS and len(commits) >= TABLES_MOVED,
        )

    say("verifying the stored bytes")
    with _timed(result, "verify") as report:
        verdict = verification.verify_stored(result.backup, [])
        report("; ".join(verdict.reasons) or "every byte and every table as in the manifest", verdict.passed)

    say(f"restoring into {RESTORED}")
    with _timed(result, "restore") as report:
        loaded = _restore(live, result.backup)
        report(f"into {RESTORED}", True)
    if before_proof:
        before_proof(restored)

    say("proving the restored database")
    with _timed(result, "proof") as report:
        result.differences = tuple(
            restoring.prove(live.with_database("postgres"), RESTORED, result.backup, [], loaded=loaded)
        )
        manifest = result.backup.manifest
        said = "; ".join(map(str, result.differences[:3])) or (
            f"{len(manifest.tables)} tables, {len(manifest.objects)} objects, {len(manifest.sequences)} sequences equal"
        )
        report(said, not result.differences)

    if questions:
        say("asking it your questions")
        with _timed(result, "checks") as report:
            with (
                closing(session.connect(live.with_database("postgres"))) as server,
                reader.opened(server, restored) as asked,
            ):
                wrong = [answer for answer in checks.run(asked.connection, questions) if not answer.ok]
            said = "; ".join(f"{answer.check.name}: {answer.said}" for answer in wrong[:3])
            report(said or f"{len(questions)} answers as expected", not wrong)

    say("telling the live database from it")
    with _timed(result, "live is told apart") as report:
        with closing(session.connect(live)) as connection:
            now = read_back.read_contents(connection, result.backup.manifest.contents)
        moved = [
            d for d in differences.compare_contents(result.backup.manifest.contents, now) if d.kind == "table"
        ]
        report(f"{len(moved)} tables have gone on since the snapshot", len(moved) >= TABLES_MOVED)
    return result


@contextmanager
def _timed(result: Result, name: str) -> Iterator[Callable[[str, bool], None]]:
    began = time.monotonic()
    seen: list[tuple[str, bool]] = []
    yield lambda text, ok: seen.append((text, ok))
    text, ok = seen[-1]
    result.steps.append(Step(name, ok, text, time.monotonic() - began))


def _backup_under_writer(
    live: Target, folder: Path, private: Path, site: str
) -> tuple[Backup, dict[str, int]]:
    """Return the backup, and per table the commits between the snapshot's export and the end of pg_dump."""
    instants: list[datetime] = []

    with _writing(live) as writer:

        def exported(snapshot: Snapshot) -> None:
            # The dangerous commits are those between the export and pg_dump's first look: make sure that there are some.
            instants.append(snapshot.taken_at)
            _wait_for(lambda: sum(writer.commits_since(snapshot.taken_at).values()) >= COMMITS)

        options = backups.Options(exported=exported, dumped=instants.append, new_source=True)
        made = backups.take(live, folder, site=site, private=private, options=options)
        record = writer.stop()
    return made, record.commits_between(instants[-2], instants[-1])


@contextmanager
def _writing(live: Target) -> Iterator[Writer]:
    """Within the block a writer writes. Raise OpsError with a way out if it can't: a broken sandbox has no such rows."""
    try:
        with Writer(live) as writer:
            yield writer
    except OpsError as error:
        error.hint = error.hint or _ANEW
        raise


def _wait_for(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not reached():
        if time.monotonic() > deadline:
            raise OpsError("the drill's writer does not get its commits through", hint=_LOOK)
        time.sleep(0.01)


_LOOK = "Look with `invoke sandbox.status`."
_ANEW = "If it was broken, make it anew: `invoke sandbox.down`, then `invoke sandbox.up`."


def _restore(live: Target, backup: Backup) -> Loaded:
    server = live.with_database("postgres")
    databases.drop(server, RESTORED)
    with undone_if_failing(f"the database {RESTORED}", partial(databases.drop, server, RESTORED)):
        restoring.make_database(server, RESTORED, backup.manifest)
        return loading.load(live.with_database(RESTORED), backup, [])
