"""A shape that is lost, left over, odd, or brought back from elsewhere."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import shape
from polyladder_ops.fly.scaling import scale
from polyladder_ops.fly.starting import start
from polyladder_ops.fly.stopping import stop
from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import APP, autostarts, calls, fleet_of, states, until

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.sandbox.fly.cloud import Cloud


def test_a_shape_that_somebody_else_brought_back_is_over(cloud: Cloud, tmp_path: Path) -> None:
    mine, theirs = fleet_of(cloud, tmp_path / "a"), fleet_of(cloud, tmp_path / "b")
    stop(mine)
    start(theirs)
    scale(theirs, "app", 2)
    assert shape.waits(mine.path)
    done = stop(mine)
    assert done.shape is not None
    assert dict(done.shape.counts) == {"app": 2}
    start(mine)
    assert states(cloud) == ["started"] * 2
    assert not shape.waits(mine.path)


def test_a_start_forgets_a_shape_of_which_all_is_there(cloud: Cloud, tmp_path: Path) -> None:
    mine, theirs = fleet_of(cloud, tmp_path / "a"), fleet_of(cloud, tmp_path / "b")
    stop(mine)
    start(theirs)
    scale(theirs, "app", 2)
    start(mine)
    assert not shape.waits(mine.path)


def test_machines_that_somebody_added_while_it_was_down_are_told(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    scale(fleet_of(cloud, fleet.folder.parent / "b"), "app", 2)
    done = start(fleet)
    assert "Group app has 2 machines now; it had 1." in done.said


def test_a_group_that_came_back_is_remembered_when_it_goes_again(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    for group, count in (("worker", 0), ("app", 0), ("worker", 1), ("worker", 0)):
        scale(fleet, group, count)
    start(fleet)
    assert states(workers) == ["started"] * 2


@pytest.mark.parametrize("of", ["services", "http_service"])
def test_an_autostart_that_the_settings_have_off_is_left_off(
    of: str, workers: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither switched on, nor taken for the trace of a stop: the worker was stopped by choice."""
    service = {"auto_start_machines": False, "processes": ["app"]}
    config = {"processes": {"app": "", "worker": ""}, of: service if of == "http_service" else [service]}
    until(lambda: states(workers) == ["started"] * 2)
    with world.changing(workers.folder) as here:
        for machine in here.machines(APP):
            if services := machine["shown"]["config"].get("services"):
                services[0]["autostart"] = False
            else:
                here.becomes(machine, "stopped")
    fleet = fleet_of(workers, tmp_path / "a")
    real = type(fleet.flyctl).json
    monkeypatch.setattr(
        type(fleet.flyctl),
        "json",
        lambda self, kind, *words, **more: (
            config if words[0] == "config" else real(self, kind, *words, **more)
        ),
    )
    start(fleet)
    assert autostarts(workers) == [False]
    assert sorted(states(workers)) == ["started", "stopped"]
    assert "machine update" not in calls(workers)


@pytest.mark.parametrize(
    "change",
    [
        {"parts": [{"id": "1", "group": "app", "region": 5, "size": "", "memory_mb": 1, "autostart": None, "ran": True}]},
        {"parts": [{"id": "1", "group": "app", "region": "", "size": "", "memory_mb": 1, "autostart": 3, "ran": "no"}]},
        {"counts": {"app": -1}},
        {"counts": {"app": "many"}},
        {"app": "another"},
    ],
)  # fmt: skip
def test_a_shape_with_a_value_of_another_kind_can_not_be_read(change: Any, tmp_path: Path) -> None:
    path = tmp_path / f"{APP}.json"
    good: dict[str, Any] = {"app": APP, "at": "", "counts": {"app": 1}, "parts": [], "source": ""}
    path.write_text(json.dumps(good), encoding="utf-8")
    assert shape.load(path) is not None
    path.write_text(json.dumps(good | change), encoding="utf-8")
    with pytest.raises(OpsError, match="can't be read") as caught:
        shape.load(path)
    assert "move it away" in caught.value.hint


def test_a_pipe_in_the_place_of_a_shape_is_not_waited_for(tmp_path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(tmp_path / f"{APP}.json")
    with pytest.raises(OpsError, match="can't be read"):
        shape.load(tmp_path / f"{APP}.json")


def test_a_group_of_the_settings_without_a_machine_is_named(workers: Cloud, tmp_path: Path) -> None:
    mine, theirs = fleet_of(workers, tmp_path / "a"), fleet_of(workers, tmp_path / "b")
    scale(mine, "worker", 0)
    assert theirs.missing(theirs.look()) == ("worker",)
    assert mine.missing(start(mine).machines) == ()
