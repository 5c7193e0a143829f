"""What a source's expressions come to on this server, by making them once more from the source's own text.

A server writes an expression anew from what it has understood, so `s IN ('a')` gains casts on its way through a dump,
and the next major leaves out what it finds needless. Two texts mean the same if this server, given the source's,
writes what it writes of the restored one. The dump has no part in it.

The texts come out of a file. Each is sent as a statement of its own, never joined to another, by the extended protocol,
which refuses two in one (the simple one, psycopg's choice where there are no parameters, does both).
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import psycopg
from psycopg import pq

from polyladder_ops.postgres import queries, waits
from polyladder_ops.postgres.proof.remakes import Place, Remake, remake
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.described import Expressions
    from polyladder_ops.postgres.session import Connection

__all__ = ["rendered"]

_Key = tuple[str, str, str]
_Answer: TypeAlias = "str | _Passing | None"

# A look of the server's own at the table, or another run on the same server, can be in the way for a moment.
_PAUSES_S = (0.0, 0.1, 0.5)
# The first two characters of an SQLSTATE: a conflict, resources, a lock, an operator's or the system's doing, an internal error.
_PASSING = ("40", "53", "55", "57", "58", "XX")
_BATCH = 200  # what is on its way at once


def rendered(connection: Connection, wanted: Expressions, found: Expressions) -> Expressions:
    """Return for each expression that differs what the wanted text comes to on this server; none if it refuses it.

    `found` must be of the connection's database. Everything is made in a transaction, or a savepoint in the caller's,
    which is rolled back. The role must own the objects; it need not be a superuser. Raise psycopg.Error if the connection
    fails, or the server refuses for a reason that is not the text's: nothing is known of the expression then.
    """
    keys = [key for key, text in wanted.items() if key in found and found[key] != text]
    if not keys:
        return {}
    with connection.transaction(force_rollback=True):
        _pin(connection)
        types, roots = _facts(connection, keys)
        remakes = {
            key: made
            for key in keys
            if (made := remake(key[0], Place(key[1], key[2], found[key], types, roots), wanted[key]))
        }
        worded: dict[_Key, str] = {}
        for pause_s in _PAUSES_S:
            left = {key: made for key, made in remakes.items() if key not in worded}
            time.sleep(pause_s)
            answers = dict(zip(left, _answers(connection, list(left.values())), strict=True))
            worded |= {
                key: left[key].worded(answer) for key, answer in answers.items() if isinstance(answer, str)
            }
            if not any(isinstance(answer, _Passing) for answer in answers.values()):
                return worded
    key, why = next((key, answer.why) for key, answer in answers.items() if isinstance(answer, _Passing))
    raise psycopg.OperationalError(f"the server could not say what {key[2]} of {key[1]} comes to: {why}")


@dataclass(frozen=True)
class _Passing:
    """The server's refusal for a reason that passes: the conflict with another session, want of memory."""

    why: str


def _pin(connection: Connection) -> None:
    queries.pin(connection)
    connection.execute("SET LOCAL check_function_bodies = off")
    if connection.info.server_version < 170000 and connection.info.parameter_status("is_superuser") == "on":
        connection.execute("SET LOCAL session_replication_role = replica")  # quiet event triggers


_TYPES = """
SELECT w.name, pg_catalog.format('%%I', a.attname), pg_catalog.format_type(a.atttypid, a.atttypmod)
FROM pg_catalog.unnest(%s::text[]) AS w (name)
JOIN pg_catalog.pg_attribute a ON a.attrelid = pg_catalog.to_regclass(w.name) AND a.attgenerated <> ''
"""
_ROOTS = """
SELECT w.name, i.inhparent::regclass::text, pg_catalog.pg_get_partkeydef(i.inhparent)
FROM pg_catalog.unnest(%s::text[]) AS w (name)
JOIN pg_catalog.pg_inherits i ON i.inhrelid = pg_catalog.to_regclass(w.name)
"""


def _facts(
    connection: Connection, keys: Sequence[_Key]
) -> tuple[dict[tuple[str, str], str], dict[str, tuple[str, str]]]:
    """Return the types of generated columns, and of partitions the root and its key."""
    generated = [name for _, name, slot in keys if slot.startswith(("stored ", "virtual "))]
    bound = [name for _, name, slot in keys if slot == "partition bound"]
    types = connection.execute(_TYPES, [generated]).fetchall() if generated else []
    roots = connection.execute(_ROOTS, [bound]).fetchall() if bound else []
    return {(name, column): kind for name, column, kind in types}, {
        name: (root, key) for name, root, key in roots
    }


_BACK = "ROLLBACK TO SAVEPOINT polyladder_remade"


def _answers(connection: Connection, remakes: Sequence[Remake]) -> list[_Answer]:
    """Return what the server answers to each; None if it refused a statement for what it says. Each is undone before the next."""
    connection.execute("SAVEPOINT polyladder_remade")
    answers: list[_Answer] = []
    for begin in range(0, len(remakes), _BATCH):
        units = [
            unit for r in remakes[begin : begin + _BATCH] for unit in ((*r.statements, r.question), (_BACK,))
        ]
        answers += list(_pipelined(connection, units))[::2]
    return answers


def _pipelined(connection: Connection, units: Sequence[Sequence[str]]) -> Iterator[_Answer]:
    """Send all statements at once; yield for each unit what its last one answered, None if the server refused any of it.

    What stands behind a refused statement is not done up to the end of its unit.
    """
    pgconn = connection.pgconn
    encoding = connection.info.encoding
    encoding = "utf-8" if encoding == "ascii" else encoding
    try:
        pgconn.enter_pipeline_mode()
        for unit in units:
            for statement in unit:
                pgconn.send_query_params(statement.encode(encoding, "backslashreplace"), None)
            pgconn.pipeline_sync()
        answers = [_unit(connection, encoding) for _ in units]
        pgconn.exit_pipeline_mode()
    except BaseException:  # in the middle of an answer nothing else can be asked
        connection.close()
        raise
    yield from answers


def _unit(connection: Connection, encoding: str) -> _Answer:
    """Take the results up to the next end of a unit. Raise OperationalError if the connection is gone."""
    answer: _Answer = None
    while True:
        result = _result(connection)
        if result is None:
            continue
        if result.status == pq.ExecStatus.PIPELINE_SYNC:
            return answer
        answer = answer if isinstance(answer, _Passing) else None
        if result.status == pq.ExecStatus.FATAL_ERROR and _sqlstate(result).startswith(_PASSING):
            answer = _Passing(redact(result.get_error_message(encoding)).strip())
        if result.status == pq.ExecStatus.TUPLES_OK and result.ntuples == 1:
            value = result.get_value(0, 0)
            answer = None if value is None else value.decode(encoding, "backslashreplace")


def _sqlstate(result: pq.abc.PGresult) -> str:
    return (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()


def _result(connection: Connection) -> pq.abc.PGresult | None:
    """Wait a second at a time, so that a Ctrl-C gets through."""
    pgconn = connection.pgconn
    while (unsent := bool(pgconn.flush())) or pgconn.is_busy():
        if waits.ready(connection, write=unsent):
            pgconn.consume_input()
    if pgconn.status != pq.ConnStatus.OK:
        raise psycopg.OperationalError("the server closed the connection while definitions were compared")
    return pgconn.get_result()
