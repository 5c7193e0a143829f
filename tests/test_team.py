"""Connections that work together stop together, soon, and the first cause is the one that is told."""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.team import Stopped, Team, opened
from tests.faults.tunnel import tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server

SLEEP = "SELECT pg_catalog.pg_sleep(60)"


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[int], list[Connection]]]:
    """A call that gives so many connections; after the test none is left open and no thread of a team alive."""
    with contextlib.ExitStack() as stack:

        def connections(count: int) -> list[Connection]:
            return [
                stack.enter_context(contextlib.closing(session.connect(server.target())))
                for _ in range(count)
            ]

        yield connections
        left = [thread.name for thread in threading.enumerate()]
        assert [name for name in left if name.startswith(("work ", "stop", "cancel"))] == []


@contextlib.contextmanager
def within(seconds: float) -> Iterator[None]:
    begun = time.monotonic()
    yield
    assert time.monotonic() - begun < seconds


def waits_for(connection: Connection, event: str, asked: Connection) -> None:
    """Return when the server says that the first connection is in this wait event."""
    for _ in range(200):
        (row,) = asked.execute(
            "SELECT wait_event FROM pg_catalog.pg_stat_activity WHERE pid = %s",
            [connection.info.backend_pid],
        ).fetchall()
        if row[0] == event:
            return
        time.sleep(0.02)
    raise AssertionError(row)


def test_all_work_at_the_same_time_and_the_end_is_when_all_are_done(
    connect: Callable[[int], list[Connection]],
) -> None:
    team = Team(connect(3))
    together = threading.Barrier(3, timeout=10)
    done = []

    def work(place: int) -> None:
        together.wait()
        time.sleep(place / 10)
        team.connections[place].execute("SELECT 1")
        done.append((place, threading.current_thread()))

    team.run(work)
    assert [place for place, _ in done] == [0, 1, 2]
    assert done[0][1] is threading.main_thread()
    assert len({thread for _, thread in done}) == 3


def test_one_connection_works_without_a_thread(connect: Callable[[int], list[Connection]]) -> None:
    seen = []

    def work(place: int) -> None:
        seen.append((place, threading.current_thread(), threading.active_count()))
        if len(seen) == 2:
            raise ValueError("first")

    team = Team(connect(1))
    team.run(work)
    with pytest.raises(ValueError, match="first"):
        team.run(work)
    assert seen == [(0, threading.main_thread(), threading.active_count())] * 2


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_the_first_failure_ends_the_queries_of_the_others_and_is_the_cause(
    failing: int, connect: Callable[[int], list[Connection]]
) -> None:
    team = Team(connect(3))
    (asked,) = connect(1)
    sleepers = [place for place in range(3) if place != failing]

    def work(place: int) -> None:
        if place != failing:
            team.connections[place].execute(SLEEP)
        for sleeper in sleepers:
            waits_for(team.connections[sleeper], "PgSleep", asked)
        team.connections[place].execute("SELECT 1 / 0")

    with within(4), pytest.raises(psycopg.errors.DivisionByZero):
        team.run(work)
    for connection in team.connections:  # nothing is still running, no cancel is still on its way
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_who_fails_later_is_not_the_cause(connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(3))

    def work(place: int) -> None:
        if place == 1:
            raise ValueError("first")
        with contextlib.suppress(Stopped):
            team.wait_until(lambda: False)
        raise ValueError("later")

    with within(2), pytest.raises(ValueError, match="first"):
        team.run(work)


def test_a_query_that_begins_after_the_first_cancel_is_cancelled_too(
    connect: Callable[[int], list[Connection]],
) -> None:
    team = Team(connect(2))

    def work(place: int) -> None:
        if place == 0:
            raise ValueError("first")
        time.sleep(0.5)
        team.connections[place].execute(SLEEP)

    with within(2), pytest.raises(ValueError, match="first"):
        team.run(work)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no setitimer")
@pytest.mark.parametrize("where", ["in a query", "waiting for the team", "done already"])
def test_a_ctrl_c_stops_all(where: str, connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(3))
    if sys.platform == "win32":
        pytest.skip("Windows has no timer that sends a signal")
    (asked,) = connect(1)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt("SIGALRM")

    def work(place: int) -> None:
        if place:
            team.connections[place].execute(SLEEP)
        for sleeper in (1, 2):
            waits_for(team.connections[sleeper], "PgSleep", asked)
        signal.setitimer(signal.ITIMER_REAL, 0.2)
        if where == "in a query":
            team.connections[place].execute(SLEEP)
        elif where == "waiting for the team":
            team.wait_until(lambda: False)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with within(4), pytest.raises(KeyboardInterrupt, match="SIGALRM"):
            team.run(work)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_a_session_that_the_server_ended_is_reported_as_that(
    connect: Callable[[int], list[Connection]],
) -> None:
    team = Team(connect(2))
    (asked,) = connect(1)

    def work(place: int) -> None:
        if place == 0:
            waits_for(team.connections[1], "PgSleep", asked)
            asked.execute(
                "SELECT pg_catalog.pg_terminate_backend(%s)", [team.connections[1].info.backend_pid]
            )
        team.connections[place].execute(SLEEP)

    with within(4), pytest.raises(psycopg.errors.AdminShutdown):
        team.run(work)


