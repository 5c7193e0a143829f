"""Puts a dump into a database through libpq: our lexer tells statements from rows, psql is never asked.

Statements travel in batches, since each round trip over a tunnel costs more than the statement; rows travel as they
are. What the server understands otherwise than the lexer did (rows expected where none are, strings read by another
rule) ends the load. Three things are told apart when it ends: the server refuses the dump, the server lacks something
that the dump needs, the server itself fails (which says nothing about the dump); `refusals` has the words.

A statement can be let through by its place in the dump (`statement:12`): it then travels alone, and if the server
refuses it the load goes on without it. What the server takes is never left out.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import pq

from polyladder_ops.postgres import waits
from polyladder_ops.postgres.contents import Ledger, decode
from polyladder_ops.postgres.lexer import setting_of
from polyladder_ops.postgres.load.hands import REFUSED
from polyladder_ops.postgres.load.switches import Switches
from polyladder_ops.postgres.refusals import BETWEEN, Accepted, Answer, LoadError, Statement, shown
from polyladder_ops.terminal import many

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from polyladder_ops.postgres.load.handover import Handover
    from polyladder_ops.postgres.session import Connection

__all__ = ["Accepted", "LoadError", "Loader", "brings_data"]

_BATCH_BYTES = 1 << 16
_BATCH_STATEMENTS = 200
_GOOD = {pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK, pq.ExecStatus.EMPTY_QUERY}
# Clients from 17 on write it for every server; servers before 17 refuse it (hazard: no other line may be dropped).
_TOO_NEW = b"SET transaction_timeout = 0"
# Every dump sets it to 0, for an empty database: in a transaction that locks others out the caller's own limit holds. A
# name that somebody had made and not committed was waited for without an end.
_WAITS = b"SET lock_timeout "
_TOP = 20  # and only among its first statements
# A batch takes the locks of all its statements, one after the other, and autovacuum those of a table and its indexes: a
# foreign key on a partitioned table behind its indexes' ATTACH met it so, on a server where nobody else was.
_DEADLOCK = "40P01"
_TRIES = 5
_DATA_CALLS = re.compile(
    rb"SELECT pg_catalog\.(setval|lo_open|lowrite|lo_close|lo_create)\(|INSERT INTO |BEGIN\Z|COMMIT\Z|ALTER LARGE OBJECT\b"
    rb"|GRANT .* ON LARGE OBJECT\b|REVOKE .* ON LARGE OBJECT\b|COMMENT ON LARGE OBJECT\b",
    re.DOTALL,
)
_CONTROL = re.compile(
    rb"(ABORT|BEGIN|COMMIT|END|PREPARE\s+TRANSACTION|RELEASE|ROLLBACK|SAVEPOINT|START\s+TRANSACTION)\b",
    re.IGNORECASE,
)


def brings_data(statement: bytes) -> bool:
    """Return whether a statement is about values, rows or large objects, which a database without data does without."""
    return _DATA_CALLS.match(statement) is not None


@dataclass
class _Attempt:
    """A COPY, or a statement that may fail: what goes before it, ends it or undoes it; the refusal that was let through."""

    statement: Statement
    begin: bytes = b""
    end: bytes = b""
    undo: bytes = b""
    may_fail: bool = False
    refusal: LoadError | None = None
    table: bytes = b""
    rows: int = 0


_NOTHING = (b"", b"", b"")
_OWN = (b"BEGIN", b"COMMIT", b"ROLLBACK")
_INSIDE = (b"SAVEPOINT polyladder", b"RELEASE SAVEPOINT polyladder",
           b"ROLLBACK TO SAVEPOINT polyladder;RELEASE SAVEPOINT polyladder")  # fmt: skip


class Loader:
    """The handler that sends a dump to one connection in the dump's order, and keeps a ledger of what it has read.

    `finish` sends the rest. With `schema_only` rows, sequence values and large objects stay behind. What `accept` names
    may be refused; `accepted` tells what was. In a transaction of the caller's nothing commits: the dump's own BEGIN
    and COMMIT stay behind, and how long it would wait for locks. Raise LoadError as soon as the server refuses something else, OpsError if it fails,
    psycopg's OperationalError if it is gone; what was sent before stays, so the database is to be dropped then, or the
    caller's transaction to be rolled back. `tick` is called at least once a second while the server lets us wait; what
    it raises ends the load. With an `owner` the connection is a login's without rights, and what is not for it the owner does.
    `rows` is how many each table has, for who is told that they do not come.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        schema_only: bool = False,
        accept: Collection[str] = (),
        tick: Callable[[], None] | None = None,
        owner: Handover | None = None,
        rows: Mapping[str, int] | None = None,
    ) -> None:
        self.ledger = Ledger()
        self._owner = owner
        self._rows = rows or {}
        self._tick = tick
        self._connection = connection
        self._pgconn = connection.pgconn
        self._schema_only = schema_only
        self._accept = frozenset(accept)
        self._accepted: list[Accepted] = []
        self._atomic = self._pgconn.transaction_status != pq.TransactionStatus.IDLE
        self._before_17 = connection.info.server_version < 170000
        self._switches = Switches()
        self._batch: list[Statement] = []
        self._batch_bytes = 0
        self._statements = 0
        self._escapes = False
        self._copy = _Attempt(Statement(b"", 0))

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """What the server refused and was let through, in the dump's order."""
        both = [*self._accepted, *(self._owner.accepted if self._owner else ())]
        return tuple(sorted(both, key=lambda accepted: int(accepted.item.partition(":")[2])))

    @property
    def escapes(self) -> bool:
        """Whether backslashes escape in the literals of what comes now."""
        return self._escapes

    @property
    def is_in_transaction(self) -> bool:
        """Whether what was sent so far is in a transaction that has not ended."""
        return self._pgconn.transaction_status == pq.TransactionStatus.INTRANS

    def comment(self, text: bytes) -> None:
        """Pass a comment to the ledger; the server has no use for it."""
        self.ledger.comment(text)

    def statement(self, text: bytes) -> None:
        """Take one statement; it travels with its neighbours, or alone if it may be refused."""
        self.ledger.statement(text)
        self._statements += 1
        self.do(text, self._statements)

    def rows_come(self) -> None:
        """Let the owner look at the code before rows run it."""
        self.finish()
        if self._owner:
            self._owner.rows_come()

    def pass_by(self, text: bytes = b"") -> None:
        """Count a statement, or the rows of a table, that waits or is another connection's; the ledger learns of the text."""
        self.ledger.statement(text)
        self._statements += 1

    def do(self, text: bytes, place: int) -> None:
        """Take one statement of this place in the dump, which is counted and known already."""
        if self._switches.takes(text, place):
            return
        for waiting in self._switches.due(text):
            self._do(*waiting)
        self._do(text, place)

    def _do(self, text: bytes, place: int) -> None:
        if self._stays_behind(text, place):
            return
        setting = setting_of(text)
        if setting and setting[0] == b"standard_conforming_strings":
            self._escapes = setting[1] == b"off"
        if self._owner and self._owner.takes(text, place, before=self._send):
            return
        statement = Statement(text, place)
        if statement.item in self._accept and not _CONTROL.match(text):
            self._try(statement)
            return
        # What the server refuses of a batch the owner may do, if all of it was undone: large objects' BEGIN and COMMIT are their own.
        is_control = self._owner is not None and text in (b"BEGIN", b"COMMIT")
        if is_control and text == b"BEGIN":
            self._send()
        self._put(statement)
        # The server reads a whole batch by the rules that hold before it: a change of the rules ends the batch.
        if (
            setting
            or (is_control and text == b"COMMIT")
            or len(self._batch) >= _BATCH_STATEMENTS
            or self._batch_bytes >= _BATCH_BYTES
        ):
            self._send()

    def _stays_behind(self, text: bytes, place: int) -> bool:
        if text == _TOO_NEW and self._before_17 and place < _TOP:
            return True
        if self._atomic and text.startswith(_WAITS):
            return True
        if self._atomic and _CONTROL.match(text):
            if text in (b"BEGIN", b"COMMIT"):  # pg_dump's own, around large objects
                return True
            said = shown(text, self._connection.info.encoding)
            raise LoadError("the dump would end the transaction around it", detail=f"It says {said}.")
        return self._schema_only and brings_data(text)

    def _put(self, statement: Statement) -> None:
        self._batch.append(statement)
        self._batch_bytes += len(statement.text)

    def finish(self) -> None:
        """Send what is waiting and hear that the server did it."""
        for waiting in self._switches.due():
            self._do(*waiting)
        self._send()

    def _send(self) -> None:
        batch, self._batch, self._batch_bytes = self._batch, [], 0
        while batch:
            batch = self._sent(batch)

    def _sent(self, batch: list[Statement]) -> list[Statement]:
        """Send a batch, and hear that the server did it; return what is left of it behind a statement that the owner did."""
        tries = _TRIES if self._is_undone_whole(batch) else 1
        while refused := self._refused(batch):
            answer, done = refused
            blamed = answer.blamed(batch, done)
            for _ in self._results():  # until all are heard nothing else can be said
                pass
            if self._owner and answer.state in REFUSED and self._is_undone_whole(batch):
                return self._past(batch, blamed, answer)
            tries -= 1
            if not tries or answer.state != _DEADLOCK:
                raise answer.refusal(blamed)
        self._expect_same_rules()
        return []

    def _past(self, batch: list[Statement], blamed: Statement, answer: Answer) -> list[Statement]:
        """Have the owner do what was refused, behind what stands before it; return what stands behind it."""
        assert self._owner is not None
        place = batch.index(blamed)
        before = batch[:place]
        while before:
            before = self._sent(before)
        if not self._owner.does(blamed.text, blamed.place, answer.state):
            raise answer.refusal(blamed)
        return batch[place + 1 :]

    def _refused(self, batch: Sequence[Statement]) -> tuple[Answer, int] | None:
        """Send these statements; return what the server says against one, and how many it took before."""
        self._pgconn.send_query(BETWEEN.join(statement.text for statement in batch))
        for done, result in enumerate(self._results()):
            if result.status not in _GOOD:
                return Answer(result, self._connection.info.encoding), done
        return None

    def _is_undone_whole(self, batch: Sequence[Statement]) -> bool:
        """Whether the server undoes all of a batch if it refuses one: it is one transaction, unless one was begun."""
        return not self.is_in_transaction and not any(_CONTROL.match(s.text) for s in batch)

    def _expect_same_rules(self) -> None:
        """Raise LoadError if the server reads strings by another rule than the lexer."""
        if (self._pgconn.parameter_status(b"standard_conforming_strings") == b"off") != self._escapes:
            raise LoadError(
                "the dump changed how strings are read", detail="Its later statements can't be trusted."
            )

    # What may be refused ------------------------------------------------------------------------------------------

    def _begun(self, statement: Statement, *, own: bool) -> _Attempt:
        """Return what goes around a statement: a transaction of its `own`, a savepoint in one that may not fail, nothing."""
        may_fail = statement.item in self._accept
        inside = self._atomic
        if may_fail:
            self._send()
            inside = self._pgconn.transaction_status == pq.TransactionStatus.INTRANS
        around = (_INSIDE if may_fail else _NOTHING) if inside else _OWN if own else _NOTHING
        return _Attempt(statement, *around, may_fail=may_fail)

    def _try(self, statement: Statement) -> None:
        """Send one statement alone, between savepoints if it stands in a transaction."""
        attempt = self._begun(statement, own=False)
        try:
            # The savepoint must be there before: of a batch with bad syntax anywhere nothing is done.
            self._say(attempt, attempt.begin)
            self._send()
            self._put(statement)
            self._send()
        except LoadError as error:
            self._let_through(attempt, error)
            self._accepted.append(Accepted(statement.item, error.detail))
        else:
            self._say(attempt, attempt.end)

    def _say(self, attempt: _Attempt, text: bytes) -> None:
        """Put something of ours beside a statement; should it fail, that statement is to blame."""
        if text:
            self._put(Statement(text, attempt.statement.place))

    def _let_through(self, attempt: _Attempt, error: LoadError) -> None:
        """Undo what was refused. Raise the error itself if this statement may not fail."""
        if not attempt.may_fail or error.item != attempt.statement.item:
            raise error
        for _ in self._results():  # until all are heard nothing else can be said
            pass
        attempt.refusal = error
        self._say(attempt, attempt.undo)
        self._send()
        self._expect_same_rules()

    # Rows ---------------------------------------------------------------------------------------------------------

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Start the rows of a table.

        A table that was made or truncated in the same transaction is filled page after page. Otherwise the server puts
        a short row into the gap that a long one left on an earlier page, and the rows read back in another order. Such
        rows may also be written as frozen (docs, COPY): nothing rewrites the table's pages later to say that they are
        visible, neither the index build nor the first vacuum after the switch.
        """
        self.rows_come()
        truncates = self.ledger.is_empty_yet(table) and not self._atomic
        self.ledger.copy_begin(statement, table, columns)
        self._statements += 1
        if self._schema_only:
            return
        copy = Statement(statement, self._statements)
        self._copy = self._begun(copy, own=truncates or copy.item in self._accept)
        self._copy.table = table
        try:
            if self._copy.may_fail:
                self._say(self._copy, self._copy.begin)
            self._send()
            self._start_rows(b"TRUNCATE ONLY " + table if truncates else b"")
        except LoadError as error:
            self._let_through(self._copy, error)

    def _start_rows(self, truncate: bytes) -> None:
        """Send the COPY with what belongs around it as one query: over a tunnel each round trip counts."""
        copy = self._copy
        rows = copy.statement.text + b" WITH (FREEZE)" if truncate else copy.statement.text
        begin, end = (b"", b"") if copy.may_fail else (copy.begin, copy.end)
        self._pgconn.send_query(BETWEEN.join(filter(None, (begin, truncate, rows, end))))
        for result in self._results():
            if result.status == pq.ExecStatus.COPY_IN:
                return
            if result.status not in _GOOD:
                raise Answer(result, self._connection.info.encoding).refusal(copy.statement, self._lost())
        raise LoadError("the server did not wait for the rows of a table")

    def copy_data(self, data: bytes) -> None:
        """Send rows; blocks while the server is behind, and gives way to a Ctrl-C meanwhile."""
        self.ledger.copy_data(data)
        self._copy.rows += data.count(b"\n") if self._copy.may_fail else 0
        if self._schema_only or self._copy.refusal:
            return
        self._pgconn.put_copy_data(data)
        self._flush()

    def copy_end(self) -> None:
        """End the rows and hear that the table took them."""
        self.ledger.copy_end()
        if self._schema_only:
            return
        if not self._copy.refusal:
            self._end_rows()
        if error := self._copy.refusal:
            lost = many(self._copy.rows, "row")
            why = f"{error.detail}; its {lost} {'was' if self._copy.rows == 1 else 'were'} not loaded"
            self._accepted.append(Accepted(error.item, why))

    def _end_rows(self) -> None:
        copy = self._copy
        try:
            self._pgconn.put_copy_end()
            for result in self._results():
                if result.status not in _GOOD:
                    raise Answer(result, self._connection.info.encoding).refusal(copy.statement, self._lost())
        except LoadError as error:
            self._let_through(copy, error)
        else:
            self._say(copy, copy.end if copy.may_fail else b"")

    def _lost(self) -> str:
        """Return in words what does not come if these rows do not."""
        name = decode(self.ledger.qualified(self._copy.table), self.ledger.contents.encoding)
        rows = many(self._rows[name], "row") if name in self._rows else "rows"
        return f"the {rows} of table {name}"

    def _flush(self) -> None:
        while self._pgconn.flush() == 1:
            if self._wait(write=True):
                self._pgconn.consume_input()

    def _wait(self, *, write: bool = False) -> bool:
        """Wait up to a second for the socket; return whether there is something to read."""
        readable = waits.ready(self._connection, write=write)
        if self._tick:
            self._tick()
        return readable

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
