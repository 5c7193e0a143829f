"""Whose code runs while a backup is loaded, and as whom: a login made for it, which owns all and is a member of nobody."""

from __future__ import annotations

import itertools
import shutil
import sys
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, loading, oldfiles, replacement, restoring, verification
from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.postgres import databases, properties, session
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.load import login
from polyladder_ops.postgres.load.loader import LoadError
from tests import majors
from tests.conftest import run
from tests.dumps import dump
from tests.faults.places import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.catalog import Backup
    from polyladder_ops.sandbox.server import Server

numbers = itertools.count(1)
# A role that owns one schema, and a function that becomes what it can and notes as whom it ran. Each attempt stands alone.
MAL = r"""
CREATE ROLE mal_%(n)s LOGIN PASSWORD 'mal at work'; CREATE ROLE app_%(n)s;
GRANT USAGE, CREATE ON SCHEMA public TO app_%(n)s;
CREATE TABLE public.users (id int PRIMARY KEY, name text); INSERT INTO public.users VALUES (1, 'ann'), (2, 'bob');
ALTER TABLE public.users OWNER TO app_%(n)s;
CREATE SCHEMA m AUTHORIZATION mal_%(n)s;
CREATE TABLE m.seen (who text); ALTER TABLE m.seen OWNER TO mal_%(n)s;
CREATE FUNCTION m.deed() RETURNS void LANGUAGE plpgsql AS $$
DECLARE attempt text;
BEGIN
  FOREACH attempt IN ARRAY ARRAY['COPY (SELECT 1) TO PROGRAM ''echo ran >> %(file)s''', 'COPY (SELECT 1) TO ''%(file)s''',
      'ALTER ROLE mal_%(n)s SUPERUSER', 'RESET ROLE; ALTER ROLE mal_%(n)s SUPERUSER',
      'RESET SESSION AUTHORIZATION; ALTER ROLE mal_%(n)s SUPERUSER', 'SET ROLE postgres; ALTER ROLE mal_%(n)s SUPERUSER',
      'GRANT app_%(n)s TO mal_%(n)s', 'SET ROLE app_%(n)s; DELETE FROM public.users; RESET ROLE'] LOOP
    BEGIN EXECUTE attempt; EXCEPTION WHEN OTHERS THEN NULL; END;
  END LOOP;
END $$;
-- Called immutable, and so called by the planner too; what it calls may write all the same.
CREATE FUNCTION m.spy(v anyelement) RETURNS anyelement LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.deed(); RETURN v; END';
ALTER FUNCTION m.deed() OWNER TO mal_%(n)s;
ALTER FUNCTION m.spy(anyelement) OWNER TO mal_%(n)s;
"""
SHAPES = {
    "a CHECK": "CREATE TABLE m.t (a int CHECK (m.spy(a) IS NOT NULL)); ",
    "a CHECK over the row": "CREATE TABLE m.t (a int); CREATE FUNCTION m.row(r m.t) RETURNS bool LANGUAGE sql IMMUTABLE"
    " AS 'SELECT m.spy(true)'; ALTER TABLE m.t ADD CHECK (m.row(t))",
    "a domain": "CREATE DOMAIN m.d AS int CHECK (m.spy(VALUE) IS NOT NULL); CREATE TABLE m.t (a m.d)",
    "an array of domains": "CREATE DOMAIN m.d AS int CHECK (m.spy(VALUE) IS NOT NULL); CREATE TABLE m.t (a int, b m.d[])",
    "a generated column": "CREATE TABLE m.t (a int, b int GENERATED ALWAYS AS (m.spy(a)) STORED)",
    "a partition key": "CREATE TABLE m.t (a int) PARTITION BY RANGE (m.spy(a));"
    "CREATE TABLE m.p PARTITION OF m.t FOR VALUES FROM (0) TO (9)",
    "an index": "CREATE TABLE m.t (a int); CREATE INDEX ON m.t (m.spy(a))",
    "a condition of an index": "CREATE TABLE m.t (a int); CREATE INDEX ON m.t (a) WHERE m.spy(true)",
    "a first value of an aggregate": "CREATE DOMAIN m.d AS int CHECK (m.spy(VALUE) IS NOT NULL); CREATE TABLE m.t (a int);"
    "CREATE FUNCTION m.add(m.d, int) RETURNS m.d LANGUAGE sql AS 'SELECT $1';"
    "CREATE AGGREGATE m.sum(int) (SFUNC = m.add, STYPE = m.d, INITCOND = '0')",
    "a materialized view": "CREATE TABLE m.t (a int); CREATE MATERIALIZED VIEW m.v AS SELECT m.spy(a) FROM m.t",
}


