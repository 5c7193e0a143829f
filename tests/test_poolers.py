"""What stands between us and the server: a pooler that shares sessions is refused before anything is set; others are said."""

from __future__ import annotations

import contextlib
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from polyladder_ops import backups
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, facts, locks, poolers, session
from polyladder_ops.postgres.locks import Busy
from polyladder_ops.postgres.poolers import Pooled
from tests.bouncer import bouncer, program
from tests.conftest import numbers, run
from tests.renumbering import renumbering
from tests.test_setaside import CONTENTS
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

SAID = f"note: {poolers.SAID}"


@pytest.fixture
def shop(server: Server, need: Callable[[object, str], None]) -> Iterator[Target]:
    """An app's database, without anything between; whatever the test makes of its name is gone after it."""
    need(program(), "no pgbouncer (apt-get install pgbouncer)")
    live = server.target(f"pooled_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", live.database)
    with closing(session.connect(live)) as connection:
        connection.execute(CONTENTS.encode())
    yield live
    for name in session.database_sizes(server.target()):
        if name.startswith(live.database):
            databases.drop(server.target(), name)


def raw(target: Target) -> psycopg.Connection[Any]:
    """Return a connection as an app makes it."""
    words = {name: value for name, value in target.parameters.items() if name != "passfile"}
    return psycopg.connect(
        make_conninfo(**words, application_name="app"), autocommit=True, prepare_threshold=None
    )


@contextlib.contextmanager
def clients(target: Target, number: int) -> Iterator[list[psycopg.Connection[Any]]]:
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(closing(raw(target))) for _ in range(number)]


def bent(app: list[psycopg.Connection[Any]]) -> list[tuple[str, str]]:
    """Return what is not as the server made it in the sessions that serve the app's clients now, all at the same time."""
    found = []
    for client in app:
        client.execute("BEGIN")
        row = client.execute(
            "SELECT current_setting('search_path'), current_setting('row_security')"
        ).fetchone()
        found.append(row)
    for client in app:
        client.execute("ROLLBACK")
    return [pair for pair in found if pair and pair != ('"$user", public', "on")]


def place(tmp_path: Path, target: Target) -> Project:
    return project(tmp_path / "project", DATABASE_URL=url(target), BACKUP_DIR=str(tmp_path / "backups"))


def taken(live: Target, tmp_path: Path) -> None:
    """Take a backup past the pooler."""
    backups.take(live, tmp_path / "backups", site="production", private=tmp_path / "private")


# Sessions that are shared ---------------------------------------------------------------------------------------------

TASKS = {
    "backup": (("backup",), 4),
    "doctor": (("doctor",), 3),
    "restore": (("restore", "--backup=latest", "--force"), 4),
    "restore, dry": (("restore", "--backup=latest", "-R"), 4),
    "in place": (("restore", "--backup=latest", "--in-place", "--force"), 4),
    "status": (("restore.status",), 4),
    "abort": (("restore.abort",), 4),
}


@pytest.mark.parametrize("mode", ["transaction", "statement"])
@pytest.mark.parametrize("task", TASKS)
def test_a_pooler_that_shares_sessions_is_refused_and_the_apps_sessions_stay_as_they_are(
    task: str, mode: str, shop: Target, tmp_path: Path
) -> None:
    words, code = TASKS[task]
    taken(shop, tmp_path)
    with bouncer(shop, mode) as pooled, clients(pooled, 6) as app:
        for client in app:
            client.execute("SELECT 1")
        done = place(tmp_path, pooled).run(*words)
        left = bent(app) if mode == "transaction" else []
        sessions = settings_of(app)
    assert (done.code, left, sessions) == (code, [], {('"$user", public', "on")}), done
    assert " pooler in transaction or statement mode stands before" in done.err
    assert (
        "Put the server's own address into the URL, or the pooler's port for sessions" in done.out + done.err
    )
    assert len(list((tmp_path / "backups").glob("*.sql.gz"))) == 1


def settings_of(app: list[psycopg.Connection[Any]]) -> set[tuple[str, str]]:
    question = "SELECT current_setting('search_path'), current_setting('row_security')"
    return {client.execute(question).fetchone() for client in app for _ in range(3)}  # type: ignore[misc]


