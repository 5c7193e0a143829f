"""Whole statements: what pg_dump writes is known by its form, and whatever is done to it beside that is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyladder_ops.postgres.forms import Form, recognise
from tests.hostile import HOSTILE

GOOD = [(form, good) for form, good, _ in HOSTILE]
BAD = [(good, bad) for _, good, variants in HOSTILE for bad in variants]
# What can stand behind a statement or in the middle of one without being seen by who looks at its beginning.
TAILS = (
    "; SELECT pg_read_file('/etc/passwd')",
    ";",
    " ; DROP DATABASE live",
    "\n-- comment",
    " /* comment */",
    " /*",
    "; COMMIT; SELECT 1",
    " $x$",
    "'",
    '"',
    ")",
    "(",
    " ]",
    "\\g",
    " \\! touch x",
    " $$ ; SELECT 1 $$",
    " UNION SELECT pg_read_file('x')",
    " RETURNING pg_reload_conf()",
    ", ALTER COLUMN a TYPE integer USING (lo_export(1, '/tmp/x'))",
    " WITH DATA",
    " AS SELECT pg_reload_conf()",
    " AS EXECUTE hidden",
    " CASCADE CREATE TABLE x ()",
)
# These take any words at their end, which the server then takes as part of what is kept, or refuses.
FREE_ENDS = {
    " UNION SELECT pg_read_file('x')": ("create view", "create rule", "create statistics", "create function", "alter relation", "create domain", "create index"),
    " $$ ; SELECT 1 $$": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
    " RETURNING pg_reload_conf()": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
    ", ALTER COLUMN a TYPE integer USING (lo_export(1, '/tmp/x'))": ("create view", "create rule", "create statistics"),
    " WITH DATA": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
    " AS SELECT pg_reload_conf()": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
    " AS EXECUTE hidden": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
    " CASCADE CREATE TABLE x ()": ("create view", "create rule", "create statistics", "create domain", "create index", "alter relation"),
}  # fmt: skip


@pytest.mark.parametrize(("form", "good"), GOOD, ids=[f"{form}: {good[:60]}" for form, good in GOOD])
def test_a_statement_of_pg_dump_is_known_by_its_form(form: str, good: str) -> None:
    found = recognise(good.encode())
    assert found is not None
    assert found.name == form


@pytest.mark.parametrize("bad", [bad for _, bad in BAD], ids=[bad[:80] for _, bad in BAD])
def test_what_looks_like_it_and_is_something_else_is_refused(bad: str) -> None:
    assert recognise(bad.encode()) is None
    assert recognise(bad.encode(), backslash_escapes=True) is None


def test_there_are_hundreds_of_them_and_some_beside_each_form() -> None:
    assert len(BAD) > 200
    assert all(variants for _, _, variants in HOSTILE)


@pytest.mark.parametrize("tail", TAILS)
def test_nothing_may_stand_behind_a_statement(tail: str) -> None:
    let_through = [
        good
        for form, good in GOOD
        if recognise((good + tail).encode()) and form not in FREE_ENDS.get(tail, ())
    ]
    assert let_through == []


@settings(max_examples=400, deadline=None)
@given(st.sampled_from(GOOD), st.data())
def test_a_second_statement_inside_is_refused_wherever_it_begins(
    case: tuple[str, str], data: st.DataObject
) -> None:
    """But in a literal or a quoted name, and between the parentheses of a rule or the words of a function's body."""
    form, good = case
    place = data.draw(st.integers(0, len(good)))
    changed = f"{good[:place]}; DROP DATABASE live; {good[place:]}"
    if form in ("create rule", "create function", "select", "insert"):
        return
    inside = sum(good[:place].count(quote) % 2 for quote in "'\"") or good.count("$", 0, place) % 4
    assert inside or recognise(changed.encode()) is None


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([case for case in GOOD if case[0] in ("select", "insert", "create table")]), st.data())
def test_a_literal_is_never_a_call(case: tuple[str, str], data: st.DataObject) -> None:
    form, good = case
    if form == "create table" and "FOR VALUES" not in good:
        return
    places = [place for place, byte in enumerate(good) if byte == "'"][::2]
    if not places:
        return
    place = data.draw(st.sampled_from(places))
    if place < good.find("FOR VALUES"):
        return
    end = good.index("'", place + 1)
    called = data.draw(
        st.sampled_from(["f()", "lo_export(1, 'x')", "('a' || f())", "(SELECT 1)", "'a'::m.evil", "now()"])
    )
    assert recognise(f"{good[:place]}{called}{good[end + 1 :]}".encode()) is None


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=60), st.booleans())
def test_no_bytes_break_it(text: bytes, escapes: bool) -> None:
    found = recognise(text, backslash_escapes=escapes)
    assert found is None or found.name in str(found)


