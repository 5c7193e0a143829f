"""While a copy is proved and asked nobody else is in it; its checks are asked by a login that lends nothing."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, checks, loading, replacement, restoring
from polyladder_ops.checks import Check
from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.postgres import alone, databases, reader, session
from polyladder_ops.postgres.conninfo import Target
from tests import majors
from tests.conftest import numbers, run
from tests.faults.places import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.sandbox.server import Server

# Whoever asks this table for its rows lends mal its rights: the view calls a function of his.
ASKED = """
CREATE SCHEMA m AUTHORIZATION mal_{n};
CREATE FUNCTION m.deed() RETURNS int LANGUAGE plpgsql AS $$
BEGIN EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; RETURN 1; EXCEPTION WHEN OTHERS THEN RETURN 1; END $$;
ALTER FUNCTION m.deed() OWNER TO mal_{n};
CREATE TABLE public.secret (a int); INSERT INTO public.secret SELECT generate_series(1, 7);
ALTER TABLE public.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE public.secret FORCE ROW LEVEL SECURITY;
CREATE VIEW public.seven AS SELECT a FROM public.secret WHERE m.deed() = 1;
"""
SEVEN = Check("seven rows", "7", "SELECT count(*) FROM public.seven")


@pytest.fixture
def n(server: Server) -> Iterator[str]:
    n = str(next(numbers))
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'mal at work'", f"mal_{n}")
    yield n
    run(server.target(), "DROP ROLE %I", f"mal_{n}")


@pytest.fixture
def live(server: Server, n: str) -> Iterator[Target]:
    target = server.target(f"alone_{n}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", target.database)
    with closing(session.connect(target)) as connection:
        connection.execute(ASKED.format(n=n).encode())
    yield target
    with closing(session.connect(server.target())) as connection:
        named = "SELECT datname FROM pg_database WHERE datname ~ %s"
        found = connection.execute(named, [f"^({target.database}|polyladder_beside_)"]).fetchall()
    for (name,) in found:
        databases.drop(server.target(), name)


def is_superuser(server: Target, role: str) -> bool:
    with closing(session.connect(server)) as connection:
        return connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = %s", [role]).fetchone() == (
            True,
        )


def logins(server: Target) -> list[str]:
    with closing(session.connect(server)) as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_roles WHERE rolname ~ '^polyladder_.*[0-9a-f]{16}$'"
        ).fetchall()
    return [name for (name,) in rows]


def take(target: Target, folder: Path) -> Backup:
    return backups.take(target, folder / "backups", site="test", private=folder / "private")


def restore(
    target: Target, backup: Backup, begins: Callable[[str], Any] = lambda _phase: None, **options: Any
) -> list[str]:
    said: list[str] = []

    def begin(phase: str) -> Callable[[int], None]:
        begins(phase)
        return lambda _size: None

    made = replacement.Options(target.database, progress=begin, **options)
    replacement.replace(target, backup, [], made, say=said.append, confirm=lambda _plan: None)
    return said


# Alone ---------------------------------------------------------------------------------------------------------------


def test_who_got_into_the_copy_while_it_loaded_is_ended_before_the_proof_and_nobody_follows(
    server: Server, live: Target, tmp_path: Path
) -> None:
    """A superuser may enter what is open; what is proved then is what goes live."""
    backup = take(live, tmp_path)
    entered: list[session.Connection] = []
    heard: dict[str, str] = {}

    def begins(phase: str) -> None:
        with closing(session.connect(server.target())) as connection:
            named = "SELECT datname FROM pg_database WHERE datname ~ '^polyladder_beside_'"
            (name,) = connection.execute(named).fetchone() or ("",)
        try:
            entered.append(session.connect(server.target(name)))
            heard[phase] = "in"
        except OpsError as error:
            heard[phase] = error.detail

    restore(live, backup, begins, checks=(SEVEN,))
    assert heard["analyze"] == "in"
    assert "not currently accepting connections" in heard["checks"]
    assert "not currently accepting connections" in heard["switch"]
    for connection in entered:
        with pytest.raises(Exception, match=r"terminating connection|server closed|is closed|lost"):
            connection.execute("DELETE FROM public.secret")
        connection.close()
    with closing(session.connect(live)) as connection:
        assert connection.execute("SELECT count(*) FROM public.secret").fetchone() == (7,)


def test_who_does_not_leave_the_copy_keeps_it_from_being_proved(server: Server, tmp_path: Path) -> None:
    """A plain owner can't end a superuser's session, which could write behind the proof's back."""
    run(server.target(), "CREATE ROLE plain_alone LOGIN CREATEDB PASSWORD 'plain and alone'")
    run(server.target(), "CREATE DATABASE plain_alone OWNER plain_alone TEMPLATE template0")
    parameters = server.target("plain_alone").parameters
    plain = Target.of(**{**parameters, "user": "plain_alone", "password": "plain and alone"})
    try:
        with (
            closing(session.connect(plain.with_database("postgres"))) as outside,
            closing(session.connect(plain)) as ours,
            closing(session.connect(server.target("plain_alone"))),
            pytest.raises(OpsError, match=r"permission denied|could not close|does not go") as caught,
        ):
            alone.shut(outside, "plain_alone", [ours])
        assert caught.value.exit_code == 1
    finally:
        databases.drop(server.target(), "plain_alone")
        run(server.target(), "DROP ROLE plain_alone")


