"""The tasks for Fly as a person calls them: real `invoke` processes at sites sandbox and rehearsal."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.fly import machines, shape
from polyladder_ops.sandbox.fly import machines as processes
from polyladder_ops.sandbox.fly import platform, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import DB, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

CANARY = "s3cret-canary"
Call = Any


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of its own, whose .env.rehearsal leads to what `sandbox.up` wrote."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "tasks.py").write_text("from polyladder_ops.tasks import ns\n", encoding="utf-8")
    (folder / ".env.rehearsal").symlink_to(folder / "state" / "sandbox" / "rehearsal.env")
    return folder


@pytest.fixture(scope="module")
def call(home: Path, need: Callable[[object, str], None]) -> Iterator[Call]:
    """Run a task at site sandbox, production's variables exported, no terminal."""
    environ = {
        name: text
        for name, text in os.environ.items()
        if not name.startswith(("POLYLADDER_", "BACKUP_", "FLY_"))
    }
    environ |= {"POLYLADDER_STATE_DIR": str(home / "state"), "POLYLADDER_SITE": "sandbox"}
    production = {
        "FLY_API_TOKEN": f"fo1_{CANARY}",
        "FLY_APP": "production",
        "POLYLADDER_FLYCTL": "/nowhere/fly",
    }

    def invoke(*argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *argv],
            cwd=home,
            env={**environ, **(production if "--site=rehearsal" not in argv else {}), **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=240,
        )
        assert CANARY not in done.stdout + done.stderr
        return done

    first = invoke("sandbox.up", "--scale=0.02")
    need(first.returncode == 0 or "is not installed" not in first.stderr, first.stderr)
    assert first.returncode == 0, first.stderr
    yield invoke
    assert invoke("sandbox.down", "--force").returncode == 0
    assert not (home / "state" / "sandbox" / "fly").exists()


@pytest.fixture
def cloud(home: Path, call: Call) -> Iterator[Cloud]:
    """The sandbox's Fly, as it should be before and after each test."""
    made = Cloud(home / "state" / "sandbox" / "fly")
    yield made
    made.switch("all", off=True)
    done = call("fly.start")
    assert done.returncode == 0, done.stderr


def ask(cloud: Cloud) -> int:
    try:
        with urllib.request.urlopen(f"{cloud.url}/health", timeout=60) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_the_evening_that_readme_promises(call: Call, cloud: Cloud) -> None:
    """Scale away and back, stop and start; nothing wakes what is down, and health tells it all the while."""
    for argv, code, said in (
        (("health", "--wait=120"), 0, "asked polyladder"),
        (("fly.status",), 0, "started"),
        (("fly.scale", "--count=0", "--force"), 0, "has 0 machines; `invoke fly.start` brings back app: 1"),
        (("health",), 3, "no machine"),
        (("fly.scale", "--count=1"), 0, "group app of polyladder has 1 machine"),
        (("health", "--wait=120"), 0, "200 healthy"),
        (("fly.stop", "--force"), 0, "polyladder is down: app: 1 stopped, autostart off"),
    ):
        done = call(*argv)
        assert (done.returncode, argv) == (code, argv), done.stderr
        assert said in done.stdout + done.stderr
    assert ask(cloud) == 503, "a request does not wake it"
    assert [each["state"] for each in shown(cloud)] == ["stopped"]
    waits = call("fly.status")
    assert waits.returncode == 3
    assert "hint: Run `invoke fly.start`." in waits.stderr
    doctor = call("doctor")
    assert doctor.returncode == 3
    assert "wait to come back" in doctor.stdout
    assert call("fly.start").returncode == 0
    assert call("health", "--wait=120").returncode == 0
    assert "machines  yes" in call("health", "--wait=120").stdout


