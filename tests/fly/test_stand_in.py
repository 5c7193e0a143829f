"""The stand-in answers as the contract says flyctl does: each text typed from it, with its section in the test's name."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import http
from polyladder_ops.sandbox.fly import machines, platform, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, only, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Fly = Any
DEADLINE_S = 60.0


def until(is_so: Callable[[], object]) -> None:
    """Wait for a state, with a deadline that a busy machine meets, too."""
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def state(cloud: Cloud) -> str:
    return str(shown(cloud)[0]["state"])


def test_0_1_both_names_are_there_and_errors_go_to_stderr_with_exit_1(cloud: Cloud, fly: Fly) -> None:
    assert (cloud.program.parent / "flyctl").is_file()
    assert fly("status", "-a", "nowhere").code == 1
    said = fly("dance")
    assert said.code == 1
    assert said.err.startswith('Error: unknown command "dance"')
    assert "Run 'flyctl --help' for usage." in said.out


def test_0_1_a_crash_is_exit_3(cloud: Cloud, fly: Fly) -> None:
    cloud.switch("panic")
    assert fly("status", "-a", APP).code == 3


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGTERM that a program hears")
def test_0_1_an_interrupt_is_127_and_silent(cloud: Cloud) -> None:
    cloud.switch("hang")
    process = subprocess.Popen(
        [str(cloud.program), "status", "-a", APP],
        env={"FLY_API_TOKEN": cloud.token, "PATH": os.environ["PATH"]},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    until(lambda: cloud.calls() == [["status", "-a", APP]])
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=DEADLINE_S)
    assert (process.returncode, out, err) == (127, b"", b"")


def test_0_2_without_a_token(fly: Fly) -> None:
    assert fly("status", "-a", APP, FLY_API_TOKEN="").both == (
        1,
        "Error: no access token available. Please login with 'flyctl auth login'\n",
    )


def test_0_2_a_token_that_nobody_knows(fly: Fly) -> None:
    assert "unauthorized" in fly("machine", "list", "-a", APP, FLY_API_TOKEN="fo1_other").err
    assert "401" in fly("status", "-a", APP, FLY_API_TOKEN="fo1_other").err


def test_0_2_an_app_of_somebody_else_and_one_that_is_not_there_look_alike(cloud: Cloud, fly: Fly) -> None:
    missing = fly("status", "-a", "polyladder-x").err
    assert 'Could not find App "polyladder-x"' in missing
    assert missing.startswith("Error: failed to get app: failed to run query")
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["deploy-token"] = f"deploy:{APP}"
    assert fly("status", "-a", APP, FLY_API_TOKEN="deploy-token").code == 0
    assert f'Could not find App "{DB}"' in fly("machine", "list", "-a", DB, FLY_API_TOKEN="deploy-token").err


def test_0_2_no_app_is_named(fly: Fly) -> None:
    said = fly("status")
    assert said.err == (
        "Error: the config for your app is missing an app name, add an app field to the fly.toml file"
        " or specify with the -a flag\n"
    )


def test_0_2_an_unknown_flag(fly: Fly) -> None:
    assert fly("status", "-a", APP, "--foo").both == (1, "Error: unknown flag: --foo\n")


def test_0_3_the_order_of_tokens_and_of_apps(cloud: Cloud, fly: Fly, tmp_path: Path) -> None:
    good, bad = cloud.token, "fo1_bad"
    assert fly("status", "-a", APP, FLY_ACCESS_TOKEN=bad, FLY_API_TOKEN=good).code == 1
    assert fly("status", "-a", APP, FLY_ACCESS_TOKEN=good, FLY_API_TOKEN=bad).code == 0
    assert fly("status", "-a", APP, "-t", good, FLY_ACCESS_TOKEN=bad).code == 0
    assert fly("status", "-a", APP, FLY_API_TOKEN=f"FlyV1 {good}").code == 0
    (tmp_path / ".fly").mkdir()
    (tmp_path / ".fly/config.yml").write_text(f"access_token: {good}\n", encoding="utf-8")
    assert fly("status", "-a", APP, FLY_API_TOKEN="", HOME=str(tmp_path)).code == 0
    assert fly("status", FLY_APP=APP).code == 0


def test_0_4_json_has_four_spaces_and_noise_stands_on_stdout(cloud: Cloud, fly: Fly) -> None:
    assert fly("machine", "list", "-a", APP, "-j").out.startswith('[\n    {\n        "id": ')
    cloud.switch("noise")
    said = fly("machine", "list", "-a", APP, "--json")
    assert said.code == 0
    assert "WARN" in said.out.splitlines()[0]


def test_1_1_version_needs_no_token_and_is_one_line(fly: Fly) -> None:
    said = fly("version", "-j", FLY_API_TOKEN="")
    assert said.code == 0
    assert said.out.count("\n") == 1
    assert json.loads(said.out)["Version"] == "0.4.87"
    assert re.match(r"fly v0\.4\.87 linux/amd64 Commit: ", fly("version").out)


def test_1_3_the_status_knows_managed_machines_only(cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
        platform.make(here, APP, group="app", region="iad", guest=guest, managed=False)
        platform.make(here, APP, group="fly_app_console", region="iad", guest=guest)
    told = json.loads(fly("status", "-a", APP, "--json").out)
    assert len(told["Machines"]) == 1
    assert (told["Hostname"], told["Name"], told["Deployed"]) == ("polyladder.fly.dev", APP, True)
    assert list(told) == sorted(told)
    listed = json.loads(fly("machine", "list", "-a", APP, "--json").out)
    assert len(listed) == 3
    assert [each["id"] for each in listed] == sorted((each["id"] for each in listed), reverse=True)


def test_1_4_an_empty_list_and_a_lost_host(cloud: Cloud, fly: Fly) -> None:
    cloud.switch("unreachable")
    (lost,) = json.loads(fly("machine", "list", "-a", APP, "-j").out)
    assert lost["host_status"] == "unreachable"
    assert "config" not in lost
    assert "incomplete_config" in lost
    cloud.switch("unreachable", off=True)
    fly("scale", "count", "0", "-a", APP, "-y")
    assert fly("machine", "list", "-a", APP, "-j").out == "[]\n"
    assert fly("machine", "list", "-a", APP).out == f"No machines are available on this app {APP}\n"


def test_1_5_a_stop_does_not_wait_without_w(cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        here.data["moment_s"] = 3600.0
    machine = only(cloud)
    said = fly("machine", "stop", machine, "-a", APP)
    assert (said.code, said.out) == (
        0,
        f"Sending kill signal to machine {machine}...\n{machine} has been successfully stopped\n",
    )
    assert state(cloud) == "stopping"


def test_1_5_w_waits_for_stopped(cloud: Cloud, fly: Fly) -> None:
    assert fly("machine", "stop", only(cloud), "-a", APP, "-w", "60s").code == 0
    assert state(cloud) == "stopped"


def test_1_5_several_end_at_the_first_failure(cloud: Cloud, fly: Fly) -> None:
    fly("scale", "count", "2", "-a", APP, "-y")
    last = shown(cloud)[-1]["id"]
    said = fly("machine", "stop", "0000", last, "-a", APP)
    assert said.both == (1, f"Error: machine 0000 was not found in app '{APP}'\n")
    until(lambda: shown(cloud)[-1]["state"] == "started")
    assert fly("machine", "stop", "-a", APP).err == (
        "Error: a machine ID must be specified when not running interactively\n"
    )


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")
def test_1_5_a_lease_outlives_a_caller_that_was_killed(cloud: Cloud, fly: Fly) -> None:
    cloud.switch("frozen", times=1)
    with world.changing(cloud.folder) as here:
        here.data["lease_s"] = 3600.0
    process = subprocess.Popen(
        [str(cloud.program), "machine", "stop", only(cloud), "-a", APP],
        env={"FLY_API_TOKEN": cloud.token, "PATH": os.environ["PATH"]},
        stdout=subprocess.DEVNULL,
    )
    until(lambda: world.seen(cloud.folder).machines(APP)[0]["lease"])
    process.kill()
    process.wait()
    said = fly("machine", "stop", only(cloud), "-a", APP)
    assert said.code == 1
    assert said.err.startswith("Error: failed to obtain lease: ")
    assert "lease currently held by me@example.com" in said.err
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["lease"]["until"] = time.time() - 1
    assert fly("machine", "stop", only(cloud), "-a", APP).code == 0


def test_1_6_412_amid_replacing_and_no_capacity(cloud: Cloud, fly: Fly) -> None:
    machine = only(cloud)
    fly("machine", "stop", machine, "-a", APP, "-w", "60s")
    cloud.switch("stuck", times=1)
    fly("machine", "update", machine, "-a", APP, "--autostart=false", "--skip-start", "-y")
    assert (
        "unable to start machine from current state: 'replacing'"
        in fly("machine", "start", machine, "-a", APP).err
    )
    cloud.switch("no-capacity")
    assert fly("machine", "start", machine, "-a", APP).err == (
        f"Error: could not start machine due to lack of capacity. Try 'flyctl machine clone {machine} -a {APP}'\n"
    )


def test_1_6_a_start(cloud: Cloud, fly: Fly) -> None:
    machine = only(cloud)
    fly("machine", "stop", machine, "-a", APP, "-w", "60s")
    assert fly("machine", "start", machine, "-a", APP).out == f"{machine} has been started\n"
    until(lambda: state(cloud) == "started")


def test_1_8_a_started_machine_is_not_destroyed_without_force(cloud: Cloud, fly: Fly) -> None:
    machine = only(cloud)
    until(lambda: state(cloud) == "started")
    assert fly("machine", "destroy", machine, "-a", APP).err == (
        f"Error: machine {machine} currently started, either stop first or use --force flag\n"
    )
    assert f"{machine} has been destroyed" in fly("machine", "destroy", machine, "-f", "-a", APP).out
    assert shown(cloud) == []


def test_1_11_an_update_of_a_stopped_machine_leaves_it_stopped(cloud: Cloud, fly: Fly) -> None:
    machine = only(cloud)
    fly("machine", "stop", machine, "-a", APP, "-w", "60s")
    said = fly(
        "machine",
        "update",
        machine,
        "-a",
        APP,
        "--autostart=false",
        "--skip-start",
        "--metadata",
        "k=v",
        "-y",
    )
    assert said.out.splitlines()[:2] == [
        f"Updating machine {machine}",
        f"Machine {machine} updated successfully!",
    ]
    until(lambda: state(cloud) == "stopped")
    config = shown(cloud)[0]["config"]
    assert config["services"][0]["autostart"] is False
    assert config["metadata"]["k"] == "v"


def test_1_11_without_yes_nothing_is_updated(cloud: Cloud, fly: Fly) -> None:
    said = fly("machine", "update", only(cloud), "-a", APP, "--autostart=false")
    assert said.both == (1, "Error: yes flag must be specified when not running interactively\n")
    assert shown(cloud)[0]["config"]["services"][0]["autostart"] is True


def test_1_12_the_plan_stands_on_stdout_and_needs_a_yes(cloud: Cloud, fly: Fly) -> None:
    machine = only(cloud)
    said = fly("scale", "count", "0", "-a", APP)
    assert said.err == "Error: --yes flag must be specified when not running interactively\n"
    assert fly("scale", "count", "0", "-a", APP, "-y").out == (
        f"App '{APP}' is going to be scaled according to this plan:\n"
        "    -1 machines for group 'app' on region 'iad' of size 'shared-cpu-1x'\n"
        "Executing scale plan\n"
        f"  Destroyed {machine} group:app region:iad size:shared-cpu-1x\n"
    )
    assert fly("scale", "count", "app=0", "-a", APP, "-y").out == (
        "App already scaled to desired state. No need for changes\n"
    )


def test_1_12_from_zero_the_size_comes_from_the_release(cloud: Cloud, fly: Fly) -> None:
    fly("scale", "count", "0", "-a", APP, "-y")
    fly("scale", "count", "1", "-a", APP, "-y", "--vm-memory", "1024")
    assert shown(cloud)[0]["config"]["guest"]["memory_mb"] == 512, "the release's [[vm]] wins"
    fly("scale", "count", "0", "-a", APP, "-y")
    with world.changing(cloud.folder) as here:
        here.apps[APP]["vm"] = None
    fly("scale", "count", "1", "-a", APP, "-y")
    assert shown(cloud)[0]["config"]["guest"]["memory_mb"] == 256


def test_1_12_a_release_is_needed_and_a_failed_one_counts(cloud: Cloud, fly: Fly) -> None:
    cloud.switch("no-release")
    assert fly("scale", "count", "2", "-a", APP, "-y").err == (
        "Error: this app has no complete releases. Run `fly deploy` to create one and rerun this command\n"
    )
    cloud.switch("failed-release")
    fly("scale", "count", "0", "-a", APP, "-y")
    fly("scale", "count", "1", "-a", APP, "-y")
    assert shown(cloud)[0]["image_ref"]["tag"] == "deployment-01JFAILED"
    assert json.loads(fly("releases", "-a", APP, "-j", "--image").out)[0]["Status"] == "failed"


def test_1_12_an_unknown_group(fly: Fly) -> None:
    assert fly("scale", "count", "x=1", "-a", APP, "-y").err == (
        "Error: Attempting to scale unknown process groups [x] but valid names are [app]\n"
    )


def test_1_13_scale_show_counts_stopped_ones_too(cloud: Cloud, fly: Fly) -> None:
    fly("machine", "stop", only(cloud), "-a", APP, "-w", "60s")
    assert json.loads(fly("scale", "show", "-a", APP, "-j").out) == [
        {"Process": "app", "Count": 1, "CPUKind": "shared", "CPUs": 1, "Memory": 512, "Regions": {"iad": 1}}
    ]
    fly("scale", "count", "0", "-a", APP, "-y")
    assert json.loads(fly("scale", "show", "-a", APP, "-j").out) == []


def held(cloud: Cloud) -> str:
    (machine,) = world.seen(cloud.folder).machines(APP)
    return str(machine["secrets"]["DATABASE_URL"])


def secret_status(fly: Fly) -> str:
    (row,) = json.loads(fly("secrets", "list", "-a", APP, "-j").out)
    assert set(row) == {"name", "digest", "status"}
    return str(row["status"])


def test_1_21_a_staged_secret_reaches_a_machine_by_an_update_and_not_by_a_restart(
    cloud: Cloud, fly: Fly
) -> None:
    said = fly("secrets", "set", "DATABASE_URL=-", "-a", APP, "--stage", stdin="postgres://new")
    assert said.out.startswith("Secrets have been staged, but not set on VMs.")
    assert secret_status(fly) == "Staged"
    machine = only(cloud)
    fly("machine", "stop", machine, "-a", APP, "-w", "60s")
    fly("machine", "start", machine, "-a", APP)
    until(lambda: state(cloud) == "started")
    assert held(cloud) == "postgres://old"
    fly("machine", "stop", machine, "-a", APP, "-w", "60s")
    fly("machine", "update", machine, "-a", APP, "--skip-start", "-y")
    assert held(cloud) == "postgres://new"
    assert secret_status(fly) == "Deployed"
    assert not any("postgres://" in word for call in cloud.calls() for word in call)


def test_1_21_secrets_deploy_needs_a_machine(cloud: Cloud, fly: Fly) -> None:
    fly("scale", "count", "0", "-a", APP, "-y")
    assert fly("secrets", "deploy", "-a", APP).err == "Error: no machines available to deploy\n"
    assert secret_status(fly) == "Staged"
    fly("scale", "count", "1", "-a", APP, "-y")
    fly("secrets", "set", "DATABASE_URL=postgres://third", "-a", APP)
    assert held(cloud) == "postgres://third"


def test_1_21_config_checks_and_volumes(fly: Fly, cloud: Cloud) -> None:
    told = json.loads(fly("config", "show", "-a", APP).out)
    assert told["primary_region"] == "iad"
    assert told["http_service"]["auto_stop_machines"] == "stop"
    assert told["vm"] == [{"memory": "512mb", "cpu_kind": "shared", "cpus": 1}]
    assert "processes" not in told
    until(
        lambda: json.loads(fly("checks", "list", "-a", APP, "-j").out)[only(cloud)][0]["status"] == "passing"
    )
    (volume,) = json.loads(fly("volumes", "list", "-a", DB, "-j").out)
    assert (volume["name"], volume["size_gb"]) == ("pg_data", 1)


def test_9_1_the_database_app(fly: Fly) -> None:
    (machine,) = json.loads(fly("machine", "list", "-a", DB, "-j").out)
    assert machine["config"]["guest"]["memory_mb"] == 256
    assert machine["config"]["mounts"][0]["size_gb"] == 1
    assert machine["image_ref"]["repository"] == "flyio/postgres-flex"


# --- the edge, in front of a machine that is a process ---


@pytest.fixture
def lively(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud whose machine is a real web server."""
    script = tmp_path / "web.py"
    script.write_text(WEB, encoding="utf-8")
    made = Cloud(tmp_path / "fly")
    made.make(
        app=APP,
        db_app=DB,
        program=[sys.executable, str(script)],
        secrets={"DATABASE_URL": "one"},
        moment_s=0.2,
    )
    made.start(APP)
    yield made
    made.remove()