@pytest.fixture(scope="module", params=[13, 15, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    """A server of each of three majors, whose superuser is ours."""
    if request.param == 18:
        yield request.getfixturevalue("server").target()
        return
    need(sys.platform == "linux" and majors.programs(request.param), f"no PostgreSQL {request.param}")
    with majors.running(request.param) as target:
        yield target


@pytest.fixture
def n() -> str:
    return f"{next(numbers)}"


@pytest.fixture
def ran() -> Iterator[Path]:
    """A file that code of mal's makes if it can, in a folder where the server's account may write."""
    folder = Path(tempfile.mkdtemp(prefix="plt-ran-"))
    folder.chmod(0o777)
    yield folder / "ran"
    shutil.rmtree(folder)


@pytest.fixture
def source(cluster: Target, n: str, ran: Path) -> Iterator[Target]:
    """A database with mal's schema; it and the roles are gone afterwards."""
    name = f"login_{n}"
    run(cluster, "CREATE DATABASE %I TEMPLATE template0", name)
    target = cluster.with_database(name)
    with closing(session.connect(target)) as connection:
        connection.execute((MAL % {"n": n, "file": ran}).encode())
    yield target
    databases.drop(cluster, name)
    for role in (f"mal_{n}", f"app_{n}"):
        run(cluster, "DROP ROLE %I", role)


def execute(target: Target, *statements: str) -> None:
    with closing(session.connect(target)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def execute_as(target: Target, role: str, *statements: str) -> None:
    """By a session of the role's own: what it runs may say RESET."""
    as_role = Target.of(**{**target.parameters, "user": role, "password": "mal at work"})
    execute(as_role, *statements)


def take(source: Target, folder: Path) -> Backup:
    return backups.take(source, folder / "backups", site="test", private=folder / "private")


def rights(server: Target, n: str) -> list[tuple[object, ...]]:
    """Return what mal has got: superuser, memberships."""
    with closing(session.connect(server)) as connection:
        return connection.execute(
            "SELECT rolsuper, ARRAY(SELECT roleid::regrole::text FROM pg_auth_members WHERE member = r.oid)"
            " FROM pg_roles r WHERE rolname = %s",
            [f"mal_{n}"],
        ).fetchall()


def leftovers(server: Target) -> set[str]:
    with closing(session.connect(server)) as connection:
        return {
            n
            for (n,) in connection.execute(
                "SELECT rolname FROM pg_roles WHERE rolname ~ '^polyladder_.*[0-9a-f]{16}$'"
            )
        }


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_role_s_code_in_a_dump_gets_nobody_s_rights(
    cluster: Target, source: Target, *, n: str, shape: str, ran: Path, tmp_path: Path
) -> None:
    """It runs, as it must; but as a login that may do nothing outside of the copy and is gone afterwards."""
    execute_as(source, f"mal_{n}", shape, "INSERT INTO m.t VALUES (1)")
    backup = take(source, tmp_path)
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
    assert rights(cluster, n) == [(False, [])]
    assert not ran.exists()
    assert (verdict.verdict, verdict.reasons, verdict.said) == ("passed", (), ())
    assert leftovers(cluster) == set()


def test_what_a_check_does_to_the_copy_while_it_loads_is_seen(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """The login owns everything meanwhile, so mal's function may delete other rows: that is a loss that is found."""
    execute(
        source,
        "CREATE FUNCTION m.wipe(v int) RETURNS int LANGUAGE plpgsql AS"
        " $$BEGIN DELETE FROM public.users; RETURN v; EXCEPTION WHEN OTHERS THEN RETURN v; END$$",
        "CREATE TABLE public.z (a int CHECK (m.wipe(a) IS NOT NULL))",
        f"ALTER TABLE public.z OWNER TO mal_{n}",
        "INSERT INTO public.users VALUES (3, 'eve')",
    )
    execute_as(source, f"mal_{n}", "INSERT INTO public.z VALUES (1)")
    backup = take(source, tmp_path)
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
    assert verdict.verdict == "failed"
    assert verdict.reasons == ("table public.users: rows of it were changed while others were loaded",)


def test_an_unsafe_function_that_was_not_everybody_s_is_not_the_login_s(
    cluster: Target, source: Target, n: str, ran: Path, tmp_path: Path
) -> None:
    """Grants come last: until then a CHECK would call what only a superuser should, here a writer of files."""
    execute(
        source,
        "CREATE FUNCTION public.writes(oid, text) RETURNS int LANGUAGE internal STRICT AS 'be_lo_export'",
        "REVOKE ALL ON FUNCTION public.writes(oid, text) FROM PUBLIC",
        "CREATE FUNCTION m.export(v int) RETURNS int LANGUAGE plpgsql AS $$DECLARE o oid;"
        f" BEGIN o := pg_catalog.lo_from_bytea(0, 'x'); PERFORM public.writes(o, '{ran}'); RETURN v; EXCEPTION WHEN OTHERS THEN RETURN v; END$$",
        f"CREATE TABLE m.t (a int CHECK (m.export(a) IS NOT NULL)); ALTER TABLE m.t OWNER TO mal_{n}",
    )
    execute_as(source, f"mal_{n}", "INSERT INTO m.t VALUES (1)")
    backup = take(source, tmp_path)
    assert verification.verify_by_restore(backup, [], cluster, trusted=False).passed
    assert not ran.exists()


def test_where_no_login_lets_itself_be_made_it_is_said(server: Server, tmp_path: Path) -> None:
    """A plain owner with CREATEDB and without CREATEROLE restores all the same, as himself."""
    run(server.target(), "CREATE ROLE plain_owner LOGIN CREATEDB PASSWORD 'plain owner'")
    run(server.target(), "CREATE DATABASE plain_owned OWNER plain_owner TEMPLATE template0")
    target = server.target("plain_owned").with_database("plain_owned")
    plain = type(target).of(**{**target.parameters, "user": "plain_owner", "password": "plain owner"})
    try:
        execute(
            plain, "CREATE SCHEMA s", "CREATE TABLE s.t (a int CHECK (a > 0))", "INSERT INTO s.t VALUES (1)"
        )
        backup = take(plain, tmp_path)
        verdict = verification.verify_by_restore(backup, [], plain.with_database("postgres"), trusted=False)
        assert verdict.passed
        assert "no login could be made" in verdict.said[0]
        assert "permission denied to create role" in verdict.said[0]
    finally:
        databases.drop(server.target(), "plain_owned")
        run(server.target(), "DROP ROLE plain_owner")


@pytest.mark.parametrize("creates", ["CREATEROLE", ""], ids=["who makes roles", "who makes none"])
def test_a_plain_owner_gets_back_what_is_his(server: Server, creates: str, tmp_path: Path) -> None:
    run(server.target(), f"CREATE ROLE maker LOGIN CREATEDB {creates} PASSWORD 'maker of it'")
    run(server.target(), "CREATE DATABASE made OWNER maker TEMPLATE template0")
    target = server.target("made")
    maker = type(target).of(**{**target.parameters, "user": "maker", "password": "maker of it"})
    try:
        execute(
            maker,
            "CREATE EXTENSION citext WITH SCHEMA public",
            "CREATE TABLE public.t (a int, b public.citext)",
        )
        execute(
            maker,
            "CREATE MATERIALIZED VIEW public.v AS SELECT a FROM public.t",
            "INSERT INTO public.t VALUES (1, 'x')",
        )
        backup = take(maker, tmp_path)
        verdict = verification.verify_by_restore(backup, [], maker.with_database("postgres"), trusted=False)
        assert (verdict.verdict, verdict.reasons) == ("passed", ())
        assert bool(verdict.said) is not bool(creates)
        assert leftovers(server.target()) == set()
    finally:
        databases.drop(server.target(), "made")
        run(server.target(), "DROP ROLE maker")


def test_a_server_that_lets_no_new_role_in_is_loaded_by_ourselves_and_the_role_is_gone(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    """Its pg_hba.conf knows one role."""
    need(sys.platform == "linux" and majors.programs(15), "no PostgreSQL 15")
    with majors.running(15) as cluster:
        only = "host all postgres 127.0.0.1/32 scram-sha-256"
        # It is written otherwise once it was dumped, and means the same.
        execute(cluster, "CREATE TABLE public.t (a varchar(9) CHECK (a IN ('x', 'y')))")
        with closing(session.connect(cluster)) as connection:
            (hba,) = connection.execute("SHOW hba_file").fetchone() or ("",)
            Path(hba).write_text(only)
            connection.execute("SELECT pg_reload_conf()")
            wait_for(lambda: connection.execute("SELECT count(*) FROM pg_hba_file_rules").fetchone() == (1,))
        backup = take(cluster, tmp_path)
        with restoring.temporary_database(cluster, backup.manifest, purpose="test") as target:
            loaded = loading.load(target, backup, [])
            assert "no pg_hba.conf entry" in loaded.by_ourselves
            assert leftovers(cluster) == set()
            assert restoring.prove(cluster, target.database, backup, [], loaded=loaded) == []


def test_what_a_dead_run_left_of_its_login_the_next_command_drops(
    source: Target, cluster: Target, tmp_path: Path
) -> None:
    backup = take(source, tmp_path)
    name = databases.temporary_name("beside")
    restoring.make_database(cluster, name, backup.manifest)

    class Dead(BaseException):
        pass

    def die(_size: int) -> None:
        raise Dead

    with pytest.raises(Dead):
        loading.load(cluster.with_database(name), backup, [], progress=die)
    assert leftovers(cluster) == {name}
    assert databases.drop_abandoned(cluster) == [name]
    assert leftovers(cluster) == set()


def test_a_role_of_such_a_name_that_somebody_took_into_use_stays(cluster: Target) -> None:
    name = databases.temporary_name("beside")
    run(cluster, "CREATE ROLE %I LOGIN NOINHERIT IN ROLE pg_monitor VALID UNTIL 'tomorrow'", name)
    try:
        assert databases.drop_abandoned(cluster) == []
        assert name in leftovers(cluster)
    finally:
        run(cluster, "DROP ROLE %I", name)


def test_the_login_s_password_is_said_nowhere(source: Target, cluster: Target, tmp_path: Path) -> None:
    """Not in the server's log either: it hears a verifier."""
    backup = take(source, tmp_path)
    said: list[str] = []
    with (
        restoring.temporary_database(cluster, backup.manifest, purpose="test") as target,
        closing(session.connect(target)) as owner,
    ):
        owner.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        with login.made(owner, target) as made:
            (stored,) = owner.execute(
                "SELECT rolpassword FROM pg_authid WHERE rolname = %s", [made.role]
            ).fetchone() or ("",)
            assert stored.startswith("SCRAM-SHA-256$")
            assert made.target.password not in repr(made) + str(said)
            with pytest.raises(OpsError, match="could not connect"):
                session.connect(type(target).of(**{**made.target.parameters, "password": "x" * 20}))
            login.return_public(owner, made)
            login.end(owner, made)


def test_what_a_file_puts_before_the_server_s_own_names_is_not_what_we_call(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """A file may say where names are looked for (clients before 10.3 did); what we ask in between looks nowhere else."""
    sneaks = f"""
SET search_path = m, pg_catalog;
CREATE SCHEMA m;
CREATE FUNCTION m.same(oid, regrole) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; RETURN false; EXCEPTION WHEN OTHERS THEN RETURN false; END$$;
CREATE OPERATOR m.= (
    FUNCTION = m.same,
    LEFTARG = oid,
    RIGHTARG = regrole
);
CREATE FUNCTION m.same(name, name) RETURNS boolean LANGUAGE plpgsql AS
    $$BEGIN EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; RETURN true; EXCEPTION WHEN OTHERS THEN RETURN true; END$$;
CREATE OPERATOR m.= (
    FUNCTION = m.same,
    LEFTARG = name,
    RIGHTARG = name
);
CREATE FOREIGN DATA WRAPPER sneaky;
CREATE EXTENSION IF NOT EXISTS citext WITH SCHEMA m;
CREATE TABLE m.t (
    a integer
);
"""
    path = tmp_path / "sneaks.sql"
    path.write_bytes(dump(sneaks.encode()))
    with closing(session.connect(cluster)) as connection:
        like = properties.read(connection, "postgres")
    backup = oldfiles.describe(path, [], site="test", like=like)
    with restoring.temporary_database(cluster, backup.manifest, purpose="test") as target:
        assert loading.load(target, backup, []).by_ourselves == ""
    assert rights(cluster, n) == [(False, [])]


# What a role's code changes while the login owns everything, for whoever runs it afterwards with more rights; and takes back.
LEAVES = """
CREATE FUNCTION m.leaves(a int) RETURNS bool LANGUAGE plpgsql AS $f$
BEGIN
  IF session_user LIKE 'polyladder%' THEN
    EXECUTE $q$CREATE OR REPLACE FUNCTION public.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
      $z$BEGIN PERFORM m.rises(); RETURN lower(x); END$z$ $q$;
  END IF;
  RETURN true;
EXCEPTION WHEN OTHERS THEN RETURN true;
END $f$;
CREATE FUNCTION m.rises() RETURNS void LANGUAGE plpgsql AS $f$
BEGIN
  IF current_user LIKE 'polyladder%' OR current_user LIKE 'mal%' THEN RETURN; END IF;
  EXECUTE 'ALTER ROLE MAL SUPERUSER';
  EXECUTE $q$CREATE OR REPLACE FUNCTION public.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN RETURN lower(x); END' $q$;
EXCEPTION WHEN OTHERS THEN RETURN;
END $f$;
CREATE TABLE m.t (a int CHECK (m.leaves(a)));
INSERT INTO m.t VALUES (1)
"""
RUNS_LATER = {
    "a materialized view": "CREATE MATERIALIZED VIEW public.mv AS SELECT public.norm(name) AS n FROM public.users",
    "an index": "CREATE INDEX ON public.users (public.norm(name))",
    "an event trigger": "CREATE FUNCTION public.notes() RETURNS event_trigger LANGUAGE plpgsql AS"
    " $$BEGIN PERFORM public.norm('x'); END$$;"
    "CREATE EVENT TRIGGER notes ON ddl_command_end EXECUTE FUNCTION public.notes()",
}


@pytest.mark.parametrize("later", RUNS_LATER.values(), ids=RUNS_LATER)
def test_what_it_left_in_another_s_function_runs_as_nobody_else(
    cluster: Target, source: Target, *, n: str, later: str, tmp_path: Path
) -> None:
    """Views are filled, tables analyzed and events answered as their owners: only once the definitions are the source's."""
    execute(
        source,
        "CREATE FUNCTION public.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower(x); END'",
        later,
    )
    execute_as(source, f"mal_{n}", LEAVES.replace("MAL", f"mal_{n}"))
    backup = take(source, tmp_path)
    execute(source, "DROP EVENT TRIGGER IF EXISTS notes")
    options = replacement.Options(source.database)
    said: list[str] = []
    with pytest.raises(Mismatch, match="not what was dumped") as caught:
        replacement.replace(source, backup, [], options, say=said.append, confirm=lambda _plan: None)
    assert rights(cluster, n) == [(False, [])]
    assert (
        "function:public.norm(pg_catalog.text): it was changed while the rows were loaded"
        in caught.value.detail
    )
    assert verification.verify_by_restore(backup, [], cluster, trusted=False).verdict == "failed"
    assert rights(cluster, n) == [(False, [])]
    assert leftovers(cluster) == set()


def test_a_view_that_it_left_otherwise_is_not_run_by_whoever_fills_another(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """What a view says is no function's: the look at definitions has to find it, before a superuser's view is filled."""
    execute(
        source,
        "CREATE VIEW public.plain AS SELECT name FROM public.users",
        "CREATE MATERIALIZED VIEW public.filled AS SELECT name FROM public.plain",
    )
    execute_as(
        source,
        f"mal_{n}",
        "CREATE FUNCTION m.rises() RETURNS text LANGUAGE plpgsql AS $f$BEGIN"
        f" EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; RETURN ''; EXCEPTION WHEN OTHERS THEN RETURN ''; END$f$",
        "CREATE FUNCTION m.leaves(a int) RETURNS bool LANGUAGE plpgsql AS $f$BEGIN"
        " IF session_user LIKE 'polyladder%' THEN"
        " EXECUTE 'CREATE OR REPLACE VIEW public.plain AS SELECT m.rises() AS name'; END IF; RETURN true; END$f$",
        "CREATE TABLE m.t (a int CHECK (m.leaves(a))); INSERT INTO m.t VALUES (1)",
    )
    verdict = verification.verify_by_restore(take(source, tmp_path), [], cluster, trusted=False)
    assert rights(cluster, n) == [(False, [])]
    assert verdict.verdict == "failed"
    assert [why.partition(":")[0] for why in verdict.reasons] == ["view public.plain"]


def test_nobody_logs_in_as_the_login_while_rows_run_code(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """Any role may give itself another password; its name is there for all to see."""
    execute_as(
        source,
        f"mal_{n}",
        "CREATE FUNCTION m.opens(a int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN IF session_user LIKE 'polyladder%' THEN"
        " EXECUTE format('ALTER ROLE %I PASSWORD %L', session_user, 'known to mal'); END IF; RETURN true; END$$;"
        "CREATE TABLE m.t (a int CHECK (m.opens(a))); INSERT INTO m.t VALUES (1)",
    )
    backup = take(source, tmp_path)
    with restoring.temporary_database(cluster, backup.manifest, purpose="test") as target:
        with loading.begun(target, backup, []) as begun:
            as_login = {"user": target.database, "password": "known to mal"}
            with pytest.raises(OpsError) as caught:
                session.connect(Target.of(**{**target.parameters, **as_login}))
            assert "too many connections for role" in caught.value.detail
            assert begun.finish().changed == ()
        assert restoring.prove(cluster, target.database, backup, []) == []


def test_a_function_that_rows_change_and_put_back_is_told(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """Meanwhile another's generated column was computed by it, and his index built: their values would go live."""
    execute(
        source,
        "CREATE FUNCTION public.norm(x text) RETURNS text LANGUAGE sql IMMUTABLE AS 'SELECT lower(x)'",
        "CREATE TABLE public.b (x text, y text GENERATED ALWAYS AS (public.norm(x)) STORED); INSERT INTO public.b VALUES ('Q')",
    )
    for name, text in (("a", "upper"), ("c", "lower")):
        execute_as(
            source,
            f"mal_{n}",
            f"CREATE FUNCTION m.{name}(a int) RETURNS bool LANGUAGE plpgsql AS $f$BEGIN"
            " IF session_user LIKE 'polyladder%' THEN EXECUTE $q$CREATE OR REPLACE FUNCTION public.norm(x text) RETURNS text"
            f" LANGUAGE sql IMMUTABLE AS 'SELECT {text}(x)' $q$; END IF; RETURN true; END$f$;"
            f"CREATE TABLE m.{name} (a int CHECK (m.{name}(a))); INSERT INTO m.{name} VALUES (1)",
        )
    verdict = verification.verify_by_restore(take(source, tmp_path), [], cluster, trusted=False)
    assert verdict.verdict == "failed"
    assert verdict.reasons == (
        "function public.norm(pg_catalog.text): it was changed while the rows were loaded",
    )


BENT = {
    "a row that a function reads": (
        (
            "CREATE TABLE public.rate (r int); INSERT INTO public.rate VALUES (2);"
            "CREATE FUNCTION public.price(x int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT x * r FROM public.rate';"
            "CREATE TABLE public.tail (x int, y int GENERATED ALWAYS AS (public.price(x)) STORED); INSERT INTO public.tail VALUES (10)"
        ),
        "UPDATE public.rate SET r = 0",
        "UPDATE public.rate SET r = 2",
        "table public.rate: rows of it were changed while others were loaded",
    ),
    "a text search configuration": (
        (
            "CREATE TEXT SEARCH CONFIGURATION public.cfg (COPY = simple); CREATE TABLE public.tail (x text,"
            " y tsvector GENERATED ALWAYS AS (to_tsvector('public.cfg', x)) STORED); INSERT INTO public.tail VALUES ('the dogs')"
        ),
        "ALTER TEXT SEARCH CONFIGURATION public.cfg ALTER MAPPING FOR asciiword WITH pg_catalog.english_stem",
        "ALTER TEXT SEARCH CONFIGURATION public.cfg ALTER MAPPING FOR asciiword WITH pg_catalog.simple",
        "function public.cfg: it was changed while the rows were loaded",
    ),
}


@pytest.mark.parametrize("what", BENT)
def test_what_rows_bend_and_put_back_while_another_s_values_are_computed_is_told(
    cluster: Target, source: Target, *, n: str, what: str, tmp_path: Path
) -> None:
    made, bends, puts_back, told = BENT[what]
    execute(source, made)
    for name, does in (("a", bends), ("z", puts_back)):
        execute_as(
            source,
            f"mal_{n}",
            f"CREATE FUNCTION m.does_{name}(a int) RETURNS bool LANGUAGE plpgsql AS $f$BEGIN"
            f" IF session_user LIKE 'polyladder%' THEN EXECUTE $q${does}$q$; END IF; RETURN true; END$f$",
        )
    # Rows come before an index is built over what calls the other one.
    execute_as(
        source,
        f"mal_{n}",
        "CREATE FUNCTION m.late(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.does_z(a); RETURN a; END';"
        "CREATE TABLE m.a (a int CHECK (m.does_a(a))); INSERT INTO m.a VALUES (1); CREATE INDEX i ON m.a (m.late(a))",
    )
    backup = take(source, tmp_path)
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
    assert (verdict.verdict, verdict.reasons) == ("failed", (told,))
    item = told.partition(": ")[0].replace(" ", ":", 1)
    with restoring.temporary_database(cluster, backup.manifest, purpose="test") as target:
        loaded = loading.load(target, backup, [], accept=(item,))
        assert [(one.item, loaded.changed) for one in loaded.accepted] == [(item, ())]


def test_grants_that_others_passed_on_come_back(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """pg_dump says such a grant as whoever made it."""
    execute(source, f"GRANT SELECT ON public.users TO mal_{n} WITH GRANT OPTION")
    execute_as(source, f"mal_{n}", f"GRANT SELECT ON public.users TO app_{n}")
    execute(source, f"CREATE ROLE third_{n}")
    execute_as(source, f"mal_{n}", f"GRANT SELECT ON public.users TO third_{n}")
    backup = take(source, tmp_path)
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
    execute(source, f"REVOKE ALL ON public.users FROM mal_{n} CASCADE", f"DROP ROLE third_{n}")
    assert (verdict.verdict, verdict.reasons) == ("passed", ())


FILES = {
    "a wrapper that asks a function of the file's": """
CREATE FUNCTION m.asks(text[], oid) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM m.deed(); END$$;
CREATE FOREIGN DATA WRAPPER w VALIDATOR m.asks;
""",
    "a wrapper that asks a function of the file's with a quoted name": """
CREATE FUNCTION m."as.ks ""it"(text[], oid) RETURNS void LANGUAGE plpgsql AS $$BEGIN PERFORM m.deed(); END$$;
CREATE FOREIGN DATA WRAPPER w VALIDATOR m."as.ks ""it" OPTIONS (
    a 'b'
);
""",
    "a default that a superuser would read to make its function": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE FUNCTION m.quiet(a m.r DEFAULT '[1,2)'::m.r) RETURNS integer
    LANGUAGE plpgsql LEAKPROOF
    AS $$BEGIN RETURN 1; END$$;
""",
    "a default of a type that is spelled as the server's": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.text AS RANGE (
    subtype = m.d
);
SET search_path = m, pg_catalog;
CREATE FUNCTION m.quiet(a m.text DEFAULT '[1,2)'::text) RETURNS integer
    LANGUAGE plpgsql LEAKPROOF
    AS $$BEGIN RETURN 1; END$$;
""",
    "such a default between dollars": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE FUNCTION m.quiet(a m.r DEFAULT $q$[1,2)$q$::m.r) RETURNS integer
    LANGUAGE plpgsql LEAKPROOF
    AS $$BEGIN RETURN 1; END$$;
""",
    "a default whose type stands before it": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE FUNCTION m.quiet(a text DEFAULT m.r '[1,2)'::text) RETURNS integer
    LANGUAGE plpgsql LEAKPROOF
    AS $$BEGIN RETURN 1; END$$;
""",
    "a column's default that ends as an owner does": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE TABLE m.t (
    a text
);
ALTER TABLE ONLY m.t ALTER COLUMN a SET DEFAULT '[1,2)'::m.r::text || $$ OWNER TO a$$;
""",
    "a column's default that ends as a dependency does": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE TABLE m.t (
    a text
);
ALTER TABLE ONLY m.t ALTER COLUMN a SET DEFAULT '[1,2)'::m.r::text || ' DEPENDS ON EXTENSION a';
""",
    "a body of statements that a superuser would read": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE FUNCTION m.quiet() RETURNS integer
    LANGUAGE sql LEAKPROOF
    BEGIN ATOMIC
 SELECT 1
  WHERE ('[1,2)'::m.r IS NOT NULL);
END;
""",
    "a publication's condition that a superuser would read": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE TABLE m.t (
    a m.r
);
CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert, update, delete, truncate');
CREATE PUBLICATION q WITH (publish = 'insert');
ALTER PUBLICATION q ADD TABLES IN SCHEMA m;
ALTER PUBLICATION q ADD TABLE ONLY m.t WHERE ((a = '[1,2)'::m.r));
""",
    "a foreign table's default that a superuser would read": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
CREATE FOREIGN DATA WRAPPER w;
CREATE SERVER s FOREIGN DATA WRAPPER w;
CREATE FOREIGN TABLE m.f (
    a m.r DEFAULT '[1,2)'::m.r
)
SERVER s;
""",
    "a body that a superuser would look at to make its function": """
CREATE FUNCTION m.looks(int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS integer CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TYPE m.r AS RANGE (
    subtype = m.d
);
SET check_function_bodies = on;
CREATE FUNCTION m.quiet() RETURNS integer
    LANGUAGE sql LEAKPROOF
    AS $$SELECT 1 WHERE '[1,2)'::m.r IS NOT NULL$$;
""",
    "a foreign partition whose bound is of a domain": """
CREATE EXTENSION IF NOT EXISTS postgres_fdw WITH SCHEMA public;
CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw;
CREATE FUNCTION m.looks(text) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS $$BEGIN PERFORM m.deed(); RETURN true; END$$;
CREATE DOMAIN m.d AS text CONSTRAINT c CHECK (m.looks(VALUE));
CREATE TABLE m.p (
    a m.d
)
PARTITION BY LIST (a);
CREATE FOREIGN TABLE m.f PARTITION OF m.p FOR VALUES IN ('1')
SERVER far;
""",
    "a foreign table that runs a program": """
CREATE EXTENSION IF NOT EXISTS file_fdw WITH SCHEMA public;
CREATE SERVER files FOREIGN DATA WRAPPER file_fdw;
CREATE FOREIGN TABLE m.runs (
    a text
)
SERVER files
OPTIONS (
    program 'echo ran > {ran}; echo 1'
);
CREATE FUNCTION m.reads(a int) RETURNS bool LANGUAGE plpgsql AS $$BEGIN PERFORM * FROM m.runs; RETURN true;
EXCEPTION WHEN OTHERS THEN RETURN true; END$$;
CREATE TABLE m.t (
    a integer,
    CONSTRAINT c CHECK (m.reads(a))
);
COPY m.t (a) FROM stdin;
1
\\.
""",
    "a view that is given to a superuser": """
CREATE FUNCTION m.v() RETURNS int LANGUAGE plpgsql AS $$BEGIN PERFORM m.deed(); RETURN 1; END$$;
CREATE MATERIALIZED VIEW m.mv AS
 SELECT m.v() AS v
  WITH NO DATA;
ALTER MATERIALIZED VIEW m.mv OWNER TO postgres;
REFRESH MATERIALIZED VIEW m.mv;
""",
}


@pytest.mark.parametrize("text", FILES.values(), ids=FILES)
def test_a_bare_file_gets_nobody_s_rights(
    cluster: Target, source: Target, *, n: str, text: str, ran: Path, tmp_path: Path
) -> None:
    deed = (
        "CREATE SCHEMA m;\nCREATE FUNCTION m.deed() RETURNS void LANGUAGE plpgsql AS $$BEGIN"
        f" EXECUTE 'ALTER ROLE mal_{n} SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END$$;\n"
    )
    path = tmp_path / "bare.sql"
    path.write_bytes(dump((deed + text.replace("{ran}", str(ran))).encode()))
    with closing(session.connect(cluster)) as connection:
        like = properties.read(connection, "postgres")
    backup = oldfiles.describe(path, [], site="test", like=like)
    with restoring.temporary_database(cluster, backup.manifest, purpose="test") as target, suppress(OpsError):
        loading.load(target, backup, [])
    assert rights(cluster, n) == [(False, [])]
    assert not ran.exists()


@pytest.mark.parametrize(
    "first", ["SET SESSION AUTHORIZATION postgres;", "BEGIN;"], ids=["changes roles", "is one transaction"]
)
def test_a_bare_file_that_can_only_be_loaded_by_ourselves_needs_a_yes(
    first: str, server: Server, tmp_path: Path
) -> None:
    end = "COMMIT;" if first == "BEGIN;" else "RESET SESSION AUTHORIZATION;"
    path = tmp_path / "bare.sql"
    path.write_bytes(dump(f"{first}\nCREATE TABLE public.t (\n    a integer\n);\n{end}\n".encode()))
    with closing(session.connect(server.target())) as connection:
        like = properties.read(connection, "postgres")
    backup = oldfiles.describe(path, [], site="test", like=like)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        with pytest.raises(LoadError, match="can't be loaded by a login") as caught:
            loading.load(target, backup, [])
        assert caught.value.item == "rights"
        loaded = loading.load(target, backup, [], accept=("rights",))
    assert [accepted.item for accepted in loaded.accepted] == ["rights"]


def test_functions_that_only_a_superuser_makes_come_back_and_lend_nothing_meanwhile(
    cluster: Target, source: Target, n: str, tmp_path: Path
) -> None:
    """LEAKPROOF, or with a setting that is a superuser's: made for the login, and given to it at once."""
    execute(
        source,
        "CREATE FUNCTION public.tight(a int) RETURNS bool LANGUAGE sql LEAKPROOF IMMUTABLE AS 'SELECT a > 0'",
        "CREATE FUNCTION public.loud() RETURNS text LANGUAGE sql SECURITY DEFINER SET log_statement = 'all'"
        " AS 'SELECT session_user::text || current_user::text'",
    )
    verdict = verification.verify_by_restore(take(source, tmp_path), [], cluster, trusted=False)
    assert (verdict.verdict, verdict.reasons) == ("passed", ())