def test_a_status_is_one_call(call: Call, cloud: Cloud) -> None:
    before = len(cloud.calls())
    done = call("fly.status", "--json")
    assert done.returncode == 0, done.stderr
    document = json.loads(done.stdout)
    assert [each["group"] for each in document["machines"]] == ["app"]
    assert document["shape"] is None
    assert [words for words in cloud.calls()[before:] if words[0] != "version"] == [
        ["machine", "list", "--json", "-a", "polyladder"]
    ]


def test_what_is_destructive_asks_and_a_dry_run_does_nothing(call: Call, cloud: Cloud) -> None:
    for argv in (("fly.stop",), ("fly.scale", "--count=0")):
        done = call(*argv)
        assert done.returncode == 4
        assert "Add --force" in done.stderr
    for argv, said in (
        (("fly.stop",), "would stop"),
        (("fly.start",), "would bring back app: 1"),
        (("fly.scale", "--count=0"), "would give group app of polyladder 0 machines"),
    ):
        done = call("-R", *argv)
        assert done.returncode == 0, done.stderr
        assert said in done.stdout
        asks = {"fly.stop": "This stops polyladder", "fly.scale": "This destroys 1 machine"}.get(argv[0], "")
        assert ("would ask first, or need --force: " + asks in done.stdout) is bool(asks)
        assert "would ask" not in call("-R", *argv, *(["--force"] if asks else [])).stdout
    assert [each["state"] for each in shown(cloud)] == ["started"]
    assert not any(words[:2] in (["machine", "stop"], ["scale", "count"]) for words in cloud.calls()[-8:])


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("fly.scale",), 2, "is no number of machines"),
        (("fly.scale", "--count=many"), 2, "is no number of machines"),
        (("fly.scale", "--count=1", "--group=a b"), 2, "is no group's name"),
        (("fly.scale", "--count=3", "--group=nowhere"), 1, "no such process group"),
        (("sandbox.fault", "--name=everything"), 2, "there is no fault everything"),
        (("sandbox.fault", "--off"), 2, "no fault is named"),
    ],
)
def test_wrong_words_are_named(argv: tuple[str, ...], code: int, said: str, call: Call, cloud: Cloud) -> None:
    done = call(*argv)
    assert (done.returncode, said in done.stderr) == (code, True), done.stderr


def test_a_dry_run_meets_what_the_real_one_would(call: Call, cloud: Cloud) -> None:
    cloud.switch("unreachable")
    for argv in (("fly.stop",), ("fly.scale", "--count=0")):
        done = call("-R", *argv)
        assert (done.returncode, "can't be reached" in done.stderr) == (1, True), done.stdout
    seen = call("fly.status")
    assert seen.returncode == 3, seen.stdout
    assert "no machine of polyladder answers requests" in seen.stderr
    assert "can't be reached" in seen.stderr
    assert "fly.start" not in seen.stderr
    cloud.switch("all", off=True)


def test_a_dry_scale_from_a_failed_release_is_refused_as_the_real_one(call: Call, cloud: Cloud) -> None:
    cloud.switch("failed-release")
    told = [call(*words, "fly.scale", "--count=2") for words in (("-R",), ())]
    assert [done.returncode for done in told] == [4, 4]
    assert told[0].stderr == told[1].stderr
    with world.changing(cloud.folder) as here:
        del here.apps["polyladder"]["releases"][0]


def test_what_has_its_count_already_is_not_asked_for(call: Call, cloud: Cloud) -> None:
    before = len(cloud.calls())
    done = call("fly.scale", "--count=1")
    assert done.returncode == 0, done.stderr
    assert [words[:2] for words in cloud.calls()[before:] if words[0] != "version"] == [
        ["machine", "list"]
    ] * 2


def test_a_status_shows_the_machines_though_the_shape_can_not_be_read(
    call: Call, cloud: Cloud, home: Path
) -> None:
    kept = home / "state" / "fly" / "sandbox" / "polyladder.json"
    kept.parent.mkdir(parents=True, exist_ok=True)
    kept.write_text("{", encoding="utf-8")
    done = call("fly.status")
    kept.unlink()
    assert done.returncode == 1
    assert "can't be read" in done.stderr
    assert shown(cloud)[0]["id"] in done.stdout


