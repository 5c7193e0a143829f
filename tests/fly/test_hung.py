"""A flyctl that hangs: it ends with us, within -T, and a Ctrl-C is answered at once."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from polyladder_ops import undoing
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.interrupts import stop_on_signals
from polyladder_ops.postgres import silence
from polyladder_ops.settings import load
from polyladder_ops.site import Site
from tests.fly.conftest import until

DEAF = "trap '' TERM INT\necho $$ > \"$HOME/pid\"\nwhile true; do sleep 0.1; done\n"


@pytest.fixture
def deaf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A flyctl that hears no signal but SIGKILL; the file that it writes its id into lies beside it."""
    monkeypatch.setenv("HOME", str(tmp_path))
    program = tmp_path / "fly"
    program.write_text(f"#!/bin/sh\n{DEAF}", encoding="utf-8")
    program.chmod(0o700)
    return program


def pid_of(deaf: Path) -> int:
    file = deaf.with_name("pid")
    until(lambda: file.is_file() and file.read_text().strip())
    return int(file.read_text())


def lives(pid: int) -> bool:
    """Whether it runs: in a container nobody may collect its corpse."""
    with contextlib.suppress(OSError):
        os.kill(pid, 0)
        if sys.platform != "linux":
            return True
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
        return status.rpartition(")")[2].split()[0] not in ("Z", "X")
    return False


def test_a_ctrl_c_is_answered_at_once_and_ends_it_within_two_seconds(deaf: Path, tmp_path: Path) -> None:
    """`portable.end` waited for 8 s without a word."""
    said: list[float] = []
    sent: list[float] = []

    def press() -> None:
        pid_of(deaf)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    presser = threading.Thread(target=press)
    with stop_on_signals(), undoing.in_sight(lambda _sentence: said.append(time.monotonic())):
        presser.start()
        with pytest.raises(KeyboardInterrupt):
            Flyctl(str(deaf), None, tmp_path).run("machine", "stop", "1")
    ended = time.monotonic()
    presser.join()
    assert not lives(pid_of(deaf))
    assert said[0] - sent[0] < 1.0
    assert ended - sent[0] < 5.0, "two seconds, on a busy machine"


RUN = """
import sys
from pathlib import Path
from polyladder_ops.fly.flyctl import Flyctl
Flyctl(sys.argv[1], None, Path(sys.argv[2])).run("machine", "list")
"""


def test_it_ends_with_us_though_we_are_killed(deaf: Path, tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(deaf), str(tmp_path)])
    pid = pid_of(deaf)
    time.sleep(1.0)  # the lifeline hears of it a moment after its start
    process.kill()
    process.wait()
    until(lambda: not lives(pid))


def test_whoever_hears_is_asked_before_it_is_killed(tmp_path: Path) -> None:
    """A flyctl that was killed leaves its lease for two minutes (contract 1.5)."""
    told = tmp_path / "told"
    body = f"trap 'echo asked > {told}; exit 0' TERM; echo $$; while true; do sleep 0.05; done"
    asked = subprocess.Popen(["sh", "-c", body], stdout=subprocess.PIPE, start_new_session=True)
    assert asked.stdout is not None
    asked.stdout.readline()
    code = f"""
import subprocess, sys, os
from polyladder_ops.lifeline import lifeline
class Told: pid = {asked.pid}
with lifeline(grace_s=20) as tell:
    tell(Told)
    os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    asked.wait(60)
    asked.stdout.close()
    assert told.read_text().strip() == "asked"


@pytest.mark.parametrize(
    ("each_s", "call_s", "all_s"), [(3.0, 3.0, 3.0), (600.0, 90.0, 600.0), (None, 90.0, 180.0)]
)
def test_each_wait_for_fly_ends_when_t_says_so(
    each_s: float | None, call_s: float, all_s: float, deaf: Path, tmp_path: Path
) -> None:
    environ = {"POLYLADDER_STATE_DIR": str(tmp_path), "POLYLADDER_FLYCTL": str(deaf), "FLY_API_TOKEN": "x"}
    site = Site(load({"site": "staging"}, environ=environ, root=tmp_path))
    with silence.allow(each_s):
        fleet = site.fleet()
    assert (fleet.flyctl.deadline_s, fleet.pace.limit_s) == (call_s, all_s)


def test_a_call_that_hears_nothing_ends_soon_after_its_time(deaf: Path, tmp_path: Path) -> None:
    began = time.monotonic()
    with pytest.raises(Exception, match="did not end within 1 s"):
        Flyctl(str(deaf), None, tmp_path, deadline_s=1.0).run("machine", "list")
    assert time.monotonic() - began < 6.0, "a second for it, and one to end"
    assert not lives(pid_of(deaf))
