"""Health: each answer has one kind, a well app on another database is red, and so is one over a dropped table."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import http
from polyladder_ops.app import health
from polyladder_ops.app.health import Kind, Machine, judge
from polyladder_ops.http import Reply, Stage, Unanswered
from polyladder_ops.postgres import link, session
from polyladder_ops.postgres.link import Asker, Window
from tests.conftest import numbers, run
from tests.test_limits import says
from tests.test_sandbox_app import running
from tests.test_tasks import Ended, Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

WELL = b'{"status":"healthy","database":{"connected":true,"latencyMs":2}}'
CHECKS = "-- check: translations\n-- expect: > 0\nSELECT count(*) FROM learning.translation;\n"

# What an answer is ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("heard", "kind", "said"),
    [
        (Reply(200, WELL), Kind.HEALTHY, "200 healthy"),
        (Reply(200, b'{"status":"ok"}'), Kind.HEALTHY, "200 ok"),
        (
            Reply(200, b'{"status":"healthy","database":{"connected":false}}'),
            Kind.ANOTHER_BODY,
            "does not say",
        ),
        (Reply(200, b'{"status":"unhealthy"}'), Kind.ANOTHER_BODY, "does not say"),
        (Reply(200, b"<html>parked</html>"), Kind.ANOTHER_BODY, "does not say"),
        (Reply(200, b""), Kind.ANOTHER_BODY, "does not say"),
        (Reply(200, b"[1]"), Kind.ANOTHER_BODY, "does not say"),
        (Reply(200, b"[" * 60000), Kind.ANOTHER_BODY, "does not say"),
        (
            Reply(503, b'{"status":"unhealthy","database":{"connected":false}}'),
            Kind.UNHEALTHY,
            "its database",
        ),
        (Reply(503, b""), Kind.FAILED, "503"),
        (Reply(500, WELL), Kind.FAILED, "500"),
        (Reply(429, b"", retry_after_s=900), Kind.LIMITED, "429"),
        (Reply(301, b"", "https://elsewhere/"), Kind.REDIRECT, "https://elsewhere/"),
        (Reply(404, WELL), Kind.REFUSED, "404"),
        (Reply(401, WELL), Kind.REFUSED, "401"),
        (Unanswered(Stage.NAME, "Name or service not known"), Kind.NO_NAME, "the name"),
        (Unanswered(Stage.CONNECTION, "Connection refused"), Kind.NO_CONNECTION, "Connection refused"),
        (Unanswered(Stage.TLS, "certificate has expired"), Kind.NO_TLS, "certificate has expired"),
        (Unanswered(Stage.REPLY, "nothing came", timed_out=True), Kind.SILENT, "waiting for the reply"),
    ],
)
def test_an_answer_has_one_kind_and_only_one_kind_is_well(
    heard: Reply | Unanswered, kind: Kind, said: str
) -> None:
    answer = judge(heard)
    assert (answer.kind, answer.is_well) == (kind, kind is Kind.HEALTHY)
    assert said in answer.seen
    assert answer.hint or answer.is_well


def test_who_says_how_long_to_wait_is_heard_within_reason() -> None:
    assert judge(Reply(429, retry_after_s=3)).after_s == 3
    assert judge(Reply(429, retry_after_s=900)).after_s == 30


def test_what_waiting_can_not_change_is_not_waited_for() -> None:
    for heard in (Reply(301), Reply(404), Reply(200, b"?"), Unanswered(Stage.TLS, "expired")):
        asked: list[str] = []

        def ask(address: str, *, timeout_s: float, heard: Any = heard, asked: Any = asked) -> Any:
            asked.append(address)
            return heard

        assert not health.wait("http://a/health", seconds=600, ask=ask).is_well
        assert asked == ["http://a/health"]


def test_what_may_pass_is_waited_for_and_said() -> None:
    replies: Iterator[Reply | Unanswered] = iter(
        [Reply(503), Reply(503), Unanswered(Stage.REPLY, "reset"), Reply(200, WELL)]
    )
    said: list[str] = []
    answer = health.wait("http://a/health", seconds=600, say=said.append, ask=lambda *_, **__: next(replies))
    assert answer.is_well
    assert [("503" in text, "reset" in text) for text in said] == [
        (True, False),
        (True, False),
        (False, True),
    ]
    assert said[0] == said[1], "what stays the same is told once (`output.step`)"


@pytest.mark.parametrize(
    ("machines", "ok", "said"),
    [
        ([Machine("a1", "started", (("servicecheck", "passing"),))], True, "a1 started"),
        ([Machine("a1", "started"), Machine("b2", "stopped")], True, "b2 stopped"),
        ([Machine("a1", "stopped")], False, "a1 stopped"),
        ([Machine("a1", "replacing")], False, "a1 replacing"),
        ([], False, "no machine"),
        ([Machine("a1", "started", (("http", "critical"),))], False, "a1: http is critical"),
        ([Machine("a1", "started", (("http", "warning"),))], False, "a1: http is warning"),
        ([Machine("a1", "started"), Machine("b2", "stopped", (("http", "critical"),))], True, "a1 started"),
    ],
)
def test_one_machine_has_to_be_started_and_those_that_are_have_to_pass(
    machines: list[Machine], ok: bool, said: str
) -> None:
    part = health.of_machines(machines)
    assert part.ok is ok
    assert said in part.seen
    assert bool(part.hint) is not ok


# How a request ends ---------------------------------------------------------------------------------------------------


@contextmanager
def serving(answer: Callable[[BaseHTTPRequestHandler], None]) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/health"
    finally:
        server.shutdown()
        server.server_close()


def replying(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(WELL)

    return answer


def test_a_redirect_is_told_and_not_followed() -> None:
    with serving(replying(301, Location="http://127.0.0.1:1/loop")) as address:
        assert http.get(address, timeout_s=30) == Reply(301, WELL, "http://127.0.0.1:1/loop")


def test_a_redirect_in_a_circle_is_one_request() -> None:
    asked: list[str] = []

    def round_and_round(handler: BaseHTTPRequestHandler) -> None:
        asked.append(handler.path)
        replying(302, Location="/health")(handler)

    with serving(round_and_round) as address:
        answer = health.wait(address, seconds=30)
    assert (answer.kind, len(asked)) == (Kind.REDIRECT, 1)


def test_the_time_after_which_to_come_again_is_read() -> None:
    with serving(replying(429, Retry_After="7")) as address:
        heard = http.get(address, timeout_s=30)
    assert isinstance(heard, Reply)
    assert heard.retry_after_s == 7


def test_of_an_endless_body_only_the_beginning_is_read() -> None:
    def endless(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        try:
            while True:
                handler.wfile.write(b"x" * 65536)
        except OSError:
            pass

    with serving(endless) as address:
        heard = http.get(address, timeout_s=30)
    assert isinstance(heard, Reply)
    assert len(heard.body) == 1 << 16


def test_nothing_that_listens_is_no_connection() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    heard = http.get(f"http://127.0.0.1:{port}/health", timeout_s=30)
    assert isinstance(heard, Unanswered)
    assert (heard.stage, judge(heard).kind) == (Stage.CONNECTION, Kind.NO_CONNECTION)
    assert "object at" not in heard.detail


def test_who_accepts_and_says_nothing_is_silent() -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        heard = http.get(f"http://127.0.0.1:{listener.getsockname()[1]}/health", timeout_s=1)
    assert isinstance(heard, Unanswered)
    assert heard.timed_out
    assert judge(heard).kind in (Kind.SILENT, Kind.NO_CONNECTION)


def test_an_address_without_tls_that_should_have_it_is_told_as_that() -> None:
    with serving(replying(200)) as address:
        heard = http.get(address.replace("http:", "https:"), timeout_s=30)
    assert isinstance(heard, Unanswered)
    assert heard.stage is Stage.TLS


def test_a_name_that_is_nobodys_is_told_as_that() -> None:
    heard = http.get("http://nobody.invalid/health", timeout_s=60)
    assert isinstance(heard, Unanswered)
    assert heard.stage is Stage.NAME


SILENT_NAME_SERVER = """
import signal, socket, sys, threading, time
from polyladder_ops import http
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started the tests may ignore it
socket.getaddrinfo = lambda *_, **__: time.sleep(3600)
print("asking", flush=True)
print(http.get("http://app.example/health", timeout_s=float(sys.argv[1])))
"""


def asking(seconds: str) -> subprocess.Popen[str]:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    argv = [sys.executable, "-c", SILENT_NAME_SERVER, seconds]
    return subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_silent_name_server_keeps_nobody_longer_than_was_said() -> None:
    with asking("0.5") as process:
        out, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    assert "the name" in out
    assert "timed_out=True" in out


@pytest.mark.skipif(sys.platform == "win32", reason="no SIGINT for one process")
def test_a_silent_name_server_does_not_keep_a_ctrl_c_waiting() -> None:
    with asking("3000") as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "asking\n"
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=120)  # an hour, else
    assert process.returncode


# The link -------------------------------------------------------------------------------------------------------------

ANN = Asker("app", "", "local")
BOB = Asker("cron", "cron", "local")


def place() -> session.Identity:
    return session.Identity("7", "polyladder", 5, "18.6", 18, False, "UTF8")


@pytest.mark.parametrize(
    ("windows", "quiet", "ok", "said"),
    [
        (
            [{ANN}, {ANN}, {ANN, BOB}],
            set(),
            True,
            "app (local) asked polyladder (oid 5, system 7) at each of 3 requests",
        ),
        ([{ANN}, {ANN}, set()], set(), False, "uses another database"),
        ([{ANN}, {BOB}, {ANN}], set(), False, "uses another database"),
        ([set(), set(), set()], set(), False, "uses another database"),
        ([{ANN, BOB}] * 3, {BOB}, True, "app (local)"),
        ([{ANN}] * 3, {ANN}, True, "it asks without our requests, too"),
    ],
)
def test_the_link_is_who_asks_at_each_request(windows: Any, quiet: Any, ok: bool, said: str) -> None:
    found = link.decide([Window(frozenset(w)) for w in windows], Window(frozenset(quiet)), place())
    assert found.ok is ok
    assert said in found.seen
    assert bool(found.hint) is not ok


def test_who_asks_without_a_pause_passes_for_the_app_and_that_is_said() -> None:
    says("a program that asks without a pause passes for it; that it asks without our requests, too, is said")
    found = link.decide([Window(frozenset({BOB}))] * 3, Window(frozenset({BOB})), place())
    assert (found.ok, "without our requests" in found.seen) == (True, True)


def test_what_may_not_be_looked_at_is_no_link_and_no_other_database() -> None:
    found = link.decide([Window(frozenset(), 2)] * 3, Window(frozenset()), place())
    assert (found.ok, "can't be told" in found.seen) == (False, True)


def linked(target: Target, port: int) -> link.Link:
    with closing(session.connect(target)) as connection:
        where = session.identify(connection)
        windows = [
            link.during(
                connection,
                where.database_oid,
                lambda: http.get(f"http://127.0.0.1:{port}/health", timeout_s=60),
            )[0]
            for _ in range(link.REQUESTS)
        ]
        return link.decide(windows, link.during(connection, where.database_oid, lambda: None)[0], where)


def test_an_app_on_this_database_is_linked_and_one_on_another_is_not(
    database: Target, sample_database: Target
) -> None:
    """/health says 200 in both cases."""
    with running(database) as app:
        assert linked(database, app.port).ok
        other = linked(sample_database, app.port)
    assert not other.ok
    assert f"nobody asked {sample_database.database}" in other.seen


def test_an_app_that_was_asked_before_is_not_linked_by_that(
    database: Target, sample_database: Target
) -> None:
    """A session of its old database stays in the pool; only what began after our request counts."""
    with running(database) as old, running(sample_database) as new:
        http.get(f"http://127.0.0.1:{old.port}/health", timeout_s=60)
        assert not linked(database, new.port).ok


def test_our_own_sessions_are_not_the_apps(database: Target) -> None:
    with closing(session.connect(database)) as connection, closing(session.connect(database)) as ours:
        where = session.identify(connection)
        window, _ = link.during(connection, where.database_oid, lambda: ours.execute("SELECT 1"))
    assert window == Window(frozenset())


def test_without_the_right_to_look_it_is_said(server: Server, database: Target) -> None:
    from polyladder_ops.postgres.conninfo import Target

    name = f"blind_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD %L", name, "sesame")
    try:
        blind = Target.of(**{**database.parameters, "user": name, "password": "sesame"})
        with running(database) as app:
            http.get(f"http://127.0.0.1:{app.port}/health", timeout_s=60)
            found = linked(blind, app.port)
        assert not found.ok
        assert "can't be told" in found.seen
        assert "pg_read_all_stats" in found.hint
    finally:
        run(server.target(), "DROP ROLE %I", name)


# The task -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(sample_database: Target, tmp_path: Path) -> Project:
    """A site production with checks, whose health page is set per test."""
    (tmp_path / "checks.sql").write_text(CHECKS)
    return project(
        tmp_path / "project",
        DATABASE_URL=url(sample_database),
        POLYLADDER_CHECKS=str(tmp_path / "checks.sql"),
    )


def asked(where: Project, address: str, *more: str) -> Ended:
    return where.run("health", *more, POLYLADDER_HEALTH_URL=address)


def test_a_well_app_on_its_database_with_sound_data_is_green(shop: Project, sample_database: Target) -> None:
    with running(sample_database) as app:
        found = asked(shop, f"http://127.0.0.1:{app.port}/health")
    assert found.code == 0, found
    assert [line.split()[:2] for line in found.out.splitlines()[1:]] == [
        ["answer", "yes"],
        ["link", "yes"],
        ["checks", "yes"],
    ]


def test_a_dropped_table_behind_a_good_answer_is_red(shop: Project, sample_database: Target) -> None:
    with closing(session.connect(sample_database)) as connection:
        connection.execute("DROP TABLE learning.translation CASCADE")
    with running(sample_database) as app:
        found = asked(shop, f"http://127.0.0.1:{app.port}/health", "--json")
    assert found.code == 3, found
    told = json.loads(found.out)
    assert (told["ok"], [part["ok"] for part in told["parts"]]) == (False, [True, True, False])
    assert found.err.splitlines()[-2 if "hint" in found.err else -1].startswith(
        "error: the app is not well: check translations"
    )


def test_a_hint_means_the_site_that_was_meant(shop: Project, sample_database: Target) -> None:
    with closing(session.connect(sample_database)) as connection:
        connection.execute("DROP TABLE learning.translation CASCADE")
    with running(sample_database) as app:
        found = asked(shop, f"http://127.0.0.1:{app.port}/health", "--site=staging")
    assert "hint: Look at what changed: `invoke backup.list --changes --site=staging`." in found.err


def test_a_good_answer_from_another_database_is_red(shop: Project, database: Target) -> None:
    with running(database) as app:
        found = asked(shop, f"http://127.0.0.1:{app.port}/health")
    assert found.code == 3, found
    assert "error: the app is not well: link: nobody asked" in found.err


def test_no_app_is_red(shop: Project) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        port = listener.getsockname()[1]
    found = asked(shop, f"http://127.0.0.1:{port}/health", "--wait=1")
    assert found.code == 3, found
    assert "error: the app is not well: answer: no answer (a connection)" in found.err


def test_a_database_that_is_not_there_is_red_with_its_reason(shop: Project, sample_database: Target) -> None:
    nowhere = url(sample_database.with_database("not_there"))
    with running(sample_database) as app:
        found = shop.run(
            "health", DATABASE_URL=nowhere, POLYLADDER_HEALTH_URL=f"http://127.0.0.1:{app.port}/health"
        )
    assert found.code == 3, found
    assert "error: the app is not well: database: could not connect to not_there" in found.err
    assert sample_database.password not in found.out + found.err


def test_without_an_address_or_with_a_wrong_wait_nothing_is_asked(shop: Project) -> None:
    assert "POLYLADDER_HEALTH_URL is not set" in shop.run("health").err
    assert shop.run("health").code == 2
    assert asked(shop, "http://127.0.0.1:1/health", "--wait=soon").code == 2


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for fly was not tried on Windows")
def test_who_is_logged_in_at_fly_needs_no_address_and_sees_the_machines(
    shop: Project, sample_database: Target, tmp_path: Path
) -> None:
    from polyladder_ops.sandbox.fly.cloud import Cloud

    cloud = Cloud(tmp_path / "fly")
    cloud.make(app="polyladder", db_app="polyladder-db")
    try:
        (tmp_path / "login").mkdir()
        (tmp_path / "login/config.yml").write_text(f"access_token: {cloud.token}\n", encoding="utf-8")
        known = {
            "FLY_CONFIG_DIR": str(tmp_path / "login"),
            "PATH": f"{cloud.program.parent}{os.pathsep}{os.environ['PATH']}",
        }
        would = shop.run("-R", "health", **known)
        assert "would ask https://polyladder.fly.dev/health" in would.out, would
        with running(sample_database) as app:
            found = shop.run("health", POLYLADDER_HEALTH_URL=f"http://127.0.0.1:{app.port}/health", **known)
        assert found.code == 0, found
        assert "machines" in found.out
    finally:
        cloud.remove()


def test_without_questions_it_is_said_that_the_data_were_not_looked_at(
    shop: Project, sample_database: Target
) -> None:
    with running(sample_database) as app:
        found = asked(shop, f"http://127.0.0.1:{app.port}/health")
        bare = shop.run(
            "health", POLYLADDER_HEALTH_URL=f"http://127.0.0.1:{app.port}/health", POLYLADDER_CHECKS=""
        )
    assert (found.code, bare.code) == (0, 0)
    assert "POLYLADDER_CHECKS is not set" in bare.err
    assert "POLYLADDER_CHECKS" not in found.err


@pytest.mark.parametrize(
    ("said", "well"),
    [("true", True), ('"connected"', True), ('"ok"', True), ("false", False), ("null", False), ("0", False), ('"down"', False),
     ('"disconnected"', False), ("[]", False), ('{"connected":"no"}', False)],
)  # fmt: skip
def test_what_the_app_says_of_its_database_is_heard_in_each_form(said: str, well: bool) -> None:
    answer = judge(Reply(200, f'{{"status":"ok","database":{said}}}'.encode()))
    assert answer.is_well is well
