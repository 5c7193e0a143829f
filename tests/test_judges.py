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
# The same function by other spellings, and what reads tables without looking like it.
BODIES = (
    b'SELECT "public"."curious"($1)',
    b"SELECT PUBLIC.Curious ($1)",
    b"SELECT public.curious\n($1)",
    b"SELECT public . curious($1)",
    b"SELECT public.curious/* */($1)",
    b"SELECT public.curious -- so\n($1)",
    b'SELECT public.U&"c\\0075rious"($1)',
    b"UPDATE public.other SET n = n + 1 RETURNING true",
    b"TABLE public.other",
    b"SELECT query_to_xml('select 1', true, true, '') IS NULL",
    b"SELECT public.of_an_extension($1)",
    b"SELECT $1 OPERATOR(public.===) 'x'",
    b"SELECT unheard_of($1)",
)


@pytest.mark.parametrize("body", BODIES)
def test_a_function_is_harmless_only_if_all_of_it_is_understood(body: bytes) -> None:
    function = (
        b"CREATE FUNCTION public.f(a text) RETURNS boolean\n    LANGUAGE sql IMMUTABLE\n    AS $_$ %b $_$"
        % body
    )
    table = b"CREATE TABLE public.t (\n    a text,\n    b boolean GENERATED ALWAYS AS (public.f(a)) STORED\n)"
    assert judged(function, table) == frozenset({b"public.t"})


def test_of_functions_with_one_name_each_is_asked() -> None:
    c = b"CREATE FUNCTION public.harmless(a integer) RETURNS text\n    LANGUAGE c IMMUTABLE\n    AS 'lib', 'f'"
    table = (
        b"CREATE TABLE public.t (\n    a text,\n    b text GENERATED ALWAYS AS (public.harmless(a)) STORED\n)"
    )
    assert judged(table) == frozenset()
    assert judged(c, table) == frozenset({b"public.t"})


def test_a_function_that_handles_a_judged_type_is_asked_too() -> None:
    domain = b"CREATE DOMAIN public.known AS text\n\tCONSTRAINT c CHECK (public.curious(VALUE))"
    function = b"CREATE FUNCTION public.f(a text) RETURNS boolean\n    LANGUAGE sql IMMUTABLE\n    AS $_$ SELECT $1::public.Known = 'x' $_$"
    table = b"CREATE TABLE public.t (\n    a text,\n    b boolean GENERATED ALWAYS AS (public.f(a)) STORED\n)"
    assert judged(domain, function, table) == frozenset({b"public.t"})


NOT_JUDGED = (
    b"CREATE TABLE public.t (\n    a text,\n    b text GENERATED ALWAYS AS (public.harmless(a)) STORED\n)",
    b"CREATE TABLE public.t (\n    a text,\n    b text GENERATED ALWAYS AS (public.above(a)) STORED\n)",
    b"CREATE TABLE public.t (\n    a boolean DEFAULT public.curious('x') NOT NULL,\n    CONSTRAINT c CHECK ((a <> b))\n)",
    b"CREATE TABLE public.t (\n    a uuid DEFAULT public.uuid_generate_v4(),\n    CONSTRAINT c CHECK ((public.unaccent(b) <> ''))\n)",
    b"CREATE TABLE public.t (\n    id integer DEFAULT nextval('public.t_id_seq'::regclass),\n    CONSTRAINT c CHECK ((id > 0))\n)",
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
        b"CREATE TYPE public.r AS RANGE (\n    subtype = text,\n    subtype_opclass = public.mine\n)",
    ],
)
def test_where_nobody_can_tell_all_rows_are_judged(statement: bytes) -> None:
    assert judged(statement) is None


def test_an_operator_class_of_its_own_judges_the_leaves_of_a_root() -> None:
    made = b"CREATE OPERATOR CLASS public.mine\n    FOR TYPE text USING hash AS\n    FUNCTION 2 (text, bigint) public.curious(text)"
    root = b"CREATE TABLE public.t (\n    a text\n)\nPARTITION BY HASH (a%b)"
    assert judged(made, root % b"") == frozenset()
    assert judged(made, root % b" public.mine") is None


def test_a_leaf_that_is_judged_is_judged_alone() -> None:
    root = b"CREATE TABLE public.r (\n    a text\n)\nPARTITION BY HASH (a)"
    attach = b"ALTER TABLE ONLY public.r ATTACH PARTITION public.t FOR VALUES WITH (modulus 2, remainder 0)"
    assert judged(root, JUDGED[0], attach) == frozenset({b"public.t"})


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
