"""A tunnel into Fly's network, to a real server behind the stand-in: ready when the far end speaks, gone with us, explained when lost."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.fly import machines, tunnel
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox.fly import platform, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, set_world, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.fly.machines import Machine

PORT = 5433


@pytest.fixture
def far(tmp_path: Path, database: Target) -> Iterator[Cloud]:
    """A cloud on whose database machine the test's server answers at 5433, and nobody at 22."""
    made = Cloud(tmp_path / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, lease_s=2.0, behind={PORT: (database.host, database.port)})
    until(lambda: platform_state(made) == "started")
    yield made
    made.remove()


def platform_state(cloud: Cloud) -> str:
    return str(world.seen(cloud.folder).machines(DB)[0]["shown"]["state"])


def caller_of(cloud: Cloud, folder: Path) -> Flyctl:
    return Flyctl(str(cloud.program), cloud.token, folder / "config")


@pytest.fixture
def flyctl(far: Cloud, tmp_path: Path) -> Flyctl:
    return caller_of(far, tmp_path)


def primary(flyctl: Flyctl) -> Machine:
    (machine,) = machines.read(flyctl.json(list, "machine", "list", "--json", app=DB))
    return machine


def open_to(flyctl: Flyctl, machine: Machine | None = None, port: int = PORT, **more: Any) -> Any:
    more = {"answers": tunnel.postgres_answers, "limit_s": 30.0, **more}
    return tunnel.opened(flyctl, DB, machine or primary(flyctl), port, **more)


def answers(way: tunnel.Tunnel) -> bool:
    """Whether the server answers through the tunnel, now."""
    with socket.create_connection((tunnel.HOST, way.port), timeout=30) as connection:
        return tunnel.postgres_answers(connection)


