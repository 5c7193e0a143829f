"""What others have made and not committed while a database is restored in place: nobody sees it, and it comes to light after it."""

from __future__ import annotations

import sys
import threading
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import inplace, loading
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import session, takeover
from polyladder_ops.postgres.conninfo import Target
from tests import majors
from tests.conftest import numbers, run
from tests.test_inplace import execute, take

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.session import Connection

SHOP = """
CREATE TABLE public.users (id serial PRIMARY KEY, name text); INSERT INTO public.users (name) VALUES ('a'), ('b');
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE FUNCTION public.f(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1'; SELECT lo_from_bytea(7001, 'before');
"""
MADE = {
    "what uses a type": ("CREATE TABLE public.pay (m public.mood); INSERT INTO public.pay VALUES ('bad')",
                         "SELECT m::text FROM public.pay", "bad"),
    "what uses a function": ("CREATE TABLE public.pay (a int CHECK (public.f(1) = 1)); INSERT INTO public.pay VALUES (7)",
                             "SELECT a FROM public.pay", 7),
    "a function of a type": ("CREATE FUNCTION public.g(public.mood) RETURNS int LANGUAGE sql AS 'SELECT 2'",
                             "SELECT public.g('bad')", 2),
    "a large object": ("SELECT lo_put(7001, 0, 'after!')", "SELECT lo_get(7001)", b"after!"),
}  # fmt: skip


@dataclass(frozen=True)
class Shop:
    """A database of a role that is no superuser, its backup, and a superuser who is at work in it."""

    target: Target
    backup: Backup
    superuser: Target

    def begun(self, statements: str) -> Connection:
        """Return a session that has done this and not committed it."""
        other = session.connect(
            Target.of(**{**self.superuser.parameters, "application_name": "by hand"}),
            settings={"search_path": "public"},
        )
        other.execute("BEGIN")
        other.execute(statements.encode())
        return other

    def restore(self, *, wait_s: float = 0.3, amid: Callable[[], object] | None = None) -> inplace.Restored:
        """Restore; `amid` is called once, while the rows are loaded."""
        todo = [amid] if amid else []

        def progress(_size: int) -> None:
            if todo:
                todo.pop()()

        return inplace.restore(self.target, self.backup, [], lock_wait_s=wait_s, progress=progress)


