"""Emptying a database object by object: whatever hangs on what, nothing stays, and nothing that is not ours goes."""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import clearing, inventory, session
from tests import majors
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="servers of other majors are started on Linux"
)
SHAPES = {
    "partitions": """
        CREATE TABLE public.visit (at int, place text) PARTITION BY RANGE (at);
        CREATE TABLE public.visit_1 PARTITION OF public.visit FOR VALUES FROM (0) TO (10) PARTITION BY LIST (place);
        CREATE TABLE public.visit_1a PARTITION OF public.visit_1 FOR VALUES IN ('a');
        CREATE INDEX ON public.visit (place);
        CREATE TABLE public.booking (id int PRIMARY KEY) PARTITION BY HASH (id);
        CREATE TABLE public.booking_0 PARTITION OF public.booking FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        CREATE TABLE public.payment (booking int REFERENCES public.booking);
        CREATE STATISTICS public.together ON at, place FROM public.visit_1a;
        INSERT INTO public.visit VALUES (1, 'a');
    """,
    "schemas that need each other": """
        CREATE SCHEMA a; CREATE SCHEMA b; CREATE SCHEMA "c d";
        CREATE TYPE a.mood AS ENUM ('glad'); CREATE TYPE b.pair AS (one a.mood, two int);
        CREATE FUNCTION "c d".is_glad(a.mood) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT true';
        CREATE DOMAIN b.glad AS a.mood CHECK ("c d".is_glad(VALUE));
        CREATE TABLE a.t OF b.pair; CREATE TABLE b.u (id serial, p b.pair, g b.glad DEFAULT 'glad' CHECK ("c d".is_glad(g)));
        CREATE COLLATION "c d".plain (provider = libc, locale = 'C'); CREATE TABLE a.v (x text COLLATE "c d".plain);
        CREATE FUNCTION a.later(a.mood, a.mood) RETURNS a.mood LANGUAGE sql AS 'SELECT $2';
        CREATE AGGREGATE a.most(a.mood) (sfunc = a.later, stype = a.mood);
        CREATE TEXT SEARCH DICTIONARY b.words (template = simple); CREATE TEXT SEARCH CONFIGURATION a.search (copy = simple);
        ALTER TEXT SEARCH CONFIGURATION a.search ALTER MAPPING FOR word WITH b.words;
        CREATE FUNCTION a.same(a.mood, a.mood) RETURNS bool LANGUAGE sql AS 'SELECT true';
        CREATE OPERATOR b.=== (leftarg = a.mood, rightarg = a.mood, function = a.same);
        CREATE OPERATOR FAMILY "c d".fam USING btree; CREATE OPERATOR CLASS a.cls FOR TYPE int USING btree AS STORAGE int;
        ALTER DEFAULT PRIVILEGES IN SCHEMA "c d" GRANT SELECT ON TABLES TO PUBLIC;
    """,
    "views and heirs": """
        CREATE SCHEMA s;
        CREATE TABLE public.parent (id int GENERATED ALWAYS AS IDENTITY, n int);
        CREATE TABLE s.child (m int DEFAULT 1) INHERITS (public.parent);
        CREATE VIEW public.v AS SELECT * FROM s.child; CREATE MATERIALIZED VIEW s.m AS SELECT * FROM public.v; CREATE INDEX ON s.m (m);
        CREATE FUNCTION s.f(public.v) RETURNS s.child LANGUAGE sql AS 'SELECT NULL::s.child';
        CREATE VIEW s.w AS SELECT s.f(v) FROM public.v;
        CREATE SEQUENCE s.alone OWNED BY s.child.m;
        CREATE FUNCTION public.note() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END';
        CREATE TRIGGER note BEFORE INSERT ON public.parent FOR EACH ROW EXECUTE FUNCTION public.note();
        CREATE RULE r AS ON DELETE TO public.parent DO INSTEAD NOTHING; CREATE POLICY p ON public.parent USING (n > 0);
        CREATE PUBLICATION pub FOR TABLE public.parent; SELECT lo_from_bytea(4711, 'x');
    """,
}


@pytest.fixture(scope="module", params=majors.SERVERS, ids=str)
def major(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    """A server of each major."""
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as target:
        yield target


@pytest.fixture
def empty(major: Target) -> Iterator[Target]:
    """A new database of that server."""
    run(major, "CREATE DATABASE %I TEMPLATE template0", "emptied")
    yield major.with_database("emptied")
    run(major, "DROP DATABASE %I", "emptied")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=[*SHAPES])
def test_nothing_stays_whatever_hangs_on_what(shape: str, empty: Target) -> None:
    with closing(session.connect(empty)) as connection:
        before = inventory.entries(connection)
        connection.execute(shape.encode())
        assert inventory.entries(connection) != before
        connection.execute("BEGIN")
        clearing.clear(connection)
        connection.execute("COMMIT")
    with closing(session.connect(empty)) as connection:
        assert inventory.entries(connection) == before
