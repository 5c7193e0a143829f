"""Whatever is waited for ends: work goes on as long as the server shows it, silence ends and is said, and so is what -T allows."""

from __future__ import annotations

import math
import socket
import threading
import time
from contextlib import closing, contextmanager, suppress
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import hints, opening, session
from polyladder_ops.postgres.load.loader import Loader
from polyladder_ops.postgres.proof import copy_out
from polyladder_ops.postgres.silence import Answer, Limits, Seen, allow, limits, verdict
from polyladder_ops.postgres.waits import Silent
from tests.faults.places import wait_for, with_other
from tests.faults.tunnel import tunnel

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

SOON = Limits(ask_s=0.5, silent_s=2.0, unseen_s=4.0)
ENDS_S = 60.0  # on any machine; by itself none of them would end

# What is decided ------------------------------------------------------------------------------------------------------

WORKING = Seen("active", "", "", 3600)
LOCKED = Seen("active", "Lock", "relation", 50)
IDLE = Seen("idle", "Client", "ClientRead", 11)
JUST_DONE = Seen("idle", "Client", "ClientRead", 2)
BETWEEN = Seen("idle in transaction", "Client", "ClientRead", 11)
WRITING = Seen("active", "Client", "ClientWrite", 3600)
HIDDEN = Seen("", "", "", 0)
BARRED = Seen("active", "IPC", "ProcSignalBarrier", 40)


@pytest.mark.parametrize(
    ("waited_s", "answer", "ends"),
    [
        pytest.param(5, None, False, id="not long yet"),
        pytest.param(29, None, False, id="no answer, and not yet thirty seconds"),
        pytest.param(31, None, True, id="no answer"),
        pytest.param(36_000, Answer(WORKING), False, id="work of ten hours"),
        pytest.param(50, Answer(LOCKED), False, id="a lock, which has a limit of its own"),
        pytest.param(11, Answer(IDLE), True, id="idle while we wait"),
        pytest.param(11, Answer(JUST_DONE), False, id="done two seconds ago: its answer may be on its way"),
        pytest.param(11, Answer(BETWEEN), True, id="idle in a transaction"),
        pytest.param(11, Answer(WRITING), True, id="it waits until we read, and we wait"),
        pytest.param(11, Answer(None), True, id="its session is gone"),
        pytest.param(600, Answer(HIDDEN), False, id="the server hides it"),
        pytest.param(901, Answer(HIDDEN), True, id="the server hides it for too long"),
        pytest.param(600, Answer(None, refused=True), False, id="the server has no room for our question"),
        pytest.param(901, Answer(None, refused=True), True, id="the server has had no room for too long"),
        pytest.param(20, Answer(BARRED), False, id="the server waits for all its sessions"),
        pytest.param(31, Answer(BARRED), True, id="one of them does not answer"),
    ],
)
def test_a_verdict_tells_work_from_silence(waited_s: float, answer: Answer | None, ends: bool) -> None:
    assert bool(verdict(waited_s, answer, Limits(), idle_s=10)) == ends


def test_a_session_that_may_not_have_begun_has_more_time() -> None:
    assert not verdict(11, Answer(None), Limits(), idle_s=120, may_come=True)
    assert verdict(31, Answer(None), Limits(), idle_s=120, may_come=True)


@pytest.mark.parametrize("answer", [None, Answer(WORKING), Answer(LOCKED)])
def test_what_a_person_allows_ends_everything(answer: Answer | None) -> None:
    assert verdict(11, answer, Limits(each_s=10), idle_s=10).endswith("-T allows 10 s")
    assert not verdict(9, answer, Limits(each_s=10), idle_s=10)


def test_limits_hold_within_their_block_only() -> None:
    with allow(3):
        assert limits() == Limits(each_s=3)
    assert limits() == Limits()


# On a link ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def filled(database: Target) -> Target:
    """A database with more rows than all buffers between it and us hold."""
    with closing(session.connect(database)) as connection:
        connection.execute(
            "CREATE TABLE public.t AS SELECT g AS a, repeat('x', 1000) AS b FROM generate_series(1, 60000) g;"
            "CREATE TABLE public.u (a integer, b text)"
        )
    return database


def asks(connection: Connection) -> None:
    connection.execute("SELECT 1")


def sleeps(connection: Connection) -> None:
    connection.execute("SELECT pg_sleep(0.3)")


def reads(connection: Connection) -> None:
    for _ in copy_out.rows(connection, [b"COPY public.t TO STDOUT"]):
        pass


def sends(connection: Connection) -> None:
    loader = Loader(connection)
    loader.copy_begin(b"COPY public.u (a, b) FROM stdin", b"public.u", b"(a, b)")
    for _ in range(60):
        loader.copy_data(b"1\t" + b"x" * 1000 + b"\n" + b"1\ty\n" * 100_000)
    loader.copy_end()


def begins(connection: Connection) -> None:
    with connection.transaction():
        connection.execute("SELECT 1")


@contextmanager
def by_way_of(
    target: Target, *, hold_after: float = math.inf, within: Limits = SOON
) -> Iterator[tuple[Connection, Callable[[], None]]]:
    """Within the block a session over a tunnel, and what makes the whole of that fall silent; it acknowledges on and on."""
    with (
        tunnel(target.port, hold_after=hold_after) as by,
        allow(given=within),
        closing(session.connect(with_other(target, port=by.port))) as connection,
    ):
        yield connection, by.hold


def there(target: Target, pid: int) -> bool:
    with closing(session.connect(target)) as connection:
        return connection.execute("SELECT FROM pg_stat_activity WHERE pid = %s", [pid]).fetchone() is not None


