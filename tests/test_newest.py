"""What is newest in a database is read within limits, and what is beyond them is named."""

from __future__ import annotations

import time
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import sql

from polyladder_ops import backups
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import newest, session, survey
from polyladder_ops.postgres.proof import copy_out
from polyladder_ops.postgres.proof.copy_out import BeyondLimit, Limit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection


@pytest.fixture
def connection(database: Target) -> Iterator[Connection]:
    with closing(session.connect(database)) as connected:
        yield connected


# The door within limits ------------------------------------------------------------------------------------------------

VISIT = sql.Identifier("public", "visit")


@pytest.fixture
def visits(connection: Connection) -> Connection:
    connection.execute(b"CREATE TABLE public.visit (created_at timestamptz, note text)")
    connection.execute(
        b"INSERT INTO public.visit SELECT '2026-01-05Z'::timestamptz - n * interval '1 min', repeat('x', 90)"
        b" FROM generate_series(0, 29999) n"
    )
    connection.execute(b"ANALYZE public.visit")
    return connection


def plenty() -> Limit:
    return Limit(seconds=60, size_bytes=1 << 30)


def test_columns_come_in_the_order_in_which_they_are_asked_for(visits: Connection) -> None:
    rows = b"".join(copy_out.columns(visits, VISIT, ["note", "created_at"], plenty())).splitlines()
    assert len(rows) == 30000
    assert rows[0] == b"x" * 90 + b"\t2026-01-05 00:00:00+00"


@pytest.mark.parametrize("is_in_transaction", [False, True])
def test_too_many_bytes_are_not_read_and_the_session_goes_on(
    visits: Connection,
    is_in_transaction: bool,
) -> None:
    if is_in_transaction:
        visits.execute("BEGIN")
    limit = Limit(seconds=60, size_bytes=1 << 20)
    with pytest.raises(BeyondLimit), visits.transaction():
        list(copy_out.columns(visits, VISIT, ["note"], limit))
    assert limit.is_over
    assert visits.execute("SELECT 1").fetchone() == (1,)


def test_a_locked_table_is_waited_for_no_longer_than_the_limit(database: Target, visits: Connection) -> None:
    with closing(session.connect(database)) as other:
        other.execute("BEGIN")
        other.execute("LOCK TABLE public.visit")
        began = time.monotonic()
        with pytest.raises(BeyondLimit):
            list(copy_out.columns(visits, VISIT, ["note"], Limit(seconds=1, size_bytes=1 << 30)))
        assert time.monotonic() - began < 4
        assert visits.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize(
    "made",
    [
        "VIEW public.other AS SELECT 1::int8 AS last_value",
        "SEQUENCE public.other",
        "TABLE public.other (last_value int8) PARTITION BY LIST (last_value)",
    ],
)
def test_nothing_but_a_plain_table_comes_through_the_door(made: str, connection: Connection) -> None:
    connection.execute(f"CREATE {made}".encode())
    with pytest.raises(psycopg.errors.WrongObjectType, match="cannot copy from"):
        list(copy_out.columns(connection, sql.Identifier("public", "other"), ["last_value"], plenty()))


# The last row ----------------------------------------------------------------------------------------------------------


def test_tables_beyond_the_limits_are_named_and_smaller_ones_are_read(visits: Connection) -> None:
    visits.execute(
        b"CREATE TABLE public.plan (updated_at timestamp); INSERT INTO public.plan VALUES ('2026-01-02T03:00')"
    )
    seen = newest.row(visits, size_bytes=1 << 19)
    assert seen.newest == ("public.plan", datetime(2026, 1, 2, 3, tzinfo=UTC))
    assert seen.unread == ("not looked at within 5 s and 0 MB: public.visit",)
    assert newest.row(visits, seconds=-1).newest is None
    assert newest.row(visits).newest == ("public.visit", datetime(2026, 1, 5, tzinfo=UTC))


def test_a_table_of_which_nothing_is_known_is_read_as_far_as_the_limit(visits: Connection) -> None:
    visits.execute(b"UPDATE pg_class SET relpages = 0, reltuples = -1 WHERE oid = 'public.visit'::regclass")
    seen = newest.row(visits, size_bytes=1 << 19)
    assert (seen.newest, len(seen.unread)) == (None, 1)
    assert visits.execute("SELECT 1").fetchone() == (1,)


def test_many_tables_that_were_not_looked_at_are_counted(connection: Connection) -> None:
    for number in range(5):
        connection.execute(f"CREATE TABLE public.t{number} (created_at timestamptz)".encode())
    assert newest.row(connection, seconds=-1).unread == (
        "not looked at within -1 s and 64 MB: public.t0, public.t1, public.t2 and 2 more",
    )


