"""The sandbox's web app: what it answers, by which sessions, and what it does not notice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest

from polyladder_ops import portable
from polyladder_ops.postgres import session
from polyladder_ops.sandbox import place
from polyladder_ops.sandbox.app import App
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target


@contextmanager
def running(target: Target) -> Iterator[App]:
    app = App(target, 0)
    thread = threading.Thread(target=app.serve_forever, daemon=True)
    thread.start()
    try:
        yield app
    finally:
        app.shutdown()
        app.server_close()
        thread.join()


def get(port: int, path: str = "/health") -> tuple[int, dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def test_a_well_app_says_so_and_not_which_database_it_has(database: Target) -> None:
    with running(database) as app:
        status, body = get(app.port)
        assert status == 200
        assert (body["status"], body["service"], body["database"]["connected"]) == (
            "healthy",
            "polyladder-api",
            True,
        )
        assert database.database not in json.dumps(body)


def test_its_sessions_have_no_name(database: Target) -> None:
    """Contract 9: whoever looks for the app in pg_stat_activity has only its role and its database to go by."""
    with running(database) as app, closing(session.connect(database.with_database("postgres"))) as looking:
        get(app.port)
        found = looking.execute(
            "SELECT application_name, query FROM pg_stat_activity WHERE datname = %s", [database.database]
        ).fetchall()
    assert found == [("", "SELECT 1")]


def test_it_stays_well_over_a_dropped_table(sample_database: Target) -> None:
    with running(sample_database) as app:
        with closing(session.connect(sample_database)) as connection:
            connection.execute("DROP TABLE learning.translation CASCADE")
        assert get(app.port)[0] == 200


def test_it_opens_another_session_when_its_own_were_ended(database: Target) -> None:
    with running(database) as app:
        get(app.port)
        with closing(session.connect(database.with_database("postgres"))) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid, 30000) FROM pg_stat_activity WHERE datname = %s",
                [database.database],
            )
        assert get(app.port)[0] == 200


def test_without_its_database_it_is_unhealthy(database: Target) -> None:
    with running(database.with_database("not_there")) as app:
        status, body = get(app.port)
    assert (status, body["status"], body["database"]) == (503, "unhealthy", {"connected": False})


@pytest.mark.parametrize(("path", "status"), [("/", 200), ("/health?x=1", 200), ("/api/v1/nothing", 404)])
def test_other_pages_answer_as_the_real_app(path: str, status: int, database: Target) -> None:
    with running(database) as app:
        assert get(app.port, path)[0] == status


def test_as_a_program_it_takes_its_database_from_its_environment_and_ends_when_told(database: Target) -> None:
    p = database.parameters
    url = f"postgres://{p['user']}:{quote(database.password, safe='')}@{p['host']}:{p['port']}/{p['dbname']}?sslmode=disable"
    port = place.free_port()
    process = portable.start(
        [sys.executable, "-m", "polyladder_ops.sandbox.app", f"--port={port}"],
        env=portable.clean_environment(
            {"DATABASE_URL": url, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        ),
        stdin=subprocess.DEVNULL,
    )
    try:
        until(lambda: answers(port), "the app answers")
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
    finally:
        portable.end(process)


def answers(port: int) -> bool:
    try:
        return get(port)[0] == 200
    except OSError:
        return False
