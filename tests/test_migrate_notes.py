"""Where the migrations are noted: the table that the program uses is looked at, or it is said that it can't be told."""

from __future__ import annotations

import json
import shlex
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.app import node_pg_migrate
from polyladder_ops.errors import OpsError
from tests.test_migrate import FILES, ONE, RUNNER, TWO, app, copy, database_, owner, real  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from tests.test_migrate import App

TABLE = "(id serial PRIMARY KEY, name varchar(255) NOT NULL, run_on timestamp NOT NULL)"


def script(app: App, flags: str) -> None:  # noqa: F811
    described = json.loads((app.package / "package.json").read_text())
    for way in ("up", "down"):
        described["scripts"][f"migrate:{way}"] = f"node-pg-migrate {way} -m migrations {flags}"
    (app.package / "package.json").write_text(json.dumps(described))


def noted_in(app: App, schema: str, *names: str) -> None:  # noqa: F811
    """Make a table of notes in a schema, with these in it."""
    app.tell(f"CREATE SCHEMA IF NOT EXISTS {schema} AUTHORIZATION {app.owner}")
    app.tell(f"CREATE TABLE {schema}.pgmigrations {TABLE}")
    app.tell(f"ALTER TABLE {schema}.pgmigrations OWNER TO {app.owner}")
    for name in names:
        app.tell(f"INSERT INTO {schema}.pgmigrations (name, run_on) VALUES ('{name}', '2026-01-05')")


# The table that is used -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags", ["-s notes -s public", "--migrations-schema=notes", "--migrationsSchema notes", "-f pg.json"]
)
def test_the_schema_that_the_script_says_is_where_the_notes_are_looked_at(flags: str, real: App) -> None:  # noqa: F811
    (real.package / "pg.json").write_text('{"db": {"migrations-schema": "notes"}}')
    script(real, flags)
    noted_in(real, "public", ONE, TWO)  # an old one, which nobody uses
    noted_in(real, "notes")
    behind = real.migrate("migrate.status", "--json")
    assert behind.code == 3, behind
    assert json.loads(behind.out)["pending"] == [ONE, TWO]
    assert "note: public.pgmigrations is there, too; the checkout notes in notes.pgmigrations" in behind.err
    found = real.migrate("migrate", "--force")
    assert found.code == 0, found
    assert [name for (name,) in real.ask("SELECT name FROM notes.pgmigrations ORDER BY id")] == [ONE, TWO]
    assert real.migrate("migrate.status").code == 0
    assert real.migrate("migrate.down", "--force").code == 0
    assert real.ask("SELECT name FROM notes.pgmigrations") == [(ONE,)]


def test_a_table_in_another_schema_is_no_green(app: App) -> None:  # noqa: F811
    """The program would not see it, and run all from the first one on."""
    script(app, "")
    command = shlex.join([sys.executable, "-m", "polyladder_ops.sandbox.migrator", "node-pg-migrate"])
    noted_in(app, "notes", ONE, TWO)
    found = app.migrate("migrate.status", POLYLADDER_MIGRATE_COMMAND=command)
    assert found.code == 3, found
    assert "there is no table public.pgmigrations, but one in notes" in found.err
    asked = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND=command)
    assert (asked.code, set(app.tables)) == (4, set()), asked
    assert "every migration would run, from the first one on" in asked.err


def test_what_names_no_schema_is_not_believed_where_two_tables_may_be_meant(app: App) -> None:  # noqa: F811
    noted_in(app, "public", ONE, TWO)
    assert app.migrate("migrate.status").code == 0
    noted_in(app, "notes", ONE)
    for words in (("migrate.status",), ("migrate", "--force"), ("migrate.down", "--force")):
        found = app.migrate(*words)
        assert found.code == 1, found
        assert "where the migrations are noted can't be told" in found.err
        assert "pgmigrations in public, notes" in found.err
    told = app.migrate("migrate.status", POLYLADDER_MIGRATE_COMMAND=f"{RUNNER} --migrations-schema=public")
    assert told.code == 0, told


