"""To the database without socat, and without a key of ours: by the server's port, with a password that is never written down."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, redaction, verification
from polyladder_ops.errors import BELOW, OpsError, Refused
from polyladder_ops.fly import entrances, road
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.console import Console
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.conftest import FAST, run
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATABASE = "polyladder"
API = "http://127.0.0.1:9"


@pytest.fixture(scope="module")
def flex(need: Callable[[object, str], None]) -> Iterator[servers.Server]:
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=FAST, trusts_socket=True)
    seed.fill(made.target(DATABASE), scale=0.02)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A PATH with every program of the system but socat."""
    folder = tmp_path_factory.mktemp("bin")
    for place in ("/usr/bin", "/bin"):
        for program in Path(place).iterdir():
            if program.name != "socat" and not (folder / program.name).exists():
                (folder / program.name).symlink_to(program)
    return str(folder)


@pytest.fixture(scope="module")
def far(flex: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, behind={flex.port: ("127.0.0.1", flex.port)})
    until(lambda: shown(made, DB)[0]["state"] == "started")
    yield made
    made.remove()


@pytest.fixture
def env(far: Cloud, flex: servers.Server) -> Iterator[dict[str, str]]:
    """What a program on the machine finds in its environment; the password is the server's."""
    yield {
        "PGHOST": flex.socket_folder,
        "PG_PORT": str(flex.port),
        "PGDATA": f"{far.folder}/postgresql",
        "OPERATOR_PASSWORD": flex.target().password,
    }
    far.switch("all", off=True)


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def opening(far: Cloud, tmp_path: Path, said: list[str]) -> Callable[..., Any]:
    def opened(base: str = "") -> Any:
        flyctl = Flyctl(str(far.program), far.token, tmp_path / "config")
        api = Api(far.token, base, timeout_s=10) if base else None
        return road.opened(flyctl, api, DB, tmp_path / "runs", say=said.append)

    return opened


def calls(far: Cloud, before: int, port: int) -> list[str]:
    """The words of each call since then."""
    return [" ".join(call[:2]).replace(str(port), "PORT") for call in far.calls()[before:]]


def test_without_socat_sessions_go_by_the_servers_port_with_flys_password(  # noqa: PLR0917 - fixtures
    far: Cloud, flex: servers.Server, env: dict[str, str], bare: str, opening: Any, tmp_path: Path
) -> None:
    far.open_ssh(DB, {**env, "PATH": bare})
    before = len(far.calls())
    with opening() as way:
        assert not way.seen.has_socat
        assert way.remote is not None
        taken = backups.take(
            way.target(DATABASE), tmp_path / "backups", site="rehearsal", private=tmp_path / "state"
        )
    assert verification.verify_by_restore(taken, [], flex.target(), trusted=True).passed
    assert calls(far, before, flex.port) == [
        *("machine list", "status --json", "ssh issue"),
        *("proxy 0:22", "proxy 0:PORT"),
    ]


def test_who_takes_the_ports_place_and_asks_for_the_password_as_it_is_gets_nothing(
    far: Cloud, env: dict[str, str], bare: str, opening: Any
) -> None:
    """Should flyctl die, any account of this computer may listen there."""
    far.open_ssh(DB, {**env, "PATH": bare})
    came: list[bytes] = []

    def ask(listener: socket.socket) -> None:
        with listener.accept()[0] as near:
            while b"user" not in (first := near.recv(4096)):  # of TLS nobody knows here
                near.sendall(b"N")
            came.append(first)
            near.sendall(b"R" + struct.pack("!ii", 8, 3))
            came.append(near.recv(4096))

    with opening() as way, socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=ask, args=(listener,))
        thread.start()
        with pytest.raises(OpsError), connect(way.server.changed(port=listener.getsockname()[1])):
            pytest.fail("it was let in")
        thread.join(10)
    assert len(came) == 2
    assert env["OPERATOR_PASSWORD"].encode() not in b"".join(came)


def test_the_password_is_in_no_argument_no_file_and_no_text(
    far: Cloud, env: dict[str, str], bare: str, opening: Any, tmp_path: Path
) -> None:
    far.open_ssh(DB, {**env, "PATH": bare})
    redaction._hidden.clear()
    with opening() as way, connect(way.target(DATABASE)):
        password = env["OPERATOR_PASSWORD"]
        assert password not in redaction.redact(f"it is {password}")
        assert password not in f"{way!r} {way.server!r}"
        assert way.seen.password == ""
        written = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
        assert password.encode() not in b"".join(written)
        arguments = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if path.is_file()]
        assert password.encode() not in b"".join(arguments)
    assert password not in str(far.calls())


def test_a_login_of_a_run_goes_by_the_same_port(
    far: Cloud, flex: servers.Server, env: dict[str, str], bare: str, opening: Any
) -> None:
    far.open_ssh(DB, {**env, "PATH": bare})
    run(flex.target(), "CREATE ROLE passing LOGIN PASSWORD 'while it lasts'")
    with opening() as way, connect(way.server.as_login("passing", "while it lasts")) as connection:
        assert connection.execute(b"SELECT current_user").fetchone() == ("passing",)


