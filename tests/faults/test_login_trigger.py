"""A database with a login trigger that writes (17 and later): our own sessions are not among those that it notes."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.postgres import session
from tests import majors
from tests.conftest import run
from tests.faults.places import Place, with_other
from tests.test_limits import says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="servers of other majors are started on Linux"
)
NOTING = """
CREATE TABLE public.logins (who text, application text);
CREATE FUNCTION public.note() RETURNS event_trigger SECURITY DEFINER LANGUAGE plpgsql AS $$BEGIN
  INSERT INTO public.logins VALUES (session_user, current_setting('application_name'));
END$$;
CREATE EVENT TRIGGER note ON login EXECUTE FUNCTION public.note();
ALTER EVENT TRIGGER note ENABLE ALWAYS;
"""
REFUSING = """
CREATE OR REPLACE FUNCTION public.note() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'nobody'; END$$
"""
QUIET = {"options": "-c event_triggers=off"}


@pytest.fixture(scope="module", params=[17, 18], ids=str)
def major(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as target:
        yield target


@pytest.fixture
def noting(major: Target, tmp_path: Path) -> Iterator[Place]:
    """A database that notes who logs in, with one that has."""
    run(major, "CREATE DATABASE %I TEMPLATE template0", "noting")
    place = Place(major.with_database("noting"), tmp_path / "backups", tmp_path / "state" / "runs")
    say(place, "CREATE TABLE public.payment (id int); INSERT INTO public.payment VALUES (1), (2);" + NOTING)
    with psycopg.connect(**place.target.parameters, application_name="the app"):  # type: ignore[arg-type]
        pass
    yield place
    for name in databases(major):
        run(major, "DROP DATABASE %I WITH (FORCE)", name)


def databases(server: Target) -> list[str]:
    with closing(session.connect(server)) as connection:
        rows = connection.execute(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        )
        return [name for (name,) in rows.fetchall()]


def say(place: Place, statements: str) -> None:
    with closing(session.connect(with_other(place.target, **QUIET))) as connection:
        connection.execute(statements.encode())


def noted(place: Place) -> list[str]:
    with closing(session.connect(with_other(place.target, **QUIET))) as connection:
        rows = connection.execute("SELECT application FROM public.logins").fetchall()
    return [name for (name,) in rows]


def test_a_restore_beside_is_proved_and_can_be_undone(noting: Place) -> None:
    assert noting.invoke("backup").code == 0
    backed_up = noted(noting)
    say(noting, "DELETE FROM public.payment WHERE id = 2")
    done = noting.invoke("restore", "--backup=latest", "--force")
    assert done.code == 0, done.said
    assert noted(noting) == backed_up  # nobody of ours has come into what was proved
    back = noting.invoke("restore.undo", "--force")
    assert back.code == 0, back.said
    assert len(noted(noting)) <= len(backed_up) + 1


def test_a_restore_in_place_is_proved(noting: Place) -> None:
    assert noting.invoke("backup").code == 0
    backed_up = noted(noting)
    say(noting, "DELETE FROM public.payment WHERE id = 2")
    done = noting.invoke("restore", "--backup=latest", "--in-place", "--force")
    assert done.code == 0, done.said
    assert noted(noting) == backed_up


@pytest.mark.parametrize("task", ["doctor", "backup", "restore.status", "restore.check"])
def test_a_run_is_noted_once_at_most(task: str, noting: Place) -> None:
    """The first session of a run shows whether a session may begin without it."""
    says("on 17 and later a login trigger runs in the first session of a run")
    done = noting.invoke(task)
    assert done.code in (0, 2, 3), done.said
    assert len(noted(noting)) <= 1 + 1


def test_a_trigger_that_refuses_everybody_does_not_keep_us_from_a_backup(noting: Place) -> None:
    say(noting, REFUSING)
    with pytest.raises(psycopg.OperationalError, match="nobody"):
        psycopg.connect(**noting.target.parameters)  # type: ignore[arg-type]
    done = noting.invoke("backup")
    assert done.code == 0, done.said


def test_who_may_not_leave_it_out_is_told(noting: Place, major: Target) -> None:
    says("and in every one where our role is no superuser (`doctor` names it)")
    run(major, "CREATE ROLE %I LOGIN PASSWORD 'x'", "clerk")
    try:
        clerk = Place(with_other(noting.target, user="clerk", password="x"), noting.folder, noting.private)
        done = clerk.invoke("doctor")
        assert "login triggers" in done.out
        assert "note: runs each time that one of our sessions begins, and may write." in done.out
        assert "clerk" in say_who(noting)
        assert "login triggers" not in noting.invoke("doctor").out
    finally:
        run(major, "DROP ROLE %I", "clerk")


def say_who(place: Place) -> list[str]:
    with closing(session.connect(with_other(place.target, **QUIET))) as connection:
        return [who for (who,) in connection.execute("SELECT who FROM public.logins").fetchall()]
