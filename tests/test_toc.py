"""The entries of a dump, told from its comments and statements, and the names that stand in them."""

from __future__ import annotations

import pytest

from polyladder_ops.postgres import toc
from polyladder_ops.postgres.definitions import Definitions
from polyladder_ops.postgres.toc import Entry, Heading


def entry(kind: str, *statements: str, place: int = 1) -> Entry:
    texts = tuple(statement.encode() for statement in statements)
    return Entry(place, Heading(b"", kind, b"", b""), texts)


@pytest.mark.parametrize(
    ("comment", "told"),
    [
        (b"-- Name: users; Type: TABLE; Schema: public; Owner: app", (b"users", "TABLE", b"public", b"app")),
        (b"-- Data for Name: users; Type: TABLE DATA; Schema: public; Owner: app", (b"users", "TABLE DATA", b"public", b"app")),
        (b"-- Name: EXTENSION pg_trgm; Type: COMMENT; Schema: -; Owner: ", (b"EXTENSION pg_trgm", "COMMENT", b"-", b"")),
        (b"-- Name: t; Type: TABLE; Schema: s; Owner: app; Tablespace: fast", (b"t", "TABLE", b"s", b"app")),
        (
            b"-- Name: x; Type: TABLE DATA; Schema: y; Owner: z; Type: TABLE; Schema: public; Owner: app",
            (b"x; Type: TABLE DATA; Schema: y; Owner: z", "TABLE", b"public", b"app"),
        ),
        (b"-- load via partition root public.t", None),
        (b"-- PostgreSQL database dump complete", None),
        (b"--", None),
    ],
)  # fmt: skip
def test_a_heading_says_what_follows_whatever_the_names_look_like(
    comment: bytes, told: tuple[bytes, str, bytes, bytes] | None
) -> None:
    found = toc.heading(comment)
    assert found == (None if told is None else Heading(*told))


@pytest.mark.parametrize(
    ("kind", "statement", "made"),
    [
        ("TABLE", "CREATE UNLOGGED TABLE public.t (\n    a integer\n)", [b"public.t"]),
        ("TABLE", 'CREATE TABLE "A ""b"""."TABLE x" (\n)', [b'"A ""b"""."TABLE x"']),
        ("FUNCTION", "CREATE FUNCTION public.f(a text) RETURNS text", [b"public.f"]),
        ("OPERATOR", "CREATE OPERATOR s.=~~ (\n    FUNCTION = public.similarity", [b"s.=~~"]),
        ("EXTENSION", "CREATE EXTENSION IF NOT EXISTS pg_trgm WITH SCHEMA public", [b"pg_trgm"]),
        ("TYPE", "CREATE TYPE public.r AS RANGE (\n    subtype = numeric,\n    multirange_type_name = public.mr\n)", [b"public.r", b"public.mr"]),
        ("SEQUENCE", "ALTER TABLE public.t ALTER COLUMN id ADD GENERATED ALWAYS AS IDENTITY (\n    SEQUENCE NAME public.t_id_seq\n", [b"public.t_id_seq"]),
        ("CAST", "CREATE CAST (text AS public.mood) WITH FUNCTION public.f(text)", []),
        ("DEFAULT", "ALTER TABLE ONLY public.t ALTER COLUMN id SET DEFAULT 1", []),
    ],
)  # fmt: skip
def test_what_an_entry_makes_is_read_from_its_first_statement(
    kind: str, statement: str, made: list[bytes]
) -> None:
    assert list(entry(kind, statement).makes) == made


@pytest.mark.parametrize(
    ("kind", "statement", "table"),
    [
        ("TABLE ATTACH", "ALTER TABLE ONLY s.root ATTACH PARTITION s.leaf DEFAULT", b"s.leaf"),
        ("SEQUENCE OWNED BY", 'ALTER SEQUENCE s.q OWNED BY "S x".t."a.b"', b'"S x".t'),
        ("INDEX", 'CREATE UNIQUE INDEX "a ON b" ON ONLY s.t USING btree (a)', b"s.t"),
        ("STATISTICS", "CREATE STATISTICS s.x (ndistinct) ON a, b FROM s.t", b"s.t"),
        ("CONSTRAINT", "ALTER TABLE ONLY s.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id)", b"s.t"),
        ("SEQUENCE", "CREATE SEQUENCE s.q\n    START WITH 1", b""),
        ("VIEW", "CREATE VIEW s.v AS\n SELECT a\n   FROM s.t", b""),
    ],
)
def test_the_table_that_an_entry_is_part_of(kind: str, statement: str, table: bytes) -> None:
    assert entry(kind, statement).table == table


def test_a_name_is_found_alone_and_not_as_a_piece_of_another() -> None:
    made = [
        entry("TABLE", "CREATE TABLE public.user (\n)", place=1),
        entry("TABLE", "CREATE TABLE public.users (\n)", place=2),
        entry("TABLE", 'CREATE TABLE public."users" (\n)', place=3),
        entry("SEQUENCE", """CREATE SEQUENCE public."it's"\n    START WITH 1""", place=4),
        entry(
            "TABLE",
            "CREATE TABLE public.a (\n    b integer DEFAULT nextval('public.\"it''s\"'::regclass)\n)",
            place=5,
        ),
        entry("TABLE", "CREATE TABLE public.heir (\n)\nINHERITS (public.users)", place=6),
    ]
    found = Definitions(made)
    assert [taken.place for taken in found.take([b"public.heir"])] == [2, 6]
    assert [taken.place for taken in found.take([b"public.a"])] == [4, 5]
    assert found.children(b"public.users") == [b"public.heir"]
    assert found.children(b"public.user") == []
