"""Healthy but odd databases that a load without rights must bring back all the same, and that leave nothing behind."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.postgres import databases, session
from tests import majors
from tests.conftest import numbers, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

ODD = {
    "a subscription": "CREATE SUBSCRIPTION honest_{n} CONNECTION 'host=127.0.0.1 port=1' PUBLICATION p"
    " WITH (connect = false, slot_name = NONE)",
    "a collation copied from C": 'CREATE COLLATION public.c FROM "C"; CREATE TABLE public.t (a text COLLATE public.c)',
    "a comment on a large object with a low number": "SELECT lo_create(99); COMMENT ON LARGE OBJECT 99 IS 'x'",
    "a function with a setting of its own": "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET my.own = '1' AS 'SELECT 1'",
    "a function in C with a default": "CREATE FUNCTION public.plen(text DEFAULT 'x') RETURNS int LANGUAGE internal STRICT"
    " AS 'textlen'; CREATE TABLE public.t (a text CHECK (public.plen(a) < 9)); INSERT INTO public.t VALUES ('x')",
    "a function that reads past an escape": r"ALTER DATABASE {d} SET standard_conforming_strings = off;"
    r"CREATE TABLE public.t (a text DEFAULT E'a\\b'); CREATE VIEW public.v AS SELECT E'\\'::text AS b",
    "values that NULL could mean": "ALTER DATABASE {d} SET array_nulls = off;"
    " CREATE TABLE public.t (a text[] DEFAULT ARRAY['NULL', NULL]); INSERT INTO public.t DEFAULT VALUES",
    "a publication of everything, after large objects": "SELECT lo_from_bytea(0, 'x'); CREATE PUBLICATION every FOR ALL TABLES",
    "a key to another's table": "CREATE TABLE public.a (id int PRIMARY KEY); CREATE TABLE public.b (a int REFERENCES public.a);"
    "INSERT INTO public.a VALUES (1); INSERT INTO public.b VALUES (1); ALTER TABLE public.b OWNER TO pg_monitor",
    "a search path as somebody typed it": """SELECT set_config('search_path', 'public,"$user" , pg_catalog,"Odd""one"', false);"""
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET search_path FROM CURRENT AS 'SELECT 1'",
    "an empty search path": "SELECT set_config('search_path', '', false);"
    "CREATE FUNCTION public.f() RETURNS int LANGUAGE sql SET search_path = '' AS 'SELECT 1'",
    "a place for long values that no column needs": "CREATE TABLE public.t (a int, v varchar(9), n numeric(9,2), c bit(3), b text)"
    " WITH (toast.autovacuum_enabled=false, fillfactor=70); ALTER TABLE public.t DROP b",
    "one that a column needs": "CREATE TABLE public.t (a int, v varchar(900)) WITH (toast.autovacuum_enabled=false);"
    "CREATE TABLE public.u (a text) WITH (toast.autovacuum_enabled=false); ALTER TABLE public.u ALTER a SET STORAGE PLAIN",
    "triggers of partitions that are off above": "CREATE TABLE public.p (a int, b int) PARTITION BY LIST (a);"
    "CREATE TABLE public.c PARTITION OF public.p FOR VALUES IN (1, 2) PARTITION BY LIST (b);"
    "CREATE TABLE public.l PARTITION OF public.c FOR VALUES IN (1); CREATE TABLE public.m PARTITION OF public.c FOR VALUES IN (2);"
    "CREATE TRIGGER tg BEFORE UPDATE ON public.p FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();"
    "ALTER TABLE ONLY public.p DISABLE TRIGGER tg; ALTER TABLE ONLY public.c DISABLE TRIGGER tg; COMMENT ON TRIGGER tg ON public.p IS 'x';"
    "CREATE TABLE public.alone (a int); CREATE TRIGGER tg BEFORE UPDATE ON public.alone FOR EACH ROW"
    " EXECUTE FUNCTION suppress_redundant_updates_trigger(); ALTER TABLE public.alone ENABLE ALWAYS TRIGGER tg",
}


@pytest.fixture(scope="module", params=[13, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    if request.param == 18:
        yield request.getfixturevalue("server").target()
        return
    need(sys.platform == "linux" and majors.programs(request.param), f"no PostgreSQL {request.param}")
    with majors.running(request.param) as target:
        yield target


def take(target: Target, folder: Path) -> Backup:
    return backups.take(target, folder / "backups", site="test", private=folder / "private")


@pytest.mark.parametrize("odd", ODD.values(), ids=ODD)
def test_what_is_odd_and_healthy_is_proved_and_nothing_of_the_proof_stays(
    odd: str, cluster: Target, tmp_path: Path
) -> None:
    name = f"honest_{next(numbers)}"
    run(cluster, "CREATE DATABASE %I TEMPLATE template0", name)
    target = cluster.with_database(name)
    with closing(session.connect(target)) as connection:
        for statement in odd.format(n=name, d=name).split(";"):
            connection.execute(statement.encode())
    backup = take(target, tmp_path)
    databases.drop(cluster, name)
    for _ in range(2):  # what one leaves the other meets
        verdict = verification.verify_by_restore(backup, [], cluster, trusted=False)
        assert (verdict.verdict, verdict.reasons, verdict.said) == ("passed", (), ())
    assert backup.manifest.lost == ()
    with closing(session.connect(cluster)) as connection:
        left = connection.execute(
            "SELECT datname FROM pg_database WHERE datname ~ '^polyladder_' UNION ALL"
            " SELECT rolname FROM pg_roles WHERE rolname ~ '^polyladder_[a-z]+_[0-9a-f]{16}$'"
        ).fetchall()
    assert left == []


def test_a_login_of_another_run_is_no_role_of_a_backup(cluster: Target, tmp_path: Path) -> None:
    login = databases.temporary_name("beside")
    run(cluster, "CREATE ROLE %I LOGIN", login)
    try:
        backup = take(cluster, tmp_path)
    finally:
        run(cluster, "DROP ROLE %I", login)
    assert login not in {role.name for role in backup.manifest.roles}
