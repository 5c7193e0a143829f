"""The one door through which a relation of somebody else's is read: `COPY table (columns) TO STDOUT`.

It takes the name, the lock and the kind in one step, refuses everything but a plain table, and runs nobody's code. A SELECT
is planned, and the planner calls the functions that it finds in indexes, partition keys and children's CHECKs (tried on 13
to 18: whoever owns a table became superuser by it). Rows come off the wire in pieces; psycopg's own loop takes four times
as long for one.
"""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq, sql
from psycopg.errors import error_from_result

from polyladder_ops.postgres import waits

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["BeyondLimit", "Limit", "columns", "rows"]

_PIECE = 1 << 18
_CANCEL_S, _OBEY_S = 1, 3.0


class BeyondLimit(Exception):  # noqa: N818 - it is no failure: whoever reads had set the limit
    """There is more to read than was allowed, or it takes longer."""


class Limit:
    """Seconds from now and bytes, for all that is read under it together."""

    def __init__(self, *, seconds: float, size_bytes: int) -> None:
        self.left_bytes = size_bytes
        self._end = time.monotonic() + seconds

    @property
    def is_over(self) -> bool:
        """Whether nothing more may be read."""
        return self.left_bytes < 0 or time.monotonic() > self._end

    def expect(self, size_bytes: int = 0) -> None:
        """Count bytes that came. Raise BeyondLimit if they were too many, or the time is over."""
        self.left_bytes -= size_bytes
        if self.is_over:
            raise BeyondLimit


def columns(
    connection: Connection, table: sql.Identifier, names: Sequence[str], limit: Limit
) -> Iterator[bytes]:
    """Yield these columns of a plain table as COPY text, in pieces that are cut anywhere.

    Raise BeyondLimit if there is more than the limit allows, psycopg.Error if the server refuses (it is no plain table).
    After both the session can be used again; a server that does not obey is hung up on.
    """
    query = sql.SQL("COPY {} ({}) TO STDOUT").format(table, sql.SQL(", ").join(map(sql.Identifier, names)))
    try:
        for _, piece in rows(connection, [query.as_string(connection).encode()], limit):
            yield piece
    except BeyondLimit:
        _stop(connection)
        raise


def rows(
    connection: Connection, queries: Sequence[bytes], limit: Limit | None = None
) -> Iterator[tuple[int, bytes]]:
    """Yield what these COPY TO STDOUT statements write: the place of the statement, and a piece that is cut anywhere.

    All are sent at once, since over a tunnel a small table takes less time than a round trip; the server does them in
    one transaction. libpq must have all of a row before it hands it out, holds it twice then, and keeps that room for as
    long as the connection lasts. Raise psycopg.Error if the server refuses a statement: it does none after that.
    """
    connection.pgconn.send_query(b";\n".join(queries))
    for place in range(len(queries)):
        _expect(connection, pq.ExecStatus.COPY_OUT, limit)
        for piece in _pieces(connection, limit):
            if limit:
                limit.expect(len(piece))
            yield place, piece
        _expect(connection, pq.ExecStatus.COMMAND_OK, limit)
    _expect(connection, None, limit)


def _pieces(connection: Connection, limit: Limit | None) -> Iterator[bytes]:
    get = connection.pgconn.get_copy_data
    piece, row = bytearray(), memoryview(b"")
    while True:
        size, row = get(1)
        if 0 < size < _PIECE:
            piece += row
        elif size > 0:  # a huge row is not held once more
            yield bytes(piece)
            piece.clear()
            yield from (bytes(row[at : at + _PIECE]) for at in range(0, size, _PIECE))
            row = memoryview(b"")
        elif size == 0:  # all that libpq has read, some 16 kB, is taken
            if len(piece) >= _PIECE:
                yield bytes(piece)
                piece.clear()
            _wait(connection, limit)
        else:
            yield bytes(piece)
            return


def _expect(connection: Connection, status: pq.ExecStatus | None, limit: Limit | None) -> None:
    """Take the next result. Raise psycopg.Error if it is another than this; None stands for the end of results."""
    pgconn = connection.pgconn
    while pgconn.flush() or pgconn.is_busy():
        _wait(connection, limit)
    result = pgconn.get_result()
    if result is not None and result.status != status:
        _finish(connection, limit)
        raise error_from_result(result, encoding=connection.info.encoding)


def _finish(connection: Connection, limit: Limit | None) -> None:
    """Take what else the server says: until it is ready, nothing can be asked. Its last word may never come."""
    while True:
        while connection.pgconn.is_busy():
            _wait(connection, limit)
        if connection.pgconn.get_result() is None:
            return


def _wait(connection: Connection, limit: Limit | None) -> None:
    """Wait up to a second for the server, so that a Ctrl-C gets through, and read what it sent."""
    if waits.ready(connection):
        connection.pgconn.consume_input()
    if limit:
        limit.expect()


def _stop(connection: Connection) -> None:
    """End the statement. Close the connection if the server does not obey: nothing else can be asked of it then."""
    with suppress(psycopg.Error):
        # Not as a Ctrl-C does it: our sessions hang up by themselves then.
        psycopg.Connection.cancel_safe(connection, timeout=_CANCEL_S)
    try:
        _pass_over(connection, Limit(seconds=_OBEY_S, size_bytes=0))
    except (BeyondLimit, psycopg.Error):
        connection.close()


def _pass_over(connection: Connection, limit: Limit) -> None:
    """Take what the server had sent before it obeyed, and its last words."""
    pgconn = connection.pgconn
    while True:
        while pgconn.is_busy():
            _wait(connection, limit)
        if (result := pgconn.get_result()) is None:
            return
        while result.status == pq.ExecStatus.COPY_OUT and (size := pgconn.get_copy_data(1)[0]) >= 0:
            if size == 0:
                _wait(connection, limit)
