"""Puts a dump into a database through libpq: our lexer tells statements from rows, psql is never asked.

Statements travel in batches, since each round trip over a tunnel costs more than the statement; rows travel as they
are. What the server understands otherwise than the lexer did (rows expected where none are, strings read by another
rule) ends the load. Three things are told apart when it ends: the server refuses the dump, the server lacks something
that the dump needs, the server itself fails (which says nothing about the dump).
"""

from __future__ import annotations

import re
import select
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

from psycopg import pq

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Ledger
from polyladder_ops.postgres.lexer import setting_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["LoadError", "Loader"]

_BATCH_BYTES = 1 << 16
_BATCH_STATEMENTS = 200
_BETWEEN = b";\n"
_GOOD = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY}
# Clients from 17 on write it for every server; servers before 17 refuse it (hazard: no other line may be dropped).
_TOO_NEW = b"SET transaction_timeout = 0"
_DATA_CALLS = re.compile(
    rb"SELECT pg_catalog\.(setval|lo_open|lowrite|lo_close|lo_create)\(|BEGIN\Z|COMMIT\Z|ALTER LARGE OBJECT\b"
    rb"|GRANT .* ON LARGE OBJECT\b|REVOKE .* ON LARGE OBJECT\b|COMMENT ON LARGE OBJECT\b",
    re.DOTALL,
)


# Classes of SQLSTATE (docs, appendix A) that speak of the server's state and not of what it was told: connection,
# resources, an operator, the file system, other sessions, a server that takes no writes.
_TROUBLE = ("08", "40", "53", "55P03", "57", "58000", "58030", "25006")
# Of bad data, these name settings and columns; the others quote what stands in a row.
_NAMES_ONLY = ("22023", "22P04")
# Those that say that this server, or our role there, has not got what another has: rights, libraries, features.
_LACKS = ("42501", "58P01", "0A", "22023")
_LACKING = re.compile(r"(role|tablespace|collation) .+ does not exist|unrecognized configuration parameter")


class LoadError(OpsError):
    """The server did not take the dump as it is; `lacks` if another server, or another role there, might."""

    def __init__(self, message: str, *, detail: str = "", hint: str = "", lacks: bool = False) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.lacks = lacks


