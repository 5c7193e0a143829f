"""Who else is on the server while a restore runs: clients, superusers, other restores, standbys, and the lock itself."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from polyladder_ops import output, setaside
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import locks, switch
from polyladder_ops.postgres.locks import Busy
from polyladder_ops.postgres.session import connect
from polyladder_ops.restore import lock_again, undo
from tests.faults.places import Place, ask, login, say, wait_for, with_other
from tests.faults.restores import COMMENT, Stage, stage
from tests.faults.wire import Strike, wire

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.replacement import Plan
    from polyladder_ops.sandbox import server as servers


@pytest.fixture(scope="module")
def shared_stage(role: Target, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    folder = tmp_path_factory.mktemp("sessions")
    with stage(
        Place(role, folder / "backups", folder / "state" / "runs"), name=f"live_sessions_{os.getpid()}"
    ) as made:
        yield made


@pytest.fixture
def on_stage(shared_stage: Stage) -> Stage:
    """A live database of a superuser's, and a backup of what it was."""
    shared_stage.set_up()
    return shared_stage


@pytest.fixture(scope="module")
def owner_stage(server: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    """The same of an owner who is no superuser and may make databases."""
    folder = tmp_path_factory.mktemp("owner")
    owner = login(server.target(), "CREATEDB")
    with stage(
        Place(owner, folder / "backups", folder / "state" / "runs"), name=f"live_owner_{os.getpid()}"
    ) as made:
        made.set_up()
        yield made
    say(server.target(), "DROP OWNED BY {}; DROP ROLE {}", owner.user, owner.user)


@contextlib.contextmanager
def hammering(target: Target, clients: int) -> Iterator[list[list[str]]]:
    """Within the block this many clients ask who answers, on a new session each time; yields what each heard, in turn."""
    heard: list[list[str]] = [[] for _ in range(clients)]
    stop = threading.Event()

    def hammer(mine: list[str]) -> None:
        while not stop.is_set():
            try:
                with psycopg.connect(make_conninfo(**target.parameters, application_name="app")) as session:
                    for _ in range(20):
                        row = session.execute("SELECT answer FROM public.which").fetchone()
                        assert row is not None
                        mine.append(row[0])
                        time.sleep(0.005)
            except psycopg.Error as error:
                mine.append("error" if "password" not in str(error) else str(error))

    threads = [threading.Thread(target=hammer, args=(mine,), daemon=True) for mine in heard]
    for thread in threads:
        thread.start()
    try:
        yield heard
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_sessions_that_reconnect_in_a_loop_go_from_the_old_to_the_new_one(on_stage: Stage) -> None:
    with hammering(on_stage.target, 8) as heard:
        result = on_stage.replace()
        time.sleep(0.3)
    assert result.switched.outage_s < 0.5 * 4  # other tests run beside this one
    for mine in heard:
        answers = [answer for answer in mine if answer != "error"]
        assert set(answers) == {"live", "backup"}
        assert answers == sorted(answers, reverse=True)
    on_stage.is_restored()


def test_an_owner_who_is_no_superuser_restores(owner_stage: Stage) -> None:
    owner_stage.set_up()
    with hammering(owner_stage.target, 2):
        owner_stage.replace()
    owner_stage.is_restored()
    undone(owner_stage)
    owner_stage.set_up()


def test_a_superusers_session_stands_in_an_owners_way(owner_stage: Stage, server: servers.Server) -> None:
    with closing(connect(server.target(owner_stage.target.database))) as session:
        error = owner_stage.fails(Refused)
        assert f"session:{session.info.backend_pid}" in error.detail
        assert "can't be ended by" in error.detail
        assert session.execute("SELECT 1").fetchone() == (1,)
    owner_stage.is_untouched()


def test_a_superuser_who_comes_after_the_look_stops_the_switch(
    owner_stage: Stage, server: servers.Server
) -> None:
    with contextlib.ExitStack() as stack:

        def come(_plan: Plan) -> None:
            stack.enter_context(closing(connect(server.target(owner_stage.target.database))))

        error = owner_stage.fails(Refused, confirm=come)
    assert "did not end, so it was left as it was" in error.message


@pytest.mark.parametrize("late", [False, True], ids=["before the look", "after the look"])
def test_a_prepared_transaction_stands_in_the_way(
    late: bool, on_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_TRIES", 1)

    def prepare(_plan: object = None) -> None:
        say(on_stage.target, "BEGIN; INSERT INTO which VALUES ('prepared'); PREPARE TRANSACTION 'money, 1'")

    if not late:
        prepare()
    error = on_stage.fails(Refused, confirm=prepare if late else None)
    assert "money, 1" in error.detail
    say(on_stage.target, "ROLLBACK PREPARED 'money, 1'")
    on_stage.replace()
    on_stage.is_restored()


def test_an_undo_and_its_dry_run_are_told_of_a_prepared_transaction_and_its_end(on_stage: Stage) -> None:
    on_stage.replace()
    say(on_stage.target, "BEGIN; INSERT INTO which VALUES ('prepared'); PREPARE TRANSACTION 'money, 1'")
    for words in (["-R", "restore.undo"], ["restore.undo", "--force"]):
        ended = on_stage.place.invoke(*words)
        assert ended.code == 4, ended.said
        assert "ROLLBACK PREPARED 'money, 1'" in ended.err
    say(on_stage.target, "ROLLBACK PREPARED 'money, 1'")
    assert on_stage.place.invoke("restore.undo", "--force").code == 0


def test_an_owner_who_may_not_make_databases_is_told_the_cure(
    owner_stage: Stage, server: servers.Server
) -> None:
    say(server.target(), "ALTER ROLE {} NOCREATEDB", owner_stage.target.user)
    try:
        error = owner_stage.fails(Refused)
        assert "createdb: " in error.detail
        assert "--in-place" in error.detail
    finally:
        say(server.target(), "ALTER ROLE {} CREATEDB", owner_stage.target.user)


def test_a_role_that_does_not_own_the_live_database_is_refused(
    on_stage: Stage, server: servers.Server
) -> None:
    other = login(server.target(), "CREATEDB")
    try:
        error = on_stage.fails(Refused, with_other(on_stage.target, user=other.user))
        assert "owner: " in error.detail
    finally:
        say(server.target(), "DROP ROLE {}", other.user)


def test_of_two_restores_the_second_is_told_who_is_at_work(on_stage: Stage) -> None:
    ended = []

    def second(_plan: Plan) -> None:
        ended.append(on_stage.place.invoke(*on_stage.arguments))
        ended.append(on_stage.place.invoke("restore.abort"))
        ended.append(on_stage.place.invoke("restore.undo", "--force"))

    on_stage.replace(confirm=second)
    assert [one.code for one in ended] == [4, 4, 1]  # there is nothing to undo yet
    for one in ended[:2]:
        assert f"error: another run is changing {on_stage.target.database}\ndetail: It is restore " in one.err
    on_stage.is_restored()


def ending_the_lock(on_stage: Stage, server: servers.Server) -> Callable[[], object]:
    def end() -> None:
        say(
            server.target(),
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'polyladder-ops restore %'",
        )

    return end


def at_the_begin_of(phase: str, act: Callable[[], object]) -> Callable[[str], Callable[[int], None]]:
    def begin(name: str) -> Any:
        if name == phase:
            act()
        return lambda _size: None

    return begin


@pytest.mark.parametrize("phase", ["load", "analyze", "proof"])
def test_a_lock_that_is_lost_before_the_switch_is_taken_again(
    phase: str, on_stage: Stage, server: servers.Server
) -> None:
    """As after a laptop's sleep: the server let go of it, nobody took it, and the copy is as it was."""
    end = ending_the_lock(on_stage, server)
    on_stage.replace(progress=at_the_begin_of(phase, end))
    assert "was lost, and taken again" in "\n".join(on_stage.said)
    on_stage.is_restored()
    on_stage.set_up()


def test_a_lock_that_is_lost_in_the_switch_is_the_runs_end(on_stage: Stage, server: servers.Server) -> None:
    end = ending_the_lock(on_stage, server)
    error = on_stage.fails(OpsError, progress=at_the_begin_of("switch", end))
    assert "left as it was" in error.message


def test_a_lock_that_another_run_took_meanwhile_is_the_runs_end(
    on_stage: Stage, server: servers.Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock_again, "_LETS_GO_S", 0.5)
    end = ending_the_lock(on_stage, server)
    with contextlib.ExitStack() as stack:

        def take_it() -> None:
            end()
            another = locks.exclusive(on_stage.server, on_stage.target.database, doing="undo")
            on_stage.place.wait_for(lambda: stack.enter_context(another) if is_free() else None)

        def is_free() -> bool:
            return not locks.holder(on_stage.asking, on_stage.target.database)

        with pytest.raises(Busy) as caught:
            on_stage.replace(progress=at_the_begin_of("analyze", take_it))
    assert "It is undo" in caught.value.detail
    on_stage.is_untouched()


def test_a_lock_is_not_taken_again_for_a_copy_that_is_another_one_now(on_stage: Stage) -> None:
    lost = OpsError("the lock was lost")
    name = on_stage.target.database
    for copy, oid in ((name, 1), ("polyladder_beside_gone", 1)):
        with (
            pytest.raises(OpsError, match="the lock was lost"),
            lock_again.taken(on_stage.server, name, copy, oid, lost),
        ):
            pass
    # A server that is busy ends a session a moment after we have hung up.
    wait_for(lambda: not locks.holder(on_stage.asking, name))


@pytest.mark.parametrize(
    ("words", "turn", "when", "switched"),
    [
        pytest.param(" RENAME TO ", 1, "before", False, id="before the names"),
        pytest.param(" RENAME TO ", 2, "before", False, id="between the names"),
        pytest.param("COMMIT", 1, "before", False, id="before COMMIT"),
        pytest.param("COMMIT", 1, "after", True, id="with the answer to COMMIT"),
    ],
)
def test_a_restore_that_loses_its_connection_in_the_switch_says_what_is_true(
    words: str, turn: int, when: str, switched: bool, on_stage: Stage
) -> None:
    left, renamed = [turn], []

    def cut(application: str, text: str) -> Strike | None:
        if not application.startswith("polyladder-ops restore "):
            return None
        renamed.extend(["it"] * (" RENAME TO " in text))
        if not renamed:  # other transactions come before the switch
            return None
        left[0] -= words in text
        return Strike(when) if words in text and left[0] == 0 else None

    with wire(on_stage.target.port, cut) as by:
        target = with_other(on_stage.target, port=by.port)
        if switched:
            with pytest.raises(OpsError, match="was switched, but what came after it failed"):
                on_stage.replace(target)
            on_stage.is_restored()
        else:
            assert "left as it was" in on_stage.fails(OpsError, target).message


def test_a_server_that_stays_away_in_the_switch_has_the_live_database_open_by_itself(
    on_stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    from polyladder_ops import settling

    monkeypatch.setattr(settling, "_AGAIN_S", 0.5)
    with wire(on_stage.target.port, lambda _application, _text: None) as by:

        def cut(application: str, text: str) -> Strike | None:
            ends = " RENAME TO " in text and application.startswith("polyladder-ops restore ")
            return Strike("after", by.close) if ends else None

        by._watch = cut
        with pytest.raises(OpsError, match="could not be found out") as caught:
            on_stage.replace(with_other(on_stage.target, port=by.port))
    assert "It takes sessions, whichever it is." in caught.value.hint
    assert "server closed the connection unexpectedly" in caught.value.detail
    assert "\\" not in output.told(caught.value), "the server's line breaks are written out"
    assert ask(on_stage.target, "SELECT answer FROM public.which") == "live"
    (done,) = on_stage.abort()
    assert done.startswith("dropped the half-made copy ")
    on_stage.is_untouched()


def test_what_somebody_else_had_closed_is_replaced_and_stays_closed_if_that_fails(on_stage: Stage) -> None:
    name = on_stage.target.database
    say(on_stage.server, "ALTER DATABASE {} ALLOW_CONNECTIONS false", name)
    on_stage.backup, backup = broken(on_stage), on_stage.backup
    with pytest.raises(OpsError, match="the server refused a part of the dump"):
        on_stage.replace()
    on_stage.backup = backup
    assert on_stage.oid() == on_stage.old
    assert not ask(on_stage.server, f"SELECT datallowconn FROM pg_database WHERE datname = '{name}'")
    plans: list[Plan] = []
    on_stage.replace(confirm=plans.append)
    assert "not read from the live database" in " ".join(plans[0].unknowns)
    on_stage.is_restored()


def broken(on_stage: Stage) -> Any:
    from tests.forging import dump_of, forged

    folder = on_stage.place.folder.parent / "broken"
    folder.mkdir(exist_ok=True)
    data = dump_of(on_stage.backup).replace(
        b"CREATE INDEX", b"CREATE INDEX never ON public.nowhere USING btree (x);\nCREATE INDEX"
    )
    return forged(on_stage.backup, folder, data)


def undone(on_stage: Stage) -> None:
    undo.undo(
        on_stage.target,
        "",
        site=on_stage.site,
        accept=frozenset(),
        say=lambda _sentence: None,
        confirm=lambda _shown: None,
    )


def test_comments_go_with_their_databases_there_and_back(on_stage: Stage) -> None:
    say(on_stage.server, "COMMENT ON DATABASE {} IS 'changed since'", on_stage.target.database)
    on_stage.replace()
    connection = on_stage.asking
    assert switch.comment_of(connection, on_stage.target.database) == COMMENT
    undone(on_stage)
    assert switch.comment_of(connection, on_stage.target.database) == "changed since"
    undone(on_stage)
    assert switch.comment_of(connection, on_stage.target.database) == COMMENT


def test_the_lock_says_who_holds_it(on_stage: Stage) -> None:
    with locks.exclusive(on_stage.server, on_stage.target.database, doing="restore"):
        assert setaside.status(on_stage.target).holder.startswith("It is restore ")
