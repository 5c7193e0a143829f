"""Our SSH against OpenSSH's own server: the stand-in's far end is asyncssh, and what both take the real one should take, too."""

from __future__ import annotations

import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import portable
from polyladder_ops.fly import bridge, certificates, machines, primary, remote, tunnel
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox.fly import credentials
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, set_world, shown, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.certificates import Certificate
    from polyladder_ops.fly.remote import Remote
    from polyladder_ops.fly.tunnel import Tunnel

PORT = 5433
HOUR_S = 3600.0
# As root it separates its privileges in a folder that a service of the system makes elsewhere.
SEPARATION = Path("/run/sshd")
SETTINGS = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
TrustedUserCAKeys {folder}/authority.pub
AuthorizedKeysFile none
AuthenticationMethods publickey
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding no
AllowAgentForwarding no
AllowStreamLocalForwarding no
X11Forwarding no
PermitUserEnvironment no
UsePAM no
PidFile none
SetEnv PGDATA={folder}/postgresql
Subsystem sftp internal-sftp
"""


def program() -> str | None:
    return shutil.which("sshd", path=f"{os.environ.get('PATH', '')}{os.pathsep}/usr/sbin")


@pytest.fixture(scope="module")
def authority() -> str:
    return credentials.new_key()


@pytest.fixture(scope="module")
def sshd(
    authority: str, tmp_path_factory: pytest.TempPathFactory, need: Callable[[object, str], None]
) -> Iterator[int]:
    """The port of a server that lets in who has a certificate of the authority, and opens no way further."""
    need(program(), "no sshd (apt-get install openssh-server)")
    if getpass.getuser() != certificates.USER:
        pytest.skip(f"our certificates are for {certificates.USER}, and sshd lets in nobody else")
    SEPARATION.mkdir(mode=0o755, exist_ok=True)
    folder = tmp_path_factory.mktemp("sshd")
    portable.write_private(folder / "host_key", credentials.new_key())
    (folder / "authority.pub").write_text(credentials.public_of(authority), encoding="ascii")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = int(listener.getsockname()[1])
    (folder / "config").write_text(SETTINGS.format(port=port, folder=folder), encoding="ascii")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([str(program()), "-D", "-e", "-f", str(folder / "config")], stderr=log)
    try:
        until(lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, (folder / "log").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(60)


def listens(port: int) -> bool:
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            return tunnel.ssh_answers(connection)
    except OSError:
        return False


@pytest.fixture(scope="module")
def far(authority: str, sshd: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud at whose database machine's port 22 it answers."""
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, behind={22: ("127.0.0.1", sshd)})
    set_world(made, authority={"private": authority, "public": credentials.public_of(authority)})
    until(lambda: shown(made, DB)[0]["state"] == "started")
    yield made
    made.remove()


@pytest.fixture(scope="module")
def flyctl(far: Cloud, tmp_path_factory: pytest.TempPathFactory) -> Flyctl:
    return Flyctl(str(far.program), far.token, tmp_path_factory.mktemp("state") / "config")


@pytest.fixture(scope="module")
def way(flyctl: Flyctl) -> Iterator[Tunnel]:
    (machine,) = machines.read(flyctl.json(list, "machine", "list", "--json", app=DB))
    with tunnel.opened(flyctl, DB, machine, 22, answers=tunnel.ssh_answers) as opened:
        yield opened


@pytest.fixture(scope="module")
def machine(way: Tunnel, flyctl: Flyctl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Remote]:
    certificate = certificates.issued(flyctl, "personal", tmp_path_factory.mktemp("keys"))
    with remote.logged_in(way, certificate) as there:
        yield there


def test_a_command_is_run_by_our_shell_within_the_users_own(machine: Remote) -> None:
    assert machine.run("echo \"$((6 * 7)) 'it''s' \\$HOME\" | tr 4 5; echo aside >&2") == "52 'it''s' $HOME\n"
    assert machine.outcome("exit 7").code == 7
    with pytest.raises(FlyError, match="failed on machine") as raised:
        machine.run("echo no >&2; exit 3")
    assert raised.value.detail == "It ended with exit code 3. It says: no"


