"""One dump over several connections: nothing comes before what it needs, nothing is lost, one failure stops all."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.contents import Contents, Ledger, TableData
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.loader import LoadError
from polyladder_ops.postgres.parallel import Crew, shares
from tests.conftest import run
from tests.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


def contents_of(whole: bytes) -> Contents:
    ledger = Ledger()
    lexer = Lexer(ledger)
    lexer.feed(whole)
    lexer.close()
    return ledger.contents


def load(
    target: Target, *pieces: bytes, jobs: int = 3, meanwhile: Callable[[int], None] | None = None
) -> Crew:
    """Load a dump of these pieces; `meanwhile` is called by each reader before each piece of it."""
    whole = dump(*pieces)

    def read(sink: Callable[[bytes], None], number: int) -> None:
        for at in range(0, len(whole), 1 << 14):
            if meanwhile:
                meanwhile(number)
            sink(whole[at : at + (1 << 14)])

    with ExitStack() as opened:
        connections = [opened.enter_context(closing(session.connect(target))) for _ in range(jobs)]
        crew = Crew(connections, contents_of(whole), wrap=lambda handler, _number: handler)
        with session.translated("the server failed"):
            crew.run(read)
        return crew


def values(target: Target, query: str) -> list[object]:
    with closing(session.connect(target)) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def tables(number: int, *, rows: int = 5) -> bytes:
    lines = [b"CREATE TABLE public.t%d (a integer, b text);" % n for n in range(number)]
    for n in range(number):
        lines += [
            b"COPY public.t%d (a, b) FROM stdin;" % n,
            *(b"%d\tx%d" % (i, n) for i in range(rows)),
            b"\\.",
        ]
    return b"\n".join(lines)


def builds(number: int) -> bytes:
    lines = []
    for n in range(number):
        lines += [
            b"ALTER TABLE ONLY public.t%d ADD CONSTRAINT t%d_pkey PRIMARY KEY (a);" % (n, n),
            b"COMMENT ON CONSTRAINT t%d_pkey ON public.t%d IS 'key';" % (n, n),
            b"CREATE INDEX t%d_b ON public.t%d USING btree (b);" % (n, n),
            b"CREATE INDEX t%d_lower ON public.t%d USING btree (lower(b));" % (n, n),
        ]
    return b"\n".join(lines)


# Who does what -------------------------------------------------------------------------------------------------------


def test_the_largest_tables_go_to_whoever_has_least() -> None:
    sizes = {"a": 1_000_000, "b": 9_000_000, "c": 5_000_000, "d": 4_500_000}
    contents = Contents(
        tables=tuple(TableData(name, "", 1, size, "", has_huge_rows=False) for name, size in sizes.items())
    )
    assert shares(contents, 2) == {"b": 0, "c": 1, "d": 1, "a": 0}
    assert set(shares(contents, 1).values()) == {0}


def test_every_connection_loads_its_share_and_all_of_it_is_there(database: Target) -> None:
    crew = load(database, tables(12), builds(12))
    assert sorted(set(crew.owners.values())) == [0, 1, 2]
    for n in range(12):
        assert values(database, f"SELECT count(*) FROM public.t{n} WHERE b = 'x{n}'") == [5]
    assert values(database, "SELECT count(*) FROM pg_index i JOIN pg_class c ON c.oid = indrelid"
                  " WHERE c.relnamespace = 'public'::regnamespace AND indisvalid") == [36]  # fmt: skip
    assert values(database, "SELECT count(*) FROM pg_description WHERE description = 'key'") == [12]
    assert {t.name for t in crew.contents.tables} == {f"public.t{n}" for n in range(12)}
    assert crew.contents == contents_of(dump(tables(12), builds(12))) or sorted(
        crew.contents.tables, key=lambda t: t.name
    ) == sorted(contents_of(dump(tables(12))).tables, key=lambda t: t.name)


# The dump's order ----------------------------------------------------------------------------------------------------

LOOKUP = b"""
SET check_function_bodies = false;
CREATE FUNCTION public.is_known(text) RETURNS boolean LANGUAGE sql IMMUTABLE
    AS $_$ SELECT EXISTS (SELECT FROM public.known WHERE name = $1) $_$;
