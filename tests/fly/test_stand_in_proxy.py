"""The stand-in's `proxy` does what the contract says flyctl does: each text typed from it, with its section in the test's name."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, set_world, shown, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

Fly = Any


@pytest.fixture
def echo() -> Iterator[int]:
    """A port whose program gives each byte back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1]


def serve(listener: socket.socket) -> None:
    while True:
        try:
            there, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=give_back, args=(there,), daemon=True).start()


def give_back(there: socket.socket) -> None:
    with there:
        while piece := there.recv(1 << 16):
            there.sendall(piece)


@pytest.fixture
def cloud(tmp_path: Path, echo: int) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, lease_s=2.0, behind={5433: ("127.0.0.1", echo)})
    until(lambda: shown(made, DB)[0]["state"] == "started")
    yield made
    made.remove()


@contextmanager
def proxy(
    cloud: Cloud, *words: str, stdin: int = subprocess.PIPE
) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`fly proxy` while it runs, and its ready line."""
    process = subprocess.Popen(
        [str(cloud.program), "proxy", *words],
        env={"FLY_API_TOKEN": cloud.token, "PATH": os.environ["PATH"]},
        stdin=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.communicate(timeout=60)


def port_of(line: str) -> int:
    found = re.fullmatch(r"Proxying localhost:(\d+) to remote \[.*\]:\d+\n", line)
    assert found, line
    return int(found[1])


def say(port: int, words: bytes) -> bytes:
    """What comes back of what is said through the port."""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as connection:
        connection.sendall(words)
        connection.shutdown(socket.SHUT_WR)
        came = b""
        while piece := connection.recv(1 << 16):
            came += piece
        return came


def test_1_17_the_ready_line_names_port_and_remote_and_quiet_keeps_it(cloud: Cloud) -> None:
    with proxy(cloud, "0:5433", "-a", DB, "-q") as (_, line):
        assert re.fullmatch(rf"Proxying localhost:\d+ to remote \[{DB}\.internal\]:5433\n", line)
        assert say(port_of(line), b"hello") == b"hello"


def test_1_17_an_address_and_a_machines_name_lead_to_it(cloud: Cloud) -> None:
    (machine,) = shown(cloud, DB)
    for host in (machine["private_ip"], f"{machine['id']}.vm.{DB}.internal"):
        with proxy(cloud, "0:5433", host, "-a", DB) as (_, line):
            assert f"[{host}]:5433" in line
            assert say(port_of(line), b"x") == b"x"


def test_1_17_a_dead_address_and_a_wrong_port_are_taken_and_closed_without_a_word(cloud: Cloud) -> None:
    for words in (("0:5433", "fdaa:0:0:0:0:2"), ("0:5999",)):
        with proxy(cloud, *words, "-a", DB) as (process, line):
            assert say(port_of(line), b"") == b""
            assert process.poll() is None


def test_1_17_without_a_started_machine_the_name_is_not_found(cloud: Cloud, fly: Fly) -> None:
    set_world(cloud, names_s=0.2)
    with world.changing(cloud.folder) as here:
        here.becomes(here.machines(DB)[0], "stopped")
    assert fly("proxy", "0:5433", "-a", DB).both == (1, f"Error: {DB}.internal: host was not found in DNS\n")


def test_1_17_a_busy_port(cloud: Cloud, fly: Fly, echo: int) -> None:
    said = fly("proxy", f"{echo}:5433", "-a", DB)
    assert said.both == (1, f"Error: listen tcp 127.0.0.1:{echo}: bind: address already in use\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_1_17_a_signal_ends_it_well(cloud: Cloud, number: signal.Signals) -> None:
    with proxy(cloud, "0:5433", "-a", DB) as (process, _):
        process.send_signal(number)
        assert process.wait(60) == 0


def test_1_17_watch_stdin_ends_with_stdin(cloud: Cloud) -> None:
    with proxy(cloud, "0:5433", "-a", DB, "--watch-stdin", stdin=subprocess.DEVNULL) as (process, _):
        assert process.wait(60) == 0
    with proxy(cloud, "0:5433", "-a", DB, "--watch-stdin") as (process, line):
        assert say(port_of(line), b"x") == b"x"
        assert process.stdin is not None
        process.stdin.close()
        process.stdin = None
        assert process.wait(60) == 0


def test_1_17_without_it_stdin_is_nothing(cloud: Cloud) -> None:
    with proxy(cloud, "0:5433", "-a", DB, stdin=subprocess.DEVNULL) as (process, line):
        assert say(port_of(line), b"x") == b"x"
        assert process.poll() is None


def test_1_17_a_restart_of_the_machine_needs_no_new_proxy(cloud: Cloud) -> None:
    with proxy(cloud, "0:5433", "-a", DB) as (_, line):
        with world.changing(cloud.folder) as here:
            here.becomes(here.machines(DB)[0], "stopped")
        assert say(port_of(line), b"") == b""
        with world.changing(cloud.folder) as here:
            here.becomes(here.machines(DB)[0], "started")
        assert say(port_of(line), b"x") == b"x"


def test_1_17_a_megabyte_goes_both_ways_and_is_counted(cloud: Cloud) -> None:
    with proxy(cloud, "0:5433", "-a", DB) as (_, line):
        assert say(port_of(line), b"x" * (64 << 10)) == b"x" * (64 << 10)
        until(cloud.carried)
    assert cloud.carried() == [{"app": DB, "port": 5433, "up": 64 << 10, "down": 64 << 10}]


def test_1_22_rights_on_the_app_and_its_network(cloud: Cloud, fly: Fly) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["other"] = f"deploy:{APP}"
    assert f'Could not find App "{DB}"' in fly("proxy", "0:5433", "-a", DB, FLY_API_TOKEN="other").err
    cloud.switch("no-network")
    assert "server returned a non-200 status code: 500" in fly("proxy", "0:5433", "-a", DB).err


def test_6_3_a_tunnel_that_does_not_come_up(cloud: Cloud, fly: Fly) -> None:
    cloud.switch("no-tunnel")
    said = fly("proxy", "0:5433", "-a", DB)
    assert said.code == 1
    assert "tunnel unavailable for organization" in said.err
    assert "context deadline exceeded" in said.err


@pytest.mark.parametrize(
    ("fault", "error"), [("tunnel-stalls", TimeoutError), ("tunnel-cuts", ConnectionError)]
)
def test_6_3_what_befalls_a_connection_comes_amid_it(cloud: Cloud, fault: str, error: type[OSError]) -> None:
    set_world(cloud, tunnel_after=8)
    cloud.switch(fault)
    with (
        proxy(cloud, "0:5433", "-a", DB) as (_, line),
        socket.create_connection(("127.0.0.1", port_of(line)), timeout=2) as connection,
    ):
        connection.sendall(b"12345678")
        assert connection.recv(8) == b"12345678"
        connection.sendall(b"9")
        if error is TimeoutError:
            with pytest.raises(TimeoutError):
                connection.recv(1)
        else:
            assert connection.recv(1) == b""
