"""One transaction that has a database for itself: begun by locking everybody out, ended with its outcome known."""

from __future__ import annotations

import contextlib
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, pq, sql

from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.postgres import clearing, clearing_facts, locks, session
from polyladder_ops.undoing import at_work, standing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection, Identity

__all__ = ["LOCK_WAIT_S", "lock_out", "stop_writers", "transaction"]

LOCK_WAIT_S = 30.0
_FROM_THEN_ON = (
    "SET LOCAL lock_timeout = '60s'"  # while everybody waits for us nothing is waited for without an end
)
_BATCH = 500
_ENDING_S = 10.0
_OPEN = (pq.TransactionStatus.INTRANS, pq.TransactionStatus.INERROR)
_TABLES = """
SELECT c.oid::int8, pg_catalog.format('ONLY %I.%I', s.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND s.nspname !~ '^pg_' AND s.nspname <> 'information_schema'
  AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
ORDER BY c.oid
"""
# LOCK TABLE takes none of these. To give one to the owner that it has locks it as a DROP does, and changes nothing (tried
# on 13 to 18): nextval, setval, REFRESH and CREATE OR REPLACE VIEW wait.
_OTHERS = """
SELECT pg_catalog.format('ALTER %s %I.%I OWNER TO %I',
    CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW' WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'FOREIGN TABLE' END,
    s.nspname, c.relname, pg_catalog.pg_get_userbyid(c.relowner))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace s ON s.oid = c.relnamespace
WHERE c.relkind IN ('S', 'v', 'm', 'f') AND s.nspname !~ '^pg_' AND s.nspname <> 'information_schema'
  AND pg_catalog.pg_has_role(c.relowner, 'USAGE')
ORDER BY c.oid
"""


@contextlib.contextmanager
def transaction(connection: Connection, target: Target) -> Iterator[None]:
    """Within the block a transaction; it is committed at the end, rolled back if the block fails.

    When it returns the server has been asked again, on a new connection, whether the transaction is committed: an
    answer that was lost, or a Ctrl-C that came too late, changes nothing. Raise OpsError if that can't be known.
    """
    identity = session.identify(connection)
    connection.execute(locks.DURABLY)
    connection.execute("BEGIN")
    ((xid,),) = connection.execute("SELECT pg_catalog.pg_current_xact_id()::text").fetchall()
    with standing(f"Nothing was committed; the server rolls {target.database} back by itself"):
        try:
            yield
        except BaseException as error:
            with at_work(f"rolling back: {target.database} stays as it was", error):
                _roll_back(connection, target)
            raise
    failure: BaseException | None = None
    with standing(
        f"Whether {target.database} holds the old rows or the new ones was not found out: look at it"
    ):
        try:
            connection.execute("COMMIT")
        except BaseException as error:
            failure = error
        with at_work(f"asking whether the restore of {target.database} is committed", failure):
            outcome = _outcome(target, xid, identity)
    if outcome == "committed":
        if isinstance(failure, KeyboardInterrupt):
            raise Interrupted(
                f"interrupted by {str(failure) or 'Ctrl-C'} after the restore",
                detail=f"The restore is committed: {target.database} holds the backup now.",
                hint=f"The planner may lack statistics: run `ANALYZE` in {target.database}.",
            ) from failure
        return
    if failure is not None and outcome == "aborted":
        raise failure
    raise OpsError(
        "it is not known whether the restore is committed",
        detail=f"The server says {outcome or 'nothing'} of transaction {xid}.",
        hint="Look at the database before you try again: it holds all of the old state or all of the new.",
    ) from failure


def _roll_back(connection: Connection, target: Target) -> None:
    """End the transaction now: what is asked of the database afterwards sees it as it was."""
    pid = session.backend_of(connection)
    with contextlib.suppress(psycopg.Error):
        if connection.info.transaction_status in _OPEN:
            connection.execute("ROLLBACK")
            return
        connection.cancel_safe()
    # Among rows, or amid a statement: the server ends the transaction when it misses us.
    connection.close()
    deadline = time.monotonic() + _ENDING_S
    with contextlib.suppress(OpsError, psycopg.Error), closing(session.connect(target)) as other:
        while _is_there(other, pid) and time.monotonic() < deadline:
            time.sleep(0.05)


