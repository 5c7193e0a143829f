"""A real `invoke restore --in-place` that somebody stops, or that fails late: it says whether anything is committed."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.faults.places import Place
from tests.faults.restores import Stage, stage
from tests.faults.wire import Strike, wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from tests.faults.places import Ended

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("inplace_signals")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_inplace_{os.getpid()}"
    ) as made:
        yield made


def ended(on_stage: Stage, watch: Callable[[subprocess.Popen[bytes], str], Strike | None]) -> Ended:
    """Return how a restore in place ended; `watch` is told each statement and the process."""
    on_stage.set_up()
    started: list[subprocess.Popen[bytes]] = []

    def told(_application: str, text: str) -> Strike | None:
        return watch(started[0], text)

    with wire(on_stage.target.port, told) as by:
        url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{by.port}/")
        started.append(
            on_stage.start(*on_stage.arguments, "--in-place", "--without-backup", DATABASE_URL=url)
        )
        return on_stage.place.end_of(started[0])


def interrupting(words: str, *, behind: str = "") -> Callable[[subprocess.Popen[bytes], str], None]:
    """Send a Ctrl-C at the first statement with these words that comes behind one with those."""
    sent: list[float] = []
    seen: list[str] = []

    def watch(process: subprocess.Popen[bytes], text: str) -> None:
        if behind in text:
            seen.append(text)
        if words in text and seen and not sent:
            sent.append(time.monotonic())
            process.send_signal(signal.SIGINT)
            time.sleep(0.2)

    return watch


def test_one_that_is_stopped_before_its_commit_says_that_nothing_was_committed(on_stage: Stage) -> None:
    done = ended(on_stage, interrupting("COPY public.note"))
    name = on_stage.target.database
    assert done.code == 130, done.said
    assert f"rolling back: {name} stays as it was …\n" in done.err
    assert f"error: interrupted by SIGINT\ndetail: Nothing was committed: {name} is as it was.\n" in done.err
    on_stage.holds(on_stage.before)


def test_one_that_is_stopped_at_its_commit_says_what_the_server_says(on_stage: Stage) -> None:
    done = ended(on_stage, interrupting("COMMIT", behind="COPY public.note"))
    assert done.code == 130, done.said
    assert "Traceback" not in done.err
    if "The restore is committed" in done.err:
        on_stage.holds(on_stage.backup.manifest.contents)
    else:
        assert "holds all of the old state or all of the new" in done.err
        on_stage.holds(on_stage.before)


@pytest.mark.parametrize("fails", [False, True], ids=["stopped", "cut off"])
def test_one_that_ends_after_its_commit_says_that_it_is_committed(fails: bool, on_stage: Stage) -> None:
    def cut(_process: subprocess.Popen[bytes], text: str) -> Strike | None:
        return Strike("before") if "ANALYZE" in text else None

    done = ended(on_stage, cut if fails else interrupting("ANALYZE"))
    assert done.code == (1 if fails else 130), done.said
    said = "could not analyze the restored database" if fails else "interrupted by SIGINT after the restore"
    assert f"error: {said}\n" in done.err
    assert f"The restore is committed: {on_stage.target.database} holds the backup now." in done.err
    assert "`ANALYZE`" in done.err
    on_stage.holds(on_stage.backup.manifest.contents)


def test_a_second_signal_while_it_rolls_back_says_that_nothing_was_committed(on_stage: Stage) -> None:
    sent: list[float] = []

    def watch(process: subprocess.Popen[bytes], text: str) -> None:
        if "COPY public.note" in text and not sent:
            sent.append(time.monotonic())
            process.send_signal(signal.SIGINT)
        elif "SELECT FROM pg_catalog.pg_stat_activity WHERE pid" in text and len(sent) == 1:
            sent.append(time.monotonic())
            process.send_signal(signal.SIGINT)
            time.sleep(3)

    done = ended(on_stage, watch)
    assert len(sent) == 2, done.said
    assert done.code == 130, done.said
    assert "error: interrupted by SIGINT, so the clean-up was left\n" in done.err
    assert f"Nothing was committed; the server rolls {on_stage.target.database} back by itself." in done.err
    on_stage.holds(on_stage.before)
