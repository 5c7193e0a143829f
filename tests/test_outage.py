"""How long a switch keeps clients out: what is made of their turns, and a whole measurement with real clients."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from unittest import mock

import pytest
from invoke.context import Context
from invoke.exceptions import Exit

from polyladder_ops.bench import bouncer, outage
from polyladder_ops.bench.outage import Plan, Report, Switch, Turn, judge, parse
from polyladder_ops.errors import UsageError
from polyladder_ops.tasks.dev import bench

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server


def test_the_numbers_on_the_command_line_become_a_plan() -> None:
    assert parse(scale="0.5", switches="7", clients="3") == Plan(0.5, 7, 3)


@pytest.mark.parametrize(
    ("scale", "switches", "clients"),
    [("0", "1", "1"), ("nan", "1", "1"), ("x", "1", "1"), ("1", "0", "1"), ("1", "1000", "1"), ("1", "2.5", "1"), ("1", "1", "0"), ("1", "1", "65"), ("1", "1", "-1")],
)  # fmt: skip
def test_what_is_no_number_of_anything_is_wrong_usage(scale: str, switches: str, clients: str) -> None:
    with pytest.raises(UsageError, match="is no "):
        parse(scale=scale, switches=switches, clients=clients)


# What is made of the clients' turns ----------------------------------------------------------------------------------

ONE = Turn(2, first_at=10.10, before_asked_at=9.98, before_at=10.00)
OTHER = Turn(2, first_at=10.30, before_asked_at=10.00, before_at=10.02)


def test_a_client_is_out_from_its_last_old_answer_to_its_first_new_one() -> None:
    found = judge("undo", 0.01, [ONE, OTHER])
    assert found.by_client == pytest.approx((0.10, 0.28))
    assert found.all_s == pytest.approx(0.08)
    assert not found.went_back


def test_an_old_answer_to_a_question_that_was_asked_after_a_new_answer_is_going_back() -> None:
    late = replace(OTHER, before_asked_at=10.11, before_at=10.12)
    assert judge("undo", 0.01, [ONE, late]).went_back
    on_its_way = replace(OTHER, before_asked_at=10.09, before_at=10.12)
    assert not judge("undo", 0.01, [ONE, on_its_way]).went_back


def report(*switches: Switch, strayed: tuple[int, ...] = ()) -> Report:
    began = datetime(2026, 1, 5, 2, 0, tzinfo=UTC)
    return Report(Plan(0.02, len(switches), 2), began, switches, strayed, {"cores": "2"})


def switch(*seconds: float, kind: str = "restore", went_back: bool = False) -> Switch:
    return Switch(kind, seconds, min(seconds), 0.01, went_back)


def test_a_person_reads_least_median_and_most_by_kind_and_the_longest() -> None:
    made = report(switch(0.1, 0.2), switch(0.3, 0.4), switch(0.05, 0.06, kind="undo"))
    rows = {what: numbers for what, *numbers in made.rows()}
    assert rows["restore, each client"] == pytest.approx([0.1, 0.25, 0.4])
    assert rows["restore, all clients"] == pytest.approx([0.1, 0.2, 0.3])
    assert rows["undo, each client"] == pytest.approx([0.05, 0.055, 0.06])
    text = made.as_text()
    assert text.splitlines()[1].split() == ["restore,", "each", "client", "0.100", "0.250", "0.400"]
    assert "0.400 s for one client" in text
    assert "never" in text
    assert made.as_json()["longest_s"] == 0.4


def test_a_client_that_strayed_has_gone_back() -> None:
    assert not report(switch(0.1)).went_back
    assert report(switch(0.1), strayed=(2,)).went_back
    assert report(switch(0.1), switch(0.1, went_back=True)).went_back
    assert "SEEN" in report(switch(0.1), strayed=(2,)).as_text()


def test_what_clients_behind_a_pgbouncer_wait_is_told_and_is_not_part_of_the_aim() -> None:
    alone = report(switch(0.1))
    assert "left out: it is not installed" in alone.as_text()
    made = replace(alone, behind=(switch(1.1, 1.3), switch(1.2, kind="undo")))
    rows = {what: numbers for what, *numbers in made.rows()}
    assert rows["restore, each behind PgBouncer"] == pytest.approx([1.1, 1.2, 1.3])
    assert "server_login_retry = 1; not part of the aim" in made.as_text()
    assert made.as_json()["behind_pgbouncer_s"] == [[1.1, 1.3], [1.2]]
    assert made.longest_s == 0.1
    assert replace(made, behind=(switch(1.1, went_back=True),)).went_back


@pytest.mark.parametrize(
    ("made", "code", "said"),
    [
        (report(switch(0.5)), None, ""),
        (report(switch(0.51)), 3, "kept out for 0.510 s"),
        (report(switch(0.1), strayed=(1,)), 3, "saw the old database after the new one"),
    ],
)
def test_more_than_half_a_second_and_any_going_back_exit_3(
    made: Report, code: int | None, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with mock.patch.object(outage, "run", return_value=made):
        if code is None:
            bench(Context(), swap=True)
        else:
            with pytest.raises(Exit, match=said) as ended:
                bench(Context(), swap=True)
            assert ended.value.code == code
    assert "kept out" in capsys.readouterr().out


# The whole of it -----------------------------------------------------------------------------------------------------


def invoke(*words: str, temporary: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "invoke", "dev.bench", *words],
        env={**os.environ, "DATABASE_URL": "postgres://app:sesame@live.example/db", "TMPDIR": str(temporary)},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_clients_that_hammer_through_a_restore_and_an_undo_are_measured_and_nothing_is_left(
    server: Server, tmp_path: Path
) -> None:
    done = invoke("--swap", "--switches=2", "--clients=3", "--json", temporary=tmp_path)
    said = json.loads(done.stdout)
    assert done.returncode == (3 if said["longest_s"] > outage.TARGET_S else 0), done.stderr
    assert [one["kind"] for one in said["runs"]] == ["restore", "undo"]
    for one in said["runs"]:
        assert len(one["clients_s"]) == 3
        assert one["own_s"] > 0
        assert min(one["clients_s"]) >= one["all_s"] > 0
    assert said["old_after_new"] is False
    assert [len(one) for one in said["behind_pgbouncer_s"]] == ([3, 3] if bouncer.program() else [])
    assert bouncer.program() or "pgbouncer is not installed" in done.stderr
    assert list(tmp_path.iterdir()) == []
    assert "sesame" not in done.stdout + done.stderr


def test_a_client_ends_with_whoever_started_it(tmp_path: Path) -> None:
    """A benchmark that is killed closes its end of the pipe; its clients must not hammer for ever."""
    job = {"parameters": {"host": "127.0.0.1", "port": "1", "dbname": "x"}, "file": str(tmp_path / "turns")}
    with subprocess.Popen([sys.executable, "-c", outage._PROGRAM], stdin=subprocess.PIPE) as process:
        assert process.stdin is not None
        process.stdin.write(json.dumps(job).encode() + b"\n")
        process.stdin.flush()
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(1)
        process.stdin.close()
        assert process.wait(20) == 0
    assert (tmp_path / "turns").read_text() == ""


@pytest.mark.parametrize(
    "words", [("--swap", "--pairs=3"), ("--switches=3",), ("--clients=3",), ("--swap", "--clients=many")]
)
def test_wrong_usage_makes_no_server(words: tuple[str, ...], tmp_path: Path) -> None:
    done = invoke(*words, temporary=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert list(tmp_path.iterdir()) == []
