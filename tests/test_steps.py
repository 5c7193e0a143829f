"""What is waited for is told: one line that changes at a terminal, a line now and then elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import output

if TYPE_CHECKING:
    from pathlib import Path


def test_without_a_terminal_a_step_is_a_line_when_it_changes_and_each_15_s(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fifty lines of `trying again` stood between a person and the reason."""
    now = [100.0]
    monkeypatch.setattr("polyladder_ops.output.time.monotonic", lambda: now[0])
    output.prepare()
    for _ in range(40):
        output.step("waiting for a1 …")
        now[0] += 1
    output.step("waiting for b2 …")
    output.step("waiting for a1 …")
    output.step("the end")
    output.step("the end")
    assert capsys.readouterr().err.splitlines() == [
        "waiting for a1 …",
        "waiting for a1 … 15 s",
        "waiting for a1 … 30 s",
        "waiting for b2 …",
        "the end",
        "the end",
    ]


SAYS = """
from polyladder_ops import output
output.prepare()
for number in range(3):
    output.step(f"waiting for \x1b[31m{number} {'x' * 200} …")
output.line("done")
output.step("and again …")
output.flush()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no pseudo terminals")
def test_at_a_terminal_a_step_is_one_line_that_gives_way(tmp_path: Path) -> None:
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    environ = {**{k: v for k, v in os.environ.items() if k != "CI"}, "TERM": "xterm", "COLUMNS": "40"}
    done = subprocess.run(
        [sys.executable, "-c", SAYS],
        stderr=theirs,
        stdout=subprocess.PIPE,
        env=environ,
        check=True,
        text=True,
    )
    os.close(theirs)
    shown = os.read(ours, 1 << 16).decode()
    os.close(ours)
    assert done.stdout == "done\n"
    assert "\n" not in shown, "nothing of it stays"
    pieces = shown.split("\r\x1b[K")
    assert [piece[:13] for piece in pieces] == [
        "",
        "waiting for \\",
        "waiting for \\",
        "waiting for \\",
        "",
        "and again …",
        "",
    ]
    assert all(len(piece) < 40 for piece in pieces), "a line that is too long would stay"
