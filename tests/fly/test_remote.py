"""Commands and bytes over SSH on a machine of the stand-in: its server takes certificates only, has no shell, forwards nothing."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import portable
from polyladder_ops.fly import certificates, machines, remote, tunnel
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.sandbox.fly import credentials, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.fly.certificates import Certificate
    from polyladder_ops.fly.remote import Remote
    from polyladder_ops.fly.stream import Stream
    from polyladder_ops.fly.tunnel import Tunnel

HOUR_S = 3600.0


@pytest.fixture(scope="module")
def far(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """A cloud whose database machine lets in who has a certificate of its organisation."""
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, lease_s=2.0)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    made.open_ssh(DB, {"PGPORT": "5433"})
    yield made
    made.remove()


@pytest.fixture
def flyctl(far: Cloud, tmp_path: Path) -> Flyctl:
    return Flyctl(str(far.program), far.token, tmp_path / "config")


@pytest.fixture
def way(far: Cloud, flyctl: Flyctl) -> Iterator[Tunnel]:
    (machine,) = machines.read(flyctl.json(list, "machine", "list", "--json", app=DB))
    with tunnel.opened(flyctl, DB, machine, 22, answers=tunnel.ssh_answers) as opened:
        yield opened
    far.switch("all", off=True)


@pytest.fixture
def certificate(flyctl: Flyctl, tmp_path: Path) -> Certificate:
    return certificates.issued(flyctl, certificates.organisation(flyctl, DB), tmp_path / "state")


@pytest.fixture
def machine(way: Tunnel, certificate: Certificate) -> Iterator[Remote]:
    with remote.logged_in(way, certificate) as there:
        yield there


def drain(stream: Stream) -> bytes:
    """All bytes of a command to its end."""
    return b"".join(iter(stream.read, b""))


def test_a_command_is_run_by_a_shell_with_the_machines_environment(machine: Remote) -> None:
    assert machine.run("echo \"$PGPORT\" | tr 5 6; echo 'it''s' >&2") == "6433\n"
    assert machine.run("printf 'Zoë\\n'") == "Zoë\n"


def test_the_far_end_has_no_shell_of_its_own(machine: Remote) -> None:
    channel = machine._connection.transport.open_session()
    channel.exec_command("echo $PGPORT | cat")
    assert channel.recv(100) == b"$PGPORT | cat\n"


def test_the_far_end_forwards_nothing(machine: Remote) -> None:
    with pytest.raises(Exception, match=r"Administratively prohibited|Connect failed"):
        machine._connection.transport.open_channel(
            "direct-tcpip", ("127.0.0.1", 22), ("127.0.0.1", 0), timeout=10
        )


def test_a_command_that_fails_says_how(machine: Remote) -> None:
    with pytest.raises(FlyError, match="exit 7` failed on machine") as raised:
        machine.run("echo no >&2; exit 7")
    assert raised.value.detail == "It ended with exit code 7. It says: no"
    assert machine.outcome("exit 7").code == 7


def test_a_command_that_does_not_end_in_time_is_let_go_of(machine: Remote) -> None:
    began = time.monotonic()
    with pytest.raises(FlyError, match="did not end within 1 s"):
        machine.run("sleep 600", limit_s=1.0)
    assert time.monotonic() - began < 30


def test_bytes_come_and_go_as_they_are(machine: Remote) -> None:
    content = os.urandom(3 << 20)
    with machine.streamed("sha256sum; head -c 5000000 /dev/zero; echo aside >&2; exit 3") as stream:
        stream.write(content)
        stream.close_stdin()
        came = drain(stream)
        ended = stream.ended()
    assert came == hashlib.sha256(content).hexdigest().encode() + b"  -\n" + bytes(5000000)
    assert (ended.code, ended.err) == (3, "aside\n")


def test_a_command_that_says_much_aside_does_not_stop(machine: Remote) -> None:
    with machine.streamed("head -c 50000000 /dev/zero >&2; echo done") as stream:
        assert drain(stream) == b"done\n"
        assert stream.ended().code == 0


def test_a_command_that_is_killed_there_is_no_end(machine: Remote) -> None:
    with machine.streamed("echo begun; kill -9 $$") as stream:
        assert drain(stream) == b"begun\n"
        with pytest.raises(FlyError, match="was lost"):
            stream.ended()


def test_a_command_that_works_in_silence_is_waited_for(
    machine: Remote, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyladder_ops.fly.stream._SILENT_S", 0.3)
    with machine.streamed("sleep 2; echo late") as stream:
        assert drain(stream) == b"late\n"


def test_a_tunnel_that_falls_silent_amid_the_bytes_ends_the_wait(
    far: Cloud, way: Tunnel, certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("polyladder_ops.fly.stream._SILENT_S", 0.5)
    monkeypatch.setattr("polyladder_ops.fly.remote._ANSWER_S", 1.0)
    far.switch("tunnel-stalls", times=1)
    began = time.monotonic()
    with (
        remote.logged_in(way, certificate) as there,
        there.streamed("head -c 9000000 /dev/zero") as stream,
        pytest.raises(FlyError, match="was lost") as raised,
    ):
        drain(stream)
    assert "does not answer" in raised.value.detail
    assert time.monotonic() - began < 60


def test_a_connection_that_is_cut_amid_the_bytes_is_no_end_of_them(
    far: Cloud, way: Tunnel, certificate: Certificate
) -> None:
    far.switch("tunnel-cuts", times=1)
    with (
        remote.logged_in(way, certificate) as there,
        there.streamed("head -c 9000000 /dev/zero") as stream,
        pytest.raises(FlyError, match="was lost"),
    ):
        drain(stream)


def test_a_machine_that_stopped_meanwhile_is_said_to_be_stopped(
    far: Cloud, way: Tunnel, certificate: Certificate
) -> None:
    far.switch("tunnel-cuts", times=1)
    try:
        with (
            remote.logged_in(way, certificate) as there,
            there.streamed("head -c 9000000 /dev/zero") as stream,
        ):
            stop(far, "stopped")
            with pytest.raises(FlyError, match="is stopped"):
                drain(stream)
    finally:
        stop(far, "started")


def stop(far: Cloud, state: str) -> None:
    with world.changing(far.folder) as here:
        here.becomes(here.machines(DB)[0], state)


def test_files_are_written_once_for_us_alone_and_read_back(machine: Remote, tmp_path: Path) -> None:
    path, content = str(tmp_path / "there"), os.urandom(1 << 20)
    machine.put(path, content)
    assert machine.get(path) == content
    assert (tmp_path / "there").stat().st_mode & 0o777 == 0o600
    with pytest.raises(FlyError, match="can't be used"):
        machine.put(path, b"other")
    assert machine.get(path) == content
    with pytest.raises(FlyError, match="can't be used"):
        machine.get(str(tmp_path / "nowhere"))


def test_nothing_of_a_persons_ssh_is_used(
    way: Tunnel, certificate: Certificate, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "config").write_text(
        "Host *\n  User nobody\n  ProxyCommand false\n", encoding="utf-8"
    )
    (tmp_path / ".fabric.yaml").write_text("run: {shell: /nowhere}\nsudo: [", encoding="utf-8")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "no-agent"))
    with remote.logged_in(way, certificate) as there:
        assert there.run("echo well") == "well\n"
    assert not (tmp_path / ".ssh" / "known_hosts").exists()


def test_the_host_key_of_the_first_time_is_the_only_one(far: Cloud, machine: Remote) -> None:
    machine.connect()
    assert machine.run("echo again") == "again\n"
    import paramiko

    machine._host_key = paramiko.RSAKey.generate(2048)
    with pytest.raises(FlyError, match="another machine answers as"):
        machine.connect()


def made(
    far: Cloud,
    *,
    begins: float = -60.0,
    seconds: float = HOUR_S,
    authority: str = "",
    names: str = "root,fly",
) -> Certificate:
    """A certificate as the organisation's authority signs it, or another one."""
    key = credentials.new_key()
    own = str(world.seen(far.folder).data["authority"]["private"])
    now = time.time()
    text = credentials.signed(
        authority or own, credentials.public_of(key), names.split(","), seconds=seconds, begins=now + begins
    )
    return certificates.Certificate(key, text, now + begins + seconds)


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"authority": "foreign"}, "another organisation"),
        ({"begins": -HOUR_S, "seconds": 60.0}, "has expired"),
        ({"names": "fly"}, "another organisation"),
    ],
    ids=["of another authority", "expired", "for another user"],
)
def test_what_the_far_end_does_not_take_is_explained(
    far: Cloud, way: Tunnel, changes: dict[str, Any], why: str
) -> None:
    if changes.get("authority"):
        changes = {**changes, "authority": credentials.new_key()}
    with (
        pytest.raises(FlyError, match="does not take our certificate") as raised,
        remote.logged_in(way, made(far, **changes)),
    ):
        pytest.fail("it was let in")
    assert why in raised.value.detail


def test_a_key_without_a_certificate_is_not_let_in(far: Cloud, way: Tunnel) -> None:
    key = credentials.new_key()
    own = made(far)
    with pytest.raises(FlyError), remote.logged_in(way, replace(own, key=key)):
        pytest.fail("it was let in")


def test_a_proxy_that_is_killed_ends_who_waits(far: Cloud, machine: Remote) -> None:
    pid = machine._way.proxy._process.pid
    with machine.streamed("sleep 600") as stream:
        timer = threading.Timer(0.5, portable.kill_group, (pid,))
        timer.start()
        with pytest.raises(FlyError, match="is gone"):
            stream.read()
        timer.join()
