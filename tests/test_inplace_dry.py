"""The dry run of a restore in place says what the real one will meet, and whose backup it is; it touches nothing."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pyrage
import pytest

from polyladder_ops.postgres import locks, session
from tests.conftest import numbers, run
from tests.test_heard import say
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

IN_PLACE = ("restore", "--latest", "--in-place")


@pytest.fixture
def shop(database: Target, tmp_path: Path) -> Project:
    say(database, "CREATE TABLE public.payment (id int); INSERT INTO public.payment VALUES (1)")
    made = project(tmp_path / "project", DATABASE_URL=url(database), BACKUP_DIR=str(tmp_path / "backups"))
    assert made.ask("backup").code == 0
    say(database, "INSERT INTO public.payment VALUES (2)")
    return made


def rows(target: Target) -> int:
    with closing(session.connect(target)) as connection:
        row = connection.execute("SELECT count(*) FROM public.payment").fetchone()
    assert row is not None
    return int(row[0])


def test_it_says_what_it_would_do_and_touches_nothing(shop: Project, database: Target) -> None:
    done = shop.ask("-R", *IN_PLACE)
    assert done.code == 0, done.err
    assert f"would overwrite {database} by polyladder_" in done.out
    assert "the app would wait about" in done.out
    assert rows(database) == 2


def test_it_says_whose_backup_it_is(shop: Project, database: Target, server: Server) -> None:
    """Another database at the site's address, and the backup of the one that was there before."""
    other = server.target(f"other_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", other.database)
    try:
        done = shop.ask("-R", *IN_PLACE, DATABASE_URL=url(other))
        assert done.code == 0, done.err
        (compared,) = [line for line in done.out.splitlines() if line.startswith("database ")]
        assert compared.split()[1] == other.database
        assert compared.split()[-1] == database.database
    finally:
        run(server.target(), "DROP DATABASE %I WITH (FORCE)", other.database)


@contextmanager
def busy(database: Target) -> Iterator[None]:
    with locks.exclusive(locks.maintenance(database), database.database, doing="restore"):
        yield


@contextmanager
def prepared(database: Target) -> Iterator[None]:
    gid = f"dry_{next(numbers)}"
    say(database, f"BEGIN; CREATE TABLE public.p (); PREPARE TRANSACTION '{gid}'")
    try:
        yield
    finally:
        say(database, f"ROLLBACK PREPARED '{gid}'")


@pytest.mark.parametrize("way", [busy, prepared], ids=["another run", "a prepared transaction"])
def test_it_is_refused_where_the_real_one_is_and_for_the_same(
    way: Callable[[Target], AbstractContextManager[None]], shop: Project, database: Target
) -> None:
    with way(database):
        dry, real = (
            shop.ask(*words, *IN_PLACE, *more) for words, more in ((("-R",), ()), ((), ("--force",)))
        )
    assert (dry.code, real.code) == (4, 4), dry.err + real.err
    assert error_of(dry.err) == error_of(real.err)
    assert rows(database) == 2


def test_a_backup_that_nobody_could_verify_here_is_told_before(shop: Project, database: Target) -> None:
    """Else the real one finds it out when nobody can write any more."""
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    dry, real = (
        shop.ask(*words, *IN_PLACE, *more, BACKUP_AGE_RECIPIENTS=recipient)
        for words, more in ((("-R",), ()), ((), ("--force",)))
    )
    assert (dry.code, real.code) == (4, 4), dry.err + real.err
    assert (
        error_of(dry.err) == error_of(real.err) == "a backup of what is there now could not be verified here"
    )
    assert shop.ask("-R", *IN_PLACE, "--without-backup", BACKUP_AGE_RECIPIENTS=recipient).code == 0
    assert rows(database) == 2


def error_of(said: str) -> str:
    (error,) = [line for line in said.splitlines() if line.startswith("error: ")]
    return error.removeprefix("error: ")


def test_who_holds_a_table_now_is_named(shop: Project, database: Target) -> None:
    with closing(session.connect(database)) as app:
        app.execute("BEGIN")
        app.execute("SELECT count(*) FROM public.payment")
        done = shop.ask("-R", *IN_PLACE)
    assert done.code == 0, done.err
    assert "holds public.payment: it must let go" in done.err
