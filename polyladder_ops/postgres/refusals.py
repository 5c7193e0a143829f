"""What the server says when it does not take a statement of a dump: whose fault it is, in words without values.

Three things are told apart: the server refuses the statement, the server lacks something that it needs, the server
itself fails (which says nothing about the dump). It fails only if it ends our session: a materialized view over a foreign
server that is down raises what looks like a lost connection (08001), and any function may raise any state.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import pq

from polyladder_ops.errors import OpsError
from polyladder_ops.terminal import quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BETWEEN", "Accepted", "Answer", "LoadError", "Statement", "shown"]

BETWEEN = b";\n"
# Severities with which the server ends our session, never those of a statement.
_ENDS_US = ("FATAL", "PANIC")
# Classes of SQLSTATE (docs, appendix A) that speak of a server's state and not of what it was told: connection,
# resources, an operator, the file system, other sessions, a server that takes no writes. Another moment may take it.
_STATES = ("08", "40", "53", "55P03", "57", "58000", "58030", "25006")
# Of bad data, these name settings and columns; the others quote what stands in a row.
_NAMES_ONLY = ("22023", "22P04")
# Those that say that this server, or our role there, has not got what another has: rights, libraries, features.
_LACKS = ("42501", "58P01", "0A", "22023")
_LACKING = re.compile(r"(role|tablespace|collation) .+ does not exist|unrecognized configuration parameter")
# What a function of a table's check, default or index says when it meets the empty search_path of every dump.
_UNKNOWN = re.compile(r"^(function|operator|relation|type) .+ does not exist$")
_NAMELESS = (
    "Code that its rows run names something without a schema, and a dump knows no search_path: give the function its own"
    " where the backup comes from (`ALTER FUNCTION … SET search_path = public`), then back up again. Nothing live was changed."
)
_WITHOUT = " To restore without"


class LoadError(OpsError):
    """The server did not take the dump as it is; `lacks` if another server, or another role there, might.

    `item` is the name by which the statement can be let through (`statement:12`); empty if nothing can be.
    """

    def __init__(
        self, message: str, *, detail: str = "", hint: str = "", lacks: bool = False, item: str = ""
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.lacks = lacks
        self.item = item

    def for_good(self) -> LoadError:
        """Return the error for who can let nothing through: without a word of how."""
        self.item, self.hint = "", self.hint.partition(_WITHOUT)[0]
        return self


@dataclass(frozen=True)
class Accepted:
    """A statement that the server refused and that was let through, with the server's words and the rows that it lost."""

    item: str
    why: str

    def __str__(self) -> str:
        return f"{self.item}: {self.why}"


@dataclass(frozen=True)
class Statement:
    """One statement on its way; `place` counts the dump's statements from 1. What we put around a COPY has its place."""

    text: bytes
    place: int

    @property
    def item(self) -> str:
        """Its name for `accept`."""
        return f"statement:{self.place}"


