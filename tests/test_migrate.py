"""Migrations as a person runs them: by pnpm and node-pg-migrate as the app has them, and by the sandbox's runner."""

from __future__ import annotations

import json
import shlex
import signal
import sys
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.app import checkout, migrations
from polyladder_ops.app.migration_files import File
from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.postgres import databases, definitions_seen, migration_login, session
from polyladder_ops.postgres.conninfo import Target, parse
from polyladder_ops.postgres.definitions_seen import Seen
from polyladder_ops.postgres.newest import Noted
from polyladder_ops.sandbox import migrator
from tests import majors, node
from tests.conftest import numbers, run
from tests.test_tasks import Ended, Project, project, url
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.sandbox.server import Server

RUNNER = shlex.join([sys.executable, "-m", "polyladder_ops.sandbox.migrator"])
ONE = "1700000000001_one"
TWO = "1700000000002_two"
FILES = {
    ONE: "-- Up Migration\nCREATE TABLE public.one (a int);\n-- Down Migration\nDROP TABLE public.one;\n",
    TWO: "-- Up Migration\nCREATE TABLE public.two (a int);\n-- Down Migration\nDROP TABLE public.two;\n",
}


@dataclass(frozen=True)
class App:
    """A live database whose owner is no superuser, and the checkout of the app that lives on it."""

    target: Target
    owner: str
    package: Path
    where: Project

    def put(self, name: str, text: str, suffix: str = "sql") -> None:
        (self.package / "migrations").mkdir(exist_ok=True)
        (self.package / "migrations" / f"{name}.{suffix}").write_text(text, encoding="utf-8")

    def ask(self, question: str) -> list[Any]:
        with closing(session.connect(self.target)) as connection:
            return connection.execute(question.encode()).fetchall()

    def tell(self, statement: str) -> None:
        with closing(session.connect(self.target)) as connection:
            connection.execute(statement.encode())

    @property
    def noted(self) -> list[str]:
        return list(migrations.look(self.target).names)

    @property
    def tables(self) -> dict[str, str]:
        return dict(
            self.ask(
                "SELECT tablename::text, tableowner::text FROM pg_tables WHERE schemaname = 'public' ORDER BY 1"
            )
        )

    @property
    def logins(self) -> list[Any]:
        return self.ask("SELECT rolname FROM pg_roles WHERE rolname ~ '^polyladder_migrate_'")

    def migrate(self, *argv: str, **more: str) -> Ended:
        found = self.where.run(*argv, **more)
        assert self.target.password not in found.out + found.err
        assert self.logins == []
        return found


@pytest.fixture
def owner(server: Server) -> Iterator[str]:
    name = f"owner_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'sesame-owner'", name)
    yield name
    run(server.target(), "DROP OWNED BY %I", name)
    run(server.target(), "DROP ROLE %I", name)


@pytest.fixture
def database_(server: Server, owner: str, database: Target) -> Iterator[Target]:
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", database.database, owner)
    yield database
    run(server.target(), "DROP DATABASE IF EXISTS %I WITH (FORCE)", database.database)


@pytest.fixture
def app(database_: Target, owner: str, tmp_path: Path) -> App:
    """Run by the sandbox's runner."""
    root = tmp_path / "app"
    package = node.workspace(root)
    where = project(
        tmp_path / "project",
        DATABASE_URL=url(database_),
        POLYLADDER_APP_DIR=str(root),
        POLYLADDER_MIGRATE_COMMAND=RUNNER,
    )
    made = App(database_, owner, package, where)
    for name, text in FILES.items():
        made.put(name, text)
    return made


@pytest.fixture
def real(app: App, tmp_path: Path, need: Callable[[object, str], None]) -> App:
    """Run by pnpm."""
    need(not node.lacking(), node.lacking())
    package = app.package
    (package / "node_modules").symlink_to(node.root() / "workspace" / "packages" / "db" / "node_modules")
    variables = {k: v for k, v in app.where.variables.items() if k != "POLYLADDER_MIGRATE_COMMAND"}
    return App(app.target, app.owner, package, Project(app.where.root, {**variables, "PATH": node.path()}))


@pytest.fixture(params=["runner", "pnpm"])
def either(request: pytest.FixtureRequest, app: App) -> App:
    found: App = request.getfixturevalue("real") if request.param == "pnpm" else app
    return found


