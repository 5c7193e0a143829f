"""Whose rows need the dump's order: told from the definitions that pg_dump writes."""

from __future__ import annotations

import pytest

from polyladder_ops.postgres.judges import Judges

FUNCTIONS = (
    (
        b"CREATE FUNCTION public.curious(a text) RETURNS boolean\n    LANGUAGE sql IMMUTABLE\n"
        b"    AS $_$ SELECT EXISTS (SELECT FROM public.other WHERE b = $1) $_$"
    ),
    (
        b"CREATE FUNCTION public.caller(a text) RETURNS boolean\n    LANGUAGE plpgsql IMMUTABLE\n"
        b"    AS $$ BEGIN RETURN public.curious(a); END $$"
    ),
    (
        b"CREATE FUNCTION public.circle(a text) RETURNS boolean\n    LANGUAGE plpgsql IMMUTABLE\n"
        b"    AS $$ BEGIN RETURN public.circle_2(a); END $$"
    ),
    (
        b"CREATE FUNCTION public.circle_2(a text) RETURNS boolean\n    LANGUAGE plpgsql IMMUTABLE\n"
        b"    AS $$ BEGIN RETURN public.circle(a) OR public.caller(a); END $$"
    ),
    (
        b"CREATE FUNCTION public.harmless(a text) RETURNS text\n    LANGUAGE sql IMMUTABLE STRICT\n"
        b"    RETURN lower(btrim(a))"
    ),
    (
        b"CREATE FUNCTION public.above(a text) RETURNS text\n    LANGUAGE sql IMMUTABLE\n"
        b"    AS $_$ SELECT public.harmless(public.unaccent($1)) $_$"
    ),
    (
        b"CREATE FUNCTION public.foreign_words(a text) RETURNS text\n    LANGUAGE plpython3u IMMUTABLE\n"
        b"    AS $$ return plpy.execute('...') $$"
    ),
    (
        b"CREATE FUNCTION public.by_path(a text) RETURNS text\n    LANGUAGE sql IMMUTABLE\n"
        b"    SET search_path TO 'public'\n    AS $_$ SELECT curious($1) $_$"
    ),
)


def judged(*statements: bytes) -> frozenset[bytes] | None:
    judges = Judges()
    for statement in (*FUNCTIONS, *statements):
        judges.notice(statement)
    return judges.judged()


JUDGED = (
    b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK (public.curious(a))\n)",
    b"CREATE UNLOGGED TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK (public.caller(a))\n)",
    b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK (public.circle(a))\n)",
    b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK (public.circle_2(a))\n)",
    b"CREATE TABLE public.t (\n    a text,\n    b boolean GENERATED ALWAYS AS (public.curious(a)) STORED\n)",
    b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK ((public.foreign_words(a) <> ''))\n)",
    b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK ((public.by_path(a) <> ''))\n)",
    b"CREATE TABLE public.t (\n    a text DEFAULT public.new_id() NOT NULL,\n    CONSTRAINT c CHECK (public.curious(a))\n)",
    b"ALTER TABLE public.t\n    ADD CONSTRAINT c CHECK (public.curious(a)) NOT VALID",
)
NOT_JUDGED = (
    b"CREATE TABLE public.t (\n    a text,\n    b text GENERATED ALWAYS AS (public.harmless(a)) STORED\n)",
    b"CREATE TABLE public.t (\n    a text,\n    b text GENERATED ALWAYS AS (public.above(a)) STORED\n)",
    b"CREATE TABLE public.t (\n    a boolean DEFAULT public.curious('x') NOT NULL,\n    CONSTRAINT c CHECK ((a <> b))\n)",
    b"CREATE TABLE public.t (\n    a uuid DEFAULT public.uuid_generate_v4(),\n    CONSTRAINT c CHECK (public.st_isvalid(b))\n)",
    b"CREATE TABLE public.t (\n    e public.vector(3),\n    CONSTRAINT c CHECK ((length(a) > 0))\n)",
    b"CREATE TABLE public.t (\n    s public.state,\n    CONSTRAINT c CHECK ((s = ANY (ARRAY['a'::public.state])))\n)",
    b"CREATE VIEW public.t AS SELECT public.curious(a) AS f FROM public.u",
)


@pytest.mark.parametrize("statement", JUDGED)
def test_rows_that_code_judges_which_may_read_tables_need_the_dumps_order(statement: bytes) -> None:
    assert judged(statement) == frozenset({b"public.t"})


@pytest.mark.parametrize("statement", NOT_JUDGED)
def test_other_rows_need_none(statement: bytes) -> None:
    assert judged(statement) == frozenset()


def test_a_domain_judges_wherever_it_is_used() -> None:
    domain = b"CREATE DOMAIN public.known AS text\n\tCONSTRAINT c CHECK (public.curious(VALUE))"
    pair = b"CREATE TYPE public.pair AS (\n\ta public.known,\n\tb text\n)"
    tables = [
        b"CREATE TABLE public.%b (\n    a %b\n)" % names
        for names in ((b"t", b"public.known"), (b"u", b"public.pair[]"))
    ]
    found = judged(domain, pair, *tables, b"CREATE TABLE public.v (\n    a text\n)")
    assert found == frozenset({b"public.t", b"public.u"})
    late = b"ALTER DOMAIN public.known\n    ADD CONSTRAINT c CHECK (public.curious(VALUE))"
    assert judged(b"CREATE DOMAIN public.known AS text", *tables[:1], late) == frozenset({b"public.t"})


def test_heirs_are_judged_as_their_parents_are() -> None:
    assert judged(
        JUDGED[0],
        b"CREATE TABLE public.u (\n    b text\n)\nINHERITS (public.x, public.t)",
        b"CREATE TABLE public.v (\n)\nINHERITS (public.u)",
        b"CREATE TABLE public.w (\n)\nINHERITS (public.x)",
    ) == frozenset({b"public.t", b"public.u", b"public.v"})


@pytest.mark.parametrize(
    "statement",
    [
        b"CREATE TABLE public.t (\n    a text\n)\nPARTITION BY HASH (public.curious(a))",
        b"SET search_path = public, pg_catalog",
    ],
)
def test_where_nobody_can_tell_all_rows_are_judged(statement: bytes) -> None:
    assert judged(statement) is None


@pytest.mark.parametrize(
    "statement",
    [
        b"CREATE OPERATOR public.=== (\n    FUNCTION = public.curious,\n    LEFTARG = text\n)",
        b"CREATE CAST (text AS public.pair) WITH FUNCTION public.curious(text)",
    ],
)
def test_operators_and_casts_can_hide_a_function(statement: bytes) -> None:
    table = b"CREATE TABLE public.t (\n    a text,\n    CONSTRAINT c CHECK ((a OPERATOR(public.===) 'x'))\n)"
    assert judged(table) == frozenset()
    assert judged(statement, table) == frozenset({b"public.t"})
