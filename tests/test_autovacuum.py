"""Autovacuum runs code of a table's owner, too, with no session of anybody's: while a copy is loaded, and after its proof."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import replacement, verification
from polyladder_ops.postgres import session
from polyladder_ops.postgres.proof import remakes
from polyladder_ops.sandbox import server as servers
from tests.conftest import run
from tests.test_login import execute, execute_as, take

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

OFTEN = {"autovacuum": "on", "autovacuum_naptime": "1s", "fsync": "off"}
WORKER = "EXISTS (SELECT FROM pg_stat_activity WHERE pid = pg_backend_pid() AND usesysid IS NULL)"


@pytest.fixture(scope="module")
def eager(server: servers.Server) -> Iterator[Target]:
    """A server whose autovacuum looks every second; `server` says whether one can be had here."""
    made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=OFTEN)
    run(made.target(), "CREATE ROLE mal LOGIN PASSWORD 'mal at work'")
    yield made.target()
    made.remove()


@pytest.fixture
def source(eager: Target) -> Iterator[Target]:
    """A database with users, and a schema of mal's."""
    run(eager, "CREATE DATABASE source TEMPLATE template0")
    target = eager.with_database("source")
    execute(
        target,
        "CREATE TABLE public.users AS SELECT n AS id, 'u' || n AS name FROM generate_series(1, 1000) n",
        "CREATE SCHEMA m AUTHORIZATION mal",
    )
    yield target
    execute(eager, "DROP DATABASE source WITH (FORCE)")


# The worker waits until the definitions were looked at (something of mal's is made again then), and changes one.
LATE = r"""
CREATE FUNCTION m.deed() RETURNS void LANGUAGE plpgsql AS $f$
BEGIN EXECUTE 'ALTER ROLE mal SUPERUSER'; EXCEPTION WHEN OTHERS THEN NULL; END $f$;
CREATE FUNCTION m.work() RETURNS void LANGUAGE plpgsql AS $f$
DECLARE n int := 0;
BEGIN
  IF session_user LIKE 'polyladder%' AND current_setting('m.slept', true) IS DISTINCT FROM 'yes' THEN
    PERFORM set_config('m.slept', 'yes', false), pg_sleep(2);  -- so that what was loaded is counted
  END IF;
  IF current_user NOT LIKE 'polyladder%' OR current_setting('m.done', true) = 'yes' OR NOT WORKER THEN RETURN; END IF;
  PERFORM set_config('m.done', 'yes', false), pg_advisory_xact_lock(1);
  WHILE n < 3000 AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 2) LOOP
    n := n + 1; PERFORM pg_sleep(0.002);
  END LOOP;
  EXECUTE $q$CREATE OR REPLACE FUNCTION public.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS
    'BEGIN PERFORM m.deed(); RETURN lower(x); END'$q$;
EXCEPTION WHEN OTHERS THEN RAISE LOG 'work: %', SQLERRM;
END $f$;
CREATE FUNCTION m.waits() RETURNS void LANGUAGE plpgsql AS $f$
DECLARE n int := 0;
BEGIN
  IF current_user NOT LIKE 'polyladder%' THEN RETURN; END IF;
  IF current_query() ~ 'REMADE' THEN
    PERFORM pg_advisory_xact_lock(2);
    WHILE n < 2000 AND EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1) LOOP
      n := n + 1; PERFORM pg_sleep(0.002);
    END LOOP;
  ELSE
    WHILE n < 200 AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1) LOOP
      n := n + 1; PERFORM pg_sleep(0.1);
    END LOOP;
  END IF;
END $f$;
CREATE FUNCTION m.idx(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.work(); RETURN a; END';
CREATE FUNCTION m.sleepy(a int) RETURNS bool LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.waits(); RETURN true; END';
CREATE TABLE m.a (a int); INSERT INTO m.a SELECT generate_series(1, 2000); CREATE INDEX a1 ON m.a (m.idx(a));
CREATE INDEX a2 ON m.a (a) WHERE a::text <> 'LONG';
CREATE TABLE m.b (v varchar(9)); INSERT INTO m.b VALUES ('x'); CREATE INDEX b1 ON m.b (v) WHERE m.sleepy(1) AND v IN ('x', 'y')
"""


