"""What may be loaded side by side, told from statements as pg_dump writes them."""

from __future__ import annotations

import pytest

from polyladder_ops.postgres import sections
from polyladder_ops.postgres.sections import Kind

KINDS = {
    Kind.SETTING: (
        b"SET default_tablespace = ''",
        b"SET SESSION AUTHORIZATION 'app'",
        b"RESET SESSION AUTHORIZATION",
        b"SELECT pg_catalog.set_config('search_path', '', false)",
    ),
    Kind.VALUE: (
        b"SELECT pg_catalog.setval('public.t_id_seq', 3, true)",
        b"SELECT pg_catalog.lo_open('16400', 131072)",
        b"SELECT pg_catalog.lowrite(0, '\\x00')",
        b"BEGIN",
        b"COMMIT",
        b"ALTER LARGE OBJECT 16400 OWNER TO app",
        b"GRANT SELECT ON LARGE OBJECT 16400 TO reader",
        b"COMMENT ON LARGE OBJECT 16400 IS 'x'",
    ),
    Kind.BUILD: (
        b"CREATE INDEX i ON public.t USING btree (a)",
        b'CREATE UNIQUE INDEX "I" ON ONLY public."T" USING btree (a)',
        b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id)",
        b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_key UNIQUE (a, b)",
        b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_ex EXCLUDE USING gist (c WITH &&)",
        b"ALTER TABLE ONLY t\n    ADD CONSTRAINT t_pkey PRIMARY KEY (id)",
    ),
    Kind.LATE: (
        b"COMMENT ON INDEX public.i IS 'x'",
        b"COMMENT ON CONSTRAINT t_pkey ON public.t IS 'x'",
        b"ALTER INDEX public.p ATTACH PARTITION public.q",
        b"ALTER INDEX public.i ALTER COLUMN 1 SET STATISTICS 100",
        b"ALTER TABLE public.t CLUSTER ON t_pkey",
        b"ALTER TABLE ONLY public.t REPLICA IDENTITY USING INDEX t_pkey",
    ),
    Kind.BARRIER: (
        b"CREATE TABLE public.t (a integer)",
        b"INSERT INTO public.t VALUES (1)",
        b"ALTER TABLE ONLY public.t\n    ADD CONSTRAINT t_fkey FOREIGN KEY (a) REFERENCES public.u(a)",
        b"ALTER TABLE ONLY public.t ATTACH PARTITION public.u DEFAULT",
        b"CREATE TRIGGER x AFTER INSERT ON public.t FOR EACH ROW EXECUTE FUNCTION public.f()",
        b"CREATE STATISTICS public.s ON a, b FROM public.t",
        b"REFRESH MATERIALIZED VIEW public.m",
        b"COMMENT ON TABLE public.t IS 'ALTER INDEX'",
        b"ALTER TABLE public.t REPLICA IDENTITY FULL",
        b"GRANT SELECT ON TABLE public.t TO reader",
        b"whatever pg_dump 42 writes",
    ),
}


@pytest.mark.parametrize(
    ("kind", "statement"), [(kind, text) for kind, texts in KINDS.items() for text in texts]
)
def test_every_statement_has_its_place(kind: Kind, statement: bytes) -> None:
    assert sections.kind(statement) is kind


@pytest.mark.parametrize(
    ("definition", "plain"),
    [
        (b"btree (a)", True),
        (b'btree (a, "B c" DESC NULLS LAST)', True),
        (b"btree (a) INCLUDE (b, c) NULLS NOT DISTINCT WITH (fillfactor='70')", True),
        (b"gin (tags)", True),
        (b"btree (lower(a))", False),
        (b"btree (((a + 1)))", False),
        (b"btree (a) WHERE (b > 0)", False),
        (b"gin (a public.gin_trgm_ops)", False),
        (b"btree (a text_pattern_ops)", False),
        (b'btree (a COLLATE "C")', False),
        (b"hnsw (embedding)", False),
        (b"btree (public.f(a))", False),
    ],
)
def test_an_index_is_plain_if_it_reads_nothing_but_columns(definition: bytes, plain: bool) -> None:
    found = sections.build(b"CREATE INDEX i ON public.t USING " + definition, 7)
    assert (found.table, found.place, found.ordered, found.plain) == (b"public.t", 7, False, plain)


def test_constraints_and_unique_indexes_keep_the_dumps_order() -> None:
    found = [sections.build(text, 1) for text in KINDS[Kind.BUILD]]
    assert [b.ordered for b in found] == [False, True, True, True, True, True]
    assert [b.plain for b in found] == [True, True, True, True, False, True]
