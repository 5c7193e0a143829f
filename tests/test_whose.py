"""Whose a database or a role is: what we drop, close, rename or bring back is ours for certain, and nobody uses it."""

from __future__ import annotations

import contextlib
import re
from contextlib import closing
from datetime import timedelta
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, marks, proof_roles, session, switch
from polyladder_ops.postgres.described import Role
from tests.conftest import numbers, run
from tests.faults.places import with_other
from tests.test_setaside import place, restored, taken  # noqa: F401 - fixtures
from tests.test_tasks import url
from tests.test_tasks_restore import LATE, Shop, shop  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.sandbox.server import Server


def as_role(server: Server, name: str, database: str) -> Target:
    parameters = {**server.target().parameters, "user": name, "password": "x", "dbname": database}
    return server.target().of(**parameters)


def tell(target: Target, *statements: str) -> None:
    with closing(session.connect(target)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def marked(server: Server, name: str) -> Marked | None:
    with closing(session.connect(server.target())) as connection:
        return next((m for m in marks.find(connection) if m.name == name), None)


def set_aside(shop: Shop) -> str:  # noqa: F811
    """Restore, and return what the live database is called now."""
    done = shop.ask("restore", "--latest", "--force")
    assert done.code == 0, done
    (aside,) = shop.asides()
    return aside


# Somebody else's ------------------------------------------------------------------------------------------------------


@pytest.fixture
def tenant(server: Server) -> Iterator[Target]:
    """Somebody's login and database on the same server, with a table of decks."""
    name = f"tenant_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", name)
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0 OWNER %I", name, name)
    target = as_role(server, name, name)
    tell(target, "CREATE SCHEMA mine; CREATE TABLE mine.t AS SELECT 1 AS a")
    yield target
    databases.drop(server.target(), name)
    run(server.target(), "DROP ROLE %I", name)


def forge(server: Server, tenant: Target, aside: str) -> None:
    """Let the tenant write all that he can of what is noted of our database, as if his had been set aside later."""
    true = marked(server, aside)
    assert true is not None
    mark = true.mark.model_copy(
        update={"name": tenant.database, "at": true.mark.at + timedelta(hours=1), "oid": None}
    )
    with closing(session.connect(tenant.with_database("postgres"))) as connection:
        connection.execute(marks.comment(tenant.database, mark.text))
        connection.execute(marks.put(tenant.database, mark))
        value = psycopg.sql.Literal(mark.setting)
        name = psycopg.sql.Identifier(tenant.database)
        connection.execute(psycopg.sql.SQL("ALTER DATABASE {} SET application_name = {}").format(name, value))
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute(marks.put(tenant.database, mark, "postgres"))


def test_a_database_whose_owner_copied_our_note_does_not_go_live(
    shop: Shop,  # noqa: F811
    server: Server,
    tenant: Target,
) -> None:
    aside = set_aside(shop)
    forge(server, tenant, aside)
    done = shop.ask("restore.undo", "--force")
    assert done.code == 0, done
    assert shop.decks() == 500 + LATE
    assert tenant.database in shop.names()


def test_a_database_whose_owner_copied_our_note_is_neither_closed_nor_dropped_nor_a_leftover(
    shop: Shop,  # noqa: F811
    server: Server,
    tenant: Target,
) -> None:
    aside = set_aside(shop)
    forge(server, tenant, aside)
    status = shop.ask("restore.status")
    assert status.code == 0, status
    assert [line.split()[0] for line in status.out.splitlines() if tenant.database in line] == ["NOTED"]
    assert f"or its owner ({tenant.user}) did" in status.out
    assert shop.ask("restore.abort").out == "nothing was left over\n"
    assert shop.ask("restore.discard", "--force", "--without-backup").code == 0
    assert aside not in shop.names()  # within the same second the next one is named so again
    assert shop.ask("restore", "--latest", "--force").code == 0
    tell(tenant, "SELECT a FROM mine.t")


