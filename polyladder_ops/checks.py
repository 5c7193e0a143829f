"""Questions in SQL with the answers that are expected, asked of a database after a restore: the checklist that runs.

A file is plain SQL that psql reads too. Each question stands below two comments and ends with a semicolon::

    -- check: there are users
    -- expect: > 0
    SELECT count(*) FROM public.users;

What else can be expected stands in `expectations.py`.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops import expectations, plainfile
from polyladder_ops.errors import SettingsError
from polyladder_ops.postgres import questions
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.sqlscan import DumpError, Scanner
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from polyladder_ops.postgres.questions import Reply
    from polyladder_ops.postgres.session import Connection

__all__ = ["TIMEOUT_S", "Answer", "Check", "read", "run", "who_asks"]

TIMEOUT_S = 60.0
_HEADER = re.compile(r"\s*--\s*(check|expect)\s*:\s*(.*?)\s*", re.IGNORECASE)
_COMMENT_OR_BLANK = re.compile(r"\s*(?:--.*)?")
_QUESTION = re.compile(r"(?:SELECT|WITH|VALUES|TABLE|SHOW|EXPLAIN)\b", re.IGNORECASE)
_MOST_ROWS = 1000
_MOST_BYTES = 16 << 20
_LONGEST = 80
_LONGEST_FAILURE = 240


@dataclass(frozen=True)
class Check:
    """A question, and the answer that is expected as the file spells it."""

    name: str
    expect: str
    question: str


@dataclass(frozen=True)
class Answer:
    """Whether a check's answer is the one that is expected, and what was seen; never a long value or a secret."""

    check: Check
    ok: bool
    seen: str
    seconds: float

    @property
    def said(self) -> str:
        """The answer in a sentence."""
        return self.seen if self.ok else f"expected {self.check.expect}, {self.seen}"


def run(
    asked: Target | Connection, checks: Sequence[Check], *, timeout_s: float = TIMEOUT_S
) -> tuple[Answer, ...]:
    """Return the answers of a database, each from a read-only transaction of its own that is rolled back.

    A question that fails, or takes longer than the timeout, has an answer that is not `ok`. Raise OpsError only if the
    server can't be reached.
    """
    return tuple(_answered(asked, check, timeout_s) for check in checks)


def who_asks(target: Target) -> tuple[str, ...]:
    """Return in sentences what people should know of the role that asks this database: it lends its rights to whom it asks.

    Raise OpsError if the server can't be reached.
    """
    rights = questions.rights(target)
    if not rights.is_superuser or rights.owner_is_superuser:
        return ()
    who = f"{rights.role} is a superuser and asks a database of {rights.owner}, who is none"
    return (f"{who}: code in what is asked runs with all rights; the owner's DATABASE_URL lends fewer",)


def _answered(asked: Target | Connection, check: Check, timeout_s: float) -> Answer:
    began = time.monotonic()
    fits = expectations.parse(check.expect)
    assert fits is not None, "`read` has refused it"
    ask = partial(questions.ask, asked) if isinstance(asked, Target) else partial(questions.ask_on, asked)
    reply = ask(check.question, timeout_s=timeout_s, rows=_MOST_ROWS)
    ok = not reply.failure and len(reply.rows) <= _MOST_ROWS and fits(reply)
    return Answer(check, ok, _seen(reply), time.monotonic() - began)


def _seen(reply: Reply) -> str:
    if reply.failure:
        return f"failed: {_short(reply.failure, _LONGEST_FAILURE)}"
    if len(reply.rows) > _MOST_ROWS:
        return f"got more than {_MOST_ROWS} rows"
    if [len(row) for row in reply.rows] == [1]:
        ((value,),) = reply.rows
        return f"got {_short(expectations.spelled(value))}"
    if not reply.rows:
        return "got no rows"
    rows = ", ".join(f"[{', '.join(map(expectations.spelled, row))}]" for row in reply.rows)
    return f"got [{rows}]" if _short(rows) == rows else f"got {len(reply.rows)} rows"


def _short(text: str, longest: int = _LONGEST) -> str:
    """Return the text if it may be shown: short, no secret, nothing that steers a terminal."""
    if redact(text) != text:
        return "a text with a secret in it"
    if len(text) > longest:
        return f"a text of {len(text)} characters"
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


@dataclass
class _Section:
    """What stands below one `-- check:`, the header's lines left empty."""

    line: int
    name: str
    expects: list[tuple[int, str]]
    lines: list[str]


