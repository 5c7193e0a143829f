"""Puts a dump into a database through libpq: our lexer tells statements from rows, psql is never asked.

Statements travel in batches, since each round trip over a tunnel costs more than the statement; rows travel as they
are. What the server understands otherwise than the lexer did (rows expected where none are, strings read by another
rule) ends the load.
"""

from __future__ import annotations

import re
import select
from collections.abc import Iterator

from psycopg import pq

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Ledger
from polyladder_ops.postgres.lexer import setting_of
from polyladder_ops.postgres.session import Connection

__all__ = ["LoadError", "Loader"]

_BATCH_BYTES = 1 << 16
_BATCH_STATEMENTS = 200
_GOOD = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY}
# Clients from 17 on write it for every server; servers before 17 refuse it (hazard: no other line may be dropped).
_TOO_NEW = b"SET transaction_timeout = 0"
_DATA_CALLS = re.compile(
    rb"SELECT pg_catalog\.(setval|lo_open|lowrite|lo_close|lo_create)\(|BEGIN\Z|COMMIT\Z|ALTER LARGE OBJECT\b"
    rb"|GRANT .* ON LARGE OBJECT\b|REVOKE .* ON LARGE OBJECT\b|COMMENT ON LARGE OBJECT\b",
    re.DOTALL,
)


class LoadError(OpsError):
    """The server did not take the dump as it is."""


class Loader:
    """The handler that sends a dump to one connection in the dump's order, and keeps a ledger of what it sent.

    `finish` sends the rest. With `schema_only` rows, sequence values and large objects stay behind. Raise LoadError as
    soon as the server refuses something; what was sent before it stays, so the database is to be dropped then.
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
        self._table = ""
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
        if (setting := setting_of(text)) and setting[0] == b"standard_conforming_strings":
            self._escapes = setting[1] == b"off"
        self._batch.append(text)
        self._batch_bytes += len(text)
        if setting and setting[0] == b"client_encoding":
            self.finish()  # the server reads a whole batch by the encoding that stood before it
        if len(self._batch) >= _BATCH_STATEMENTS or self._batch_bytes >= _BATCH_BYTES:
            self.finish()

    def finish(self) -> None:
        """Send what is waiting and hear that the server did it."""
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        if not batch:
            return
        self._pgconn.send_query(b";\n".join(batch))
        done = 0
        for result in self._results():
            if result.status not in _GOOD:
                self._refused(result, batch[min(done, len(batch) - 1)])
            done += 1
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
        self._table = table.decode("utf-8", "replace")
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
                self._refused(result, b"COPY " + self._table.encode())
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

    def _refused(self, result: pq.abc.PGresult, statement: bytes) -> None:
        message = (result.error_field(pq.DiagnosticField.MESSAGE_PRIMARY) or b"").decode("utf-8", "replace")
        if result.status == pq.ExecStatus.COPY_IN or not message:
            message = (
                result.error_message.decode("utf-8", "replace").strip() or "it expects rows where none are"
            )
        if statement.startswith(b"COPY"):
            message = re.sub(
                r': ".*"\Z', "", message, flags=re.DOTALL
            )  # a value of a row is nobody's business here
        raise LoadError(
            "the server refused a part of the dump",
            detail=f"{message.rstrip('.')}. It was: {_shown(statement)}",
            hint=_hint(message),
        )


def _shown(statement: bytes) -> str:
    """Return the beginning of a statement up to its first literal, which may be a password."""
    head = " ".join(statement.split(b"'")[0].decode("utf-8", "replace").split())
    return head[:120] + ("…" if len(head) > 120 or b"'" in statement else "")


def _hint(message: str) -> str:
    if "role" in message and "does not exist" in message:
        return "Make the role on that server first."
    if "extension" in message and "not available" in message:
        return "Install the extension on that server first."
    if "locks_per_transaction" in message or "shared memory" in message:
        return "Raise max_locks_per_transaction on that server and restart it."
    if "No space left" in message or "could not extend" in message:
        return "Free space on that server's disk."
    return "Nothing live was touched; the half-filled database is dropped."