def test_what_it_changes_as_the_login_once_definitions_were_looked_at_is_seen_before_anybody_runs_it(
    eager: Target, source: Target, tmp_path: Path
) -> None:
    execute(
        source,
        "CREATE FUNCTION public.norm(x text) RETURNS text LANGUAGE plpgsql IMMUTABLE AS 'BEGIN RETURN lower(x); END'",
        "CREATE MATERIALIZED VIEW public.mv AS SELECT public.norm(name) AS n FROM public.users WHERE id < 3",
    )
    late = LATE.replace("WORKER", WORKER).replace("REMADE", remakes._NEW).replace("LONG", "x" * 70_000)
    execute_as(source, "mal", late)
    verdict = verification.verify_by_restore(take(source, tmp_path), [], eager, trusted=False)
    assert verdict.verdict == "failed"
    assert "function public.norm" in verdict.reasons[0]
    with closing(session.connect(eager)) as connection:
        assert connection.execute("SELECT rolsuper FROM pg_roles WHERE rolname = 'mal'").fetchone() == (
            False,
        )


# The worker waits until nobody who proves is there any more, and deletes what mal may delete.
AFTER = r"""
CREATE FUNCTION m.work() RETURNS void LANGUAGE plpgsql AS $f$
DECLARE n int := 0;
BEGIN
  IF current_user <> 'mal' OR current_database() NOT LIKE 'polyladder%' OR current_setting('m.done', true) = 'yes'
      OR NOT WORKER THEN RETURN; END IF;
  PERFORM set_config('m.done', 'yes', false), pg_advisory_xact_lock(1);
  WHILE n < 3000000 AND (EXISTS (SELECT FROM pg_database WHERE datname = current_database() AND datallowconn)
      OR EXISTS (SELECT FROM pg_stat_activity WHERE datname = current_database() AND usesysid IS NOT NULL)) LOOP
    n := n + 1; PERFORM pg_stat_clear_snapshot();
  END LOOP;
  DELETE FROM public.users WHERE id > 10;
END $f$;
CREATE FUNCTION m.idx(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS 'BEGIN PERFORM m.work(); RETURN a; END';
CREATE TABLE m.a (a int); INSERT INTO m.a SELECT generate_series(1, 2000); CREATE INDEX a1 ON m.a (m.idx(a));
CREATE FUNCTION m.dirty() RETURNS int LANGUAGE plpgsql AS $f$
BEGIN
  IF current_database() LIKE 'polyladder%' THEN
    INSERT INTO m.a SELECT generate_series(5000, 9000); DELETE FROM m.a WHERE a >= 5000; PERFORM pg_sleep(1.2);
  END IF;
  RETURN 1;
END $f$;
CREATE FUNCTION m.waits(a int) RETURNS int LANGUAGE plpgsql IMMUTABLE AS $f$
DECLARE n int := 0;
BEGIN
  IF current_database() LIKE 'polyladder%' AND current_user = 'mal' AND NOT WORKER THEN
    WHILE n < 300 AND NOT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND objid = 1) LOOP
      n := n + 1; PERFORM pg_sleep(0.1);
    END LOOP;
  END IF;
  RETURN a;
END $f$;
CREATE MATERIALIZED VIEW m.mv AS SELECT m.dirty() AS a; CREATE INDEX mv1 ON m.mv (m.waits(a))
"""


def test_it_is_out_of_a_copy_once_that_is_shut_for_its_proof(
    eager: Target, source: Target, tmp_path: Path
) -> None:
    execute(source, "GRANT SELECT, DELETE ON public.users TO mal")
    execute_as(source, "mal", AFTER.replace("WORKER", WORKER))
    backup = take(source, tmp_path)
    options = replacement.Options("source")
    replacement.replace(source, backup, [], options, say=lambda _said: None, confirm=lambda _plan: None)
    with closing(session.connect(source)) as connection:
        assert connection.execute("SELECT count(*) FROM public.users").fetchone() == (1000,)
    with closing(session.connect(eager)) as connection:
        for (name,) in connection.execute(
            "SELECT datname FROM pg_database WHERE datname LIKE 'source_aside%'"
        ).fetchall():
            run(eager, "DROP DATABASE %I WITH (FORCE)", name)