# What stands against what ---------------------------------------------------------------------------------------------


def files(*names: str) -> list[File]:
    return [File(Path(name if "." in name else f"{name}.sql")) for name in names]


@pytest.mark.parametrize(
    ("there", "noted", "found"),
    [
        ("1_a 2_b", "", {"pending": ["1_a", "2_b"]}),
        ("1_a 2_b", "1_a", {"pending": ["2_b"]}),
        ("1_a 2_b", "1_a 2_b", {}),
        ("1_a", "1_a 2_b", {"gone": ["2_b"]}),
        ("1_a 3_c", "1_a 2_b", {"pending": ["3_c"], "gone": ["2_b"]}),
        ("1_a 2_b 3_c", "1_a 3_c", {"pending": ["2_b"], "misplaced": ["2_b"]}),
        ("1_a 1_a.ts", "1_a", {"doubled": ["1_a"]}),
        ("1_a", "1_a 1_a", {"doubled": ["1_a"]}),
    ],
)
def test_files_and_notes_are_compared_by_their_names(
    there: str, noted: str, found: dict[str, list[str]]
) -> None:
    level = migrations.compare(files(*there.split()), noted.split())
    named = {"pending": [f.name for f in level.pending], "gone": list(level.gone),
             "misplaced": list(level.misplaced), "doubled": list(level.doubled)}  # fmt: skip
    assert {what: names for what, names in named.items() if names} == found
    assert level.is_level is not bool(found)
    assert level.head == (noted.rsplit(maxsplit=1)[-1] if noted else "")


def seen(*names: str, owned: Any = (), invalid: Any = (), mark: str = "") -> Seen:
    return Seen(tuple(map(Noted, names)), frozenset(owned), frozenset(invalid), mark)


def test_a_program_that_says_well_and_moved_nothing_is_not_believed() -> None:
    with pytest.raises(Mismatch, match="did not move as it should"):
        migrations.judge(seen("1_a"), seen("1_a"), ["1_a", "2_b"], migrations.Ended(0), "app")
    with pytest.raises(Mismatch, match="did not move as it should"):
        migrations.judge(seen("1_a"), seen("1_a", "2_b", "2_b"), ["1_a", "2_b"], migrations.Ended(0), "app")
    migrations.judge(seen("1_a"), seen("1_a", "2_b"), ["1_a", "2_b"], migrations.Ended(0), "app")


def test_a_program_that_fails_has_failed_even_if_all_moved() -> None:
    with pytest.raises(OpsError, match="the migration failed") as caught:
        migrations.judge(
            seen("1_a"), seen("1_a", "2_b"), ["1_a", "2_b"], migrations.Ended(1, ("late",)), "app"
        )
    assert caught.value.exit_code == 1


# Up -------------------------------------------------------------------------------------------------------------------


def test_what_is_pending_runs_as_the_owner_and_never_as_a_superuser(either: App) -> None:
    """Our own login is a superuser, and the database's owner is none."""
    either.put(
        "1700000000003_who",
        "-- Up Migration\nCREATE TABLE public.who AS SELECT current_user::text AS u, session_user::text AS s,"
        " (SELECT rolsuper FROM pg_roles WHERE rolname = session_user) AS super, current_setting('statement_timeout') AS t;",
    )
    either.tell(
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET statement_timeout = 1', current_database()); END $$"
    )
    found = either.migrate("migrate")
    assert found.code == 0, found
    assert either.noted == [ONE, TWO, "1700000000003_who"]
    assert set(either.tables.values()) == {either.owner}
    ((user, login, is_super, timeout),) = either.ask("SELECT * FROM public.who")
    assert (user, is_super, timeout) == (either.owner, False, "0")
    assert login.startswith("polyladder_migrate_")
    again = either.migrate("migrate")
    assert (again.code, "has all 3 migrations" in again.out) == (0, True)


def test_a_migration_can_not_get_our_rights_back(either: App) -> None:
    either.put(
        "1700000000003_rights", "-- Up Migration\nSET ROLE NONE;\nCREATE ROLE taken_by_migration SUPERUSER;"
    )
    found = either.migrate("migrate")
    assert found.code == 1, found
    assert "permission denied" in found.err
    assert "acts as another role" in found.err
    assert either.ask("SELECT 1 FROM pg_roles WHERE rolname = 'taken_by_migration'") == []
    assert either.noted == []