def _is_there(connection: Connection, pid: int) -> bool:
    return (
        connection.execute("SELECT FROM pg_catalog.pg_stat_activity WHERE pid = %s", [pid]).fetchone()
        is not None
    )


def _outcome(target: Target, xid: str, identity: Identity) -> str:
    """Return what the same server says of a transaction: committed, aborted, in progress; empty if it can't be asked."""
    deadline = time.monotonic() + _ENDING_S
    outcome = ""
    while time.monotonic() < deadline:
        with contextlib.suppress(OpsError, psycopg.Error), closing(session.connect(target)) as connection:
            if session.identify(connection).system_identifier != identity.system_identifier:
                return ""
            ((outcome,),) = connection.execute("SELECT pg_catalog.pg_xact_status(%s::xid8)", [xid]).fetchall()
            if outcome != "in progress":
                return str(outcome)
        time.sleep(0.2)
    return outcome


def stop_writers(connection: Connection, target: Target, *, wait_s: float = LOCK_WAIT_S) -> frozenset[int]:
    """Lock all tables against whoever writes, until the transaction ends; who reads goes on, and so does a backup.

    Return the oids of those that are locked: one that is made meanwhile is not. Nobody is ended for it. Raise OpsError,
    with who holds what, if a table is not to be had in `wait_s` seconds.
    """
    with _patiently(connection, target, wait_s):
        return _lock(connection, "EXCLUSIVE")


@contextlib.contextmanager
def lock_out(connection: Connection, target: Target, *, wait_s: float = LOCK_WAIT_S) -> Iterator[None]:
    """Lock all tables, views and sequences against everybody; within the block no other lock is waited for longer either.

    Behind it none is waited for longer than a minute, until the transaction ends or the setting is changed.

    Event triggers are off from then on, until the transaction ends. Nobody is ended for it. Raise OpsError as
    `stop_writers` does.
    """
    with _patiently(connection, target, wait_s):
        clearing.hush(connection)
        _lock(connection, "ACCESS EXCLUSIVE")
        _each(connection, [text for (text,) in connection.execute(_OTHERS).fetchall()], ";\n")
        connection.execute("SET LOCAL statement_timeout = 0")
        yield


def _lock(connection: Connection, mode: str) -> frozenset[int]:
    tables: dict[int, str] = dict(connection.execute(_TABLES).fetchall())
    _each(connection, [*tables.values()], ", ", f"LOCK TABLE {{}} IN {mode} MODE")
    return frozenset(tables)


def _each(connection: Connection, texts: list[str], between: str, statement: str = "{}") -> None:
    for begin in range(0, len(texts), _BATCH):
        text = statement.format(between.join(texts[begin : begin + _BATCH]))
        connection.execute(text.encode(connection.info.encoding))


@contextlib.contextmanager
def _patiently(connection: Connection, target: Target, wait_s: float) -> Iterator[None]:
    """Within the block a lock is waited for so long. Raise OpsError if it is not to be had."""
    wait = sql.Literal(f"{max(1, int(wait_s * 1000))}ms")
    try:
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(wait))
        connection.execute(
            sql.SQL("SET LOCAL statement_timeout = {}").format(wait)
        )  # many locks in one statement
        yield
        connection.execute("SET LOCAL statement_timeout = 0")
        connection.execute(_FROM_THEN_ON)
    except (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected) as error:
        raise OpsError(
            "somebody else uses the database",
            detail=f"Waited {wait_s:g} s. {_who(target)}",
            hint="Stop the app, or end that session, then try again.",
        ) from error


def _who(target: Target) -> str:
    with contextlib.suppress(OpsError, psycopg.Error), closing(session.connect(target)) as connection:
        found = clearing_facts.holders(connection)
        return "; ".join(map(str, found[:5])) + "." if found else "Who it was has gone meanwhile."
    return "Who it is could not be asked."
