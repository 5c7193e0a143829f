"""Migrations amid what is odd: databases that are no copy, names that are no words, commands beside the package, other sessions."""

from __future__ import annotations

import json
import os
import shlex
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.app import checkout, migrations
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import definitions_seen, migration_login, session, silence
from polyladder_ops.postgres.conninfo import Target
from tests.conftest import numbers, run
from tests.test_migrate import ONE, TWO, app, copy, database_, owner  # noqa: F401 - fixtures
from tests.waiting import until

if TYPE_CHECKING:
    from polyladder_ops.sandbox.server import Server
    from tests.test_migrate import App

# Databases that are no copy -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["template1", "postgres"])
def test_the_servers_own_database_is_no_copy(name: str, app: App) -> None:  # noqa: F811
    found = app.migrate("migrate", f"--database={name}")
    assert found.code == 4, found
    assert f"error: {name} is the server's own" in found.err
    assert migrations.look(app.target.with_database(name)).noted is None


def test_any_template_is_no_copy(app: App, copy: Target, server: Server) -> None:  # noqa: F811
    run(server.target(), "ALTER DATABASE %I IS_TEMPLATE true", copy.database)
    try:
        found = app.migrate("migrate", f"--database={copy.database}")
        assert found.code == 4, found
    finally:
        run(server.target(), "ALTER DATABASE %I IS_TEMPLATE false", copy.database)
    assert migrations.look(copy).noted is None


def test_a_database_that_notes_nothing_is_no_copy_of_one_that_does(app: App, copy: Target) -> None:  # noqa: F811
    assert app.migrate("migrate").code == 0
    found = app.migrate("migrate", f"--database={copy.database}")
    assert found.code == 4, found
    assert (
        f"{copy.database} has no table pgmigrations, so it is no copy of {app.target.database}" in found.err
    )
    assert migrations.look(copy).noted is None


# What other sessions do, and what is no failure -----------------------------------------------------------------------


def test_what_another_session_stores_meanwhile_is_not_the_migrations(app: App) -> None:  # noqa: F811
    before = migrations.look(app.target)
    app.tell("SELECT lo_create(0)")
    after = migrations.look(app.target)
    assert after.strangers(before, app.owner) == ()


def test_what_a_role_makes_meanwhile_that_the_owner_can_not_act_as_is_told_and_not_held_against_it(
    app: App,  # noqa: F811
) -> None:
    app.put("1700000000003_slow", "SELECT pg_sleep(3);")
    with app.where.start("migrate") as process:
        sleeps = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3)%' AND pid <> pg_backend_pid()"
        until(lambda: app.ask(sleeps), "it sleeps")
        app.tell(
            "CREATE TABLE public.of_somebody_else (a int); INSERT INTO public.of_somebody_else VALUES (1), (1)"
        )
        with pytest.raises(Exception, match="could not create unique index"):
            app.tell("CREATE UNIQUE INDEX CONCURRENTLY half ON public.of_somebody_else (a)")
        out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    assert "note: made by others meanwhile: table public.of_somebody_else (" in err


def test_an_index_that_waits_for_its_partitions_is_no_failure(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute(
            "CREATE TABLE public.p (a int) PARTITION BY LIST (a);"
            " CREATE TABLE public.p1 PARTITION OF public.p FOR VALUES IN (1); CREATE INDEX i ON ONLY public.p (a)"
        )
        assert definitions_seen.look(connection).invalid == frozenset()


def test_a_down_part_without_a_statement_is_no_way_back(app: App) -> None:  # noqa: F811
    """As node-pg-migrate's own template ends: it would say that it took back what is still there."""
    app.put(
        "1700000000003_three",
        "-- Up Migration\nCREATE TABLE public.three ();\n-- Down Migration\n\n-- nothing\n",
    )
    assert app.migrate("migrate").code == 0
    found = app.migrate("migrate.down", "--force")
    assert (found.code, "has no way back" in found.err) == (4, True), found
    assert (app.noted[-1], "three" in app.tables) == ("1700000000003_three", True)


# A checkout with odd files --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scripts", [None, [], "x"])
def test_a_package_without_scripts_is_read(scripts: object, app: App) -> None:  # noqa: F811
    described = json.loads((app.package / "package.json").read_text())
    (app.package / "package.json").write_text(json.dumps({**described, "scripts": scripts}))
    assert len(checkout.find(app.package.parents[1], f"{shlex.quote(sys.executable)} -c pass").files) == 2


@pytest.mark.parametrize("pattern", [b"/opt/x/*", b"a/***", b"caf\xe9/*"])
def test_a_pattern_of_the_workspace_that_can_not_be_read_is_passed_over(pattern: bytes, app: App) -> None:  # noqa: F811
    root = app.package.parents[1]
    (root / "pnpm-workspace.yaml").write_bytes(b"packages:\n  - '" + pattern + b"'\n")
    assert checkout.find(root, f"{shlex.quote(sys.executable)} -c pass").package == app.package


@pytest.mark.skipif(sys.platform == "win32", reason="no pipes with names")
@pytest.mark.parametrize("name", ["package.json", "packages/db/package.json", "pnpm-workspace.yaml"])
def test_a_pipe_in_place_of_a_file_of_the_checkout_is_not_waited_for(name: str, app: App) -> None:  # noqa: F811
    if sys.platform != "win32":
        path = app.package.parents[1] / name
        path.unlink()
        os.mkfifo(path)
        found = app.migrate("migrate.status")
        assert (found.code, f"could not read {path}" in found.err) == (1, True), found
        assert "it is a pipe" in found.err


def test_a_file_of_the_checkout_that_nobody_wrote_by_hand_is_not_read(app: App) -> None:  # noqa: F811
    os.truncate(app.package / "package.json", 1 << 40)
    found = app.migrate("migrate.status")
    assert (found.code, "it has 1,099,511,627,776 bytes; at most" in found.err) == (1, True), found


@pytest.mark.skipif(sys.platform == "win32", reason="no scripts of the shell")
def test_a_command_beside_the_package_is_found_where_it_is_run(app: App) -> None:  # noqa: F811
    script = app.package / "migrate.sh"
    script.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m polyladder_ops.sandbox.migrator "$1"\n'
    )
    script.chmod(0o755)
    found = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND="./migrate.sh")
    assert (found.code, app.noted) == (0, [ONE, TWO]), found


