"""Strangers who hold our locks: any role that may connect can, since their keys are public. They are passed, runs of ours not."""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from polyladder_ops import backups, setaside
from polyladder_ops.postgres import databases, holders, locks, proof_roles, session
from polyladder_ops.postgres.holders import Holder
from polyladder_ops.postgres.locks import Busy
from tests import factories, majors
from tests.conftest import numbers, run
from tests.test_tasks import project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

HASH = "hashtextextended('polyladder-ops ' || %s, 0)"
LOCKS = {
    "alone": f"SELECT pg_advisory_lock({HASH})",
    "shared": f"SELECT pg_advisory_lock_shared({HASH})",
}


def as_role(server: Server, name: str) -> Target:
    return server.target().of(**{**server.target().parameters, "user": name, "password": "x"})


@contextlib.contextmanager
def role(server: Server, rights: str = "") -> Iterator[Target]:
    """Within the block a login with these rights."""
    name = f"role_{next(numbers)}"
    run(server.target(), f"CREATE ROLE %I LOGIN {rights} PASSWORD 'x'", name)
    yield as_role(server, name)
    with closing(session.connect(server.target())) as connection:
        connection.execute(
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE usename = %s", [name]
        )
    run(server.target(), "DROP OWNED BY %I", name)
    run(server.target(), "DROP ROLE %I", name)


def names(server: Target) -> list[str]:
    """Return the server's databases; their sizes are not everybody's to know."""
    with closing(session.connect(server)) as connection:
        return [name for (name,) in connection.execute("SELECT datname FROM pg_database").fetchall()]


@pytest.fixture
def stranger(server: Server) -> Iterator[Target]:
    """A role that may connect, and nothing else."""
    with role(server) as made:
        yield made


@pytest.fixture
def owner(server: Server) -> Iterator[Target]:
    """A role that may make databases, and can't end the stranger's session."""
    with role(server, "CREATEDB") as made:
        yield made


