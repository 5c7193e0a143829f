"""Every task for a database that only the stand-in leads to: site rehearsal, which has a token and no DATABASE_URL.

The server of the sandbox has a port on this machine, which no setting of the site tells; what came through the tunnel is counted.
"""

from __future__ import annotations

import json
import shutil
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import DB, until
from tests.test_tasks import Ended, Project, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MOST_CALLS = 6


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]) -> Iterator[Project]:
    """A project whose .env.rehearsal leads to what `sandbox.up` made."""
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    made = project(tmp_path_factory.mktemp("road") / "project", POLYLADDER_SITE="rehearsal")
    up = made.run("sandbox.up", "--scale=0.02")
    need(up.code == 0 or "is not installed" not in up.err, up.err)
    assert up.code == 0, up.err
    (made.root / ".env.rehearsal").symlink_to(made.state / "sandbox" / "rehearsal.env")
    yield made
    assert made.run("sandbox.down", "--force").code == 0


@pytest.fixture(scope="module")
def cloud(home: Project) -> Cloud:
    return Cloud(home.state / "sandbox" / "fly")


@pytest.fixture(scope="module")
def server(home: Project) -> servers.Server:
    """The server itself, which the site can reach by the tunnel only."""
    return servers.open_server(home.state / "sandbox" / "server")


@pytest.fixture
def asked(home: Project, cloud: Cloud) -> Callable[..., Ended]:
    """Run a command, and see that it went through the tunnel, with few calls of flyctl."""

    def ask(*words: str, **more: str) -> Ended:
        calls, carried = len(cloud.calls()), len(cloud.carried())
        ended = home.run(*words, **more)
        here = [call[:2] for call in cloud.calls()[calls:]]
        assert ["proxy", "0:22"] in here, (here, ended)
        until(lambda: sum(each["down"] for each in cloud.carried()[carried:]) > 5_000)
        if words[0] == "backup":
            assert len(here) <= MOST_CALLS
        return ended

    return ask


@pytest.fixture(scope="module")
def backup(home: Project) -> str:
    """The id of a backup that came by the tunnel."""
    taken = home.run("backup", "--json")
    assert taken.code == 0, taken
    return str(json.loads(taken.out)["id"])


def users(server: servers.Server) -> int:
    with closing(connect(server.target(place.DATABASE))) as connection:
        row = connection.execute(b"SELECT count(*) FROM public.users").fetchone()
    assert row is not None
    return int(row[0])


def lose(server: servers.Server) -> None:
    with closing(connect(server.target(place.DATABASE))) as connection:
        connection.execute(b"TRUNCATE public.users CASCADE")


def test_the_sites_settings_tell_no_address_and_no_password(home: Project, server: servers.Server) -> None:
    text = (home.root / ".env.rehearsal").read_text(encoding="utf-8")
    assert "DATABASE_URL" not in text
    assert str(server.port) not in text
    assert server.target().password not in text


def test_a_backup_is_taken_verified_restored_and_undone(
    asked: Callable[..., Ended], home: Project, server: servers.Server
) -> None:
    before = users(server)
    assert before
    taken = asked("backup")
    assert taken.code == 0, taken
    proved = home.run("verify", "--backup=latest", "--level=restore")
    assert (proved.code, "restores to exactly what was dumped" in proved.out) == (0, True), proved
    lose(server)
    assert users(server) == 0
    restored = asked("restore", "--backup=latest", "--force")
    assert restored.code == 0, restored
    assert users(server) == before
    undone = asked("restore.undo", "--force")
    assert undone.code == 0, undone
    assert users(server) == 0
    again = asked("restore.undo", "--force")
    assert again.code == 0, again
    assert users(server) == before


def test_one_table_comes_back_and_a_copy_stands_beside(
    asked: Callable[..., Ended], server: servers.Server, backup: str
) -> None:
    beside = asked("restore", f"--backup={backup}", "--into=look", "--force")
    assert beside.code == 0, beside
    try:
        table = asked("restore.extract", f"--backup={backup}", "--table=users", "--into=look2")
        assert table.code == 0, table
    finally:
        with closing(connect(server.target())) as connection:
            for name in ("look", "look2"):
                connection.execute(f"DROP DATABASE IF EXISTS {name}".encode())