@pytest.mark.parametrize("which", ["the copy", "the live one"])
def test_a_database_that_took_another_s_name_after_the_proof_is_not_switched(
    which: str, server: Server, live: Target, tmp_path: Path
) -> None:
    backup = take(live, tmp_path)
    name = live.database

    def begins(phase: str) -> None:
        if phase != "switch":
            return
        with closing(session.connect(server.target())) as connection:
            named = "SELECT datname FROM pg_database WHERE datname ~ '^polyladder_beside_'"
            (copy,) = connection.execute(named).fetchone() or ("",)
        taken = copy if which == "the copy" else name
        run(server.target(), "ALTER DATABASE %I RENAME TO %I", taken, f"{name}_gone")
        run(server.target(), "CREATE DATABASE %I TEMPLATE template0", taken)

    with pytest.raises(OpsError, match="would be another database than was looked at"):
        restore(live, backup, begins)
    with closing(session.connect(server.target())) as connection:
        (there,) = connection.execute(
            "SELECT datallowconn FROM pg_database WHERE datname = %s", [name]
        ).fetchone() or (None,)
    assert there is True


# Checks --------------------------------------------------------------------------------------------------------------


def test_a_check_of_the_copy_lends_nobody_s_rights_and_sees_every_row(
    server: Server, live: Target, n: str, tmp_path: Path
) -> None:
    backup = take(live, tmp_path)
    said = restore(live, backup, checks=(SEVEN,))
    assert not is_superuser(server.target(), f"mal_{n}")
    assert not [sentence for sentence in said if "checks" in sentence]
    assert logins(server.target()) == []


def test_a_wrong_answer_and_a_check_that_ends_its_own_session_replace_nothing(
    server: Server, live: Target, tmp_path: Path
) -> None:
    backup = take(live, tmp_path)
    eight = Check("eight rows", "8", SEVEN.question)
    with pytest.raises(Mismatch, match="1 of your checks failed"):
        restore(live, backup, checks=(eight, SEVEN))
    dies = Check("dies", "t", "SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid())")
    with pytest.raises(OpsError):
        restore(live, backup, checks=(dies, SEVEN))
    assert logins(server.target()) == []


def test_before_14_checks_are_asked_by_ourselves_and_that_is_said(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    need(sys.platform == "linux" and majors.programs(13), "no PostgreSQL 13")
    with majors.running(13) as cluster:
        run(cluster, "CREATE DATABASE asked TEMPLATE template0")
        target = cluster.with_database("asked")
        run(target, "CREATE TABLE public.seven AS SELECT generate_series(1, 7) AS a")
        said = restore(target, take(target, tmp_path), checks=(SEVEN,))
    assert [s for s in said if "your checks were asked by our own role" in s and "before PostgreSQL 14" in s]


def test_what_a_dead_run_left_of_its_reader_the_next_command_drops(server: Server, live: Target) -> None:
    with closing(session.connect(server.target())) as connection, reader.opened(connection, live) as asked:
        assert asked.by_ourselves == ""
        (name,) = asked.connection.execute("SELECT current_user").fetchone() or ("",)
        assert logins(server.target()) == [name]
        asked.connection.close()
        connection.close()  # as if we had died
    wait_for(lambda: databases.drop_abandoned(server.target()) == [name])
    assert logins(server.target()) == []


def test_the_reader_writes_nothing(server: Server, live: Target) -> None:
    with closing(session.connect(server.target())) as connection, reader.opened(connection, live) as asked:
        for statement in (b"DELETE FROM public.secret", b"CREATE TABLE public.x ()"):
            with pytest.raises(Exception, match="permission denied"):
                asked.connection.execute(statement)


def test_a_live_database_is_asked_by_the_url_s_role_and_what_that_lends_is_said(
    server: Server, live: Target, n: str
) -> None:
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", live.database, f"mal_{n}")
    (sentence,) = checks.who_asks(live)
    assert sentence.startswith(f"postgres is a superuser and asks a database of mal_{n}, who is none")
    run(server.target(), "ALTER DATABASE %I OWNER TO postgres", live.database)
    assert checks.who_asks(live) == ()
    assert checks.run(live, [SEVEN])[0].ok


def test_a_proof_on_a_scratch_server_lets_no_role_of_that_server_in(
    server: Server, live: Target, n: str, tmp_path: Path
) -> None:
    """A staging role has the name of one that may read everything in production."""
    run(live, "GRANT SELECT ON public.secret TO %I", f"mal_{n}")
    backup = take(live, tmp_path)
    mal = {"user": f"mal_{n}", "password": "mal at work"}
    heard: list[str] = []
    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        loading.load(target, backup, [])
        try:
            session.connect(Target.of(**{**target.parameters, **mal})).close()
        except OpsError as error:
            heard.append(error.detail)
    assert len(heard) == 1
    assert "permission denied for database" in heard[0]


def test_an_owner_who_bends_where_names_are_looked_for_is_not_asked_for_an_operator(
    server: Server, live: Target, n: str
) -> None:
    """What is said first on a connection is said under the database's own settings."""
    run(server.target(), "ALTER DATABASE %I OWNER TO %I", live.database, f"mal_{n}")
    with closing(session.connect(live)) as connection:
        connection.execute(
            f"CREATE FUNCTION m.same(int, int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN"
            f" EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END$$;"
            "CREATE OPERATOR m.= (FUNCTION = m.same, LEFTARG = int, RIGHTARG = int)".encode()
        )
    run(server.target(), "ALTER DATABASE %I SET search_path = m, pg_catalog", live.database)
    session.connect(live).close()
    assert not is_superuser(server.target(), f"mal_{n}")
    run(server.target(), "ALTER DATABASE %I OWNER TO postgres", live.database)