CREATE TABLE public.large (name text);
CREATE TABLE public.known (name text);
CREATE TABLE public.judged (name text, CONSTRAINT c CHECK (public.is_known(name)));
"""


def test_rows_that_a_function_judges_by_another_table_come_after_that_table(database: Target) -> None:
    """Another connection than the one that would have the judged table is at the other one still, and slow."""
    many = b"".join(b"n%d\n" % n for n in range(100_000))
    rows = [
        b"COPY public.%b (name) FROM stdin;\n%b\\.\n" % table
        for table in ((b"large", many * 2), (b"known", many), (b"judged", b"n99999\n"))
    ]
    load(database, LOOKUP, *rows, meanwhile=lambda number: time.sleep(0.005 if number == 1 else 0))
    assert values(database, "SELECT name FROM public.judged") == ["n99999"]


def test_a_statement_between_rows_waits_for_those_before_it_and_holds_those_after_it(
    database: Target,
) -> None:
    steps = [b"CREATE TABLE public.counted (n bigint);"]
    for n in range(30):
        steps.append(b"CREATE TABLE public.s%d (a integer);" % n)
        if n:
            count = b"(SELECT count(*) FROM public.s%d) + (SELECT count(*) FROM public.s%d)" % (n - 1, n)
            steps.append(b"INSERT INTO public.counted SELECT %b;" % count)
        steps.append(b"COPY public.s%d (a) FROM stdin;\n%b\\." % (n, b"1\n" * (n + 1)))
    load(database, b"\n".join(steps))
    # Each counts the table before it when its rows are in, and the one after it when they are not.
    assert values(database, "SELECT n FROM public.counted ORDER BY n") == list(range(1, 30))


def test_settings_among_rows_reach_the_session_that_loads_them(database: Target) -> None:
    rows = [b"CREATE TABLE public.d%d (d date);" % n for n in range(9)]
    for n in range(9):
        rows.append(b"SET DateStyle = '%b';" % (b"SQL, DMY" if n % 2 else b"SQL, MDY"))
        rows.append(b"COPY public.d%d (d) FROM stdin;\n01/02/2026\n\\." % n)
    load(database, b"\n".join(rows))
    found = [values(database, f"SELECT d::text FROM public.d{n}") for n in range(4)]
    assert found == [["2026-01-02"], ["2026-02-01"], ["2026-01-02"], ["2026-02-01"]]


def test_a_setting_before_the_rows_may_need_what_was_made_before_it(database: Target) -> None:
    load(
        database,
        b"CREATE ACCESS METHOD other TYPE TABLE HANDLER heap_tableam_handler;",
        b"SET default_table_access_method = other;",
        tables(6),
    )
    assert values(database, "SELECT count(*) FROM public.t5") == [5]


def test_an_index_on_a_function_that_reads_another_table_is_built_when_all_rows_are_in(
    database: Target,
) -> None:
    run(database, "CREATE EXTENSION amcheck SCHEMA public")
    lookup = b"""
CREATE TABLE public.word (a integer);
CREATE TABLE public.z_name (a integer, name text);
CREATE FUNCTION public.name_of(integer) RETURNS text LANGUAGE sql IMMUTABLE
    AS $_$ SELECT name FROM public.z_name WHERE a = $1 $_$;
