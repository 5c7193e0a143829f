"""Several connections give the planner what one ANALYZE gives it."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session, statistics
from tests.conftest import run

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

# What a dump can hold and ANALYZE looks at in ways of its own.
SHAPES = """
CREATE SCHEMA "Büro; DROP";
CREATE TABLE "Büro; DROP"."odd ""name"" %s" AS SELECT g AS n, g % 7 AS "seven, eight" FROM generate_series(1, 500) g;
CREATE TABLE public.parent (n int); CREATE TABLE public.child (more text) INHERITS (public.parent);
INSERT INTO parent SELECT generate_series(1, 50); INSERT INTO child SELECT g, 'x' FROM generate_series(1, 70) g;
CREATE TABLE public.root (a int, b int) PARTITION BY RANGE (a);
CREATE TABLE branch PARTITION OF public.root FOR VALUES FROM (0) TO (100) PARTITION BY LIST (b);
CREATE TABLE leaf PARTITION OF branch DEFAULT; CREATE TABLE public.other PARTITION OF public.root DEFAULT;
INSERT INTO public.root SELECT g, g % 3 FROM generate_series(1, 300) g;
CREATE MATERIALIZED VIEW seen AS SELECT a % 5 AS five FROM root;
CREATE STATISTICS both_of (dependencies) ON a, b FROM root;
CREATE UNLOGGED TABLE careless AS SELECT generate_series(1, 20) AS n;
CREATE INDEX ON parent ((n % 10));
"""
GATHERED = """
SELECT starelid::regclass::text, staattnum, stainherit, stanullfrac, stadistinct, stavalues1::text
FROM pg_catalog.pg_statistic WHERE starelid >= 16384
UNION ALL SELECT oid::regclass::text, 0, false, reltuples, relpages, '' FROM pg_catalog.pg_class WHERE oid >= 16384
UNION ALL SELECT stxoid::text, 0, stxdinherit, 0, 0, stxddependencies::text
FROM pg_catalog.pg_statistic_ext_data d JOIN pg_catalog.pg_statistic_ext s ON s.oid = stxoid ORDER BY 1, 2, 3
"""
OF_CATALOGS = "SELECT DISTINCT starelid::regclass::text FROM pg_catalog.pg_statistic WHERE starelid < 16384"


def gathered(
    connection: Connection, jobs: int | None, target: Target
) -> tuple[set[str], list[tuple[object, ...]]]:
    connection.execute("DELETE FROM pg_catalog.pg_statistic")
    connection.execute("DELETE FROM pg_catalog.pg_statistic_ext_data")
    if jobs:
        restoring.analyze(target, jobs=jobs)
    else:
        connection.execute("ANALYZE")
    catalogs = {name for (name,) in connection.execute(OF_CATALOGS)}
    return catalogs, connection.execute(GATHERED).fetchall()


def test_what_is_gathered_is_what_analyze_gathers(sample_database: Target) -> None:
    """All tables are so small that ANALYZE looks at every row: what it finds is no matter of chance."""
    with closing(session.connect(sample_database)) as connection:
        connection.execute("SET search_path = public")
        connection.execute(SHAPES.encode())
        plain = gathered(connection, None, sample_database)
        assert plain[0] >= {"pg_class", "pg_attribute"}
        assert len(plain[1]) > 300
        assert gathered(connection, 1, sample_database) == plain
        assert gathered(connection, 3, sample_database) == plain
        names = [table.name for table in statistics.tables(connection)]
        assert b"root" in names
        assert not {b"branch", b"leaf", b"other"} & set(names)  # they are done with their root


def test_a_name_that_no_encoding_knows_is_analyzed(database: Target) -> None:
    name = f"{database.database}_ascii"
    run(
        database,
        "CREATE DATABASE %I TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc",
        name,
    )
    try:
        odd = database.with_database(name)
        with closing(session.connect(odd)) as connection:
            connection.execute("SET client_encoding = 'SQL_ASCII'")
            connection.execute(b'CREATE TABLE public."caf\xe9" AS SELECT 1 AS n')
            with closing(session.connect(odd)) as other:
                statistics.gather([other], statistics.tables(connection))
            count = "SELECT count(*) FROM pg_catalog.pg_statistic WHERE starelid >= 16384"
            assert connection.execute(count).fetchone() == (1,)
    finally:
        run(database, "DROP DATABASE %I WITH (FORCE)", name)


def test_large_tables_come_first_and_alone_small_ones_share_a_round_trip() -> None:
    tables = [
        statistics.Table(b"%d" % number, size)
        for number, size in enumerate([9 << 20, 2 << 20, *[8192] * 130])
    ]
    assert [len(names) for names in statistics._portions(tables)] == [1, 1, 50, 50, 30]
    assert next(statistics._portions(tables)) == [b"0"]


def test_a_table_that_fails_ends_it(database: Target) -> None:
    """An index on an expression that fails for a row, as a function can that was changed since."""
    with closing(session.connect(database)) as connection:
        connection.execute("CREATE FUNCTION public.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT $1'")
        connection.execute("CREATE TABLE public.t AS SELECT generate_series(0, 9) AS n")
        connection.execute("CREATE INDEX ON public.t (public.f(n))")
        connection.execute(
            "CREATE OR REPLACE FUNCTION public.f(int) RETURNS int IMMUTABLE LANGUAGE sql AS 'SELECT 1 / $1'"
        )
    for jobs in (1, 3):
        with pytest.raises(OpsError, match="could not analyze the restored database") as caught:
            restoring.analyze(database, jobs=jobs)
        assert isinstance(caught.value.__cause__, psycopg.errors.DivisionByZero)


def test_no_other_server_is_asked_for_the_sake_of_statistics(database: Target) -> None:
    """A partition or a child may be a foreign table, whose server is down, or not to be asked from an unproved copy."""
    with closing(session.connect(database)) as connection:
        connection.execute(
            b"CREATE EXTENSION postgres_fdw SCHEMA public; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1');"
            b"CREATE USER MAPPING FOR PUBLIC SERVER far OPTIONS (user 'x', password 'y');"
            b"CREATE TABLE public.root (a int) PARTITION BY LIST (a); CREATE TABLE public.plain PARTITION OF public.root FOR VALUES IN (1);"
            b"CREATE FOREIGN TABLE public.away PARTITION OF public.root FOR VALUES IN (2) SERVER far; INSERT INTO public.root VALUES (1);"
            b"CREATE TABLE public.parent (a int); CREATE FOREIGN TABLE public.child () INHERITS (public.parent) SERVER far; CREATE TABLE public.other (a int)"
        )
    restoring.analyze(database)
    with closing(session.connect(database)) as connection:
        rows = connection.execute(
            "SELECT relname FROM pg_stat_user_tables WHERE last_analyze IS NOT NULL ORDER BY 1"
        ).fetchall()
    assert [name for (name,) in rows] == ["other", "plain"]