def test_an_owner_who_logs_in_himself_needs_no_other_login(app: App) -> None:
    mine = Target.of(**{**app.target.parameters, "user": app.owner, "password": "sesame-owner"})
    app.tell(f"GRANT CREATE ON SCHEMA public TO {app.owner}")
    app.put("1700000000003_who", "CREATE TABLE public.who AS SELECT session_user::text AS s;")
    found = app.migrate("migrate", DATABASE_URL=url(mine))
    assert found.code == 0, found
    assert app.ask("SELECT s FROM public.who") == [(app.owner,)]


def test_a_role_that_is_no_member_of_the_owner_is_told_before_anything_runs(app: App, server: Server) -> None:
    name = f"other_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'sesame'", name)
    try:
        other = Target.of(**{**app.target.parameters, "user": name, "password": "sesame"})
        found = app.migrate("migrate", DATABASE_URL=url(other))
        assert found.code == 1, found
        assert f"GRANT {app.owner} TO {name}" in found.err
        assert app.tables == {}
    finally:
        run(server.target(), "DROP ROLE %I", name)


def test_a_failure_half_way_leaves_nothing_and_says_so(either: App) -> None:
    either.put("1700000000003_bad", "-- Up Migration\nCREATE TABLE public.three ();\nSELECT no_such_column;")
    found = either.migrate("migrate")
    assert found.code == 1, found
    assert "no_such_column" in found.err
    assert "Nothing was changed, but that the table pgmigrations is there now." in found.err
    assert (either.noted, set(either.tables) - {"pgmigrations"}) == ([], set())


def test_what_a_commit_left_behind_is_told(real: App) -> None:
    """All of a run is one transaction, unless a file ends it."""
    real.put(
        "1700000000003_bad", "-- Up Migration\nCREATE TABLE public.three ();\nCOMMIT;\nSELECT no_such_column;"
    )
    found = real.migrate("migrate")
    assert found.code == 1, found
    assert "line 3: ends or begins a transaction" in found.err
    assert "the migration failed; the database moved by +2" in found.err
    assert "three" in real.tables


def test_a_later_failure_says_that_nothing_was_changed(app: App) -> None:
    assert app.migrate("migrate").code == 0
    app.put("1700000000003_bad", "CREATE TABLE public.three (); SELECT no_such_column;")
    found = app.migrate("migrate")
    assert found.code == 1, found
    assert "detail: Nothing was changed. The program ended with 1" in found.err


def test_a_change_that_nobody_noted_is_told(real: App) -> None:
    for name in FILES:
        (real.package / "migrations" / f"{name}.sql").unlink()
    real.put(
        "1700000000003_bad", "-- Up Migration\nCREATE TABLE public.three ();\nCOMMIT;\nSELECT no_such_column;"
    )
    found = real.migrate("migrate")
    assert found.code == 1, found
    assert "CHANGED AND IS NOT NOTED" in found.err


def test_what_rows_a_commit_left_behind_is_not_called_nothing(real: App) -> None:
    """Definitions are compared, rows are not: what a file committed before it failed may be anywhere in them."""
    assert real.migrate("migrate").code == 0
    real.put(
        "1700000000003_bad",
        "-- Up Migration\nINSERT INTO public.one VALUES (7);\nCOMMIT;\nSELECT no_such_column;",
    )
    found = real.migrate("migrate", "--force")
    assert found.code == 1, found
    assert "Nothing was changed" not in found.err
    assert (
        "No definition was changed, BUT ROWS MAY BE, and are not compared: 1700000000003_bad.sql" in found.err
    )


def test_what_another_role_owns_afterwards_is_no_success(app: App, server: Server) -> None:
    other = f"other_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", other)
    run(server.target(), "GRANT %I TO %I", other, app.owner)
    app.tell(f"GRANT CREATE ON SCHEMA public TO {other}")
    try:
        app.put(
            "1700000000003_given", f"CREATE TABLE public.given (); ALTER TABLE public.given OWNER TO {other};"
        )
        found = app.migrate("migrate")
        assert found.code == 3, found
        assert f"table public.given ({other})" in found.err
    finally:
        app.tell(f"DROP OWNED BY {other} CASCADE")
        run(server.target(), "DROP ROLE %I", other)


