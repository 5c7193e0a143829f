"""A file that nobody vouches for: what it would do at once is refused unsent, what can break the server needs a yes."""

from __future__ import annotations

import json
import re
import socket
import tempfile
import uuid
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import oldfiles
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, properties, session
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.postgres.load.loader import LoadError
from polyladder_ops.postgres.permitted import OnlyPermitted
from tests.conftest import numbers, run
from tests.dumps import Heard, dump, old_dump
from tests.test_oldfiles import described, put, restored
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import DatabaseProperties
    from polyladder_ops.sandbox.server import Server

TABLE = b"CREATE TABLE public.t (\n    a integer\n);"
ROWS = b"COPY public.t (a) FROM stdin;\n1\n\\.\n"
IN_C = b"CREATE FUNCTION public.f(integer) RETURNS integer\n    LANGUAGE internal IMMUTABLE STRICT\n    AS $$int4abs$$;"


@pytest.fixture(scope="module")
def like(sample: Target) -> DatabaseProperties:
    with closing(session.connect(sample)) as connection:
        return properties.read(connection)


@pytest.fixture
def written() -> Iterator[Path]:
    """A path that the server's own account could write to."""
    path = Path(tempfile.gettempdir()) / f"plt-written-{uuid.uuid4().hex}"
    yield path
    path.unlink(missing_ok=True)


def refusal(server: Server, like: DatabaseProperties, folder: Path, *pieces: bytes) -> OpsError:
    backup = described(put(folder, old_dump(*pieces)), like)
    with pytest.raises(OpsError) as caught, restored(server.target(), backup):
        pass
    return caught.value


WRITING = {
    "a table made of a query": b"CREATE TABLE public.u AS SELECT %b;",
    "a filled materialized view": b"CREATE MATERIALIZED VIEW public.u AS SELECT %b AS x;",
    "a column of another type": b"ALTER TABLE public.t ALTER COLUMN a TYPE integer USING (%b);",
    "a new column": b"ALTER TABLE public.t ADD COLUMN b integer DEFAULT %b;",
    "a second action": b"ALTER TABLE public.t ENABLE ROW LEVEL SECURITY, ALTER COLUMN a TYPE integer USING (%b);",
    "the bound of a partition": b"CREATE TABLE public.p (\n    a integer\n)\nPARTITION BY LIST (a);\n"
    b"CREATE TABLE public.u PARTITION OF public.p\nFOR VALUES IN (%b);",
}


@pytest.mark.parametrize("how", WRITING)
def test_a_file_that_writes_files_on_the_server_is_refused(
    how: str, server: Server, like: DatabaseProperties, tmp_path: Path, written: Path
) -> None:
    call = b"pg_catalog.lo_export(pg_catalog.lo_from_bytea(0, '\\x41'), '%b')" % str(written).encode()
    error = refusal(server, like, tmp_path, TABLE, ROWS, WRITING[how] % call)
    assert not written.exists()
    assert isinstance(error, DumpError)
    assert "a statement that pg_dump does not write" in error.message


SYSTEMS = (
    b"ALTER SCHEMA information_schema OWNER TO pg_monitor;",
    b"ALTER VIEW information_schema.tables OWNER TO pg_monitor;",
    b"ALTER FUNCTION pg_catalog.now() OWNER TO pg_monitor;",
    b"ALTER FUNCTION now() OWNER TO pg_monitor;",
    b"ALTER LANGUAGE plpgsql OWNER TO pg_monitor;",
    b"COMMENT ON FUNCTION pg_catalog.now() IS 'mine';",
)


