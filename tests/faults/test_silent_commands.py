"""Whole commands behind a relay that falls silent and goes on to acknowledge: each ends, says why, and harms nothing."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import setaside
from tests.faults.places import Place
from tests.faults.restores import JOBS, Stage, stage
from tests.faults.tunnel import Tunnel, tunnel
from tests.faults.wire import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

ENDS_S = 150.0  # on any machine; before, none of them ended at all


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("silent")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_mute_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made


@dataclass
class Falling:
    """Has a tunnel fall silent at a statement with these words; of which turn, counted over all sessions."""

    by: Tunnel
    words: str
    turn: int = 1
    at: list[float] = field(default_factory=list)

    def __call__(self, _application: str, text: str) -> None:
        self.turn -= self.words in text
        if self.turn <= 0 and self.words in text and not self.at:
            self.by.hold()
            self.at.append(time.monotonic())


MOMENTS = {
    "backup: at the first statement": (("backup", "--new-source"), "set_config", 1),
    "backup: while the snapshot is taken": (("backup", "--new-source"), "pg_export_snapshot", 1),
    "backup: while pg_dump reads rows": (("backup", "--new-source"), "COPY public.", 1),
    "restore: at the lock": (("restore",), "pg_try_advisory_lock", 1),
    "restore: while the copy is made": (("restore",), "CREATE DATABASE", 1),
    "restore: while rows are loaded": (("restore",), "COPY public.note", 1),
    "restore: while the copy is proved": (("restore",), "TO STDOUT", 1),
    "verify: while rows are loaded": (("verify",), "COPY public.note", 1),
    "verify: while the copy is proved": (("verify",), "TO STDOUT", 1),
    "doctor": (("doctor",), "pg_control_system", 1),
    "restore.status": (("restore.status",), "pg_database", 1),
}


def arguments(command: tuple[str, ...], on_stage: Stage) -> tuple[str, ...]:
    if command == ("restore",):
        return (*on_stage.arguments, f"--jobs={JOBS}")
    if command == ("verify",):
        return ("verify", f"--backup={on_stage.backup.id}", "--level=restore")
    return command


@pytest.mark.parametrize(
    ("moment", "allowed"),
    [
        *((moment, ("-T", "10")) for moment in MOMENTS),
        *((moment, ()) for moment in MOMENTS if moment.endswith(("are loaded", "reads rows"))),
    ],
)
def test_a_command_behind_a_silent_relay_ends_and_harms_nothing(
    moment: str, allowed: tuple[str, ...], on_stage: Stage
) -> None:
    command, words, turn = MOMENTS[moment]
    before = [backup.id for backup in on_stage.place.catalog.backups]
    with tunnel(on_stage.target.port) as by:
        falling = Falling(by, words, turn)
        with wire(by.port, falling) as relay:
            url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{relay.port}/")
            process = on_stage.start(
                *allowed, *arguments(command, on_stage), DATABASE_URL=url, POLYLADDER_SCRATCH_URL=url
            )
            on_stage.place.wait_for(lambda: falling.at or process.poll() is not None, within_s=60)
            assert falling.at, on_stage.place.end_of(process).said
            ended = on_stage.place.end_of(process, within_s=ENDS_S)
    assert ended.code in (1, 3), ended.said  # doctor tells it as a finding
    assert "this is a bug" not in ended.said, ended.said
    assert re.search("nothing came|said nothing|timeout", ended.said), ended.said
    assert [backup.id for backup in on_stage.place.catalog.backups] == before
    on_stage.place.wait_for(lambda: not_held(on_stage), within_s=ENDS_S)
    on_stage.abort()
    on_stage.is_untouched()


def not_held(on_stage: Stage) -> bool:
    """Whether the server has let go of what the command held."""
    return not setaside.status(on_stage.target).holder
