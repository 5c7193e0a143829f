"""What a person sees: exact texts, tables that no name can break, a bar only where somebody watches."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.terminal import Progress, age, can_draw, duration, pace, plain, quoted, size, table

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (MIB - 1, "1.0 MiB"),
        (1000 * MIB, "1000.0 MiB"),
        (1024 * MIB, "1.0 GiB"),
        (5 << 60, "5120.0 PiB"),
    ],
)
def test_a_size_is_said_in_the_unit_that_fits(count: int, text: str) -> None:
    assert size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-0.1, "0.00 s"),
        (0.42, "0.42 s"),
        (0.999, "1.0 s"),
        (12.34, "12.3 s"),
        (59.96, "1 min"),
        (75.2, "1 min 15 s"),
        (3599.6, "1 h"),
        (7500, "2 h 5 min"),
        (86399, "1 d"),
        (90000, "1 d 1 h"),
    ],
)
def test_a_duration_is_said_in_at_most_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("ago", "text"),
    [(0, "just now"), (59, "just now"), (-130, "in 2 min"), (3 * 3600 + 5, "3 h ago"), (200000, "2 d ago")],
)
def test_an_age_is_said_in_its_largest_unit(ago: float, text: str) -> None:
    now = datetime(2026, 1, 5, 2, tzinfo=UTC)
    assert age(now - timedelta(seconds=ago), now) == text


def test_the_pace_says_what_is_left_only_while_the_estimate_holds() -> None:
    assert pace(0, 100, 0) == "0 B"
    assert pace(10 * MIB, 100 * MIB, 2) == "10.0 MiB of about 100.0 MiB, 5.0 MiB/s, 18 s left"
    assert pace(10 * MIB, None, 2) == "10.0 MiB, 5.0 MiB/s"
    assert pace(200 * MIB, 100 * MIB, 2) == "200.0 MiB, 100.0 MiB/s"


def test_a_table_is_aligned_with_numbers_to_the_right() -> None:
    rows = [("users", 12, "1.5 KiB", True), ("日本", 3456, "12.0 MiB", None)]
    assert table(rows, ("table", "rows", "size", "ok")).splitlines() == [
        "table  rows      size  ok",
        "users    12   1.5 KiB  yes",
        "日本   3456  12.0 MiB",
    ]
    assert table([], ("a", "b")) == "a  b"


def test_no_name_out_of_a_database_can_break_a_table_or_steer_the_terminal() -> None:
    text = table([("a\nb\x1b[2J\u202etxt\x9b\ud800", 1)], ("name", "rows"))
    assert text.splitlines()[1:] == ["a\\nb\\x1b[2J\\u202etxt\\x9b\\ud800     1"]
    assert plain("na\u00efve Straße 日本 'q'") == "na\u00efve Straße 日本 'q'"


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash here")
@pytest.mark.parametrize(
    "name",
    ["public.t", "it's", "a\nb", "\\'\n", "tab\there", "e\u202ea", "\x1b[2J", "ä\n日\x9b", "😀\U000e0001"],
)
def test_a_name_in_a_command_is_one_line_and_means_itself_to_a_shell(name: str) -> None:
    word = quoted(name)
    assert word.isprintable()
    argv = ["bash", "-c", f"printf %s {word}"]
    done = subprocess.run(argv, capture_output=True, env={"LC_ALL": "C.UTF-8"}, check=True)
    assert done.stdout.decode() == name


def test_a_bar_is_drawn_only_on_a_terminal_that_a_person_watches(tmp_path: Path) -> None:
    with (tmp_path / "file").open("w") as file:
        assert not can_draw(file, {})

    class Terminal:
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    assert can_draw(terminal, {"TERM": "xterm", "CI": ""})
    assert not can_draw(terminal, {"TERM": "dumb"})
    assert not can_draw(terminal, {"TERM": "xterm", "CI": "true"})


def test_without_a_terminal_there_is_only_the_line_at_the_end(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("dump of x", total=100) as progress:
        progress.advance(3 * MIB)
    assert capsys.readouterr() == ("", "")
    assert progress.summary().startswith("dump of x: 3.0 MiB in 0.0")


DRAW = """
from polyladder_ops.terminal import Progress
import time
with Progress("dump na\\u00efve [red]", total=100_000_000) as progress:
    for _ in range(5):
        progress.advance(10_000_000)
        print("result")
        time.sleep(0.15)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
@pytest.mark.parametrize(
    ("environ", "is_drawn", "is_styled"),
    [
        ({}, True, True),
        ({"NO_COLOR": "1"}, True, False),
        ({"PYTHONIOENCODING": "ascii", "NO_COLOR": "1"}, True, False),
        ({"TERM": "dumb"}, False, False),
        ({"CI": "true"}, False, False),
    ],
)
def test_the_bar_at_a_real_terminal(environ: dict[str, str], is_drawn: bool, is_styled: bool) -> None:
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "COLUMNS": "120", **environ}
    done = subprocess.run(
        [sys.executable, "-c", DRAW], stdout=subprocess.PIPE, stderr=theirs, env=env, check=True
    )
    os.close(theirs)
    drawn = _all(ours)
    assert done.stdout.split() == [b"result"] * 5
    assert (b"of about 95.4 MiB" in drawn) is is_drawn
    assert (b"[red]" in drawn) is is_drawn, "a name is no markup"
    styles = [code for code in (b"\x1b[1m", b"\x1b[3m", b"\x1b[9", b"\x1b[3", b"\x1b[38") if code in drawn]
    assert bool(styles) is is_styled
    assert is_drawn or drawn == b""


@pytest.mark.skipif(sys.platform == "win32", reason="a terminal of our own needs a pty")
@pytest.mark.parametrize(("no_color", "is_styled"), [("", True), ("1", False)])
def test_no_color_means_no_bold_either(no_color: str, is_styled: bool) -> None:
    if sys.platform == "win32":
        raise AssertionError
    ours, theirs = os.openpty()
    code = "from polyladder_ops.terminal import console; console().print('[bold]loud[/bold]')"
    env = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "NO_COLOR": no_color}
    subprocess.run([sys.executable, "-c", code], stderr=theirs, env=env, check=True)
    os.close(theirs)
    assert _all(ours) == (b"\x1b[1mloud\x1b[0m\r\n" if is_styled else b"loud\r\n")


def _all(descriptor: int) -> bytes:
    """Return what was written to a terminal whose other end is closed; Linux then says EIO."""
    seen = b""
    try:
        while piece := os.read(descriptor, 65536):
            seen += piece
    except OSError:
        pass
    finally:
        os.close(descriptor)
    return seen