def test_what_a_migration_made_as_its_login_is_the_owners_afterwards(app: App) -> None:
    app.put(
        "1700000000003_none",
        "SET ROLE NONE; CREATE TABLE public.three AS SELECT current_user::text AS u; RESET ROLE;",
    )
    found = app.migrate("migrate")
    assert found.code == 0, found
    ((user,),) = app.ask("SELECT u FROM public.three")
    assert user.startswith("polyladder_migrate_")
    assert app.tables["three"] == app.owner


def test_an_index_that_came_out_invalid_is_no_success() -> None:
    with pytest.raises(Mismatch, match=r"public\.i"):
        migrations.judge(seen(), seen("1_a", invalid=["public.i"]), ["1_a"], migrations.Ended(0), "app")


def test_an_invalid_index_is_seen(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute("CREATE TABLE public.t (a int); INSERT INTO public.t VALUES (1), (1)")
        with pytest.raises(Exception, match="could not create unique index"):
            connection.execute("CREATE UNIQUE INDEX CONCURRENTLY i ON public.t (a)")
        assert definitions_seen.look(connection).invalid == {"public.i"}


def test_a_program_that_notes_itself_and_runs_nothing_is_believed_by_its_notes_only(app: App) -> None:
    found = app.migrate(
        "migrate", POLYLADDER_MIGRATE_COMMAND=shlex.join([sys.executable, "-c", "print('done')"])
    )
    assert found.code == 3, found
    assert "the program ended well, but the database did not move as it should" in found.err
    assert f"Not noted: {ONE}, {TWO}" in found.err


def test_a_head_that_the_checkout_does_not_know_stops_only_what_would_change(app: App) -> None:
    assert app.migrate("migrate").code == 0
    (app.package / "migrations" / f"{TWO}.sql").unlink()
    level = app.migrate("migrate")
    assert level.code == 0, level
    assert f"the checkout does not know {TWO}" in level.err
    app.put("1700000000003_three", "SELECT 1;")
    behind = app.migrate("migrate")
    assert behind.code == 1, behind
    assert f"error: the checkout does not know {TWO}, which the database has" in behind.err
    assert app.noted == [ONE, TWO]


def test_an_order_that_node_pg_migrate_would_refuse_is_told_before(app: App) -> None:
    assert app.migrate("migrate").code == 0
    app.put("1600000000000_zero", "CREATE TABLE public.zero ();")
    found = app.migrate("migrate")
    assert found.code == 1, found
    assert "error: 1600000000000_zero did not run, and one behind it did" in found.err
    assert "zero" not in app.tables


def test_two_files_of_one_name_run_neither(app: App) -> None:
    app.put(ONE, "export const up = () => {};", "js")
    found = app.migrate("migrate")
    assert found.code == 1, found
    assert f"error: a migration's name is there twice: {ONE}" in found.err
    assert app.tables == {}


def test_a_dry_run_says_what_would_run_and_runs_nothing(app: App) -> None:
    found = app.migrate("-R", "migrate")
    assert found.code == 0, found
    assert "would run 2 migrations" in found.out
    assert app.tables == {}


LOSING = {
    "drops": "DROP TABLE public.one CASCADE;",
    "empties": "TRUNCATE public.one;",
    "deletes": "DELETE FROM public.one WHERE a > 0;",
    "deletes in a body": "DO $$ BEGIN DELETE FROM public.one WHERE a > 0; END $$;",
}


@pytest.mark.parametrize("what", LOSING)
def test_what_drops_or_deletes_on_the_live_database_is_asked_for_and_nothing_ran(app: App, what: str) -> None:
    """After a restore, what is pending is what did the damage."""
    assert app.migrate("migrate").code == 0
    app.tell("INSERT INTO public.one VALUES (1)")
    app.put("1700000000003_harmless", "CREATE TABLE public.three ();")
    app.put("1700000000004_losing", f"-- Up Migration\n{LOSING[what]}")
    asked = app.migrate("migrate")
    assert asked.code == 4, asked
    assert f"On the live {app.target.database}" in asked.err
    assert "drop, delete or write over what is there: 1700000000004_losing.sql. After a restore" in asked.err
    assert "harmless" not in asked.err
    assert app.ask("SELECT a FROM public.one") == [(1,)]
    assert (app.noted, "three" in app.tables) == ([ONE, TWO], False)
    meant = app.migrate("migrate", "--force")
    assert meant.code == 0, meant
    assert app.noted[-1] == "1700000000004_losing"


def test_a_dry_run_says_what_would_be_asked_for(app: App) -> None:
    app.put("1700000000003_losing", "DROP TABLE public.one;")
    found = app.migrate("-R", "migrate")
    assert found.code == 0, found
    assert "would ask first, or need --force: On the live" in found.out
    assert "1700000000003_losing.sql" in found.out


def test_the_way_to_a_pending_file_that_drops_is_no_bare_command(app: App) -> None:
    app.put("1700000000003_losing", "DROP TABLE public.one;")
    found = app.migrate("migrate.status")
    assert found.code == 3, found
    assert "hint: Do not run what did the damage again: 1700000000003_losing.sql may drop" in found.err
    assert "After a restore check out what the app ran before the damage." in found.err


def test_who_holds_the_lock_that_it_waits_for_is_said(app: App) -> None:
    app.tell("CREATE TABLE public.busy ()")
    app.tell(f"ALTER TABLE public.busy OWNER TO {app.owner}")
    app.put("1700000000003_wait", "ALTER TABLE public.busy ADD a int;")
    by_name = Target.of(**{**app.target.parameters, "application_name": "somebody"})
    with closing(session.connect(by_name)) as holder, app.where.start("migrate", "--force") as process:
        holder.execute("BEGIN; LOCK TABLE public.busy")
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert next((line for line in lines if "it waits for a lock" in line and "somebody" in line), "")
        holder.execute("ROLLBACK")
        process.communicate(timeout=120)
    assert process.returncode == 0
    assert app.noted == [ONE, TWO, "1700000000003_wait"]


def test_a_hint_means_the_database_that_was_meant(app: App, copy: Target) -> None:
    """Without the flags `invoke migrate` would act on production."""
    found = app.migrate("migrate.status", "--site=staging", f"--database={copy.database}")
    assert found.code == 3, found
    assert f"hint: Run `invoke migrate --database={copy.database} --site=staging`." in found.err


def test_a_secret_that_a_program_prints_is_not_shown_though_the_line_is_cut(app: App) -> None:
    script = (
        "import os; print('x' * 390 + os.environ['DATABASE_URL']); print(os.environ['DATABASE_URL'][-60:])"
    )
    found = app.migrate("migrate", POLYLADDER_MIGRATE_COMMAND=shlex.join([sys.executable, "-c", script]))
    assert found.code == 3, found
    assert "x" * 300 in found.err
    for secret in (app.target.password[:8], "postgres:"):
        assert secret not in found.err.partition("x" * 300)[2]


def test_a_program_sees_no_secret_but_its_own(app: App) -> None:
    script = "import os; print(sorted(n for n in os.environ if n.startswith(('PG', 'AWS', 'FLY', 'DATABASE', 'NODE', 'CI'))))"
    found = app.migrate(
        "migrate",
        POLYLADDER_MIGRATE_COMMAND=shlex.join([sys.executable, "-c", script]),
        FLY_API_TOKEN="fm2_sesame", AWS_SECRET_ACCESS_KEY="sesame-key", PGPASSWORD="sesame-pg", PGHOST="elsewhere",
    )  # fmt: skip
    assert "['CI', 'DATABASE_URL', 'NODE_ENV', 'PGAPPNAME', 'PGOPTIONS']" in found.err


# Node's own ways of failing -------------------------------------------------------------------------------------------


def test_a_workspace_without_the_package_is_named(real: App) -> None:
    described = json.loads((real.package / "package.json").read_text())
    (real.package / "package.json").write_text(json.dumps({**described, "name": "@polyladder/other"}))
    found = real.migrate("migrate")
    assert found.code == 1, found
    assert "pnpm finds no package @polyladder/db" in found.err
    assert "repository beside" in found.err


def test_missing_modules_are_named_with_their_cure(real: App) -> None:
    (real.package / "node_modules").unlink()
    found = real.migrate("migrate")
    assert found.code == 1, found
    assert "it has no node_modules" in found.err
    assert "pnpm install" in found.err


@pytest.mark.parametrize(
    ("programs", "said"), [((), "Node is not installed"), (("node",), "npm install -g pnpm@8.15.0")]
)
def test_without_node_or_pnpm_the_cure_is_said(
    programs: tuple[str, ...], said: str, app: App, tmp_path: Path
) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    for program in programs:
        (folder / program).symlink_to(sys.executable)
    found = app.migrate("migrate", PATH=str(folder), POLYLADDER_MIGRATE_COMMAND="")
    assert found.code == 1, found
    assert said in found.err


def test_a_package_in_a_repository_beside_the_apps_is_found(real: App, tmp_path: Path) -> None:
    """As PolyLadder's: its workspace reaches into the folder of another checkout."""
    beside = tmp_path / "common" / "packages" / "db"
    beside.parent.mkdir(parents=True)
    real.package.rename(beside)
    (tmp_path / "app" / "pnpm-workspace.yaml").write_text("packages:\n  - '../common/packages/*'\n")
    found = real.migrate("migrate")
    assert found.code == 0, found
    assert real.noted == [ONE, TWO]
    assert checkout.find(tmp_path / "app", RUNNER).package == beside


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        ({"POLYLADDER_APP_DIR": ""}, 2, "POLYLADDER_APP_DIR is not set"),
        ({"POLYLADDER_APP_DIR": "/nowhere/app"}, 2, "names no folder"),
        ({"POLYLADDER_MIGRATE_COMMAND": "no-such-program up"}, 2, "no-such-program"),
        ({"POLYLADDER_MIGRATE_COMMAND": "'open"}, 2, "POLYLADDER_MIGRATE_COMMAND is unusable"),
    ],
)
def test_a_wrong_setting_is_named(more: dict[str, str], code: int, said: str, app: App) -> None:
    found = app.migrate("migrate", **more)
    assert (found.code, said in found.err) == (code, True), found


