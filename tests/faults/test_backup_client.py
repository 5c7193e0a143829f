"""What pg_dump can do to us: be missing, too old, killed, hang, fail, stop half-way, lie."""

from __future__ import annotations

import gzip
import os
import signal
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients
from polyladder_ops.postgres.clients import Client
from polyladder_ops.sandbox import server as servers
from tests.faults.places import ROWS, Place, dumping, rows_of, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.snapshot import Snapshot

pytestmark = pytest.mark.skipif(
    sys.platform == "win32", reason="stand-ins are shell scripts, ended by signals"
)


@pytest.fixture
def stand_in(tmp_path: Path) -> Callable[[str], tuple[Client, ...]]:
    """A program in pg_dump's place that runs these lines of shell; `pg_dump` in them is the real one."""

    def make(lines: str) -> tuple[Client, ...]:
        program = tmp_path / "bin" / "pg_dump"
        program.parent.mkdir()
        program.write_text(
            f'#!/bin/sh\nPATH="{servers.programs()}:$PATH"\n'
            f'case "$*" in *--snapshot*) ;; *) exec pg_dump "$@";; esac\n{lines}\n'
        )
        program.chmod(0o755)
        return clients.find_clients([program])

    return make


def test_no_pg_dump_at_all_is_said_with_what_to_install(place: Place) -> None:
    error = place.fails(OpsError, clients=())
    assert "no pg_dump" in error.message
    assert "Install" in error.hint
    place.succeeds()


def test_a_pg_dump_older_than_the_server_is_named_and_not_used(
    place: Place, need: Callable[[object, str], None]
) -> None:
    older = [client for client in clients.find_clients() if client.major < 18]
    need(older, "no pg_dump older than 18")
    error = place.fails(OpsError, clients=older)
    assert "version 18" in error.message
    assert older[0].version in error.detail


def test_a_pg_dump_that_a_server_finds_too_old_by_itself_is_no_backup(
    place: Place, need: Callable[[object, str], None]
) -> None:
    older = [client for client in clients.find_clients() if client.major < 18]
    need(older, "no pg_dump older than 18")
    error = place.fails(OpsError, clients=[Client(older[0].program, "18.0", speaks_tls=True)])
    assert "server version mismatch" in error.detail
    assert "Install" in error.hint


def test_a_pg_dump_killed_half_way_leaves_nothing(place: Place) -> None:
    error = place.fails(OpsError, progress=sending("SIGKILL", place))
    assert error.message == "pg_dump was killed by signal 9"
    assert rows_of(place.succeeds()) == {"public.note": ROWS}


def test_a_pg_dump_that_stands_still_is_ended_after_its_time(place: Place) -> None:
    begun = time.monotonic()
    error = place.fails(OpsError, progress=sending("SIGSTOP", place), stall_s=0.5)
    assert error.message == "pg_dump said nothing for 0.5 s and was ended"
    assert time.monotonic() - begun < 5
    place.succeeds()


def sending(name: str, place: Place) -> Callable[[int], None]:
    """Return a listener to progress that sends the signal to pg_dump once."""
    pids: list[int] = []

    def progress(_size: int) -> None:
        if not pids:
            pids.extend(dumping(place.target))
            os.kill(pids[0], getattr(signal, name))

    return progress


HALF = 'pg_dump "$@" | head -c 1000000'
FAULTS = {
    "hangs before its first byte": ("exec sleep 60", "said nothing for 0.5 s"),
    "hangs after its last byte": ('pg_dump "$@"; exec >&-; exec sleep 60', "said nothing for 0.5 s"),
    "fails without a word": ("exit 1", "pg_dump failed with exit code 1"),
    "fails after a whole dump": ('pg_dump "$@"; exit 1', "pg_dump failed with exit code 1"),
    "complains without end": (
        "yes complaint | head -c 3000000 >&2; exit 3",
        "pg_dump failed with exit code 3",
    ),
    "says nothing at all": ("exit 0", "unusable"),
    "writes half a dump": (f"{HALF}; exit 0", "unusable"),
    "cuts the last line off": ('pg_dump "$@" | head -n -1', "unusable"),
    "loses a table": (
        "pg_dump \"$@\" | sed '/^COPY/,/^\\\\\\.$/d'",
        "pg_dump left out 1 tables or sequences",
    ),
    "writes twice": ('pg_dump "$@" >${0}ed; cat ${0}ed ${0}ed', "unusable"),
    "writes garbage": ("head -c 300000 /dev/urandom", "unusable"),
    "writes a psql command": ("pg_dump \"$@\" | sed 's/^CREATE TABLE/\\\\! id\\n&/'", "unusable"),
    "writes nulls": ("head -c 300000 /dev/zero", "unusable"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_no_backup_comes_of_a_pg_dump_that(
    fault: str, place: Place, stand_in: Callable[[str], tuple[Client, ...]]
) -> None:
    lines, said = FAULTS[fault]
    error = place.fails(OpsError, clients=stand_in(lines), stall_s=0.5 if "hangs" in fault else 60)
    assert said in error.message
    place.succeeds()


def test_a_pg_dump_that_can_not_be_started_is_named(place: Place, tmp_path: Path) -> None:
    program = tmp_path / "pg_dump"
    program.write_text("no program")
    error = place.fails(OpsError, clients=[Client(program, "18.6", speaks_tls=True)])
    assert error.message == f"could not start {program}"


def test_a_definition_that_changes_between_our_look_and_pg_dump_s_is_looked_at_again(
    place: Place, stand_in: Callable[[str], tuple[Client, ...]]
) -> None:
    define = "CREATE OR REPLACE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT {}'"
    say(place.target, define.format(1))
    change = f'[ -e ${{0}}ed ] || {{ sleep 0.7; psql -qc "{define.format(2)}"; touch ${{0}}ed; }}'
    tries: list[Snapshot] = []
    made = place.succeeds(exported=tries.append, clients=stand_in(f'{change}\npg_dump "$@"'))
    assert len(tries) == 2
    found = [entry for entry in made.manifest.objects if entry.kind == "function"]
    assert gzip.decompress(made.path.read_bytes()).count(b"SELECT 2") == len(found) == 1


def test_a_refresh_between_our_look_and_pg_dump_s_waits_for_neither(
    place: Place, stand_in: Callable[[str], tuple[Client, ...]]
) -> None:
    say(
        place.target,
        "CREATE MATERIALIZED VIEW m AS SELECT id FROM note; CREATE VIEW v AS SELECT id FROM m",
    )
    slow = stand_in('sleep 2; exec pg_dump "$@"')
    with ThreadPoolExecutor(1) as beside:
        taking = beside.submit(place.succeeds, clients=slow, stall_s=6)
        time.sleep(1.2)
        begun = time.monotonic()
        say(place.target, "REFRESH MATERIALIZED VIEW m")
        assert time.monotonic() - begun < 2
        assert rows_of(taking.result()) == {"public.note": ROWS}
