"""Which pg_dump is taken: by version and TLS, among programs that hang, lie, or are no pg_dump at all."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.clients import Client, candidates, choose, examine, find_clients
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Callable

posix = pytest.mark.skipif(sys.platform == "win32", reason="stand-ins are shell scripts")


def client(version: str, *, tls: bool = True, place: str = "") -> Client:
    return Client(Path(f"/opt/{place or version}/pg_dump"), version, speaks_tls=tls)


THERE = [
    client("18.6", tls=False),
    client("15.20"),
    client("16.4", tls=False),
    client("17.2"),
    client("15.1", place="old"),
]


@pytest.mark.parametrize(
    ("major", "need_tls", "version"),
    [
        (15, False, "15.20"),
        (15, True, "15.20"),
        (16, False, "16.4"),
        (16, True, "17.2"),
        (14, False, "15.20"),
        (17, True, "17.2"),
        (18, False, "18.6"),
    ],
)
def test_the_servers_own_major_is_taken_else_the_smallest_newer_one(
    major: int, need_tls: bool, version: str
) -> None:
    assert choose(THERE, major, need_tls=need_tls).version == version


def test_of_two_that_fit_equally_the_first_is_taken() -> None:
    assert choose([client("15.1", place="a"), client("15.9", place="b")], 15, need_tls=True).version == "15.1"


def test_an_older_one_is_never_taken_and_all_are_named() -> None:
    with pytest.raises(OpsError, match="no pg_dump for a server of version 19") as caught:
        choose(THERE, 19, need_tls=False)
    assert all(one.version in caught.value.detail for one in THERE)
    assert "Install PostgreSQL 19" in caught.value.hint


def test_one_without_tls_is_never_taken_where_tls_is_needed() -> None:
    with pytest.raises(OpsError, match="uses TLS and no pg_dump here speaks it") as caught:
        choose(THERE, 18, need_tls=True)
    assert "18.6" in caught.value.detail
    assert "postgresql-client-18" in caught.value.hint
    assert "apt.postgresql.org.sh" in caught.value.hint  # a Debian release has one major only


def test_none_at_all_is_said() -> None:
    with pytest.raises(OpsError, match="no pg_dump for a server of version 15") as caught:
        choose([], 15, need_tls=False)
    assert caught.value.detail
    assert "Install PostgreSQL 15" in caught.value.hint


@pytest.mark.parametrize(
    ("version", "major"), [("15.20", 15), ("18beta1", 18), ("18rc2", 18), ("19devel", 19), ("9.6.24", 9)]
)
def test_the_major_is_the_versions_first_number(version: str, major: int) -> None:
    assert client(version).major == major


def test_a_person_sees_version_place_and_missing_tls() -> None:
    assert str(client("18.6", tls=False)) == f"pg_dump 18.6 ({Path('/opt/18.6/pg_dump')}, no TLS)"
    assert str(client("15.1")) == f"pg_dump 15.1 ({Path('/opt/15.1/pg_dump')})"


@pytest.fixture
def script(tmp_path: Path) -> Callable[[str], Path]:
    """Make a program named pg_dump that runs these lines of shell."""

    def make(lines: str) -> Path:
        path = tmp_path / "pg_dump"
        path.write_text(f"#!/bin/sh\n{lines}\n")
        path.chmod(0o755)
        return path

    return make


VERSION = 'test "$1" = --version && echo "pg_dump (PostgreSQL) 17.2 (Debian 17.2-1)" && exit\n'
TLS = 'connection to server on socket "/nonexistent/.s.PGSQL.5432" failed: No such file or directory'
NO_TLS = 'sslmode value "require" invalid when SSL support is not compiled in'


@posix
@pytest.mark.parametrize(
    ("answer", "speaks"), [(TLS, True), (NO_TLS, False), ("Segmentation fault", False), ("", False)]
)
def test_a_program_speaks_tls_only_if_it_shows_that_it_would(
    answer: str, speaks: bool, script: Callable[[str], Path]
) -> None:
    program = script(f"{VERSION}echo 'pg_dump: error: {answer}' >&2; exit 1")
    assert examine(program) == Client(program, "17.2", speaks_tls=speaks)


@posix
@pytest.mark.parametrize(
    "lines",
    [
        "echo 'pg_dump 17.2'",
        "echo 'psql (PostgreSQL) 17.2'",
        "echo 'pg_restore (PostgreSQL) 17.2'",
        "exit 1",
        "cat",
        "kill -9 $$",
        "yes | head -c 300000",
        "printf '\\377\\376'",
    ],
)
def test_a_program_that_is_no_pg_dump_is_left_out(lines: str, script: Callable[[str], Path]) -> None:
    assert find_clients([script(lines)]) == ()


def test_what_can_not_be_started_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "pg_dump").write_bytes(b"\x7fELF nonsense")
    (tmp_path / "pg_dump").chmod(0o755)
    assert find_clients([tmp_path / "pg_dump", tmp_path / "gone", tmp_path]) == ()


@posix
@pytest.mark.parametrize(
    "lines",
    ["sleep 60", "trap '' TERM; while :; do sleep 0.1; done", "yes", "sleep 3 &", f"{VERSION}sleep 60"],
)
def test_a_program_that_hangs_is_ended_and_left_out(lines: str, script: Callable[[str], Path]) -> None:
    before = set(threading.enumerate())
    began = time.monotonic()
    found = examine(script(lines), timeout_s=0.3)
    assert time.monotonic() - began < 5
    assert found is None or not found.speaks_tls
    assert lines == "sleep 3 &" or set(threading.enumerate()) == before


@posix
def test_a_program_that_hangs_leaves_no_child(script: Callable[[str], Path], tmp_path: Path) -> None:
    assert examine(script(f"sleep 60 & echo $! > {tmp_path}/pid; wait"), timeout_s=0.5) is None
    pid = int((tmp_path / "pid").read_text())
    until = time.monotonic() + 5
    while time.monotonic() < until and lives(pid):
        time.sleep(0.02)
    assert not lives(pid)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rsplit(")", 1)[1].split()[0] != "Z"


@posix
def test_a_program_sees_neither_our_secrets_nor_our_stdin(
    script: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", "hunter2")
    monkeypatch.setenv("DATABASE_URL", "postgres://u:hunter2@h/d")
    examine(script(f"env > {tmp_path}/env; cat > {tmp_path}/stdin"))
    assert "hunter2" not in (tmp_path / "env").read_text()
    assert "LC_ALL=C" in (tmp_path / "env").read_text()
    assert (tmp_path / "stdin").read_bytes() == b""


def test_the_embedded_client_is_found_and_does_not_speak_tls(need: Callable[[object, str], None]) -> None:
    try:
        folder = servers.programs()
    except OpsError as error:
        need(None, str(error))
    (embedded,) = [one for one in find_clients() if one.program.parent == folder]
    assert embedded.major >= 18
    assert not embedded.speaks_tls


@pytest.mark.skipif(sys.platform != "linux", reason="looked for where Debian keeps it")
def test_debians_client_is_told_from_the_embedded_one_and_speaks_tls(
    need: Callable[[object, str], None],
) -> None:
    own = [one for one in find_clients() if one.program.is_relative_to("/usr/lib/postgresql")]
    need(own, "no client in /usr/lib/postgresql (apt-get install postgresql-client)")
    assert all(one.speaks_tls for one in own)
    assert [one.major for one in own] == [int(one.program.parts[4]) for one in own]


@posix
def test_path_is_looked_through_and_each_program_named_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c", "debian"):
        (tmp_path / name).mkdir()
    for name in ("a", "c"):
        (tmp_path / name / "pg_dump").write_text("#!/bin/sh\n")
    (tmp_path / "a" / "pg_dump").chmod(0o755)
    (tmp_path / "c" / "pg_dump").chmod(0o644)
    (tmp_path / "b" / "pg_dump").symlink_to(tmp_path / "a" / "pg_dump")
    (tmp_path / "debian" / "pg_wrapper").write_text("#!/bin/sh\n")
    (tmp_path / "debian" / "pg_wrapper").chmod(0o755)
    (tmp_path / "debian" / "pg_dump").symlink_to(tmp_path / "debian" / "pg_wrapper")
    monkeypatch.setenv(
        "PATH", os.pathsep.join(["", *(str(tmp_path / name) for name in ("a", "b", "c", "debian", "gone"))])
    )
    ours = [program.resolve() for program in candidates() if program.is_relative_to(tmp_path)]
    assert ours == [(tmp_path / "a" / "pg_dump").resolve()]