def read(path: Path) -> tuple[Check, ...]:
    """Return the checks of a file, in its order. Raise SettingsError with every fault and its line, or if it can't be read."""
    try:
        text = plainfile.written(path, _MOST_BYTES)
    except (OSError, UnicodeDecodeError) as error:
        said = getattr(error, "strerror", None) or "it is not UTF-8"
        raise SettingsError(
            f"the checks in {path} can't be read",
            detail=f"{said}.",
            hint="Correct POLYLADDER_CHECKS, or unset it.",
        ) from error
    faults: list[str] = []
    sections = _sections(text, faults)
    checks = [check for section in sections if (check := _check(section, faults))]
    if not sections:
        faults.append("line 1: there is no check; begin one with `-- check: NAME`.")
    faults += _twice(sections)
    if faults:
        raise SettingsError(
            f"the checks in {path.name} are unusable",
            detail="\n        ".join(sorted(faults, key=_line)),
            hint="README.md, section Checks, shows how a check is written.",
        )
    return tuple(checks)


def _line(fault: str) -> int:
    return int(fault.split()[1].rstrip(":"))


def _sections(text: str, faults: list[str]) -> list[_Section]:
    sections: list[_Section] = []
    for number, line in enumerate(text.split("\n"), start=1):
        header = _HEADER.fullmatch(line)
        if header and header[1].lower() == "check":
            sections.append(_Section(number, header[2], [], []))
        elif not sections and (header or not _COMMENT_OR_BLANK.fullmatch(line)):
            faults.append(f"line {number}: this belongs to no check; write `-- check: NAME` above it.")
        elif sections and header:
            if not all(map(_COMMENT_OR_BLANK.fullmatch, sections[-1].lines)):
                faults.append(f"line {number}: `-- expect:` stands below its question; write it above.")
            sections[-1].expects.append((number, header[2]))
            sections[-1].lines.append("")
        elif sections:
            sections[-1].lines.append(line)
    return sections


def _twice(sections: Iterable[_Section]) -> Iterator[str]:
    seen: dict[str, int] = {}
    for section in sections:
        if section.name in seen:
            yield f"line {section.line}: the name {section.name!a} is taken by line {seen[section.name]}."
        seen.setdefault(section.name, section.line)


def _check(section: _Section, faults: list[str]) -> Check | None:
    before = len(faults)
    if not section.name or not section.name.isprintable() or set(section.name) & set(",'\""):
        faults.append(f"line {section.line}: write a name without commas and quotes behind `-- check:`.")
    if len(section.expects) != 1:
        count = len(section.expects) or "no"
        faults.append(f"line {section.line}: the check has {count} `-- expect:`; write one.")
    faults += [
        f"line {line}: no answer can be expected as {text[:40]!a}; write 12, > 0, t, 'text', none, at most 36 h ago, or [[…]]."
        for line, text in section.expects
        if expectations.parse(text) is None
    ]
    question = _question(section, faults)
    return Check(section.name, section.expects[0][1], question) if len(faults) == before else None


def _question(section: _Section, faults: list[str]) -> str:
    splitter = _Splitter()
    try:
        found = splitter.split("\n".join(section.lines))
        fault = (
            "" if len(found) == 1 else f"it has {len(found) or 'no'} statements; write one, with a semicolon."
        )
        if len(found) == 1 and not _QUESTION.match(found[0]):
            fault = "it is no question; write SELECT, WITH, VALUES, TABLE, SHOW or EXPLAIN."
    except DumpError as error:
        found, fault = [], f"{error.message}."
    if fault:
        faults.append(f"line {section.line}: {fault}")
    return found[0] if found else ""


class _Splitter(Scanner):
    """Finds the statements of a text as psql does; what psql would do besides is refused."""

    def split(self, text: str) -> list[str]:
        """Return the statements, without their semicolons. Raise DumpError if the last has none, or at a psql command."""
        self._found: list[str] = []
        self._buffer += text.encode() + b"\n"
        self._scan(len(self._buffer))
        if self._is_inside or bytes(self._buffer[self._start :]).strip():
            raise DumpError(
                "its statement has no end; put a semicolon behind it, and close quotes and comments"
            )
        return self._found

    def _statement(self, text: bytes) -> bool:
        self._found.append(text.decode())
        return False

    def _comment(self, text: bytes) -> None:
        pass

    def _backslash(self, at: int) -> None:  # noqa: ARG002 - its place tells nothing that the check's line does not
        raise DumpError("it holds a psql command, which only psql knows")