@contextlib.contextmanager
def busy(target: Target, number: int) -> Iterator[None]:
    """Within the block so many clients go from one transaction to the next."""
    stop = threading.Event()

    def work() -> None:
        with closing(raw(target)) as client:
            while not stop.is_set():
                with client.transaction():
                    client.execute("SELECT 1")

    threads = [threading.Thread(target=work, daemon=True) for _ in range(number)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join(5)


@pytest.mark.parametrize("more", [{}, {"server_round_robin": 1}], ids=["last in first out", "in turn"])
@pytest.mark.parametrize("number", [0, 1, 3, 8])
def test_a_transaction_pooler_is_known_each_time_however_busy_it_is(
    number: int, more: dict[str, Any], shop: Target
) -> None:
    with bouncer(shop, "transaction", **more) as pooled, busy(pooled, number):
        for _ in range(10):
            with pytest.raises(Pooled):
                session.connect(pooled)


@pytest.mark.parametrize("number", [0, 8])
def test_a_session_pooler_is_known_each_time_however_busy_it_is(number: int, shop: Target) -> None:
    with bouncer(shop, "session", max_client_conn=200) as pooled, busy(pooled, number):
        for _ in range(10):
            session._RELAYED.clear()
            with closing(session.connect(pooled)) as connection:
                assert session.is_relayed(connection)


def test_a_transaction_pooler_with_one_session_only_is_known(shop: Target) -> None:
    with bouncer(shop, "transaction", default_pool_size=1) as pooled:
        with pytest.raises(Pooled, match="in transaction or statement mode"):
            session.connect(pooled)
        with closing(raw(pooled)) as client:
            assert settings_of([client]) == {('"$user", public', "on")}


def test_a_session_pooler_that_has_no_second_session_for_us_is_refused_soon(shop: Target) -> None:
    with bouncer(shop, "session", default_pool_size=1) as pooled:
        began = time.monotonic()
        with pytest.raises(Pooled, match="gives us one session only") as caught:
            session.connect(pooled)
    assert time.monotonic() - began < 15
    assert caught.value.hint == poolers.CURE


@pytest.mark.parametrize("mode", ["transaction", "session"])
@pytest.mark.parametrize("task", ["backup", "doctor"])
def test_a_pooler_that_refuses_options_is_called_a_pooler(
    task: str, mode: str, shop: Target, tmp_path: Path
) -> None:
    with bouncer(shop, mode, ignored="") as pooled:
        done = place(tmp_path, pooled).run(task)
    assert done.code == {"backup": 1, "doctor": 3}[task]
    assert "unsupported startup parameter: options" in done.out + done.err
    assert (
        "A pooler answers, not the server, and it refuses `options`: put the server's own address" in done.err
    )


def test_a_live_database_alone_behind_such_a_pooler_ends_the_look_before_a_restore(
    server: Server, shop: Target
) -> None:
    """Modes are set by database: that the maintenance database is served well says nothing of the live one."""
    with bouncer(shop, "transaction") as pooled, pytest.raises(Pooled):
        facts.read_live(pooled)


# Sessions of our own --------------------------------------------------------------------------------------------------


@pytest.fixture(params=["PgBouncer in session mode", "a relay that makes numbers up"])
def relayed(request: pytest.FixtureRequest, shop: Target) -> Iterator[Target]:
    way: Any = bouncer(shop, "session") if "PgBouncer" in request.param else renumbering(shop)
    with way as made:
        yield made[0] if isinstance(made, tuple) else made


def test_a_session_of_our_own_is_let_through_and_said(relayed: Target, tmp_path: Path) -> None:
    where = place(tmp_path, relayed)
    done = where.run("backup")
    assert done.code == 0, done
    assert SAID in done.err
    assert where.run("verify", "--backup=latest").code == 0
    doctor = where.run("doctor")
    assert (doctor.code, "would not work here" in doctor.err) == (0, False), doctor
    assert "A pooler or proxy stands between us and the server" in doctor.out


def test_a_restore_through_a_session_of_our_own_is_done_and_says_so(
    relayed: Target, shop: Target, tmp_path: Path
) -> None:
    taken(shop, tmp_path)
    with closing(session.connect(shop)) as connection:
        connection.execute("TRUNCATE public.deck CASCADE")
    done = place(tmp_path, relayed).run("restore", "--backup=latest", "--force")
    assert done.code == 0, done
    assert SAID in done.err
    with closing(session.connect(shop)) as connection:
        assert connection.execute("SELECT count(*) FROM public.deck").fetchone() == (500,)
    undone = place(tmp_path / "again", relayed).run("restore.undo", "--force")
    assert undone.code == 0, undone


def test_what_stands_between_is_looked_at_once_a_run(shop: Target) -> None:
    with renumbering(shop) as (target, relay):
        with closing(session.connect(target)):
            assert relay.connections == 2
        with closing(session.connect(target)) as connection:
            assert relay.connections == 3
            assert session.is_relayed(connection)
        assert session.relayed(target)
    assert not session.relayed(shop)


def test_nothing_between_is_seen_as_nothing(shop: Target) -> None:
    with closing(session.connect(shop)) as connection:
        assert not session.is_relayed(connection)
        assert session.backend_of(connection) == connection.info.backend_pid


def test_a_run_knows_its_own_lock_by_the_process_that_answers(relayed: Target, shop: Target) -> None:
    with locks.exclusive(relayed, "shop", doing="restore") as connection:
        locks.check(connection, "shop")
        with pytest.raises(Busy), locks.exclusive(relayed, "shop", doing="undo"):
            pass
    with closing(session.connect(shop)) as other:
        deadline = time.monotonic() + 5
        while locks.holder(other, "shop") and time.monotonic() < deadline:
            time.sleep(0.05)
        assert locks.holder(other, "shop") == ""


def test_a_session_of_ours_is_ended_by_the_process_that_answers(relayed: Target, shop: Target) -> None:
    with closing(session.connect(relayed)) as connection:
        databases.end_session(shop, session.backend_of(connection))
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


def test_what_a_pooler_was_told_to_ignore_reaches_the_server_all_the_same(shop: Target) -> None:
    with bouncer(shop, "session") as pooled:
        options = "-c event_triggers=off --work_mem=5MB -c search_path=public"
        wanted = pooled.of(**{**pooled.parameters, "options": options})
        with closing(session.connect(wanted)) as connection:
            row = connection.execute(
                "SELECT current_setting('event_triggers'), current_setting('work_mem'), current_setting('search_path')"
            ).fetchone()
    assert row == ("off", "5MB", "")


def test_a_pooler_whose_server_is_gone_is_an_error_like_any_other(shop: Target) -> None:
    with bouncer(shop.of(**{**shop.parameters, "port": "1"}), "session") as pooled, pytest.raises(OpsError):
        session.connect(pooled, timeout_s=3)