def test_who_waits_wakes_when_another_changes_what_they_share(
    connect: Callable[[int], list[Connection]],
) -> None:
    team = Team(connect(3))
    said: list[int] = []

    def work(place: int) -> None:
        for turn in range(place, 300, 3):
            team.wait_until(lambda turn=turn: len(said) == turn)  # type: ignore[misc]
            with team.changed():
                said.append(turn)

    with within(5):  # 300 turns, of which none may wait until it looks by itself
        team.run(work)
    assert said == list(range(300))


def test_tasks_are_begun_in_their_order_by_whoever_is_free(
    connect: Callable[[int], list[Connection]],
) -> None:
    team = Team(connect(3))
    done: list[tuple[int, Connection]] = []

    def task(number: int, connection: Connection) -> None:
        connection.execute("SELECT pg_catalog.pg_sleep(%s)", [0.3 if number == 0 else 0.02])
        done.append((number, connection))

    team.share(partial(task, number) for number in range(9))
    assert sorted(number for number, _ in done) == list(range(9))
    assert done[-1][0] == 0  # the first and longest kept nobody from the others
    assert {connection for _, connection in done} == set(team.connections)


def test_no_task_is_begun_after_one_has_failed(connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(2))
    begun: list[int] = []

    def task(number: int, connection: Connection) -> None:
        begun.append(number)
        connection.execute("SELECT 1 / %s::int", [number - 1])
        time.sleep(0.05)

    with pytest.raises(psycopg.errors.DivisionByZero):
        team.share(partial(task, number) for number in range(99))
    assert max(begun) < 9


@pytest.mark.parametrize("number", [1, 3])
def test_what_is_done_here_goes_on_while_every_connection_works(
    number: int, connect: Callable[[int], list[Connection]]
) -> None:
    team = Team(connect(number))
    together = threading.Barrier(number + 1, timeout=10)
    done: list[Connection] = []

    def task(connection: Connection) -> None:
        together.wait()
        done.append(connection)

    team.share([task] * number, here=together.wait)
    assert set(done) == set(team.connections)


def test_what_fails_here_stops_the_work(connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(2))

    def here() -> None:
        time.sleep(0.2)
        raise ValueError("here")

    with within(2), pytest.raises(ValueError, match="here"):
        team.share([lambda connection: connection.execute(SLEEP)] * 2, here=here)


def test_work_that_fails_meanwhile_is_the_cause(connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(2))

    def task(connection: Connection) -> None:
        connection.execute("SELECT 1 / 0")

    with within(2), pytest.raises(psycopg.errors.DivisionByZero):
        team.share([task], here=lambda: time.sleep(0.5))


@pytest.mark.parametrize("_attempt", range(6))
def test_an_answer_that_nobody_reads_any_more_keeps_no_database_from_being_dropped(
    _attempt: int, server: Server, connect: Callable[[int], list[Connection]]
) -> None:
    """The server's process has to be busy still when it is told of the drop; blocked before that, it hears of it."""
    may_begin, has_failed = threading.Event(), threading.Event()
    own = session.connect(server.target(), settings={"statement_timeout": "6s"})

    def task(connection: Connection) -> None:
        may_begin.wait(10)
        connection.pgconn.send_query(
            b"COPY (SELECT repeat('x', 1000) FROM generate_series(1, 50000)) TO STDOUT"
        )
        has_failed.set()
        raise ValueError("work")

    def here() -> None:
        own.execute("CREATE DATABASE dropped")
        may_begin.set()
        has_failed.wait(10)
        own.execute("DROP DATABASE dropped")

    with contextlib.closing(own), within(5), pytest.raises(ValueError, match="work"):
        Team(connect(1)).share([task], here=here)
    assert "dropped" not in session.database_sizes(server.target())


def test_what_a_full_server_does_not_give_is_done_without(server: Server) -> None:
    with contextlib.closing(session.connect(server.target())) as owner:
        owner.execute("CREATE ROLE two LOGIN PASSWORD 'two' CONNECTION LIMIT 2")
        two = Target.of(**{**server.target().parameters, "user": "two", "password": "two"})
        with opened(partial(session.connect, two), 5) as connections:
            assert len(connections) == 2
            with opened(partial(session.connect, two), 5) as more:
                assert more == ()
        assert all(connection.closed for connection in connections)
        owner.execute("DROP ROLE two")
    with (
        pytest.raises(OpsError, match="nowhere"),
        opened(partial(session.connect, server.target("nowhere")), 1),
    ):
        pass


def test_a_loop_of_its_own_ends_at_its_next_check(connect: Callable[[int], list[Connection]]) -> None:
    team = Team(connect(2))

    def work(place: int) -> None:
        if place:
            raise ValueError("first")
        while True:
            team.check()
            time.sleep(0.01)

    with within(2), pytest.raises(ValueError, match="first"):
        team.run(work)
    assert team.stopping


def test_a_dead_network_is_hung_up_after_seconds(
    server: Server, connect: Callable[[int], list[Connection]]
) -> None:
    """Neither the query nor its cancel is answered any more; the thread that waits must not hold up the rest."""
    here = server.target()
    with tunnel(int(here.port)) as relay:
        there = Target.of(**{**here.parameters, "host": "127.0.0.1", "port": str(relay.port)})
        with contextlib.closing(session.connect(there)) as far:
            team = Team([*connect(1), far])

            def work(place: int) -> None:
                if place:
                    team.connections[place].execute(SLEEP)
                time.sleep(0.3)
                relay.hold()
                raise ValueError("first")

            with within(4.5), pytest.raises(ValueError, match="first"):
                team.run(work)
            assert far.broken
