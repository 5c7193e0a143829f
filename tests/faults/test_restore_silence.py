"""A link that falls silent in the switch, its sockets open: nothing is committed yet, so the server takes it all back."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import setaside
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import connect
from tests.faults.places import Place, with_other
from tests.faults.restores import Stage, stage
from tests.faults.tunnel import tunnel
from tests.faults.wire import wire

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

APP_IN_S = 15.0
RUN_ENDS_S = 60.0


@pytest.fixture(scope="module")
def on_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """A live database and a backup of what it was; the tests of the module take turns on it."""
    folder = tmp_path_factory.mktemp("silence")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_silence_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
@pytest.mark.parametrize("killed", [False, True], ids=["the client left alone", "the client killed"])
@pytest.mark.parametrize(
    ("words", "turn"),
    [
        pytest.param(" RENAME TO ", 1, id="before the first name"),
        pytest.param(" RENAME TO ", 2, id="between the names"),
        pytest.param("COMMIT", 1, id="before COMMIT"),
    ],
)
def test_a_silent_link_in_the_switch_keeps_the_app_out_for_seconds_and_leaves_nothing_closed(
    words: str, turn: int, killed: bool, on_stage: Stage
) -> None:
    silent_at: list[float] = []
    left, begun = [turn], []
    with tunnel(on_stage.target.port) as by:

        def silence(application: str, text: str) -> None:
            begun.extend(["it"] * (" RENAME TO " in text))
            left[0] -= words in text and bool(begun)
            if left[0] == 0 and not silent_at:
                by.hold()
                silent_at.append(time.monotonic())

        with wire(by.port, silence) as relay:
            url = on_stage.place.url().replace(f":{on_stage.target.port}/", f":{relay.port}/")
            process = on_stage.start(DATABASE_URL=url)
            on_stage.place.wait_for(lambda: silent_at, within_s=60)
            if killed:
                process.kill()
            with closing(connect(on_stage.target, timeout_s=45)) as app:
                assert time.monotonic() - silent_at[0] < APP_IN_S
                assert app.execute("SELECT answer FROM public.which").fetchone() == ("live",)
            ended = on_stage.place.end_of(process, within_s=RUN_ENDS_S)
            assert time.monotonic() - silent_at[0] < RUN_ENDS_S
        if not killed:
            assert ended.code == 1, ended.said
            assert "which database is live_silence" in ended.err
            assert "It takes sessions, whichever it is." in ended.err
        # The server has ended the run's sessions: nobody is at work, and there is a copy to drop, no more.
        on_stage.place.wait_for(lambda: not setaside.status(on_stage.target).holder, within_s=APP_IN_S)
        leftovers = setaside.status(on_stage.target).leftovers
        assert all(one.role or one.detail == "a half-made copy" for one in leftovers)
        assert setaside.status(on_stage.target).asides == ()
    assert all(
        done.startswith(("dropped the half-made copy ", "dropped the login of")) for done in on_stage.abort()
    )
    on_stage.is_untouched()


def test_a_commit_that_waits_for_a_standby_that_is_gone_lets_the_app_in_and_says_what_is_live(
    on_stage: Stage,
) -> None:
    """It is on our server's disk, and can't be taken back any more; meanwhile the app would wait for the lock."""
    left = [2]

    def cut_off(application: str, text: str) -> None:
        left[0] -= " RENAME TO " in text and application.startswith("polyladder-ops restore ")
        if left[0] == 0 and not cut_at:
            cut_at.append(time.monotonic())
            required(on_stage, "'nobody'")

    cut_at: list[float] = []
    try:
        with (
            wire(on_stage.target.port, cut_off) as by,
            pytest.raises(OpsError, match="was switched, but what came after it failed") as caught,
        ):
            on_stage.replace(with_other(on_stage.target, port=by.port))
    finally:
        required(on_stage, "''")
    assert 5 < time.monotonic() - cut_at[0] < RUN_ENDS_S
    assert "`invoke restore.undo` takes it back" in caught.value.hint
    on_stage.is_restored()
    on_stage.set_up()


def required(on_stage: Stage, standby: str) -> None:
    """Have every COMMIT of a session that wants it wait for this standby."""
    on_stage.asking.execute(f"ALTER SYSTEM SET synchronous_standby_names = {standby}".encode())
    on_stage.asking.execute("SELECT pg_reload_conf()")
    time.sleep(0.5)