# Down and status ------------------------------------------------------------------------------------------------------


def test_down_asks_and_takes_back_the_last_one(either: App) -> None:
    assert either.migrate("migrate").code == 0
    dry = either.migrate("-R", "migrate.down")
    assert dry.code == 0, dry
    assert f"would ask first, or need --force: This takes {TWO} back on" in dry.out
    assert "would ask" not in either.migrate("-R", "migrate.down", "--force").out
    asked = either.migrate("migrate.down")
    assert (asked.code, either.noted) == (4, [ONE, TWO]), asked
    assert f"{TWO}.sql line 4: drops or empties" in asked.err
    found = either.migrate("migrate.down", "--force")
    assert found.code == 0, found
    assert (either.noted, "two" in either.tables) == ([ONE], False)


def test_what_has_no_way_back_is_refused(app: App) -> None:
    app.put("1700000000003_three", "-- Up Migration\nCREATE TABLE public.three ();")
    assert app.migrate("migrate").code == 0
    found = app.migrate("migrate.down", "--force")
    assert found.code == 4, found
    assert "has no way back" in found.err
    assert "three" in app.tables


def test_status_is_no_until_the_database_is_level(app: App) -> None:
    behind = app.migrate("migrate.status", "--json")
    assert behind.code == 3, behind
    assert json.loads(behind.out)["pending"] == [ONE, TWO]
    assert app.migrate("migrate").code == 0
    level = app.migrate("migrate.status")
    assert level.code == 0, level
    assert [line.split()[:2] for line in level.out.splitlines()[1:]] == [[ONE, "done"], [TWO, "done"]]
    (app.package / "migrations" / f"{TWO}.sql").unlink()
    ahead = app.migrate("migrate.status")
    assert ahead.code == 3, ahead
    assert "1 without a file here" in ahead.err


