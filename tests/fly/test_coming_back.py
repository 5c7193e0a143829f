"""What a green `fly.start` and `fly.scale` must have looked at: each machine, each group, and Fly's word for a lost host."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.fly import machines, shape
from polyladder_ops.fly.fleet import Fleet, Pace
from polyladder_ops.fly.scaling import scale
from polyladder_ops.fly.starting import start
from polyladder_ops.fly.stopping import stop
from polyladder_ops.sandbox.fly import platform, world
from tests.fly.conftest import APP, PACE, autostarts, calls, fleet_of, put, states, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud

SHORT = Pace(settle_s=0.5, apart_s=0.5, limit_s=6.0)


def test_an_autostart_that_was_off_before_comes_back_off(cloud: Cloud, fleet: Fleet) -> None:
    """Two machines of one group, of which one was never to be woken: that is how it was, and no difference."""
    second = put(cloud)
    with world.changing(cloud.folder) as here:
        here.apps[APP]["machines"][second]["shown"]["config"]["services"][0]["autostart"] = False
    stop(fleet)
    start(fleet)
    assert sorted(map(str, autostarts(cloud))) == ["False", "True"]
    assert not shape.waits(fleet.path)


def test_a_group_that_came_back_alone_is_no_difference_for_the_others(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    scale(fleet, "worker", 0)
    scale(fleet, "app", 0)
    scale(fleet, "worker", 1)
    start(fleet)
    assert states(workers) == ["started", "started"]
    assert not shape.waits(fleet.path)


def test_the_right_count_of_stopped_machines_is_not_what_was(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    stop(fleet)
    with pytest.raises(Mismatch) as caught:
        scale(fleet, "worker", 1)
    assert "ran before and is stopped" in caught.value.detail
    assert "fly.start" in caught.value.hint
    kept = shape.load(fleet.path)
    assert kept is not None
    assert dict(kept.counts) == {"app": 1, "worker": 1}


def test_what_is_still_stopped_is_not_forgotten_by_a_group_beside_it(tmp_path: Path) -> None:
    """Workers have no autostart that could tell: only their state does."""
    from polyladder_ops.sandbox.fly.cloud import Cloud

    cloud = Cloud(tmp_path / "fly3")
    cloud.make(app=APP, db_app="polyladder-db", groups=("mail", "worker"), moment_s=0.2, lease_s=2.0)
    try:
        fleet = fleet_of(cloud, tmp_path / "a")
        stop(fleet)
        scale(fleet, "mail", 2)
        kept = shape.load(fleet.path)
        assert kept is not None
        assert "worker" in kept.counts
        start(fleet)
        assert states(cloud) == ["started"] * 3
    finally:
        cloud.remove()


def test_a_machine_whose_host_is_lost_is_not_taken_for_one_that_runs(cloud: Cloud, fleet: Fleet) -> None:
    until(lambda: states(cloud) == ["started"])
    cloud.switch("unreachable")
    with pytest.raises(Mismatch) as caught:
        start(fleet)
    assert "its host can't be reached" in caught.value.detail


def test_a_new_machine_that_does_not_stay_up_is_told(cloud: Cloud, fleet: Fleet, tmp_path: Path) -> None:
    """The one beside it runs, so that one started machine says nothing of the other."""
    until(lambda: states(cloud) == ["started"])
    with world.changing(cloud.folder) as here:
        here.apps[APP]["program"] = [sys.executable, "-c", "raise SystemExit(1)"]
    hasty = Fleet(fleet.flyctl, APP, fleet.folder, pace=SHORT)
    with pytest.raises(OpsError, match="does not have 2 running machines") as caught:
        scale(hasty, "app", 2)
    assert "is stopped" in caught.value.detail


@pytest.mark.parametrize("how", ["settings", "file"])
def test_autostart_is_given_back_though_nothing_tells_the_shape(how: str, cloud: Cloud, fleet: Fleet) -> None:
    """Whatever fails afterwards: an app that nothing wakes is an outage of its own."""
    with world.changing(cloud.folder) as here:
        machine = here.machines(APP)[0]
        machine["shown"]["config"]["services"][0]["autostart"] = False
        here.becomes(machine, "stopped")
        if how == "settings":
            here.apps[APP]["releases"] = []
    if how == "file":
        fleet.path.parent.mkdir(parents=True, exist_ok=True)
        fleet.path.write_text("{", encoding="utf-8")
    with pytest.raises(OpsError) as caught:
        start(fleet)
    assert ("can't be read" if how == "file" else "config") in caught.value.message
    assert autostarts(cloud) == [True]


def test_a_stopped_machine_beside_the_app_that_a_request_wakes_is_told(cloud: Cloud, fleet: Fleet) -> None:
    """`fly machine run` makes machines with services, too, and no deploy knows them."""
    beside = put(cloud, managed=False, state="stopped")
    with world.changing(cloud.folder) as here:
        mine = next(each for each in here.machines(APP) if each["shown"]["id"] != beside)
        platform.destroy(here, APP, mine)
    done = stop(fleet)
    assert [each.id for each in done.others] == [beside]
    assert calls(cloud) == ["machine list"]


def test_a_machine_that_a_deploy_replaces_while_autostart_is_given_back_is_no_fault(
    cloud: Cloud, fleet: Fleet
) -> None:
    stop(fleet)
    cloud.switch("replaced", times=1)
    start(fleet)
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])
    assert not shape.waits(fleet.path)


def test_a_look_that_fails_by_itself_ends_nothing_half_way(cloud: Cloud, fleet: Fleet) -> None:
    """Fly's API was away for a moment, while the machines were down already and not yet seen to be."""
    until(lambda: states(cloud) == ["started"])
    heard: list[str] = []

    def say(sentence: str) -> None:
        if sentence.startswith(("stopping", "starting", "scaling")) and sentence not in heard:
            cloud.switch("api-down", times=2)
        heard.append(sentence)

    told = Fleet(fleet.flyctl, APP, fleet.folder, say=say, pace=PACE)
    stop(told)
    start(told)
    scale(told, "app", 0)
    scale(told, "app", 1)
    assert states(cloud) == ["started"]
    for text in ("trying again", "looking again"):
        assert any(text in sentence for sentence in heard), "a wait is told"