@settings(max_examples=300, deadline=None)
@given(st.text(st.sampled_from("ab'\"\\;$()[]-/*\n e"), max_size=30), st.booleans())
def test_a_literal_hides_whatever_it_holds_and_nothing_else(text: str, escapes: bool) -> None:
    doubled = text.replace("'", "''")
    doubled = doubled.replace("\\", "\\\\") if escapes else doubled
    comment = f"COMMENT ON TABLE public.t IS '{doubled}'".encode()
    assert recognise(comment, backslash_escapes=escapes) == Form("comment on", late=True)
    assert recognise(comment + b"; SELECT 1", backslash_escapes=escapes) is None
    name = text.replace('"', '""') or "x"
    assert recognise(f'CREATE SCHEMA "{name}"'.encode(), backslash_escapes=escapes) == Form("create schema")
    assert recognise(f'CREATE SCHEMA "{name}"; SELECT 1'.encode(), backslash_escapes=escapes) is None


# Who may do it --------------------------------------------------------------------------------------------------------

SUPERUSER = {"superuser": True}
LATE = {"late": True}


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("ALTER TABLE public.t OWNER TO app", LATE),
        ("GRANT SELECT ON TABLE public.t TO app", LATE),
        ("REVOKE ALL ON SCHEMA public FROM PUBLIC", LATE),
        ("ALTER DEFAULT PRIVILEGES FOR ROLE a GRANT SELECT ON TABLES TO b", LATE),
        ("REFRESH MATERIALIZED VIEW public.m", LATE),
        ("CREATE EVENT TRIGGER e ON sql_drop EXECUTE FUNCTION public.f()", LATE),
        ("CREATE EVENT TRIGGER e ON login EXECUTE FUNCTION public.f()", {**LATE, "unsafe": True}),
        ("ALTER EVENT TRIGGER e DISABLE", LATE),
        ("COMMENT ON EVENT TRIGGER e IS 'x'", LATE),
        ("COMMENT ON TABLE public.t IS 'x'", LATE),
        ("SECURITY LABEL FOR x ON TABLE public.t IS 'y'", LATE),
        ("ALTER INDEX public.i DEPENDS ON EXTENSION e", LATE),
        ("CREATE EXTENSION IF NOT EXISTS e WITH SCHEMA public", {"extension": True}),
        ("COMMENT ON EXTENSION e IS 'x'", {"extension": True}),
        ("CREATE TABLE public.t (\n    a integer\n)", {}),
        ("CREATE VIEW public.v AS\n SELECT 1 AS a", {}),
        ("CREATE FOREIGN DATA WRAPPER w OPTIONS (\n    a 'b'\n)", SUPERUSER),
        ('CREATE FOREIGN DATA WRAPPER w HANDLER public.h VALIDATOR public."V"', {**SUPERUSER, "validated": True}),
        ("CREATE SERVER s FOREIGN DATA WRAPPER w", SUPERUSER),
        ("CREATE USER MAPPING FOR a SERVER s OPTIONS (\n    b 'c'\n)", SUPERUSER),
        ("CREATE FOREIGN TABLE public.t (\n    a integer OPTIONS (\n    x 'y'\n    ) NOT NULL\n)\nSERVER s", SUPERUSER),
        ("CREATE FOREIGN TABLE public.t (\n    a text DEFAULT 'x'::text\n)\nSERVER s", SUPERUSER),
        # A domain's CHECK would run as the superuser, while the statement is only looked at.
        ("CREATE FOREIGN TABLE public.t (\n    a m.pair DEFAULT '(1)'::m.pair\n)\nSERVER s", {}),
        ("CREATE FOREIGN TABLE public.t (\n    a m.d[] DEFAULT '{1}'::m.d[]\n)\nSERVER s", {}),
        # It is planned when the table is made, by whoever makes it.
        ("CREATE FOREIGN TABLE public.t (\n    a integer GENERATED ALWAYS AS (m.f()) STORED\n)\nSERVER s", {}),
        ("CREATE FOREIGN TABLE public.t PARTITION OF m.p FOR VALUES IN ('1')\nSERVER s", {}),
        ("CREATE PUBLICATION p FOR ALL TABLES WITH (publish = 'insert')", SUPERUSER),
        ("ALTER PUBLICATION p ADD TABLE ONLY public.t WHERE ((a > 5))", SUPERUSER),
        ("ALTER PUBLICATION p ADD TABLE ONLY public.t WHERE ((a = '(1)'::m.pair))", {}),
        ("CREATE SUBSCRIPTION s CONNECTION 'x' PUBLICATION p WITH (connect = false, slot_name = 's')", SUPERUSER),
        ("CREATE ACCESS METHOD a TYPE TABLE HANDLER h", SUPERUSER),
        ("CREATE TRUSTED PROCEDURAL LANGUAGE l HANDLER public.h", SUPERUSER),
        ("CREATE PROCEDURAL LANGUAGE l HANDLER public.h INLINE public.i VALIDATOR public.v",
         {**SUPERUSER, "validated": True}),
        ("CREATE CAST (integer AS public.t) WITHOUT FUNCTION", {**SUPERUSER, "unsafe": True}),
        ("CREATE TRANSFORM FOR public.t LANGUAGE l (FROM SQL WITH FUNCTION public.f(internal))", SUPERUSER),
        ("CREATE OPERATOR CLASS public.o\n    FOR TYPE public.t USING btree AS\n    STORAGE integer", {**SUPERUSER, "unsafe": True}),
        ("CREATE OPERATOR FAMILY public.o USING btree", SUPERUSER),
        ("ALTER OPERATOR FAMILY public.o USING btree ADD\n    OPERATOR 1 <(integer,integer)", {**SUPERUSER, "unsafe": True}),
        ("CREATE TEXT SEARCH PARSER public.p (\n    START = prsd_start\n)", SUPERUSER),
        ("CREATE TEXT SEARCH TEMPLATE public.p (\n    LEXIZE = dsimple_lexize )", SUPERUSER),
        ("CREATE TYPE public.t", SUPERUSER),
        ("CREATE TYPE public.t (\n    INPUT = public.i,\n    OUTPUT = public.o\n)", {**SUPERUSER, "unsafe": True}),
        ("CREATE TYPE public.t AS RANGE (\n    subtype = integer,\n    canonical = public.c\n)", SUPERUSER),
        ("CREATE TYPE public.t AS RANGE (\n    subtype = integer\n)", {}),
        ("CREATE TYPE public.t AS ENUM (\n    'a'\n)", {}),
        ("CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE c\n    AS '$libdir/x', 'y'",
         {**SUPERUSER, "unsafe": True, "language": b"c"}),
        ('CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE "internal"\n    AS $$x$$',
         {**SUPERUSER, "unsafe": True, "language": b"internal"}),
        ('CREATE FUNCTION public."a"("b" integer) RETURNS integer\n    LANGUAGE "pl ""x"\n    AS $$x$$',
         {**SUPERUSER, "unsafe": True, "language": b'pl "x'}),
        ("CREATE FUNCTION public.f(a m.pair DEFAULT '(1)'::m.pair) RETURNS integer\n    LANGUAGE c\n    AS 'x', 'y'",
         {"unsafe": True, "language": b"c"}),
        ("CREATE FUNCTION public.f() RETURNS integer\n    LANGUAGE plpgsql\n    AS $$LANGUAGE c AS 'x'$$", {"language": b"plpgsql"}),
        ("CREATE FUNCTION public.f(language text DEFAULT 'LANGUAGE c'::text) RETURNS integer\n    LANGUAGE sql\n    RETURN 1",
         {"language": b"sql"}),
        ("CREATE AGGREGATE public.a(internal) (\n    SFUNC = public.f,\n    STYPE = internal\n)", SUPERUSER),
        ("CREATE AGGREGATE public.a(integer) (\n    SFUNC = public.f,\n    STYPE = m.d,\n    INITCOND = '0'\n)", {}),
        ('CREATE AGGREGATE "public"."a"("x"."y") (\n    SFUNC = "public"."f",\n    STYPE = "m"."d",\n    MINITCOND = \'0\'\n)', {}),
        ("CREATE AGGREGATE public.a(integer) (\n    SFUNC = public.f,\n    STYPE = m.d,\n    initcond = zero\n)", {}),
        ("CREATE OPERATOR public.+ (\n    FUNCTION = public.f,\n    LEFTARG = integer\n)", SUPERUSER),
        ("CREATE TRIGGER t BEFORE INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()", SUPERUSER),
        ("CREATE TRIGGER t BEFORE INSERT ON public.t FOR EACH ROW WHEN ((new.a = '{1}'::m.d[])) EXECUTE FUNCTION public.f()", {}),
        ("CREATE CONSTRAINT TRIGGER t AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f('a')", SUPERUSER),
    ],
)  # fmt: skip
def test_the_form_says_who_may_do_it_and_when(statement: str, said: dict[str, object]) -> None:
    found = recognise(statement.encode())
    assert found is not None
    if found.name == "create function":
        said = {"runs_nothing": "m.pair" not in statement, **said}
    assert found == Form(found.name, **said)  # type: ignore[arg-type]