def proxies(cloud: Cloud) -> list[int]:
    """The ids of the stand-in's proxies that run in this test's folder."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, command in rows if str(cloud.folder) in command and " proxy " in command]


def test_a_tunnel_leads_to_the_database_and_is_gone_afterwards(
    far: Cloud, flyctl: Flyctl, database: Target
) -> None:
    with open_to(flyctl) as way:
        there = Target.of(**{**database.parameters, "host": tunnel.HOST, "port": way.port})
        with connect(there) as connection:
            assert connection.execute(b"SELECT current_database()").fetchone() == (database.database,)
        assert len(proxies(far)) == 1
    assert proxies(far) == []
    assert sum(each["down"] for each in far.carried()) > 100


def test_an_open_port_behind_which_nobody_speaks_is_no_tunnel(far: Cloud, flyctl: Flyctl) -> None:
    with (
        pytest.raises(FlyError, match=r"nobody answers at port 5432 of machine") as raised,
        open_to(flyctl, port=5432, limit_s=4.0),
    ):
        pytest.fail("it was given out")
    assert "closed the connection" in raised.value.detail
    assert proxies(far) == []


def test_a_far_end_of_another_protocol_is_no_tunnel(flyctl: Flyctl) -> None:
    with (
        pytest.raises(FlyError, match="nobody answers"),
        open_to(flyctl, answers=tunnel.ssh_answers, limit_s=4.0),
    ):
        pytest.fail("it was given out")


def test_a_machine_that_is_on_its_way_up_is_waited_for(far: Cloud, flyctl: Flyctl) -> None:
    machine = primary(flyctl)
    with world.changing(far.folder) as here:
        (there,) = here.machines(DB)
        here.becomes(there, "stopping", after_s=2.0, then="started")
    with open_to(flyctl, machine) as way:
        assert answers(way)


def test_a_proxy_that_closes_each_connection_is_named_and_the_next_try_is_taken(
    far: Cloud, flyctl: Flyctl
) -> None:
    far.switch("tunnel-closes", times=2)
    with open_to(flyctl) as way:
        assert answers(way)


@pytest.mark.parametrize(
    ("fault", "name"),
    [("no-tunnel", "tunnel"), ("no-network", "network-refused"), ("wrong-scope", "unknown-app")],
)
def test_a_refusal_of_flys_is_explained(far: Cloud, flyctl: Flyctl, fault: str, name: str) -> None:
    machine = primary(flyctl)
    far.switch(fault)
    with pytest.raises(FlyError) as raised, open_to(flyctl, machine):
        pytest.fail("it was given out")
    assert raised.value.name == name
    assert raised.value.hint


def test_a_proxy_that_never_says_it_is_ready_is_given_up(far: Cloud, flyctl: Flyctl) -> None:
    machine = primary(flyctl)
    far.switch("hang")
    with pytest.raises(FlyError, match="opened no way to port 5433"), open_to(flyctl, machine, limit_s=2.0):
        pytest.fail("it was given out")
    assert proxies(far) == []


def test_noise_before_the_ready_line_is_passed_over(far: Cloud, flyctl: Flyctl) -> None:
    machine = primary(flyctl)
    far.switch("noise")
    with open_to(flyctl, machine) as way:
        assert answers(way)


def test_a_machine_without_an_address_is_refused_before_anything_is_opened(flyctl: Flyctl) -> None:
    with (
        pytest.raises(FlyError, match="tells no address"),
        open_to(flyctl, replace(primary(flyctl), address="")),
    ):
        pytest.fail("it was given out")


def stop(far: Cloud) -> None:
    with world.changing(far.folder) as here:
        here.becomes(here.machines(DB)[0], "stopped")


def start_again(far: Cloud) -> None:
    with world.changing(far.folder) as here:
        platform.event(here.machines(DB)[0], "start", "started", "flyd")


def move(far: Cloud) -> None:
    with world.changing(far.folder) as here:
        here.machines(DB)[0]["shown"]["private_ip"] = "fdaa:0:1234:a7b:ffff:2"


def remove(far: Cloud) -> None:
    with world.changing(far.folder) as here:
        here.apps[DB]["machines"].clear()


@pytest.mark.parametrize(
    ("happens", "said"),
    [
        (stop, "is stopped"),
        (start_again, "was started again"),
        (move, "has another address now"),
        (remove, "is not there any more"),
    ],
)
def test_what_became_of_the_machine_is_told_to_who_lost_the_connection(
    far: Cloud, flyctl: Flyctl, happens: Callable[[Cloud], None], said: str
) -> None:
    with open_to(flyctl) as way:
        assert way.why_lost() is None
        happens(far)
        lost = way.why_lost()
    assert lost is not None
    assert said in lost.message


def test_a_proxy_that_was_killed_is_told_as_that(far: Cloud, flyctl: Flyctl) -> None:
    with open_to(flyctl) as way:
        for pid in proxies(far):
            os.kill(pid, signal.Signals["SIGKILL"])
        until(lambda: way.proxy.code() is not None)
        lost = way.why_lost()
    assert isinstance(lost, OpsError)
    assert "is gone" in lost.message
    assert "signal 9" in lost.detail


def test_the_tunnel_ends_when_we_are_killed(far: Cloud, tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from pathlib import Path\n"
        "from polyladder_ops.fly import machines, tunnel\n"
        "from polyladder_ops.fly.flyctl import Flyctl\n"
        f"flyctl = Flyctl({str(far.program)!r}, {far.token!r}, Path({str(tmp_path / 'config')!r}))\n"
        f"(machine,) = machines.read(flyctl.json(list, 'machine', 'list', '--json', app={DB!r}))\n"
        f"with tunnel.opened(flyctl, {DB!r}, machine, {PORT}, answers=tunnel.postgres_answers) as way:\n"
        "    print('open', flush=True)\n"
        "    time.sleep(600)\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script],
        env=portable.clean_environment(),
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        assert process.stdout.readline() == b"open\n"
    assert len(proxies(far)) == 1
    process.kill()
    process.wait()
    until(lambda: proxies(far) == [])


def test_a_frozen_proxy_ends_with_the_block_too(far: Cloud, flyctl: Flyctl) -> None:
    with open_to(flyctl):
        for pid in proxies(far):
            os.kill(pid, signal.Signals["SIGSTOP"])
    assert proxies(far) == []


def test_a_stalled_tunnel_takes_connections_and_is_named(far: Cloud, flyctl: Flyctl) -> None:
    set_world(far, tunnel_after=0)
    far.switch("tunnel-stalls")
    with pytest.raises(FlyError, match="nobody answers") as raised, open_to(flyctl, limit_s=3.0):
        pytest.fail("it was given out")
    assert "said nothing" in raised.value.detail


@pytest.mark.parametrize(
    ("sent", "answers"),
    [
        (b"SSH-2.0-Go\r\n", True),
        (b"Welcome\r\nSSH-2.0-OpenSSH_9.2\r\n", True),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", False),
        (b"", False),
    ],
)
def test_who_speaks_ssh_is_known_by_its_first_line(sent: bytes, answers: bool) -> None:
    with socket.create_server((tunnel.HOST, 0)) as listener:

        def serve() -> None:
            there, _ = listener.accept()
            with there:
                there.sendall(sent)

        thread = threading.Thread(target=serve)
        thread.start()
        with socket.create_connection(listener.getsockname(), timeout=10) as connection:
            assert tunnel.ssh_answers(connection) is answers
        thread.join()