@pytest.mark.parametrize("act", ["stop", "start", "scale"])
def test_what_ends_it_half_way_says_what_is_kept(act: str, cloud: Cloud, fleet: Fleet) -> None:
    """An answer that is cut, though flyctl ended with 0, passes by itself no more than another."""
    until(lambda: states(cloud) == ["started"])
    if act == "start":
        stop(fleet)

    def say(sentence: str) -> None:
        if sentence.startswith(("stopping", "starting", "scaling")):
            cloud.switch("cut")

    told = Fleet(fleet.flyctl, APP, fleet.folder, say=say, pace=PACE)
    does: dict[str, Callable[[Fleet], object]]
    does = {"stop": stop, "start": start, "scale": lambda each: scale(each, "app", 0)}
    with pytest.raises(OpsError, match="gave no list") as caught:
        does[act](told)
    kept = {
        "stop": "their shape is kept: `invoke fly.stop` finishes, `invoke fly.start` undoes.",
        "start": "Autostart was given back; perhaps not every machine runs.",
        "scale": "Perhaps some of it is done; the shape is kept: `invoke fly.start` undoes.",
    }
    assert kept[act] in caught.value.detail
    assert shape.waits(fleet.path)


def test_what_differs_for_good_is_told_with_what_ends_the_waiting(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["shown"]["config"]["guest"]["memory_mb"] = 1024
    scale(fleet, "app", 0)
    with pytest.raises(Mismatch) as caught:
        start(fleet)
    assert "had sizes" in caught.value.detail
    assert f"fly scale vm SIZE --vm-memory MB -a {APP}" in caught.value.hint
    assert str(fleet.path) in caught.value.hint


def test_a_mark_of_a_machine_is_read_as_it_was_written() -> None:
    ran = machines.Machine("1", "started", group="app", autostart=False, region="iad")
    kept = shape.of(APP, (ran,))
    marked = machines.Machine("1", "stopped", group="app", autostart=False, mark=shape.mark_of(kept, ran))
    told = shape.from_marks(APP, (marked,))
    assert told is not None
    assert (told.parts[0].ran, told.parts[0].autostart, dict(told.counts)) == (True, False, {"app": 1})
