"""The switch with real databases: the name changes hands with all that belongs to it, or everything is as it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.portable import clean_environment
from polyladder_ops.postgres import leftovers, locks, marks, session, switch
from polyladder_ops.postgres.switch import Ready
from polyladder_ops.sandbox import server as servers
from tests.conftest import numbers, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.marks import Mark
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.switch import Switched
    from polyladder_ops.sandbox.server import Server

COMMENT = 'PolyLadder\'s "old" one'
posix = pytest.mark.skipif(sys.platform == "win32", reason="a process can't be stopped there")


@dataclass(frozen=True)
class Pair:
    """A live database that says old, a ready one that says new, and the names that they get."""

    server: Target
    live: str
    ready: str
    aside: str

    @property
    def target(self) -> Target:
        return self.server.with_database(self.live)

    def says(self, name: str) -> str:
        with closing(session.connect(self.server.with_database(name))) as connection:
            row = connection.execute("SELECT who FROM public.says").fetchone()
        assert row is not None
        return str(row[0])

    def looks(self, name: str) -> tuple[str, bool] | None:
        """Return the comment of a database as it is stored, and whether it takes sessions; None if it is not there."""
        with closing(session.connect(self.server)) as connection:
            row = connection.execute(
                "SELECT coalesce(shobj_description(oid, 'pg_database'), ''), datallowconn FROM pg_database"
                " WHERE datname = %s",
                [name],
            ).fetchone()
        return None if row is None else (row[0], row[1])

    def note(self, connection: Connection) -> Mark:
        return switch.note_of(connection, self.live, "tests", "polyladder_20260105_020000", "0042_decks")

    def with_comment(self, connection: Connection, name: str, comment: str = "the new one's") -> Ready:
        """Return a database that gets this comment as it goes live."""

        def last(connection: Connection, live: str) -> None:
            connection.execute(marks.comment(live, comment))

        return Ready(name, switch.oid_of(connection, name), after=last)

    def exchange(self, connection: Connection, ready: Ready | None = None, aside: str = "") -> Switched:
        ready = ready or self.with_comment(connection, self.ready)
        return switch.exchange(connection, self.server, ready, self.note(connection), aside or self.aside)


def make_pair(target: Target, live: str, owner: str = "postgres") -> Pair:
    made = Pair(target, live, f"{live} ready", f"{live} aside"[:63])
    for name, who in ((made.live, "old"), (made.ready, "new")):
        run(target, "CREATE DATABASE %I TEMPLATE template0 OWNER %I", name, owner)
        run(target.with_database(name), "CREATE TABLE public.says AS SELECT %L AS who", who)
    run(target, "COMMENT ON DATABASE %I IS %L", live, COMMENT)
    run(target, "ALTER DATABASE %I ALLOW_CONNECTIONS false", made.ready)
    return made


@pytest.fixture
def pair(server: Server) -> Iterator[Pair]:
    with dropped(server.target()) as before:
        yield make_pair(server.target(), f'Büro "{next(numbers)}" $1')
    assert before


@contextmanager
def dropped(target: Target) -> Iterator[frozenset[str]]:
    """Within the block databases may be made; afterwards they are gone."""
    with closing(session.connect(target)) as connection:
        before = switch.names(connection)
        try:
            yield before
        finally:
            for name in switch.names(connection) - before:
                run(target, "DROP DATABASE IF EXISTS %I WITH (FORCE)", name)


@pytest.fixture
def holding(pair: Pair) -> Iterator[Connection]:
    """The session that holds the lock of the live database."""
    with locks.exclusive(pair.server, pair.live, doing="restore") as connection:
        yield connection


# It is done ----------------------------------------------------------------------------------------------------------


def test_the_live_name_changes_hands_and_the_old_database_stays_closed_with_a_note(
    pair: Pair, holding: Connection
) -> None:
    old, new = switch.oid_of(holding, pair.live), switch.oid_of(holding, pair.ready)
    done = pair.exchange(holding)
    assert (done.live, done.aside) == (pair.live, pair.aside)
    assert 0 < done.outage_s < 3
    assert (switch.oid_of(holding, pair.live), switch.oid_of(holding, pair.aside)) == (new, old)
    assert switch.oid_of(holding, pair.ready) is None
    assert pair.says(pair.live) == "new"
    assert pair.looks(pair.live) == ("the new one's", True)
    assert pair.looks(pair.aside) == (COMMENT, False)
    (found,) = marks.find(holding)
    mark = found.mark
    assert (found.name, found.role, found.is_open) == (pair.aside, "postgres", False)
    assert (mark.kind, mark.live, mark.name, mark.was_open) == ("aside", pair.live, pair.aside, True)
    assert (mark.backup, mark.migration_head, mark.by) == (
        "polyladder_20260105_020000",
        "0042_decks",
        "tests",
    )


def test_back_again_gives_each_its_own_comment(pair: Pair, holding: Connection) -> None:
    pair.exchange(holding)
    comment = switch.comment_of(holding, pair.aside)
    pair.exchange(holding, pair.with_comment(holding, pair.aside, comment), pair.ready)
    assert pair.says(pair.live) == "old"
    assert pair.looks(pair.live) == (COMMENT, True)
    assert switch.comment_of(holding, pair.ready) == "the new one's"
    assert pair.looks(pair.aside) is None


def test_sessions_on_both_databases_end(pair: Pair, holding: Connection) -> None:
    run(pair.server, "ALTER DATABASE %I ALLOW_CONNECTIONS true", pair.ready)
    sessions = [
        session.connect(pair.server.with_database(name)) for name in (pair.live, pair.live, pair.ready)
    ]
    run(pair.server, "ALTER DATABASE %I ALLOW_CONNECTIONS false", pair.ready)
    pair.exchange(holding)
    for one in sessions:
        with pytest.raises(psycopg.OperationalError):
            one.execute("SELECT 1")
        one.close()


def test_a_session_in_the_middle_of_a_transaction_is_ended_too_and_its_writes_are_gone(
    pair: Pair, holding: Connection
) -> None:
    with closing(session.connect(pair.target)) as writer:
        writer.execute("BEGIN")
        writer.execute("UPDATE public.says SET who = 'half'")
        pair.exchange(holding)
    switch.let_in(holding, pair.aside)
    assert pair.says(pair.aside) == "old"


def test_a_database_is_published_under_a_free_name(pair: Pair, holding: Connection) -> None:
    name = f"{pair.live} new"
    done = switch.publish(holding, name, pair.with_comment(holding, pair.ready, "fresh"))
    assert (done.live, done.aside) == (name, "")
    assert (pair.says(name), pair.looks(name)) == ("new", ("fresh", True))
    assert pair.looks(pair.ready) is None
    assert pair.says(pair.live) == "old"


# It is not done ------------------------------------------------------------------------------------------------------


def as_before(pair: Pair) -> None:
    assert pair.looks(pair.live) == (COMMENT, True)
    assert pair.says(pair.live) == "old"
    assert pair.looks(pair.ready) == ("", False)
    assert pair.looks(pair.aside) is None


def test_a_name_that_somebody_took_meanwhile_is_not_taken_from_him(pair: Pair, holding: Connection) -> None:
    with pytest.raises(OpsError, match="could not rename"):
        switch.publish(holding, pair.live, pair.with_comment(holding, pair.ready))
    as_before(pair)


def test_a_name_for_the_old_one_that_is_taken_changes_nothing(pair: Pair, holding: Connection) -> None:
    run(pair.server, "CREATE DATABASE %I TEMPLATE template0", pair.aside)
    with pytest.raises(psycopg.errors.DuplicateDatabase):
        pair.exchange(holding)
    assert marks.find(holding) == ()
    run(pair.server, "DROP DATABASE %I", pair.aside)
    as_before(pair)


def test_what_is_raised_at_the_last_step_takes_everything_back(pair: Pair, holding: Connection) -> None:
    def refuse(connection: Connection, name: str) -> None:
        assert (name, switch.oid_of(connection, name)) == (pair.live, ready.oid)
        raise OpsError("not as it should be")

    ready = Ready(pair.ready, switch.oid_of(holding, pair.ready), after=refuse)
    with pytest.raises(OpsError, match="not as it should be"):
        pair.exchange(holding, ready)
    as_before(pair)
    run(pair.server, "ALTER DATABASE %I RENAME TO %I", pair.live, pair.aside)
    with pytest.raises(OpsError, match="not as it should be"):
        switch.publish(holding, pair.live, ready)
    run(pair.server, "ALTER DATABASE %I RENAME TO %I", pair.aside, pair.live)
    as_before(pair)


@pytest.mark.parametrize("which", ["live", "ready"])
def test_a_database_that_another_has_taken_the_place_of_is_not_switched(
    which: str, pair: Pair, holding: Connection
) -> None:
    """Somebody renamed it after it was looked at."""
    ready, note = pair.with_comment(holding, pair.ready), pair.note(holding)
    name = pair.live if which == "live" else pair.ready
    run(pair.server, "ALTER DATABASE %I RENAME TO %I", name, f"{pair.live} other")
    run(pair.server, "CREATE DATABASE %I TEMPLATE template0", name)
    with pytest.raises(OpsError, match="would be another database"):
        switch.exchange(holding, pair.server, ready, note, pair.aside)
    assert switch.oid_of(holding, pair.aside) is None
    run(pair.server, "DROP DATABASE %I", name)
    run(pair.server, "ALTER DATABASE %I RENAME TO %I", f"{pair.live} other", name)
    as_before(pair)


def test_a_session_of_ours_that_falls_silent_in_the_switch_is_ended_by_the_server(
    pair: Pair, holding: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_SILENT_S", 1)
    began = time.monotonic()

    def fall_silent(_connection: Connection, _name: str) -> None:
        with closing(session.connect(pair.target)):  # the app waits, and gets in
            waited.append(time.monotonic() - began)

    waited: list[float] = []
    ready = Ready(pair.ready, switch.oid_of(holding, pair.ready), after=fall_silent)
    with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
        pair.exchange(holding, ready)
    assert 0.9 < waited[0] < 5
    as_before(pair)


def test_a_server_that_does_not_answer_in_the_switch_is_not_waited_for(
    pair: Pair, holding: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_BEGUN_S", 1.0)

    def wait(connection: Connection, _name: str) -> None:
        connection.execute("SET LOCAL statement_timeout = 0; SELECT pg_catalog.pg_sleep(4)")

    ready = Ready(pair.ready, switch.oid_of(holding, pair.ready), before=wait)
    began = time.monotonic()
    with pytest.raises(psycopg.OperationalError):
        pair.exchange(holding, ready)
    assert time.monotonic() - began < 3
    as_before(pair)


@posix
def test_sessions_that_do_not_end_leave_everything_as_it_was(
    pair: Pair, holding: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"_TRIES": 2, "_EACH_S": 0.3, "_PAUSE_S": 0.1}.items():
        monkeypatch.setattr(switch, name, value)
    stuck = pair.target.of(**{**pair.target.parameters, "application_name": "stuck"})
    with closing(session.connect(stuck)) as one:
        pid = one.info.backend_pid
        os.kill(pid, signal.Signals["SIGSTOP"])
        try:
            with pytest.raises(Refused) as caught:
                pair.exchange(holding)
            as_before(pair)
        finally:
            os.kill(pid, signal.Signals["SIGCONT"])
    assert caught.value.message == f"the sessions on {pair.live} did not end, so it was left as it was"
    assert caught.value.detail == f"Still there: process {pid} of postgres (stuck)."


def test_a_prepared_transaction_leaves_everything_as_it_was(
    pair: Pair, holding: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(switch, "_TRIES", 1)
    began = time.monotonic()
    with closing(session.connect(pair.target)) as one:
        one.execute(b"BEGIN; CREATE TABLE public.more (); PREPARE TRANSACTION 'switch'")
    with pytest.raises(Refused, match="did not end") as caught:
        pair.exchange(holding)
    assert caught.value.detail.endswith("the prepared transaction switch.")  # and autovacuum, now and then
    assert time.monotonic() - began < 4, "the app is kept out meanwhile"
    as_before(pair)
    with closing(session.connect(pair.target)) as one:
        one.execute("ROLLBACK PREPARED 'switch'")


def test_an_owner_who_may_not_end_a_superusers_session_is_refused_at_once(server: Server) -> None:
    owner = f"switch_owner_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN CREATEDB PASSWORD 'x'", owner)
    poor = server.target().of(**{**server.target().parameters, "user": owner, "password": "x"})
    with dropped(server.target()):
        made = make_pair(server.target(), f"owned {next(numbers)}", owner)
        with (
            closing(session.connect(made.target)),
            locks.exclusive(poor, made.live, doing="restore") as connection,
            pytest.raises(Refused) as caught,
        ):
            replace(made, server=poor).exchange(connection)
        as_before(made)
        with locks.exclusive(poor, made.live, doing="restore") as connection:
            replace(made, server=poor).exchange(connection)
        assert made.says(made.live) == "new"
    run(server.target(), "DROP ROLE %I", owner)
    assert "permission denied to terminate process" in caught.value.detail


def test_a_database_that_was_closed_before_is_closed_again(pair: Pair, holding: Connection) -> None:
    run(pair.server, "ALTER DATABASE %I ALLOW_CONNECTIONS false", pair.live)
    note = pair.note(holding)
    assert not note.was_open
    holding.execute(marks.put(pair.live, note.model_copy(update={"name": pair.aside})))
    (found,) = marks.find(holding)
    switch.reopen(holding, found)
    assert pair.looks(pair.live) == (COMMENT, False)


def test_without_the_lock_nothing_is_touched(pair: Pair, holding: Connection) -> None:
    holding.execute("SELECT pg_advisory_unlock_all()")
    with pytest.raises(OpsError, match="was lost, so nothing more was changed"):
        pair.exchange(holding)
    as_before(pair)


# By hand -------------------------------------------------------------------------------------------------------------


def by_psql(target: Target, lines: tuple[str, ...]) -> None:
    """Run the lines as a person would paste them: stopping at the first that fails."""
    done = subprocess.run(
        [str(servers.programs() / "psql"), "-X", "-v", "ON_ERROR_STOP=1", "-h", target.host, "-p", str(target.port),
         "-U", target.user, "-d", target.database],
        input="\n".join(lines), env=clean_environment({"PGPASSWORD": target.password, "PGCLIENTENCODING": "UTF8"}),
        capture_output=True, text=True, encoding="utf-8", timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def by_psycopg(target: Target, lines: tuple[str, ...]) -> None:
    with closing(session.connect(target)) as connection:
        for line in lines:
            connection.execute(line.encode())


@pytest.mark.parametrize("way", [by_psql, by_psycopg])
@pytest.mark.parametrize("comment", [COMMENT, ""])
def test_the_lines_that_are_printed_before_take_the_switch_back(
    way: Callable[[Target, tuple[str, ...]], None], comment: str, pair: Pair, holding: Connection
) -> None:
    run(pair.server, "COMMENT ON DATABASE %I IS %L", pair.live, comment)
    aside = f"{pair.live}_aside_20260105_020311"
    lines = switch.by_hand(pair.live, aside, "postgres")
    pair.exchange(holding, pair.with_comment(holding, pair.ready, "new"), aside)
    with closing(session.connect(pair.target)), suppress(psycopg.OperationalError):  # an app that came back
        way(pair.server, lines)
    assert pair.says(pair.live) == "old"
    assert pair.looks(pair.live) == (comment, True)
    assert pair.looks(f"{pair.live}_other_20260105_020311") == ("new", False)
    assert pair.looks(aside) is None
    assert pair.live not in {one.database for one in leftovers.find(holding, pair.live)}
    assert marks.find(holding) == ()


@pytest.mark.parametrize("own", ["the app's \\ own", ""])
def test_the_lines_bring_a_setting_of_our_own_role_back_that_the_mark_hides(
    own: str, pair: Pair, holding: Connection
) -> None:
    run(pair.server, "ALTER ROLE CURRENT_USER IN DATABASE %I SET application_name = %L", pair.live, own)
    aside = f"{pair.live}_aside_20260105_020311"
    lines = switch.by_hand(pair.live, aside, "postgres", switch.own_setting(holding, pair.live))
    pair.exchange(holding, pair.with_comment(holding, pair.ready, "new"), aside)
    by_psql(pair.server, lines)
    assert switch.own_setting(holding, pair.live) == own
    assert marks.find(holding) == ()
