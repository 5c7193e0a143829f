"""Notes in the comments of databases: names that fit, notes that read back, and nobody else's comment taken for one."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta, timezone
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from psycopg import errors

from polyladder_ops.postgres import facts, marks, properties, session, switch
from polyladder_ops.postgres.marks import Mark, Marked
from tests import majors
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable

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


SETTINGS = """
SELECT setconfig FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase
WHERE d.datname = %s AND s.setrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
"""


@pytest.mark.parametrize("own", [None, "", "my app's ü"])
def test_a_mark_is_found_with_its_database_and_taken_off_again(
    own: str | None, server: Server, database: Target
) -> None:
    """What our role had set there itself comes back, and is what a backup of the database keeps meanwhile."""
    name, mark = database.database, MARK.model_copy(update={"own": own})
    wanted = () if own is None else (("postgres", "application_name", own),)
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.put(name, mark))
        (found,) = [m for m in marks.find(connection) if m.name == name]
        assert (found.mark, found.is_open, found.role, found.owner) == (mark, True, "postgres", "postgres")
        assert found.size_bytes is not None
        assert found.size_bytes > 1_000_000
        assert properties.read(connection, name).settings == wanted
        again = switch.note_of(connection, name, "tests", "b", None)
        assert again.own == own
        connection.execute(marks.take_off(found, name))
        assert name not in {m.name for m in marks.find(connection)}
        row = connection.execute(SETTINGS, [name]).fetchone()
    assert row == (None if own is None else ([f"application_name={own}"],))


@given(
    st.text(),
    st.text(),
    st.none() | st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
)
def test_a_mark_reads_back_as_it_was_written(live: str, by: str, own: str | None) -> None:
    mark = MARK.model_copy(update={"live": live, "by": by, "own": own})
    assert mark.setting.isascii()
    assert marks.is_mark("application_name", mark.setting)
    assert not marks.is_mark("search_path", mark.setting)
    assert marks.own_setting(mark.setting) == own


def test_a_note_in_a_comment_is_a_claim_until_it_is_marked(server: Server, database: Target) -> None:
    name = database.database
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.comment(name, MARK.text))
        (found,) = [m for m in marks.claims(connection) if m.name == name]
        assert (found.mark, found.is_claim, found.use) == (MARK, True, "")
        assert name not in {m.name for m in marks.find(connection)}
        switch.open_to_dump(connection, found)
        assert name not in {m.name for m in marks.claims(connection)}
        (marked,) = [m for m in marks.find(connection) if m.name == name]
        assert (marked.is_claim, marked.use, marked.mark.is_dumped) == (False, "", True)
        assert switch.comment_of(connection, name) == MARK.comment


def test_a_comment_that_only_looks_like_a_note_is_not_found(server: Server, database: Target) -> None:
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.comment(database.database, "polyladder-ops {"))
        assert database.database not in {m.name for m in marks.claims(connection)}


# Whose it is ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("major", majors.SERVERS)
def test_a_mark_is_believed_on_our_own_role_and_on_a_superusers_only(
    major: int, need: Callable[[object, str], None]
) -> None:
    """Any role may mark any database for itself; it tells nobody else anything."""
    need(majors.programs(major), f"PostgreSQL {major} (python -m tests.majors)")
    with majors.running(major) as target:
        run(target, "CREATE DATABASE %I", "marked")
        for name in ("mal", "ops"):
            run(target, "CREATE ROLE %I LOGIN PASSWORD 'x'", name)
        as_role = {
            name: target.of(**{**target.parameters, "user": name, "password": "x"}) for name in ("mal", "ops")
        }
        believers: dict[str, list[str]] = {}
        for writer, who in (("mal", as_role["mal"]), ("ops", as_role["ops"]), ("postgres", target)):
            with closing(session.connect(who)) as connection:
                connection.execute(marks.put("marked", MARK))
            believers[writer] = []
            for reader, other in (*as_role.items(), ("postgres", target)):
                with closing(session.connect(other)) as connection:
                    found = marks.find(connection)
                    believers[writer] += [reader] if [m for m in found if m.role == writer] else []
                    if writer == reader:
                        connection.execute(marks.take_off(found[0], "marked"))
                        connection.execute(marks.put("marked", MARK))
            with closing(session.connect(who)) as connection:
                connection.execute("ALTER ROLE CURRENT_USER IN DATABASE marked RESET ALL")
        assert believers == {"mal": ["mal"], "ops": ["ops"], "postgres": ["mal", "ops", "postgres"]}
        run(target, "DROP DATABASE %I", "marked")


@pytest.mark.parametrize("major", majors.SERVERS)
def test_on_15_and_older_who_has_createrole_writes_the_mark_of_a_role_that_is_no_superuser(
    major: int, need: Callable[[object, str], None]
) -> None:
    """README names that among its limits."""
    need(majors.programs(major), f"PostgreSQL {major} (python -m tests.majors)")
    with majors.running(major) as target:
        for name, rights in (("ours", ""), ("mal", "CREATEROLE")):
            run(target, f"CREATE ROLE %I LOGIN {rights} PASSWORD 'x'", name)
        mal = target.of(**{**target.parameters, "user": "mal", "password": "x"})
        with closing(session.connect(mal)) as connection:
            with pytest.raises(errors.InsufficientPrivilege):
                connection.execute(marks.put("postgres", MARK, "postgres"))
            if major < 16:
                connection.execute(marks.put("postgres", MARK, "ours"))
            else:
                with pytest.raises(errors.InsufficientPrivilege):
                    connection.execute(marks.put("postgres", MARK, "ours"))


def test_who_may_not_ask_for_a_size_gets_the_note_without_it(server: Server, database: Target) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "marks_poor")
    run(server.target(), "REVOKE CONNECT ON DATABASE %I FROM PUBLIC", database.database)
    poor = type(database).of(**{**server.target().parameters, "user": "marks_poor", "password": "x"})
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.put(database.database, MARK))
    with closing(session.connect(poor)) as connection:
        (found,) = [m for m in marks.find(connection) if m.name == database.database]
    run(server.target(), "DROP ROLE %I", "marks_poor")
    assert (found.mark, found.size_bytes) == (MARK, None)


def test_a_session_that_bears_the_mark_as_its_name_is_somebody_and_is_told_without_it(
    server: Server, database: Target
) -> None:
    """Who gives himself no name has the mark's in such a database; ours have one of their own."""
    words = {name: value for name, value in database.parameters.items() if name != "application_name"}
    with closing(session.connect(server.target())) as connection:
        connection.execute(marks.put(database.database, MARK))
        try:
            with (
                closing(session.connect(database)),
                closing(psycopg.connect(**words)) as app,  # type: ignore[arg-type]
            ):
                app.rollback()
                (found,) = (m for m in marks.find(connection) if m.name == database.database)
                assert found.others == 1
                assert session.users_of(connection, database.database) == ("postgres (no name)",)
                there = facts.read_server(connection, server.target(), database.database).sessions
                assert [one.application for one in there if one.pid == app.info.backend_pid] == [""]
        finally:
            connection.execute(marks.take_off(found, database.database))