@pytest.fixture(scope="module", params=[13, 17, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(sys.platform == "linux" and majors.programs(request.param), f"no PostgreSQL {request.param}")
    with majors.running(request.param, max_prepared_transactions="4") as target:
        run(target, "CREATE ROLE own LOGIN PASSWORD 'own'")
        yield target


@pytest.fixture
def empty(cluster: Target) -> Iterator[Target]:
    superuser = cluster.with_database(f"empty_{next(numbers)}")
    run(cluster, "CREATE DATABASE %I OWNER own TEMPLATE template0", superuser.database)
    yield superuser
    run(cluster, "DROP DATABASE %I WITH (FORCE)", superuser.database)


@pytest.fixture
def shop(cluster: Target, tmp_path: Path) -> Iterator[Shop]:
    superuser = cluster.with_database(f"shop_{next(numbers)}")
    run(cluster, "CREATE DATABASE %I OWNER own TEMPLATE template0", superuser.database)
    target = Target.of(**{**superuser.parameters, "user": "own", "password": "own"})
    execute(target, SHOP)
    backup = take(target, tmp_path)
    execute(target, "INSERT INTO public.users (name) VALUES ('c')")
    yield Shop(target, backup, superuser)
    run(cluster, "DROP DATABASE %I WITH (FORCE)", superuser.database)


def count(target: Target) -> object:
    with closing(session.connect(target)) as connection:
        ((found,),) = connection.execute("SELECT count(*) FROM public.users").fetchall()
        return found


@pytest.mark.parametrize(("made", "query", "answer"), MADE.values(), ids=[*MADE])
def test_what_somebody_has_made_and_not_committed_is_whole_when_he_commits(
    made: str, query: str, answer: object, shop: Shop, tmp_path: Path
) -> None:
    """On 13 to 17 nothing kept the type or the function that it uses from being dropped; every later backup failed."""
    with closing(shop.begun(made)) as other:
        with pytest.raises(Refused, match="has not committed") as caught:
            shop.restore()
        assert f"process {other.info.backend_pid} of postgres (by hand" in caught.value.detail
        assert caught.value.hint.startswith("Nothing was touched.")
        other.execute("COMMIT")
        assert other.execute(query.encode()).fetchone() == (answer,)
    assert count(shop.target) == 3
    assert take(shop.superuser, tmp_path / "later").manifest.objects


def test_who_begins_while_the_rows_are_loaded_is_looked_for_before_the_commit(shop: Shop) -> None:
    begun: list[Connection] = []
    with pytest.raises(Refused, match="has not committed") as caught:
        shop.restore(amid=lambda: begun.append(shop.begun("CREATE TABLE public.late AS SELECT 100 AS paid")))
    with closing(begun[0]) as other:
        assert f"process {other.info.backend_pid} of postgres" in caught.value.detail
        other.execute("COMMIT")
        assert other.execute("SELECT paid FROM public.late").fetchone() == (100,)
    assert count(shop.target) == 3


def test_a_transaction_that_was_prepared_meanwhile_has_a_name_and_no_process(shop: Shop) -> None:
    def prepare() -> None:
        with closing(shop.begun("CREATE TABLE public.late (a int)")) as other:
            other.execute("PREPARE TRANSACTION 'half done'")

    with pytest.raises(Refused, match="has not committed") as caught:
        shop.restore(amid=prepare)
    execute(shop.superuser, "ROLLBACK PREPARED 'half done'")
    assert "the prepared transaction half done" in caught.value.detail
    assert count(shop.target) == 3


def test_who_ends_in_time_is_waited_for(shop: Shop) -> None:
    with closing(shop.begun("CREATE TABLE public.late (a int)")) as other:
        ending = threading.Timer(0.5, other.execute, ["ROLLBACK"])
        ending.start()
        shop.restore(wait_s=60)
        ending.join()
    assert count(shop.target) == 2


def test_who_writes_in_another_database_or_only_reads_in_this_one_is_not_in_its_way(
    shop: Shop, empty: Target
) -> None:
    with closing(session.connect(empty)) as writer, closing(shop.begun("SELECT 1")) as reader:
        writer.execute("BEGIN")
        writer.execute("CREATE TABLE public.late (a int)")
        reader.execute("SELECT count(*) FROM pg_catalog.pg_class")
        shop.restore()
    assert count(shop.target) == 2


def test_a_name_that_somebody_has_taken_is_not_waited_for_without_an_end(shop: Shop, empty: Target) -> None:
    """The dump says how long it would wait: for ever."""
    with closing(session.connect(empty)) as other, closing(session.connect(empty)) as ours:
        other.execute("BEGIN")
        other.execute("CREATE TABLE public.users (a int)")
        ours.execute("BEGIN")
        ours.execute("SET LOCAL lock_timeout = '300ms'")
        with pytest.raises(OpsError, match="the server refused") as caught:
            loading.feed(ours, shop.backup, [])
        assert "lock timeout" in caught.value.detail
        assert caught.value.hint.startswith("Another session has it: end that one")


def test_once_the_locks_are_held_nothing_is_waited_for_longer_than_a_minute(shop: Shop) -> None:
    with closing(session.connect(shop.target, settings={"lock_timeout": "0"})) as ours:
        ours.execute("BEGIN")
        takeover.stop_writers(ours, shop.target)
        assert ours.execute("SHOW lock_timeout").fetchone() == ("1min",)
        with takeover.lock_out(ours, shop.target):
            pass
        assert ours.execute("SHOW lock_timeout").fetchone() == ("1min",)
