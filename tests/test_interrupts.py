"""Signals in a real process: the first one stops the run, the clean-up is seen, and nobody waits for it for ever."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import interrupts, undoing
from polyladder_ops.errors import Interrupted, OpsError

if TYPE_CHECKING:
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")

TASKS = '''
import time
from pathlib import Path
from invoke.collection import Collection
from polyladder_ops import interrupts, undoing
from polyladder_ops.errors import OpsError
from polyladder_ops.tasks.boundary import cleaning_in_sight, task

@task
def work(c, seconds="0", slow="0", clean="0", limit="60", fail=False):
    """Work, fail if told to, and take `slow` seconds to stop and `clean` seconds to clean up."""
    interrupts.LIMIT_S = float(limit)

    def undo():
        time.sleep(float(clean))
        Path("undone").touch()

    with cleaning_in_sight(finish="Run `invoke mend`."), undoing.undone("the thing", undo):
        try:
            print("ready", flush=True)
            time.sleep(float(seconds))
        finally:
            time.sleep(float(slow))
            Path("stopped").touch()
        if fail:
            raise OpsError("it failed", hint="Try again.")
    print("done")

ns = Collection(work)
'''


def start(project: Path, *arguments: str) -> subprocess.Popen[str]:
    (project / "tasks.py").write_text(TASKS)
    argv = [sys.executable, "-m", "invoke", "work", *arguments]
    process = subprocess.Popen(
        argv, cwd=project, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8"
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def heard(process: subprocess.Popen[str], begin: str) -> None:
    """Wait until it says on stderr what begins so."""
    assert process.stderr is not None
    assert process.stderr.readline().startswith(begin)


@posix
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_the_first_signal_stops_the_run_and_the_clean_up_is_told_before_it_runs(
    name: str, tmp_path: Path
) -> None:
    process = start(tmp_path, "--seconds=30", "--clean=1.2")
    process.send_signal(signal.Signals[name])
    heard(process, "dropping the thing …")
    assert not (tmp_path / "undone").exists()
    out, err = process.communicate(timeout=10)
    assert err.splitlines() == ["dropped the thing (1.2 s)", f"error: interrupted by {name}"]
    assert (process.returncode, out) == (130, "")
    assert (tmp_path / "undone").exists()


UNHEARD = """
import os, signal, threading, time
from polyladder_ops.interrupts import stop_on_signals

def elsewhere():
    time.sleep(0.3)
    print("sent", flush=True)
    for _ in range({count}):
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

with stop_on_signals(lambda name: (print("left by", name, flush=True), os._exit(9))):
    threading.Thread(target=elsewhere, daemon=True).start()
    try:
        os.read(os.pipe()[0], 1)  # nobody will write
    except KeyboardInterrupt as error:
        print("stopped by", error, flush=True)
        time.sleep({seconds})
