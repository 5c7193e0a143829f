"""README's console sessions really happen: they are replayed in their order, as one session, numbers aside."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def session(text: str) -> list[tuple[str, str]]:
    """Return the commands of all console blocks, each with what it printed."""
    found = "".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    parts = re.split(r"^\$ (.*)\n", found, flags=re.MULTILINE)
    return list(zip(parts[1::2], parts[2::2], strict=True))


def likeness(text: str) -> list[str]:
    """Return the lines without what differs from run to run: ages, numbers and their padding, units of size and time."""
    ageless = re.sub(r"just now|\d+ (?:min|h|d) ago", "then", text)
    numberless = re.sub(r"\d+(?:[.,]\d+)*", "0", ageless)
    units = re.sub(r"\b0 (?:[KMG]iB|B|ms|s|min|min 0 s)\b", "0 unit", numberless)
    return [re.sub(r" +", " ", line).strip() for line in units.splitlines()]


def test_the_sessions_in_the_readme_are_what_happens(tmp_path: Path, server: object) -> None:
    environ = {**os.environ, "POLYLADDER_STATE_DIR": str(tmp_path / "state"), "COLUMNS": "120"}
    for name in ("POLYLADDER_SITE", "FLY_CONFIG_DIR"):  # at site sandbox each FLY_* is told as ignored
        environ.pop(name, None)
    commands = session(README.read_text(encoding="utf-8"))
    assert len(commands) >= 8
    try:
        for command, printed in commands:
            if exported := re.fullmatch(r"export (\w+)=(\S+)", command):
                environ[exported[1]] = exported[2]
                continue
            argv = [sys.executable, "-m", *shlex.split(command)]
            done = subprocess.run(
                argv, cwd=README.parent, env=environ, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (command, done.stderr)
            assert likeness(done.stderr + done.stdout) == likeness(printed), command
    finally:
        subprocess.run(
            [sys.executable, "-m", "invoke", "sandbox.down", "--force"],
            cwd=README.parent,
            env=environ,
            check=True,
        )
