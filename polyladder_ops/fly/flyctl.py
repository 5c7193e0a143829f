"""The one caller of flyctl: its environment, its deadline, its answers as JSON, its failures explained.

Every call is as contract 10 wants it: LOG_LEVEL=error, no update in mid-procedure, no FLY_APP and FLY_ORG of the person's
shell, stdin closed, both outputs apart, a process group of its own. What a call prints is never shown: machines' settings
hold secrets in clear (contract 6.7).
"""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from polyladder_ops import plainfile, portable
from polyladder_ops.errors import OpsError, SettingsError, working_in
from polyladder_ops.fly import failures
from polyladder_ops.lifeline import lifeline
from polyladder_ops.undoing import at_work

if TYPE_CHECKING:
    from collections.abc import Callable
    from io import BufferedReader

__all__ = ["OLDEST", "Flyctl", "find", "hostname", "is_set_up"]

OLDEST = (0, 4, 80)
"""Older ones lose the tail of outputs, and lack commands (contract 1.1)."""
_QUIET = {"LOG_LEVEL": "error", "FLY_NO_UPDATE_CHECK": "1", "FLY_SEND_METRICS": "0", "NO_COLOR": "1"}
_NAMES = ("fly", "flyctl")
_FOLDER = "FLY_CONFIG_DIR"
_OF_TWO_WORDS = ("machine", "scale", "secrets", "checks", "config", "volumes", "ssh", "mpg")
_MOST = 64 << 20
_DRAIN_S = 2.0
_ENDING_S = 8.0  # flyctl needs up to 5 s to give a lease back (contract 1.5)
_QUIET_S = 3.0  # an ordinary call is over by then
_HURRY_S = 2.0  # what it gets if somebody waits for the end


def is_set_up(named: Path | None, token: str | None) -> bool:
    """Whether Fly is to be asked at all: by a token, by a flyctl that is named, or as who ran `fly auth login` here."""
    if named or token:
        return True
    with contextlib.suppress(OSError, RuntimeError):  # there is no home, or no such file
        folder = Path(portable.clean_environment(keep=[_FOLDER]).get(_FOLDER) or "~/.fly").expanduser()
        kept = plainfile.read(folder / "config.yml", _MOST, through_links=True).decode("utf-8", "replace")
        return (
            any(map(shutil.which, _NAMES))
            and re.search(r"^access_token:\s*\S", kept, re.MULTILINE) is not None
        )
    return False


def find(named: Path | None) -> str:
    """Return the program: the one that is named, else `fly` or `flyctl` on PATH. Raise SettingsError if there is none."""
    for name in (str(named),) if named else _NAMES:
        if found := shutil.which(name):
            return found
    where = f"POLYLADDER_FLYCTL says {named}." if named else "Neither fly nor flyctl is on PATH."
    raise SettingsError(
        "there is no flyctl here",
        detail=where,
        hint="Install it (https://fly.io/docs/flyctl/install), or name it in POLYLADDER_FLYCTL.",
    )


def hostname(flyctl: Flyctl, app: str) -> str:
    """Return the app's public host name, as Fly tells it. Raise OpsError if it tells none."""
    found = flyctl.json(dict, "status", "--json", app=app).get("Hostname")
    if not isinstance(found, str) or not re.fullmatch(r"[A-Za-z0-9.-]+", found):
        raise OpsError(
            f"Fly tells no host name of {app}",
            detail="It has none until it was deployed with a public address.",
            hint="Set POLYLADDER_HEALTH_URL.",
        )
    return found


