"""What a run that died left: found by asking the server, put right, and never what a living run has in hand."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, leftovers, locks, marks, session, switch
from polyladder_ops.postgres.leftovers import Leftover
from tests.conftest import run
from tests.test_limits import says
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

COMMENT = "what it is for"


def found(server: Server, live: str = "shop") -> set[Leftover]:
    with closing(session.connect(server.target())) as connection:
        return set(leftovers.find(connection, live))


def settle(server: Server, live: str) -> tuple[str, ...]:
    with locks.exclusive(server.target(), live, doing="abort") as connection:
        return leftovers.settle(connection, server.target(), live)


def looks(server: Server, name: str) -> tuple[str, bool] | None:
    """Return a database's comment as it is stored, and whether it takes sessions."""
    with closing(session.connect(server.target())) as connection:
        row = connection.execute(
            "SELECT coalesce(shobj_description(oid, 'pg_database'), ''), datallowconn FROM pg_database WHERE datname = %s",
            [name],
        ).fetchone()
    return None if row is None else (row[0], row[1])


def note(server: Server, database: Target, kind: str, live: str, *, is_open: bool) -> None:
    """Do to a database what a run does to it before it dies; a fence is an older version's, a note in the comment."""
    name = database.database
    run(server.target(), "COMMENT ON DATABASE %I IS %L", name, COMMENT)
    with closing(session.connect(server.target())) as connection:
        mark = switch.note_of(connection, name, "tests", "polyladder_20260105_020000", None)
        update = {"kind": kind, "live": live, "comment": COMMENT, "name": name, "is_dumped": is_open}
        mark = mark.model_copy(update=update)
        fenced = kind == "fenced"
        connection.execute(marks.comment(name, mark.text) if fenced else marks.put(name, mark))
        (switch.let_in if is_open else switch.close)(connection, name)


@pytest.fixture(autouse=True)
def nothing_else(server: Server) -> Iterator[None]:
    assert found(server) == set()
    yield
    assert found(server) == set()


def test_a_database_that_an_older_version_closed_for_a_switch_is_opened_again_with_its_comment(
    server: Server, database: Target
) -> None:
    name = database.database
    note(server, database, "fenced", name, is_open=False)
    assert found(server) == set()  # it is the site's that it belongs to
    assert found(server, name) == {Leftover(name, "closed by a switch that did not come to its end")}
    assert settle(server, name) == (f"opened {name} again",)
    assert looks(server, name) == (COMMENT, True)
    assert settle(server, name) == ()


@pytest.mark.parametrize("is_open", [True, False])
def test_a_set_aside_database_whose_drop_was_cancelled_is_dropped(
    is_open: bool, server: Server, database: Target
) -> None:
    """The server marks it so (datconnlimit -2): nobody can enter, open or close it any more."""
    name = database.database
    note(server, database, "aside", "shop", is_open=is_open)
    run(server.target(), "UPDATE pg_database SET datconnlimit = -2 WHERE datname = %L", name)
    assert found(server) == {Leftover(name, "half dropped")}
    assert settle(server, "shop") == (f"dropped the rest of {name}",)
    assert looks(server, name) is None


@pytest.mark.parametrize(
    ("purpose", "what"), [("migrate", "a migration"), ("check", "checks or a proof"), ("load", "a copy")]
)
def test_a_login_that_a_dead_run_left_is_called_one_and_dropped(
    purpose: str, what: str, server: Server
) -> None:
    name = databases.temporary_name(purpose)
    until_then = "LOGIN NOINHERIT PASSWORD 'x' VALID UNTIL"
    run(server.target(), f"CREATE ROLE %I {until_then} %L", name, f"{datetime.now(UTC) + timedelta(days=1)}")
    (one,) = found(server)
    assert (one.name, one.detail) == (f"the role {name}", f"the login of {what} that died")
    assert settle(server, "any") == (f"dropped the login of {what}, {name}",)


def test_a_half_made_copy_is_dropped_whichever_database_it_was_made_for(server: Server) -> None:
    name = databases.temporary_name("beside")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS false", name)
    assert found(server) == {Leftover(name, "a half-made copy")}
    assert settle(server, "any") == (f"dropped the half-made copy {name}",)
    assert looks(server, name) is None


def test_what_was_set_aside_and_closed_is_no_leftover(server: Server, database: Target) -> None:
    note(server, database, "aside", "shop", is_open=False)
    before = looks(server, database.database)
    assert found(server) == set()
    assert settle(server, "shop") == ()
    assert looks(server, database.database) == before


def test_what_was_set_aside_and_left_open_is_closed_and_keeps_its_note(
    server: Server, database: Target
) -> None:
    """Whoever was dumping it has died."""
    name = database.database
    note(server, database, "aside", "shop", is_open=True)
    before = looks(server, name)
    assert found(server) == {Leftover(name, "set aside, but open")}
    assert settle(server, "shop") == (f"closed {name} again",)
    assert before is not None
    assert looks(server, name) == (before[0], False)


@pytest.mark.parametrize("is_open", [True, False])
def test_what_was_renamed_back_by_hand_is_opened_and_its_note_taken_off(
    is_open: bool, server: Server, database: Target
) -> None:
    name = database.database
    note(server, database, "aside", name, is_open=is_open)
    assert found(server) == {Leftover(name, "renamed back by hand, and still marked")}
    assert settle(server, name) == (f"opened {name} again",)
    assert looks(server, name) == (COMMENT, True)
    with closing(session.connect(server.target())) as connection:
        assert marks.find(connection) == ()


