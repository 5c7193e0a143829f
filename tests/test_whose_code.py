"""A role that owns one schema does not get its code run by us, whatever it puts there: on real servers, old and new.

Its function makes it superuser, or at least runs a command on the server, as soon as a superuser calls it.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import threading
import time
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import facts, newest, session
from polyladder_ops.postgres.contents import NOT_LOOKED_AT, Contents, SequenceValue, TableData
from polyladder_ops.postgres.proof import differences, read_back
from tests import majors
from tests.conftest import numbers, run
from tests.test_tasks import Ended, Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")

# Called immutable, so that the planner folds it; what it calls may write, or run a program where nothing may be written.
SPY = """
CREATE FUNCTION m.take() RETURNS void LANGUAGE plpgsql AS $$
BEGIN
  BEGIN COPY (SELECT 1) TO PROGRAM 'touch {ran}'; EXCEPTION WHEN OTHERS THEN NULL; END;
  BEGIN ALTER ROLE mal SUPERUSER; EXCEPTION WHEN OTHERS THEN NULL; END;
END $$;
CREATE FUNCTION m.imm(int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.take(); RETURN 1; END';
"""
OURS = """
CREATE TABLE public.deck (id serial PRIMARY KEY, title text, created_at timestamptz);
INSERT INTO public.deck (title, created_at) SELECT 'deck ' || n, '2026-01-02Z' FROM generate_series(1, 50) n;
"""
MIGRATIONS = """
CREATE TYPE m.word AS (a int);
CREATE FUNCTION m.said(m.word) RETURNS text LANGUAGE plpgsql AS $$BEGIN PERFORM m.take(); RETURN 'x'; END$$;
CREATE CAST (m.word AS text) WITH FUNCTION m.said(m.word) AS IMPLICIT;
CREATE TABLE m.pgmigrations (id int, name m.word, run_on timestamp);
INSERT INTO m.pgmigrations VALUES (1, ROW(1), '2026-01-01');
"""
SEQUENCE = "CREATE SEQUENCE m.sq; SELECT setval('m.sq', 41, false)"
# Where the planner finds a function; each has a time that tells of new rows.
PLANNED = {
    "an index over an expression": "CREATE TABLE m.t (a int, created_at timestamptz); CREATE INDEX ON m.t ((a + m.imm(1)))",
    "an index with a predicate": "CREATE TABLE m.t (a int, created_at timestamptz); CREATE INDEX ON m.t (a) WHERE m.imm(1) = 1",
    "a child with a CHECK": "CREATE TABLE m.t (a int, created_at timestamptz);"
    " CREATE TABLE m.child (CHECK (m.imm(1) = 1)) INHERITS (m.t)",
    "a partition key": "CREATE TABLE m.t (a int, created_at timestamptz) PARTITION BY RANGE ((a + m.imm(1)));"
    " CREATE TABLE m.leaf PARTITION OF m.t FOR VALUES FROM (0) TO (100)",
    "statistics": "CREATE TABLE m.t (a int, created_at timestamptz); CREATE STATISTICS m.s ON a, (a + m.imm(1)) FROM m.t",
}
IN_PLACE_OF = {
    "a view": "CREATE VIEW m.sq AS SELECT m.imm(1)::bigint AS last_value, true AS is_called",
    "a table with an index": "CREATE TABLE m.sq (last_value bigint, is_called bool);"
    " CREATE INDEX ON m.sq ((last_value + m.imm(1)))",
}


@dataclass
class Place:
    """A server with the role mal and its schema, a database, and a project that backs it up."""

    server: Target
    live: Target
    project: Project
    folder: Path

    @property
    def mal(self) -> Target:
        return self.live.of(**{**self.live.parameters, "user": "mal", "password": "x"})

    def as_mal(self, statements: str) -> None:
        tell(self.mal, statements)

    def ask(self, *words: str) -> Ended:
        """Run a command; whatever it says, mal's code was not run by anybody who may do more than mal."""
        done = self.project.ask(*words)
        assert self.took() == (False, False), f"{words}: {done}"
        return done

    def took(self) -> tuple[bool, bool]:
        """Whether mal is superuser, and whether it ran a command on the server."""
        ((is_superuser,),) = tell(self.server, "SELECT rolsuper FROM pg_roles WHERE rolname = 'mal'")
        return bool(is_superuser), (self.folder / "ran").exists()


def tell(target: Target, statements: str) -> list[tuple[Any, ...]]:
    with closing(session.connect(target)) as connection:
        cursor = connection.execute(statements.encode())
        while cursor.nextset():
            pass
        return cursor.fetchall() if cursor.description else []


@pytest.fixture(scope="module", params=[13, 15, 18])
def major(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as server:
        run(server, "CREATE ROLE mal LOGIN PASSWORD 'x'")
        yield server


@pytest.fixture
def place(major: Target, tmp_path: Path) -> Iterator[Place]:
    live = major.with_database(f"live{next(numbers)}")
    run(major, "CREATE DATABASE %I TEMPLATE template0", live.database)
    everyones = Path(tempfile.mkdtemp(prefix="plt-ran-"))
    everyones.chmod(0o777)
    tell(live, OURS + "CREATE SCHEMA m AUTHORIZATION mal")
    variables = {"DATABASE_URL": url(live), "BACKUP_DIR": str(tmp_path / "backups")}
    made = Place(major, live, project(tmp_path / "project", **variables), everyones)
    made.as_mal(SPY.format(ran=everyones / "ran"))
    yield made
    run(major, "ALTER ROLE %I NOSUPERUSER", "mal")
    with closing(session.connect(major)) as connection:
        for (name,) in connection.execute(
            "SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'"
        ).fetchall():
            run(major, "DROP DATABASE %I WITH (FORCE)", name)
    shutil.rmtree(everyones)


def test_the_spy_is_one(place: Place) -> None:
    """Else nothing is shown by what follows."""
    place.as_mal(PLANNED["an index with a predicate"])
    tell(place.live, "SELECT created_at FROM m.t")
    assert place.took() == (True, True)


# As a person runs it ---------------------------------------------------------------------------------------------------


def test_a_table_of_migrations_with_a_type_and_a_cast_of_its_own_runs_nothing(place: Place) -> None:
    place.as_mal(MIGRATIONS)
    assert place.ask("backup").code == 0
    place.ask("doctor")
    place.ask("-R", "restore", "--backup=latest")
    done = place.ask("restore", "--backup=latest", "--force")
    assert done.code == 0, done
    assert place.ask("-R", "restore.undo").code == 0
    assert place.ask("restore.undo", "--force").code == 0


@pytest.mark.parametrize("instead", IN_PLACE_OF)
def test_a_sequence_that_was_replaced_by_something_else_runs_nothing(instead: str, place: Place) -> None:
    place.as_mal(SEQUENCE)
    assert place.ask("backup").code == 0
    done = place.ask("restore", "--backup=latest", "--force")
    assert done.code == 0, done
    place.as_mal(f"DROP SEQUENCE m.sq; {IN_PLACE_OF[instead]}")
    place.ask("-R", "restore.undo")
    assert place.ask("backup").code == 0
    place.ask("doctor")
    place.ask("-R", "restore", "--backup=latest")
    assert place.ask("restore.undo", "--force").code == 0


@pytest.mark.parametrize("shape", PLANNED)
def test_what_a_planner_would_call_is_not_called(shape: str, place: Place) -> None:
    (((version,)),) = tell(place.server, "SELECT current_setting('server_version_num')::int")
    if shape == "statistics" and version < 140000:
        pytest.skip("13 has no statistics over expressions")
    place.as_mal(f"{PLANNED[shape]}; INSERT INTO m.t VALUES (1, '2026-01-03Z')")
    assert place.ask("backup").code == 0
    place.ask("doctor")
    assert place.ask("-R", "restore", "--backup=latest").code in (0, 3)
    wanted = Contents(tables=(TableData("m.t", "(a, created_at)", 1, 1, "", order_free=True),))
    with closing(session.connect(place.live)) as connection:
        read_back.read_contents(connection, wanted)
    assert place.took() == (False, False)


# Pieces of it ----------------------------------------------------------------------------------------------------------


@contextmanager
def flipping(place: Place, there: str, back: str) -> Iterator[None]:
    """Within the block mal exchanges two names and exchanges them back, as fast as it can."""
    over = threading.Event()

    def flip() -> None:
        with closing(session.connect(place.mal)) as connection:
            while not over.is_set():
                connection.execute(f"BEGIN; {there}; COMMIT".encode())
                connection.execute(f"BEGIN; {back}; COMMIT".encode())

    thread = threading.Thread(target=flip)
    thread.start()
    yield
    over.set()
    thread.join()


@pytest.mark.parametrize("what", ["sequence", "schema"])
def test_a_sequence_that_changes_places_while_it_is_read_runs_nothing(what: str, place: Place) -> None:
    run(place.server, "GRANT CREATE ON DATABASE %I TO mal", place.live.database)
    kept = SPY.format(ran=place.folder / "ran").replace("m.", "k.")  # in a schema that keeps its name
    elsewhere = IN_PLACE_OF["a table with an index"].replace("m.sq", "n.sq").replace("m.imm", "k.imm")
    place.as_mal(f"CREATE SCHEMA k; {kept}; {SEQUENCE}; CREATE SCHEMA n; {elsewhere}")
    flips = {
        "schema": (
            "ALTER SCHEMA m RENAME TO o; ALTER SCHEMA n RENAME TO m; ALTER SCHEMA o RENAME TO n",
            "ALTER SCHEMA m RENAME TO o; ALTER SCHEMA n RENAME TO m; ALTER SCHEMA o RENAME TO n",
        ),
        "sequence": (
            "ALTER SEQUENCE m.sq RENAME TO kept; ALTER TABLE n.sq SET SCHEMA m",
            "ALTER TABLE m.sq SET SCHEMA n; ALTER SEQUENCE m.kept RENAME TO sq",
        ),
    }
    wanted = Contents(sequences=(SequenceValue("m.sq", 41, called=False),))
    seen, refused = set(), set()
    with flipping(place, *flips[what]), closing(session.connect(place.live)) as connection:
        until = time.monotonic() + 3
        while time.monotonic() < until:
            try:
                seen.add(read_back.read_contents(connection, wanted).sequences)
            except OpsError as error:
                refused.add(error.detail)
    assert place.took() == (False, False)
    assert wanted.sequences in seen
    assert seen <= {wanted.sequences, ()}
    known = (
        "a sequence was replaced",
        "lock timeout",
        "does not exist",
        "could not open relation",
        "deadlock",
    )
    assert all(any(word in said for word in known) for said in refused), refused


def test_sequences_stand_where_they_stand(place: Place) -> None:
    """Never called, called, set, with names that need quotes; beside them what is no sequence."""
    place.as_mal(
        SEQUENCE + '; CREATE SEQUENCE m."it\'s a ""one""" START 7; SELECT nextval(\'m."it\'\'s a ""one"""\');'
        " CREATE SEQUENCE m.fresh MINVALUE -9 INCREMENT -1 MAXVALUE -1; CREATE VIEW m.v AS SELECT 1 AS last_value"
    )
    wanted = [
        SequenceValue("m.sq", 41, called=False),
        SequenceValue('m."it\'s a ""one"""', 7, called=True),
        SequenceValue("m.fresh", -1, called=False),
        SequenceValue("m.v", 1, called=True),
        SequenceValue("m.gone", 1, called=True),
    ]
    with closing(session.connect(place.live)) as connection:
        alone = read_back.read_contents(connection, Contents(sequences=tuple(wanted))).sequences
        connection.execute("BEGIN")
        inside = read_back.read_contents(connection, Contents(sequences=tuple(wanted))).sequences
        held = connection.execute(
            "SELECT count(*) FROM pg_locks WHERE pid = pg_backend_pid() AND relation = 'pg_namespace'::regclass"
            " AND mode = 'ShareLock'"
        ).fetchone()
    assert alone == inside == tuple(wanted[:3])
    assert held == (0,)


def test_a_sequence_that_may_not_be_read_is_an_error(place: Place) -> None:
    tell(place.live, "CREATE SCHEMA o; GRANT USAGE ON SCHEMA o TO mal; CREATE SEQUENCE o.sq")
    with closing(session.connect(place.mal)) as connection, pytest.raises(OpsError) as caught:
        read_back.read_contents(connection, Contents(sequences=(SequenceValue("o.sq", 1, called=False),)))
    assert "permission denied for sequence" in f"{caught.value.message} {caught.value.detail}"


def test_the_condition_of_an_extension_runs_only_where_its_owners_are_superusers(place: Place) -> None:
    tell(place.live, "CREATE EXTENSION hstore SCHEMA public")
    place.as_mal("CREATE TABLE m.config (id int); INSERT INTO m.config SELECT generate_series(1, 9)")
    tell(
        place.live,
        "CREATE TABLE public.ours (id int); INSERT INTO public.ours SELECT generate_series(1, 9);"
        "UPDATE pg_extension SET extconfig = ARRAY['m.config'::regclass::oid, 'public.ours'::regclass::oid],"
        " extcondition = ARRAY['WHERE m.imm(1) = 1', 'WHERE id > 5'] WHERE extname = 'hstore'",
    )
    wanted = [
        TableData(name, "(id)", 4, 8, "0" * 32, order_free=True) for name in ("m.config", "public.ours")
    ]
    with closing(session.connect(place.live)) as connection:
        theirs, ours = read_back.read_tables(connection, wanted, "UTF8")
        assert place.took() == (False, False)
        assert (theirs.digest, ours.rows) == (NOT_LOOKED_AT, 4)
        (said, _) = differences.compare_contents(
            Contents(tables=tuple(wanted)), Contents(tables=(theirs, ours))
        )
        assert "not looked at" in str(said)
        # All rows being those that were dumped, nothing has to be told apart.
        tell(
            place.live,
            "UPDATE pg_extension SET extcondition = NULL, extconfig = NULL WHERE extname = 'hstore'",
        )
        whole = read_back.read_tables(connection, wanted[:1], "UTF8")
        tell(place.live, "UPDATE pg_extension SET extcondition = ARRAY['WHERE m.imm(1) = 1'],"
             " extconfig = ARRAY['m.config'::regclass::oid] WHERE extname = 'hstore'")  # fmt: skip
        assert read_back.read_tables(connection, whole, "UTF8") == whole
    assert place.took() == (False, False)


def test_rows_that_came_by_a_partition_root_are_read_leaf_by_leaf(place: Place) -> None:
    """But for leaves that the dump fills by themselves, and foreign ones, whose rows are in no dump."""
    place.as_mal("CREATE TABLE m.p (a int, b text) PARTITION BY LIST (a); CREATE TABLE m.own PARTITION OF m.p FOR VALUES IN (3);"
                 ' CREATE TABLE m."odd é" (b text, a int); ALTER TABLE m.p ATTACH PARTITION m."odd é" FOR VALUES IN (1);'
                 " CREATE TABLE m.two PARTITION OF m.p FOR VALUES IN (2) PARTITION BY LIST (a);"
                 " CREATE TABLE m.deep PARTITION OF m.two FOR VALUES IN (2);"
                 " INSERT INTO m.p VALUES (1, 'x'), (2, 'y'), (2, 'y'), (3, 'z')")  # fmt: skip
    tell(place.live, "CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER s FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'no.such');"
         " ALTER TABLE m.p OWNER TO postgres; CREATE FOREIGN TABLE m.far PARTITION OF m.p FOR VALUES IN (4) SERVER s")  # fmt: skip
    root = TableData("m.p", "(a, b)", 0, 0, "", order_free=True)
    with closing(session.connect(place.live)) as connection:
        (read, own) = read_back.read_tables(
            connection, [root, TableData("m.own", "(a, b)", 0, 0, "")], "LATIN1"
        )
        (all_of_it,) = read_back.read_tables(connection, [root], "UTF8")
        connection.execute(b"SET client_encoding = 'UTF8'")
        connection.execute(
            b"CREATE TABLE m.plain (a int, b text); INSERT INTO m.plain VALUES (2, 'y'), (1, 'x'), (2, 'y')"
        )
        (plain,) = read_back.read_tables(
            connection, [TableData("m.plain", "(a, b)", 0, 0, "", order_free=True)], "UTF8"
        )
    assert (read.rows, own.rows, all_of_it.rows) == (3, 1, 4)
    assert (read.digest, read.size_bytes) == (plain.digest, plain.size_bytes)


def test_the_newest_row_of_a_partitioned_table_is_found_in_its_leaf(place: Place) -> None:
    place.as_mal(f"{PLANNED['a partition key']}; INSERT INTO m.t VALUES (1, '2026-01-03Z')")
    seen = facts.read_live(place.live)
    assert seen.newest is not None
    assert seen.newest[0] == "m.leaf"
    assert seen.unread == ()
    assert place.took() == (False, False)


def test_a_table_of_migrations_that_is_anothers_is_not_looked_at(place: Place) -> None:
    place.as_mal(MIGRATIONS)
    assert ["not looked at" in said for said in facts.read_live(place.live).unread] == [True]
    place.as_mal(
        "DROP TABLE m.pgmigrations; CREATE VIEW m.pgmigrations AS SELECT m.imm(1) AS id, 'x'::text AS name"
    )
    with closing(session.connect(place.live)) as connection:
        assert newest.migration(connection) is None
    assert place.took() == (False, False)