# A copy beside --------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(app: App, server: Server) -> Iterator[Target]:
    target = app.target.with_database(f"copy_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0 OWNER %I", target.database, app.owner)
    yield target
    run(server.target(), "DROP DATABASE IF EXISTS %I WITH (FORCE)", target.database)


def test_a_copy_is_migrated_and_the_live_database_is_not(either: App, copy: Target) -> None:
    found = either.migrate("migrate", f"--database={copy.database}")
    assert found.code == 0, found
    assert migrations.look(copy).names == (ONE, TWO)
    assert either.tables == {}


def test_files_that_reach_beyond_the_copy_are_shown_and_asked_for(app: App, copy: Target) -> None:
    app.put("1700000000003_beyond", f"COMMENT ON DATABASE {app.target.database} IS 'x';")
    asked = app.migrate("migrate", f"--database={copy.database}")
    assert asked.code == 4, asked
    assert "1700000000003_beyond.sql line 1: names a database" in asked.err
    assert "reach beyond the copy" in asked.err
    assert migrations.look(copy).names == ()


def test_a_copy_is_there_to_try_what_drops_and_is_not_asked_for(app: App, copy: Target) -> None:
    app.put("1700000000003_losing", "DROP TABLE public.one;")
    found = app.migrate("migrate", f"--database={copy.database}")
    assert found.code == 0, found
    assert migrations.look(copy).names == (ONE, TWO, "1700000000003_losing")
    assert app.tables == {}


