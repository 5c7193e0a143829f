"""Migrations by the app's own programs, pnpm and node-pg-migrate, for a database that only the stand-in leads to."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres.session import connect
from tests import node
from tests.fly.conftest import APP, DB, until
from tests.test_tasks import Project, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox import server as servers
    from polyladder_ops.sandbox.fly.cloud import Cloud


def run(flex: servers.Server, *statements: str, database: str = "postgres") -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    with closing(connect(flex.target(database))) as connection:
        for statement in statements:
            cursor = connection.execute(statement.encode())
            rows = cursor.fetchall() if cursor.description else []
    return rows


@pytest.fixture(params=["", "SUPERUSER"], ids=["ordinary", "superuser"])
def owner(request: pytest.FixtureRequest, flex: servers.Server) -> Iterator[str]:
    """Whose the database is: the role of an app, which `fly postgres attach` makes a superuser unless it is told not to."""
    run(
        flex,
        f"CREATE ROLE of_the_app LOGIN PASSWORD 'of-the-app' {request.param}",
        "CREATE DATABASE app OWNER of_the_app",
    )
    yield "of_the_app"
    run(flex, "DROP DATABASE app WITH (FORCE)", "DROP ROLE of_the_app")


@pytest.fixture
def checkout(tmp_path: Path, need: Callable[[object, str], None]) -> Path:
    need(not node.lacking(), node.lacking())
    folder = tmp_path / "checkout"
    migrations = node.installed(folder) / "migrations"
    migrations.mkdir()
    (migrations / "1758441602583_first.sql").write_text(
        "-- Up Migration\nCREATE TABLE public.made (a int);\n\n-- Down Migration\nDROP TABLE public.made;\n"
    )
    return folder


@pytest.fixture
def place(far: Cloud, base: str, deploy_token: str, checkout: Path, tmp_path: Path) -> Project:
    return project(
        tmp_path / "project",
        FLY_API_TOKEN=deploy_token,
        FLY_API_BASE_URL=base,
        POLYLADDER_FLYCTL=str(far.program),
        POLYLADDER_APP=APP,
        POLYLADDER_DB_APP=DB,
        POLYLADDER_DATABASE="app",
        POLYLADDER_APP_DIR=str(checkout),
        PATH=node.path(),
    )


def test_the_apps_own_programs_migrate_by_the_same_way(
    owner: str, place: Project, far: Cloud, flex: servers.Server
) -> None:
    before = len(far.carried())
    first = place.run("migrate", "--force")
    assert first.code == 0, first
    made = run(flex, "SELECT tableowner::text FROM pg_tables WHERE tablename = 'made'", database="app")
    assert made == [(owner,)]
    until(lambda: sum(each["down"] for each in far.carried()[before:]) > 5_000)
    back = place.run("migrate.down", "--force")
    assert back.code == 0, back
    assert run(flex, "SELECT 1 FROM pg_tables WHERE tablename = 'made'", database="app") == []
    assert run(flex, "SELECT rolname FROM pg_roles WHERE rolname ~ '^polyladder_migrate_'") == []