@pytest.mark.skipif(sys.platform == "win32", reason="no scripts of the shell")
def test_a_command_in_our_folder_is_not_taken_for_one_of_the_packages(app: App) -> None:  # noqa: F811
    script = app.where.root / "here.sh"
    script.write_text("#!/bin/sh\n")
    script.chmod(0o755)
    found = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND="./here.sh")
    assert (found.code, "There is no program './here.sh'" in found.err) == (2, True), found


# Roles and locks ------------------------------------------------------------------------------------------------------


def test_a_role_with_an_odd_name_is_quoted_in_what_is_to_be_run(app: App, server: Server) -> None:  # noqa: F811
    odd, plain = f"My Owner {next(numbers)}", f"plain_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", odd)
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'sesame'", plain)
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", app.target.database, odd)
    try:
        other = Target.of(**{**app.target.parameters, "user": plain, "password": "sesame"})
        with (
            closing(session.connect(other.with_database("postgres"))) as connection,
            pytest.raises(OpsError) as caught,
            migration_login.opened(connection, other),
        ):
            pass
        assert caught.value.hint.endswith(f'GRANT "{odd}" TO {plain}')
    finally:
        run(server.target(), "ALTER DATABASE %I OWNER TO %I", app.target.database, app.owner)
        run(server.target(), "DROP ROLE %I", odd)
        run(server.target(), "DROP ROLE %I", plain)


@pytest.mark.parametrize(("given", "waits"), [(None, "60s"), (5.0, "5000ms"), (600.0, "60000ms")])
def test_a_lock_is_waited_for_a_minute_or_as_long_as_a_person_said(
    given: float | None,
    waits: str,
    app: App,  # noqa: F811
) -> None:
    with (
        closing(session.connect(app.target.with_database("postgres"))) as server,
        migration_login.opened(server, app.target) as login,
        silence.allow(given),
    ):
        again = migration_login._login(app.target, app.owner)
    assert "-c lock_timeout=60s" in login.options
    assert f"-c lock_timeout={waits}" in again.options


# What a program says --------------------------------------------------------------------------------------------------

AS_NODE = """
import sys
print("error: {reason}", "    at Parser.parseErrorMessage (parser.js:368:69)", sep="\\n")
print(*[f"  severity: 'ERROR',", *[f"  field{{n}}: undefined," for n in range(30)], *[f"  more{{n}}: 'x'," for n in range(20)]], sep="\\n")
sys.exit(1)
"""


@pytest.mark.parametrize(
    ("reason", "cure"),
    [
        ("division by zero", "Correct the file"),
        ("permission denied to create extension", "A superuser has to run that CREATE EXTENSION"),
    ],
)
def test_the_reason_of_a_failure_is_told_though_much_is_said_below_it(
    reason: str,
    cure: str,
    app: App,  # noqa: F811
) -> None:
    command = shlex.join([sys.executable, "-c", AS_NODE.format(reason=reason)])
    found = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND=command)
    assert found.code == 1, found
    _, _, told = found.err.partition("ended with 1 and said: ")
    assert f"error: {reason}" in told
    assert "undefined" not in told
    assert f"hint: {cure}" in told
