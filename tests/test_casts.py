"""What a cast in an expression does is held against the source: the same text does something else after CREATE CAST."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.postgres import session
from tests import majors
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

TABLE = "CREATE TABLE t (id int PRIMARY KEY, a text, n int, l text[]); INSERT INTO t VALUES (1, '\\x41', 20260101);"
CAST = "CREATE CAST (text AS bytea) WITHOUT FUNCTION"
# The object, what makes it, and what makes a copy of it mean something else.
LATER = {
    "a view": ("view public.v", "CREATE VIEW v AS SELECT a::bytea AS b FROM t", CAST),
    "a materialized view": ("materialized view public.v", "CREATE MATERIALIZED VIEW v AS SELECT lower(a)::bytea AS b FROM t", CAST),
    "elements": ("view public.v", "CREATE VIEW v AS SELECT l::bytea[] AS b FROM t", CAST),
    "a case": ("view public.v", "CREATE VIEW v AS SELECT (CASE id WHEN 1 THEN a ELSE 'x' END COLLATE \"C\")::bytea AS b FROM t", CAST),
    "a default": ("table public.d", "CREATE TABLE d (b bytea DEFAULT ('\\x41'::text)::bytea)", CAST),
    "a generated column": ("table public.d", "CREATE TABLE d (a text, b bytea GENERATED ALWAYS AS (a::bytea) STORED)", CAST),
    "a check": ("constraint c on public.t", "ALTER TABLE t ADD CONSTRAINT c CHECK (length(a::bytea) > 0)", CAST),
    "a policy": ("policy p on public.t", "CREATE POLICY p ON t USING (a::bytea = '\\x41'::bytea)", CAST),
    "an index": ("index public.i", "CREATE INDEX i ON t (id) WHERE a::bytea = '\\x41'::bytea", CAST),
    "a rule": ("rule r on public.t", "CREATE RULE r AS ON DELETE TO t WHERE OLD.a::bytea = 'A'::bytea DO INSTEAD NOTHING", CAST),
    "an argument": ("function public.f(pg_catalog.bytea)", "CREATE FUNCTION f(b bytea DEFAULT ('\\x41'::text)::bytea) RETURNS int LANGUAGE sql AS 'SELECT 1'", CAST),
    "another cast": (
        "view public.v",
        "CREATE CAST (int AS date) WITHOUT FUNCTION; CREATE VIEW v AS SELECT n::date AS d FROM t; DROP CAST (int AS date)",
        "CREATE CAST (int AS date) WITH INOUT",
    ),
    "a server's function": (
        "view public.v",
        "CREATE VIEW v AS SELECT a::bytea AS b FROM t",
        "CREATE CAST (text AS bytea) WITH FUNCTION pg_catalog.textsend(text)",
    ),
}  # fmt: skip
BEFORE = {name: case for name, case in LATER.items() if case[2] is CAST}


@pytest.fixture(scope="module", params=[13, 18])
def cluster(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    if request.param == 18:
        yield request.getfixturevalue("server").target()
        return
    need(sys.platform == "linux" and majors.programs(request.param), f"no PostgreSQL {request.param}")
    with majors.running(request.param) as target:
        yield target


def verified(cluster: Target, folder: Path, *statements: str) -> tuple[str, tuple[str, ...]]:
    """Return what comes of a backup of a database in which these were done, and why."""
    run(cluster, "CREATE DATABASE %I TEMPLATE template0", "casting")
    target = cluster.with_database("casting")
    try:
        with closing(session.connect(target, settings={"search_path": "public"})) as connection:
            for statement in statements:
                connection.execute(statement.encode())
        backup = backups.take(target, folder / "backups", site="test", private=folder / "private")
    finally:
        run(cluster, "DROP DATABASE %I", "casting")
    verdict = verification.verify_by_restore(backup, [], cluster, trusted=True)
    return verdict.verdict, tuple(verdict.reasons)


@pytest.mark.parametrize("case", LATER)
def test_an_expression_that_is_older_than_its_cast_is_missed(
    case: str, cluster: Target, tmp_path: Path
) -> None:
    name, made, cast = LATER[case]
    verdict, reasons = verified(cluster, tmp_path, TABLE, made, cast)
    assert verdict == "failed"
    assert any(reason.startswith(name) for reason in reasons), reasons


@pytest.mark.parametrize("case", BEFORE)
def test_one_that_is_younger_comes_back(case: str, cluster: Target, tmp_path: Path) -> None:
    _, made, cast = BEFORE[case]
    assert verified(cluster, tmp_path, TABLE, cast, made) == ("passed", ())


def test_a_domain_is_dumped_before_all_casts(cluster: Target, tmp_path: Path) -> None:
    """Its copy goes through text, whatever its source does."""
    domain = "CREATE DOMAIN d AS text CHECK (length(VALUE::bytea) > 0)"
    assert verified(cluster, tmp_path, domain, CAST) == ("passed", ())
    verdict, reasons = verified(cluster, tmp_path, CAST, domain)
    assert verdict == "failed"
    assert reasons[0].startswith("type public.d: its definition is not the one that was dumped")


def test_what_does_the_same_as_its_cast_comes_back(cluster: Target, tmp_path: Path) -> None:
    """A cast through text is what there was before it, and another type's is no business of it."""
    make = (
        "CREATE TYPE mood AS ENUM ('b', 'a'); CREATE TABLE m (m mood, v varchar(9) CHECK (v IN ('x', 'y')))"
    )
    view = "CREATE VIEW v AS SELECT m::text AS x, v::text AS y, v::bytea AS z, 'b'::text::mood AS w FROM m"
    casts = (
        "CREATE CAST (mood AS text) WITH INOUT AS IMPLICIT",
        "CREATE CAST (text AS mood) WITH INOUT AS IMPLICIT",
    )
    assert verified(cluster, tmp_path, make, view, *casts) == ("passed", ())