def test_a_machine_without_the_password_is_explained(
    far: Cloud, env: dict[str, str], bare: str, opening: Any
) -> None:
    far.open_ssh(DB, {**env, "PATH": bare, "OPERATOR_PASSWORD": ""})
    with pytest.raises(OpsError, match="has no OPERATOR_PASSWORD") as raised, opening():
        pytest.fail("it was opened")
    assert "secrets list" in raised.value.hint


def test_a_stale_password_is_explained_and_the_hint_cures_it(
    far: Cloud, flex: servers.Server, env: dict[str, str], bare: str, opening: Any
) -> None:
    env |= {"PATH": f"{bare}{os.pathsep}{servers.programs()}"}
    far.open_ssh(DB, {**env, "OPERATOR_PASSWORD": "another one"})
    with pytest.raises(OpsError, match="is not the password of postgres any more") as raised, opening():
        pytest.fail("it was opened")
    assert "password authentication failed" in raised.value.detail
    command = raised.value.hint.split("`")[-2]
    there = Console(Flyctl(str(far.program), far.token, far.folder / "config"), DB, shown(far, DB)[0]["id"])
    try:
        there.run(command)
        with opening() as way, connect(way.target(DATABASE)) as connection:
            assert connection.execute(b"SELECT current_user").fetchone() == ("postgres",)
    finally:
        far.open_ssh(DB, env)
        there.run(command)
    connect(flex.target()).close()


@pytest.mark.parametrize(
    ("fault", "told", "made"),
    [
        (
            "no-own-certificate",
            [
                "no certificate for SSH",
                "Not authorized to access this issueCertificate",
                "`fly ssh issue` failed",
            ],
            ["machine list", "status --json", "ssh issue", "ssh console", "proxy 0:PORT"],
        ),
        (
            "ssh-denies",
            ["does not take our certificate"],
            ["machine list", "proxy 0:22", "ssh console", "proxy 0:PORT"],
        ),
    ],
)
def test_where_no_key_of_ours_is_taken_it_goes_by_flyctls_console(  # noqa: PLR0917 - fixtures
    far: Cloud,
    flex: servers.Server,
    env: dict[str, str],
    opening: Any,
    said: list[str],
    fault: str,
    told: list[str],
    made: list[str],
) -> None:
    far.open_ssh(DB, env)
    base = far.start_api()
    far.switch(fault)
    before = len(far.calls())
    with opening(base) as way:
        assert way.remote is None
        with connect(way.target(DATABASE)) as connection:
            assert connection.execute(b"SELECT current_user").fetchone() == ("postgres",)
    assert calls(far, before, flex.port) == made
    for words in (*told, "fly ssh console"):
        assert words in " ".join(said)


def test_at_most_six_calls_of_flyctl_lead_there_and_a_backup_makes_no_more(
    far: Cloud, flex: servers.Server, env: dict[str, str], opening: Any, tmp_path: Path
) -> None:
    far.open_ssh(DB, env)
    far.switch("ssh-denies")
    before = len(far.calls())
    with opening() as way:
        backups.take(way.target(DATABASE), tmp_path / "backups", site="rehearsal", private=tmp_path / "state")
    assert calls(far, before, flex.port) == [
        *("machine list", "status --json", "ssh issue", "proxy 0:22"),
        *("ssh console", "proxy 0:PORT"),
    ]


def test_where_no_way_leads_in_each_is_told_with_what_it_said(
    far: Cloud, env: dict[str, str], opening: Any
) -> None:
    far.open_ssh(DB, env)
    base = far.start_api()
    far.switch("no-certificate")
    with pytest.raises(OpsError) as raised, opening(base):
        pytest.fail("it was opened")
    for words in (
        "create ssh certificate",
        "no certificate for SSH",
        "Fly's API gave no",
        "`fly ssh issue` failed",
    ):
        assert words in raised.value.detail
    assert raised.value.hint


def test_what_a_terminal_and_flyctl_add_does_not_get_into_the_password(
    far: Cloud, env: dict[str, str], opening: Any
) -> None:
    far.open_ssh(DB, env)
    far.switch("no-own-certificate")
    far.switch("crlf")
    far.switch("noise")
    with opening() as way, connect(way.target(DATABASE)) as connection:
        assert connection.execute(b"SELECT 1").fetchone() == (1,)


LOST = FlyError("the tunnel is gone", detail="It was killed.", hint="Run it again.")


@pytest.mark.parametrize(
    ("hint", "kept"),
    [("", "Run it again."), ("Run `invoke doctor`.", "Run it again."), ("Run `invoke restore.abort`.",) * 2],
)
def test_who_fails_because_the_way_was_lost_is_told_so_and_keeps_a_hint_that_knows_more(
    hint: str, kept: str
) -> None:
    with pytest.raises(OpsError) as raised, entrances._told(lambda: LOST):
        raise OpsError("could not look", detail="The server is gone.", hint=hint)
    assert raised.value.message == "could not look"
    assert raised.value.detail.split(BELOW) == ["the tunnel is gone. It was killed.", "The server is gone."]
    assert raised.value.hint == kept


@pytest.mark.parametrize("lost", [None, LOST])
def test_a_refusal_stays_one_and_so_does_what_failed_on_a_way_that_stands(lost: FlyError | None) -> None:
    error = Refused("this is another server") if lost else OpsError("the disk is full")
    with pytest.raises(OpsError) as raised, entrances._told(lambda: lost):
        raise error
    assert raised.value is error
