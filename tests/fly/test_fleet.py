"""Stopping, starting and scaling the app's machines, on the stand-in: the end that is told was looked at, and undone it can be."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import Mismatch, OpsError, Refused, UsageError
from polyladder_ops.fly import machines, releases, shape
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.fleet import Fleet, Pace
from polyladder_ops.fly.scaling import scale
from polyladder_ops.fly.starting import start
from polyladder_ops.fly.stopping import stop
from polyladder_ops.sandbox.fly import platform, world
from tests.fly.conftest import (
    APP,
    DB,
    DEADLINE_S,
    PACE,
    autostarts,
    calls,
    fleet_of,
    only,
    put,
    set_world,
    shown,
    states,
    until,
)

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud

# --- stop ---


def test_a_stop_is_five_calls_and_ends_with_two_looks_that_agree(cloud: Cloud, fleet: Fleet) -> None:
    until(lambda: states(cloud) == ["started"])
    done = stop(fleet)
    assert calls(cloud) == ["machine list", "machine stop", "machine update", "machine list", "machine list"]
    assert [each.is_down for each in done.machines] == [True]
    assert (states(cloud), autostarts(cloud)) == (["stopped"], [False])


def test_the_shape_is_on_disk_before_anything_is_touched_and_then_in_the_machine(
    cloud: Cloud, fleet: Fleet
) -> None:
    cloud.switch("lease-held")
    hasty = Fleet(fleet.flyctl, APP, fleet.folder, fleet.flags, pace=Pace(0.1, 0.1, 0.5))
    with pytest.raises(FlyError) as caught:
        stop(hasty)
    kept = shape.load(fleet.path)
    assert kept is not None
    assert (dict(kept.counts), kept.parts[0].autostart, kept.parts[0].ran) == ({"app": 1}, True, True)
    assert (
        "`invoke fly.stop --site=rehearsal` finishes, `invoke fly.start --site=rehearsal` undoes"
        in caught.value.detail
    )
    assert autostarts(cloud) == [True]
    cloud.switch("all", off=True)
    stop(fleet)
    assert shown(cloud)[0]["config"]["metadata"][machines.MARK] == "of=app:1;autostart=true;ran=true"


def test_a_second_stop_does_nothing_and_says_the_same(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    before = len(calls(cloud))
    done = stop(fleet)
    assert calls(cloud)[before:] == ["machine list"] * 3
    assert [each.is_down for each in done.machines] == [True]


def test_a_machine_that_a_request_wakes_meanwhile_is_stopped_again(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("woken", times=2)
    stop(fleet)
    assert (states(cloud), autostarts(cloud)) == (["stopped"], [False])


def test_a_stop_that_lies_is_seen(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("stop-lies", times=1)
    with world.changing(cloud.folder) as here:
        here.data["moment_s"] = 0.05
    stop(fleet)
    assert states(cloud) == ["stopped"]


def test_an_update_that_lies_is_seen(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("update-lies", times=1)
    stop(fleet)
    assert autostarts(cloud) == [False]
    cloud.switch("update-lies")
    start_hastily = Fleet(fleet.flyctl, APP, fleet.folder, pace=Pace(0.3, 0.1, 2.0))
    with pytest.raises(Mismatch) as caught:
        start(start_hastily)
    assert "still has autostart off" in caught.value.detail
    assert shape.waits(fleet.path)


def test_an_app_that_never_gets_down_is_told_and_its_shape_kept(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("update-lies")
    hasty = Fleet(fleet.flyctl, APP, fleet.folder, pace=Pace(0.3, 0.1, 2.0))
    with pytest.raises(OpsError, match="polyladder is not down") as caught:
        stop(hasty)
    assert "with autostart on" in caught.value.detail
    assert shape.waits(fleet.path)


def test_a_machine_that_a_deploy_puts_in_anothers_place_is_stopped_too(cloud: Cloud, fleet: Fleet) -> None:
    before = only(cloud)
    cloud.switch("replaced", times=1)
    stop(fleet)
    assert only(cloud) != before
    assert (states(cloud), autostarts(cloud)) == (["stopped"], [False])
    start(fleet)
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])


def test_a_lease_of_a_killed_command_is_waited_for(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["lease"] = {"owner": "deploy@example.com", "until": time.time() + 3}
    stop(fleet)
    assert states(cloud) == ["stopped"]


def test_what_runs_beside_the_app_is_told_and_left_alone(cloud: Cloud, fleet: Fleet) -> None:
    console = put(cloud, group="fly_app_console")
    done = stop(fleet)
    assert [each.id for each in done.others] == [console]
    assert len(done.machines) == 1
    assert sorted(states(cloud)) == ["started", "stopped"]


def test_workers_are_stopped_and_started_too(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    stop(fleet)
    assert states(workers) == ["stopped", "stopped"]
    start(fleet)
    assert states(workers) == ["started", "started"]
    assert not shape.waits(fleet.path)


@pytest.mark.parametrize("fault", ["headless", "english", "cut"])
def test_an_answer_that_can_not_be_read_is_not_an_app_that_is_down(
    fault: str, cloud: Cloud, fleet: Fleet
) -> None:
    if fault == "headless":
        with pytest.raises(OpsError, match="another shape"):
            machines.read(fleet.flyctl.json(dict, "status", "--json", app=APP).get("Nothing"))
        return
    cloud.switch(fault)
    with pytest.raises(OpsError, match="gave no list"):
        stop(fleet)


@pytest.mark.parametrize(
    "found", [None, {}, [{}], [{"id": 7, "state": "started"}], ["No machines"], [{"id": "7"}]]
)
def test_a_list_of_another_shape_is_refused(found: object) -> None:
    with pytest.raises(OpsError, match="another shape"):
        machines.read(found)


def test_a_lost_host_is_told_before_anything_is_touched(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("unreachable")
    with pytest.raises(OpsError, match="can't be reached"):
        stop(fleet)
    assert calls(cloud) == ["machine list"]
    with pytest.raises(OpsError, match="can't be reached"):
        scale(fleet, "app", 0)


def test_a_databases_app_is_never_touched(cloud: Cloud, caller: Flyctl, tmp_path: Path) -> None:
    database = Fleet(caller, DB, tmp_path / "state", pace=PACE)
    for act in (stop, start, lambda fleet: scale(fleet, "app", 0)):
        with pytest.raises(Refused, match="is a database's app"):
            act(database)
    assert set(calls(cloud)) == {"machine list"}


def test_two_runs_at_once_are_refused(fleet: Fleet) -> None:
    with fleet.alone(), pytest.raises(Refused, match="another run"):
        stop(fleet)


# --- start ---


def test_what_was_stopped_comes_back_and_is_forgotten(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    done = start(fleet)
    assert [each.state for each in done.machines] == ["started"]
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])
    assert machines.MARK not in shown(cloud)[0]["config"]["metadata"]
    assert not shape.waits(fleet.path)
    assert done.said == ()


def test_autostart_is_given_back_though_no_machine_can_start(cloud: Cloud, fleet: Fleet) -> None:
    second = put(cloud)
    stop(fleet)
    cloud.switch("no-capacity", times=1)
    with pytest.raises(Mismatch) as caught:
        start(fleet)
    assert "no room to start it" in caught.value.detail
    assert "fly machine clone" in caught.value.detail
    assert not {".;", ".."} & {caught.value.detail[at : at + 2] for at in range(len(caught.value.detail))}
    assert autostarts(cloud) == [True, True]
    assert sorted(states(cloud)) == ["started", "stopped"], "the other one is started all the same"
    assert shape.waits(fleet.path)
    assert second in {each["id"] for each in shown(cloud)}
    start(fleet)
    assert states(cloud) == ["started", "started"]
    assert not shape.waits(fleet.path)


def test_the_412_after_an_update_is_waited_for(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    set_world(cloud, moment_s=2.0)
    start(fleet)
    assert states(cloud) == ["started"]


def test_from_another_folder_the_machines_tell_their_shape(workers: Cloud, tmp_path: Path) -> None:
    stop(fleet_of(workers, tmp_path / "a"))
    done = start(fleet_of(workers, tmp_path / "b"))
    assert states(workers) == ["started", "started"]
    assert autostarts(workers) == [True]
    assert "comes from the machines' metadata" in done.said[0]


def test_lost_everywhere_flys_own_settings_tell_it_and_that_is_said(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        machine = here.machines(APP)[0]
        machine["shown"]["config"]["services"][0]["autostart"] = False
        here.becomes(machine, "stopped")
    done = start(fleet)
    assert "fly config show" in done.said[0]
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])


def test_a_start_of_an_app_without_machines_and_without_a_shape_makes_one(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.apps[APP]["machines"] = {}
    start(fleet)
    assert states(cloud) == ["started"]


def test_a_start_of_an_app_that_runs_changes_nothing(cloud: Cloud, fleet: Fleet) -> None:
    until(lambda: states(cloud) == ["started"])
    start(fleet)
    assert set(calls(cloud)) == {"machine list"}


def test_an_app_that_sleeps_by_itself_is_woken_and_a_worker_that_slept_is_told(
    workers: Cloud, tmp_path: Path
) -> None:
    with world.changing(workers.folder) as here:
        for machine in here.machines(APP):
            here.becomes(machine, "stopped")
    done = start(fleet_of(workers, tmp_path / "a"))
    groups = {each.group: each.state for each in done.machines}
    assert groups == {"app": "started", "worker": "stopped"}
    assert done.said == ("Group worker has no started machine, and had none before.",)


def test_another_image_since_is_told(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["shown"]["image_ref"]["tag"] = "deployment-new"
    assert "The image is polyladder:deployment-new now" in start(fleet).said[0]


def test_a_machine_that_a_deploy_took_away_is_made_again(cloud: Cloud, fleet: Fleet) -> None:
    put(cloud, region="ams")
    stop(fleet)
    with world.changing(cloud.folder) as here:
        gone = next(each for each in here.machines(APP) if each["shown"]["region"] == "ams")
        platform.destroy(here, APP, gone)
    with contextlib.suppress(Mismatch):
        start(fleet)  # Fly spreads machines over the regions that it is given; ours may miss one
    assert len(states(cloud)) == 2
    assert autostarts(cloud) == [True, True]


# --- after an accident ---

RUN = """
import sys
from pathlib import Path
from polyladder_ops.fly.fleet import Fleet, Pace
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.fly.stopping import stop
program, token, folder = sys.argv[1:]
stop(Fleet(Flyctl(program, token, Path(folder, "config")), "polyladder", Path(folder), pace=Pace(0.5, 0.5, 60.0)))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="what is left over is looked for in /proc")
@pytest.mark.parametrize("then", ["here", "elsewhere"])
def test_after_kill_9_between_stop_and_update_a_rerun_finishes_and_start_undoes(
    then: str, cloud: Cloud, fleet: Fleet, tmp_path: Path
) -> None:
    """The machine is stopped then, its autostart on still: the next request would wake it."""
    set_world(cloud, lease_s=1.0)
    until(lambda: states(cloud) == ["started"])
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(cloud.program), cloud.token, str(fleet.folder)],
        start_new_session=True,
    )
    until(lambda: "machine stop" in calls(cloud))
    cloud.switch("frozen")  # whatever call changes a machine next, the update, stands still
    until(lambda: "machine update" in calls(cloud) or states(cloud) == ["started"])
    process.kill()
    process.wait()
    for pid in children(str(cloud.folder)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, 9)
    cloud.switch("all", off=True)
    again = fleet if then == "here" else fleet_of(cloud, tmp_path / "elsewhere")
    stop(again)
    assert (states(cloud), autostarts(cloud)) == (["stopped"], [False])
    start(again)
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])
    assert not shape.waits(again.path)