@dataclass(frozen=True)
class Answer:
    """A result that is not what we hoped for."""

    result: pq.abc.PGresult
    encoding: str

    def field(self, field: pq.DiagnosticField) -> str:
        """Return a part of the server's error; empty if it gave none."""
        return (self.result.error_field(field) or b"").decode(self.encoding, "replace")

    @property
    def state(self) -> str:
        """The SQLSTATE; empty if libpq itself speaks, since then the connection is lost."""
        return self.field(pq.DiagnosticField.SQLSTATE)

    @property
    def is_trouble(self) -> bool:
        """Whether the server failed, which says nothing about the dump: it ended our session, or libpq lost it."""
        is_error = self.result.status != pq.ExecStatus.COPY_IN
        severity = self.field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        return is_error and (not self.state or severity in _ENDS_US)

    @property
    def lacks(self) -> bool:
        """Whether another server, another role there, or another moment, might take it."""
        message = self.field(pq.DiagnosticField.MESSAGE_PRIMARY)
        return self.state.startswith(_LACKS + _STATES) or _LACKING.match(message) is not None

    def said(self, statement: bytes) -> str:
        """Return the server's message without values: what stands in a row or a literal is nobody's business here."""
        if self.result.status == pq.ExecStatus.COPY_IN:
            return "It expects rows where none are"
        if self.state.startswith("P0"):
            return f"A function raised an error of its own ({self.state})"
        message = self.field(pq.DiagnosticField.MESSAGE_PRIMARY)
        quoted = {text.encode(self.encoding, "replace") for text in re.findall(r'"([^"]*)"', message)}
        shown, hidden = _parted(statement)
        is_row = self.state.startswith("22") and self.state not in _NAMES_ONLY
        is_literal = any(text in hidden and text not in shown for text in quoted)
        if is_row or (is_literal and not self.lacks):  # what the server lacks must be named
            message = re.sub(r'".*"', '"…"', message, flags=re.DOTALL)
        message = re.sub(r"'.*'", "'…'", message, flags=re.DOTALL)
        return " ".join((message or self.result.error_message.decode("utf-8", "replace")).split()).rstrip(".")

    @property
    def where(self) -> str:
        """The line of the rows, if it is about one."""
        line = re.match(r"COPY .*?, line (\d+)", self.field(pq.DiagnosticField.CONTEXT), flags=re.DOTALL)
        return f", line {line[1]} of the rows" if line else ""

    def blamed(self, batch: Sequence[Statement], done: int) -> Statement:
        """Return the statement that this is about: the server counts characters from the batch's beginning.

        Without a place it is the one after those that were done; bad syntax anywhere stops a batch before its first.
        """
        place = int(self.field(pq.DiagnosticField.STATEMENT_POSITION) or 0)
        for statement in batch if place else ():
            length = len(statement.text.decode(self.encoding, "replace")) + len(BETWEEN)
            if place <= length:
                return statement
            place -= length
        return batch[min(done, len(batch) - 1)]

    def refusal(self, statement: Statement, rows: str = "") -> OpsError:
        """Return what to raise: a LoadError that says how to let the statement through, or the server's own trouble.

        `rows` says which ones go with it, if it brings any.
        """
        said = self.said(statement.text)
        detail = f"{said}. It was: {shown(statement.text, self.encoding)}{self.where}"
        hint = _NAMELESS if rows and _UNKNOWN.search(said) else _hint(said)
        if self.is_trouble:
            return OpsError("the server failed while it loaded the dump", detail=detail, hint=hint)
        # What is read in two ways can't be left out: nobody knows where it ends.
        item = "" if self.result.status == pq.ExecStatus.COPY_IN else statement.item
        hint += f"{_WITHOUT} {rows or 'that statement'}: `--accept={quoted(item)}`." if item else ""
        return LoadError(
            "the server refused a part of the dump", detail=detail, hint=hint, lacks=self.lacks, item=item
        )


def _parted(statement: bytes) -> tuple[bytes, bytes]:
    """Return a statement up to its first literal, and the rest: a password, perhaps, or the body of a function."""
    literal = re.search(rb"['$]", statement)
    place = literal.start() if literal else len(statement)
    return statement[:place], statement[place:]


def shown(statement: bytes, encoding: str) -> str:
    """Return a statement up to its first literal, on one line, shortened."""
    shown, hidden = _parted(statement)
    text = " ".join(shown.decode(encoding, "replace").split())
    return f"{text[:120]}…" if len(text) > 120 else f"{text} …" if hidden else text


def _hint(message: str) -> str:
    known = {
        "role .* does not exist": "Make the role on that server first.",
        "extension .* not available": "Install the extension on that server first.",
        "lock timeout": "Another session has it: end that one where it runs, then try again.",
        "permission denied|must be": "Use a superuser of that server.",
        "locks_per_transaction|shared memory": "Raise max_locks_per_transaction on that server and restart it.",
        "No space left|could not extend": "Free space on that server's disk.",
    }
    otherwise = "Nothing live was changed; what is half loaded goes away."
    return next((hint for pattern, hint in known.items() if re.search(pattern, message)), otherwise)
