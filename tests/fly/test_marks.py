"""The marks in the machines: they are what another machine of ours knows, so they are looked at, and go last."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import Mismatch
from polyladder_ops.fly import machines, shape
from polyladder_ops.fly.fleet import Fleet
from polyladder_ops.fly.starting import start
from polyladder_ops.fly.stopping import stop
from polyladder_ops.sandbox.fly import platform, world
from tests.fly.conftest import APP, PACE, calls, fleet_of, put, shown, states

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud


def marks(cloud: Cloud) -> list[str]:
    return [each["config"]["metadata"].get(machines.MARK, "") for each in shown(cloud)]


class Killed(BaseException):
    """Stands for the end of our process: nothing of ours runs after it."""


def test_a_start_that_was_killed_another_machine_finishes(workers: Cloud, tmp_path: Path) -> None:
    """A worker has no service that could wake it: with its mark gone nobody would know that it ran."""
    put(workers)
    mine, theirs = fleet_of(workers, tmp_path / "a"), fleet_of(workers, tmp_path / "b")
    stop(mine)

    def end(sentence: str) -> None:
        if sentence.startswith("starting"):
            raise Killed

    with pytest.raises(Killed):
        start(Fleet(mine.flyctl, APP, mine.folder, say=end, pace=PACE))
    assert "stopped" in states(workers)
    done = start(theirs)
    assert states(workers) == ["started"] * 3
    assert not any("had none before" in sentence for sentence in done.said)
    assert marks(workers) == ["", "", ""]


def test_a_start_whose_update_did_nothing_takes_the_mark_away_all_the_same(
    workers: Cloud, tmp_path: Path
) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    stop(fleet)
    start(fleet_with_a_lie(workers, fleet, "taking"))
    assert (states(workers), marks(workers)) == (["started"] * 2, ["", ""])
    assert not shape.waits(fleet.path)


def test_a_mark_that_stays_is_told(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    stop(fleet)
    with pytest.raises(Mismatch) as caught:
        start(fleet_with_a_lie(workers, fleet, "taking", times=None))
    assert "keeps its mark" in caught.value.detail
    workers.switch("all", off=True)
    start(fleet)
    assert marks(workers) == ["", ""]


def fleet_with_a_lie(cloud: Cloud, fleet: Fleet, before: str, times: int | None = 1) -> Fleet:
    """Let the update after the first sentence of this beginning say that it was done, and do nothing."""
    told: list[str] = []

    def say(sentence: str) -> None:
        if sentence.startswith(before) and not told:
            told.append(sentence)
            cloud.switch("update-lies", times=times)

    return Fleet(fleet.flyctl, fleet.app, fleet.folder, say=say, pace=PACE)


def test_a_stop_looks_at_the_marks_and_writes_them_again(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    workers.switch("update-lies", times=1)  # the list is by ids, so it may be either machine
    done = stop(fleet)
    assert done.unmarked == ()
    assert all(mark.endswith("ran=true") for mark in marks(workers))


def test_a_mark_that_fly_does_not_keep_is_told_by_a_stop(workers: Cloud, tmp_path: Path) -> None:
    with world.changing(workers.folder) as here:
        web = next(each for each in here.machines(APP) if each["shown"]["config"].get("services"))
        platform.destroy(here, APP, web)
    workers.switch("update-lies")
    done = stop(fleet_of(workers, tmp_path / "a"))
    assert done.unmarked == tuple(each["id"] for each in shown(workers))
    assert [words for words in calls(workers) if words == "machine update"] == ["machine update"] * 2
