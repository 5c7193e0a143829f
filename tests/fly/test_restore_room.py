"""A copy that does not fit on a volume of 1 GB: refused with the command, or made to fit, seen by the server itself."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, portable, replacement
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import road
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.fly.volumes import Host
from polyladder_ops.postgres import volume
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.conftest import FAST
from tests.faults.places import rows_of
from tests.fly.conftest import APP, DB, shown, until
from tests.test_tasks import ROOT, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.fly.road import Road
    from polyladder_ops.postgres.conninfo import Target
    from tests.test_tasks import Project

DATABASE = "polyladder"
A_GB = 1042284544


@pytest.fixture
def disk() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="plt-disk-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def cloud(tmp_path: Path, disk: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2)
    made.open_disk(DB, disk)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    yield made
    made.remove()


@pytest.fixture
def flex(
    disk: Path, cloud: Cloud, monkeypatch: pytest.MonkeyPatch, need: Callable[[object, str], None]
) -> Iterator[servers.Server]:
    """A server that finds the machine's own df first, with so much on its volume that no second copy fits."""
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(disk), prepend=os.pathsep)
        made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=FAST)
    data = Path(place.read(made.folder).home) / "data"
    rules = data / "pg_hba.conf"
    rules.write_text(f"local all postgres trust\nlocal all all reject\n{rules.read_text()}", encoding="utf-8")
    with connect(made.target()) as connection:
        connection.execute(b"SELECT pg_reload_conf()")
    seed.fill(made.target(DATABASE), scale=0.02)
    with (data / "ballast").open("wb") as file:  # without a byte of it on our own disk
        file.truncate(round(A_GB * 0.8))
    yield made
    made.remove()


@pytest.fixture
def base(cloud: Cloud, flex: servers.Server, disk: Path) -> str:
    state = json.loads((flex.folder / "server.json").read_text(encoding="utf-8"))
    env = {"PGHOST": state["sockets"], "PG_PORT": str(state["port"]), "PGDATA": f"{cloud.folder}/postgresql"}
    cloud.open_ssh(
        DB, {**env, "PATH": os.pathsep.join([str(disk), str(servers.programs()), os.environ["PATH"]])}
    )
    return cloud.start_api()


@pytest.fixture
def way(cloud: Cloud, base: str, tmp_path: Path) -> Iterator[Road]:
    with road.opened(
        Flyctl(str(cloud.program), cloud.token, tmp_path / "config"),
        Api(cloud.token, base),
        DB,
        tmp_path / "runs",
    ) as made:
        yield made


@pytest.fixture
def target(way: Road) -> Target:
    return way.target(DATABASE)


@pytest.fixture
def backup(target: Target, tmp_path: Path) -> Backup:
    return backups.take(target, tmp_path / "backups", site="rehearsal", private=tmp_path / "state")


def restored(target: Target, backup: Backup, host: Host | None) -> Any:
    options = replacement.Options(name=DATABASE, host=host)
    return replacement.replace(
        target, backup, [], options, say=lambda _sentence: None, confirm=lambda _plan: None
    )


def host_of(cloud: Cloud, way: Road, tmp_path: Path, *, agrees: bool) -> Host:
    flyctl = Flyctl(str(cloud.program), cloud.token, tmp_path / "config")
    return Host(flyctl, DB, way.machine.id, lambda _question: agrees, lambda _sentence: None)


def size_gb(cloud: Cloud) -> int:
    return int(world.seen(cloud.folder).apps[DB]["volumes"][0]["size_gb"])


def test_the_server_tells_of_its_own_volume_and_not_of_this_computer_s(way: Road, target: Target) -> None:
    with connect(target) as connection:
        seen = volume.measure(connection, is_far=True)
    assert seen is not None
    assert abs(seen.total_bytes - A_GB) < 2048
    assert way.seen.size == A_GB
    assert abs(seen.free_bytes - way.seen.free) < A_GB


def test_without_a_yes_it_is_refused_with_the_command_and_nothing_is_touched(
    way: Road, target: Target, backup: Backup, cloud: Cloud, tmp_path: Path
) -> None:
    with pytest.raises(Refused) as raised:
        restored(target, backup, host_of(cloud, way, tmp_path, agrees=False))
    assert "space: a second copy needs up to" in raised.value.detail
    assert f"-s 2 -a {DB} -y`" in raised.value.detail
    assert size_gb(cloud) == 1


def test_with_a_yes_the_volume_is_enlarged_and_the_restore_goes_on(
    way: Road, target: Target, backup: Backup, cloud: Cloud, tmp_path: Path
) -> None:
    done = restored(target, backup, host_of(cloud, way, tmp_path, agrees=True))
    assert done.switched.aside
    assert size_gb(cloud) == 2
    with connect(target) as connection:
        rows = connection.execute(b"SELECT count(*) FROM public.users").fetchone()
        seen = volume.measure(connection, is_far=True)
    assert rows == (rows_of(backup)["public.users"],)
    assert seen is not None
    assert abs(seen.total_bytes - 2 * A_GB) < 4096


