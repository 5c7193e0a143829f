"""What stands between us and the server: whether the session that answers stays ours, found without setting anything.

A pooler in transaction mode hands the server's session on after each transaction, with whatever was set on it: the app
would go on with our empty search_path and without its row security (tried).
"""

from __future__ import annotations

import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import psycopg

from polyladder_ops.errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from psycopg.rows import TupleRow

__all__ = ["CURE", "REFUSES_OPTIONS", "SAID", "Pooled", "keeps_our_session", "pid_of"]

CURE = "Put the server's own address into the URL, or the pooler's port for sessions (pool_mode session)."
SAID = "a pooler or proxy stands between us and the server; it gives each connection a session of its own"
REFUSES_OPTIONS = (
    "A pooler answers, not the server, and it refuses `options`: put the server's own address into the URL"
    " (or let a pooler in session mode ignore them: ignore_startup_parameters = options)."
)
_ROUNDS = 3
_LOOKS = 2  # one after the other: a pooler that hands out its sessions in turn would give us the same one each second time
_WAIT_S = 5.0
_PID = "SELECT pg_catalog.pg_backend_pid()"


class Pooled(Refused):
    """What answers is a pooler that gives our session to others."""


def pid_of(connection: psycopg.Connection[TupleRow]) -> int:
    """Return the process that answers, as it says itself; libpq's number can be one that a pooler or proxy made up."""
    row = connection.execute(_PID).fetchone()
    assert row is not None
    return int(row[0])


def keeps_our_session(
    first: psycopg.Connection[TupleRow],
    second: psycopg.Connection[TupleRow],
    hang_up: Callable[[int], None],
) -> bool:
    """Whether the same process answers `first` before and while a transaction of `second` is open.

    A pooler in transaction mode gives `second` the session that `first` has just left, and `first` another one then:
    right in 40 of 40, with other clients and without. Two transactions alone, one after the other, look direct.
    Raise Pooled if `second` gets no session at all.
    """
    return all(_is_ours(first, second, hang_up) for _ in range(_ROUNDS))


def _is_ours(
    first: psycopg.Connection[TupleRow],
    second: psycopg.Connection[TupleRow],
    hang_up: Callable[[int], None],
) -> bool:
    before = {pid_of(first) for _ in range(_LOOKS)}
    try:
        with _at_most(_WAIT_S, second, hang_up):
            second.execute("BEGIN")
            pid_of(second)  # now it has a session, at the latest
    except psycopg.OperationalError as error:
        if "statement pooling" in str(error):  # "transaction blocks not allowed in statement pooling mode"
            return False
        raise Pooled(
            "a pooler stands before the server, and gives us one session only",
            detail=f"The second one got no answer within {_WAIT_S:g} s. Nothing was set on the first.",
            hint=CURE,
        ) from error
    try:
        with _at_most(_WAIT_S, first, hang_up):
            after = {pid_of(first) for _ in range(_LOOKS)}
    except psycopg.OperationalError:  # a pool of one: it waited for the transaction of the other
        return False
    second.execute("ROLLBACK")
    return len(before | after) == 1


@contextmanager
def _at_most(
    seconds: float, connection: psycopg.Connection[TupleRow], hang_up: Callable[[int], None]
) -> Iterator[None]:
    """Within the block the connection is waited for so long; then it is lost."""
    timer = threading.Timer(seconds, hang_up, [connection.pgconn.socket])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