def test_a_database_that_was_closed_before_the_switch_stays_closed(server: Server, database: Target) -> None:
    name = database.database
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS false", name)
    note(server, database, "fenced", name, is_open=False)
    with closing(session.connect(server.target())) as connection:
        (mark,) = [m.mark for m in marks.claims(connection) if m.name == name]
    assert not mark.was_open
    settle(server, name)
    assert looks(server, name) == (COMMENT, False)


def test_what_a_living_run_has_in_hand_is_no_leftover(server: Server, database: Target) -> None:
    name, copy = database.database, databases.temporary_name("beside")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", copy)
    note(server, database, "fenced", name, is_open=False)
    with locks.exclusive(server.target(), name, doing="restore"), databases.locked(server.target(), copy):
        assert found(server, name) == set()
        assert settle(server, "another") == ()
    assert {one.database for one in found(server, name)} == {name, copy}
    settle(server, name)
    assert looks(server, copy) is None


def test_another_databases_fence_is_left_to_that_ones_abort(server: Server, database: Target) -> None:
    name = database.database
    note(server, database, "fenced", name, is_open=False)
    assert settle(server, "another") == ()
    assert looks(server, name) != (COMMENT, True)
    settle(server, name)


def test_without_the_lock_nothing_is_put_right(server: Server, database: Target) -> None:
    name = database.database
    note(server, database, "fenced", name, is_open=False)
    with closing(session.connect(server.target())) as connection, pytest.raises(OpsError, match="was lost"):
        leftovers.settle(connection, server.target(), name)
    assert {one.database for one in found(server, name)} == {name}
    settle(server, name)


# A copy that somebody took into use ------------------------------------------------------------------------------------

KILLED = """
CREATE ROLE %1$I LOGIN NOINHERIT PASSWORD 'x' VALID UNTIL 'tomorrow';
CREATE DATABASE %1$I TEMPLATE template0
"""
LOADED = """
ALTER SCHEMA public OWNER TO %1$I;
CREATE TABLE public.deck (id int); ALTER TABLE public.deck OWNER TO %1$I;
INSERT INTO public.deck SELECT generate_series(1, 10)
"""
TAKEN = {
    "another owner": ("ALTER DATABASE %I OWNER TO pg_monitor", ""),
    "a setting": ("ALTER DATABASE %I SET work_mem = '8MB'", ""),
    "a table of its own": ("", "CREATE TABLE public.mine AS SELECT generate_series(1, 1000) a"),
    "rows of its own": ("", "UPDATE public.deck SET id = 11 WHERE id = 10"),
}


def killed(server: Server) -> str:
    """Return the copy of a run that was killed while its login loaded rows."""
    name = databases.temporary_name("beside")
    for statement in KILLED.split(";"):
        run(server.target(), statement, name)
    for statement in LOADED.split(";"):
        run(server.target(name), statement, name)
    return name


def gone(server: Server, name: str) -> None:
    """Wait until nobody is in the database any more: what a session counted it tells with its end."""
    question = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usesysid IS NOT NULL"
    with closing(session.connect(server.target())) as connection:
        until(lambda: connection.execute(question, [name]).fetchone() == (0,), "nobody is in it")


@pytest.mark.parametrize("how", TAKEN)
def test_a_copy_of_a_killed_run_that_somebody_took_into_use_and_left_stays(how: str, server: Server) -> None:
    name = killed(server)
    outside, within = TAKEN[how]
    if outside:
        run(server.target(), outside, name)
    if within:
        run(server.target(name), within)
    gone(server, name)
    (one,) = found(server)
    assert (one.database, one.is_used) == (name, True), one
    assert settle(server, "any") == ()
    assert looks(server, name) is not None
    databases.drop(server.target(), name)


def test_a_table_in_a_copy_that_was_shut_and_that_somebody_opened_keeps_it(server: Server) -> None:
    name = killed(server)
    run(server.target(name), "REASSIGN OWNED BY %I TO postgres", name)
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS false", name)
    run(server.target(), "ALTER DATABASE %I ALLOW_CONNECTIONS true", name)
    assert found(server) == {Leftover(name, "a half-made copy")}
    run(server.target(name), "CREATE TABLE public.mine ()")
    (one,) = found(server)
    assert (one.database, one.is_used) == (name, True), one
    databases.drop(server.target(), name)


def test_rows_that_were_only_added_to_a_copy_look_like_the_runs_own(server: Server) -> None:
    says("rows that somebody added and that look like the run's own go with it")
    name = killed(server)
    run(server.target(name), "INSERT INTO public.deck VALUES (11)")
    gone(server, name)
    assert found(server) == {Leftover(name, "a half-made copy")}
    assert settle(server, "any") == (f"dropped the half-made copy {name}",)


def test_a_copy_that_nobody_touched_goes_with_its_login(server: Server) -> None:
    name = killed(server)
    gone(server, name)
    assert found(server) == {Leftover(name, "a half-made copy")}
    assert settle(server, "any") == (f"dropped the half-made copy {name}",)
    with closing(session.connect(server.target())) as connection:
        assert connection.execute("SELECT 1 FROM pg_roles WHERE rolname = %s", [name]).fetchone() is None
