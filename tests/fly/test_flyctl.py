"""The caller of flyctl, against the stand-in: its environment, its answers, each failure with its cure."""

from __future__ import annotations

import os
import signal
import stat
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.fly import failures
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl, find, is_set_up
from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import APP, DB

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud


def machines(caller: Flyctl, app: str = APP) -> list[object]:
    found: list[object] = caller.json(list, "machine", "list", "--json", app=app)
    return found


def script(tmp_path: Path, body: str) -> Flyctl:
    """A flyctl of the test's own: what it prints is said by a few lines of shell."""
    program = tmp_path / "flyctl"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(stat.S_IRWXU)
    return Flyctl(str(program), None, tmp_path / "config")


def test_an_answer_is_read(caller: Flyctl) -> None:
    assert len(machines(caller)) == 1
    assert caller.version() >= (0, 4, 80)


def test_what_a_person_exported_does_not_lead_elsewhere(
    caller: Flyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"FLY_APP": "other", "FLY_ORG": "other", "FLY_ACCESS_TOKEN": "fo1_other",
                        "LOG_LEVEL": "debug", "FLY_JSON": "1"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert len(machines(caller)) == 1


def test_the_childs_environment_is_ours_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FLY_APP", "other")
    monkeypatch.delenv("FLY_CONFIG_DIR")
    said = script(tmp_path, "env").run("status")
    lines = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    assert (lines["LOG_LEVEL"], lines["FLY_NO_UPDATE_CHECK"], lines["FLY_SEND_METRICS"]) == (
        "error",
        "1",
        "0",
    )
    assert {name for name in lines if name.startswith("FLY_")} == {"FLY_NO_UPDATE_CHECK", "FLY_SEND_METRICS"}


def test_the_token_goes_by_the_environment_with_a_folder_of_its_own(tmp_path: Path) -> None:
    plain = script(tmp_path, 'echo "$FLY_API_TOKEN $FLY_CONFIG_DIR"; echo "$@"')
    caller = Flyctl(plain.program, "fo1_secret", tmp_path / "state" / "config")
    first, words = caller.run("status", app=APP).splitlines()
    assert first == f"fo1_secret {tmp_path / 'state' / 'config'}"
    assert words == f"status -a {APP}"
    assert stat.S_IMODE((tmp_path / "state" / "config").stat().st_mode) == 0o700


def test_a_persons_own_login_is_used_where_no_token_is_set(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".fly").mkdir()
    (tmp_path / ".fly/config.yml").write_text(f"access_token: {cloud.token}\n", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("FLY_CONFIG_DIR")
    assert len(machines(Flyctl(str(cloud.program), None, tmp_path / "unused"))) == 1
    assert not (tmp_path / "unused").exists()


def test_noise_before_the_json_is_passed_over(cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch("noise")
    assert len(machines(caller)) == 1


@pytest.mark.parametrize("fault", ["english", "cut"])
def test_what_is_no_json_is_no_empty_list(fault: str, cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch(fault)
    with pytest.raises(OpsError, match="gave no list"):
        machines(caller)


def test_an_object_is_no_list(caller: Flyctl) -> None:
    with pytest.raises(OpsError, match="gave no list"):
        caller.json(list, "status", "--json", app=APP)


def test_an_old_flyctl_is_refused(cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch("old-version")
    with pytest.raises(OpsError, match=r"flyctl 0\.4\.70 is too old") as caught:
        caller.version()
    assert "fly version upgrade" in caught.value.hint


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        ("no-token", "no-token"),
        ("expired-token", "token-refused"),
        ("wrong-scope", "unknown-app"),
        ("api-down", "no-api"),
        ("rate-limited", "busy"),
        ("panic", ""),
    ],
)
def test_a_failure_is_named_with_its_cure(fault: str, name: str, cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch(fault)
    with pytest.raises(FlyError) as caught:
        machines(caller)
    assert caught.value.name == (name or "crashed")
    assert caught.value.hint


def test_a_token_of_another_app_is_told_as_such(cloud: Cloud, caller: Flyctl) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["deploy-token"] = f"deploy:{APP}"
    other = Flyctl(caller.program, "deploy-token", caller.config_dir)
    assert len(machines(other)) == 1
    with pytest.raises(FlyError) as caught:
        machines(other, DB)
    assert "no right on it" in caught.value.detail
    assert "deploy token knows one app only" in caught.value.hint


def test_a_call_that_never_ends_is_ended(cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch("hang")
    hasty = Flyctl(caller.program, caller.token, caller.config_dir, deadline_s=2.0)
    with pytest.raises(FlyError, match="did not end within 2 s"):
        machines(hasty)


@pytest.mark.skipif(sys.platform != "linux", reason="setsid is Linux's")
def test_who_holds_our_pipe_beyond_the_end_is_not_waited_for(tmp_path: Path) -> None:
    """Flyctl starts an agent that outlives it (contract 0.5)."""
    agent = tmp_path / "agent"
    caller = script(tmp_path, f"setsid sleep 120 & echo $! > '{agent}'; echo '[]'")
    done: list[object] = []
    worker = threading.Thread(target=lambda: done.append(caller.json(list, "machine", "list")))
    worker.start()
    worker.join(60)
    os.kill(int(agent.read_text()), signal.SIGTERM)
    assert done == [[]]


def test_much_on_both_pipes_stops_nothing(tmp_path: Path) -> None:
    caller = script(
        tmp_path,
        "head -c 3000000 /dev/zero | tr '\\0' x >&2; echo '['; head -c 3000000 /dev/zero | tr '\\0' ' '; echo ']'",
    )
    assert caller.json(list, "machine", "list") == []


def test_a_program_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match="there is no flyctl here"):
        find(None)
    with pytest.raises(SettingsError) as caught:
        find(tmp_path / "fly")
    assert "POLYLADDER_FLYCTL" in caught.value.detail
    program = tmp_path / "flyctl"
    program.write_text("#!/bin/sh\n", encoding="utf-8")
    program.chmod(0o700)
    assert find(None) == str(program)


TEXTS = {
    "no-token": "Error: no access token available. Please login with 'flyctl auth login'",
    "broken-token": 'Error: net/http: invalid header field value for "Authorization"',
    "old-token": "Error: MPG commands require updated tokens but found older-style tokens.",
    "unknown-app": 'Error: failed to get app: failed to run query (…): Could not find App "x"',
    "ssh-denied": "Error: error connecting to SSH server: ssh: unable to authenticate",
    "ssh-silent": "Error: error connecting to SSH server: connect tcp [fdaa::2]:22: operation timed out",
    "token-refused": "Error: Not authorized to access this organization",
    "network-refused": "Error: server returned a non-200 status code: 500",
    "no-room": "Error: could not start machine due to lack of capacity. Try 'flyctl machine clone 1 -a x'",
    "replacing": "Error: could not start machine 1: unable to start machine from current state: 'replacing'",
    "leased": "Error: failed to obtain lease: lease currently held by me@example.com",
    "busy": "Error: server returned a non-200 status code: 429",
    "unreachable-host": "Error: the machine is on an unreachable host, try again later",
    "gone": 'Error: --machine="1" not found/started',
    "still-running": "Error: machine 1 did not stop within the wait timeout: deadline_exceeded",
    "none-started": "Error: app x has no started VMs.\nIt may be unhealthy or not have been deployed yet.",
    "no-release": "Error: this app has no complete releases. Run `fly deploy` to create one and rerun this command",
    "unknown-group": "Error: Attempting to scale unknown process groups [x] but valid names are [app worker]",
    "tunnel": "Error: ssh: can't build tunnel for ORG: tunnel unavailable for organization personal: …",
    "no-name": "Error: polyladder-db.internal: host was not found in DNS",
    "port-taken": "Error: listen tcp 127.0.0.1:15432: bind: address already in use",
    "asked": "Error: prompt: non interactive",
    "old-flyctl": "Error: unknown flag: --skip-start",
    "no-api": 'Error: Post "https://api.fly.io/graphql": dial tcp: lookup api.fly.io: no such host',
}


@pytest.mark.parametrize("name", TEXTS)
def test_flys_own_text_of_section_6_is_known(name: str) -> None:
    error = failures.explain("machine stop", TEXTS[name], 1, app=APP)
    assert (error.name, error.exit_code) == (name, 1)
    assert error.hint
    assert "{" not in error.hint
    assert "It says: " in error.detail


def test_every_failure_that_is_known_has_its_text_here() -> None:
    assert [each.name for each in failures.FAILURES] == list(TEXTS)


def test_a_secret_in_what_flyctl_says_is_taken_out_before_the_text_is_cut() -> None:
    said = "x" * 372 + " postgres://polyladder:s3cret-password@db.internal:5432/polyladder"
    error = failures.explain("status", said, 1)
    assert "s3c" not in str(error)


def test_an_interrupt_and_a_silent_end_are_told() -> None:
    assert failures.explain("status", "", 127).name == "interrupted"
    assert "said nothing and ended with exit code 1" in failures.explain("status", "", 1).detail


def test_a_slow_fly_is_waited_for(cloud: Cloud, caller: Flyctl) -> None:
    cloud.switch("slow")
    begun = time.monotonic()
    assert len(machines(caller)) == 1
    assert time.monotonic() - begun >= 1.0


# --- whether Fly is asked at all ---


def test_who_ran_fly_auth_login_has_fly_without_a_setting(
    cloud: Cloud, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the login lies in a folder that the person exported: there, and nowhere else, it is known to flyctl."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    monkeypatch.setenv("FLY_CONFIG_DIR", str(theirs))
    monkeypatch.setenv("PATH", str(cloud.program.parent), prepend=os.pathsep)
    assert not is_set_up(None, None), "nobody is logged in"
    (theirs / "config.yml").write_text("wire_guard_state: {}\n", encoding="utf-8")
    assert not is_set_up(None, None), "flyctl was here, and still nobody is"
    (theirs / "config.yml").write_text(f"access_token: {cloud.token}\n", encoding="utf-8")
    assert is_set_up(None, None)
    assert len(machines(Flyctl(find(None), None, tmp_path / "unused"))) == 1
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not is_set_up(None, None), "there is no flyctl"
    assert is_set_up(cloud.program, None)
    assert is_set_up(None, "fo1_token")


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names")
def test_a_pipe_in_place_of_flyctls_settings_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLY_CONFIG_DIR", str(tmp_path))
    if sys.platform != "win32":
        os.mkfifo(tmp_path / "config.yml")
    assert not is_set_up(None, None)


@pytest.mark.parametrize(
    "noise", ["[agent] restarted", "{not json", "\\033[33mWARN\\033[0m old"], ids=["log", "brace", "colour"]
)
def test_a_line_before_the_json_may_begin_as_json_does(noise: str, tmp_path: Path) -> None:
    assert script(tmp_path, f"printf '{noise}\\n'; echo '[7]'").json(list, "machine", "list") == [7]


def test_json_without_an_end_in_sight_is_none(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="gave no list"):
        script(tmp_path, "head -c 300000 /dev/zero | tr '\\0' '['").json(list, "machine", "list")


@pytest.mark.parametrize(
    "token", ["fm1a_lJPECAAAA+x/y=", "fm1r_lJPECAAAA+x/y=", "fm2_lJPECAAAA+x/y=", "fo1_abcdefghijk"]
)
def test_a_token_that_nobody_told_us_of_is_not_shown(token: str) -> None:
    error = failures.explain("status", f"Error: could not parse token FlyV1 {token},{token}", 1)
    assert token[:12] not in str(error)