def test_a_copy_that_somebody_uses_is_none(app: App, copy: Target) -> None:
    by_name = Target.of(**{**copy.parameters, "application_name": "psql"})
    with closing(session.connect(by_name)):
        found = app.migrate("migrate", f"--database={copy.database}")
    assert found.code == 4, found
    assert "somebody uses" in found.err
    assert migrations.look(copy).names == ()


def test_the_live_database_is_not_named_as_a_copy(app: App) -> None:
    found = app.migrate("migrate", f"--database={app.target.database}")
    assert found.code == 4, found
    assert app.tables == {}


def test_a_copy_that_is_not_there_is_named(app: App) -> None:
    found = app.migrate("migrate", "--database=not_there")
    assert found.code == 1, found
    assert "not_there" in found.err


# Ended early ----------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_ctrl_c_reaches_all_of_it_and_leaves_nothing(either: App) -> None:
    either.put("1700000000003_slow", "-- Up Migration\nCREATE TABLE public.three ();\nSELECT pg_sleep(3600);")
    with either.where.start("migrate") as process:
        sleeping = (
            "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
        )
        until(lambda: either.ask(sleeping), "the migration sleeps", seconds=120)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "notes 0 migrations now" in err
    assert either.ask(sleeping) == []
    assert (either.logins, either.noted, "three" in either.tables) == ([], [], False)
    assert either.target.password not in err


def test_the_login_of_a_killed_run_is_dropped_by_the_next_command(app: App) -> None:
    app.put("1700000000003_slow", "SELECT pg_sleep(3600);")
    with app.where.start("migrate") as process:
        until(
            lambda: app.ask("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600);'"),
            "it sleeps",
            seconds=120,
        )
        process.kill()
        process.communicate()
    assert len(app.logins) == 1
    app.tell(
        "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(3600);'"
    )
    app.put("1700000000003_slow", "SELECT 1;")
    until(
        lambda: not app.ask("SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted"),
        "its locks are gone",
    )
    assert app.migrate("migrate").code == 0


def test_a_killed_run_takes_its_program_with_it_and_the_database_notes_nothing(either: App) -> None:
    either.put("1700000000003_slow", "-- Up Migration\nCREATE TABLE public.three ();\nSELECT pg_sleep(3600);")
    sleeping = (
        "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(3600)%' AND pid <> pg_backend_pid()"
    )
    with either.where.start("migrate") as process:
        until(lambda: either.ask(sleeping), "the migration sleeps", seconds=120)
        process.kill()
        process.communicate(timeout=120)  # its program would hold the pipes open
    until(lambda: not either.ask(sleeping), "the server has ended it", seconds=120)
    assert (either.noted, "three" in either.tables) == ([], False)
    either.put("1700000000003_slow", "-- Up Migration\nSELECT 1;")
    assert either.migrate("migrate").code == 0