def test_a_row_counts_by_its_later_time_and_not_by_one_that_is_generated(connection: Connection) -> None:
    connection.execute(
        b"CREATE TABLE public.t (created_at timestamptz, updated_at timestamp,"
        b" inserted_at timestamp GENERATED ALWAYS AS (updated_at + interval '9 days') STORED)"
    )
    connection.execute(
        b"INSERT INTO public.t VALUES ('2026-01-01Z', '2026-01-02'), (NULL, '2026-01-03 00:00:00.25')"
    )
    seen = newest.row(connection)
    assert seen == newest.Rows(("public.t", datetime(2026, 1, 3, 0, 0, 0, 250_000, tzinfo=UTC)))


@given(
    st.lists(st.datetimes(datetime(1, 1, 1), datetime(2026, 1, 1)), max_size=20),  # noqa: DTZ001 - made aware as text
    st.integers(1, 40),
)
def test_the_latest_is_the_latest_wherever_the_text_is_cut(times: list[datetime], size: int) -> None:
    odd = [
        b"\\N",
        b"infinity",
        b"-infinity",
        b"0044-03-15 00:00:00+00 BC",
        b"12026-01-01 00:00:00+00",
        b"2999-01-01 00:00:00+00",
    ]
    fields = [
        f"{at:%Y-%m-%d %H:%M:%S.%f}".zfill(26).rstrip("0").rstrip(".").encode() + b"+00" for at in times
    ]
    text = b"".join(field + b"\n" for field in [*odd, *fields, *odd])
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    found = newest.latest(pieces, b"2026-01-05 00:00:00+00")
    assert found == (fields[times.index(max(times))] if times else b"")


# The last migration ----------------------------------------------------------------------------------------------------


def test_migrations_of_one_instant_are_ordered_by_their_number(connection: Connection) -> None:
    connection.execute(b"CREATE TABLE public.pgmigrations (id serial, name varchar(255), run_on timestamp)")
    connection.execute(
        b"INSERT INTO public.pgmigrations (name, run_on) SELECT 'n' || n, '2026-01-01' FROM generate_series(1, 12) n"
    )
    assert newest.migration(connection) == "n12"
    connection.execute(
        rb"INSERT INTO public.pgmigrations (name, run_on) VALUES (E'a\tb\\c\n\u00e9', '2026-01-01 00:00:00.5'), ('z', NULL)"
    )
    assert newest.migration(connection) == "a\tb\\c\n\u00e9"


@pytest.mark.parametrize("columns", ["id int, name text", "name text, run_on date"])
def test_what_orders_migrations_is_what_the_table_has(columns: str, connection: Connection) -> None:
    connection.execute(f"CREATE TABLE public.pgmigrations ({columns})".encode())
    assert newest.migration(connection) is None


@pytest.mark.parametrize("columns", ["id int", "name text", "id int, name xml", "name public.own, id int"])
def test_a_table_with_other_columns_is_not_looked_at(columns: str, connection: Connection) -> None:
    connection.execute(b"CREATE DOMAIN public.own AS text")
    connection.execute(f"CREATE TABLE public.pgmigrations ({columns})".encode())
    with pytest.raises(OpsError, match=r"public\.pgmigrations was not looked at"):
        newest.migration(connection)


def test_a_huge_table_of_migrations_keeps_nobody_from_a_backup(
    database: Target, connection: Connection, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(newest, "LIMIT_BYTES", 1 << 20)
    connection.execute(b"CREATE TABLE public.pgmigrations (id int, name text)")
    connection.execute(
        b"INSERT INTO public.pgmigrations SELECT n, repeat('x', 90) FROM generate_series(1, 30000) n"
    )
    with pytest.raises(OpsError, match="it takes more than 5 s or 1 MB"):
        newest.migration(connection)
    taken = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    assert (taken.manifest.migration_head, taken.manifest.rows) == (None, 30000)


# What an old server can't refuse ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "cure"),
    [("13.13 (Debian 13.13-1)", "13.16"), ("15.6", "15.8"), ("16.2", "16.4"), ("11.2", "the newest")],
)
def test_a_server_that_cannot_refuse_views_is_named_with_the_update(version: str, cure: str) -> None:
    (said,) = survey.outdated(version, can_refuse_views=False)
    assert said.startswith(f"on PostgreSQL {version} whoever owns a sequence")
    assert said.endswith(f"update the server to {cure}")
    assert survey.outdated(version, can_refuse_views=True) == ()


def test_a_server_of_today_is_not_warned_of(sample: Target, tmp_path: Path) -> None:
    taken = backups.take(sample, tmp_path / "backups", site="test", private=tmp_path / "private")
    assert not [warning for warning in taken.manifest.warnings if "update the server" in warning]