def test_megabytes_come_and_go_as_they_are(machine: Remote) -> None:
    content = os.urandom(8 << 20)
    with machine.streamed("sha256sum; head -c 30000000 /dev/zero; echo aside >&2; exit 3") as stream:
        stream.write(content)
        stream.close_stdin()
        came = b"".join(iter(stream.read, b""))
        ended = stream.ended()
    assert came == hashlib.sha256(content).hexdigest().encode() + b"  -\n" + bytes(30_000_000)
    assert (ended.code, ended.err) == (3, "aside\n")


def test_files_go_by_sftp(machine: Remote, tmp_path: Path) -> None:
    path, content = str(tmp_path / "there"), os.urandom(1 << 20)
    machine.put(path, content)
    assert machine.get(path) == content
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FlyError, match="can't be used"):
        machine.put(path, b"other")


def test_a_command_that_is_killed_there_is_no_end(machine: Remote) -> None:
    with machine.streamed("echo begun; kill -9 $$") as stream:
        assert b"".join(iter(stream.read, b"")) == b"begun\n"
        with pytest.raises(FlyError, match="was lost"):
            stream.ended()


def test_it_answers_to_who_asks_whether_it_is_there(machine: Remote) -> None:
    assert machine.answers()


def test_it_forwards_nothing(machine: Remote) -> None:
    with pytest.raises(Exception, match=r"Administratively prohibited|Connect failed"):
        machine._connection.transport.open_channel(
            "direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 0), timeout=10
        )


def test_a_look_at_the_machine(machine: Remote) -> None:
    seen = primary.look(machine)
    assert 0 < seen.free <= seen.size


def made(
    authority: str,
    *,
    begins: float = -60.0,
    seconds: float = HOUR_S,
    names: tuple[str, ...] = ("root", "fly"),
) -> Certificate:
    key, now = credentials.new_key(), time.time()
    text = credentials.signed(
        authority, credentials.public_of(key), names, seconds=seconds, begins=now + begins
    )
    return certificates.Certificate(key, text, now + begins + seconds)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"is_foreign": True}, "another organisation"),
        ({"begins": -HOUR_S, "seconds": 60.0}, "has expired"),
        ({"names": ("fly",)}, "another organisation"),
    ],
    ids=["of another authority", "expired", "for another user"],
)
def test_a_certificate_that_it_does_not_take_is_explained(
    way: Tunnel, authority: str, changes: dict[str, Any], why: str
) -> None:
    changes = dict(changes)
    signer = credentials.new_key() if changes.pop("is_foreign", False) else authority
    with (
        pytest.raises(FlyError, match="does not take our certificate") as raised,
        remote.logged_in(way, made(signer, **changes)),
    ):
        pytest.fail("it was let in")
    assert raised.value.name == "denied"
    assert why in raised.value.detail


def test_a_key_that_nobody_has_signed_is_not_let_in(way: Tunnel, tmp_path: Path) -> None:
    import paramiko

    portable.write_private(tmp_path / "key", credentials.new_key())
    key = paramiko.Ed25519Key.from_private_key_file(str(tmp_path / "key"))
    with paramiko.SSHClient() as client:
        client.set_missing_host_key_policy(paramiko.AutoAddPolicy())
        with pytest.raises(paramiko.AuthenticationException):
            client.connect(
                tunnel.HOST, way.port, certificates.USER, pkey=key, look_for_keys=False, allow_agent=False
            )


def test_sessions_cross_to_a_real_server(machine: Remote, database: Target, tmp_path: Path) -> None:
    to = f"exec socat - TCP:{database.host}:{database.port}"
    with bridge.bridged(machine, to, PORT, tmp_path) as crossing:
        there = Target.of(**{**database.parameters, "host": str(crossing.folder), "port": str(crossing.port)})
        with connect(there) as one, connect(there) as two:
            row = one.execute(b"SELECT length(%s), repeat('y', 20000000)", ["x" * 20_000_000]).fetchone()
            assert two.execute(b"SELECT 1").fetchone() == (1,)
        assert row is not None
        assert (row[0], len(row[1])) == (20_000_000, 20_000_000)
        assert crossing.lost == []
