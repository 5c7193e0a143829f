"""The one door for everything that people and programs read of us: results on stdout, the rest on stderr.

Whatever goes through it has lost its secrets and what could steer a terminal: a name out of a database, a file, a
message of a server may hold escape sequences, marks that turn the direction of writing, line breaks that forge a line of
ours. A sentence (`line`, `note`) has no line breaks at all; a text of several lines (`lines`, `notes`) was put together
of `terminal.plain` names by who made it. Each of our commands that people read in it names their site (`followed`).

Nothing raises when a stream can't be written. A run does not end half way because nobody reads it: what stdout could
not take is kept as `lost`, and the boundary tells it at the end.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import re
import shlex
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import BELOW
from polyladder_ops.redaction import redact
from polyladder_ops.terminal import draws, plain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from typing import TextIO

    from polyladder_ops.errors import OpsError

__all__ = [
    "can_ask",
    "clean",
    "document",
    "fault",
    "flush",
    "flyctl_is",
    "followed",
    "is_watched",
    "last_words",
    "line",
    "lines",
    "lost",
    "note",
    "notes",
    "prepare",
    "question",
    "step",
    "told",
    "unsaid",
    "with_flags",
]

_STREAMS = ("stdin", "stdout", "stderr")
_COMMAND = re.compile(r"`invoke (?!sandbox|dev\b|-)([^`\n]+)`")
_MOST_UNSAID = 2000
_lost: list[OSError] = []
_unsaid: list[str] = []  # what stdout did not take
_FLY = re.compile(r"`fly (?=[a-z])")
_sites: list[str] = []  # the last one is meant
_flyctl: list[str] = []
_AGAIN_S = 15.0
_ERASE = "\r\x1b[K"


@dataclass
class _Steps:
    """The step that is under way, since when, when each was told last, and whether it stands on the terminal's last line."""

    now: str = ""
    since: float = 0.0
    told: dict[str, float] = field(default_factory=dict)
    stands: bool = False


_steps = _Steps()


@contextlib.contextmanager
def followed(site: str) -> Iterator[None]:
    """Within the block each `invoke` command that people are told names this site, if one was given.

    Whoever pasted it without would act on the default site's database.
    """
    _sites.append(site)
    try:
        yield
    finally:
        _sites.pop()


def flyctl_is(program: str) -> None:
    """From now on each `fly` command that people are told begins with this program; nothing changes if it is empty.

    Whoever pasted it otherwise would ask another program than we do, perhaps of another account.
    """
    _flyctl[:] = [program] if program else []


def prepare() -> None:
    """Make the three standard streams such that every write has a place to go, and forget what was lost before.

    One that was closed (``>&-``) leads to nowhere from now on. Left closed, its number would be given to the next file
    or socket that is opened, and whoever writes an error to 2 would write it into a backup.
    """
    _flyctl.clear()
    _steps.now = ""
    _steps.told.clear()
    _lost.clear()
    _unsaid.clear()
    for number, name in enumerate(_STREAMS):
        if getattr(sys, name) is None:
            _lead_to_nowhere(number, only_if_closed=True)
            setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115, PTH123
    for stream in (sys.stdout, sys.stderr):
        if isinstance(
            stream, io.TextIOWrapper
        ):  # a name that the terminal's encoding lacks comes out as its number
            stream.reconfigure(errors="backslashreplace")


def line(sentence: str) -> None:
    """Print a result of one line on stdout."""
    _tell("stdout", plain(redact(sentence)))


def lines(text: str) -> None:
    """Print a result of several lines on stdout."""
    _tell("stdout", clean(text))


def document(value: Any) -> None:
    """Print one JSON document on stdout; control characters stay in it, escaped, and its keys, which are ours, as they are."""
    value = _hints_followed(value)
    text = _as_json(value)
    if redact(text) != text:  # text by text, since a mask could swallow a quote of the document
        text = _as_json(_each_text(value, redact))
    _write("stdout", text)


def note(sentence: str) -> None:
    """Tell people a sentence on stderr."""
    _tell("stderr", plain(redact(sentence)))


def step(sentence: str) -> None:
    """Tell people a sentence on stderr; one that ends with "…" gives way to the next one, however often it is told.

    On a terminal it stands on one line that changes; else it is a line of its own, the same one each 15 s at most.
    """
    if not sentence.endswith("…"):
        note(sentence)
        return
    now = time.monotonic()
    if sentence != _steps.now:
        _steps.now, _steps.since = sentence, now
    seconds = round(now - _steps.since)
    text = plain(redact(sentence)) + (f" {seconds} s" if seconds else "")
    if is_watched() and draws():
        _stand(text)
    elif now - _steps.told.get(sentence, -_AGAIN_S) >= _AGAIN_S:
        _steps.told[sentence] = now
        _tell("stderr", text)


def _stand(text: str) -> None:
    """Write a text on the terminal's last line, as much of it as fits, over the one before it."""
    import shutil  # late: a list of tasks needs it not, and it brings every kind of compression

    width = shutil.get_terminal_size().columns - 1
    fits = text if len(text) <= width else f"{text[: width - 1]}…"
    _write("stderr", _ERASE + fits, end="")
    _steps.stands = True


def _erase() -> None:
    """Take the step from the terminal's last line: something else is written there now."""
    if _steps.stands:
        _steps.stands = False
        _write("stderr", _ERASE, end="")


