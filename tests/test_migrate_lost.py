"""A migration whose lock's session is lost, or that leaves a session behind: it is noticed, ended, and the database's state is told."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import databases, session
from polyladder_ops.postgres.conninfo import Target
from tests.conftest import numbers, run
from tests.test_migrate import ONE, TWO, app, database_, owner  # noqa: F401 - fixtures

if TYPE_CHECKING:
    import subprocess
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server
    from tests.test_migrate import App

# Does what the sandbox's runner does, when it is told so by a file, and ends as it is told then.
WAITS = """
import os, pathlib, subprocess, sys, time
go = pathlib.Path({go!r})
print("it waits", flush=True)
while not go.exists():
    time.sleep(0.02)
code = int(go.read_text() or 0)
if not code:
    code = subprocess.call([sys.executable, "-m", "polyladder_ops.sandbox.migrator", sys.argv[1]])
sys.exit(code)
"""


def _waiting(go: Path) -> str:
    return shlex.join([sys.executable, "-c", WAITS.format(go=str(go))])


def _lose_the_lock(app: App) -> None:  # noqa: F811
    """End the session that holds the lock, and return when it is gone."""
    ended = app.ask(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE application_name ~ '^polyladder-ops migrate[. ]'"
        " AND datname = 'postgres'"
    )
    assert ended == [(True,)]


def _until_it_waits(process: subprocess.Popen[str]) -> None:
    assert process.stderr is not None
    assert next((line for line in iter(process.stderr.readline, "") if "it waits" in line), "")


def _told(app: App, err: str, notes: int) -> None:  # noqa: F811
    assert "Traceback" not in err
    assert f"{app.target.database} notes {notes} migrations now" in err
    assert app.logins == [], err


@pytest.mark.parametrize("code", ["", "3"])
def test_a_lock_that_is_lost_before_the_program_ends_is_told_with_what_is_noted(
    app: App,  # noqa: F811
    tmp_path: Path,
    code: str,
) -> None:
    go = tmp_path / "go"
    with app.where.start("migrate", POLYLADDER_MIGRATE_COMMAND=_waiting(go)) as process:
        _until_it_waits(process)
        _lose_the_lock(app)
        go.write_text(code)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    assert f"error: the lock on {app.target.database} was lost while the migration ran" in err
    assert app.noted in ([], [ONE, TWO])  # it may be ended before it has begun
    _told(app, err, len(app.noted))


def test_a_program_whose_lock_is_lost_is_ended(app: App, tmp_path: Path) -> None:  # noqa: F811
    """Else a second run would work beside it, for as long as the program takes."""
    with app.where.start("migrate", POLYLADDER_MIGRATE_COMMAND=_waiting(tmp_path / "never")) as process:
        _until_it_waits(process)
        _lose_the_lock(app)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1, err
    _told(app, err, 0)
    again = app.migrate("migrate")
    assert (again.code, app.noted) == (0, [ONE, TWO]), again


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGTERM for one process")
def test_an_interrupt_stays_one_though_the_lock_is_lost(app: App, tmp_path: Path) -> None:  # noqa: F811
    with app.where.start("migrate", POLYLADDER_MIGRATE_COMMAND=_waiting(tmp_path / "never")) as process:
        _until_it_waits(process)
        _lose_the_lock(app)
        process.send_signal(signal.SIGTERM)
        _, err = process.communicate(timeout=120)
    assert process.returncode in (1, 130), err
    assert ("interrupted by SIGTERM" in err) is (process.returncode == 130)
    _told(app, err, 0)


# Does its work, and leaves a child behind in a session of its own on both sides, which calls itself as it likes.
LEAVES = """
import os, subprocess, sys
import psycopg
child = '''
import os, sys, time, psycopg
at = psycopg.connect(os.environ["DATABASE_URL"], application_name="left", autocommit=True)
at.execute("SELECT 1")
sys.stdout.write("it is there")
sys.stdout.close()
time.sleep(600)
'''
left = subprocess.Popen([sys.executable, "-c", child], start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
left.stdout.read(5)
with open({pid!r}, "w") as out:
    out.write(str(left.pid))
sys.exit(subprocess.call([sys.executable, "-m", "polyladder_ops.sandbox.migrator", sys.argv[1]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no sessions of processes")
def test_what_a_migration_leaves_on_the_server_ends_with_it_by_whatever_name(
    app: App,  # noqa: F811
    tmp_path: Path,
) -> None:
    left = "SELECT usename FROM pg_stat_activity WHERE application_name = 'left'"
    pid = tmp_path / "pid"
    try:
        command = shlex.join([sys.executable, "-c", LEAVES.format(pid=str(pid))])
        found = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND=command)
        assert (found.code, app.noted) == (0, [ONE, TWO]), found
        assert app.ask(left) == []
    finally:
        os.kill(int(pid.read_text()), signal.SIGTERM)


def test_a_dead_runs_migration_is_known_by_its_role_and_by_a_role_that_is_gone(
    app: App,  # noqa: F811
    server: Server,
) -> None:
    name = databases.temporary_name("migrate")
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'sesame'", name)
    mine = {"user": name, "password": "sesame", "application_name": f"as it likes {next(numbers)}"}
    with closing(session.connect(Target.of(**{**app.target.parameters, **mine}))) as left:
        pid = left.info.backend_pid
        found = app.where.ask("migrate")
        assert (found.code, f"process {pid} (role {name}" in found.err) == (4, True), found
        run(server.target(), "DROP ROLE %I", name)
        found = app.where.ask("migrate")
        assert (found.code, f"process {pid} (role which is gone" in found.err) == (4, True), found
    assert app.tables == {}
