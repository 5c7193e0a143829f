"""A restore in place: all or nothing, on one connection; the database is the backup afterwards, or as it was."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import backups, inplace, oldfiles, restoring
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.postgres import clearing, clearing_facts, inventory, opening, properties, session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.load.loader import LoadError
from polyladder_ops.postgres.proof import read_back
from polyladder_ops.postgres.volume import Volume
from tests import majors
from tests.conftest import numbers, run
from tests.forging import dump_of, forged
from tests.test_load import SHAPES, fill

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.sandbox.server import Server

ROOT = Path(__file__).parents[1]


def take(target: Target, folder: Path) -> Backup:
    return backups.take(target, folder / "backups", site="test", private=folder / "private")


def execute(target: Target, statements: str) -> None:
    with closing(session.connect(target, settings={"search_path": "public"})) as connection:
        connection.execute(statements.encode())


def state(target: Target, wanted: Contents) -> tuple[object, ...]:
    """Everything that the library can see of a database, each thing by name, with the digests of its rows."""
    with closing(session.connect(target)) as connection:
        seen = inventory.entries(connection), properties.extensions(connection), properties.read(connection)
    with closing(session.connect(target)) as connection:
        return (*seen, read_back.read_contents(connection, wanted))


def differences(target: Target, backup: Backup, accept: tuple[str, ...] = ()) -> list[str]:
    server = target.with_database("postgres")
    return [str(d) for d in restoring.prove(server, target.database, backup, [], accept=accept)]


DAMAGE = """
DROP SCHEMA IF EXISTS polyladder CASCADE;
CREATE SCHEMA other; CREATE TABLE other.t (a int); INSERT INTO other.t VALUES (1);
CREATE TABLE public.stays (a int PRIMARY KEY, b serial, c int GENERATED ALWAYS AS IDENTITY); INSERT INTO public.stays VALUES (1);
CREATE VIEW public.v AS SELECT * FROM public.stays; CREATE MATERIALIZED VIEW public.m AS SELECT * FROM public.v;
CREATE TYPE public.e AS ENUM ('a'); CREATE DOMAIN public.d AS int CHECK (VALUE > 0); CREATE TYPE public.c AS (x int);
CREATE TYPE public.r AS RANGE (subtype = int4); CREATE TYPE public.shell;
CREATE FUNCTION public.f(public.e, int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE PROCEDURE public.p() LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION public.step(int, int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 1';
CREATE AGGREGATE public.agg(int) (sfunc = public.step, stype = int);
CREATE AGGREGATE public.agg(*) (sfunc = int8inc, stype = int8, initcond = '0');
CREATE OPERATOR public.=== (leftarg = int, rightarg = int, function = public.step);
CREATE OPERATOR FAMILY public.fam USING btree;
CREATE OPERATOR CLASS public.cls FOR TYPE int USING btree AS STORAGE int;
CREATE COLLATION public.coll (provider = libc, locale = 'C');
CREATE CONVERSION public.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;
CREATE STATISTICS public.st ON a, b FROM public.stays;
CREATE TEXT SEARCH DICTIONARY public.dict (template = simple); CREATE TEXT SEARCH CONFIGURATION public.cfg (copy = simple);
CREATE FUNCTION public.one(public.e) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE CAST (public.e AS int) WITH FUNCTION public.one(public.e);
CREATE CAST (int8 AS timestamptz) WITHOUT FUNCTION;
CREATE PUBLICATION pub FOR ALL TABLES;
CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
CREATE USER MAPPING FOR PUBLIC SERVER far; CREATE FOREIGN TABLE public.ft (a int) SERVER far;
CREATE EXTENSION hstore SCHEMA pg_catalog;
CREATE FOREIGN DATA WRAPPER own_wrapper;
CREATE ACCESS METHOD own_heap TYPE TABLE HANDLER heap_tableam_handler;
SELECT lo_from_bytea(7001, 'live'), lo_from_bytea(7002, '');
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT ALL ON SEQUENCES TO PUBLIC;
REVOKE EXECUTE ON FUNCTION pg_catalog.pg_sleep(float8) FROM PUBLIC; GRANT SELECT (rolname) ON pg_catalog.pg_authid TO PUBLIC;
GRANT CREATE ON SCHEMA public TO PUBLIC; ALTER SCHEMA public OWNER TO postgres; COMMENT ON SCHEMA public IS 'mine';
CREATE FUNCTION public.angry() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no %', tg_tag; END$$;
CREATE EVENT TRIGGER angry ON ddl_command_end EXECUTE FUNCTION public.angry();
CREATE EVENT TRIGGER angrier ON sql_drop EXECUTE FUNCTION public.angry();
"""


def test_the_database_is_the_backup_afterwards_whatever_it_held(
    sample_database: Target, tmp_path: Path
) -> None:
    backup = take(sample_database, tmp_path)
    execute(sample_database, DAMAGE)
    done = inplace.restore(sample_database, backup, [], accept=("statement:1", "table:public.stays"))
    assert (done.accepted, done.differences) == ((), ())
    assert differences(sample_database, backup) == []


def test_every_shape_comes_back_in_place(database: Target, tmp_path: Path) -> None:
    """Large objects bring a BEGIN and a COMMIT of their own; reworded checks are replayed inside the transaction."""
    fill(database, SHAPES)
    backup = take(database, tmp_path)
    assert b"\nBEGIN;\n" in dump_of(backup)
    execute(database, "CREATE TABLE public.more (); SELECT lo_unlink(100)")
    assert inplace.restore(database, backup, []).differences == ()
    assert differences(database, backup) == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_of_another_encoding_comes_back_in_place(
    encoding: str, server: Server, tmp_path: Path
) -> None:
    target = server.target(f"inplace_{next(numbers)}")
    options = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
    run(server.target(), f"CREATE DATABASE %I {options}", target.database)
    try:
        execute(target, "CREATE TABLE größe (süß text); INSERT INTO größe VALUES ('ä'), ('ö')")
        backup = take(target, tmp_path)
        execute(
            target, "CREATE TABLE gemäß (a int); CREATE FUNCTION für() RETURNS int LANGUAGE sql AS 'SELECT 1'"
        )
        inplace.restore(target, backup, [])
        assert differences(target, backup) == []
    finally:
        run(server.target(), "DROP DATABASE %I WITH (FORCE)", target.database)


def test_an_old_scripts_file_comes_back_in_place(sample_database: Target, tmp_path: Path) -> None:
    """Nothing is known of its objects but what its own statements make: those are run again beside, and undone."""
    backup = take(sample_database, tmp_path)
    path = tmp_path / "old_20260105_020000.sql.gz"
    path.write_bytes(backup.path.read_bytes())
    old = oldfiles.describe(
        path, [], site="test", like=backup.manifest.properties, session=backup.manifest.session
    )
    execute(sample_database, "DROP TABLE public.device CASCADE; CREATE TABLE public.more ()")
    assert inplace.restore(sample_database, old, []).differences == ()
    assert differences(sample_database, backup) == []


def test_an_empty_backup_empties_the_database(database: Target, tmp_path: Path) -> None:
    backup = take(database, tmp_path)
    execute(database, DAMAGE)
    inplace.restore(database, backup, [])
    assert differences(database, backup) == []


# Whatever goes wrong, the database is as it was -----------------------------------------------------------------------


@dataclass(frozen=True)
class Live:
    """A database with a backup of an earlier state, and how it is now."""

    target: Target
    backup: Backup
    before: tuple[object, ...]
    wanted: Contents

    def is_as_it_was(self) -> bool:
        return state(self.target, self.wanted) == self.before


@pytest.fixture
def live(sample_database: Target, tmp_path: Path) -> Live:
    backup = take(sample_database, tmp_path)
    execute(
        sample_database,
        "CREATE TABLE public.newer AS SELECT g FROM generate_series(1, 1000) g; SELECT lo_create(9009)",
    )
    wanted = take(sample_database, tmp_path / "live").manifest.contents
    return Live(sample_database, backup, state(sample_database, wanted), wanted)


def changed(live: Live, folder: Path, old: bytes, new: bytes) -> Backup:
    dumped = dump_of(live.backup)
    assert old in dumped
    return forged(live.backup, folder / "forged", dumped.replace(old, new, 1))


END = b"--\n-- PostgreSQL database dump complete"


def test_a_statement_that_fails_at_the_end_undoes_everything(live: Live, tmp_path: Path) -> None:
    """Behind all rows, indexes and the large objects, whose own COMMIT is in the dump."""
    backup = changed(live, tmp_path, END, b"COMMENT ON TABLE public.gone IS 'x';\n\n" + END)
    with pytest.raises(LoadError) as caught:
        inplace.restore(live.target, backup, [])
    assert caught.value.item.startswith("statement:")
    assert live.is_as_it_was()


@pytest.mark.parametrize("control", [b"COMMIT", b"ROLLBACK; BEGIN", b"END", b"commit and chain"])
def test_a_dump_that_would_end_the_transaction_does_not(control: bytes, live: Live, tmp_path: Path) -> None:
    backup = changed(live, tmp_path, END, control + b";\nSELECT nothing;\n" + END)
    with pytest.raises(OpsError):
        inplace.restore(live.target, backup, [])
    assert live.is_as_it_was()


def test_rows_that_come_out_otherwise_undo_everything_and_are_named(live: Live, tmp_path: Path) -> None:
    backup = changed(
        live, tmp_path, END, b"CREATE TABLE public.spy ();\nSELECT pg_catalog.lo_create('4711');\n" + END
    )
    with pytest.raises(inplace.Differs) as caught:
        inplace.restore(live.target, backup, [])
    assert [str(d) for d in caught.value.differences] == [
        "large object 4711: it was not dumped",
        "large object 4711: it was not in the source",
        "table public.spy: it was not in the source",
    ]
    assert caught.value.hint.endswith("`--accept='large object:4711,table:public.spy'`.")
    assert live.is_as_it_was()


def test_what_is_accepted_by_name_is_let_through_and_told(live: Live, tmp_path: Path) -> None:
    broken = b"COMMENT ON TABLE public.gone IS 'x';\nCREATE TABLE public.spy ();\n"
    backup = changed(live, tmp_path, END, broken + END)
    with pytest.raises(LoadError) as refused:
        inplace.restore(live.target, backup, [])
    accept = (refused.value.item, "table:public.spy", "table:public.other")
    done = inplace.restore(live.target, backup, [], accept=accept)
    assert [a.item for a in done.accepted] == [refused.value.item]
    assert [str(d) for d in done.differences] == ["table public.spy: it was not in the source"]
    assert differences(live.target, backup, accept) == ["table public.spy: it was not in the source"]


def test_bytes_that_are_not_the_manifests_undo_everything(live: Live, tmp_path: Path) -> None:
    data = live.backup.path.read_bytes()
    live.backup.path.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(OpsError, match="cut"):
        inplace.restore(live.target, live.backup, [])
    assert live.is_as_it_was()
    manifest = replace(live.backup, manifest=live.backup.manifest.model_copy(update={"sha256": "0" * 64}))
    live.backup.path.write_bytes(data)
    with pytest.raises(OpsError, match="changed since it was taken"):
        inplace.restore(live.target, manifest, [])
    assert live.is_as_it_was()


def test_a_ctrl_c_among_the_rows_undoes_everything_before_we_return(live: Live) -> None:
    with pytest.raises(KeyboardInterrupt):
        inplace.restore(live.target, live.backup, [], progress=interrupting(after=300_000))
    with closing(session.connect(live.target)) as connection:
        assert connection.execute(OTHERS.encode()).fetchone() == (0,)
    assert live.is_as_it_was()


def interrupting(*, after: int) -> Callable[[int], None]:
    seen = [0]

    def progress(size: int) -> None:
        seen[0] += size
        if seen[0] > after:
            raise KeyboardInterrupt

    return progress


def test_a_session_that_is_ended_from_outside_undoes_everything(live: Live) -> None:
    def end(_size: int) -> None:
        with closing(session.connect(live.target)) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(l.pid, 5000) FROM pg_locks l JOIN pg_database d ON d.oid = l.database"
                " WHERE d.datname = current_database() AND l.mode = 'AccessExclusiveLock' AND l.pid <> pg_backend_pid()"
            )

    with pytest.raises(OpsError, match="the server failed"):
        inplace.restore(live.target, live.backup, [], progress=end)
    assert live.is_as_it_was()


RESTORING = """
import sys
from polyladder_ops import catalog, inplace
from polyladder_ops.postgres.conninfo import Target
from pathlib import Path
target = Target.of(**eval(sys.stdin.read()))
print("begun", flush=True)
inplace.restore(target, catalog.open_backup(Path(sys.argv[1])), [])
print("done", flush=True)
"""


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="Windows kills otherwise")
def test_killed_at_any_moment_it_is_the_old_state_or_the_new_one(live: Live) -> None:
    ended = []
    for moment in range(14):
        argv = [sys.executable, "-c", RESTORING, str(live.backup.path)]
        process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT)
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(repr(dict(live.target.parameters)).encode())
        process.stdin.close()
        process.stdout.readline()
        time.sleep(moment * 0.12)
        process.kill()
        process.stdout.close()
        process.wait()
        alone(live.target)
        ended.append("old" if live.is_as_it_was() else "new")
        if ended[-1] == "new":
            assert differences(live.target, live.backup) == []
            break
    assert ended.count("old") >= 3, ended


OTHERS = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""


def alone(target: Target) -> None:
    """Wait until the server has noticed that a killed client is gone."""
    deadline = time.monotonic() + 20
    with closing(session.connect(target)) as connection:
        while connection.execute(OTHERS.encode()).fetchone() != (0,):
            assert time.monotonic() < deadline
            time.sleep(0.05)


# Others meanwhile, and the end ----------------------------------------------------------------------------------------


def test_nobody_sees_anything_of_it_before_the_end_and_nobody_is_ended(live: Live) -> None:
    seen = []
    with closing(session.connect(live.target)) as app:
        query = "SELECT count(*) FROM pg_catalog.pg_class WHERE relname = 'newer'"

        def look(_size: int) -> None:
            seen.append(app.execute(query.encode()).fetchone())

        inplace.restore(live.target, live.backup, [], progress=look)
        assert set(seen) == {(1,)}
        assert app.execute(query.encode()).fetchone() == (0,)
    assert differences(live.target, live.backup) == []


def test_it_gives_up_where_somebody_holds_a_lock_and_says_who(live: Live) -> None:
    parameters = {**live.target.parameters, "application_name": "the app"}
    with closing(session.connect(Target.of(**parameters))) as app:
        app.execute("BEGIN")
        app.execute("SELECT count(*) FROM public.newer")
        began = time.monotonic()
        with pytest.raises(OpsError, match="somebody else uses the database") as caught:
            inplace.restore(live.target, live.backup, [], lock_wait_s=0.5)
        assert 0.5 <= time.monotonic() - began < 5
        assert app.execute("SELECT count(*) FROM public.newer").fetchone() == (1000,)
        assert (
            f"process {app.info.backend_pid} of postgres (the app, idle in transaction) holds public.newer"
            in (caught.value.detail)
        )
    assert live.is_as_it_was()


def test_a_lock_on_something_that_is_no_table_is_not_waited_for_either(live: Live) -> None:
    with closing(session.connect(live.target)) as app:
        app.execute("CREATE SEQUENCE public.counter")
        app.execute("BEGIN")
        app.execute("SELECT nextval('public.counter')")
        began = time.monotonic()
        with pytest.raises(OpsError, match="somebody else uses the database") as caught:
            inplace.restore(live.target, live.backup, [], lock_wait_s=0.3)
        assert time.monotonic() - began < 5
        assert "holds public.counter" in caught.value.detail


@pytest.mark.parametrize("committed", [True, False])
def test_a_lost_answer_to_the_commit_is_asked_for_again(
    committed: bool, live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = opening.Session.execute

    def losing(self: session.Connection, query: object, *args: object, **options: object) -> object:
        if query == "COMMIT":
            if committed:
                real(self, query)
            self.close()
            raise psycopg.OperationalError("the connection is lost")
        return real(self, query, *args, **options)  # type: ignore[call-overload]

    monkeypatch.setattr(opening.Session, "execute", losing)
    if committed:
        inplace.restore(live.target, live.backup, [])
        assert differences(live.target, live.backup) == []
    else:
        with pytest.raises(OpsError, match="as it was"):
            inplace.restore(live.target, live.backup, [])
        assert live.is_as_it_was()


# What keeps it from being tried ---------------------------------------------------------------------------------------


@pytest.fixture
def owner(server: Server, sample: Target) -> Iterator[Target]:
    """A database by its owner's login, who may make no database and is no superuser."""
    name = f"inplace_owner_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x' NOCREATEDB", name)
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0 OWNER %I", name, name)
    login = Target.of(**{**server.target(name).parameters, "user": name, "password": "x"})
    execute(
        login,
        "CREATE TABLE t (a serial PRIMARY KEY, kind varchar(9) CHECK (kind IN ('x', 'y'))); INSERT INTO t (kind) VALUES ('x');"
        "CREATE EXTENSION citext SCHEMA public; CREATE SCHEMA s; CREATE TABLE s.u (c public.citext);"
        "SELECT lo_from_bytea(5, 'large'); GRANT SELECT ON t TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC",
    )
    yield login
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", name)
    run(server.target(), "DROP ROLE %I", name)


def test_an_owner_without_createdb_restores_in_place_and_proves_it(
    owner: Target, server: Server, tmp_path: Path
) -> None:
    """The check is reworded: the replay that settles it needs no database of its own."""
    backup = take(owner, tmp_path)
    execute(
        owner, "DROP TABLE t; CREATE TABLE public.other (a int); DROP SCHEMA s CASCADE; SELECT lo_unlink(5)"
    )
    assert inplace.obstacles(owner, backup.manifest) == ()
    assert inplace.restore(owner, backup, []).differences == ()
    assert differences(server.target(owner.database), backup) == []


def test_what_belongs_to_others_is_named_before_anything_is_touched(
    owner: Target, server: Server, tmp_path: Path
) -> None:
    backup = take(owner, tmp_path)
    execute(
        server.target(owner.database),
        "CREATE TABLE public.theirs (); CREATE EXTENSION postgres_fdw SCHEMA public",
    )
    role = owner.parameters["user"]
    assert inplace.obstacles(owner, backup.manifest) == (
        f"the role {role} may not drop what belongs to postgres: table public.theirs",
        f"the role {role} may not drop the extension postgres_fdw, which belongs to postgres",
    )
    with pytest.raises(Refused, match="can't be restored in place"):
        inplace.restore(owner, backup, [])


def test_what_only_a_superuser_may_make_is_named(
    owner: Target, sample: Target, server: Server, tmp_path: Path
) -> None:
    superuser = server.target(owner.database)
    execute(
        superuser,
        "CREATE EXTENSION postgres_fdw SCHEMA public; CREATE TABLE public.theirs ();"
        "CREATE FUNCTION public.quiet() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';"
        "CREATE EVENT TRIGGER quiet ON ddl_command_end EXECUTE FUNCTION public.quiet()",
    )
    backup = take(superuser, tmp_path)
    execute(
        superuser,
        "DROP EVENT TRIGGER quiet; DROP EXTENSION postgres_fdw; DROP TABLE public.theirs; DROP FUNCTION public.quiet",
    )
    role = owner.parameters["user"]
    assert inplace.obstacles(owner, backup.manifest) == (
        f"the role {role} may not make the extension postgres_fdw",
        f"the role {role} may not give objects to postgres",
        "only a superuser may make event trigger quiet",
    )


def test_another_locale_is_named(live: Live, server: Server) -> None:
    name = f"inplace_{next(numbers)}"
    run(
        server.target(),
        "CREATE DATABASE %I TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc",
        name,
    )
    try:
        found = inplace.obstacles(server.target(name), live.backup.manifest)
        assert "the database has the encoding 'LATIN1', the backup 'UTF8'" in found
    finally:
        run(server.target(), "DROP DATABASE %I WITH (FORCE)", name)


def test_a_subscription_with_a_slot_is_named_and_one_without_is_dropped(live: Live) -> None:
    execute(
        live.target,
        "CREATE SUBSCRIPTION s CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false, slot_name = 'x')",
    )
    said = "the subscription s has a replication slot and can't be dropped in a transaction"
    assert inplace.obstacles(live.target, live.backup.manifest) == (said,)
    execute(live.target, "ALTER SUBSCRIPTION s SET (slot_name = NONE)")
    inplace.restore(live.target, live.backup, [])
    assert differences(live.target, live.backup) == []


def test_a_standby_takes_no_restore(live: Live) -> None:
    with closing(session.connect(live.target)) as connection:
        facts = replace(clearing_facts.read(connection), is_standby=True)
    assert list(inplace._obstacles(facts, live.backup.manifest)) == [
        "the server is a standby and takes no writes"
    ]


def test_a_disk_without_room_for_a_second_copy_is_named(live: Live) -> None:
    """What is dropped in a transaction keeps its files until the end."""
    with closing(session.connect(live.target)) as connection:
        facts = replace(clearing_facts.read(connection), volume=Volume(10_000_000, 1_000_000))
    (said,) = inplace._obstacles(facts, live.backup.manifest)
    assert said.startswith("the old rows stay until the end, so it needs up to 2")
    assert said.endswith("and the server's disk has 976.6 KiB free")


@pytest.fixture(scope="module")
def cramped() -> Iterator[Target]:
    """A server with room for few locks, and for prepared transactions."""
    if sys.platform != "linux":
        pytest.skip("servers with settings of their own are started on Linux")
    with majors.running(
        18, max_locks_per_transaction="10", max_connections="20", max_prepared_transactions="1"
    ) as target:
        yield target


MANY = "DO $$BEGIN FOR i IN 1..300 LOOP EXECUTE format('CREATE TABLE public.t%s (a int PRIMARY KEY, b text)', i); COMMIT; END LOOP; END$$"


def test_too_many_objects_for_the_servers_locks_are_computed_before_anything_is_touched(
    cramped: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(cramped, "CREATE DATABASE %I", "many")
    target = cramped.with_database("many")
    execute(target, MANY)
    backup = take(target, tmp_path)
    (said,) = inplace.obstacles(target, backup.manifest)
    assert "locks and the server has room for 210: raise max_locks_per_transaction" in said
    before = state(target, backup.manifest.contents)
    with pytest.raises(Refused) as refused:
        inplace.restore(target, backup, [])
    assert "max_locks_per_transaction" in refused.value.detail
    # And if it is tried all the same, the server says so, and nothing has happened.
    monkeypatch.setattr(inplace, "obstacles", lambda *_: ())
    with pytest.raises(OpsError, match="as it was") as caught:
        inplace.restore(target, backup, [])
    assert "max_locks_per_transaction" in caught.value.hint
    assert state(target, backup.manifest.contents) == before


def test_a_prepared_transaction_is_named(cramped: Target, tmp_path: Path) -> None:
    run(cramped, "CREATE DATABASE %I", "prepared")
    target = cramped.with_database("prepared")
    backup = take(target, tmp_path)
    execute(target, "BEGIN; CREATE TABLE public.t (); PREPARE TRANSACTION 'left over'")
    assert inplace.obstacles(target, backup.manifest) == (
        "the prepared transaction left over holds its locks until it is ended",
    )
    execute(target, "ROLLBACK PREPARED 'left over'")


def test_the_locks_that_dropping_takes_are_those_that_were_computed(sample_database: Target) -> None:
    with closing(session.connect(sample_database)) as connection:
        computed = clearing_facts.read(connection).locks
        connection.execute("BEGIN")
        clearing.clear(connection)
        ((taken,),) = connection.execute(
            "SELECT count(DISTINCT (locktype, relation, classid, objid)) FROM pg_locks WHERE pid = pg_backend_pid()"
        ).fetchall()
        connection.execute("ROLLBACK")
    assert computed <= taken <= computed + 250


@pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")
@pytest.mark.parametrize("major", [13, 14, 15, 16, 17])
def test_an_older_servers_database_comes_back_in_place_there_for_its_owner_too(
    major: int, need: Callable[[object, str], None], tmp_path: Path
) -> None:
    """Before 15 the schema public belongs to the superuser: its owner can only empty it."""
    need(majors.programs(major), f"no PostgreSQL {major} (python -m tests.majors)")
    with majors.running(major) as server:
        run(server, "CREATE ROLE %I LOGIN PASSWORD 'x'", "owner")
        run(server, "CREATE DATABASE %I OWNER %I", "mine", "owner")
        login = Target.of(**{**server.parameters, "dbname": "mine", "user": "owner", "password": "x"})
        made = "CREATE TABLE t (a serial, kind varchar(9) CHECK (kind IN ('x', 'y'))); INSERT INTO t (kind) VALUES ('x')"
        execute(login, made)
        backup = take(login, tmp_path)
        execute(
            login,
            "DROP TABLE t; CREATE TABLE u (); CREATE TYPE e AS ENUM (); CREATE FUNCTION f() RETURNS e LANGUAGE sql AS 'SELECT NULL::e'",
        )
        inplace.restore(login, backup, [])
        assert differences(server.with_database("mine"), backup) == []
        execute(
            server.with_database("mine"),
            "DROP SCHEMA public CASCADE; CREATE SCHEMA other; CREATE TABLE other.t ()",
        )
        inplace.restore(server.with_database("mine"), backup, [])
        assert differences(server.with_database("mine"), backup) == []


def test_an_event_trigger_of_an_extension_does_not_notice_that_things_are_dropped(
    older_server: Target, tmp_path: Path
) -> None:
    """Servers before 17 can't be told to leave them out, and it can only be dropped with its extension."""
    target = older_server.with_database(f"inplace_{next(numbers)}")
    run(older_server, "CREATE DATABASE %I TEMPLATE template0", target.database)
    backup = take(target, tmp_path)
    angry = "CREATE FUNCTION angry() RETURNS event_trigger LANGUAGE plpgsql AS $$BEGIN RAISE EXCEPTION 'no'; END$$;"
    execute(target, angry + "CREATE PUBLICATION p; CREATE EXTENSION hstore; CREATE EVENT TRIGGER angry ON sql_drop EXECUTE FUNCTION angry();"
            "ALTER EXTENSION hstore ADD EVENT TRIGGER angry")  # fmt: skip
    inplace.restore(target, backup, [])
    assert differences(target, backup) == []
    run(older_server, "DROP DATABASE %I", target.database)


def test_the_time_that_it_blocks_is_told(live: Live) -> None:
    manifest = live.backup.manifest.model_copy(update={"plain_bytes": 200_000_000})
    assert 20 < inplace.estimate_s(manifest) < 25