"""
    words = b"COPY public.word (a) FROM stdin;\n%b\\.\n" % b"".join(b"%d\n" % n for n in range(3000))
    names = b"COPY public.z_name (a, name) FROM stdin;\n%b\\.\n" % b"".join(
        b"%d\tname %d %b\n" % (n, n, b"x" * 2000) for n in range(3000)
    )
    index = b"CREATE INDEX by_name ON public.word USING btree (public.name_of(a));"
    load(database, lookup, words, names, index)
    assert values(database, "SELECT count(*) FROM public.word WHERE public.name_of(a) IS NULL") == [0]
    run(database, "SELECT public.bt_index_check('public.by_name', true)")


def test_a_plain_index_is_built_while_another_table_is_still_coming(database: Target) -> None:
    """The reader of the large table is held until the index on the small one is there."""
    large = b"COPY public.large (a) FROM stdin;\n%b\\.\n" % b"".join(b"%d\n" % n for n in range(40_000))
    small = b"COPY public.small (a) FROM stdin;\n1\n\\.\n"
    seen: list[bool] = []

    def meanwhile(number: int) -> None:
        if number == 0 and len(passed) == 5:  # in the middle of the large table's rows
            seen.append(_appears(database, "SELECT 1 FROM pg_class WHERE relname = 'early'"))
        if number == 0:
            passed.append(number)

    passed: list[int] = []
    definitions = b"CREATE TABLE public.large (a integer);\nCREATE TABLE public.small (a integer);\n"
    index = b"CREATE INDEX early ON public.small USING btree (a);"
    load(database, definitions, large, small, index, jobs=2, meanwhile=meanwhile)
    assert seen == [True]


def _appears(target: Target, query: str) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        if values(target, query):
            return True
        time.sleep(0.02)
    return False


def test_rows_come_frozen_and_all_visible(database: Target) -> None:
    """No hint bits are left to be written by the first reader, no freezing to the first vacuum."""
    run(database, "CREATE EXTENSION pg_visibility SCHEMA public")
    load(database, tables(4, rows=5000))
    for n in range(4):
        filled = f"SELECT count(DISTINCT (ctid::text::point)[0])::int FROM public.t{n}"
        frozen = f"SELECT all_frozen::int FROM public.pg_visibility_map_summary('public.t{n}')"
        assert values(database, frozen) == values(database, filled) != [0]


def test_a_dump_that_is_one_transaction_is_the_first_connections(database: Target) -> None:
    load(database, b"BEGIN;", tables(6), builds(6), b"COMMIT;")
    assert values(database, "SELECT count(*) FROM public.t5") == [5]
    assert values(
        database, "SELECT count(*) FROM pg_index WHERE indexrelid = 'public.t5_lower'::regclass"
    ) == [1]


def test_generated_columns_are_computed_when_what_they_read_is_in(database: Target) -> None:
    """No digest sees them: COPY leaves them out."""
    definitions = b"""
SET check_function_bodies = false;
CREATE FUNCTION public.name_of(integer) RETURNS text LANGUAGE sql IMMUTABLE
    AS $_$ SELECT PUBLIC."lookup_name" ($1) $_$;
CREATE FUNCTION public.lookup_name(integer) RETURNS text LANGUAGE plpgsql STABLE
    AS $_$ BEGIN RETURN (SELECT name FROM public.b_name WHERE a = $1); END $_$;
CREATE TABLE public.a_first (a integer);
CREATE TABLE public.b_name (a integer, name text);
CREATE TABLE public.c_word (
    a integer,
    name text GENERATED ALWAYS AS (public.name_of(a)) STORED,
    long text
);
"""
    # The largest, so that it would be the first connection's first, while the second one has the two others to load.
    words = b"".join(b"%d\t%b\n" % (n, b"x" * 2000) for n in range(2000))
    rows = b"".join(b"%d\n" % n for n in range(2000))
    names = b"".join(b"%d\tname %d\n" % (n, n) for n in range(60_000))
    load(
        database,
        definitions,
        b"COPY public.a_first (a) FROM stdin;\n%b\\.\n" % (rows * 60),
        b"COPY public.b_name (a, name) FROM stdin;\n%b\\.\n" % names,
        b"COPY public.c_word (a, long) FROM stdin;\n%b\\.\n" % words,
        jobs=2,
    )
    assert values(database, "SELECT count(*) FROM public.c_word WHERE name = 'name ' || a") == [2000]


@pytest.mark.parametrize("jobs", [1, 3])
def test_rows_that_come_by_a_root_need_no_comment(jobs: int, database: Target) -> None:
    """As clients write them from 11.0 to the spring of 2023 with --load-via-partition-root."""
    definitions = b"""