WEB = """
import os, sys
from http.server import BaseHTTPRequestHandler, HTTPServer
class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["DATABASE_URL"].encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
HTTPServer(("127.0.0.1", int(sys.argv[sys.argv.index("--port") + 1])), Handler).serve_forever()
"""


def ask(cloud: Cloud) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"{cloud.url}/health", timeout=DEADLINE_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, ""


def call(cloud: Cloud, *words: str) -> None:
    env = {"FLY_API_TOKEN": cloud.token, "PATH": os.environ["PATH"]}
    subprocess.run(
        [str(cloud.program), *words, "-a", APP], env=env, check=True, capture_output=True, timeout=DEADLINE_S
    )


def test_5_1_a_request_wakes_a_stopped_machine(lively: Cloud) -> None:
    assert ask(lively) == (200, "one")
    call(lively, "machine", "stop", only(lively), "-w", "60s")
    assert state(lively) == "stopped"
    assert ask(lively) == (200, "one")
    assert state(lively) == "started"
    assert shown(lively)[0]["events"][0]["source"] == "proxy"


def test_two_machines_take_turns_and_each_can_be_asked_alone(lively: Cloud) -> None:
    call(lively, "scale", "count", "2", "-y")
    until(lambda: [each["state"] for each in shown(lively)] == ["started"] * 2)
    with world.changing(lively.folder) as here:
        stale = here.machines(APP)[0]
        stale["secrets"]["DATABASE_URL"] = "another"
        machines.force_to_end(stale)
        platform.start(here, APP, stale, source="user")
    until(lambda: [each["state"] for each in shown(lively)] == ["started"] * 2)
    assert {ask(lively)[1] for _ in range(4)} == {"one", "another"}
    for identifier, said in [(str(stale["shown"]["id"]), b"another"), (shown(lively)[1]["id"], b"one")]:
        for _ in range(3):
            heard = http.get(lively.url, timeout_s=DEADLINE_S, machine=identifier)
            assert isinstance(heard, http.Reply)
            assert heard.body == said