def test_whose_comment_says_that_it_was_closed_does_not_stop_others(
    shop: Shop,  # noqa: F811
    tenant: Target,
) -> None:
    with closing(session.connect(tenant)) as connection:
        note = switch.note_of(connection, tenant.database, "x", "b", None)
        connection.execute(marks.comment(tenant.database, note.model_copy(update={"kind": "fenced"}).text))
    assert shop.ask("restore.status").code == 0
    assert shop.ask("restore.abort").out == "nothing was left over\n"


# What was taken into use ----------------------------------------------------------------------------------------------


def test_the_mark_can_not_be_taken_off_by_the_owner_of_the_database(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    owner = f"owner_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN CREATEDB PASSWORD 'x'", owner)
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", shop.name, owner)
    aside = set_aside(shop)
    with closing(session.connect(as_role(server, owner, "postgres"))) as connection:
        for statement in (f'COMMENT ON DATABASE "{aside}" IS NULL', f'ALTER DATABASE "{aside}" RESET ALL'):
            connection.execute(statement.encode())
        for statement in (
            f'ALTER ROLE postgres IN DATABASE "{aside}" RESET ALL',
            f'ALTER ROLE postgres IN DATABASE "{aside}" RESET application_name',
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(statement.encode())
        connection.execute(f'ALTER DATABASE "{aside}" RENAME TO "{owner}_uses_it"'.encode())
        connection.execute(f'ALTER DATABASE "{owner}_uses_it" ALLOW_CONNECTIONS true'.encode())
    assert (
        f"IN USE {owner}_uses_it: set aside from {shop.name} as {aside}, renamed since; it is left alone"
        in shop.ask("restore.status").out.splitlines()
    )
    databases.drop(server.target(), f"{owner}_uses_it")
    run(server.target(), "DROP ROLE %I", owner)


@pytest.mark.parametrize("how", ["renamed", "opened"])
def test_a_set_aside_database_that_a_person_renamed_and_uses_answers_after_every_task(
    how: str,
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = set_aside(shop)
    name = f"{shop.name}_analysis" if how == "renamed" else aside
    if how == "renamed":
        run(server.target(), "ALTER DATABASE %I RENAME TO %I", aside, name)
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS true", name)
    with closing(session.connect(shop.live.with_database(name))) as person:
        for words, code in (
            (["restore.status"], 0),
            (["restore.abort"], 0),
            (["restore.undo", "--force"], 4),  # there is no other
            (["restore.undo", "--force", f"--database={name}"], 4),
            (["-R", "restore.undo", f"--database={name}"], 4),
            (["restore.discard", "--force"], 4),
            (["restore.discard", "--force", f"--database={name}", "--without-backup"], 4),
            (["-R", "restore.discard", f"--database={name}", "--without-backup"], 4),
            (["restore", "--latest", "--force"], 0),
            (["restore.undo", "--force"], 0),
            (["restore.discard", "--force", "--without-backup"], 0),
        ):
            done = shop.ask(*words)
            assert done.code == code, (words, done)
            assert person.execute("SELECT count(*) FROM public.deck").fetchone() == (500 + LATE,)
            assert shop.decks(name) == 500 + LATE
    assert f"IN USE {name}: " in shop.ask("restore.status").out


def test_what_another_database_was_is_not_brought_back_by_its_name(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = set_aside(shop)
    other = f"other_{next(numbers)}"
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", other)
    there = url(shop.live.with_database(other))
    without = shop.ask("restore.undo", "--force", DATABASE_URL=there)
    assert (without.code, aside in without.err) == (1, False)
    for words in (["restore.undo"], ["-R", "restore.undo"], ["restore.discard", "--without-backup"]):
        done = shop.ask(*words, "--force", f"--database={aside}", DATABASE_URL=there)
        assert done.code == 4, done
        assert f"{aside} was set aside from {shop.name}, not from {other}" in done.err
    assert shop.asides() == [aside]
    run(server.target(), "DROP DATABASE %I", other)


def test_one_that_is_closed_and_named_as_before_again_is_set_aside_again(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = set_aside(shop)
    run(server.target(), "ALTER DATABASE %I RENAME TO %I", aside, f"{aside}_used")
    refused = shop.ask("restore.undo", "--force", f"--database={aside}_used")
    assert (refused.code, f"give it the name {aside} again" in refused.err) == (4, True)
    run(server.target(), "ALTER DATABASE %I RENAME TO %I", f"{aside}_used", aside)
    assert shop.ask("restore.undo", "--force").code == 0
    assert shop.decks() == 500 + LATE
    with closing(session.connect(server.target())) as connection:
        assert [m.name for m in marks.find(connection) if m.mark.live == shop.name] == shop.asides()


@pytest.mark.parametrize("words", [["restore.undo"], ["restore.discard", "--without-backup"]])
def test_one_that_is_opened_while_a_person_is_asked_stays(
    words: list[str],
    shop: Shop,  # noqa: F811
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from polyladder_ops.tasks import aside as task

    aside = set_aside(shop)

    def answer(*_words: object, **_more: object) -> None:
        run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS true", aside)

    monkeypatch.setattr(task, "confirm", answer)
    refused = shop.ask(*words, "--force")
    assert (refused.code, f"{aside} has been taken into use meanwhile" in refused.err) == (4, True), refused
    assert (shop.decks(), shop.decks(aside)) == (500, 500 + LATE)


# What an older version set aside --------------------------------------------------------------------------------------


def of_an_older_version(shop: Shop, server: Server) -> str:  # noqa: F811
    """Restore, and let only a note in the comment say so."""
    aside = set_aside(shop)
    found = marked(server, aside)
    assert found is not None
    note = found.mark.model_copy(update={"comment": "of the app", "name": ""}).text
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.take_off(found, aside))
        connection.execute(marks.comment(aside, note))
    return aside


def test_what_an_older_version_set_aside_comes_back_if_it_is_named(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = of_an_older_version(shop, server)
    assert (
        f"NOTED {aside}: its comment says that it was set aside from {shop.name}."
        in shop.ask("restore.status").out
    )
    refused = shop.ask("restore.undo", "--force")
    assert (refused.code, f"there is no set-aside database of {shop.name}" in refused.err) == (1, True)
    assert shop.ask("restore.undo", "--force", f"--database={aside}").code == 0
    assert shop.decks() == 500 + LATE
    with closing(session.connect(shop.live)) as connection:
        comment = (
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = current_database()"
        )
        assert connection.execute(comment.encode()).fetchone() == ("of the app",)


def test_what_an_older_version_set_aside_is_dropped_if_it_is_named(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = of_an_older_version(shop, server)
    assert shop.ask("restore.discard", "--force", "--without-backup").code == 1
    assert aside in shop.names()
    assert shop.ask("restore.discard", "--force", "--without-backup", f"--database={aside}").code == 0
    assert aside not in shop.names()


# A role ---------------------------------------------------------------------------------------------------------------

TAKEN = {
    "a login": "ALTER ROLE {} LOGIN PASSWORD 'x'",
    "a member": "GRANT pg_monitor TO {}",
    "a right": "ALTER ROLE {} CREATEDB",
    "a setting": "ALTER ROLE {} SET work_mem = '8MB'",
}


@pytest.mark.parametrize("how", TAKEN)
def test_a_role_of_a_killed_proof_that_somebody_took_into_use_stays(how: str, server: Server) -> None:
    names = [f"proof_{next(numbers)}" for _ in range(2)]
    with closing(session.connect(server.target())) as connection:
        proof_roles.make(connection, [role(name) for name in names], superusers=False)  # and is killed
        run(server.target(), TAKEN[how].format("%I"), names[0])
        made = proof_roles.make(connection, [role(name) for name in names], superusers=False)
        proof_roles.drop(connection, made)
        rows = connection.execute("SELECT rolname FROM pg_roles WHERE rolname = ANY (%s)", [names])
        assert rows.fetchall() == [(names[0],)]
    run(server.target(), "DROP ROLE %I", names[0])


def role(name: str) -> Role:
    return Role(name, False, True, False, False, False, False, False, -1, "", (), "", ())


def test_a_role_of_a_killed_proof_that_somebody_logs_in_as_is_there_after_the_next(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    name = f"proof_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I", name)
    shop.tell(f"CREATE TABLE public.theirs (); ALTER TABLE public.theirs OWNER TO {name}")
    assert shop.ask("backup", "--new-source").code == 0
    shop.tell("DROP TABLE public.theirs")
    run(server.target(), "DROP ROLE %I", name)
    with closing(session.connect(server.target())) as connection:
        proof_roles.make(connection, [role(name)], superusers=False)  # by a proof that is killed
    run(server.target(), "ALTER ROLE %I LOGIN PASSWORD 'x'", name)
    done = shop.ask(
        "verify", "--backup=latest", "--level=restore", POLYLADDER_SCRATCH_URL=url(server.target())
    )
    assert done.code == 0, done
    tell(as_role(server, name, "postgres"), "SELECT 1")
    run(server.target(), "DROP ROLE %I", name)


@pytest.mark.parametrize("how", ["a comment", "a grant", "a session"])
def test_a_copy_of_a_killed_run_that_somebody_took_into_use_stays_and_is_named(
    shop: Shop,  # noqa: F811
    server: Server,
    how: str,
) -> None:
    name = databases.temporary_name("beside")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    run(server.target(), "REVOKE ALL ON DATABASE %I FROM PUBLIC", name)
    tell(server.target(name), "CREATE TABLE public.theirs AS SELECT generate_series(1, 10)")
    with contextlib.ExitStack() as stack:
        if how == "a comment":
            run(server.target(), "COMMENT ON DATABASE %I IS %L", name, "somebody's")
        elif how == "a grant":
            run(server.target(), "GRANT CONNECT ON DATABASE %I TO pg_monitor", name)
        else:
            stack.enter_context(
                closing(session.connect(with_other(server.target(name), application_name="psql")))
            )
        done = shop.ask("restore.abort")
        assert done.code == 0, done
        assert f"{name}: a half-made copy that somebody has taken into use (" in done.out + done.err
        assert (
            f"LEFTOVER {name}: a half-made copy that somebody has taken into use"
            in shop.ask("restore.status").out
        )
    tell(server.target(name), "SELECT FROM public.theirs")
    run(server.target(), "DROP DATABASE %I", name)


@pytest.mark.parametrize(
    "how",
    [
        "ALTER ROLE %I VALID UNTIL 'infinity'",
        "COMMENT ON ROLE %I IS 'somebody''s'",
        "CREATE TABLE public.%1$I (); ALTER TABLE public.%1$I OWNER TO %1$I",
    ],
    ids=["no end", "a comment", "a table of its own"],
)
def test_a_login_of_a_killed_run_that_somebody_took_into_use_stays(
    shop: Shop,  # noqa: F811
    server: Server,
    how: str,
) -> None:
    name, left = databases.temporary_name("load"), databases.temporary_name("load")
    for one in (name, left):
        run(server.target(), "CREATE ROLE %I LOGIN NOINHERIT PASSWORD 'x' VALID UNTIL %L", one, "tomorrow")
    run(server.target(), how, name)
    done = shop.ask("restore.abort")
    assert done.code == 0, done
    with closing(session.connect(server.target())) as connection:
        there = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname IN (%s, %s)", [name, left]
        ).fetchall()
    assert there == [(name,)]
    run(server.target(), "DROP OWNED BY %1$I; DROP ROLE %1$I", name)


# Looking into one -----------------------------------------------------------------------------------------------------


def test_the_lines_of_the_status_open_one_to_look_into_it_and_close_it_again(
    shop: Shop,  # noqa: F811
    server: Server,
) -> None:
    aside = set_aside(shop)
    with pytest.raises(OpsError) as caught, closing(session.connect(shop.live.with_database(aside))):
        pass
    assert "`invoke restore.status` shows how to look into it" in caught.value.hint
    out = shop.ask("restore.status").out
    assert (
        f'to look into the newest: `psql -d postgres`, there\n  ALTER DATABASE "{aside}" ALLOW_CONNECTIONS true;'
        in out
    )
    enter, leave = re.findall(r"^  (ALTER DATABASE .*;)$", out, re.MULTILINE)
    tell(server.target(), enter)
    assert shop.decks(aside) == 500 + LATE
    assert f"IN USE {aside}: " in shop.ask("restore.status").out
    tell(server.target(), leave)
    assert shop.ask("restore.undo", "--force").code == 0
