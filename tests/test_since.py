"""What was written since a restore: told by the server's counters and catalogs, in time, and never "nothing" when it is not so."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import psycopg
import pytest

from polyladder_ops.postgres import marks, session, since
from polyladder_ops.postgres.marks import Mark
from polyladder_ops.postgres.since import Since
from tests import majors
from tests.conftest import run
from tests.test_limits import says

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

CONTENTS = """
CREATE TABLE public.deck (id serial PRIMARY KEY, title text);
INSERT INTO public.deck (title) SELECT 'deck ' || n FROM generate_series(1, 500) n;
CREATE TABLE public.old (a int); INSERT INTO public.old VALUES (1);
CREATE VIEW public.seen AS SELECT title FROM public.deck;
CREATE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE ROLE reader;
SELECT lo_from_bytea(4711, 'bytes');
CREATE TABLE public.card (deck int REFERENCES public.deck);
CREATE FOREIGN DATA WRAPPER far; CREATE SERVER away FOREIGN DATA WRAPPER far;
CREATE OPERATOR FAMILY public.family USING btree;
CREATE TEXT SEARCH CONFIGURATION public.words (COPY = pg_catalog.simple);
CREATE TYPE public.color AS ENUM ('red');
COMMENT ON FUNCTION public.one() IS 'one';
"""


@dataclass
class Live:
    """A database that has just gone live, and the server's maintenance database."""

    server: Target
    target: Target
    base: since.Baseline
    xid: str
    known: dict[str, tuple[int, bool]] = field(default_factory=lambda: {"public.deck_id_seq": (500, True)})

    def ask(self) -> Since:
        return since.ask(self.target, self.base, self.xid, self.known)

    def tell(self, *statements: str, alone: bool = True) -> None:
        """Say this in a session that is gone from the server when it returns, so that all of it is counted."""
        with closing(session.connect(self.target)) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        if alone:
            self.wait_until_alone()

    def wait_until_alone(self) -> None:
        deadline = time.monotonic() + 60
        question = "SELECT count(*) FROM pg_stat_activity WHERE datname = %s AND usesysid IS NOT NULL"
        with closing(session.connect(self.server)) as connection:
            while connection.execute(question, [self.target.database]).fetchone() != (0,):
                assert time.monotonic() < deadline
                time.sleep(0.05)

    def until(self, is_told: Callable[[Since], bool]) -> Since:
        """Ask until it is told so: a collector of statistics (before 15) takes its time."""
        deadline = time.monotonic() + 60
        while not is_told(found := self.ask()):
            assert time.monotonic() < deadline, found
            time.sleep(0.2)
        return found