CREATE TABLE public.root (
    a integer
)
PARTITION BY RANGE (a);
CREATE TABLE public.leaf PARTITION OF public.root DEFAULT;
"""
    load(database, definitions, b"COPY public.root (a) FROM stdin;\n1\n2\n\\.\n", tables(3), jobs=jobs)
    assert values(database, "SELECT a FROM public.leaf ORDER BY a") == [1, 2]


# What goes wrong -----------------------------------------------------------------------------------------------------


@pytest.fixture
def no_threads_left() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 5
    while (left := set(threading.enumerate()) - before) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert not left


@pytest.mark.usefixtures("no_threads_left")
def test_a_row_that_one_table_refuses_stops_all_and_is_what_is_told(database: Target) -> None:
    bad = tables(6, rows=20_000).replace(b"\n19999\tx4\n", b"\nnothing\tx4\n")
    with pytest.raises(LoadError, match="refused a part of the dump") as caught:
        load(database, bad)
    assert caught.value.detail.startswith("invalid input syntax for type integer")
    assert "COPY public.t4" in caught.value.detail


@pytest.mark.usefixtures("no_threads_left")
def test_an_index_that_can_t_be_built_is_told_by_its_place_in_the_dump(database: Target) -> None:
    twice = tables(6).replace(b"\n4\tx3\n", b"\n3\tx3\n")
    with pytest.raises(LoadError) as caught:
        load(database, twice, builds(6))
    statements = [b"t%d_pkey PRIMARY KEY" % n for n in range(6)]
    assert "t3_pkey" in caught.value.detail
    before = dump(twice, builds(6)).split(statements[3])[0]
    assert caught.value.item == f"statement:{_statements(before) + 1}"


def _statements(text: bytes) -> int:
    """Count the statements that end in this text; rows have no semicolon here."""
    return text.count(b";\n")


@pytest.mark.usefixtures("no_threads_left")
def test_a_connection_that_dies_stops_the_others(database: Target) -> None:
    killed: list[object] = []

    def kill(number: int) -> None:
        if number == 1 and not killed:
            killed.append(values(database, _KILL))

    began = time.monotonic()
    with pytest.raises(OpsError, match="the server failed") as caught:
        load(database, tables(6, rows=50_000), builds(6), meanwhile=kill)
    assert killed
    assert not isinstance(caught.value, LoadError)
    assert time.monotonic() - began < 5


# A connection that loads, whichever.
_KILL = (
    "SELECT count(pg_terminate_backend(pid)) FROM (SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
    " AND pid <> pg_backend_pid() ORDER BY backend_start DESC LIMIT 1) a"
)


@pytest.mark.usefixtures("no_threads_left")
def test_a_reader_that_fails_stops_the_others(database: Target) -> None:
    def fail(number: int) -> None:
        if number == 2:
            raise OpsError("the disk is gone")

    with pytest.raises(OpsError, match="the disk is gone"):
        load(database, tables(6, rows=50_000), meanwhile=fail)


def test_a_server_without_free_connections_is_served_with_those_that_there_are(
    server: Server, sample: Target, sample_backup: Backup
) -> None:
    with (
        ExitStack() as held,
        restoring.temporary_database(server.target(), sample_backup.manifest, purpose="test") as t,
    ):
        run(server.target(), f"ALTER DATABASE {t.database} CONNECTION LIMIT 3")
        loaded = loading.load(t, sample_backup, [], jobs=5)
        assert (loaded.accepted, loaded.by_ourselves, loaded.changed) == ((), "", ())
        assert (
            restoring.prove(server.target(), t.database, sample_backup, []) == []
        )  # it is given its own limit in the switch
        held.close()


@pytest.fixture(scope="module")
def sample_backup(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    folder: Path = tmp_path_factory.mktemp("backups")
    return backups.take(sample, folder, site="test", private=folder / "private")


def test_bytes_are_counted_once_whoever_sends_them(server: Server, sample_backup: Backup) -> None:
    told: list[int] = []
    threads: set[str] = set()

    def progress(size: int) -> None:
        told.append(size)
        threads.add(threading.current_thread().name)

    with restoring.temporary_database(server.target(), sample_backup.manifest, purpose="test") as target:
        loading.load(target, sample_backup, [], jobs=3, progress=progress)
    assert sum(told) == sample_backup.manifest.plain_bytes
    assert min(told) >= 0
    assert threads == {threading.main_thread().name}


def test_bytes_that_changed_since_are_noticed_whoever_reads_them(
    server: Server, sample_backup: Backup, sample: Target
) -> None:
    manifest = sample_backup.manifest
    for index in range(0, len(manifest.tables), 7):
        changed: Sequence[TableData] = [
            t if n != index else TableData(t.name, t.columns, t.rows, t.size_bytes, "0" * 32, t.order_free)
            for n, t in enumerate(manifest.tables)
        ]
        other = manifest.model_copy(update={"tables": tuple(changed)})
        with (
            restoring.temporary_database(server.target(), manifest, purpose="test") as target,
            pytest.raises(OpsError, match="changed since it was taken"),
        ):
            loading.load(target, _with(sample_backup, other), [], jobs=3)


def _with(backup: Backup, manifest: object) -> Backup:
    from dataclasses import replace

    return replace(backup, manifest=manifest)  # type: ignore[arg-type]
