"""Runs behind a relay that falls silent, killed or interrupted there: the server lets go, the next command ends what is left."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import setaside
from tests.faults.places import Place, ask, dumping
from tests.faults.restores import JOBS, Stage, stage
from tests.faults.test_silent_commands import ENDS_S, Falling
from tests.faults.tunnel import tunnel
from tests.faults.wire import wire

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="Windows has neither SIGKILL nor SIGINT for one process"
)
HEARD_S = 60.0  # on any machine; a person sees it within two seconds


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("kills")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_kills_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made


def behind_silence(
    on_stage: Stage, words: str, arguments: tuple[str, ...], act: Callable[[subprocess.Popen[bytes]], None]
) -> None:
    """Have a command's link fall silent at a statement with these words, and act on it then, the link still silent."""
    with tunnel(on_stage.target.port) as by:
        falling = Falling(by, words)
        with wire(by.port, falling) as relay:
            url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{relay.port}/")
            process = on_stage.start(*arguments, DATABASE_URL=url)
            on_stage.place.wait_for(lambda: falling.at or process.poll() is not None, within_s=60)
            assert falling.at, on_stage.place.end_of(process).said
            act(process)


def dumps(on_stage: Stage) -> set[int]:
    """Return the server's processes that serve a pg_dump of ours."""
    pids = ask(
        on_stage.server,
        "SELECT coalesce(array_agg(pid), '{}') FROM pg_stat_activity WHERE application_name LIKE 'polyladder-ops pg_dump%'",
    )
    return set(pids)


def test_a_backup_that_is_killed_behind_a_silent_link_is_let_go_of_and_the_next_one_ends_its_dump(
    on_stage: Stage,
) -> None:
    def kill(process: subprocess.Popen[bytes]) -> None:
        on_stage.place.wait_for(lambda: dumps(on_stage))
        left = dumps(on_stage)
        assert dumping(on_stage.target) or sys.platform != "linux"
        process.kill()
        on_stage.place.end_of(process)
        on_stage.place.wait_for(
            lambda: not dumping(on_stage.target), within_s=ENDS_S
        )  # here it ends with its run
        holding = (
            "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'polyladder-ops'"
            f" AND datname = '{on_stage.target.database}'"
        )
        on_stage.place.wait_for(lambda: ask(on_stage.server, holding) == 0, within_s=ENDS_S)
        assert dumps(on_stage) == left  # on the server nothing ends that by itself
        again = on_stage.place.invoke("backup", "--new-source")
        assert again.code == 0, again.said
        on_stage.place.wait_for(lambda: not dumps(on_stage), within_s=ENDS_S)

    behind_silence(on_stage, "COPY public.", ("backup", "--new-source"), kill)


def test_a_restore_that_is_killed_behind_a_silent_link_leaves_its_lock_for_half_a_minute(
    on_stage: Stage,
) -> None:
    def kill(process: subprocess.Popen[bytes]) -> None:
        process.kill()
        on_stage.place.end_of(process)
        refused = on_stage.place.invoke("restore.abort")
        assert refused.code == 4, refused.said
        assert "last heard " in refused.err
        on_stage.place.wait_for(lambda: not setaside.status(on_stage.target).holder, within_s=ENDS_S)
        done = on_stage.place.invoke("restore.abort")
        assert done.code == 0, done.said

    behind_silence(on_stage, "COPY public.note", (*on_stage.arguments, f"--jobs={JOBS}"), kill)
    on_stage.is_untouched()


MOMENTS = {
    "backup, dumping": (("backup", "--new-source"), "COPY public."),
    "backup, at the snapshot": (("backup", "--new-source"), "pg_export_snapshot"),
    "restore, at the lock": (("restore",), "pg_try_advisory_lock"),
    "restore, loading": (("restore",), "COPY public.note"),
    "restore, proving": (("restore",), "TO STDOUT"),
    "doctor": (("doctor",), "pg_control_system"),
}


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_ctrl_c_is_heard_on_a_silent_link(moment: str, on_stage: Stage) -> None:
    command, words = MOMENTS[moment]
    arguments = (*on_stage.arguments, f"--jobs={JOBS}") if command == ("restore",) else command

    def interrupt(process: subprocess.Popen[bytes]) -> None:
        process.send_signal(signal.SIGINT)
        ended = on_stage.place.end_of(process, within_s=HEARD_S)
        assert ended.code == 130, ended.said
        assert "interrupted by SIGINT" in ended.err

    behind_silence(on_stage, words, arguments, interrupt)
    on_stage.place.wait_for(lambda: not setaside.status(on_stage.target).holder, within_s=ENDS_S)
    on_stage.abort()
    on_stage.is_untouched()