def test_what_the_server_does_not_see_is_not_taken_for_room(
    way: Road, target: Target, backup: Backup, cloud: Cloud, tmp_path: Path
) -> None:
    cloud.switch("extend-waits")
    with pytest.raises(Refused, match="must be restarted"):
        restored(target, backup, host_of(cloud, way, tmp_path, agrees=True))
    cloud.switch("extend-lies")
    with pytest.raises(OpsError):
        restored(target, backup, host_of(cloud, way, tmp_path, agrees=True))
    with connect(target) as connection:
        assert connection.execute(b"SELECT count(*) > 0 FROM public.users").fetchone() == (True,)


def test_another_thing_in_the_way_is_told_before_money_is_spent(
    way: Road, target: Target, backup: Backup, cloud: Cloud, tmp_path: Path
) -> None:
    with connect(target) as connection:
        connection.execute(b"CREATE PUBLICATION news")
    with pytest.raises(Refused) as raised:
        restored(target, backup, host_of(cloud, way, tmp_path, agrees=True))
    assert "publication:news" in raised.value.detail
    assert size_gb(cloud) == 1


def at_terminal(home: Project, answer: str, *words: str) -> tuple[int, str]:
    """Run a command at a terminal, give this answer to each question; return the exit code and the screen."""
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    env = {**portable.clean_environment(), "PYTHONPATH": paths, "TERM": "dumb", **home.variables}
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", *words], cwd=home.root, env=env, stdin=theirs, stderr=theirs,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    os.close(theirs)
    screen, answered = b"", 0
    with contextlib.suppress(OSError):  # Linux, when the other end is closed
        while piece := os.read(ours, 65536):
            screen += piece
            if screen.count(b"to go on: ") > answered:
                answered += 1
                os.write(ours, f"{answer}\n".encode())
    os.close(ours)
    return process.wait(60), screen.decode()


# As a person runs it --------------------------------------------------------------------------------------------------


@pytest.fixture
def home(cloud: Cloud, base: str, tmp_path: Path) -> Project:
    """A site that has a token, and no DATABASE_URL."""
    return project(
        tmp_path / "project",
        POLYLADDER_SITE="rehearsal",
        POLYLADDER_APP=APP,
        POLYLADDER_DB_APP=DB,
        POLYLADDER_FLYCTL=str(cloud.program),
        FLY_API_TOKEN=cloud.token,
        FLY_API_BASE_URL=base,
    )


def test_it_is_told_on_a_quiet_day_refused_with_force_alone_and_done_where_the_flag_says_so(
    home: Project, cloud: Cloud
) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"] |= {"fm2_ssh": f"ssh:{DB}", "fm2_deploy": f"deploy:{DB}"}
    assert home.run("backup", FLY_API_TOKEN="fm2_ssh").code == 0, "the least token that README tells of"
    quiet = home.run("doctor")
    assert (quiet.code, "restore would not work here" in quiet.err) == (3, True), quiet
    command = f"fly volumes extend vol_4y6k1l2m3n -s 2 -a {DB} -y`"
    assert "hint: With --extend-volume `invoke restore" in quiet.err
    assert command in quiet.err
    dry = home.run("-R", "restore", "--latest")
    assert (dry.code, "in the way: space: a second copy" in dry.out, command in dry.out) == (
        3,
        True,
        True,
    ), dry
    forced = home.run("restore", "--latest", "--force")
    assert (forced.code, command in forced.err, size_gb(cloud)) == (4, True, 1), forced
    weak = home.run("restore", "--latest", "--force", "--extend-volume", FLY_API_TOKEN="fm2_ssh")
    assert (weak.code, "the right to enlarge a volume" in weak.err, size_gb(cloud)) == (1, True, 1), weak
    done = home.run("restore", "--latest", "--force", "--extend-volume", FLY_API_TOKEN="fm2_deploy")
    assert (done.code, size_gb(cloud)) == (0, 2), done
    assert "enlarging volume vol_4y6k1l2m3n of polyladder-db to 2 GB" in done.err
    assert home.run("doctor").code == 0


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
def test_at_a_terminal_it_is_asked_and_a_no_leaves_all_as_it_is(home: Project, cloud: Cloud) -> None:
    assert home.run("backup").code == 0
    code, screen = at_terminal(home, "no", "restore", "--latest")
    assert (code, size_gb(cloud)) == (4, 1), screen
    assert "A second copy does not fit. This runs" in screen
    assert f"Type {DB} to go on: " in screen
    code, screen = at_terminal(home, DB, "restore", "--latest")
    assert (code, size_gb(cloud)) == (4, 2), screen
    assert f"Type {DATABASE} to go on: " in screen, "to enlarge the volume is no yes to the restore"


def test_a_flag_for_a_volume_is_not_taken_where_no_volume_is_known(
    home: Project, flex: servers.Server
) -> None:
    there = flex.target(DATABASE)
    url = (
        f"postgres://{there.user}:{there.password}@{there.host}:{there.port}/{there.database}?sslmode=disable"
    )
    assert home.run("backup", DATABASE_URL=url).code == 0
    direct = home.run("restore", "--latest", "--force", "--extend-volume", DATABASE_URL=url)
    assert (direct.code, "--extend-volume is for a database on Fly" in direct.err) == (2, True), direct
    both = home.run("restore", "--latest", "--force", "--extend-volume", "--in-place")
    assert (both.code, "--in-place makes none" in both.err) == (2, True), both
