"""The lock of a database: one run at a time, the second hears who; a dead holder lets go, and a lost lock is noticed."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.portable import by_whom
from polyladder_ops.postgres import heartbeat, locks, opening, orphans, session
from polyladder_ops.postgres.locks import Busy
from tests import majors
from tests.conftest import run
from tests.faults.places import wait_for, with_other
from tests.faults.tunnel import tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


def held(server: Target, database: str) -> str:
    with closing(session.connect(server)) as connection:
        return locks.holder(connection, database)


def test_a_second_run_hears_at_once_what_runs_who_runs_it_from_where_and_since_when(server: Server) -> None:
    target = server.target()
    with locks.exclusive(target, "shop", doing="restore"):
        began = time.monotonic()
        with pytest.raises(Busy) as caught, locks.exclusive(target, "shop", doing="undo"):
            pass
        assert time.monotonic() - began < 2
    assert caught.value.exit_code == 4
    assert caught.value.message == "another run is changing shop"
    said = rf"It is restore {re.escape(by_whom())}, from 127\.0\.0\.1, since \d{{4}}-\d\d-\d\d \d\d:\d\d:\d\dZ, (last heard \d+ s ago|at work now)\."
    assert re.fullmatch(said, caught.value.detail)
    with locks.exclusive(target, "shop", doing="undo"):
        pass


def test_who_may_not_look_at_the_holders_session_still_hears_its_name(server: Server) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "locks_poor")
    poor = type(server.target()).of(**{**server.target().parameters, "user": "locks_poor", "password": "x"})
    try:
        with locks.exclusive(server.target(), "shop", doing="restore"):
            assert held(poor, "shop") == f"It is restore {by_whom()}"
    finally:
        run(server.target(), "DROP ROLE %I", "locks_poor")


def test_another_database_is_another_lock(server: Server) -> None:
    with (
        locks.exclusive(server.target(), "shop", doing="restore"),
        locks.exclusive(server.target(), "Shop", doing="restore"),
    ):
        assert held(server.target(), "shop")
        assert held(server.target(), "shopx") == ""
    assert held(server.target(), "shop") == ""


@pytest.mark.parametrize("name", ["a", "b", "c", "d", "e", "f", "g", "h", "Büro 'x'", "x" * 63])
def test_the_holder_is_found_whatever_number_the_name_becomes(name: str, server: Server) -> None:
    with locks.exclusive(server.target(), name, doing="restore") as connection:
        locks.check(connection, name)
        assert held(server.target(), name).startswith("It is restore ")


def test_two_runs_exclude_each_other_though_their_roles_have_to_work_in_two_databases(server: Server) -> None:
    """An advisory lock taken in one database does not keep out who asks for it in another."""
    with locks.exclusive(server.target("template1"), "shop", doing="undo") as connection:
        with pytest.raises(Busy) as caught, locks.exclusive(server.target(), "shop", doing="restore"):
            pass
        assert caught.value.detail.startswith("It is undo ")
        assert held(server.target(), "shop").startswith("It is undo ")
        locks.check(connection, "shop")
    with locks.exclusive(server.target(), "shop", doing="restore"):
        pass


def test_a_lock_of_two_halves_is_another_lock_though_its_number_is_ours(server: Server) -> None:
    key = "hashtextextended('polyladder-ops shop', 0)"
    with closing(session.connect(server.target())) as halves:
        halves.execute(f"SELECT pg_advisory_lock(({key} >> 32)::int4, (({key} << 32) >> 32)::int4)".encode())
        assert held(server.target(), "shop") == ""
        with locks.exclusive(server.target(), "shop", doing="restore"):
            pass


HOLDING = """
import sys, time
from polyladder_ops.postgres import locks
from polyladder_ops.postgres.conninfo import Target
target = Target.of(**dict(line.rstrip("\\n").split("=", 1) for line in sys.stdin))
with locks.exclusive(target, "shop", doing="restore"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_holder_that_is_killed_lets_go(server: Server) -> None:
    target = server.target()
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("".join(f"{name}={value}\n" for name, value in target.parameters.items()))
    process.stdin.close()
    assert process.stdout.readline() == "held\n"
    with pytest.raises(Busy), locks.exclusive(target, "shop", doing="abort"):
        pass
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 10
    while held(target, "shop") and time.monotonic() < deadline:
        time.sleep(0.05)
    with locks.exclusive(target, "shop", doing="abort"):
        pass


def test_a_lock_whose_session_was_ended_is_noticed(server: Server) -> None:
    with (
        locks.exclusive(server.target(), "shop", doing="restore") as connection,
        closing(session.connect(server.target())) as other,
    ):
        locks.check(connection, "shop")
        other.execute("SELECT pg_terminate_backend(%s, 5000)", [connection.info.backend_pid])
        with pytest.raises(OpsError, match="the lock on shop was lost, so nothing more was changed"):
            locks.check(connection, "shop")


def test_a_lock_that_the_session_let_go_is_noticed_and_so_is_one_that_another_has(server: Server) -> None:
    with locks.exclusive(server.target(), "shop", doing="restore") as connection:
        connection.execute("SELECT pg_advisory_unlock_all()")
        with pytest.raises(OpsError, match="was lost"):
            locks.check(connection, "shop")
        with (
            locks.exclusive(server.target(), "shop", doing="undo"),
            pytest.raises(OpsError, match="was lost"),
        ):
            locks.check(connection, "shop")


# The maintenance database --------------------------------------------------------------------------------------------


def test_the_lock_is_in_postgres_or_in_template1_if_that_is_the_apps(server: Server) -> None:
    assert locks.maintenance(server.target("shop")).database == "postgres"
    assert locks.maintenance(server.target("postgres")).database == "template1"


def test_who_may_not_into_postgres_works_in_template1_and_without_both_hears_why(server: Server) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "locks_poor")
    poor = type(server.target()).of(
        **{**server.target("shop").parameters, "user": "locks_poor", "password": "x"}
    )
    try:
        run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", "postgres")
        assert locks.maintenance(poor).database == "template1"
        run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", "template1")
        with pytest.raises(OpsError, match="could not connect to postgres"):
            locks.maintenance(poor)
    finally:
        for name in ("postgres", "template1"):
            run(server.target(), "GRANT CONNECT ON DATABASE %I TO PUBLIC", name)
        run(server.target(), "DROP ROLE %I", "locks_poor")