@pytest.fixture
def shop(server: Server, owner: Target) -> Iterator[str]:
    """A live database, the owner's."""
    name = f"shop_{next(numbers)}"
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0 OWNER %I", name, owner.user)
    yield name
    run(server.target(), "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)


def raw(target: Target) -> psycopg.Connection[Any]:
    words = {name: value for name, value in target.parameters.items() if name != "passfile"}
    return psycopg.connect(make_conninfo(**words), autocommit=True)


@contextlib.contextmanager
def holding(who: Target, name: str, how: str = "alone") -> Iterator[psycopg.Connection[Any]]:
    """Within the block this role holds the lock of a database, as far as it is let."""
    with closing(raw(who)) as connection:
        connection.execute(LOCKS[how].encode(), [name])
        yield connection


def is_alive(connection: psycopg.Connection[Any]) -> bool:
    with contextlib.suppress(psycopg.OperationalError):
        return connection.execute("SELECT 1").fetchone() == (1,)
    return False


# A stranger -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", LOCKS)
def test_a_stranger_that_holds_the_lock_is_ended_and_named_by_who_may_end_it(
    how: str, server: Server, stranger: Target, shop: str
) -> None:
    said: list[str] = []
    with (
        holding(stranger, shop, how) as held,
        locks.exclusive(server.target(), shop, doing="restore", say=said.append) as connection,
    ):
        locks.check(connection, shop)
        assert not is_alive(held)
    (sentence,) = said
    assert sentence.startswith(
        f"the role {stranger.user} held the lock of {shop}, which it could not change by itself, "
    )
    assert ", from 127.0.0.1, since 20" in sentence
    assert sentence.endswith("Z: that session was ended")


@pytest.mark.parametrize("how", LOCKS)
def test_a_stranger_that_we_may_not_end_is_passed_and_named(
    how: str, server: Server, stranger: Target, owner: Target, shop: str
) -> None:
    said: list[str] = []
    with (
        holding(stranger, shop, how) as held,
        locks.exclusive(owner, shop, doing="restore", say=said.append) as connection,
    ):
        locks.check(connection, shop)
        assert is_alive(held)
        with pytest.raises(Busy) as caught, locks.exclusive(server.target(), shop, doing="undo"):
            pass
        assert caught.value.detail.startswith("It is restore ")
        locks.check(connection, shop)
        with closing(session.connect(server.target())) as other:
            assert locks.holder(other, shop).startswith("It is restore ")
    assert said == [
        f"the role {stranger.user} held the lock of {shop}, which it could not change by itself: it was passed"
    ]


def test_a_stranger_in_another_database_or_in_a_queue_keeps_nobody_out(
    server: Server, stranger: Target, owner: Target, shop: str
) -> None:
    elsewhere = stranger.with_database("template1")
    with holding(elsewhere, shop), closing(session.connect(owner)) as connection:
        assert locks.holder(connection, shop) == ""
        with locks.exclusive(owner, shop, doing="restore"), closing(raw(stranger)) as waiting:
            thread = threading.Thread(target=_wait, args=(waiting, shop), daemon=True)
            thread.start()
            time.sleep(0.3)
            assert locks.holder(connection, shop).startswith("It is restore ")
            waiting.cancel()
            thread.join()  # a connection that is closed while it waits takes the whole process with it
        with locks.exclusive(owner, shop, doing="undo") as again:
            locks.check(again, shop)


def _wait(connection: psycopg.Connection[Any], name: str) -> None:
    with contextlib.suppress(psycopg.Error):
        connection.execute(LOCKS["alone"].encode(), [name])


@pytest.mark.parametrize("may_end", [True, False], ids=["ended each time", "passed"])
def test_a_stranger_that_takes_the_lock_again_and_again_keeps_nobody_out(
    may_end: bool, server: Server, stranger: Target, owner: Target, shop: str
) -> None:
    stop = threading.Event()

    def take() -> None:
        while not stop.is_set():
            with contextlib.suppress(psycopg.Error), closing(raw(stranger)) as connection:
                connection.execute("SET lock_timeout = '50ms'")
                while not stop.is_set():
                    _wait(connection, shop)
                    connection.execute("SELECT 1")

    threads = [threading.Thread(target=take, daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        time.sleep(0.3)
        us = server.target() if may_end else owner
        for _ in range(3):
            with locks.exclusive(us, shop, doing="restore") as connection:
                locks.check(connection, shop)
                with pytest.raises(Busy), locks.exclusive(us, shop, doing="undo"):
                    pass
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)


def test_a_stranger_that_holds_every_lock_a_run_ever_took_beside_it_keeps_nobody_out(
    server: Server, stranger: Target, owner: Target, shop: str
) -> None:
    """The second half of such a lock is a new random number each time."""
    with holding(stranger, shop) as held:
        with locks.exclusive(owner, shop, doing="restore"), closing(raw(server.target())) as looking:
            seen = looking.execute(
                "SELECT classid::int8, objid::int8 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2"
            ).fetchall()
        assert seen
        for first, second in seen:
            held.execute(
                "SELECT pg_try_advisory_lock((%s::int8 << 32 >> 32)::int4, %s::int4)", [first, second]
            )
        with locks.exclusive(owner, shop, doing="restore") as connection:
            locks.check(connection, shop)


def test_a_dry_run_ends_nobody(server: Server, stranger: Target, shop: str) -> None:
    with holding(stranger, shop) as held:
        with locks.exclusive(server.target(), shop, doing="undo", ends=False) as connection:
            locks.check(connection, shop)
        assert is_alive(held)


def test_the_name_of_a_stranger_writes_nothing_else_on_the_terminal(server: Server, shop: str) -> None:
    met = Holder(7, False, "", "mal\x1b[2J", "its own machine", None, counts=False, may_end=False)
    assert "\x1b" not in locks._passed(shop, met, ended=False)


def test_a_stranger_on_the_way_of_abort_is_named_beside_what_was_done(
    server: Server, stranger: Target, shop: str
) -> None:
    said: list[str] = []
    with holding(stranger, shop):
        assert setaside.abort(server.target(shop), say=said.append) == ()
    assert said[0].startswith(f"the role {stranger.user} held the lock of {shop}")


def test_abort_says_what_was_left_though_a_stranger_stands_in_the_way(
    server: Server, stranger: Target, shop: str, tmp_path: Path
) -> None:
    where = project(tmp_path / "project", DATABASE_URL=url(server.target(shop)))
    with holding(stranger, shop):
        done = where.ask("restore.abort")
    assert (done.code, done.out) == (0, "nothing was left over\n")
    assert f"the role {stranger.user} held the lock of {shop}" in done.err


def test_a_rival_without_a_name_is_told_by_its_role_and_process(server: Server, shop: str) -> None:
    met = Holder(7, False, "", "boss", "its own machine", None, counts=True, may_end=False)
    assert (
        str(locks._busy(shop, [met])).splitlines()[1]
        == "detail: It is a session of the role boss, process 7."
    )


@pytest.fixture(params=["a superuser", "an owner"])
def us(request: pytest.FixtureRequest, server: Server, owner: Target, shop: str) -> Target:
    """The live database, as who may end a stranger's session and as who may not."""
    return (server.target() if request.param == "a superuser" else owner).with_database(shop)


def test_a_restore_is_done_though_a_stranger_holds_the_lock_and_says_who_it_was(
    us: Target, stranger: Target, tmp_path: Path
) -> None:
    shop = us.database
    with closing(session.connect(us)) as connection:
        connection.execute("CREATE TABLE public.deck AS SELECT 1 AS id")
    backups.take(us, tmp_path / "backups", site="production", private=tmp_path / "private")
    where = project(tmp_path / "project", DATABASE_URL=url(us), BACKUP_DIR=str(tmp_path / "backups"))
    with holding(stranger, shop):
        done = where.run("restore", "--backup=latest", "--force")
    assert done.code == 0, done
    assert (
        f"the role {stranger.user} held the lock of {shop}, which it could not change by itself" in done.err
    )
    (aside,) = [name for name in names(us) if name.startswith(f"{shop}_aside_")]
    databases.drop(us, aside)


# Other runs of ours -------------------------------------------------------------------------------------------------


def test_a_run_under_another_role_that_could_change_the_database_is_never_ended(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    with holding(owner, shop) as held, holding(stranger, f"{shop}x"):
        with pytest.raises(Busy), locks.exclusive(server.target(), shop, doing="restore"):
            pass
        assert is_alive(held)
    run(server.target(), "GRANT %I TO %I", owner.user, stranger.user)
    with holding(stranger, shop) as held:
        with pytest.raises(Busy), locks.exclusive(server.target(), shop, doing="restore"):
            pass
        assert is_alive(held)


@pytest.mark.parametrize("right", ["member", "member without inheriting", "creates in it", "superuser"])
def test_who_could_change_the_database_counts(right: str, server: Server, owner: Target, shop: str) -> None:
    rights = {"superuser": "SUPERUSER", "member without inheriting": "NOINHERIT"}
    with role(server, rights.get(right, "")) as other:
        if right.startswith("member"):
            run(server.target(), "GRANT %I TO %I", owner.user, other.user)
        if right == "creates in it":
            run(server.target(), "GRANT CREATE ON DATABASE %I TO %I", shop, other.user)
        with holding(other, shop) as held:
            with pytest.raises(Busy), locks.exclusive(server.target(), shop, doing="restore"):
                pass
            assert is_alive(held)
        if right == "creates in it":
            run(server.target(), "REVOKE CREATE ON DATABASE %I FROM %I", shop, other.user)


def test_for_a_name_that_is_free_who_may_make_databases_counts(
    server: Server, owner: Target, stranger: Target
) -> None:
    with holding(owner, "not there") as held:
        with pytest.raises(Busy), locks.exclusive(server.target(), "not there", doing="restore"):
            pass
        assert is_alive(held)
    with holding(stranger, "not there"), locks.exclusive(owner, "not there", doing="restore") as connection:
        locks.check(connection, "not there")


def test_beside_a_stranger_a_run_of_ours_is_still_met(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    """Whichever of them came first, in whichever mode, and in whichever database the other run works."""
    for maintenance in ("postgres", "template1"):
        with (
            holding(stranger, shop, "shared"),
            locks.exclusive(owner.with_database(maintenance), shop, doing="restore") as connection,
        ):
            for other in ("postgres", "template1"):
                with pytest.raises(Busy), locks.exclusive(owner.with_database(other), shop, doing="undo"):
                    pass
            locks.check(connection, shop)


@pytest.mark.parametrize("is_held", [True, False], ids=["beside a stranger", "alone"])
def test_of_runs_that_begin_at_once_never_two_go_on_and_mostly_one_does(
    is_held: bool, server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    went_on = 0
    for _ in range(8):
        with contextlib.ExitStack() as stack:
            if is_held:
                stack.enter_context(holding(stranger, shop))
            went_on += _at_once(owner, shop, 4)
    assert went_on >= 4


def _at_once(us: Target, name: str, number: int) -> int:
    """Begin so many runs at the same time; return how many went on, which is checked to be one at most at any time."""
    start, lock = threading.Barrier(number), threading.Lock()
    inside: list[int] = []
    most: list[int] = [0]
    wrong: list[BaseException] = []

    def go(number: int) -> None:
        start.wait()
        try:
            with locks.exclusive(us, name, doing="restore"):
                with lock:
                    inside.append(number)
                    most.append(len(inside))
                time.sleep(1.5)  # longer than anybody waits for another to give way
                with lock:
                    inside.remove(number)
        except Busy:
            pass
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=go, args=(n,), daemon=True) for n in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert not wrong
    assert max(most) <= 1
    return max(most)


def test_who_was_too_late_holds_nothing_afterwards(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    with (
        holding(stranger, shop),
        locks.exclusive(owner, shop, doing="restore"),
        closing(session.connect(server.target())) as other,
    ):
        with pytest.raises(Busy):
            locks.acquire(other, shop)
        assert not [h for h in holders.find(other, shop) if h.is_ours]


def test_two_runs_of_one_role_meet_though_it_could_not_change_the_database(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    with locks.exclusive(stranger, shop, doing="abort") as connection:
        with pytest.raises(Busy), locks.exclusive(stranger, shop, doing="abort"):
            pass
        locks.check(connection, shop)
        with locks.exclusive(owner, shop, doing="restore"):
            pass


def test_who_meets_another_run_that_began_at_the_same_time_and_stays_holds_nothing_afterwards(
    owner: Target, stranger: Target, shop: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = locks._beside
    with (
        holding(stranger, shop),
        closing(session.connect(owner)) as other,
        closing(session.connect(owner)) as us,
    ):

        def both(connection: session.Connection, name: str) -> int:
            take(other, name)
            return take(connection, name)

        monkeypatch.setattr(locks, "_beside", both)
        with pytest.raises(Busy):
            locks.acquire(us, shop)
        found = holders.find(us, shop)
        assert (len(holders.rivals(found)), [h for h in found if h.is_ours]) == (1, [])


# Half-made copies -----------------------------------------------------------------------------------------------------


def test_a_stranger_that_holds_the_lock_of_a_dead_copy_does_not_keep_it(
    server: Server, owner: Target, stranger: Target
) -> None:
    name = databases.temporary_name("beside")
    run(owner, "CREATE DATABASE %I", name)
    with holding(stranger, name), closing(session.connect(owner)) as connection:
        assert databases.abandoned(connection) == [name]
    with holding(stranger, name):
        assert databases.drop_abandoned(owner) == [name]


def test_a_living_copy_stays_though_a_stranger_holds_its_lock_elsewhere(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    name = databases.temporary_name("beside")
    with databases.locked(owner, name), holding(stranger.with_database(shop), name):
        run(owner, "CREATE DATABASE %I", name)
        with closing(session.connect(server.target())) as connection:
            assert databases.abandoned(connection) == []
    assert databases.drop_abandoned(owner) == [name]


def test_a_copy_whose_lock_a_stranger_had_first_is_in_use_all_the_same(
    server: Server, owner: Target, stranger: Target
) -> None:
    name = databases.temporary_name("beside")
    with holding(stranger, name):
        with databases.locked(owner, name):
            run(owner, "CREATE DATABASE %I", name)
            assert databases.drop_abandoned(server.target()) == []
        assert databases.drop_abandoned(owner) == [name]


# The roles of a proof -------------------------------------------------------------------------------------------------


def test_who_holds_the_lock_of_making_roles_holds_a_proof_up_for_some_seconds_only(
    server: Server, stranger: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof_roles, "_ONE_BY_ONE_S", 1)
    wanted = [factories.role(f"proof_{next(numbers)}")]
    key = f"hashtextextended('{proof_roles._FOR_A_PROOF}', 0)"
    with closing(raw(stranger)) as held, closing(session.connect(server.target())) as connection:
        held.execute(f"SELECT pg_advisory_lock({key})".encode())
        began = time.monotonic()
        connection.execute("SET statement_timeout = '20s'")
        made = proof_roles.make(connection, wanted, superusers=False)
        assert time.monotonic() - began < 10
        assert made == (wanted[0].name,)
        assert connection.execute("SHOW lock_timeout").fetchone() == ("1min",)
        proof_roles.drop(connection, made)


# On every major ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", majors.SERVERS)
def test_on_every_major_strangers_are_passed_runs_are_met_and_no_session_is_set_that_is_not_ours(
    major: int, need: Callable[[object, str], None]
) -> None:
    need(majors.programs(major), f"no PostgreSQL {major} (python -m tests.majors)")
    with majors.running(major) as target:
        for name, rights in (("stranger", ""), ("owner", "CREATEDB")):
            run(target, f"CREATE ROLE %I LOGIN {rights} PASSWORD 'x'", name)
        stranger, owner = (
            target.of(**{**target.parameters, "user": name, "password": "x"})
            for name in ("stranger", "owner")
        )
        run(owner, "CREATE DATABASE %I", "shop")
        with holding(stranger, "shop") as held:
            with locks.exclusive(owner, "shop", doing="restore"), pytest.raises(Busy):
                locks.exclusive(target, "shop", doing="undo").__enter__()
            assert is_alive(held)
            with locks.exclusive(target, "shop", doing="undo") as connection:
                locks.check(connection, "shop")
                assert not is_alive(held)
        with closing(raw(target)) as other:
            assert session._pinned(other, {}, by=session.backend_of(other) + 1) is None
            assert other.execute("SHOW search_path").fetchone() == ('"$user", public',)
            assert session._pinned(other, {}, by=session.backend_of(other)) == other.info.backend_pid


# Prepared transactions ------------------------------------------------------------------------------------------------


def test_a_prepared_transaction_that_holds_the_lock_is_passed(
    server: Server, owner: Target, stranger: Target, shop: str
) -> None:
    said: list[str] = []
    with closing(raw(stranger)) as connection:
        connection.execute("BEGIN")
        connection.execute(LOCKS["alone"].replace("advisory_lock", "advisory_xact_lock").encode(), [shop])
        connection.execute(f"PREPARE TRANSACTION 'strangers {shop}'".encode())
        try:
            with locks.exclusive(owner, shop, doing="restore", say=said.append) as held:
                locks.check(held, shop)
                with pytest.raises(Busy), locks.exclusive(server.target(), shop, doing="undo"):
                    pass
        finally:
            connection.execute(f"ROLLBACK PREPARED 'strangers {shop}'".encode())
    assert said == [
        f"a prepared transaction held the lock of {shop}, which it could not change by itself: it was passed"
    ]
