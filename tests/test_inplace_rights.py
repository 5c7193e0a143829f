"""A restore in place has one session, and lends its rights to what rows run: a superuser's only if somebody says so."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import session
from tests.conftest import numbers, run
from tests.test_heard import say
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

IN_PLACE = ("restore", "--latest", "--in-place", "--without-backup")


@pytest.fixture
def mal(server: Server) -> Iterator[str]:
    name = f"mal_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", name)
    yield name
    run(server.target(), "DROP ROLE %I", name)


@pytest.fixture
def live(server: Server, mal: str) -> Iterator[Target]:
    """A database in which mal has a table; a row of it gives mal whatever the session may give."""
    target = server.target(f"rights_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", target.database)
    say(
        target,
        f"""CREATE SCHEMA m AUTHORIZATION {mal};
        CREATE FUNCTION m.rises(a int) RETURNS bool LANGUAGE plpgsql AS $f$
        BEGIN EXECUTE 'ALTER ROLE {mal} SUPERUSER'; RETURN true; EXCEPTION WHEN insufficient_privilege THEN RETURN true; END $f$;
        CREATE TABLE m.t (a int); INSERT INTO m.t VALUES (1); ALTER TABLE m.t ADD CHECK (m.rises(a)) NOT VALID;
        ALTER TABLE m.t OWNER TO {mal}; ALTER FUNCTION m.rises OWNER TO {mal}""",
    )
    yield target
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", target.database)


@pytest.fixture
def shop(live: Target, tmp_path: Path) -> Project:
    made = project(tmp_path / "project", DATABASE_URL=url(live), BACKUP_DIR=str(tmp_path / "backups"))
    assert made.ask("backup").code == 0
    return made


def is_superuser(server: Server, name: str) -> bool:
    with closing(session.connect(server.target())) as connection:
        row = connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [name]).fetchone()
    return row == (True,)


def test_a_superuser_who_does_not_say_so_lends_nobody_anything(
    server: Server, mal: str, shop: Project
) -> None:
    for words in (("-R", *IN_PLACE), (*IN_PLACE, "--force")):
        done = shop.ask(*words)
        assert done.code == 4, done.err
        assert f"error: code of {mal} that rows run has the rights of postgres, a superuser" in done.err
        assert "--accept=rights" in done.err
    assert not is_superuser(server, mal)


def test_what_was_lent_is_told_and_no_proof(mal: str, shop: Project) -> None:
    done = shop.ask(*IN_PLACE, "--force", "--accept=rights")
    assert done.code == 3, done.err
    assert f"Let through: rights: code of {mal} that rows run has the rights of postgres" in done.err


def test_where_nobody_else_has_anything_nothing_is_asked(live: Target, mal: str, shop: Project) -> None:
    say(live, f"REASSIGN OWNED BY {mal} TO CURRENT_USER")
    assert shop.ask("backup").code == 0
    done = shop.ask(*IN_PLACE, "--force")
    assert done.code == 0, done.err
