"""Notes in the comments of databases: names that fit, notes that read back, and nobody else's comment taken for one."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops.postgres import marks, session
from polyladder_ops.postgres.marks import Mark
from tests.conftest import run

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

AT = datetime(2026, 1, 5, 2, 3, 11, tzinfo=UTC)
MARK = Mark(
    kind="aside",
    live="polyladder",
    at=AT,
    by="anna@laptop",
    backup="polyladder_20260105_020000",
    migration_head="0042_decks",
    comment='PolyLadder\'s "own" comment\n\\ with two lines',
    was_open=False,
)

# Names ---------------------------------------------------------------------------------------------------------------


def test_a_set_aside_database_is_named_after_the_live_one_and_the_time_in_utc() -> None:
    berlin = AT.astimezone(timezone(timedelta(hours=1)))
    assert marks.name_aside("polyladder", berlin, frozenset()) == "polyladder_aside_20260105_020311"


def test_a_name_that_is_taken_gets_a_number() -> None:
    first = marks.name_aside("x", AT, frozenset())
    second = marks.name_aside("x", AT, frozenset({first}))
    assert second == f"{first}_2"
    assert marks.name_aside("x", AT, frozenset({first, second})) == f"{first}_3"


@given(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1), st.integers(0, 12)
)
def test_a_name_fits_into_63_bytes_is_cut_between_characters_and_is_free(live: str, more: int) -> None:
    taken: frozenset[str] = frozenset()
    for _ in range(more):
        taken |= {marks.name_aside(live, AT, taken)}
    assert len(taken) == more
    name = marks.name_aside(live, AT, taken)
    head, _, ending = name.rpartition("_aside_")
    assert name not in taken
    assert len(name.encode()) <= 63
    assert ending.startswith("20260105_020311")
    assert live.startswith(head)
    assert head == live or len(name.encode()) > 63 - 4  # no character more would have fitted


def test_two_long_names_that_begin_alike_get_two_names(server: Server) -> None:
    """The server cuts what is longer than 63 bytes without a word."""
    long = "ä" * 31
    name = marks.name_aside(long, AT, frozenset())
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    there = name in session.database_sizes(server.target())
    run(server.target(), "DROP DATABASE %I", name)
    assert there
    assert marks.name_aside(long + "b", AT, frozenset({name})) != name


# Notes ---------------------------------------------------------------------------------------------------------------


@given(st.builds(Mark, kind=st.sampled_from(("fenced", "aside")), live=st.text(), at=st.datetimes(timezones=st.just(UTC)), by=st.text(),
                 backup=st.text(), migration_head=st.none() | st.text(), comment=st.text(), was_open=st.booleans()))  # fmt: skip
def test_a_note_reads_back_as_it_was_written(mark: Mark) -> None:
    assert marks.parse(mark.text) == mark
    assert marks.inner(mark.text) == mark.comment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "PolyLadder's practice data",
        "polyladder-ops is what restores this",
        "polyladder-ops {",
        "polyladder-ops {}",
        "polyladder-ops []",
        'polyladder-ops {"kind": "aside", "live": "x"}',
        MARK.text.replace('"aside"', '"elsewhere"'),
        MARK.text.replace("2026-01-05T02:03:11Z", "2026-01-05T02:03:11"),
        f" {MARK.text}",
        MARK.text[:-1],
    ],
)
def test_any_other_comment_is_no_note_and_stays_as_it_is(text: str) -> None:
    assert marks.parse(text) is None
    assert marks.inner(text) == text


def test_a_note_of_a_newer_version_is_still_one() -> None:
    assert marks.parse(MARK.text[:-1] + ', "more": 1}') == MARK


def test_a_note_is_found_with_its_database_and_taken_off_again(server: Server, database: Target) -> None:
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.comment(database.database, MARK.text))
        found = {m.name: m for m in marks.find(connection)}[database.database]
        assert (found.mark, found.is_open) == (MARK, True)
        assert found.size_bytes is not None
        assert found.size_bytes > 1_000_000
        connection.execute(marks.comment(database.database, ""))
        assert database.database not in {m.name for m in marks.find(connection)}
        row = connection.execute(
            "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [database.database],
        ).fetchone()
    assert row == (None,)


def test_a_comment_that_only_looks_like_a_note_is_not_found(server: Server, database: Target) -> None:
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.comment(database.database, "polyladder-ops {"))
        assert database.database not in {m.name for m in marks.find(connection)}


def test_who_may_not_ask_for_a_size_gets_the_note_without_it(server: Server, database: Target) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "marks_poor")
    run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", database.database)
    poor = type(database).of(**{**server.target().parameters, "user": "marks_poor", "password": "x"})
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.comment(database.database, MARK.text))
    with closing(session.connect(poor)) as connection:
        (found,) = [m for m in marks.find(connection) if m.name == database.database]
    run(server.target(), "DROP ROLE %I", "marks_poor")
    assert (found.mark, found.size_bytes) == (MARK, None)