# Time -----------------------------------------------------------------------------------------------------------------

LONG = {
    "a view": b"CREATE VIEW v AS SELECT " + b"(a + length('x')), " * 20_000 + b"1",
    "open parentheses": b"CREATE TABLE t " + b"(" * 200_000,
    "nested parentheses": b"CREATE TABLE t " + b"(" * 100_000 + b")" * 100_000,
    "words": b"CREATE FUNCTION f() RETURNS " + b"a " * 150_000 + b"X",
    "privileges": b"GRANT " + b"A " * 150_000 + b"ON",
    "lists": b"GRANT " + b"A, " * 100_000 + b"ON",
    "names": b"ALTER TABLE " + b"a." * 150_000,
    "dollars": b"CREATE VIEW v AS SELECT $a$ " + b"$b$ " * 100_000,
    "literals": b"CREATE TYPE t AS ENUM (" + b"'a', " * 60_000,
    "an aggregate": b"CREATE AGGREGATE f() (" + b"A = initcond, " * 30_000,
    "bodies": b"CREATE FUNCTION f() RETURNS a LANGUAGE sql BEGIN ATOMIC " + b"SELECT (1); " * 25_000,
    "a rule": b"CREATE RULE a AS ON INSERT TO b " + b"(a; b) " * 50_000 + b";",
}


@pytest.mark.parametrize("what", LONG)
def test_a_long_statement_is_looked_at_once(what: str) -> None:
    def seconds(text: bytes) -> float:
        began = time.perf_counter()
        recognise(text)
        return time.perf_counter() - began

    assert min(seconds(LONG[what]) for _ in range(3)) < 2
