"""Nothing is dropped in silence: what a backup lacks and what a restored database does not get is said, and in the JSON."""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import databases, properties, session, switch
from tests.conftest import numbers, run
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

READ_ONLY = "default_transaction_read_only"
ROLE = "heard_reader"


@pytest.fixture
def live(server: Server) -> Iterator[Target]:
    """A database with one row, and a role that may write to it; what becomes of it is gone after the test."""
    target = server.target(f"heard_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", target.database)
    run(server.target(), f"CREATE ROLE {ROLE}")
    say(
        target,
        f"CREATE TABLE public.word (id int); INSERT INTO public.word VALUES (1); GRANT INSERT ON public.word TO {ROLE}",
    )
    yield target
    with closing(session.connect(server.target())) as connection:
        connection.execute(f"ALTER DATABASE {target.database} IS_TEMPLATE false".encode())
        names = [name for name in switch.names(connection) if name.startswith(target.database)]
    for name in names:
        databases.drop(server.target(), name)
    run(server.target(), f"DROP ROLE {ROLE}")


@pytest.fixture
def shop(live: Target, tmp_path: Path) -> Project:
    return project(tmp_path / "project", DATABASE_URL=url(live), BACKUP_DIR=str(tmp_path / "backups"))


def say(target: Target, *statements: str) -> None:
    with closing(session.connect(target)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def warnings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("WARNING")]


def test_rows_in_a_schema_of_the_system_are_said_to_be_missing_after_the_backup(
    live: Target, shop: Project
) -> None:
    say(live, "CREATE TABLE information_schema.kept AS SELECT 1 AS a UNION ALL SELECT 2")
    lost = "the table information_schema.kept with its rows, since pg_dump leaves that schema out"
    done = shop.ask("backup", "--json")
    assert (done.code, warnings(done.err)) == (0, [f"WARNING: not in the backup: {lost}"])
    assert json.loads(done.out)["lost"] == [lost]
    assert lost in shop.ask("backup.show", "--backup=latest").out


def test_what_every_dump_lacks_is_shown_and_not_said_each_time(shop: Project) -> None:
    done = shop.ask("backup")
    assert (done.code, warnings(done.err)) == (0, [])
    assert "passwords of roles" in shop.ask("backup.show", "--backup=latest").out


def test_of_much_that_is_lost_a_part_is_said_with_where_the_rest_is_shown(
    live: Target, shop: Project
) -> None:
    say(live, *(f'CREATE VIEW information_schema."v{n}\x1b" AS SELECT 1 AS a' for n in range(10, 40)))
    done = shop.ask("backup")
    said = warnings(done.err)
    assert len(said) == 21
    assert (
        said[0]
        == r'WARNING: not in the backup: the view information_schema."v10\x1b", since pg_dump leaves that schema out'
    )
    assert said[-1].startswith("WARNING: and 10 more: `invoke backup.show --backup=polyladder_")
    assert "v39" in shop.ask(*said[-1].split("`")[1].split()[1:]).out


def test_a_role_that_was_read_only_in_the_database_can_not_write_after_the_restore(
    live: Target, shop: Project
) -> None:
    run(live, f"ALTER ROLE {ROLE} IN DATABASE %I SET {READ_ONLY} = on", live.database)
    assert shop.ask("backup").code == 0
    done = shop.ask("restore", "--latest", "--force")
    assert (done.code, "not given" in done.err) == (0, False), done.err
    with closing(session.connect(live)) as connection:
        assert (ROLE, READ_ONLY, "on") in properties.read(connection).settings


def test_a_read_only_default_of_the_database_and_its_mark_as_a_template_are_said_not_to_be_given(
    live: Target, shop: Project
) -> None:
    run(live, f"ALTER DATABASE %I SET {READ_ONLY} = on", live.database)
    run(live, "ALTER DATABASE %I IS_TEMPLATE true", live.database)
    assert warnings(shop.ask("backup").err) == [
        "WARNING: not in the backup: the mark of the database as a template"
    ]
    run(live, "ALTER DATABASE %I IS_TEMPLATE false", live.database)  # such a one can't be set aside
    done = shop.ask("restore", "--latest", "--force", "--json")
    assert done.code == 0, done.err
    not_given = [
        f"the setting {READ_ONLY}: it is never carried over to a restored database",
        "the mark as a template: it would let everybody copy the database",
    ]
    assert json.loads(done.out)["not_given"] == not_given
    for sentence in not_given:
        assert f"not given to {live.database}: {sentence}" in done.err


def test_a_restore_in_place_says_what_is_not_given_too(live: Target, shop: Project) -> None:
    run(live, f"ALTER DATABASE %I SET {READ_ONLY} = on", live.database)
    assert shop.ask("backup").code == 0
    done = shop.ask("restore", "--latest", "--in-place", "--without-backup", "--force")
    assert done.code == 0, done.err
    assert f"not given to {live.database}: the setting {READ_ONLY}: it is never carried over" in done.err


def test_a_read_only_role_that_is_not_so_any_more_is_a_difference(live: Target) -> None:
    with closing(session.connect(live)) as connection:
        found = properties.read(connection)
    wanted = replace(found, settings=((ROLE, READ_ONLY, "on"),))
    assert properties.compare(wanted, found) == [f"the setting {READ_ONLY} of role {ROLE} is missing"]
    assert properties.compare(found, wanted) == [f"the setting {READ_ONLY} of role {ROLE} is too much"]
