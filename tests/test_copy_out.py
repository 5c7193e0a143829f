"""Rows come off the wire as the server wrote them, of as many statements as were sent."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.postgres import session
from polyladder_ops.postgres.proof import copy_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server

HUGE = 3 << 20


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with closing(session.connect(server.target())) as connected:
        yield connected


def query(select: str) -> bytes:
    return f"COPY ({select}) TO STDOUT".encode()


def read(connection: Connection, *queries: bytes) -> list[bytes]:
    found = [b""] * len(queries)
    for place, piece in copy_out.rows(connection, queries):
        found[place] += piece
    return found


def test_each_statement_has_its_own_rows(connection: Connection) -> None:
    nothing, one, many = read(
        connection,
        query("SELECT 1 WHERE false"),
        query(r"SELECT E'a\tb\\', NULL"),
        query("SELECT g, repeat('x', 90) FROM generate_series(1, 20000) g"),
    )
    assert nothing == b""
    assert one == b"a\\tb\\\\\t\\N\n"
    assert many == b"".join(b"%d\t%b\n" % (number, b"x" * 90) for number in range(1, 20001))
    assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_huge_row_between_small_ones_comes_in_pieces_and_in_its_place(connection: Connection) -> None:
    select = f"SELECT repeat(chr(96 + g), CASE g WHEN 2 THEN {HUGE} ELSE 3 END) FROM generate_series(1, 3) g"
    pieces = [piece for _, piece in copy_out.rows(connection, [query(select)])]
    assert b"".join(pieces) == b"aaa\n" + b"b" * HUGE + b"\nccc\n"
    assert max(map(len, pieces)) <= 1 << 18


def test_a_row_is_not_waited_for_longer_than_the_server_takes(connection: Connection) -> None:
    slow = "SELECT g, pg_catalog.pg_sleep(0.1) FROM generate_series(1, 3) g"
    assert read(connection, query(slow)) == [b"1\t\n2\t\n3\t\n"]


@pytest.mark.parametrize(
    "wrong",
    ["SELECT nothing", "SELECT 1 / g FROM generate_series(-9999, 0) g"],
    ids=["at once", "after many rows"],
)
def test_what_the_server_refuses_is_raised_and_the_session_goes_on(
    connection: Connection, wrong: str
) -> None:
    with pytest.raises(psycopg.Error, match=r"nothing|division by zero"):
        read(connection, query("SELECT 1"), query(wrong), query("SELECT 2"))
    assert read(connection, query("SELECT 3")) == [b"3\n"]


def test_a_statement_that_writes_no_rows_is_an_error(connection: Connection) -> None:
    with pytest.raises(psycopg.Error):
        read(connection, b"SELECT 1")
    assert connection.execute("SELECT 1").fetchone() == (1,)
