"""A real `invoke restore` that somebody stops: the live database is as it was, and nothing is left, without a clean-up."""

from __future__ import annotations

import os
import signal
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pytest

from tests.faults.places import Place
from tests.faults.restores import Stage, stage
from tests.faults.wire import wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from tests.faults.places import Ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
WITHIN_S = 2.0 + 2.0  # and the copy is dropped, on a machine that others use


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("signals")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_signals_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made


@dataclass
class Sending:
    """Sends a signal to the process when one of its sessions says this, for the `turn`th time, and `times` times."""

    words: str
    signal: str
    turn: int = 1
    times: int = 1
    process: list[subprocess.Popen[bytes]] = field(default_factory=list)
    sent_at: float = 0.0

    def __call__(self, _application: str, text: str) -> None:
        if self.words in text:
            self.turn -= 1
        if self.words in text and self.turn == 0:
            self.sent_at = time.monotonic()
            for _ in range(self.times):
                os.kill(self.process[0].pid, getattr(signal, self.signal))
                time.sleep(0.03)


def stopped(on_stage: Stage, sending: Sending) -> Ended:
    """Return how a restore ended that got this signal, in time."""
    with wire(on_stage.target.port, sending) as by:
        url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{by.port}/")
        sending.process.append(on_stage.start(DATABASE_URL=url))
        ended = on_stage.place.end_of(sending.process[0])
    assert sending.sent_at, ended.said
    assert time.monotonic() - sending.sent_at < WITHIN_S
    return ended


BEFORE = {
    "while it looks": Sending("pg_replication_slots", "SIGINT"),
    "when the copy is made": Sending("CREATE DATABASE", "SIGTERM"),
    "among the rows": Sending("COPY public.note", "SIGINT"),
    "while an index is built": Sending("CREATE INDEX", "SIGTERM"),
    "while it is analyzed": Sending("ANALYZE", "SIGTERM"),
    "while it is proved": Sending("lo_get", "SIGINT"),
    "before the copy is closed": Sending(" ALLOW_CONNECTIONS false", "SIGHUP", turn=2),
    "when the switch begins": Sending(
        "SELECT pg_catalog.set_config('idle_in_transaction_session_timeout', $1, ", "SIGINT"
    ),
    "when sessions are ended": Sending("pg_terminate_backend(pid)", "SIGTERM"),
    "at the first name": Sending(" RENAME TO ", "SIGINT"),
    "between the names": Sending(" RENAME TO ", "SIGINT", turn=2),
    "when the copy is opened": Sending(" ALLOW_CONNECTIONS true", "SIGTERM", turn=2),
    "again and again": Sending(" RENAME TO ", "SIGINT", times=3),
}


@pytest.mark.parametrize("moment", BEFORE)
def test_a_restore_that_is_stopped_before_the_switch_leaves_nothing(moment: str, on_stage: Stage) -> None:
    ended = stopped(on_stage, BEFORE[moment])
    assert ended.code == 130, ended.said
    assert ended.out == ""
    assert f"error: interrupted by {BEFORE[moment].signal}\n" in ended.err
    assert "Traceback" not in ended.err
    if moment != "while it looks":
        assert ended.err.count("dropping the database polyladder_beside_") == 1
    on_stage.is_untouched()


def test_a_restore_that_is_stopped_while_it_commits_says_which_database_is_live(on_stage: Stage) -> None:
    ended = stopped(on_stage, Sending("COMMIT", "SIGINT"))
    assert ended.code == 130, ended.said
    assert "Traceback" not in ended.err
    if on_stage.oid() == on_stage.old:
        assert "error: interrupted by SIGINT\n" in ended.err
        on_stage.is_untouched()
    else:
        assert f"but {on_stage.target.database} was switched before" in ended.err
        assert "`invoke restore.undo`" in ended.err
        on_stage.is_restored()
    on_stage.set_up()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_restore_that_is_stopped_after_the_switch_says_that_it_is_done(name: str, on_stage: Stage) -> None:
    ended = stopped(on_stage, Sending("pg_current_wal_insert_lsn", name))
    assert ended.code == 130, ended.said
    assert f"interrupted after the switch: {on_stage.target.database} is the restored database" in ended.err
    aside = on_stage.is_restored()
    assert f"What it was before is {aside.name}" in ended.err
    on_stage.set_up()
