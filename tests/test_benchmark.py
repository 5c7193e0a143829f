"""The benchmark: what it asks for, what it makes of the runs, and that it measures the program and nothing else."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from polyladder_ops import portable, usage
from polyladder_ops.bench import child, ending, measuring, road, targets
from polyladder_ops.bench.plan import PARTS, Link, Plan, parse
from polyladder_ops.bench.report import Report, Way
from polyladder_ops.bench.targets import COMPARISONS, MEMORY
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.postgres import session
from polyladder_ops.tasks.dev import bench
from polyladder_ops.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox import server as servers

MIB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count processor time and memory")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def measured(code: str) -> Usage:
    return usage.measured(python(code), env=portable.clean_environment())


# What is asked for ---------------------------------------------------------------------------------------------------


def test_the_numbers_on_the_command_line_become_a_plan() -> None:
    assert parse(scale="0.5", pairs="7") == Plan(0.5, 7, PARTS)
    assert parse(scale="12", pairs="5", only="link,backup").parts == ("backup", "link")


@pytest.mark.parametrize("scale", ["", "twelve", "0", "-1", "nan", "inf", "1001", "1,5"])
def test_a_scale_that_is_no_size_is_wrong_usage(scale: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse(scale=scale, pairs="5")


@pytest.mark.parametrize("pairs", ["", "five", "0", "-1", "2.5", "1000", "5\n", "\u0665"])
def test_a_number_of_pairs_that_is_none_is_wrong_usage(pairs: str) -> None:
    with pytest.raises(UsageError, match="is no number of rounds"):
        parse(scale="1", pairs=pairs)


def test_what_is_slow_runs_less_often_and_what_is_quick_more_often() -> None:
    assert [Plan(12, 5).rounds(part) for part in PARTS] == [5, 5, 3, 5, 20]
    assert [Plan(12, 1).rounds(part) for part in PARTS] == [1, 1, 1, 1, 4]


@pytest.mark.parametrize("only", ["nothing", "backup,", "backup;link", "Backup"])
def test_a_part_that_there_is_not_is_wrong_usage(only: str) -> None:
    with pytest.raises(UsageError, match="names no part"):
        parse(scale="1", pairs="5", only=only)


def test_the_task_refuses_bad_numbers_before_it_makes_a_server() -> None:
    done = invoke("dev.bench", "--pairs=many")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --pairs=many is no number of rounds\n")


# What is made of the runs --------------------------------------------------------------------------------------------


def usages(*seconds: float, cpu: float | None = 1.0, peak: int | None = 50 * MIB) -> tuple[Usage, ...]:
    return tuple(Usage(0, each, cpu, peak) for each in seconds)


def report(*ways: Way, scale: float = 12, pairs: int = 5) -> Report:
    return Report(Plan(scale, pairs), datetime(2026, 1, 5, 2, 0, tzinfo=UTC), ways, {"cores": "2"})


def pair(ratio: float, *, peak: int = 50 * MIB) -> tuple[Way, Way]:
    """Return a backup and a pg_dump whose medians have this ratio; 1.25 is the target."""
    return Way(targets.BACKUP, usages(ratio, peak=peak)), Way(targets.FLOOR, usages(1.0))


def test_a_way_is_told_by_its_medians_and_its_largest_process() -> None:
    way = Way("x", (Usage(0, 9.0, 1.0, 10), Usage(0, 1.0, 5.0, 30), Usage(0, 2.0, 2.0, None)), 500_000_000)
    assert (way.seconds, way.cpu_seconds, way.cpu_seconds_per_gb, way.peak_bytes) == (2.0, 2.0, 4.0, 30)


def test_ratios_are_those_of_the_medians() -> None:
    made = report(
        Way(targets.BACKUP, usages(4, 5, 60, cpu=3.0)), Way(targets.OLD_BACKUP, usages(20, 20, 20, cpu=12.0))
    )
    (found, memory) = made.findings()
    assert (found.comparison.what, found.comparison.against) == ("backup", "old backup")
    assert (found.ratio, found.cpu_ratio) == (0.25, 0.25)
    assert memory.comparison is MEMORY


def test_where_no_processor_time_is_known_there_is_none_in_the_report() -> None:
    ways = (Way(targets.BACKUP, usages(4, cpu=None, peak=None)), Way(targets.OLD_BACKUP, usages(8, cpu=None, peak=None)))  # fmt: skip
    made = report(*ways)
    (found,) = made.findings()
    assert (found.ratio, found.cpu_ratio) == (0.5, None)
    assert made.as_json()["ways"][0]["cpu_seconds_per_gb"] is None
    assert made.as_text().splitlines()[1].split() == ["backup", "4.00"]


def test_a_person_reads_medians_work_per_gigabyte_and_every_run() -> None:
    made = report(Way("backup", usages(4, 5, 6, cpu=3.0), 500_000_000)).as_text()
    header, row = made.splitlines()[:2]
    assert header.split("  ")[0] == "way"
    assert row.split() == ["backup", "5.00", "3.00", "6.00", "50.0", "MiB"]
    assert "backup  4.00 5.00 6.00" in made


def test_every_comparison_is_of_two_ways_that_are_measured_and_named_once() -> None:
    assert len({(each.what, each.against) for each in COMPARISONS}) == len(COMPARISONS)
    assert {each.what for each in COMPARISONS} >= set(targets.OURS)


@pytest.mark.parametrize(
    ("ratio", "peak", "missed"),
    [
        (1.25, 50 * MIB, []),
        (1.26, 50 * MIB, ["backup / pg_dump >/dev/null is 1.26, at most 1.25, aim 1.10 is the target"]),
        (1.0, 151_000_000, ["peak memory of any of ours / 150 MB is 1.01, at most 1.00 is the target"]),
    ],
)
def test_a_ratio_above_its_target_is_missed(ratio: float, peak: int, missed: list[str]) -> None:
    made = report(*pair(ratio, peak=peak))
    assert [str(finding) for finding in made.missed()] == missed
    assert [one["met"] for one in made.as_json()["comparisons"]].count(False) == len(missed)
    assert f"{len(missed)} of the targets missed" in made.as_text()


@pytest.mark.parametrize(("scale", "pairs"), [(11.9, 5), (12, 4)])
def test_a_small_run_is_a_look_without_a_verdict(scale: float, pairs: int) -> None:
    made = report(*pair(9.0), scale=scale, pairs=pairs)
    assert made.missed() == []
    assert {one["met"] for one in made.as_json()["comparisons"]} == {None}
    assert "none: a look" in made.as_text()


def test_the_peak_of_what_others_wrote_is_not_held_against_us() -> None:
    made = report(Way(targets.PG_RESTORE, usages(1.0, peak=900 * MIB)), *pair(1.0))
    assert made.missed() == []


@pytest.mark.parametrize(("made", "code"), [(report(*pair(1.0)), None), (report(*pair(2.0)), 3), (report(*pair(2.0), pairs=1), None)])  # fmt: skip
def test_a_missed_target_exits_3_after_the_report(
    made: Report, code: int | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(measuring, "run", return_value=made):
        if code is None:
            bench(Context())
        else:
            with pytest.raises(Exit, match="a target is missed") as ended:
                bench(Context())
            assert ended.value.code == code
    assert "pg_dump >/dev/null" in capsys.readouterr().out


# How a program is measured -------------------------------------------------------------------------------------------


@posix
def test_the_peak_is_the_programs_own_and_not_ours() -> None:
    ours = bytearray(200 * MIB)
    ours[::4096] = b"x" * len(ours[::4096])
    peak = measured("pass").peak_bytes
    assert peak is not None
    assert peak < 60 * MIB


@posix
def test_the_peak_of_a_program_that_needs_memory_is_seen() -> None:
    peak = measured(f"block = bytearray(100 * {MIB}); block[::4096] = b'x' * len(block[::4096])").peak_bytes
    assert peak is not None
    assert 100 * MIB < peak < 160 * MIB


@posix
def test_the_work_of_a_programs_children_counts() -> None:
    work = "import time; begun = time.process_time()\nwhile time.process_time() - begun < 0.3: pass"
    took = measured(f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}], check=True)")
    assert took.cpu_seconds is not None
    assert took.cpu_seconds >= 0.3


def test_sleep_takes_time_and_the_exit_code_is_kept() -> None:
    took = measured("import sys, time; time.sleep(0.2); sys.exit(7)")
    assert took.returncode == 7
    assert took.seconds >= 0.2
    assert took.cpu_seconds is None or took.cpu_seconds < 0.2


def test_a_program_that_is_not_there_is_named() -> None:
    with pytest.raises(OpsError, match="could not start no-such-program"):
        usage.measured(["no-such-program"], env=portable.clean_environment(), stderr=subprocess.DEVNULL)


# The whole of it -----------------------------------------------------------------------------------------------------


@pytest.fixture
def needs(server: servers.Server, need: Callable[[object, str], None]) -> None:
    """Skip where there is no embedded PostgreSQL (the server is asked for that alone), or no bash and gzip."""
    need(sys.platform != "win32", "the old way needs bash and gzip")


def invoke(*words: str, temporary: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        env=environment(temporary),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def environment(temporary: Path | None) -> dict[str, str]:
    # A live database is exported, and must not matter.
    live = {"DATABASE_URL": "postgres://app:sesame@live.example/db", "BACKUP_AGE_RECIPIENTS": "nonsense"}
    return {**os.environ, **live, **({"TMPDIR": str(temporary)} if temporary else {})}


@pytest.mark.usefixtures("needs")
def test_the_benchmark_runs_every_way_but_the_slow_link_and_leaves_nothing(tmp_path: Path) -> None:
    done = invoke("dev.bench", "--scale=0.02", "--pairs=1", "--only=backup,restore,list", "--json", temporary=tmp_path)  # fmt: skip
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    elsewhere = {targets.LINKED, targets.ROAD, targets.ROAD_LINKED}
    wanted = [each for each in COMPARISONS if each.what not in elsewhere]
    assert {way["name"] for way in said["ways"]} == {name for each in wanted for name in (each.what, each.against)}  # fmt: skip
    for way in said["ways"]:
        assert len(way["runs"]) == (4 if "list" in way["name"] else 1)
        assert min(run["seconds"] for run in way["runs"]) > 0
        assert (way["cpu_seconds_per_gb"] or 1) > 0
        assert 500_000 < way["plain_bytes"] < 2_000_000 or "list" in way["name"]
    assert [(one["what"], one["against"], one["target"]) for one in said["comparisons"]] == [
        (each.what, each.against, each.at_most) for each in (*wanted, MEMORY)
    ]
    assert said["judged"] is False
    assert said["machine"]["pg_dump"].split(".")[0] == said["machine"]["PostgreSQL"].split(".")[0]
    assert list(tmp_path.iterdir()) == []
    assert "sesame" not in done.stdout + done.stderr


@pytest.mark.usefixtures("needs")
def test_restores_are_measured_over_a_link_that_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = measuring.run(Plan(0.02, 1, ("link",), Link(round_trip_s=0.001)), say=lambda _: None)
    assert [way.name for way in made.ways] == [targets.LINKED, targets.PG_LINKED]
    assert [finding.comparison.what for finding in made.findings()] == [targets.LINKED, MEMORY.what]
    assert made.machine["link"].startswith("asked 1 ms and 10.0 MB/s, seen ")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("needs")
def test_the_road_is_measured_against_openssh_and_a_pg_dump_on_this_side(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, need: Callable[[object, str], None]
) -> None:
    need(
        shutil.which("ssh") and shutil.which("socat"),
        "no ssh or socat (apt-get install openssh-client socat)",
    )
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    made = measuring.run(Plan(0.02, 1, ("road",), Link(round_trip_s=0.001)), say=lambda _: None)
    assert [way.name for way in made.ways] == [
        targets.ROAD,
        targets.SSH,
        targets.ROAD_LINKED,
        targets.NEAR_LINKED,
    ]
    assert [finding.comparison.what for finding in made.findings()] == [targets.ROAD, targets.ROAD_LINKED]
    assert made.machine["link of the road"].startswith("asked 1 ms and 10.0 MB/s, seen ")
    assert list(tmp_path.iterdir()) == []


def test_what_openssh_brought_counts_only_if_it_is_a_whole_dump(tmp_path: Path) -> None:
    file = tmp_path / "dump.sql.gz"
    file.write_bytes(gzip.compress(b"--\n-- PostgreSQL database dump\n--\n"))
    with pytest.raises(OpsError, match="no whole dump"):
        road._expect_whole(file)


def running(temporary: Path) -> tuple[subprocess.Popen[str], int]:
    """Return a benchmark in the middle of its pairs, and the port of its server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", "dev.bench", "--only=backup", "--scale=0.02", "--pairs=999"],
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any(line.startswith("backup: pair 1 ") for line in process.stderr)
    (state,) = temporary.glob("*/server/server.json")
    time.sleep(0.3)  # into the first program
    return process, json.loads(state.read_text())["port"]


def answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=2).close()
    except ConnectionRefusedError:
        return False
    return True


@pytest.mark.usefixtures("needs")
def test_a_benchmark_that_is_interrupted_takes_its_server_with_it(tmp_path: Path) -> None:
    process, port = running(tmp_path)
    assert answers(port)
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=60)
    assert process.returncode == 130, words
    assert "interrupted by SIGTERM" in words
    assert list(tmp_path.iterdir()) == []
    assert not answers(port)


@pytest.mark.usefixtures("needs")
def test_what_a_killed_benchmark_left_is_removed_by_the_next(tmp_path: Path) -> None:
    process, port = running(tmp_path)
    process.kill()
    process.communicate(timeout=60)
    assert answers(port)
    done = invoke("dev.bench", "--only=list", "--pairs=1", "--scale=0.02", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "PostgreSQL" not in done.stdout + done.stderr  # the list alone needs no server
    assert not answers(port)
    assert list(tmp_path.iterdir()) == []


def run_with_gunzip(script: str, only: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a part with another gunzip on PATH, and look that nothing of it is left."""
    programs, temporary = folder / "bin", folder / "temporary"
    programs.mkdir()
    temporary.mkdir()
    (programs / "gunzip").write_text(f"#!/bin/sh\n{script}\n")
    (programs / "gunzip").chmod(0o755)
    env = environment(temporary)
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "dev.bench", "--scale=0.02", "--pairs=1", f"--only={only}"],
        env={**env, "PATH": f"{programs}{os.pathsep}{env['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert list(temporary.iterdir()) == []
    return done


@pytest.mark.usefixtures("needs")
def test_a_way_that_fails_ends_the_benchmark_with_its_words(tmp_path: Path) -> None:
    done = run_with_gunzip("echo 'gunzip: crc error' >&2\nexit 1", "backup", tmp_path)
    assert done.returncode == 1
    assert "error: bash failed with exit code 1, so there is nothing to measure" in done.stderr
    assert "detail: gunzip: crc error" in done.stderr


@pytest.mark.usefixtures("needs")
def test_a_restore_that_says_success_and_did_half_ends_the_benchmark(tmp_path: Path) -> None:
    """The scripts' psql goes on after errors and exits 0."""
    real = shutil.which("gunzip")
    done = run_with_gunzip(f'if [ "$1" = -c ]; then {real} -c "$2" | head -c 300000; else exec {real} "$@"; fi', "restore", tmp_path)  # fmt: skip
    assert done.returncode == 1
    assert "error: 'old restore' did not restore what was dumped" in done.stderr
    assert " instead of " in done.stderr


# The end of a restore ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        ("DELETE FROM learning.translation WHERE ctid = (SELECT min(ctid) FROM learning.translation)", "rows of learning.translation"),
        ("DROP INDEX learning.word_lemma_trgm_idx", "valid indexes"),
        ("ALTER TABLE learning.translation ADD CHECK (true)", "constraints of type c"),
        ("SELECT lo_unlink(min(oid)) FROM pg_largeobject_metadata", "large objects"),
    ],
)  # fmt: skip
def test_a_database_that_differs_by_one_thing_is_told(sample_database: Target, harm: str, said: str) -> None:
    wanted = ending.counts(sample_database)
    ending.expect(wanted, sample_database, way="x")
    with closing(session.connect(sample_database)) as connection:
        connection.execute(harm.encode())
    with pytest.raises(OpsError, match="did not restore what was dumped") as found:
        ending.expect(wanted, sample_database, way="x")
    assert said in found.value.detail


def test_the_job_of_a_restore_holds_the_password_and_its_command_line_does_not(database: Target, tmp_path: Path) -> None:  # fmt: skip
    told = json.loads(child.job(database, "x", tmp_path / "b.json", proof=True))
    assert told["server"]["password"] == database.password
    assert told["proof"] is True