def test_what_a_dead_run_still_has_at_work_is_named_with_what_ends_it(app: App) -> None:
    mark = {"application_name": "polyladder-ops migrate 0123abcd"}
    with closing(session.connect(Target.of(**{**app.target.parameters, **mark}))) as left:
        pid = left.info.backend_pid
        ending = f"SELECT pg_catalog.pg_terminate_backend({pid})"
        for words in (("migrate",), ("-R", "migrate"), ("migrate.down", "--force")):
            found = app.where.ask(*words)
            assert (found.code, f"process {pid} " in found.err) == (4, True), found
            assert found.err.rstrip().endswith(ending)
        assert app.tables == {}
        assert f"WARNING: a migration is at work: process {pid} (role " in app.where.ask("migrate.status").err
        app.tell(ending)
        until(lambda: not app.ask(f"SELECT 1 FROM pg_stat_activity WHERE pid = {pid}"), "it ends")
    assert app.migrate("migrate").code == 0


def test_one_run_at_a_time(app: App) -> None:
    from polyladder_ops.postgres import locks

    server = app.target.with_database("postgres")
    with locks.exclusive(server, app.target.database, doing="restore"):
        found = app.migrate("migrate")
    assert found.code == 4, found
    assert app.tables == {}


@pytest.mark.parametrize("major", [13, 14, 15, 16, 17])
def test_every_major_lets_the_login_migrate_and_loses_it_again(
    major: int, tmp_path: Path, need: Callable[[object, str], None]
) -> None:
    need(
        sys.platform == "linux" and majors.programs(major), f"no PostgreSQL {major} (python -m tests.majors)"
    )
    for name, text in FILES.items():
        (tmp_path / f"{name}.sql").write_text(text)
    with majors.running(major) as server:
        run(server, "CREATE ROLE %I", "app owner")
        run(server, "CREATE DATABASE %I OWNER %I", "app", "app owner")
        target = server.with_database("app")
        if major < 15:  # there public is everybody's, or nobody's
            run(target, "ALTER SCHEMA public OWNER TO %I", "app owner")
        before = migrations.look(target)
        with closing(session.connect(server)) as connection:
            with migration_login.opened(connection, target) as login:
                mine = {"options": login.options, "application_name": login.mark}
                reached = Target.of(**{**parse(login.url).parameters, **mine})
                migrator.migrate(reached, tmp_path, "up", lambda _line: None)
                assert (login.owner, login.is_made) == ("app owner", True)
            after = migrations.look(target)
            migrations.judge(before, after, [ONE, TWO], migrations.Ended(0), "app owner")
            left = connection.execute("SELECT 1 FROM pg_roles WHERE rolname ~ '^polyladder_'").fetchall()
    assert left == []


# The URL for node -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("more", "has_tls", "end"),
    [
        ({}, False, "@h:5432/db?sslmode=disable"),
        ({}, True, "@h:5432/db?sslmode=no-verify"),
        ({"sslmode": "require"}, True, "@h:5432/db?sslmode=no-verify"),
        ({"sslmode": "verify-full", "sslrootcert": "/ca.pem"}, True,
         "@h:5432/db?sslmode=verify-full&uselibpqcompat=true&sslrootcert=%2Fca.pem"),
        ({"host": "::1"}, False, "@[::1]:5432/db?sslmode=disable"),
        ({"host": "/run/pg"}, False, "@%2Frun%2Fpg:5432/db?sslmode=disable"),
    ],
)  # fmt: skip
def test_the_url_says_to_node_what_libpq_did(more: dict[str, str], has_tls: bool, end: str) -> None:
    target = Target.of(**{"host": "h", "user": "u", "password": "p@ss/w:rd", "dbname": "db", **more})
    found = migration_login._url(target, "us er", has_tls=has_tls)
    assert found == f"postgres://us%20er:p%40ss%2Fw%3Ard{end}"


def test_a_login_of_a_migration_that_somebody_took_into_use_is_not_swept(app: App, server: Server) -> None:
    name = databases.temporary_name("migrate")
    run(server.target(), "CREATE ROLE %I LOGIN VALID UNTIL 'tomorrow'", name)
    run(server.target(), "GRANT %I TO %I", app.owner, name)
    run(server.target(), "GRANT pg_monitor TO %I", name)
    try:
        assert name not in databases.drop_abandoned(server.target())
        run(server.target(), "REVOKE pg_monitor FROM %I", name)
        assert name in databases.drop_abandoned(server.target())
    finally:
        run(server.target(), "DROP ROLE IF EXISTS %I", name)