def test_faults_are_listed_and_switched(call: Call, cloud: Cloud) -> None:
    assert call("sandbox.fault", "--name=english").returncode == 0
    done = call("fly.status")
    assert done.returncode == 1
    assert "gave no list" in done.stderr
    assert "english" in call("sandbox.fault", "--name=english", "--off").stdout
    assert cloud.faults() == {}
    assert call("fly.status").returncode == 0
    assert "english" in call("sandbox.fault", "--name=all", "--off").stdout


def test_a_console_beside_the_stopped_app_is_told(call: Call, cloud: Cloud) -> None:
    from polyladder_ops.sandbox.fly import platform

    with world.changing(cloud.folder) as here:
        guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
        here.apps["polyladder"]["program"], kept = [], here.apps["polyladder"]["program"]
        made = platform.make(here, "polyladder", group="fly_app_console", region="iad", guest=guest)
        here.apps["polyladder"]["program"] = kept
    done = call("fly.stop", "--force")
    with world.changing(cloud.folder) as here:
        here.becomes(platform.find(here, "polyladder", made["shown"]["id"]), "stopped")
    assert call("fly.stop", "--force").returncode == 0, "it has no services, so no request wakes it"
    with world.changing(cloud.folder) as here:
        console = platform.find(here, "polyladder", made["shown"]["id"])
        console["shown"]["config"]["services"] = [{"internal_port": 3000}]
    asleep = call("fly.stop", "--force")
    with world.changing(cloud.folder) as here:
        platform.destroy(here, "polyladder", platform.find(here, "polyladder", made["shown"]["id"]))
    assert asleep.returncode == 3
    assert f"{made['shown']['id']} is stopped, and a request wakes it" in asleep.stderr
    assert f"fly machine update {made['shown']['id']} -a polyladder --autostart=false" in asleep.stderr
    assert done.returncode == 3
    assert "polyladder is down" in done.stdout
    assert f"fly machine stop {made['shown']['id']} -a polyladder" in done.stderr


def test_fly_down_is_said_and_does_not_make_a_well_app_ill(call: Call, cloud: Cloud) -> None:
    cloud.switch("api-down")
    done = call("health", "--wait=120")
    assert done.returncode == 0, done.stderr
    assert "note: Fly's own checks are not looked at" in done.stderr
    assert "machines" not in done.stdout
    assert call("fly.status").returncode == 1


def test_a_machine_with_an_old_secret_is_red_though_it_answers_200(call: Call, cloud: Cloud) -> None:
    """A restart does not apply what is staged (contract 1.21): the app stays on the database that it had."""
    with world.changing(cloud.folder) as here:
        app = here.apps["polyladder"]
        kept = app["secrets"]["DATABASE_URL"]
        app["secrets"]["DATABASE_URL"] = kept.replace("/polyladder?", "/postgres?")
    assert call("fly.stop", "--force").returncode == 0  # its update applies it
    with world.changing(cloud.folder) as here:
        here.apps["polyladder"]["secrets"]["DATABASE_URL"] = kept
    with world.changing(
        cloud.folder
    ) as here:  # and now the machine is behind: another database than the app's secret says
        for machine in here.machines("polyladder"):
            for service in machine["shown"]["config"]["services"]:
                service["autostart"] = True
    red = call("health")
    assert red.returncode == 3, red.stdout + red.stderr
    assert "answer    yes" in red.stdout
    assert "the app is not well: link" in red.stderr
    assert call("fly.stop", "--force").returncode == 0
    assert call("fly.start").returncode == 0
    assert call("health", "--wait=120").returncode == 0


