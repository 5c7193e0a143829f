"""The stand-in's `ssh console -C` does what the contract says flyctl does: each text typed from it, with its section in the test's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud

Fly = Any


@pytest.fixture
def cloud(cloud: Cloud) -> Iterator[Cloud]:
    until(lambda: shown(cloud, DB)[0]["state"] == "started")
    cloud.open_ssh(DB, {"PGPORT": "5433"})
    yield cloud
    cloud.switch("all", off=True)


@pytest.fixture
def console(cloud: Cloud, fly: Fly) -> Any:
    (machine,) = shown(cloud, DB)

    def call(command: str, **more: Any) -> Any:
        return fly("ssh", "console", "-a", DB, "--machine", machine["id"], "-q", "-C", command, **more)

    return call


def test_1_14_words_are_split_and_no_shell_makes_more_of_them(console: Any) -> None:
    assert console("echo $PGPORT | cat 'a  b'").out == "$PGPORT | cat a  b\n"
    assert console("bash -c 'echo $PGPORT | tr 5 6'").out == "6433\n"


def test_1_14_the_exit_code_is_0_or_1(console: Any) -> None:
    assert console("true").both == (0, "")
    said = console("bash -c 'echo out; echo aside >&2; exit 3'")
    assert said.code == 1
    assert (said.out, said.err) == ("out\n", "aside\nError: ssh shell: Process exited with status 3\n")


def test_1_14_a_command_that_is_killed_there(console: Any) -> None:
    said = console("bash -c 'kill -9 $$'")
    assert said.both == (
        1,
        "Error: ssh shell: wait: remote command exited without exit status or exit signal\n",
    )


def test_1_14_a_program_that_is_missing(console: Any) -> None:
    assert console("nope").both == (
        1,
        'exec: "nope": executable file not found in $PATH\nError: ssh shell: ssh: command nope failed\n',
    )


def test_1_14_stdin_goes_there_to_its_end(console: Any) -> None:
    assert console("tr a b", stdin="banana").out == "bbnbnb"


def test_1_14_a_machine_that_is_not_started_is_neither_woken_nor_replaced(
    cloud: Cloud, console: Any, fly: Fly
) -> None:
    assert fly("ssh", "console", "-a", DB, "--machine", "other", "-C", "true").both == (
        1,
        'Error: --machine="other" not found/started\n',
    )
    with world.changing(cloud.folder) as here:
        here.becomes(here.machines(DB)[0], "stopped")
    assert console("true").err.startswith(f"Error: app {DB} has no started VMs.\n")
    assert shown(cloud, DB)[0]["state"] == "stopped"


def test_1_14_a_choice_is_told_on_stdout_even_with_q(cloud: Cloud, fly: Fly) -> None:
    (machine,) = shown(cloud, DB)
    assert fly("ssh", "console", "-a", DB, "-q", "-C", "echo x").out == "x\n"
    with world.changing(cloud.folder) as here:
        other = here.apps[DB]["machines"][machine["id"]]
        here.apps[DB]["machines"]["00"] = {**other, "shown": {**machine, "id": "00"}}
    said = fly("ssh", "console", "-a", DB, "-q", "-C", "echo x").out
    assert said == f"No machine specified, using {machine['id']} in region iad\nx\n"


def test_1_14_ssh_that_does_not_answer(cloud: Cloud, console: Any) -> None:
    with world.changing(cloud.folder) as here:
        here.machines(DB)[0]["behind"].clear()
    assert "error connecting to SSH server: connect tcp [fdaa:" in console("true").err
    assert console("true").err.endswith(":22: operation timed out\n")


def test_1_22_an_apps_own_token_suffices_and_one_that_only_looks_does_not(cloud: Cloud, console: Any) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"] |= {"deploy": f"deploy:{DB}", "look": "readonly", "other": f"deploy:{APP}"}
    assert console("true", FLY_API_TOKEN="deploy").code == 0
    assert "create ssh certificate: Not authorized" in console("true", FLY_API_TOKEN="look").err
    assert f'Could not find App "{DB}"' in console("true", FLY_API_TOKEN="other").err


def test_0_4_noise_stands_on_stdout_before_the_output(cloud: Cloud, console: Any) -> None:
    cloud.switch("noise")
    said = console("echo x").out
    assert said.startswith("\x1b[33mWARN\x1b[0m ")
    assert "\nNo machine specified, using " in said
    assert said.endswith("\nx\n")


def test_6_4_a_terminal_in_between(cloud: Cloud, console: Any, caller: Flyctl) -> None:
    cloud.switch("crlf")
    assert console("bash -c 'echo x; echo y >&2'").both == (0, "")
    words = ("ssh", "console", "-q", "-C", "bash -c 'echo x; echo y >&2'")
    assert caller.run(*words, app=DB) == "x\r\ny\r\n"


def test_6_4_output_that_is_cut_with_exit_code_0(cloud: Cloud, console: Any) -> None:
    cloud.switch("output-cut")
    said = console("bash -c 'echo 12345; exit 3'")
    assert (said.code, said.out) == (0, "123")