class Loader:
    """The handler that sends a dump to one connection in the dump's order, and keeps a ledger of what it sent.

    `finish` sends the rest. With `schema_only` rows, sequence values and large objects stay behind. Raise LoadError as
    soon as the server refuses something, OpsError if it fails, psycopg's OperationalError if it is gone; what was sent
    before stays, so the database is to be dropped then.
    """

    def __init__(self, connection: Connection, *, schema_only: bool = False) -> None:
        self.ledger = Ledger()
        self._connection = connection
        self._pgconn = connection.pgconn
        self._schema_only = schema_only
        self._before_17 = connection.info.server_version < 170000
        self._batch: list[bytes] = []
        self._batch_bytes = 0
        self._statements = 0
        self._escapes = False
        self._copy = b""
        self._in_transaction = False  # ours, around the rows of one table

    def comment(self, text: bytes) -> None:
        """Pass a comment to the ledger; the server has no use for it."""
        self.ledger.comment(text)

    def statement(self, text: bytes) -> None:
        """Take one statement; it travels with its neighbours."""
        self.ledger.statement(text)
        self._statements += 1
        if text == _TOO_NEW and self._before_17 and self._statements < 20:
            return
        if self._schema_only and _DATA_CALLS.match(text):
            return
        self._batch.append(text)
        self._batch_bytes += len(text)
        setting = setting_of(text)
        if setting and setting[0] == b"standard_conforming_strings":
            self._escapes = setting[1] == b"off"
        # The server reads a whole batch by the rules that hold before it: a change of the rules ends the batch.
        if setting or len(self._batch) >= _BATCH_STATEMENTS or self._batch_bytes >= _BATCH_BYTES:
            self.finish()

    def finish(self) -> None:
        """Send what is waiting and hear that the server did it."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        self._pgconn.send_query(_BETWEEN.join(batch))
        for done, result in enumerate(self._results()):
            if result.status not in _GOOD:
                self._refused(result, _Answer(result, self._connection.info.encoding).blamed(batch, done))
        if (self._pgconn.parameter_status(b"standard_conforming_strings") == b"off") != self._escapes:
            raise LoadError(
                "the dump changed how strings are read", detail="Its later statements can't be trusted."
            )

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Start the rows of a table.

        A table that was truncated in the same transaction is filled page after page. Otherwise the server puts a short
        row into the gap that a long one left on an earlier page, and the rows read back in another order.
        """
        truncates = self.ledger.is_empty_yet(table)
        self.ledger.copy_begin(statement, table, columns)
        if self._schema_only:
            return
        if truncates:
            self._batch += [b"BEGIN", b"TRUNCATE ONLY " + table]
            self._in_transaction = True
        self.finish()
        self._copy = statement
        self._pgconn.send_query(statement)
        result = next(self._results())
        if result.status != pq.ExecStatus.COPY_IN:
            self._refused(result, statement)

    def copy_data(self, data: bytes) -> None:
        """Send rows; blocks while the server is behind, and gives way to a Ctrl-C meanwhile."""
        self.ledger.copy_data(data)
        if self._schema_only:
            return
        self._pgconn.put_copy_data(data)
        self._flush()

    def copy_end(self) -> None:
        """End the rows and hear that the table took them."""
        self.ledger.copy_end()
        if self._schema_only:
            return
        self._pgconn.put_copy_end()
        for result in self._results():
            if result.status not in _GOOD:
                self._refused(result, self._copy)
        if self._in_transaction:
            self._in_transaction = False
            self._batch.append(b"COMMIT")

    def _flush(self) -> None:
        while self._pgconn.flush() == 1:
            if self._wait(write=True):
                self._pgconn.consume_input()

    def _wait(self, *, write: bool = False) -> bool:
        """Wait up to a second for the socket; return whether there is something to read."""
        socket = self._pgconn.socket
        readable, _, _ = select.select([socket], [socket] if write else [], [], 1.0)
        return bool(readable)

    def _results(self) -> Iterator[pq.abc.PGresult]:
        self._flush()
        while True:
            while self._pgconn.is_busy():
                if self._wait():
                    self._pgconn.consume_input()
            if (result := self._pgconn.get_result()) is None:
                return
            yield result
            if result.status == pq.ExecStatus.COPY_IN:
                return

    def _refused(self, result: pq.abc.PGresult, statement: bytes) -> NoReturn:
        answer = _Answer(result, self._connection.info.encoding)
        said = answer.said(statement)
        detail, hint = f"{said}. It was: {_shown(statement, answer.encoding)}{answer.where}", _hint(said)
        if answer.is_trouble:
            raise OpsError("the server failed while it loaded the dump", detail=detail, hint=hint)
        raise LoadError("the server refused a part of the dump", detail=detail, hint=hint, lacks=answer.lacks)


@dataclass(frozen=True)
class _Answer:
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
        """Whether the server failed, which says nothing about the dump."""
        is_error = self.result.status != pq.ExecStatus.COPY_IN
        return is_error and (not self.state or self.state.startswith(_TROUBLE))

    @property
    def lacks(self) -> bool:
        """Whether another server, or another role there, might take it."""
        message = self.field(pq.DiagnosticField.MESSAGE_PRIMARY)
        return self.state.startswith(_LACKS) or _LACKING.match(message) is not None

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

    def blamed(self, batch: Sequence[bytes], done: int) -> bytes:
        """Return the statement that this is about: the server counts characters from the batch's beginning.

        Without a place it is the one after those that were done; bad syntax anywhere stops a batch before its first.
        """
        place = int(self.field(pq.DiagnosticField.STATEMENT_POSITION) or 0)
        for statement in batch if place else ():
            length = len(statement.decode(self.encoding, "replace")) + len(_BETWEEN)
            if place <= length:
                return statement
            place -= length
        return batch[min(done, len(batch) - 1)]


def _parted(statement: bytes) -> tuple[bytes, bytes]:
    """Return a statement up to its first literal, and the rest: a password, perhaps, or the body of a function."""
    literal = re.search(rb"['$]", statement)
    place = literal.start() if literal else len(statement)
    return statement[:place], statement[place:]


def _shown(statement: bytes, encoding: str) -> str:
    shown, hidden = _parted(statement)
    text = " ".join(shown.decode(encoding, "replace").split())
    return f"{text[:120]}…" if len(text) > 120 else f"{text} …" if hidden else text


def _hint(message: str) -> str:
    known = {
        "role .* does not exist": "Make the role on that server first.",
        "extension .* not available": "Install the extension on that server first.",
        "permission denied|must be": "Use a superuser of that server.",
        "locks_per_transaction|shared memory": "Raise max_locks_per_transaction on that server and restart it.",
        "No space left|could not extend": "Free space on that server's disk.",
    }
    otherwise = "Nothing live was touched; the half-filled database is dropped."
    return next((hint for pattern, hint in known.items() if re.search(pattern, message)), otherwise)