def test_of_two_machines_each_is_asked(call: Call, cloud: Cloud) -> None:
    """One of them kept a DATABASE_URL of old: half of the users would read and write another database."""
    assert call("fly.scale", "--count=2").returncode == 0
    assert call("health", "--wait=120").returncode == 0
    with world.changing(cloud.folder) as here:
        stale = here.machines("polyladder")[0]
        url = stale["secrets"]["DATABASE_URL"]
        stale["secrets"]["DATABASE_URL"] = url.replace("/polyladder?", "/postgres?")
        processes.force_to_end(stale)
        platform.start(here, "polyladder", stale, source="user")
    red = call("health", "--wait=120")
    assert call("fly.scale", "--count=0", "--force").returncode == 0
    assert call("fly.scale", "--count=1").returncode == 0
    assert red.returncode == 3, red.stdout
    assert f"link: machine {stale['shown']['id']}: nobody asked" in red.stderr


def test_ctrl_c_ends_flyctl_too_and_says_what_is_kept(call: Call, cloud: Cloud, home: Path) -> None:
    cloud.switch("frozen")
    before = len(cloud.calls())
    argv = [sys.executable, "-c", INTERRUPTIBLE, "fly.stop", "--force"]
    process = subprocess.Popen(argv, cwd=home, env=at_sandbox(home), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: ["machine", "stop"] in [words[:2] for words in cloud.calls()[before:]])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "their shape is kept: `invoke fly.stop` finishes, `invoke fly.start` undoes" in err
    cloud.switch("all", off=True)
    assert call("fly.stop", "--force").returncode == 0, "no lease is left, flyctl was asked to end"


def test_ctrl_c_while_autostart_is_given_back_waits_for_that(call: Call, cloud: Cloud, home: Path) -> None:
    assert call("fly.stop", "--force").returncode == 0
    cloud.switch("slow")
    before = len(cloud.calls())
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTIBLE, "fly.start"],
        cwd=home,
        env=at_sandbox(home),
        stderr=subprocess.PIPE,
        text=True,
    )
    wait_for(lambda: ["machine", "update"] in [words[:2] for words in cloud.calls()[before:]])
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Autostart was given back" in err
    assert shown(cloud)[0]["config"]["services"][0]["autostart"] is True


def at_sandbox(home: Path) -> dict[str, str]:
    environ = {name: text for name, text in os.environ.items() if not name.startswith("POLYLADDER_")}
    return environ | {"POLYLADDER_STATE_DIR": str(home / "state"), "POLYLADDER_SITE": "sandbox"}