@pytest.mark.skipif(sys.platform != "linux", reason="flyctl's process is looked for in /proc")
def test_after_kill_9_of_flyctl_alone_the_cause_is_told_and_a_rerun_finishes(
    cloud: Cloud, fleet: Fleet
) -> None:
    """Its lease outlives it, so the rerun has to wait for that."""
    set_world(cloud, lease_s=3.0)
    until(lambda: states(cloud) == ["started"])
    cloud.switch("frozen", times=1)
    failed: list[OpsError] = []

    def run() -> None:
        try:
            stop(fleet)
        except OpsError as error:
            failed.append(error)

    worker = threading.Thread(target=run)
    worker.start()
    until(lambda: children(f"{cloud.folder}\0machine\0stop") and not cloud.faults())
    for pid in children(f"{cloud.folder}\0machine\0stop"):
        os.kill(pid, 9)
    worker.join(DEADLINE_S)
    (error,) = failed
    assert error.message == "`fly machine stop` failed"
    assert "killed (signal 9)" in error.detail
    assert "their shape is kept: `invoke fly.stop --site=rehearsal` finishes" in error.detail
    stop(fleet)
    assert (states(cloud), autostarts(cloud)) == (["stopped"], [False])
    start(fleet)
    assert (states(cloud), autostarts(cloud)) == (["started"], [True])