@pytest.mark.parametrize(
    ("command", "settings", "found"),
    [
        ("node-pg-migrate up -m src/migrations -j ts", {}, ("src/migrations", "public", True)),
        ("npx node-pg-migrate -s app public", {}, ("", "app", True)),
        ("node-pg-migrate -s app --migrations-schema public", {}, ("", "public", True)),
        ("node-pg-migrate -f pg.json", {"schema": ["app", "public"]}, ("", "app", True)),
        ("node-pg-migrate -s app -f pg.json", {"schema": "other"}, ("", "other", True)),
        ("node-pg-migrate -f pg.json", {"db": {"migrations-dir": "m"}}, ("m", "public", True)),
        ("node-pg-migrate -s $SCHEMA", {}, ("", "public", False)),
        ("node dist/migrate.js up", {}, ("", "public", False)),
        ("node dist/migrate.js up --migrations-schema=app", {}, ("", "app", True)),
        ("node-pg-migrate 'open", {}, ("", "public", True)),
    ],
)
def test_what_node_pg_migrate_is_told_is_read_as_it_reads_it(
    command: str, settings: dict[str, object], found: tuple[str, str, bool], tmp_path: Path
) -> None:
    (tmp_path / "pg.json").write_text(json.dumps(settings))
    assert node_pg_migrate.options(command, tmp_path, {}) == node_pg_migrate.Options(*found)


def test_what_the_module_config_may_say_is_not_known(tmp_path: Path) -> None:
    (tmp_path / "config").mkdir()
    assert not node_pg_migrate.options(
        "node-pg-migrate up", tmp_path, {"dependencies": {"config": "3"}}
    ).is_sure
    assert node_pg_migrate.options("node-pg-migrate up", tmp_path, {"dependencies": {"pg": "8"}}).is_sure


@pytest.mark.parametrize("flags", ["-d PROD_URL", "-t notes", "--migrationsTable=notes", "-f pg.json"])
def test_a_script_that_takes_its_database_elsewhere_is_refused(flags: str, tmp_path: Path) -> None:
    """Or notes elsewhere what it did: what is looked at would be another table, or none."""
    (tmp_path / "pg.json").write_text('{"database-url-var": "postgres://u:sesame-pg@h/db"}')
    with pytest.raises(OpsError, match="does not use DATABASE_URL") as caught:
        node_pg_migrate.options(f"node-pg-migrate up {flags}", tmp_path, {})
    assert "sesame-pg" not in caught.value.detail


# A database with tables and without notes -----------------------------------------------------------------------------


@pytest.mark.parametrize("has_table", [True, False])
def test_a_database_with_tables_that_notes_nothing_is_asked_for_before_all_runs(
    has_table: bool,
    app: App,  # noqa: F811
) -> None:
    """It is another one, or came back from a dump without notes: the first migration made what is there."""
    app.tell("CREATE TABLE public.users ()")
    if has_table:
        noted_in(app, "public")
    lack = "public.pgmigrations has no row" if has_table else "there is no table public.pgmigrations"
    behind = app.migrate("migrate.status")
    assert behind.code == 3, behind
    assert f"It has 1 table, and {lack}: every migration would run" in behind.err
    assert "hint: Look whether DATABASE_URL names the app's database" in behind.err
    dry = app.migrate("-R", "migrate")
    assert (dry.code, "would ask first, or need --force:" in dry.out) == (0, True), dry
    asked = app.migrate("migrate")
    assert (asked.code, "one" in app.tables) == (4, False), asked
    assert f"It has 1 table, and {lack}" in asked.err
    meant = app.migrate("migrate", "--force")
    assert (meant.code, app.noted) == (0, [ONE, TWO]), meant


def test_a_copy_with_tables_that_notes_nothing_is_asked_for_as_well(app: App, copy: Target) -> None:  # noqa: F811
    from tests.conftest import run

    run(copy, "CREATE TABLE public.%I ()", "users")
    asked = app.migrate("migrate", f"--database={copy.database}")
    assert (asked.code, "every migration would run" in asked.err) == (4, True), asked
