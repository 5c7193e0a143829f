"""What is let through by its place in the dump: it fails alone, the rest is there, and nothing else is left out."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, extraction, loading, picking, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.loader import Accepted, Loader, LoadError
from tests.dumps import dump
from tests.forging import dump_of, forged

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server

TABLE = b"CREATE TABLE public.t (a integer, b text);"
ROWS = b"COPY public.t (a, b) FROM stdin;\n1\tone\n2\ttwo\n\\.\n"
GONE = b"COMMENT ON TABLE public.gone IS 'sesame';"
HEAD = 4  # statements before the first of a test's own


def load(
    target: Target, *pieces: bytes, accept: tuple[str, ...] = (), schema_only: bool = False
) -> tuple[Accepted, ...]:
    with closing(session.connect(target)) as connection:
        return feed(connection, *pieces, accept=accept, schema_only=schema_only)


def feed(
    connection: Connection, *pieces: bytes, accept: tuple[str, ...] = (), schema_only: bool = False
) -> tuple[Accepted, ...]:
    loader = Loader(connection, accept=accept, schema_only=schema_only)
    lexer = Lexer(loader)
    lexer.feed(dump(*pieces))
    lexer.close()
    loader.finish()
    return loader.accepted


def values(target: Target, query: str) -> list[object]:
    with closing(session.connect(target)) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def empty(target: Target) -> None:
    """What failed is dropped before the next try, as a restore would drop the whole database."""
    with closing(session.connect(target)) as connection:
        connection.execute("DROP TABLE IF EXISTS public.t, public.u")
        connection.execute("SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata")


def refusal(target: Target, *pieces: bytes, accept: tuple[str, ...] = ()) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(target, *pieces, accept=accept)
    return caught.value


BAD = {
    "that fails when it runs": (
        b"COMMENT ON TABLE public.gone IS 'sesame';",
        'relation "public.gone" does not exist. It was: COMMENT ON TABLE public.gone IS …',
    ),
    "that can't be read": (
        b"CREATE TABEL public.x (p text);",
        'syntax error at or near "TABEL". It was: CREATE TABEL public.x (p text)',
    ),
    "whose role is missing": (
        b"ALTER TABLE public.t OWNER TO nobody_here;",
        'role "nobody_here" does not exist. It was: ALTER TABLE public.t OWNER TO nobody_here',
    ),
}


@pytest.mark.parametrize("bad", BAD)
def test_a_refused_statement_is_named_by_its_place_and_let_through_by_that_name(
    bad: str, database: Target
) -> None:
    statement, said = BAD[bad]
    pieces = (TABLE, ROWS, b"SELECT 1;", statement, b"CREATE INDEX i ON public.t (a);")
    error = refusal(database, *pieces)
    assert error.item == f"statement:{HEAD + 4}"
    assert f"--accept=statement:{HEAD + 4}" in error.hint
    empty(database)
    assert load(database, *pieces, accept=(error.item,)) == (Accepted(error.item, said),)
    assert values(database, "SELECT b FROM public.t ORDER BY a") == ["one", "two"]
    assert values(database, "SELECT count(*) FROM pg_class WHERE relname = 'i'") == [1]


def test_what_the_server_takes_is_never_left_out(database: Target) -> None:
    accept = tuple(f"statement:{place}" for place in range(50))
    assert load(database, TABLE, ROWS, b"CREATE INDEX i ON public.t (a);", accept=accept) == ()
    assert values(database, "SELECT b FROM public.t ORDER BY a") == ["one", "two"]
    assert values(database, "SELECT count(*) FROM pg_class WHERE relname = 'i'") == [1]


def test_only_what_is_named_may_fail(database: Target) -> None:
    error = refusal(database, TABLE, GONE, GONE, accept=(f"statement:{HEAD + 2}",))
    assert error.item == f"statement:{HEAD + 3}"


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (
            b"COPY public.gone (a) FROM stdin;\n1\n2\n\\.\n",
            'relation "public.gone" does not exist. It was: COPY public.gone (a) FROM stdin; its 2 rows were not loaded',
        ),
        (
            b"COPY public.u (a) FROM stdin;\n1\nsesame\n3\n\\.\n",
            'invalid input syntax for type integer: "…". It was: COPY public.u (a) FROM stdin, line 2 of the rows; its 3 rows were not loaded',
        ),
    ],
)
def test_rows_that_are_refused_are_passed_over_and_counted(database: Target, rows: bytes, said: str) -> None:
    """The second table was made in the dump, so it has a transaction of its own: that is rolled back."""
    pieces = (TABLE, b"CREATE TABLE public.u (a integer);", rows, ROWS)
    error = refusal(database, *pieces)
    assert error.item == f"statement:{HEAD + 3}"
    empty(database)
    assert load(database, *pieces, accept=(error.item,)) == (Accepted(error.item, said),)
    assert values(database, "SELECT b FROM public.t ORDER BY a") == ["one", "two"]
    assert values(database, "SELECT count(*) FROM public.u") == [0]


def test_rows_that_may_be_refused_and_are_not_are_there(database: Target) -> None:
    accept = (f"statement:{HEAD + 2}",)
    assert load(database, TABLE, ROWS, ROWS.replace(b"1\tone", b"3\tthree"), accept=accept) == ()
    assert values(database, "SELECT a FROM public.t ORDER BY a") == [1, 2, 2, 3]


def test_among_large_objects_a_statement_fails_without_the_rest_of_their_transaction(
    database: Target,
) -> None:
    pieces = (
        b"SELECT pg_catalog.lo_create('77');",
        b"BEGIN;",
        b"SELECT pg_catalog.lo_open('77', 131072);",
        b"ALTER LARGE OBJECT 78 OWNER TO postgres;",
        b"SELECT pg_catalog.lowrite(0, '\\x41');\nSELECT pg_catalog.lo_close(0);\nCOMMIT;",
    )
    assert refusal(database, *pieces).item == f"statement:{HEAD + 4}"
    empty(database)
    (accepted,) = load(database, *pieces, accept=(f"statement:{HEAD + 4}",))
    assert accepted.why.startswith("large object 78 does not exist")
    assert values(database, "SELECT pg_catalog.lo_get(77)") == [b"A"]


def test_a_lost_connection_is_not_let_through(database: Target) -> None:
    end = b"SELECT pg_catalog.pg_terminate_backend(pg_catalog.pg_backend_pid());"
    with (
        pytest.raises(OpsError) as caught,
        session.translated("the server failed while it loaded the backup"),
    ):
        load(database, TABLE, end, accept=(f"statement:{HEAD + 2}",))
    assert not isinstance(caught.value, LoadError)


@pytest.mark.parametrize(
    "state", ["08001", "08006", "40001", "53100", "53300", "55P03", "57014", "57P01", "58030"]
)
def test_a_statement_that_says_the_server_is_in_trouble_is_refused_and_can_be_let_through(
    state: str, database: Target
) -> None:
    """Anything may raise any state, and our session lives: another foreign server is down, say."""
    raising = (
        b"DO $$ BEGIN RAISE EXCEPTION 'could not connect' USING ERRCODE = '%b'; END $$;" % state.encode()
    )
    pieces = (TABLE, ROWS, raising, b"CREATE INDEX i ON public.t (a);")
    error = refusal(database, *pieces)
    assert (error.item, error.lacks) == (f"statement:{HEAD + 3}", True)
    assert f"--accept=statement:{HEAD + 3}" in error.hint
    empty(database)
    assert [a.item for a in load(database, *pieces, accept=(error.item,))] == [error.item]
    assert values(database, "SELECT count(*) FROM pg_class WHERE relname = 'i'") == [1]


def test_a_statement_for_which_the_server_has_no_room_is_named(database: Target) -> None:
    full = (
        b"SET temp_file_limit = 0;\nSET work_mem = '64kB';",
        b"SELECT count(*) FROM (SELECT g FROM generate_series(1, 50000) g ORDER BY 1 DESC) s;",
    )
    error = refusal(database, *full)
    assert (error.item, error.lacks) == (f"statement:{HEAD + 3}", True)
    assert "temporary file size exceeds" in error.detail


def test_a_refused_change_of_how_strings_are_read_ends_the_load_all_the_same(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        loader = Loader(connection, accept=("statement:1",))
        loader._escapes = True  # as if the dump went on by a rule that the server does not follow
        with pytest.raises(LoadError, match="changed how strings are read") as caught:
            loader.statement(b"COMMENT ON TABLE public.gone IS ''")
    assert caught.value.item == ""


# Inside a transaction of the caller's ---------------------------------------------------------------------------------


def test_in_a_transaction_around_it_nothing_commits(database: Target) -> None:
    pieces = (
        TABLE,
        ROWS,
        b"SELECT pg_catalog.lo_create('77');\nBEGIN;\nSELECT pg_catalog.lo_open('77', 131072);",
        b"SELECT pg_catalog.lowrite(0, '\\x41');\nSELECT pg_catalog.lo_close(0);\nCOMMIT;",
        GONE,
        b"COPY public.gone (a) FROM stdin;\n1\n\\.\n",
        b"CREATE INDEX i ON public.t (a);",
    )
    with closing(session.connect(database)) as connection:
        connection.execute("BEGIN")
        accept = tuple(f"statement:{HEAD + place}" for place in range(1, 20))
        accepted = feed(connection, *pieces, accept=accept)
        assert [a.item for a in accepted] == [f"statement:{HEAD + 9}", f"statement:{HEAD + 10}"]
        assert connection.execute("SELECT count(*) FROM public.t").fetchone() == (2,)
        assert connection.execute("SELECT pg_catalog.lo_get(77)").fetchone() == (b"A",)
        assert values(database, "SELECT pg_catalog.to_regclass('public.t')::text") == [None]
        connection.execute("ROLLBACK")
    assert values(database, "SELECT pg_catalog.to_regclass('public.t')::text") == [None]
    assert values(database, "SELECT count(*) FROM pg_largeobject_metadata") == [0]


@pytest.mark.parametrize(
    "control", [b"commit work", b"ROLLBACK", b"END", b"Savepoint x", b"START TRANSACTION"]
)
def test_in_a_transaction_around_it_a_dump_that_would_end_it_is_refused(
    control: bytes, database: Target
) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute("BEGIN")
        with pytest.raises(LoadError, match="would end the transaction") as caught:
            feed(connection, TABLE, control + b";", accept=(f"statement:{HEAD + 2}",))
        connection.execute("ROLLBACK")
    assert caught.value.item == ""


# Through the whole library --------------------------------------------------------------------------------------------


@pytest.fixture
def taken(database: Target, tmp_path: Path) -> Backup:
    with closing(session.connect(database)) as connection:
        connection.execute(
            b"CREATE TABLE public.t (a int, kind varchar(9) CHECK (kind IN ('x', 'y'))); INSERT INTO public.t VALUES (1, 'x');"
            b"CREATE TABLE public.u (a int); INSERT INTO public.u VALUES (1), (2)"
        )
    return backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")


def test_what_was_let_through_is_told_and_its_consequences_are_differences(
    taken: Backup, server: Server, tmp_path: Path
) -> None:
    """The check constraint is reworded, so the proof replays the schema, and that meets the same refusal."""
    broken = dump_of(taken).replace(b"CREATE TABLE public.u ", b"CREATE TABLE nowhere.u ")
    backup = forged(taken, tmp_path / "forged", broken)
    accept: tuple[str, ...] = ()
    let_through = None
    while let_through is None:
        with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
            try:
                loaded = loading.load(target, backup, [], accept=accept)
            except LoadError as error:
                accept = (*accept, error.item)
                continue
            if loaded.changed:  # nothing is given to whom it belongs before that is accepted, too
                accept = (*accept, *(difference.item for difference in loaded.changed))
                continue
            let_through = loaded.accepted
            found = restoring.prove(server.target(), target.database, backup, [], accept=accept)
    statements = [item for item in accept if item.startswith("statement:")]
    assert [a.item for a in let_through] == sorted(
        statements, key=lambda item: int(item.removeprefix("statement:"))
    )
    assert [a.why.split(". ")[0] for a in let_through] == [
        'schema "nowhere" does not exist',
        'relation "public.u" does not exist',
        'relation "public.u" does not exist',
    ]
    assert "its 2 rows were not loaded" in let_through[2].why
    assert {str(d) for d in found} == {"table public.u: it is missing"}


def test_nothing_is_let_through_of_what_was_not_named(taken: Backup, server: Server) -> None:
    with restoring.temporary_database(server.target(), taken.manifest, purpose="test") as target:
        loaded = loading.load(target, taken, [], accept=("grant:x", "statement:1"))
        assert (loaded.accepted, loaded.changed) == ((), ())
        assert restoring.prove(server.target(), target.database, taken, []) == []


NAMELESS = b"""
CREATE FUNCTION public.least_one() RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.is_fit(a int) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN a >= least_one(); END';
CREATE TABLE public.w (a int CHECK (public.is_fit(a))); INSERT INTO public.w VALUES (1), (2), (3);
"""


@pytest.mark.parametrize("jobs", [1, 2])
def test_who_is_offered_to_let_rows_go_is_told_how_many_and_of_which_table(
    database: Target, server: Server, tmp_path: Path, jobs: int
) -> None:
    """A check's function finds nothing without a schema under the empty search_path of every dump."""
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        connection.execute(NAMELESS)
    backup = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    with (
        pytest.raises(LoadError) as caught,
        restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target,
    ):
        loading.load(target, backup, [], jobs=jobs)
    error = caught.value
    assert "function least_one() does not exist" in error.detail
    assert f"To restore without the 3 rows of table public.w: `--accept={error.item}`." in error.hint
    assert "`ALTER FUNCTION … SET search_path = public`" in error.hint
    with pytest.raises(LoadError) as caught:
        extraction.into(server.target(), "w_only", backup, picking.wanted(backup.manifest, ["public.w"]), [])
    assert (caught.value.item, "--accept" in caught.value.hint) == ("", False)