@dataclass(frozen=True)
class Flyctl:
    """flyctl for one token; without one it uses the login in the person's own ~/.fly."""

    program: str
    token: str | None
    config_dir: Path
    deadline_s: float = 90.0
    say: Callable[[str], None] = lambda _sentence: None

    def run(self, *words: str, app: str = "") -> str:
        """Return what the command printed on stdout. Raise FlyError, explained, if it fails or does not end in time."""
        argv = [self.program, *words, *(("-a", app) if app else ())]
        told = " ".join(words[:2] if words[0] in _OF_TWO_WORDS else words[:1])
        code, out, err = self._run(argv, told)
        if code is None:
            raise failures.FlyError(
                f"`fly {told}` did not end within {self.deadline_s:g} s",
                detail="It was ended; what it had begun may be done or not.",
                hint="Look with `invoke fly.status`, then run it again.",
                name="silent",
                passes=True,
            )
        if code:
            raise failures.explain(told, err, code, app=app or "APP")
        return out

    def json(self, kind: type[Any], *words: str, app: str = "") -> Any:
        """Return the list or object that the command printed as JSON.

        Raise OpsError if it is none: an English sentence, a half document or another kind is no empty list.
        """
        text = self.run(*words, app=app)
        found = _document(text)
        if not isinstance(found, kind):
            told = " ".join(word for word in words if not word.startswith("-"))
            raise OpsError(
                f"`fly {told}` gave no {'list' if kind is list else 'object'}",
                detail=f"It ended with exit code 0, but its {len(text)} characters are not the JSON that they should be.",
                hint="Run it again; if this stays, run `fly version upgrade` and report it.",
            )
        return found

    def started(self, *words: str, app: str, **pipes: Any) -> subprocess.Popen[bytes]:
        """Return a command that goes on until it is ended (`portable.end`), in the same environment as every other."""
        return portable.start([self.program, *words, "-a", app], env=self._environment(), **pipes)

    def version(self) -> tuple[int, ...]:
        """Return the version, asking nobody. Raise OpsError if it is older than `OLDEST` or can't be told."""
        told = self.json(dict, "version", "--json").get("Version")
        found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(told))
        number = tuple(int(part) for part in found.groups()) if found else ()
        if number < OLDEST:
            wanted = ".".join(map(str, OLDEST))
            raise OpsError(
                f"flyctl {told} is too old",
                detail=f"At least {wanted} is needed: older ones lose output and lack commands.",
                hint="Run `fly version upgrade`.",
            )
        return number

    def _environment(self) -> dict[str, str]:
        """Return the child's: nothing of FLY_* but ours; without a token the folder where the person's own login is."""
        if not self.token:
            return portable.clean_environment(_QUIET, keep=[_FOLDER])
        with working_in(self.config_dir):
            portable.make_private_directory(self.config_dir)
        ours = {"FLY_API_TOKEN": self.token, _FOLDER: str(self.config_dir)}
        return portable.clean_environment({**_QUIET, **ours})

    def _run(self, argv: list[str], told: str) -> tuple[int | None, str, str]:
        """Return exit code (None: it did not end), stdout and stderr. Whoever holds a pipe beyond its end is not waited for."""
        with lifeline(grace_s=_ENDING_S) as ends_with_us:
            process = portable.start(
                argv,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            ends_with_us(process)
            assert process.stdout is not None
            assert process.stderr is not None
            out, err = (_Reader(cast("BufferedReader", pipe)) for pipe in (process.stdout, process.stderr))
            code = self._ended(process, told)
        until = time.monotonic() + _DRAIN_S
        return code, out.text(until), err.text(until)

    def _ended(self, process: subprocess.Popen[bytes], told: str) -> int | None:
        """Return the exit code when the program has ended; None if it did not in time, and was made to."""
        try:
            until = time.monotonic() + self.deadline_s
            while (left := until - time.monotonic()) > 0:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(min(left, _QUIET_S))
                self.say(f"waiting for `fly {told}`, {self.deadline_s:g} s at most …")
            portable.end(process, grace_s=min(_ENDING_S, self.deadline_s))
        except BaseException as error:
            with at_work(f"ending `fly {told}`, which has {_HURRY_S:g} s to give its lease back", error):
                portable.end(process, grace_s=_HURRY_S)
            raise
        return None


class _Reader:
    """Reads one pipe to its end, in a thread: a full pipe would stop the program."""

    def __init__(self, pipe: BufferedReader) -> None:
        self._pipe = pipe
        self._read = bytearray()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        with self._pipe:
            while piece := self._pipe.read1(1 << 16):
                self._read += piece[: max(0, _MOST - len(self._read))]

    def text(self, until: float) -> str:
        self._thread.join(max(0.0, until - time.monotonic()))
        return bytes(self._read).decode(errors="replace")


def _document(text: str) -> object:
    """Return the JSON in a text, behind lines of noise (contract 0.4); None if there is none that is whole."""
    lines = text.splitlines(keepends=True)
    for start in (number for number, line in enumerate(lines) if line.startswith(("[", "{"))):
        with contextlib.suppress(ValueError, RecursionError):
            document: object = json.JSONDecoder().raw_decode("".join(lines[start:]))[0]
            return document
    return None