def test_a_token_that_may_only_look_stops_nothing(cloud: Cloud, fleet: Fleet) -> None:
    from dataclasses import replace

    until(lambda: states(cloud) == ["started"])
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["theirs"] = "readonly"
    looking = replace(fleet, flyctl=replace(fleet.flyctl, token="theirs"))
    for act in (stop, lambda each: scale(each, "app", 0)):
        with pytest.raises(FlyError) as caught:
            act(looking)
        assert "may only look" in caught.value.detail
        assert (states(cloud), autostarts(cloud)) == (["started"], [True])


def children(mark: str) -> list[int]:
    """The stand-in's processes of this test that live still."""
    from pathlib import Path as Folder

    found = []
    for entry in Folder("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = entry.read_bytes()
            if b"sandbox.fly.program" in words and mark.encode() in words:
                found.append(int(entry.parent.name))
    return found


def test_a_second_run_never_writes_over_the_shape_of_the_first(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    before = fleet.path.read_bytes()
    with world.changing(cloud.folder) as here:
        del here.machines(APP)[0]["shown"]["config"]["metadata"][machines.MARK]
    stop(fleet)
    assert fleet.path.read_bytes() == before
    assert json.loads(before)["parts"][0]["autostart"] is True


def test_a_shape_that_waits_is_not_written_over_by_a_run_beside(tmp_path: Path) -> None:
    path = tmp_path / "fly" / "polyladder.json"
    shape.save(path, shape.of(APP, ()))
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        shape.save(path, shape.of(APP, (machines.Machine("1", "stopped", group="app"),)))
    assert path.read_bytes() == before
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_shape_that_can_not_be_read_is_told_unless_the_machines_have_it(cloud: Cloud, fleet: Fleet) -> None:
    stop(fleet)
    fleet.path.write_text("{", encoding="utf-8")
    start(fleet)
    assert autostarts(cloud) == [True]
    fleet.path.write_text("{", encoding="utf-8")
    with pytest.raises(OpsError, match="can't be read"):
        start(fleet)
    with pytest.raises(OpsError, match="can't be read"):
        stop(fleet)


# --- scale ---


def test_to_zero_and_back_is_what_it_was_in_four_calls_each(cloud: Cloud, fleet: Fleet) -> None:
    done = scale(fleet, "", 0)
    assert done.is_compared
    assert (done.group, done.machines, shown(cloud)) == ("app", (), [])
    assert done.waiting is not None
    assert str(done.waiting) == "app: 1"
    down = calls(cloud)
    assert down == ["machine list", "scale count", "machine list"]
    back = scale(fleet, "", 1)
    assert [each.state for each in back.machines] == ["started"]
    assert back.waiting is None
    assert not shape.waits(fleet.path)
    assert len(calls(cloud)) - len(down) <= 4


def test_after_scale_to_zero_start_brings_back_what_was(cloud: Cloud, fleet: Fleet) -> None:
    put(cloud)
    scale(fleet, "app", 0)
    start(fleet)
    assert states(cloud) == ["started", "started"]
    assert not shape.waits(fleet.path)


def test_the_region_comes_back(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["shown"]["region"] = "ams"
    scale(fleet, "app", 0)
    scale(fleet, "app", 1)
    assert shown(cloud)[0]["region"] == "ams"


def test_a_size_that_does_not_come_back_is_told(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["shown"]["config"]["guest"]["memory_mb"] = 1024
    scale(fleet, "app", 0)
    with pytest.raises(Mismatch) as caught:
        scale(fleet, "app", 1)
    assert "had sizes shared-cpu-1x 1024 MB, has shared-cpu-1x 512 MB" in caught.value.detail
    assert "fly scale vm" in caught.value.hint
    assert shape.waits(fleet.path)


def test_a_group_of_which_nothing_is_known_is_made_and_that_is_told(cloud: Cloud, fleet: Fleet) -> None:
    with world.changing(cloud.folder) as here:
        here.apps[APP]["machines"] = {}
    done = scale(fleet, "app", 1)
    assert (len(done.machines), done.is_compared) == (1, False)


def test_a_console_is_told_though_all_of_the_app_is_scaled_away(cloud: Cloud, fleet: Fleet) -> None:
    console = put(cloud, group="fly_app_console")
    assert [each.id for each in scale(fleet, "app", 0).others] == [console]


def test_what_is_on_its_way_up_is_waited_for(cloud: Cloud, fleet: Fleet) -> None:
    """`ran before and is starting` was the end of a scale to what is there, a moment after a request woke it."""
    until(lambda: states(cloud) == ["started"])
    with world.changing(cloud.folder) as here:
        (machine,) = here.machines(APP)
        here.becomes(machine, "starting", after_s=3, then="started")
    done = scale(fleet, "app", 1)
    assert [each.state for each in done.machines] == ["started"]


def test_what_is_scaled_already_is_left_alone(cloud: Cloud, fleet: Fleet) -> None:
    until(lambda: states(cloud) == ["started"])
    scale(fleet, "app", 1)
    assert calls(cloud) == ["machine list"]
    assert not shape.waits(fleet.path)


def test_fewer_on_purpose_leaves_nothing_waiting(cloud: Cloud, fleet: Fleet) -> None:
    put(cloud)
    done = scale(fleet, "app", 1)
    assert (len(done.machines), done.waiting) == (1, None)


def test_of_several_groups_one_must_be_named(workers: Cloud, tmp_path: Path) -> None:
    fleet = fleet_of(workers, tmp_path / "a")
    with pytest.raises(UsageError, match="several groups: app, worker"):
        scale(fleet, "", 0)
    done = scale(fleet, "worker", 0)
    assert [each["config"]["metadata"]["fly_process_group"] for each in shown(workers)] == ["app"]
    assert done.waiting is not None
    start(fleet)
    assert len(shown(workers)) == 2


def test_scale_without_a_release_is_told(cloud: Cloud, fleet: Fleet) -> None:
    cloud.switch("no-release")
    with pytest.raises(FlyError) as caught:
        scale(fleet, "app", 2)
    assert "never deployed" in caught.value.detail


def test_a_group_that_is_not_there_is_told(fleet: Fleet) -> None:
    with pytest.raises(FlyError) as caught:
        scale(fleet, "x", 1)
    assert "no such process group" in caught.value.detail


def test_from_a_failed_release_no_machine_is_made(cloud: Cloud, fleet: Fleet) -> None:
    """`fly scale count` takes the newest release's image though it failed; a scale of ours was green on it."""
    before = shown(cloud)
    cloud.switch("failed-release")
    with pytest.raises(Refused) as caught:
        scale(fleet, "app", 2)
    assert "v2 (registry.fly.io/polyladder:deployment-01JFAILED), is failed" in caught.value.detail
    assert f"--image {before[0]['config']['image']} --ha=false" in caught.value.hint
    assert [each["id"] for each in shown(cloud)] == [before[0]["id"]]
    scale(fleet, "app", 0)
    with pytest.raises(Mismatch, match="is not as it was") as red:
        start(fleet)
    assert "No machine was made" in red.value.detail
    assert shown(cloud) == []


def test_a_group_of_two_images_is_not_green(cloud: Cloud, fleet: Fleet) -> None:
    """Half of a deploy that failed: one machine keeps its image, the release after it is undone by another one."""
    with world.changing(cloud.folder) as here:
        good = here.apps[APP]["releases"][0]["ImageRef"]
        (machine,) = here.machines(APP)
        machine["shown"]["image_ref"]["tag"] = "deployment-01JFAILED"
        platform.release(here, here.apps[APP], status="failed", image="registry.fly.io/polyladder:x")
        platform.release(here, here.apps[APP], image=good)
    with pytest.raises(Mismatch, match="does not run the last release that succeeded") as caught:
        scale(fleet, "app", 2)
    assert (
        f"{only_of(cloud, 'deployment-01JFAILED')} runs polyladder:deployment-01JFAILED"
        in caught.value.detail
    )


def test_what_was_made_of_a_release_that_failed_meanwhile_is_not_green(cloud: Cloud, fleet: Fleet) -> None:
    """Between the look and the act a deploy fails: what it made is looked at, by a second start too."""
    scale(fleet, "app", 0)
    cloud.switch("failed-release")
    put(cloud)
    for _ in range(2):
        with pytest.raises(Mismatch) as caught:
            start(fleet)
        assert "does not run the last release that succeeded" in caught.value.detail


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("registry.fly.io/polyladder:deployment-01J", "polyladder:deployment-01J", True),
        ("registry.fly.io/polyladder:deployment-01J@sha256:ab", "polyladder:deployment-01J", True),
        ("docker-hub-mirror.fly.io/library/nginx", "library/nginx:latest", True),
        ("registry.fly.io/polyladder@sha256:ab", "polyladder:", True),
        ("registry.fly.io/polyladder:deployment-01J", "polyladder:deployment-02J", False),
        ("", "", False),
    ],
)
def test_an_image_has_one_name_on_both_sides(one: str, other: str, same: bool) -> None:
    assert releases.same_image(one, other) is same


def only_of(cloud: Cloud, tag: str) -> str:
    """Return the id of the one machine with this image."""
    (found,) = (each["id"] for each in shown(cloud) if each["image_ref"]["tag"] == tag)
    return str(found)