def test_a_server_without_a_second_database_to_work_in_says_so(server: Server) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "locks_poor")
    poor = type(server.target()).of(**{**server.target().parameters, "user": "locks_poor", "password": "x"})
    try:
        run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", "template1")
        with pytest.raises(OpsError) as caught:
            locks.maintenance(poor)
    finally:
        run(server.target(), "GRANT CONNECT ON DATABASE %I TO PUBLIC", "template1")
        run(server.target(), "DROP ROLE %I", "locks_poor")
    assert caught.value.message == "the database postgres can't be replaced"
    assert caught.value.hint == "Keep the app's data in a database of its own."


# A holder that is silent ----------------------------------------------------------------------------------------------

SOON_S = 5.0
LONG_S = 60.0  # on any machine; a server keeps a session that nobody ends for hours


@pytest.fixture(scope="module", params=[13, 14, 15, 18])
def of_a_major(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    """A server of each kind: 13 has no limit for idle sessions."""
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as target:
        yield target


def locked_by(target: Target, database: str) -> bool:
    return bool(held(target, database))


def test_a_holder_that_lives_is_heard_and_one_that_is_silent_is_let_go_of(of_a_major: Target) -> None:
    with tunnel(of_a_major.port) as by, closing(connect_by(of_a_major, by.port)) as connection:
        locks.acquire(connection, "shop")
        with heartbeat.kept(connection, every_s=0.2, silent_s=SOON_S):
            until = time.monotonic() + 2 * SOON_S
            while time.monotonic() < until:
                assert locked_by(of_a_major, "shop")
                time.sleep(0.2)
            assert re.search(r", (last heard \d s ago|at work now)\Z", held(of_a_major, "shop"))
            by.hold()
            wait_for(lambda: not locked_by(of_a_major, "shop"), within_s=LONG_S)


def test_what_holds_the_lock_can_be_used_between_its_heartbeats(of_a_major: Target) -> None:
    """On 13 it rests in a transaction, in which no database could be made."""
    with closing(session.connect(of_a_major)) as connection:
        locks.acquire(connection, "shop")
        with heartbeat.kept(connection, every_s=0.05):
            for _ in range(3):
                wait_for(lambda: is_resting(connection), within_s=LONG_S)
                assert session.is_usable(connection)
                connection.execute("CREATE DATABASE beats TEMPLATE template0")
                connection.execute("DROP DATABASE beats")
            with connection.transaction():
                connection.execute("CREATE TEMPORARY TABLE x (a integer)")
                time.sleep(0.3)  # for some words of the heartbeat; none may do harm
            with connection.pipeline():
                connection.execute("INSERT INTO x VALUES (1)")
                time.sleep(0.3)
            assert connection.execute("SELECT a FROM x").fetchone() == (1,)
            with pytest.raises(ZeroDivisionError), connection.transaction():
                time.sleep(1 // 0)
            locks.check(connection, "shop")
        assert session.is_usable(connection)


def is_resting(connection: session.Connection) -> bool:
    """Whether the heartbeat has been there since something was said; on newer servers that leaves no trace."""
    assert isinstance(connection, opening.Session)
    assert connection.beat is not None
    return connection.info.server_version >= 140000 or connection.beat.is_resting


def connect_by(target: Target, port: int) -> session.Connection:
    return session.connect(with_other(target, port=port))


def test_a_session_with_a_heartbeat_is_closed_though_its_link_is_silent(server: Server) -> None:
    target = server.target()
    with tunnel(target.port) as by:
        connection = connect_by(target, by.port)
        with heartbeat.kept(connection, every_s=0.05):
            by.hold()
            wait_for(connection.lock.locked, within_s=LONG_S)  # the word is on its way
            connection.close()
        assert "heartbeat" not in {thread.name for thread in threading.enumerate()}


def test_the_dump_of_a_dead_run_is_ended_by_the_next_and_that_of_a_living_one_is_not(server: Server) -> None:
    target = server.target()
    with closing(session.connect(target)) as living, closing(session.connect(target)) as dead:
        numbers = [session.backend_of(one) for one in (living, dead)]
        dumps = [session.connect(with_other(target, application_name=orphans.name(n))) for n in numbers]
        stranger = session.connect(with_other(target, application_name="polyladder-ops pg_dump of my own"))
        dead.close()
        wait_for(lambda: not there(living, numbers[1]), within_s=LONG_S)
        with locks.exclusive(target, "shop", doing="restore"):
            pass
        wait_for(lambda: not there(living, session.backend_of(dumps[1])), within_s=LONG_S)
        assert there(living, session.backend_of(dumps[0]))
        assert there(living, session.backend_of(stranger))
        for one in (*dumps, stranger):
            one.close()


def there(connection: session.Connection, pid: int) -> bool:
    return connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None
