"""Rows as COPY TO STDOUT writes them, read off the wire in pieces; psycopg's own loop takes four times as long for a row."""

from __future__ import annotations

import select
from typing import TYPE_CHECKING

from psycopg import pq
from psycopg.errors import error_from_result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["rows"]

_PIECE = 1 << 18


def rows(connection: Connection, queries: Sequence[bytes]) -> Iterator[tuple[int, bytes]]:
    """Yield what these COPY TO STDOUT statements write: the place of the statement, and a piece that is cut anywhere.

    All are sent at once, since over a tunnel a small table takes less time than a round trip; the server does them in
    one transaction. libpq must have all of a row before it hands it out, holds it twice then, and keeps that room for as
    long as the connection lasts. Raise psycopg.Error if the server refuses a statement: it does none after that.
    """
    connection.pgconn.send_query(b";\n".join(queries))
    for place in range(len(queries)):
        _expect(connection, pq.ExecStatus.COPY_OUT)
        for piece in _pieces(connection):
            yield place, piece
        _expect(connection, pq.ExecStatus.COMMAND_OK)
    _expect(connection, None)


def _pieces(connection: Connection) -> Iterator[bytes]:
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
            _wait(connection)
        else:
            yield bytes(piece)
            return


def _expect(connection: Connection, status: pq.ExecStatus | None) -> None:
    """Take the next result. Raise psycopg.Error if it is another than this; None stands for the end of results."""
    pgconn = connection.pgconn
    while pgconn.flush() or pgconn.is_busy():
        _wait(connection)
    result = pgconn.get_result()
    if result is not None and result.status != status:
        while pgconn.get_result():  # until then nothing else can be asked
            pass
        raise error_from_result(result, encoding=connection.info.encoding)


def _wait(connection: Connection) -> None:
    """Wait up to a second for the server, so that a Ctrl-C gets through, and read what it sent."""
    if select.select([connection.pgconn.socket], [], [], 1.0)[0]:
        connection.pgconn.consume_input()