def set_aside(name: str, day: int, *, serial: int | None = None, xid: str = "", oid: int = 7) -> Marked:
    mark = MARK.model_copy(update={"at": AT + timedelta(days=day), "serial": serial, "oid": 7})
    return Marked(name=name, oid=oid, is_open=False, size_bytes=None, mark=mark, role="x", xid=xid)


ORDERS = {
    "clocks that were right": [set_aside("new", 2, serial=9), set_aside("old", 1, serial=5)],
    "a clock that was ahead": [set_aside("new", 1, serial=9), set_aside("old", 2, serial=5)],
    "beyond 32 bits": [set_aside("new", 1, serial=2**32 + 3, xid="4"), set_aside("old", 2, serial=2**32 - 3, xid="9")],
    "older versions': by time": [set_aside("new", 2, xid="5"), set_aside("old", 1, xid="9")],
    "an older version's among them": [set_aside("new", 3, serial=9), set_aside("older", 2, xid="11"), set_aside("old", 1, serial=5)],
    "an older version's, ahead, written before": [set_aside("new", 1, serial=9), set_aside("old", 2, xid="8")],
    "an older version's, ahead, before the count began anew": [
        set_aside("new", 1, serial=2**32 + 9), set_aside("old", 2, xid=str(2**32 - 8))
    ],
    "a claim": [set_aside("new", 2), set_aside("old", 1, serial=5)],
    "one that came from another server": [set_aside("new", 2, serial=5), set_aside("old", 1, serial=9, oid=8)],
}  # fmt: skip


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_the_newest_is_who_was_set_aside_last_as_far_as_the_server_knows(order: list[Marked]) -> None:
    assert [*marks.newest_first(order)] == order
    assert [*marks.newest_first(order[::-1])] == order
