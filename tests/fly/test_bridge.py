"""SQL over SSH: a real server behind the stand-in's machine, each session a channel of its own, none of it open to others."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import portable, sockets
from polyladder_ops.errors import OpsError
from polyladder_ops.fly import bridge, certificates, machines, primary, remote, tunnel
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.bridge import Bridge
    from polyladder_ops.fly.remote import Remote

PORT = 5433


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    made.open_ssh(DB, {"PGDATA": str(made.folder / "postgresql")})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def machine(
    far: Cloud, tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]
) -> Iterator[Remote]:
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    folder = tmp_path_factory.mktemp("state")
    flyctl = Flyctl(str(far.program), far.token, folder / "config")
    certificate = certificates.issued(flyctl, "personal", folder)
    (there,) = machines.read(flyctl.json(list, "machine", "list", "--json", app=DB))
    with (
        tunnel.opened(flyctl, DB, there, 22, answers=tunnel.ssh_answers) as way,
        remote.logged_in(way, certificate) as made,
    ):
        yield made
    far.switch("all", off=True)


@pytest.fixture
def crossing(machine: Remote, database: Target, tmp_path: Path) -> Iterator[Bridge]:
    with bridge.bridged(machine, f"exec socat - TCP:{database.host}:{database.port}", PORT, tmp_path) as made:
        yield made


def through(crossing: Bridge, database: Target) -> Target:
    return Target.of(**{**database.parameters, "host": str(crossing.folder), "port": str(crossing.port)})


def test_sessions_go_beside_each_other(crossing: Bridge, database: Target) -> None:
    with connect(through(crossing, database)) as one, connect(through(crossing, database)) as two:
        pids = {session.execute(b"SELECT pg_backend_pid()").fetchone() for session in (one, two)}
    assert len(pids) == 2
    assert crossing.lost == []


def test_megabytes_go_both_ways(crossing: Bridge, database: Target) -> None:
    with connect(through(crossing, database)) as session:
        row = session.execute(b"SELECT length(%s), repeat('y', 20000000)", ["x" * 20_000_000]).fetchone()
    assert row is not None
    assert (row[0], len(row[1])) == (20_000_000, 20_000_000)


def test_many_sessions_at_once_and_after_each_other(crossing: Bridge, database: Target) -> None:
    def ask() -> None:
        for _ in range(3):
            with connect(through(crossing, database)) as session:
                session.execute(b"SELECT 1")

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert crossing.lost == []


@pytest.mark.parametrize("name", ["", "long" * 25], ids=["here", "elsewhere, as it is too long for a socket"])
def test_nobody_else_of_this_computer_gets_in_and_nothing_stays(
    machine: Remote, database: Target, name: str
) -> None:
    command = f"exec socat - TCP:{database.host}:{database.port}"
    with tempfile.TemporaryDirectory(prefix="b-") as short:
        with bridge.bridged(machine, command, PORT, Path(short, name)) as made:
            assert made.folder.is_relative_to(short) == (not name)
            assert stat.S_IMODE(made.folder.stat().st_mode) == 0o700
            assert [path.name for path in made.folder.iterdir() if path.is_socket()] == [".s.PGSQL.5433"]
        assert not made.folder.exists()


def test_a_session_that_is_open_ends_with_the_block(
    machine: Remote, database: Target, tmp_path: Path
) -> None:
    with contextlib.ExitStack() as stack:
        with bridge.bridged(
            machine, f"exec socat - TCP:{database.host}:{database.port}", PORT, tmp_path
        ) as made:
            session = stack.enter_context(connect(through(made, database)))
        with pytest.raises(psycopg.OperationalError):
            session.execute(b"SELECT 1")


def test_a_program_that_is_not_there_lets_nobody_in(
    machine: Remote, database: Target, tmp_path: Path
) -> None:
    with (
        bridge.bridged(machine, "exec no-such-program", PORT, tmp_path) as made,
        pytest.raises(OpsError),
        connect(through(made, database)),
    ):
        pytest.fail("it was let in")


def test_a_backend_that_is_ended_is_an_end_and_no_hang(crossing: Bridge, database: Target) -> None:
    with connect(through(crossing, database)) as session:
        row = session.execute(b"SELECT pg_backend_pid()").fetchone()
        assert row is not None
        with connect(database) as other:
            other.execute(b"SELECT pg_terminate_backend(%s)", [row[0]])
        with pytest.raises(psycopg.OperationalError):
            session.execute(b"SELECT 1")


def test_a_session_whose_way_is_lost_ends_at_once_and_it_is_told_why(
    far: Cloud, database: Target, tmp_path: Path
) -> None:
    flyctl = Flyctl(str(far.program), far.token, tmp_path / "config")
    (there,) = machines.read(flyctl.json(list, "machine", "list", "--json", app=DB))
    certificate = certificates.issued(flyctl, "personal", tmp_path)
    command = f"exec socat - TCP:{database.host}:{database.port}"
    with (
        tunnel.opened(flyctl, DB, there, 22, answers=tunnel.ssh_answers) as way,
        remote.logged_in(way, certificate) as made,
        bridge.bridged(made, command, PORT, tmp_path) as crossing,
        connect(through(crossing, database)) as session,
    ):
        portable.kill_group(way.proxy._process.pid)
        began = time.monotonic()
        with pytest.raises(psycopg.OperationalError):
            session.execute(b"SELECT 1")
        assert time.monotonic() - began < 10
        until(lambda: crossing.lost)
        assert "is gone" in crossing.lost[0].message


def test_who_hangs_up_at_once_leaves_no_program_there(
    crossing: Bridge, machine: Remote, database: Target
) -> None:
    for _ in range(5):
        with socket.socket(socket.AddressFamily["AF_UNIX"]) as near:
            near.connect(str(crossing.folder / ".s.PGSQL.5433"))
    until(lambda: not machine.outcome(f"pgrep -f '[s]ocat - TCP:{database.host}:{database.port}'").out)


def test_a_look_at_the_machine_by_its_own_programs(machine: Remote, far: Cloud) -> None:
    seen = primary.look(machine)
    disk = shutil.disk_usage(far.folder)
    assert seen.port == 5433
    assert seen.size == disk.total
    assert seen.free == pytest.approx(disk.free, rel=0.1, abs=1 << 28)
    assert seen.memory > 1 << 27
    assert seen.has_socat
    assert not seen.is_read_only
    assert not seen.is_zombie


@pytest.mark.parametrize("name", ["readonly", "zombie"])
def test_a_look_finds_what_flys_own_watch_has_left(machine: Remote, far: Cloud, name: str) -> None:
    (far.folder / f"{name}.lock").touch()
    seen = primary.look(machine)
    (far.folder / f"{name}.lock").unlink()
    assert (seen.is_read_only, seen.is_zombie) == (name == "readonly", name == "zombie")


def test_the_socket_is_where_what_killed_runs_left_is_swept_if_its_name_is_short(
    machine: Remote, database: Target
) -> None:
    command = f"exec socat - TCP:{database.host}:{database.port}"
    with tempfile.TemporaryDirectory(prefix="b-") as short:
        with bridge.bridged(machine, command, PORT, Path(short)) as made:
            assert made.folder.parent == Path(short)
            with connect(through(made, database)) as session:
                session.execute(b"SELECT 1")
        assert not made.folder.exists()


def test_a_session_whose_far_end_stands_still_ends_with_the_block(
    machine: Remote, database: Target, tmp_path: Path
) -> None:
    """Nobody takes what is sent, and the machine answers all the same."""
    began = time.monotonic()
    with bridge.bridged(machine, "exec sleep 600", PORT, tmp_path) as made:
        near = socket.socket(socket.AddressFamily["AF_UNIX"])
        near.connect(str(made.folder / f".s.PGSQL.{PORT}"))
        near.settimeout(2)
        with contextlib.suppress(TimeoutError):
            while True:
                near.sendall(b"x" * (1 << 20))
    near.close()
    assert time.monotonic() - began < 30


def test_what_a_killed_run_left_among_all_peoples_folders_is_removed_and_what_lives_stays(
    tmp_path: Path,
) -> None:
    dead, alive, new = (tmp_path / f"road-pl-{name}" for name in ("dead", "alive", "new"))
    for folder in (dead, alive, new):
        folder.mkdir()
    with sockets.waiting(dead / ".s.PGSQL.5433"):
        pass
    with sockets.waiting(alive / ".s.PGSQL.5433"):
        for folder in (dead, alive):
            os.utime(folder, (1, 1))
        sockets.sweep(tmp_path)
    assert [dead.exists(), alive.exists(), new.exists()] == [False, True, True]