"""


@posix
@pytest.mark.parametrize(("count", "seconds", "then"), [(1, 1.5, []), (2, 10, ["left by SIGTERM"])])
def test_a_signal_that_does_not_end_the_call_in_which_we_wait_is_sent_again(
    count: int, seconds: float, then: list[str]
) -> None:
    """One comes between Python's look for signals and its call to read once in 5,000 times, and was not heard.

    The kernel gives one to another thread now and then, with the same effect, which is how this asks for it. What is
    sent again must not count as a person's second one.
    """
    argv = [sys.executable, "-c", UNHEARD.format(count=count, seconds=seconds)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)
    assert done.stdout.splitlines() == ["sent", "stopped by SIGTERM", *then], done.stderr
    assert done.returncode == (9 if then else 0)


@posix
@pytest.mark.parametrize("more", [1, 5])
def test_a_second_signal_leaves_a_long_clean_up_and_any_more_change_nothing(
    more: int, tmp_path: Path
) -> None:
    process = start(tmp_path, "--seconds=30", "--clean=30")
    process.send_signal(signal.SIGTERM)
    heard(process, "dropping the thing …")
    sent_at = time.monotonic()
    for _ in range(more):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - sent_at < 2
    assert process.returncode == 130
    assert err.splitlines() == [
        "error: interrupted by SIGINT, so the clean-up was left",
        "detail: Perhaps still there: the thing.",
        "hint: Run `invoke mend`.",
    ]


@posix
def test_a_second_signal_lets_a_short_clean_up_end(tmp_path: Path) -> None:
    """A terminal and a program between us may both send one for the same Ctrl-C."""
    process = start(tmp_path, "--seconds=30", "--slow=0.3", "--clean=0.3")
    for _ in range(4):
        process.send_signal(signal.SIGINT)
        time.sleep(0.02)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.splitlines()) == (
        130,
        ["dropping the thing …", "error: interrupted by SIGINT"],
    )
    assert (tmp_path / "stopped").exists()
    assert (tmp_path / "undone").exists()


@posix
def test_a_closed_terminal_is_nobodys_second_wish_however_often_it_is_told(tmp_path: Path) -> None:
    process = start(tmp_path, "--seconds=30", "--slow=0.3", "--clean=2.5")
    for _ in range(4):
        process.send_signal(signal.Signals["SIGHUP"])
        time.sleep(0.1)
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err.splitlines()[-1]) == (130, "error: interrupted by SIGHUP")
    assert (tmp_path / "undone").exists()


@posix
def test_signals_that_go_on_until_the_end_leave_no_traceback(tmp_path: Path) -> None:
    for _ in range(3):
        process = start(tmp_path, "--seconds=30", "--clean=0.05")
        while process.poll() is None:
            process.send_signal(signal.SIGTERM)
            time.sleep(0.001)
        _, err = process.communicate(timeout=10)
        assert (process.returncode, err.splitlines()) == (
            130,
            ["dropping the thing …", "error: interrupted by SIGTERM"],
        )


@posix
def test_a_signal_amid_the_clean_up_of_a_failure_tells_of_the_failure(tmp_path: Path) -> None:
    process = start(tmp_path, "--fail", "--clean=30")
    heard(process, "dropping the thing …")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "detail: Perhaps still there: the thing. Before that: it failed." in err.splitlines()


@posix
def test_a_signal_amid_the_last_clean_up_of_a_run_that_went_well_is_not_lost(tmp_path: Path) -> None:
    process = start(tmp_path, "--clean=0.6")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=10)
    assert (process.returncode, out, err) == (130, "", "error: interrupted by SIGINT\n")
    assert (tmp_path / "undone").exists()


def test_a_clean_up_that_takes_too_long_is_left(tmp_path: Path) -> None:
    process = start(tmp_path, "--clean=30", "--limit=0.3", "--fail")
    _, err = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "error: the clean-up did not come to its end within 0.3 s, and was left" in err.splitlines()
    assert "Before that: it failed." in err


def test_the_clean_up_of_a_run_that_went_well_may_take_its_time(tmp_path: Path) -> None:
    process = start(tmp_path, "--clean=0.6", "--limit=0.1")
    _, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, "")


def test_what_cannot_be_undone_stands_in_the_error_and_a_ctrl_c_stays_one() -> None:
    def undo() -> None:
        raise OpsError("could not drop it", detail="The server is gone.")

    with pytest.raises(OpsError) as failed, undoing.undone("the thing", undo):
        raise OpsError("it failed", detail="So it is.")
    assert failed.value.detail == "So it is. Besides, the thing is still there: The server is gone."
    with pytest.raises(Interrupted) as stopped, undoing.undone("the thing", undo):
        raise KeyboardInterrupt("SIGTERM")
    assert stopped.value.message == "interrupted by SIGTERM"
    assert stopped.value.detail == "Besides, the thing is still there: The server is gone."


def test_a_terminal_that_is_gone_keeps_nothing_from_being_undone() -> None:
    def say(_sentence: str) -> None:
        raise OSError(5, "Input/output error")

    undone: list[str] = []
    with (
        pytest.raises(KeyboardInterrupt),
        undoing.in_sight(say),
        undoing.undone("it", lambda: undone.append("x")),
    ):
        raise KeyboardInterrupt
    assert undone == ["x"]


def test_what_is_not_ours_is_given_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with interrupts.stop_on_signals():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before
    assert signal.set_wakeup_fd(-1) == -1