def notes(text: str) -> None:
    """Tell people a text of several lines on stderr."""
    _tell("stderr", clean(text))


def fault(error: OpsError) -> None:
    """Tell people an error on stderr: its message, its detail, its hint."""
    _tell("stderr", told(error))


def told(error: OpsError) -> str:
    """Return an error as it is told: three lines, and further ones of a detail indented below it."""
    message, hint = plain(redact(error.message)), plain(redact(error.hint))
    detail = BELOW.join(plain(piece) for piece in redact(error.detail).split(BELOW))
    texts = [
        f"error: {message}",
        *([f"detail: {detail}"] if detail else []),
        *([f"hint: {hint}"] if hint else []),
    ]
    return _for_site("\n".join(texts))


def question(text: str, expected: str) -> str:
    """Return what a person typed at the terminal, asked to type `expected`; empty if the input ended."""
    _tell("stderr", f"{clean(text)}\nType {plain(redact(expected))} to go on: ", end="")
    with contextlib.suppress(EOFError, OSError):
        return input().strip()
    return ""


def can_ask() -> bool:
    """Whether a person can read a question and answer it."""
    return _is_terminal(sys.stdin) and is_watched()


def is_watched() -> bool:
    """Whether stderr is a terminal."""
    return _is_terminal(sys.stderr)


def last_words(text: str) -> None:
    """Tell people a text on stderr although the process is being left and its streams may be held by another thread."""
    before = "\n" if _steps.stands else ""
    with contextlib.suppress(OSError):
        os.write(2, f"{before}{_for_site(clean(text))}\n".encode(errors="backslashreplace"))


def flush() -> None:
    """Send out what was printed, by us or by a task of another repository."""
    _erase()
    for name in ("stdout", "stderr"):
        _guarded(name, lambda stream: stream.flush())


def lost() -> OSError | None:
    """Return what kept stdout from being written; None if all of it got out."""
    return _lost[0] if _lost else None


def unsaid() -> str:
    """Return the results that stdout did not take, or their beginning; empty if it took all that we printed."""
    return "\n".join(_unsaid)[:_MOST_UNSAID]


def clean(text: str) -> str:
    """Return the text without secrets, and with all that could steer a terminal written out but its line breaks."""
    return "\n".join(map(plain, redact(text).split("\n")))


def with_flags(text: str, flags: Callable[[str], Mapping[str, str]]) -> str:
    """Return the text with flags behind each of our commands; the sandbox's and a developer's take none.

    `flags` says for a command which ones, and with which value; one that the command has, or that has no value, is left out.
    """

    def extended(found: re.Match[str]) -> str:
        more = [
            f"{flag}={shlex.quote(value)}"
            for flag, value in flags(found[1]).items()
            if value and flag not in found[1]
        ]
        return f"`invoke {' '.join([found[1], *more])}`"

    return _COMMAND.sub(extended, text)


def _for_site(text: str) -> str:
    """Return the text with the site behind each of our commands that names none; flyctl's name the program that we call."""
    for program in _flyctl:
        begun = f"`{shlex.quote(program)} "
        text = _FLY.sub(begun.replace("\\", r"\\"), text)
    site = _sites[-1] if _sites else ""
    return with_flags(text, lambda _command: {"--site": site}) if site else text


def _hints_followed(value: Any) -> Any:
    """Return a document whose hints can be followed; all else in it is for programs, and may be a name of the database."""
    if isinstance(value, dict):
        return {
            key: _for_site(item) if key == "hint" and isinstance(item, str) else _hints_followed(item)
            for key, item in value.items()
        }
    return [_hints_followed(item) for item in value] if isinstance(value, list | tuple) else value


def _as_json(value: Any) -> str:
    return json.dumps(value, indent=1).replace(
        "\x7f", "\\u007f"
    )  # the one control character that JSON leaves


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _each_text(item, change) for key, item in value.items()}
    return [_each_text(item, change) for item in value] if isinstance(value, list | tuple) else value


def _tell(name: str, text: str, *, end: str = "\n") -> None:
    _write(name, _for_site(text), end=end)


def _write(name: str, text: str, *, end: str = "\n") -> None:
    def writing(stream: TextIO) -> None:
        stream.write(text + end)
        stream.flush()

    if not text.startswith(_ERASE):
        _erase()
    _guarded(name, writing)
    if name == "stdout" and _lost:
        _unsaid.append(text)


def _guarded(name: str, act: Callable[[TextIO], object]) -> None:
    """Act on a stream. If it can't be written it leads to nowhere from then on, or Python complains at its end."""
    stream: TextIO | None = getattr(sys, name)
    if stream is None:
        return
    try:
        act(stream)
    except (OSError, ValueError) as error:
        if name == "stdout":
            _lost.append(error if isinstance(error, OSError) else OSError(errno.EBADF, str(error)))
        _lead_to_nowhere(_STREAMS.index(name))
        with contextlib.suppress(OSError, ValueError):
            stream.flush()


def _lead_to_nowhere(number: int, *, only_if_closed: bool = False) -> None:
    with contextlib.suppress(OSError):
        if only_if_closed and _is_open(number):
            return
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number:
            os.dup2(nowhere, number)
            os.close(nowhere)


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _is_terminal(stream: TextIO | None) -> bool:
    with contextlib.suppress(ValueError):
        return stream is not None and stream.isatty()
    return False