def wait_for(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


# A shell that starts a command behind its back ignores Ctrl-C for it, and so would we.
INTERRUPTIBLE = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from invoke.main import program
program.run()
"""


def test_beside_another_run_each_hint_says_wait_and_for_whom(call: Call, cloud: Cloud, home: Path) -> None:
    """fly.start named fly.status, and that named fly.start."""
    assert call("fly.stop", "--force").returncode == 0
    cloud.switch("frozen")
    before = len(cloud.calls())
    argv = [sys.executable, "-c", INTERRUPTIBLE, "fly.start"]
    process = subprocess.Popen(argv, cwd=home, env=at_sandbox(home), stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: ["machine", "update"] in [words[:2] for words in cloud.calls()[before:]])
        for words, code in (("fly.start", 4), ("fly.status", 3), ("fly.scale", 4)):
            done = call(words, *(("--count=2",) if words == "fly.scale" else ()))
            assert done.returncode == code, done.stderr
            assert f"process {process.pid}, since " in done.stderr
            assert "hint: Wait until it has ended" in done.stderr
    finally:
        cloud.switch("all", off=True)
        process.kill()
        process.wait()
    set_lease_free(cloud)
    assert "process" not in call("fly.status").stderr


def set_lease_free(cloud: Cloud) -> None:
    """Give back what a killed flyctl left."""
    with world.changing(cloud.folder) as here:
        for machine in here.machines("polyladder"):
            machine["lease"] = None


def test_a_hint_names_the_program_that_we_call(call: Call, cloud: Cloud) -> None:
    """`fly deploy` is the real Fly's, where the sandbox's or POLYLADDER_FLYCTL's is meant."""
    cloud.switch("failed-release")
    done = call("fly.scale", "--count=2")
    with world.changing(cloud.folder) as here:
        del here.apps["polyladder"]["releases"][0]
    assert f"run `{cloud.program} deploy -a polyladder" in done.stderr
    assert "`fly " not in done.stderr


@pytest.mark.parametrize("text", ["", "{", "[]", '{"apps": {}}'])
def test_a_damaged_stand_in_is_told_with_what_helps(text: str, call: Call, cloud: Cloud) -> None:
    """Every command ended as a bug, sandbox.down too."""
    file = cloud.folder / world.STATE
    kept = file.read_text(encoding="utf-8")
    file.write_text(text, encoding="utf-8")
    try:
        for words in (("fly.status",), ("sandbox.up",), ("sandbox.fault",)):
            done = call(*words)
            assert (done.returncode, "world.json can't be read" in done.stderr) == (1, True), done.stderr
            assert "hint: Run `invoke sandbox.down --force`, then `invoke sandbox.up`." in done.stderr
    finally:
        file.write_text(kept, encoding="utf-8")


def test_a_damaged_stand_in_can_be_removed_and_leaves_no_process(tmp_path: Path) -> None:
    made = Cloud(tmp_path / "fly")
    program = [sys.executable, "-c", "import time; time.sleep(600)"]
    made.make(app="polyladder", db_app=DB, program=program, moment_s=0.1)
    (machine,) = world.seen(made.folder).machines("polyladder")
    assert processes.is_running(machine)
    (made.folder / world.STATE).write_text("{", encoding="utf-8")
    made.remove()
    assert not processes.is_running(machine)
    assert not made.folder.exists()


# --- site rehearsal: an ordinary site, whose settings lead to the stand-in ---


def test_rehearsal_is_a_site_as_production_is(call: Call, cloud: Cloud, home: Path) -> None:
    done = call("fly.stop", "--force", "--site=rehearsal", POLYLADDER_SITE="")
    assert done.returncode == 0, done.stderr
    assert "`invoke fly.start --site=rehearsal` brings back" in done.stdout
    assert shape.waits(home / "state" / "fly" / "rehearsal" / "polyladder.json")
    assert shown(cloud)[0]["config"]["metadata"][machines.MARK]
    other = call("fly.status")
    assert other.returncode == 3, "another folder sees it in the machines"
    assert "the machines' metadata keeps them" in other.stderr
    done = call("fly.start", "--site=rehearsal", POLYLADDER_SITE="")
    assert done.returncode == 0, done.stderr
    assert call("health", "--wait=120", "--site=rehearsal", POLYLADDER_SITE="").returncode == 0


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"FLY_API_TOKEN": f"fo1_{CANARY}"}, "does not accept the token"),
        ({"FLY_APP": "other", "FLY_ORG": "other", "LOG_LEVEL": "debug"}, ""),
        ({"POLYLADDER_APP": "nowhere"}, "no right on it"),
        ({"POLYLADDER_APP": DB}, "are both polyladder-db"),
        ({"POLYLADDER_DB_APP": "x", "POLYLADDER_APP": DB}, "is a database's app"),
        ({"POLYLADDER_FLYCTL": "/nowhere/fly"}, "POLYLADDER_FLYCTL says /nowhere/fly"),
    ],
    ids=["token", "exported", "app", "same app", "database", "flyctl"],
)
def test_at_rehearsal_tokens_and_names_count(
    more: dict[str, str], said: str, call: Call, cloud: Cloud
) -> None:
    done = call("fly.status", "--site=rehearsal", **{"POLYLADDER_SITE": "", **more})
    assert (done.returncode == 0) is not bool(said), done.stderr
    assert said in done.stderr


def test_an_old_flyctl_is_refused_before_it_is_used(call: Call, cloud: Cloud) -> None:
    cloud.switch("old-version")
    done = call("fly.stop", "--force")
    assert done.returncode == 1
    assert "flyctl 0.4.70 is too old" in done.stderr
    assert [each["state"] for each in shown(cloud)] == ["started"]