def test_the_questions_are_asked_and_migrations_run(asked: Callable[..., Ended], home: Project) -> None:
    checked = asked("restore.check")
    assert checked.code == 0, checked
    status = asked("migrate.status")
    assert status.code == 0, status
    migrated = asked("migrate", "--force")
    assert migrated.code == 0, migrated


def test_the_app_is_asked_whether_it_is_on_this_database(asked: Callable[..., Ended]) -> None:
    well = asked("health", "--wait=120")
    assert well.code == 0, well


def test_the_doctor_goes_the_same_way(asked: Callable[..., Ended], home: Project, backup: str) -> None:
    seen = asked("doctor", "--json")
    checks = {each["name"]: each for each in json.loads(seen.out)["checks"]}
    assert checks["database"]["detail"].startswith(f"polyladder on {DB} on Fly (machine ")
    assert checks["server"]["ok"]
    assert " on machine " in checks["pg_dump"]["detail"]
    assert checks["TLS"]["ok"]
    assert checks["way"]["detail"] == "By Fly: POLYLADDER_ROUTE says so."
    assert seen.code == 0, seen


def test_a_status_of_restores_and_a_dry_run_change_nothing(asked: Callable[..., Ended], backup: str) -> None:
    assert asked("restore.status").code == 0
    dry = asked("-R", "restore", f"--backup={backup}")
    assert dry.code == 0, dry


def test_where_both_ways_are_set_it_is_said_which_is_used(home: Project, server: servers.Server) -> None:
    target = server.target(place.DATABASE)
    url = f"postgres://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}?sslmode=disable"
    direct = home.run("restore.status", DATABASE_URL=url, POLYLADDER_ROUTE="direct")
    assert (direct.code, "POLYLADDER_ROUTE" in direct.err) == (0, False), direct
    by_fly = home.run("restore.status", DATABASE_URL=url)
    assert by_fly.code == 0
    assert "note: POLYLADDER_ROUTE is fly, so DATABASE_URL is not used" in by_fly.err


def test_another_site_does_not_go_to_productions_database(home: Project) -> None:
    (home.root / ".env.stagng").write_text(
        "FLY_API_TOKEN=fm2_x\nPOLYLADDER_ROUTE=fly\nPOLYLADDER_FLYCTL=/nowhere/fly\n", encoding="utf-8"
    )
    (home.root / "invoke.yaml").write_text("polyladder: {polyladder_db_app: polyladder-db}", encoding="utf-8")
    try:
        of_all = home.run("backup", "--site=stagng")
    finally:
        (home.root / "invoke.yaml").unlink()
    exported = home.run("backup", "--site=stagng", POLYLADDER_DB_APP=DB)
    for refused in (home.run("backup", "--site=stagng"), of_all, exported):
        assert refused.code == 2
        assert "POLYLADDER_DB_APP is not set for site stagng" in refused.err
    said = home.run("backup", POLYLADDER_SITE="stagng", POLYLADDER_DB_APP=DB)
    assert "there is no flyctl here" in said.err


@pytest.mark.parametrize("command", ["backup", "restore.check", "doctor"])
def test_a_database_that_is_not_there_is_said(command: str, home: Project) -> None:
    ended = home.run(command, POLYLADDER_DATABASE="nowhere")
    assert ended.code, ended
    assert 'database "nowhere" does not exist' in ended.out + ended.err
    assert "The server has polyladder; POLYLADDER_DATABASE names one." in ended.out + ended.err


def test_a_database_that_fly_keeps_from_writes_is_told_before_anything(
    home: Project, server: servers.Server
) -> None:
    (server.folder / "readonly.lock").touch()
    try:
        told = home.run("restore.status")
    finally:
        (server.folder / "readonly.lock").unlink()
    assert f"note: Fly lets nobody write to the databases of {DB}" in told.err
    assert "lets nobody write" not in home.run("restore.status").err


def test_nothing_is_left_of_the_way(home: Project, cloud: Cloud) -> None:
    assert list((home.state / "runs").glob(".run-*")) == []
    assert list((home.state / "sandbox" / "rehearsal-backups").glob(".run-*")) == []
