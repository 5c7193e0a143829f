"""pg_dump on the server's own machine: a real one, behind the stand-in's tunnel and SSH; what goes wrong there is told here."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

import pytest

from polyladder_ops import backups, decryption, encryption, portable, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.fly import dumping
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.postgres import dump, snapshot
from polyladder_ops.postgres.session import connect
from polyladder_ops.postgres.snapshot import Changed, LocksExhausted
from polyladder_ops.sandbox.fly import world
from tests.faults.places import dumping as dumping_here
from tests.faults.places import environment_of, rows_of
from tests.fly.conftest import target_of, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.dumping import There
    from polyladder_ops.fly.road import Road
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox import server as servers
    from polyladder_ops.sandbox.fly.cloud import Cloud

NOISE = f"noise_{os.getpid()}"  # other workers have servers of their own on this machine
NOISE_ROWS = 1_200_000  # 40 MB, of which compression leaves 20: more than waits on the way
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def there(way: Road) -> There:
    made = dumping.there(way)
    assert made
    return made


@pytest.fixture(scope="module")
def noise(flex: servers.Server) -> str:
    """A database whose dump is not over before somebody reads it."""
    with connect(flex.target()) as connection:
        connection.execute(f"CREATE DATABASE {NOISE}".encode())
    with connect(flex.target(NOISE)) as connection:
        connection.execute(
            f"CREATE TABLE public.noise AS SELECT md5(n::text) FROM generate_series(1, {NOISE_ROWS}) n".encode()
        )
    return NOISE


@pytest.fixture
def program(far: Cloud) -> Iterator[Callable[[str, str], None]]:
    """Put a program on the machine that is found before the real one; gone after the test."""
    folder = far.folder / "programs"
    folder.mkdir()

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/bash\n{script}\n", encoding="utf-8")
        (folder / name).chmod(0o755)

    yield put
    for each in folder.iterdir():
        each.unlink()
    folder.rmdir()


def dump_by(way: Road, folder: Path, database: str = "", sink: Any = len, **options: Any) -> None:
    there = dumping.there(way)
    assert there
    target = target_of(way).with_database(database or target_of(way).database)
    options = {"meanwhile": lambda: None, "need_tls": False, "encoding": "UTF8", **options}
    with closing(connect(target)) as holder, snapshot.hold(holder) as held:
        dump.run(there, target, held.name, sink, private=folder, holder=holder, **options)


def take(way: Road, folder: Path, **options: Any) -> Any:
    return backups.take(
        target_of(way), folder / "backups", site="rehearsal", private=folder / "state", options=backups.Options(**options)
    )  # fmt: skip


def running_for(database: str) -> list[int]:
    """The pg_dumps that run for a database, here or there."""
    return list(dumping_here(_Named(database)))  # type: ignore[arg-type]


def niceness(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[16])


def kill(pid: int) -> None:
    subprocess.run(["kill", "-9", str(pid)], check=False)


class _Named:
    def __init__(self, database: str) -> None:
        self.database = database


@pytest.mark.parametrize("compress", [True, False], ids=["compressed", "as it is"])
def test_a_backup_by_the_machines_own_pg_dump_is_whole(
    compress: bool, way: Road, there: There, flex: servers.Server, tmp_path: Path
) -> None:
    taken = take(way, tmp_path, dumper=there, clients=(), compress_there=compress)
    with connect(flex.target(target_of(way).database)) as connection:
        rows = connection.execute(b"SELECT count(*) FROM public.users").fetchone()
    assert (rows_of(taken)["public.users"],) == rows
    assert taken.manifest.source.client_version == there.version
    assert verification.verify_stored(taken, []).passed
    proved = verification.verify_by_restore(taken, [], flex.target(), trusted=True)
    assert proved.passed, proved.reasons


def test_it_is_the_same_dump_as_one_from_here(way: Road, there: There, tmp_path: Path) -> None:
    far, near = take(way, tmp_path / "far", dumper=there), take(way, tmp_path / "near")
    assert far.manifest.tables == near.manifest.tables
    assert far.manifest.objects == near.manifest.objects
    assert far.manifest.sequences == near.manifest.sequences


def test_what_came_compressed_is_kept_as_it_came(
    way: Road, there: There, program: Callable[..., None], tmp_path: Path
) -> None:
    """With password verifiers before it, which are of our own making."""
    program("gzip", f"exec /bin/gzip -1 | tee {tmp_path}/sent")
    public, secret = encryption.new_pair()
    (tmp_path / "identity").write_text(secret)
    keys = encryption.identities(tmp_path / "identity")
    taken = take(way, tmp_path, dumper=there, with_passwords=True, recipients=(public,))
    assert verification.verify_stored(taken, keys).passed
    sent = (tmp_path / "sent").read_bytes()
    assert gzip.decompress(sent).startswith(b"--\n-- PostgreSQL database dump")
    kept = decryption.here(taken.path.read_bytes(), keys)
    assert kept.endswith(sent)
    assert gzip.decompress(kept[: -len(sent)]).startswith(b"-- polyladder-ops password verifier: ")


def test_what_comes_is_compressed_on_the_way(
    opens: Callable[[], Any], far: Cloud, noise: str, tmp_path: Path
) -> None:
    def carried(*, compress: bool) -> int:
        before, plain = len(far.carried()), []
        with opens() as way:
            dump_by(way, tmp_path, noise, lambda block: plain.append(len(block)), compress=compress)
        assert sum(plain) > NOISE_ROWS * 33
        until(lambda: far.carried()[before:])
        return sum(each["down"] for each in far.carried()[before:])

    assert carried(compress=True) < NOISE_ROWS * 22
    assert carried(compress=False) > NOISE_ROWS * 33


def test_a_dump_goes_on_while_new_keys_are_agreed_on(
    opens: Callable[[], Any], noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from paramiko.packet import Packetizer

    monkeypatch.setattr(Packetizer, "REKEY_BYTES", 4 << 20)  # half a gigabyte else
    monkeypatch.setattr(dumping, "_BEAT_S", 0.01)
    plain = []
    with opens() as way:
        before = way.remote._connection.transport.session_id, way.remote._connection.transport.H
        dump_by(way, tmp_path, noise, lambda block: plain.append(len(block)))
        after = way.remote._connection.transport.session_id, way.remote._connection.transport.H
    assert sum(plain) > NOISE_ROWS * 33
    assert after[0] == before[0]
    assert after[1] != before[1]


def test_it_runs_there_behind_all_others_and_knows_nothing_of_us(
    way: Road, noise: str, tmp_path: Path
) -> None:
    seen: list[tuple[int, dict[str, str], bytes]] = []

    def look(_block: bytes) -> None:
        for pid in running_for(noise) if not seen else ():
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
            seen.append((niceness(pid), environment_of(pid), command))

    dump_by(way, tmp_path, noise, look)
    ((nice, env, command),) = seen
    assert nice == 10
    assert env["PGAPPNAME"].startswith("polyladder-ops pg_dump of ")
    assert (env["PGUSER"], env["PGTZ"], env["PGPORT"]) == ("postgres", "UTC", str(way.seen.port))
    assert way.seen.socket.startswith(env["PGHOST"])
    assert way.server.host not in f"{env}{command!r}"
    assert "PGDATA" not in env
    assert b"--snapshot=" in command


def test_a_machine_without_pg_dump_is_said_to_have_none(way: Road) -> None:
    said: list[str] = []
    assert dumping.there(replace(way, seen=replace(way.seen, pg_dump="")), say=said.append) is None
    assert len(said) == 1
    assert f"machine {way.machine.id} has no pg_dump" in said[0]


def test_a_machine_that_takes_no_key_of_ours_is_said_to_be_one(way: Road) -> None:
    said: list[str] = []
    assert dumping.there(replace(way, remote=None), say=said.append) is None
    assert [f"machine {way.machine.id} takes no key of ours" in each for each in said] == [True]


@pytest.mark.parametrize(
    ("words", "kind", "said"),
    [
        ("aborting because of server version mismatch", OpsError, "pg_dump failed with exit code 1"),
        ('error: relation "x" does not exist', Changed, "does not exist"),
        ("out of shared memory", LocksExhausted, "no room for that many locks"),
    ],
)
def test_what_pg_dump_says_there_is_told_as_if_it_were_here(
    words: str, kind: type[Exception], said: str, *, way: Road, program: Callable[..., None], tmp_path: Path
) -> None:  # fmt: skip
    program("pg_dump", f"echo begun; echo 'pg_dump: {words}' >&2; exit 1")
    with pytest.raises(kind, match=said) as raised:
        dump_by(way, tmp_path)
    if kind is OpsError:
        assert raised.value.hint == "Install the client of the server's version."  # type: ignore[attr-defined]


def test_a_pg_dump_that_is_killed_there_is_no_end_of_a_dump(way: Road, noise: str, tmp_path: Path) -> None:
    def end(_block: bytes) -> None:
        for pid in running_for(noise):
            kill(pid)

    with pytest.raises(OpsError, match="pg_dump was killed by signal 9"):
        dump_by(way, tmp_path, noise, end)


@pytest.mark.parametrize(
    ("packer", "said"),
    [
        ("head -c 100000 | /bin/gzip -1; kill -9 $$", "what compresses the dump on machine .* failed"),
        ("/bin/gzip -1 | { head -c 100000; cat >/dev/null; }", "is not whole"),
        ("/bin/gzip -1 | { head -c 100000; tr a b; }", "is not whole"),
        ("/bin/gzip -1; echo more", "is not whole"),
    ],
    ids=["killed", "cut", "damaged", "followed"],
)
def test_a_compressed_stream_that_is_not_whole_is_no_shorter_dump(
    packer: str, said: str, *, way: Road, noise: str, program: Callable[..., None], tmp_path: Path
) -> None:
    program("gzip", packer)
    with pytest.raises(FlyError, match=said):
        dump_by(way, tmp_path, noise)


def test_a_pg_dump_that_falls_silent_there_is_ended(
    way: Road, program: Callable[..., None], tmp_path: Path
) -> None:
    program("pg_dump", f"echo $$ > {tmp_path}/pid; echo waiting >&2; exec sleep 600")
    with pytest.raises(OpsError, match="pg_dump said nothing for 2 s and was ended") as raised:
        dump_by(way, tmp_path, stall_s=2.0)
    assert "waiting" in raised.value.detail
    pid = int((tmp_path / "pid").read_text())
    until(lambda: not portable.is_alive(pid))


def test_who_leaves_amid_a_dump_leaves_nothing_running_there(way: Road, noise: str, tmp_path: Path) -> None:
    def leave(_block: bytes) -> None:
        assert running_for(noise)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        dump_by(way, tmp_path, noise, leave)
    until(lambda: not running_for(noise))


@pytest.fixture
def cut(far: Cloud) -> Iterator[None]:
    """The next tunnel is cut amid a dump."""
    with world.changing(far.folder) as here:
        here.data["tunnel_after"] = 3 << 20
    far.switch("tunnel-cuts", times=2)  # the first is who looks whether the tunnel leads anywhere
    yield
    far.switch("all", off=True)
    with world.changing(far.folder) as here:
        del here.data["tunnel_after"]


def test_a_tunnel_that_is_cut_ends_the_dump_here_and_soon_there(
    cut: None, opens: Callable[[], Any], noise: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dumping, "_SILENT_S", 6)
    with opens() as way, pytest.raises(FlyError, match="was lost"):
        dump_by(way, tmp_path, noise)
    began = time.monotonic()
    until(lambda: not running_for(noise))
    assert time.monotonic() - began < 30


def test_what_a_cut_left_running_there_is_ended_before_a_new_try(
    cut: None, opens: Callable[[], Any], flex: servers.Server, noise: str, tmp_path: Path
) -> None:
    deaf = dumping._SCRIPT.replace("while read -r -t {silent_s}; do :; done", "sleep 120")
    with mock.patch.object(dumping, "_SCRIPT", deaf), opens() as way, pytest.raises(FlyError, match="was lost"):  # fmt: skip
        dump_by(way, tmp_path, noise)
    (pid,) = running_for(noise)
    try:
        holder = int(environment_of(pid)["PGAPPNAME"].rpartition(" ")[2])
        with connect(flex.target()) as connection:
            # As it does itself once it hears nothing.
            connection.execute(f"SELECT pg_terminate_backend({holder})".encode())
            assert sessions_of(connection) == 1
            with opens() as way:
                dump_by(way, tmp_path)
            until(lambda: not sessions_of(connection))
    finally:
        kill(pid)


def sessions_of(connection: Connection) -> int:
    """How many pg_dumps of ours the server has."""
    row = connection.execute(
        b"SELECT count(*) FROM pg_stat_activity WHERE application_name LIKE 'polyladder-ops pg_dump of %'"
    ).fetchone()
    assert row
    return int(row[0])


_DYING = """
import json, sys, time
from pathlib import Path
from polyladder_ops.fly import dumping
from tests.fly import test_dumping
from tests.fly.conftest import opening
from polyladder_ops.sandbox.fly.cloud import Cloud
folder, base, token, tmp, name = json.loads(sys.argv[1])

def wait(block):
    print("dumping", flush=True)
    time.sleep(600)

with opening(Cloud(Path(folder)), base, token, Path(tmp)) as way:
    test_dumping.dump_by(way, Path(tmp), name, wait)
"""


def test_a_run_that_is_killed_leaves_nothing_running_there_for_long(
    far: Cloud, base: str, deploy_token: str, noise: str, tmp_path: Path
) -> None:
    told = json.dumps([str(far.folder), base, deploy_token, str(tmp_path), noise])
    process = portable.start(
        [sys.executable, "-c", _DYING, told],
        env=dict(os.environ),
        stdout=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout
    try:
        assert process.stdout.readline() == b"dumping\n"
        (pid,) = running_for(noise)
        process.kill()
        process.wait()
    finally:
        portable.end(process)
        process.stdout.close()
    began = time.monotonic()
    until(lambda: not portable.is_alive(pid))
    assert time.monotonic() - began < dumping._SILENT_S + 15