@pytest.fixture(scope="module", params=[13, 15, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as target:
        run(target, "CREATE DATABASE %I", "origin")
        with closing(session.connect(target.with_database("origin"))) as connection:
            connection.execute(CONTENTS.encode())
        run(target, "CREATE DATABASE %I", "aside")
        yield target


@pytest.fixture
def live(cluster: Target) -> Iterator[Live]:
    run(cluster, "CREATE DATABASE %I TEMPLATE %I", "live", "origin")
    target = cluster.with_database("live")
    with closing(session.connect(target)) as connection:
        base = since.baseline(connection)
    assert base is not None
    assert base.counted == {}
    mark = Mark(
        kind="aside", live="live", at=datetime.now(UTC), by="x", backup="b", name="aside", baseline=base
    )
    made = Live(cluster, target, base, "")
    made.wait_until_alone()
    with closing(session.connect(cluster)) as connection:
        connection.execute(marks.put("aside", mark))
        (found,) = marks.find(connection)
    assert found.mark.baseline == base
    made.xid = found.xid
    yield made
    run(cluster, "DROP DATABASE %I WITH (FORCE)", "live")


def elsewhere(live: Live) -> None:
    """Let the server give out a transaction in another database, as somebody who writes there does."""
    run(live.server, "SELECT pg_current_xact_id()")


def told(found: Since) -> list[str]:
    return [str(change) for change in found.changes]


def test_nothing_is_nothing(live: Live) -> None:
    assert live.ask() == Since()
    live.tell("SELECT count(*) FROM public.deck", "CREATE TEMP TABLE t (a int)", "SET work_mem = '8MB'")
    elsewhere(live)
    assert live.ask() == Since()


WRITTEN = {
    "rows": ("INSERT INTO public.deck (title) VALUES ('a'), ('b')", "table public.deck: rows since, kept or rolled back: 2 inserted, 0 updated, 0 deleted"),
    "changed": ("UPDATE public.old SET a = 2", "table public.old: rows since, kept or rolled back: 0 inserted, 1 updated, 0 deleted"),
    "deleted": ("DELETE FROM public.old", "table public.old: rows since, kept or rolled back: 0 inserted, 0 updated, 1 deleted"),
    "emptied": ("TRUNCATE public.old", "table public.old: it was changed, emptied or stored anew since"),
    "a table": ("CREATE TABLE public.made (a int)", "table public.made: it was made since"),
    "a column": ("ALTER TABLE public.old ADD COLUMN b int", "table column public.old.b: it was made or changed since"),
    "a column less": ("ALTER TABLE public.deck DROP COLUMN title CASCADE", "table public.deck: it was made or changed since"),
    "a view": ("CREATE VIEW public.v AS SELECT 1 AS a", "view public.v: it was made since"),
    "another view": ("CREATE OR REPLACE VIEW public.seen AS SELECT title || 'x' AS title FROM public.deck", "view public.seen: it was made or changed since"),
    "a function": ("CREATE FUNCTION public.f() RETURNS int LANGUAGE sql AS 'SELECT 1'", "function public.f(): it was made or changed since"),
    "another function": ("CREATE OR REPLACE FUNCTION public.one() RETURNS int LANGUAGE sql AS 'SELECT 2'", "function public.one(): it was made or changed since"),
    "a sequence": ("CREATE SEQUENCE public.s", "sequence public.s: it was made since"),
    "counted on": ("SELECT nextval('public.deck_id_seq')", "sequence public.deck_id_seq: it stands at 501 (called) instead of 500 (called)"),
    "its next number instead of its last": ("SELECT setval('public.deck_id_seq', 500, false)", "sequence public.deck_id_seq: it stands at 500 (not called) instead of 500 (called)"),
    "a large object": ("SELECT lo_from_bytea(4712, 'more')", "large object 4712: it was made or changed since"),
    "its bytes": ("SELECT lo_put(4711, 0, 'other')", "large objects : written since, kept or rolled back"),
    "an index": ("CREATE INDEX i ON public.deck (title)", "index public.i: it was made since"),
    "a comment": ("COMMENT ON TABLE public.old IS 'new'", "table public.old: it was made or changed since"),
    "a grant": ("GRANT SELECT ON public.old TO reader", "table public.old: it was changed, emptied or stored anew since"),
    "a schema": ("CREATE SCHEMA more", "schema more: it was made or changed since"),
    "a type": ("CREATE TYPE public.kind AS ENUM ('a')", "type public.kind: it was made or changed since"),
    "a table gone": ("DROP TABLE public.old", "objects that are gone: 1 fewer than then"),
    "a function gone": ("DROP FUNCTION public.one()", "objects that are gone: 1 fewer than then"),
    "its own settings": ("ALTER DATABASE live SET work_mem = '8MB'", "database live: settings of it, or of a role in it, were changed since"),
    "a role's settings": ("ALTER ROLE reader IN DATABASE live SET work_mem = '8MB'", "database live: settings of it, or of a role in it, were changed since"),
    "its own grants": ("GRANT CREATE ON DATABASE live TO reader", "database live: its owner, privileges or limits were changed since"),
    "its own comment": ("COMMENT ON DATABASE live IS 'new'", "database live: its comment was changed since"),
    "a comment gone": ("COMMENT ON FUNCTION public.one() IS NULL", "comments that are gone: 1 fewer than then"),
    "a comment on a large object": ("COMMENT ON LARGE OBJECT 4711 IS 'x'", "large object 4711: it was made or changed since"),
    "a grant on a large object": ("GRANT SELECT ON LARGE OBJECT 4711 TO reader", "large object 4711: it was made or changed since"),
    "a large object gone": ("SELECT lo_unlink(4711)", "objects that are gone: 1 fewer than then"),
    "a grant on a row type": ("GRANT USAGE ON TYPE public.old TO reader", "table public.old: it was made or changed since"),
    "a foreign key's triggers": ("ALTER TABLE public.card DISABLE TRIGGER ALL", "table constraint card_deck_fkey on public.card: it was made or changed since"),
    "a user mapping": ("CREATE USER MAPPING FOR reader SERVER away", "user mapping reader on server away: it was made or changed since"),
    "a member of an extension": ("ALTER EXTENSION plpgsql ADD FUNCTION public.one()", "function public.one(): it was made or changed since"),
    "a member of a family": ("ALTER OPERATOR FAMILY public.family USING btree ADD OPERATOR 1 < (int4, int4)", "operator family public.family USING btree: it was made or changed since"),
    "a mapping of words": ("ALTER TEXT SEARCH CONFIGURATION public.words ALTER MAPPING FOR asciiword WITH english_stem", "text search configuration public.words: it was made or changed since"),
    "a domain over an array": ("CREATE DOMAIN public.list AS int[]", "type public.list: it was made or changed since"),
    "a statistics object": ("CREATE STATISTICS public.stats ON id, title FROM public.deck", "statistics object public.stats: it was made or changed since"),
    "a publication": ("CREATE PUBLICATION public FOR TABLE public.old", "publication public: it was made or changed since"),
    "an event trigger": ("CREATE FUNCTION public.e() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'; CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION public.e()", "event trigger e: it was made or changed since"),
    "privileges to come": ("ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO reader", "default acl for role postgres in schema public on tables: it was made or changed since"),
    "a type gone while something else is made": ("DROP TYPE public.color; CREATE VIEW public.v AS SELECT 1 AS a", "objects that are gone: 1 fewer than then"),
    "stored anew": ("VACUUM FULL public.old", "table public.old: it was changed, emptied or stored anew since"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRITTEN)
def test_what_was_written_is_told(what: str, live: Live) -> None:
    statement, sentence = WRITTEN[what]
    live.tell(statement)
    found = live.until(lambda found: bool(found.changes))
    if sentence not in told(found):  # of two things that a statement does, one may be told before the other
        found = live.until(lambda found: sentence in told(found))
    assert sentence in told(found)


def test_rows_of_a_transaction_that_was_rolled_back_are_not_told_as_kept(live: Live) -> None:
    """The server counts them, too, and nothing tells them apart later."""
    live.tell("BEGIN", "INSERT INTO public.old VALUES (2), (3)", "ROLLBACK")
    elsewhere(live)
    found = live.until(lambda found: bool(found.changes))
    assert told(found) == [
        "table public.old: rows since, kept or rolled back: 2 inserted, 0 updated, 0 deleted"
    ]


def test_what_is_temporary_hides_nothing_that_was_dropped(live: Live) -> None:
    with closing(session.connect(live.target)) as holder:
        holder.execute("CREATE TYPE pg_temp.mood AS ENUM ('well'); CREATE TEMP TABLE t (a int CHECK (a > 0))")
        live.tell("DROP TYPE public.color", alone=False)
        assert "objects that are gone: 1 fewer than then" in told(live.ask())


def test_what_was_dropped_where_as_much_was_made_is_not_told(live: Live) -> None:
    says("and not even that where as many of its kind were made")
    live.tell(
        "DROP FUNCTION public.one(); CREATE FUNCTION public.two() RETURNS int LANGUAGE sql AS 'SELECT 2'"
    )
    found = told(live.ask())
    assert "function public.two(): it was made or changed since" in found
    assert not [one for one in found if one.startswith("objects that are gone")]


def test_what_is_the_servers_is_not_the_databases(live: Live) -> None:
    says("Roles with their settings and memberships, and tablespaces, are the server's")
    run(live.server, "ALTER ROLE reader SET work_mem = '8MB'")
    run(live.server, "GRANT pg_monitor TO reader")
    assert live.ask() == Since()
    run(live.server, "ALTER ROLE reader RESET ALL")


def test_a_setting_that_was_taken_back_is_told(live: Live) -> None:
    live.tell("ALTER DATABASE live SET work_mem = '8MB'")
    with closing(session.connect(live.target)) as connection:
        base = since.baseline(connection)
        (xid,) = connection.execute("SELECT pg_current_xact_id()::xid::text").fetchone() or ("",)
    assert base is not None
    live.base, live.xid = base, xid
    live.wait_until_alone()
    live.tell("ALTER DATABASE live RESET work_mem")
    assert "settings that are gone: 1 fewer than then" in told(live.ask())


def test_a_subscription_is_told(live: Live) -> None:
    live.tell("CREATE SUBSCRIPTION s CONNECTION 'dbname=live' PUBLICATION p WITH (connect = false)")
    try:
        assert "subscription s: it was made or changed since" in told(live.ask())
    finally:
        live.tell("ALTER SUBSCRIPTION s SET (slot_name = NONE)", "DROP SUBSCRIPTION s")


def test_more_transactions_than_a_row_can_tell_apart_are_not_nothing(live: Live) -> None:
    assert live.base.next_xid is not None
    live.base = live.base.model_copy(update={"next_xid": live.base.next_xid - 2**31})
    assert live.ask().unsure == "more transactions came since than rows of its catalogs can tell apart"


def test_an_older_versions_note_does_not_tell_what_was_dropped(live: Live) -> None:
    live.base = live.base.model_copy(update={"kinds": None, "next_xid": None})
    live.tell("DROP TABLE public.old")
    assert "what of it could be dropped" in live.ask().unsure


def test_a_sequence_without_anything_to_compare_with_is_told_without_its_name(live: Live) -> None:
    live.tell("SELECT nextval('public.deck_id_seq')")
    live.known = {}
    assert "sequences : they are others, or stand elsewhere" in told(live.ask())


def test_no_row_of_any_table_is_read_for_it(live: Live) -> None:
    """An index's and a table's own counters say who has read: nobody, while it is told that rows were written."""
    live.tell("INSERT INTO public.deck (title) VALUES ('a')", "CREATE TABLE public.made (a int)")
    read = (
        "SELECT coalesce(sum(seq_tup_read), 0) + coalesce(sum(idx_tup_fetch), 0) + coalesce(sum(seq_scan), 0)"
        " + coalesce(sum(idx_scan), 0) FROM pg_stat_user_tables"
    )

    def scans() -> Any:
        with closing(session.connect(live.target)) as connection:
            return connection.execute(read.encode()).fetchone()

    live.until(lambda found: any("1 inserted" in one for one in told(found)))
    live.wait_until_alone()
    before = scans()
    for _ in range(3):
        assert live.ask().changes
    live.wait_until_alone()
    live.tell("SELECT count(*) FROM public.old")  # so that one sees that it would be counted
    deadline = time.monotonic() + 60
    while (now := scans()) == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    assert now[0] - before[0] == 2  # a scan, and the row that it read


def test_a_question_that_takes_too_long_is_given_up_and_said(live: Live) -> None:
    elsewhere(live)
    with closing(session.connect(live.target)) as holder, holder.transaction():
        holder.execute("LOCK TABLE pg_catalog.pg_policy IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        found = live.ask()
        took = time.monotonic() - began
    assert found.unsure.startswith("it can't be told in time: ")
    assert took < since.LIMIT_S + 5  # its deadlines are the server's and ours, and this machine may be busy


def test_a_locked_table_does_not_keep_from_it(live: Live) -> None:
    live.tell("INSERT INTO public.deck (title) VALUES ('a')")
    live.until(lambda found: any("1 inserted" in one for one in told(found)))
    with closing(session.connect(live.target)) as holder, holder.transaction():
        holder.execute("LOCK TABLE public.deck, public.old IN ACCESS EXCLUSIVE MODE")
        assert "table public.deck: rows since, kept or rolled back: 1 inserted, 0 updated, 0 deleted" in told(
            live.ask()
        )


# When it can't be told ------------------------------------------------------------------------------------------------


def test_counters_that_were_set_back_since_tell_nothing(live: Live) -> None:
    live.tell("INSERT INTO public.deck (title) VALUES ('a')", "SELECT pg_stat_reset()")
    live.until(lambda found: found.unsure == "the server's counters were set back since")


@pytest.mark.parametrize(
    "statement", ["ALTER DATABASE live SET track_counts = off", "ALTER ROLE reader SET track_counts = off"]
)
def test_writes_of_who_is_not_counted_are_not_nothing(statement: str, live: Live) -> None:
    with ExitStack() as stack:
        stack.callback(run, live.server, "ALTER ROLE reader RESET ALL")
        run(live.server, statement)
        live.tell("INSERT INTO public.old VALUES (2)")
        assert live.ask().unsure == "track_counts is off, at least for some"


def test_rows_of_a_session_that_switches_counting_off_for_itself_are_not_seen(live: Live) -> None:
    says("session that switches `track_counts` off for itself is not seen by what an undo tells")
    live.tell("SET track_counts = off", "INSERT INTO public.old VALUES (2)")
    assert live.ask() == Since()


def test_what_a_session_has_not_reported_yet_is_not_nothing(live: Live) -> None:
    """A session tells the server what it did at most once a second, and when it goes."""
    words = {name: value for name, value in live.target.parameters.items() if name != "passfile"}
    with closing(psycopg.connect(**words, autocommit=True)) as writer:  # type: ignore[arg-type]
        for number in range(3):
            writer.execute("INSERT INTO public.old VALUES (%s)", [number])
        found = live.ask()
        assert found.unsure == "sessions are there that have perhaps not told the server yet what they wrote"
    live.wait_until_alone()
    assert told(live.until(lambda found: any("3 inserted" in one for one in told(found))))


def test_counters_that_could_not_be_set_back_are_compared_with_what_they_were(cluster: Target) -> None:
    """Who is no superuser may not: then the load itself is counted, and only what comes on top is new."""
    run(cluster, "CREATE ROLE %I LOGIN PASSWORD 'x'", "poor")
    run(cluster, "CREATE DATABASE %I OWNER %I", "poors", "poor")
    parameters = {**cluster.parameters, "user": "poor", "password": "x", "dbname": "poors"}
    target = cluster.of(**parameters)
    live = Live(cluster, target, since.Baseline(oid=0, reset=None, counted={}, entries=0, sequences=""), "")
    live.tell(
        "CREATE SCHEMA mine; CREATE TABLE mine.t (a int)", "INSERT INTO mine.t SELECT generate_series(1, 9)"
    )
    deadline = time.monotonic() + 60
    while True:
        with closing(session.connect(target)) as connection:
            base = since.baseline(connection)
        live.wait_until_alone()
        if base is not None and list(base.counted.values()) == [9]:
            break
        assert time.monotonic() < deadline
    with closing(session.connect(target)) as connection:
        (live.xid,) = connection.execute("SELECT pg_current_xact_id()::xid::text").fetchone() or ("",)
    live.base = base
    live.wait_until_alone()
    assert live.ask() == Since()
    elsewhere(live)
    assert live.ask() == Since()
    live.tell("INSERT INTO mine.t VALUES (10)")
    found = live.until(lambda found: bool(found.changes))
    assert told(found) == ["table mine.t: 1 row since, kept or rolled back"]
    says("Subscriptions and user mappings are looked at only if our role may read them (said).")
    assert found.unread == ("user mappings", "subscriptions")
    run(cluster, "DROP DATABASE %I", "poors")
    run(cluster, "DROP ROLE %I", "poor")
