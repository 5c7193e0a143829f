"""The benchmark: what it asks for, what it makes of the runs, and that it measures the program and nothing else."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.benchmark import COMPARED, Plan, Report, Way, parse
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.portable import Usage

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.sandbox import server as servers

MIB = 1 << 20
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not count processor time and memory")


def python(code: str) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", code]


def measured(code: str) -> Usage:
    return portable.measured(python(code), env=portable.clean_environment())


# What is asked for ---------------------------------------------------------------------------------------------------


def test_the_numbers_on_the_command_line_become_a_plan() -> None:
    assert parse(scale="0.5", pairs="7") == Plan(0.5, 7)


@pytest.mark.parametrize("scale", ["", "twelve", "0", "-1", "nan", "inf", "1001", "1,5"])
def test_a_scale_that_is_no_size_is_wrong_usage(scale: str) -> None:
    with pytest.raises(UsageError, match="is no size"):
        parse(scale=scale, pairs="5")


@pytest.mark.parametrize("pairs", ["", "five", "0", "-1", "2.5", "1000", "5\n", "\u0665"])
def test_a_number_of_pairs_that_is_none_is_wrong_usage(pairs: str) -> None:
    with pytest.raises(UsageError, match="is no number of rounds"):
        parse(scale="1", pairs=pairs)


def test_the_task_refuses_bad_numbers_before_it_makes_a_server() -> None:
    done = invoke("dev.bench", "--pairs=many")
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: --pairs=many is no number of rounds\n")


# What is made of the runs --------------------------------------------------------------------------------------------


def usages(*seconds: float, cpu: float | None = 1.0, peak: int | None = 50 * MIB) -> tuple[Usage, ...]:
    return tuple(Usage(0, each, cpu, peak) for each in seconds)


def report(*ways: Way, pairs: int = 5) -> Report:
    began = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
    return Report(Plan(12, pairs), began, 500_000_000, ways, {"cores": "2"})


def test_a_way_is_told_by_its_medians_and_its_largest_process() -> None:
    way = Way("x", (Usage(0, 9.0, 1.0, 10), Usage(0, 1.0, 5.0, 30), Usage(0, 2.0, 2.0, None)))
    assert (way.seconds, way.cpu_seconds, way.peak_bytes) == (2.0, 2.0, 30)


def test_ratios_are_those_of_the_medians() -> None:
    made = report(
        Way("backup", usages(4, 5, 60, cpu=3.0)), Way("old backup", usages(20, 20, 20, cpu=12.0)), pairs=3
    )
    assert made.ratios() == [("backup / old backup", 0.25, 0.25)]


def test_where_no_processor_time_is_known_there_is_none_in_the_report() -> None:
    made = report(
        Way("backup", usages(4, cpu=None, peak=None)),
        Way("old backup", usages(8, cpu=None, peak=None)),
        pairs=1,
    )
    assert made.ratios() == [("backup / old backup", 0.5, None)]
    assert made.as_json()["ways"][0]["cpu_seconds_per_gb"] is None
    assert made.as_text().splitlines()[1].split() == ["backup", "4.00", "4.00-4.00"]


def test_a_person_reads_medians_spread_and_work_per_gigabyte() -> None:
    made = report(Way("backup", usages(4, 5, 6, cpu=3.0)))
    header, row = made.as_text().splitlines()[:2]
    assert header.split("  ")[0] == "way"
    assert row.split() == ["backup", "5.00", "4.00-6.00", "3.00", "6.00", "50.0", "MiB"]


def test_too_few_pairs_are_called_a_look() -> None:
    assert "a look, not a measurement" in report(Way("x", usages(1)), pairs=4).as_text()
    assert "a look, not a measurement" not in report(Way("x", usages(1)), pairs=5).as_text()


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
        portable.measured(["no-such-program"], env=portable.clean_environment(), stderr=subprocess.DEVNULL)


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
def test_the_benchmark_runs_every_way_and_leaves_nothing(tmp_path: Path) -> None:
    done = invoke("dev.bench", "--scale=0.02", "--pairs=1", "--json", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    names = {name for pair in COMPARED for name in pair}
    assert {way["name"] for way in said["ways"]} == names
    for way in said["ways"]:
        assert way["seconds"] == way["runs"][0]["seconds"] > 0
        assert way["cpu_seconds_per_gb"] > 0
    assert {ratio["what"] for ratio in said["ratios"]} == {f"{one} / {other}" for one, other in COMPARED}
    assert 500_000 < said["plain_bytes"] < 2_000_000
    assert said["machine"]["pg_dump"].split(".")[0] == said["machine"]["PostgreSQL"].split(".")[0]
    assert list(tmp_path.iterdir()) == []
    assert "sesame" not in done.stdout + done.stderr


def running(temporary: Path) -> tuple[subprocess.Popen[str], int]:
    """Return a benchmark in the middle of its pairs, and the port of its server."""
    process = subprocess.Popen(
        [sys.executable, "-m", "invoke", "dev.bench", "--scale=0.02", "--pairs=999"],
        env=environment(temporary),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any(line.startswith("pair 1") for line in process.stderr)
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
    done = invoke("dev.bench", "--scale=0.02", "--pairs=1", temporary=tmp_path)
    assert done.returncode == 0, done.stderr
    assert not answers(port)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("needs")
def test_a_way_that_fails_ends_the_benchmark_with_its_words(tmp_path: Path) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "gunzip").write_text("#!/bin/sh\necho 'gunzip: crc error' >&2\nexit 1\n")
    (programs / "gunzip").chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    env = environment(temporary)
    done = subprocess.run(
        [sys.executable, "-m", "invoke", "dev.bench", "--scale=0.02", "--pairs=1"],
        env={**env, "PATH": f"{programs}{os.pathsep}{env['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 1
    assert "error: bash failed with exit code 1, so there is nothing to measure" in done.stderr
    assert "detail: gunzip: crc error" in done.stderr
    assert list(temporary.iterdir()) == []