@pytest.mark.parametrize("statement", SYSTEMS, ids=[s.decode() for s in SYSTEMS])
def test_a_file_that_gives_away_what_is_the_servers_is_refused(
    statement: bytes, server: Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    """Its new owner would say what everybody's now() does, a superuser's as well."""
    assert isinstance(refusal(server, like, tmp_path, TABLE, ROWS, statement), DumpError)


@contextmanager
def somebody(server: Server) -> Iterator[session.Connection]:
    with closing(session.connect(server.target())) as connection:
        connection.execute("SET application_name = 'plt_somebody'")
        yield connection


def test_a_file_that_ends_others_sessions_is_refused(
    server: Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    end = (
        b"CREATE TABLE public.u AS SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
        b" WHERE application_name = 'plt_somebody';"
    )
    with somebody(server) as connection:
        refusal(server, like, tmp_path, TABLE, end)
        assert connection.execute("SELECT 1").fetchone() == (1,)


@pytest.mark.parametrize("how", ["made", "dropped"])
def test_a_file_whose_subscription_calls_out_is_refused(
    how: str, server: Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        listener.settimeout(0.5)
        make = b"CREATE SUBSCRIPTION plt_calls CONNECTION 'host=127.0.0.1 port=%d connect_timeout=2' PUBLICATION p WITH (%b);"
        port = listener.getsockname()[1]
        if how == "made":
            pieces: tuple[bytes, ...] = (
                make % (port, b"connect = true, create_slot = false, enabled = false"),
            )
        else:
            pieces = (make % (port, b"connect = false, slot_name = 'x'"), b"DROP SUBSCRIPTION plt_calls;")
        try:
            refusal(server, like, tmp_path, *pieces)
            with pytest.raises(TimeoutError):
                listener.accept()
        finally:
            forget(server)


def forget(server: Server) -> None:
    """Drop the subscription, should a server have taken it, and what holds it."""
    with closing(session.connect(server.target())) as connection:
        found = connection.execute(
            "SELECT datname::text FROM pg_subscription s JOIN pg_database d ON d.oid = subdbid WHERE subname = 'plt_calls'"
        ).fetchall()
    for (name,) in found:
        databases.drop(server.target(), name)


def test_what_is_dropped_first_is_dropped_and_what_is_dropped_later_is_refused() -> None:
    def feed(*pieces: bytes) -> None:
        Lexer(OnlyPermitted(Heard())).feed(dump(*pieces))

    dummy = b"CREATE OR REPLACE VIEW public.v AS\nSELECT\n    NULL::integer AS a;"
    feed(b"DROP VIEW public.v;", dummy, b"DROP TABLE public.t;", TABLE)
    with pytest.raises(DumpError, match="pg_dump does not write"):
        feed(TABLE, b"DROP TABLE public.t;")


# What can break the server -------------------------------------------------------------------------------------------

UNSAFE = {
    "create function in internal": IN_C,
    "create function in c": b"CREATE FUNCTION public.h() RETURNS language_handler\n    LANGUAGE c\n"
    b"    AS '$libdir/plpgsql', 'plpgsql_call_handler';",
    "create cast": b"CREATE CAST (integer AS date) WITHOUT FUNCTION;",
    "create operator class": b"CREATE OPERATOR CLASS public.o\n    FOR TYPE integer USING hash AS\n"
    b"    OPERATOR 1 =(integer,integer) ,\n    FUNCTION 1 (integer, integer) hashint4(integer);",
}


@pytest.mark.parametrize("form", UNSAFE)
def test_what_can_break_the_server_is_refused_by_its_place_and_done_if_that_is_accepted(
    form: str, server: Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    from polyladder_ops import loading, restoring

    backup = described(put(tmp_path, old_dump(TABLE, ROWS, UNSAFE[form])), like)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="bare") as target:
        with pytest.raises(LoadError) as caught:
            loading.load(target, backup, [])
        item = caught.value.item
        assert item == "statement:7"
        assert form in caught.value.detail
        assert f"--accept={item}" in caught.value.hint
    with restoring.temporary_database(server.target(), backup.manifest, purpose="bare") as target:
        (accepted,) = loading.load(target, backup, [], accept=(item,)).accepted
        assert accepted.item == item
        assert f"{form}, which can break the server, was done" in accepted.why
        with closing(session.connect(target)) as connection:
            assert connection.execute("SELECT count(*) FROM public.t").fetchone() == (1,)
        assert restoring.prove(server.target(), target.database, backup, [], accept=(item,)) == []


def test_describing_a_file_names_what_can_break_the_server_by_the_same_places(
    like: DatabaseProperties, tmp_path: Path
) -> None:
    """What is dropped first is not loaded, so it is not counted."""
    pieces = (b"DROP TABLE public.t;", TABLE, ROWS, *UNSAFE.values())
    said = oldfiles.limits(described(put(tmp_path, old_dump(*pieces)), like))
    named = [sentence for sentence in said if "can break it" in sentence]
    assert [
        f"statement:{7 + place}, {form}, can break it" in named[place] for place, form in enumerate(UNSAFE)
    ] == [True] * 4
    assert not [
        s for s in oldfiles.limits(described(put(tmp_path, old_dump(TABLE)), like)) if "can break it" in s
    ]


@pytest.fixture
def shop(server: Server, tmp_path: Path) -> Iterator[Project]:
    live = server.target(f"bare_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", live.database)
    (tmp_path / "backups").mkdir()
    yield project(tmp_path / "project", DATABASE_URL=url(live), BACKUP_DIR=str(tmp_path / "backups"))
    for name in (live.database, f"{live.database}_bare"):
        databases.drop(server.target(), name)


def test_a_person_is_told_and_what_was_accepted_ends_with_3(
    shop: Project, server: Server, tmp_path: Path
) -> None:
    path = put(tmp_path, old_dump(TABLE, ROWS, IN_C))
    live = next(name for (name,) in bare_databases(server))
    words = ("restore", f"--backup={path}", f"--into={live}_bare", "--force")
    refused = shop.ask(*words)
    assert refused.code == 1
    assert "can't be proved of this file: that it does the server no harm: statement:7" in refused.err
    assert "--accept=statement:7" in refused.err
    assert [name for (name,) in bare_databases(server)] == [live]
    accepted = shop.ask(*words, "--accept=statement:7")
    assert accepted.code == 3
    assert "accepted: statement:7: create function in internal" in accepted.out


def bare_databases(server: Server) -> list[tuple[str]]:
    with closing(session.connect(server.target())) as connection:
        return connection.execute(
            "SELECT datname::text FROM pg_database WHERE datname LIKE 'bare%' ORDER BY 1"
        ).fetchall()


# Looking at one -------------------------------------------------------------------------------------------------------


@pytest.fixture
def looking(tmp_path: Path) -> Project:
    """A project that knows no server: a file is looked at without one."""
    return project(tmp_path / "project", BACKUP_DIR=str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["nightly.sql.gz", "nightly.sql"])
def test_a_file_is_verified_as_far_as_one_can_and_the_rest_is_named(
    name: str, looking: Project, tmp_path: Path
) -> None:
    path = put(tmp_path, old_dump(TABLE, ROWS), name=name)
    done = looking.ask("verify", f"--backup={path}")
    assert done.code == 3, done
    assert f"{name}, no manifest" in done.out
    assert re.search(r"^public\.t +1 ", done.out, re.MULTILINE)
    assert (
        "not proved:    that it holds what was in the database: no manifest was written with it" in done.out
    )
    assert f"error: {name} is whole, and not proved" in done.err
    assert f"`invoke restore --backup={path} --into=look`" in done.err
    shown = looking.ask("backup.show", f"--backup={path}", "--json")
    assert (shown.code, json.loads(shown.out)["tables"]) == (0, {"public.t": 1})


def test_a_damaged_file_fails_and_says_what_is_wrong(looking: Project, tmp_path: Path) -> None:
    path = put(tmp_path, old_dump(TABLE, ROWS), name="nightly.sql.gz")
    path.write_bytes(path.read_bytes()[:-9])
    done = looking.ask("verify", f"--backup={path}")
    assert (done.code, done.out) == (3, "")
    assert "error: nightly.sql.gz FAILED: " in done.err
    half = put(tmp_path, old_dump(TABLE, ROWS)[:-60], name="half.sql.gz")
    done = looking.ask("verify", f"--backup={half}")
    assert (done.code, "error: half.sql.gz FAILED: " in done.err) == (3, True), done


def test_single_tables_of_a_file_are_refused_with_the_way_round(looking: Project, tmp_path: Path) -> None:
    path = put(tmp_path, old_dump(TABLE, ROWS), name="night ly.sql.gz")
    done = looking.ask("restore.extract", f"--backup={path}", "--table=t", "--into=rescue")
    assert done.code == 1
    assert f"hint: Restore all of it beside: `invoke restore --backup='{path}' --into=look`" in done.err