@pytest.mark.parametrize("waits", [asks, sleeps, reads, sends, begins])
def test_whatever_is_waited_for_on_a_link_that_falls_silent_ends_and_says_so(
    waits: Callable[[Connection], None], filled: Target
) -> None:
    with by_way_of(filled) as (connection, fall_silent):
        fall_silent()
        began = time.monotonic()
        with pytest.raises(Silent, match="nothing came"):
            waits(connection)
        assert time.monotonic() - began < ENDS_S
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")


@pytest.mark.parametrize("waits", [reads])
def test_a_connection_that_falls_silent_alone_ends_and_its_backend_too(
    waits: Callable[[Connection], None], filled: Target
) -> None:
    with by_way_of(filled, hold_after=1_000_000) as (connection, _):
        pid = session.backend_of(connection)
        with pytest.raises(Silent, match="the server waits for us"):
            waits(connection)
        wait_for(lambda: not there(filled, pid), within_s=ENDS_S)


@contextmanager
def keeping_the_last_word(port: int) -> Iterator[tuple[int, threading.Event]]:
    """Within the block a relay's port; once the event is set, it keeps back that the server is ready for the next statement."""
    from_now_on = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    ends: list[socket.socket] = []

    def relay(source: socket.socket, other: socket.socket, last: bytes) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                other.sendall(data.removesuffix(last) if from_now_on.is_set() else data)

    def serve() -> None:
        with suppress(OSError):
            near, far = listener.accept()[0], socket.create_connection(("127.0.0.1", port))
            ends.extend((near, far))
            threading.Thread(target=relay, args=(near, far, b"\0" * 99), daemon=True).start()
            relay(far, near, b"Z\0\0\0\5I")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield listener.getsockname()[1], from_now_on
    finally:
        for one in (listener, *ends):
            one.close()


def refuses(connection: Connection) -> None:
    for _ in copy_out.rows(connection, [b"COPY public.nowhere TO STDOUT"]):
        pass


def loads(connection: Connection) -> None:
    loader = Loader(connection)
    loader.statement(b"CREATE TABLE public.v (a integer)")
    loader.finish()


@pytest.mark.parametrize("waits", [asks, refuses, loads])
def test_a_server_that_never_says_that_it_is_ready_is_not_waited_for(
    waits: Callable[[Connection], None], filled: Target
) -> None:
    """All else has come; libpq's own loop would wait for the last word in C, where nobody looks."""
    with (
        keeping_the_last_word(filled.port) as (port, from_now_on),
        allow(given=SOON),
        closing(session.connect(with_other(filled, port=port, sslmode="disable"))) as connection,
    ):
        from_now_on.set()
        with pytest.raises(Silent):
            waits(connection)


def test_work_that_takes_longer_than_all_limits_goes_on(filled: Target) -> None:
    with by_way_of(filled) as (connection, _):
        row = connection.execute(
            "SELECT 'done' FROM pg_sleep(5)"
        ).fetchone()  # twice as long as silence may last
        assert row == ("done",)


def test_what_a_person_allows_holds_for_work_too(filled: Target) -> None:
    with closing(session.connect(filled)) as connection, allow(1):
        pid = session.backend_of(connection)
        with pytest.raises(OpsError) as caught, session.translated("could not sleep"):
            connection.execute("SELECT pg_sleep(600)")
        assert "-T allows 1 s" in caught.value.detail
        wait_for(lambda: not there(filled, pid), within_s=ENDS_S)


def test_a_process_that_was_halted_has_not_waited(filled: Target) -> None:
    """It looks up again only then; nothing is known of the time between."""
    with closing(session.connect(filled)) as connection, allow(given=SOON):
        assert isinstance(connection, opening.Session)
        assert connection.waiting is not None
        connection.waiting.waits()
        connection.waiting.since = connection.waiting.looked_at = time.monotonic() - 600
        assert connection.waiting.waited_s(time.monotonic()) == 0
        connection.waiting.waits()
        assert connection.waiting.waited_s(time.monotonic()) < 1


def test_a_table_that_somebody_keeps_locked_is_not_waited_for_without_end(filled: Target) -> None:
    with closing(session.connect(filled)) as connection:
        assert connection.execute("SHOW lock_timeout").fetchone() == ("1min",)
        connection.execute("SET lock_timeout = '200ms'")
        with closing(session.connect(filled)) as other, other.transaction():
            other.execute("LOCK TABLE public.t")
            with pytest.raises(OpsError) as caught, session.translated("could not read"):
                connection.execute("SELECT FROM public.t")
    assert "lock timeout" in caught.value.detail
    assert "Another session holds a lock" in caught.value.hint


def test_a_watch_that_found_nothing_leaves_no_session_behind(filled: Target) -> None:
    with by_way_of(filled, within=Limits(ask_s=0.5, silent_s=20.0)) as (connection, _):
        connection.execute("SELECT pg_sleep(4)")
        with closing(session.connect(filled)) as other:
            question = "SELECT FROM pg_stat_activity WHERE application_name = 'polyladder-ops watch'"
            assert other.execute(question).fetchone() is not None
            wait_for(lambda: other.execute(question).fetchone() is None, within_s=ENDS_S)


def test_no_thread_is_left_of_a_wait_that_is_over() -> None:
    wait_for(lambda: "asking" not in {thread.name for thread in threading.enumerate()}, within_s=ENDS_S)


@pytest.mark.parametrize("text", ["Network is unreachable", "No route to host"])
def test_a_network_that_is_down_leads_to_the_network_and_not_back_to_doctor(text: str) -> None:
    hint = hints.following(psycopg.OperationalError(f"connection failed: {text}"))
    assert hint == "Look at this machine's network, the tunnel or the VPN, then try again."