def test_5_1_no_request_wakes_it_when_autostart_is_off(lively: Cloud) -> None:
    call(lively, "machine", "stop", only(lively), "-w", "60s")
    call(lively, "machine", "update", only(lively), "--autostart=false", "--skip-start", "-y")
    assert ask(lively) == (503, "")
    until(lambda: state(lively) == "stopped")
    call(lively, "machine", "update", only(lively), "--autostart=true", "--skip-start", "-y")
    until(lambda: state(lively) == "stopped")
    assert ask(lively) == (200, "one")


def test_5_1_a_process_that_keeps_its_old_secret(lively: Cloud) -> None:
    assert ask(lively) == (200, "one")
    call(lively, "secrets", "set", "DATABASE_URL=two", "--stage")
    call(lively, "machine", "stop", only(lively), "-w", "60s")
    assert ask(lively) == (200, "one")
    call(lively, "secrets", "deploy")
    until(lambda: state(lively) == "started")
    assert ask(lively) == (200, "two")


@pytest.mark.parametrize(
    ("scope", "looks", "stops"),
    [
        ("personal", 0, 0),
        ("org", 0, 0),
        (f"deploy:{APP}", 0, 0),
        (f"ssh:{APP}", 0, 1),
        ("readonly", 0, 1),
        (f"deploy:{DB}", 1, 1),
        ("org:another", 1, 1),
    ],
)
def test_1_22_what_a_token_may_do(scope: str, looks: int, stops: int, cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["theirs"] = scope
    assert fly("machine", "list", "-a", APP, "-j", FLY_API_TOKEN="theirs").code == looks
    said = fly("machine", "stop", only(cloud), "-a", APP, FLY_API_TOKEN="theirs")
    assert said.code == stops
    if stops:
        assert re.search("unauthorized|Could not find App", said.err)
        assert state(cloud) in ("starting", "started")


def test_1_22_two_tokens_of_one_app_each_go_together(cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"] |= {"web": f"deploy:{APP}", "database": f"ssh:{DB}"}
    for app in (APP, DB):
        assert fly("machine", "list", "-a", app, "-j", FLY_API_TOKEN="web,database").code == 0
    assert fly("machine", "list", "-a", DB, "-j", FLY_API_TOKEN="web").code == 1


def test_1_12_a_created_machine_is_another_one(cloud: Cloud, fly: Fly) -> None:
    (old,) = shown(cloud)
    fly("scale", "count", "0", "-a", APP, "-y")
    fly("scale", "count", "1", "-a", APP, "-y")
    (new,) = shown(cloud)
    assert new["id"] != old["id"]
    assert new["private_ip"] != old["private_ip"]


def test_1_21_a_secret_that_is_set_restarts_what_runs_and_wakes_nothing(cloud: Cloud, fly: Fly) -> None:
    until(lambda: state(cloud) == "started")
    fly("secrets", "set", "DATABASE_URL=postgres://second", "-a", APP)
    assert (held(cloud), state(cloud)) == ("postgres://second", "starting")
    until(lambda: state(cloud) == "started")
    fly("machine", "stop", only(cloud), "-a", APP, "-w", "60s")
    fly("secrets", "import", "-a", APP, stdin="DATABASE_URL=postgres://third\n")
    assert (held(cloud), state(cloud)) == ("postgres://third", "stopped")
    assert fly("secrets", "sync", "-a", APP).out == ""


def test_1_4_what_is_empty_is_left_out_and_cordoned_is_always_there(cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(APP)[0]["shown"]["events"] = []
    (machine,) = json.loads(fly("machine", "list", "-a", APP, "-j").out)
    assert "events" not in machine
    assert "nonce" not in machine
    assert machine["cordoned"] is False


def test_1_5_a_lease_lasts_two_minutes_unless_a_test_says_less(tmp_path: Path) -> None:
    made = Cloud(tmp_path / "other")
    made.make(app=APP, db_app=DB)
    with world.changing(made.folder) as here:
        machine = here.machines(APP)[0]
        platform.lease(here, machine, "me")
        left = machine["lease"]["until"] - time.time()
    made.remove()
    assert 60 < left <= 120


def test_what_was_made_is_gone_with_its_processes(lively: Cloud) -> None:
    assert ask(lively)[0] == 200
    (machine,) = world.seen(lively.folder).machines(APP)
    lively.remove()
    assert not lively.exists()
    assert not machines.is_running(machine)


def test_a_database_at_another_address_reaches_the_app_that_runs(lively: Cloud) -> None:
    assert ask(lively) == (200, "one")
    lively.tell(APP, {"DATABASE_URL": "one"})
    before = world.seen(lively.folder).machines(APP)[0]["pid"]
    lively.tell(APP, {"DATABASE_URL": "elsewhere"})
    assert ask(lively) == (200, "elsewhere")
    assert world.seen(lively.folder).machines(APP)[0]["pid"] != before
