"""The loader: whatever a database looks like comes back through it equal; what goes wrong is told without a value."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, interrupts, loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, session
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.loader import Loader, LoadError
from tests.conftest import numbers, run
from tests.dumps import HEAD, TAIL, dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@dataclass(frozen=True)
class Round:
    """A database that went through a backup and back: the backup, and what the proof found different."""

    backup: Backup
    differences: list[str]


def there_and_back(source: Target, server: Target, folder: Path) -> Round:
    backup = backups.take(source, folder / "backups", site="test", private=folder / "private")
    with restoring.temporary_database(server, backup.manifest, purpose="test") as restored:
        loading.load(restored, backup, [], jobs=3)
        found = restoring.prove(server, restored.database, backup, [])
    return Round(backup, [str(difference) for difference in found])


# Each in a schema of its own, all in one database, so that one round proves them all.
SHAPES = {
    "rows that look like the end of rows": r"""
        CREATE TABLE t (a text);
        INSERT INTO t VALUES (E'\\.'), (E'\\.\n'), (E'a\r\nb'), (E'\r'), (E'\n'), (E'\n\\.\n'), (''), (NULL), ('\N'),
            (E'\t'), (E'\b\f\v'), ('x; DROP TABLE t; --'), (E'\\unrestrict x'), ('-- PostgreSQL database dump complete')""",
    "tables without columns, rows without values": """
        CREATE TABLE t (); CREATE TABLE u (); INSERT INTO t DEFAULT VALUES; INSERT INTO t DEFAULT VALUES;
        CREATE TABLE g (a int GENERATED ALWAYS AS (1) STORED); INSERT INTO g DEFAULT VALUES;
        CREATE TABLE d (a int, b int, c int); ALTER TABLE d DROP COLUMN b; INSERT INTO d VALUES (1, 3);
        ALTER TABLE d ADD COLUMN e int DEFAULT 7""",
    "1,600 columns": """
        DO $$BEGIN
            EXECUTE (SELECT format('CREATE TABLE t (%s)', string_agg(format('c%s int2', i), ',')) FROM generate_series(1, 1600) i);
            EXECUTE 'INSERT INTO t VALUES (' || repeat('1,', 1599) || '2)';
        END$$""",
    "a row of 30 MB": """
        CREATE TABLE t (a text, b bytea); ALTER TABLE t ALTER a SET STORAGE EXTERNAL;
        INSERT INTO t VALUES (repeat('x', 30000000), NULL), ('y', convert_to(repeat('z', 4000000), 'UTF8'))""",
    "values at the edges": r"""
        CREATE TABLE t (b bytea, i interval, f float8, r real, n numeric, d date, s timestamptz, j json, jb jsonb,
                        a text[], m int[], h char(5), v varbit, c "char", u uuid, g int4range,
                        x xid8, net inet, p point, mo money);
        INSERT INTO t VALUES
            ('\x', '-1 year 2 mons -3 days 04:05:06.789', 'NaN', '-Infinity', 'NaN', 'infinity', '-infinity', '{"a" : 1}',
             '{"a": [1, null]}', '{NULL,"NULL","",a\\b}', '[0:1]={1,2}', 'ab', B'101', '\001', gen_random_uuid(), '[1,5)'),
            ('\x00ff0a0d5c', '178000000 years', 1e-300, 1.17549e-38, 1e100, '4713-01-01 BC',
             '294276-12-31 23:59:59.999999+00', '[]', '0', '{}', '{{1,2},{3,4}}', '', B'', '', NULL, 'empty');
        INSERT INTO t (f, r, x, net, p, mo) VALUES
            (0.1::float8 + 0.2, 3.4028235e38, '18446744073709551615', '::1/64', '(1e-300,-0)', 1234.56),
            ('-0', '-0', '0', '10.0.0.1', '(0,2)', -0.01), (5e-324, 1e-45, NULL, NULL, NULL, NULL)""",
    "circular foreign keys": """
        CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
        INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1);
        ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b""",
    "inheritance with columns in another order": """
        CREATE TABLE p (a int, b text); CREATE TABLE c (b text, z int, a int); INSERT INTO c VALUES ('x', 1, 2);
        ALTER TABLE c INHERIT p; INSERT INTO p VALUES (1, 'p');
        CREATE TABLE g (q int) INHERITS (p); INSERT INTO g VALUES (1, 'g', 2);
        ALTER TABLE p ADD n int DEFAULT 5; ALTER TABLE p DROP COLUMN a""",
    "partitions by the hash of an enum": """
        CREATE TYPE e AS ENUM ('a', 'b', 'c', 'd', 'x', 'y');
        CREATE TABLE h (k e, v int) PARTITION BY HASH (k);
        CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE h1 (v int, gone int, k e); ALTER TABLE h1 DROP COLUMN gone;
        ALTER TABLE h ATTACH PARTITION h1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO h SELECT (enum_range(NULL::e))[1 + i % 6], i FROM generate_series(1, 500) i;
        CREATE TABLE l (k int) PARTITION BY LIST (k); CREATE TABLE l1 PARTITION OF l FOR VALUES IN (1, NULL);
        CREATE TABLE ld PARTITION OF l DEFAULT PARTITION BY RANGE (k);
        CREATE TABLE ld1 PARTITION OF ld FOR VALUES FROM (2) TO (100); INSERT INTO l VALUES (1), (NULL), (50)""",
    "a check that the server rewords": """
        CREATE TABLE t (s varchar(9) DEFAULT 'a' CHECK (s IN ('a', 'b')),
                        CONSTRAINT late CHECK (length(s) > 0) NOT VALID);
        INSERT INTO t VALUES ('a')""",
    "identity and generated columns": """
        CREATE TABLE t (i int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5), j int GENERATED BY DEFAULT AS IDENTITY,
                        g int GENERATED ALWAYS AS (j * 2) STORED, s serial);
        INSERT INTO t (s) VALUES (1), (2); INSERT INTO t (j) VALUES (100)""",
    "materialized views with and without data": """
        CREATE TABLE t (a int); INSERT INTO t VALUES (1); CREATE MATERIALIZED VIEW m AS SELECT * FROM t;
        CREATE MATERIALIZED VIEW n AS SELECT * FROM m WITH NO DATA; CREATE MATERIALIZED VIEW o AS SELECT * FROM m""",
    "large objects": r"""
        SELECT lo_create(100); SELECT lo_from_bytea(101, decode(repeat('ab', 700000), 'hex')); SELECT lo_from_bytea(102, '\x00');
        COMMENT ON LARGE OBJECT 100 IS 'it''s'; GRANT SELECT ON LARGE OBJECT 101 TO PUBLIC;
        SELECT lo_from_bytea(0, int4send(i)) FROM generate_series(1, 120) i""",
    "unlogged tables": "CREATE UNLOGGED TABLE t (a int); INSERT INTO t VALUES (1)",
    "code that hides semicolons": r"""
        CREATE TABLE t (id int); CREATE TABLE w (id int);
        CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN x > 0 THEN 1 ELSE 2 END; END;
        CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO w VALUES (1); INSERT INTO w VALUES (2); END;
        CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS $a$ BEGIN RETURN $b$ ; $$ ' $b$; /* /* ; */ */ END $a$;
        CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);
        CREATE VIEW v AS SELECT E'a\'; b' AS "c;d", $$;$$ AS e""",
    "forced row security, and types of extensions": """
        CREATE TABLE s (id int); ALTER TABLE s ENABLE ROW LEVEL SECURITY; ALTER TABLE s FORCE ROW LEVEL SECURITY;
        CREATE POLICY only_one ON s USING (id = 1); INSERT INTO s VALUES (1), (2);
        CREATE EXTENSION citext; CREATE TABLE c (name citext UNIQUE); INSERT INTO c VALUES ('Ä');
        CREATE EXTENSION hstore SCHEMA pg_catalog; CREATE TABLE h (a hstore); INSERT INTO h VALUES ('a=>1')""",
    "names that look like SQL": r"""
        CREATE TABLE "x""y z;--
'q$$" ("c""1" int, "d,e" text, "f)" int);
        INSERT INTO "x""y z;--
'q$$" VALUES (1, 'a', 2);
        CREATE SEQUENCE "s'q""x"; SELECT nextval('"s''q""x"')""",
    "foreign tables and what they log in with": """
        CREATE EXTENSION postgres_fdw; CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid');
        CREATE USER MAPPING FOR postgres SERVER far OPTIONS (user 'u', password 'sesame');
        CREATE FOREIGN TABLE f (a int) SERVER far""",
    "event triggers": """
        CREATE TABLE made (what text);
        CREATE FUNCTION note() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO "event triggers".made VALUES (tg_tag); END';
        CREATE EVENT TRIGGER note ON ddl_command_end EXECUTE FUNCTION note();
        CREATE TABLE t (a int); CREATE MATERIALIZED VIEW m AS SELECT * FROM t""",
    "a trigger on logins": """
        CREATE TABLE came (who text);
        CREATE FUNCTION note_login() RETURNS event_trigger LANGUAGE plpgsql AS
            'BEGIN INSERT INTO "a trigger on logins".came VALUES (session_user); END';
        CREATE EVENT TRIGGER note_login ON login EXECUTE FUNCTION note_login()""",
    # Without care the server fills the gaps that long rows leave, and the rows come back in another order.
    "rows of very different lengths": """
        CREATE TABLE t (i int, x text); INSERT INTO t SELECT i, repeat('x', (i * 37) % 3000) FROM generate_series(1, 2000) i;
        DELETE FROM t WHERE i % 3 = 0; UPDATE t SET x = repeat('y', (i * 91) % 5000) WHERE i % 5 = 0;
        INSERT INTO t SELECT i, repeat('z', (i * 53) % 7000) FROM generate_series(1, 1000) i;
        CREATE TABLE u (LIKE t); INSERT INTO u SELECT * FROM t ORDER BY x""",
}  # fmt: skip


def fill(target: Target, shapes: Mapping[str, str]) -> None:
    with closing(session.connect(target)) as connection:
        for name, statements in shapes.items():
            schema = name.replace('"', '""')
            connection.execute(f'CREATE SCHEMA "{schema}"; SET search_path = "{schema}"'.encode())
            connection.execute(statements.encode())


@pytest.fixture(scope="module")
def shapes(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Round:
    target = server.target("shapes")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", "shapes")
    fill(target, SHAPES)
    found = there_and_back(target, server.target(), tmp_path_factory.mktemp("shapes"))
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", "shapes")
    return found


@pytest.mark.parametrize("shape", SHAPES)
def test_comes_back_equal(shape: str, shapes: Round) -> None:
    manifest = shapes.backup.manifest
    names = [o.name for o in manifest.objects] + [t.name for t in manifest.tables]
    assert any(f'"{shape}"' in name or shape == name.split(".")[0] for name in names), (
        "it is not in the backup"
    )
    assert [said for said in shapes.differences if shape in said] == []


def test_nothing_else_of_the_shapes_differs(shapes: Round) -> None:
    assert shapes.differences == []


# Each in a database of its own: what it is, its options, what it holds.
DATABASES = {
    "latin1": (
        "ENCODING 'LATIN1' LOCALE 'C' LOCALE_PROVIDER libc",
        """CREATE TABLE "größe" ("süß" text); INSERT INTO "größe" VALUES ('äöü ÿ');
        CREATE SEQUENCE "zähler"; SELECT nextval('"zähler"'); COMMENT ON TABLE "größe" IS 'ß'""",
    ),
    "sql_ascii": (
        "ENCODING 'SQL_ASCII' LOCALE 'C' LOCALE_PROVIDER libc",
        r"""CREATE TABLE "größe" (a text); INSERT INTO "größe" VALUES (E'\xc3\xa4'), (E'\xe4\xff'); CREATE SEQUENCE "zähler";
        SELECT nextval('"zähler"')""",
    ),
    "another encoding for its clients": (
        "",
        """ALTER DATABASE {} SET client_encoding = 'LATIN1'; CREATE TABLE "ü" ("ß" text); INSERT INTO "ü" VALUES ('ä');
        COMMENT ON TABLE "ü" IS 'ö'""",
    ),
    "backslashes that escape": (
        "",
        r"""ALTER DATABASE {} SET standard_conforming_strings = off; CREATE TABLE t (a text DEFAULT 'C:\x\n');
        INSERT INTO t VALUES ('a\b'); COMMENT ON TABLE t IS 'C:\new''s'""",
    ),
    "settings that would stop us": (
        "",
        """CREATE TABLE t (a int); INSERT INTO t VALUES (1); ALTER DATABASE {} SET default_transaction_read_only = on;
        ALTER DATABASE {} SET statement_timeout = 1; ALTER DATABASE {} SET lock_timeout = 1;
        ALTER DATABASE {} SET default_transaction_isolation = 'serializable';
        ALTER DATABASE {} SET search_path = "$user", "a b", public""",
    ),
    "settings that bend values": (
        "",
        """CREATE TABLE t (a text[], b date, c interval, d timestamptz, e bytea);
        INSERT INTO t VALUES ('{NULL,"NULL"}', '2026-02-01', '-1 day +02:03', '2026-02-01 00:00+00', '\\x00');
        CREATE VIEW v AS SELECT a FROM t WHERE b = NULL;
        ALTER DATABASE {} SET array_nulls = off; ALTER DATABASE {} SET transform_null_equals = on;
        ALTER DATABASE {} SET DateStyle = 'German'; ALTER DATABASE {} SET IntervalStyle = 'sql_standard';
        ALTER DATABASE {} SET TimeZone = 'Asia/Tokyo'; ALTER DATABASE {} SET bytea_output = 'escape';
        ALTER DATABASE {} SET extra_float_digits = -15; ALTER DATABASE {} SET quote_all_identifiers = on""",
    ),
    "nothing in it": ("", "SELECT 1"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DATABASES)
def test_a_database_comes_back_equal(kind: str, server: Server, tmp_path: Path) -> None:
    options, statements = DATABASES[kind]
    target = server.target(f"shape_{next(numbers)}")
    run(server.target(), f"CREATE DATABASE %I TEMPLATE template0 {options}", target.database)
    with closing(session.connect(target, settings={"search_path": "public"})) as connection:
        if "SQL_ASCII" in options:
            connection.execute("SET client_encoding = 'SQL_ASCII'")
        connection.execute(statements.replace("{}", target.database).encode())
    found = there_and_back(target, server.target(), tmp_path)
    databases.drop(server.target(), target.database)
    assert found.differences == []


EXTENSION = r"""
CREATE TABLE config (name text, value text);
CREATE TABLE internal (a int PRIMARY KEY);
SELECT pg_catalog.pg_extension_config_dump('config', 'WHERE name LIKE ''user.%''');
INSERT INTO config VALUES ('builtin.a', '1'), ('builtin.b', '2');
INSERT INTO internal VALUES (1), (2);
"""


def test_rows_that_a_user_put_into_an_extensions_table_come_back(
    server: Server, database: Target, tmp_path: Path
) -> None:
    extensions = server._home / f"extensions_{database.database}"
    (extensions / "extension").mkdir(parents=True)
    (extensions / "extension" / "keeper.control").write_text("default_version = '1.0'\nrelocatable = true\n")
    (extensions / "extension" / "keeper--1.0.sql").write_text(EXTENSION)
    for path in (extensions, extensions / "extension"):
        path.chmod(0o755)
    with closing(session.connect(database)) as connection:
        connection.execute(
            f"ALTER DATABASE {database.database} SET extension_control_path = '{extensions}'".encode()
        )
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        connection.execute(
            b"CREATE EXTENSION keeper; INSERT INTO config VALUES ('user.z', '1'), ('user.a', '2');"
            b"CREATE TABLE mine (a int REFERENCES internal); INSERT INTO mine VALUES (2)"
        )
    found = there_and_back(database, server.target(), tmp_path)
    (config,) = [t for t in found.backup.manifest.tables if t.name == "public.config"]
    assert (config.rows, config.order_free) == (2, True)
    assert "the rows of public.internal, which belongs to an extension" in found.backup.manifest.not_included
    assert found.differences == []


def test_an_older_servers_icu_database_comes_back_equal_there(older_server: Target, tmp_path: Path) -> None:
    target = older_server.with_database(f"icu_{next(numbers)}")
    options = "LOCALE_PROVIDER icu ICU_LOCALE 'de-DE' LOCALE 'C.UTF-8'"
    run(older_server, f"CREATE DATABASE %I TEMPLATE template0 {options}", target.database)
    older = ("values at the edges", "partitions by the hash of an enum", "a check that the server rewords")
    fill(target, {name: SHAPES[name] for name in older})
    found = there_and_back(target, older_server, tmp_path)
    databases.drop(older_server, target.database)
    assert found.backup.manifest.properties.locale_provider == "icu"
    assert found.differences == []


# The loader itself ---------------------------------------------------------------------------------------------------


def load(target: Target, *pieces: bytes, whole: bytes | None = None, schema_only: bool = False) -> None:
    """Load a dump of these pieces on one connection."""
    with closing(session.connect(target)) as connection:
        loader = Loader(connection, schema_only=schema_only)
        lexer = Lexer(loader)
        lexer.feed(dump(*pieces) if whole is None else whole)
        lexer.close()
        loader.finish()


def values(target: Target, query: str) -> list[object]:
    with closing(session.connect(target)) as connection:
        return [value for (value,) in connection.execute(query.encode()).fetchall()]


def refusal(target: Target, *pieces: bytes) -> LoadError:
    with pytest.raises(LoadError) as caught:
        load(target, *pieces)
    return caught.value


TABLE = b"CREATE TABLE public.t (a integer, b text);"


def test_row_text_that_is_sql_stays_text(database: Target) -> None:
    load(database, TABLE, b"COPY public.t (a, b) FROM stdin;\n1\tx; DROP TABLE public.t; --\n2\t\\\\.\n\\.\n")
    assert values(database, "SELECT b FROM public.t ORDER BY a") == ["x; DROP TABLE public.t; --", "\\."]


def test_rows_for_a_table_that_is_not_there_do_not_become_statements(database: Target) -> None:
    error = refusal(database, TABLE, b"COPY public.gone (b) FROM stdin;\nx; DROP TABLE public.t; --\n\\.\n")
    assert error.detail == 'relation "public.gone" does not exist. It was: COPY public.gone (b) FROM stdin'
    assert values(database, "SELECT count(*) FROM public.t") == [0]


def test_rows_that_statements_brought_are_not_lost_when_others_follow(database: Target) -> None:
    insert, copy = b"INSERT INTO public.t VALUES (1, 'x');", b"COPY public.t (a, b) FROM stdin;\n2\ty\n\\.\n"
    load(database, TABLE, insert, copy)
    assert values(database, "SELECT b FROM public.t ORDER BY a") == ["x", "y"]


def test_statements_run_in_their_order_over_many_batches(database: Target) -> None:
    steps = [b"UPDATE public.t SET a = a * 2 + %d %% 2;" % number for number in range(1000)]
    load(database, TABLE, b"INSERT INTO public.t VALUES (1, '');", b"\n".join(
        step.replace(b"a * 2", b"(a * 2) % 1000003") for step in steps
    ))  # fmt: skip
    expected = 1
    for number in range(1000):
        expected = expected * 2 % 1000003 + number % 2
    assert values(database, "SELECT a FROM public.t") == [expected]


BAD = {
    "one that fails when it runs": (
        b"COMMENT ON TABLE public.gone IS 'sesame';",
        'relation "public.gone" does not exist. It was: COMMENT ON TABLE public.gone IS …',
    ),
    "one that can't be read": (
        b"CREATE TABEL public.x (p text DEFAULT 'sesame');",
        'syntax error at or near "TABEL". It was: CREATE TABEL public.x (p text DEFAULT …',
    ),
    "one with a password": (
        b"CREATE USER MAPPING FOR postgres SERVER gone OPTIONS (password 'sesame');",
        'server "gone" does not exist. It was: CREATE USER MAPPING FOR postgres SERVER gone OPTIONS (password …',
    ),
    "one with a password in a connection string": (
        b"CREATE SUBSCRIPTION s CONNECTION 'sesame' PUBLICATION p WITH (connect = false);",
        'invalid connection string syntax: missing "…" in connection info string. It was: CREATE SUBSCRIPTION s CONNECTION …',
    ),
    "one with a secret in a function": (
        b"CREATE FUNCTION public.f() RETURNS nothing LANGUAGE sql AS $$SELECT 'sesame'$$;",
        'type "nothing" does not exist. It was: CREATE FUNCTION public.f() RETURNS nothing LANGUAGE sql AS …',
    ),
    "one whose literal is the mistake": (
        b"CREATE VIEW public.v AS SELECT 'sesame' 'sesame';",
        'syntax error at or near "…". It was: CREATE VIEW public.v AS SELECT …',
    ),
    "one whose function says what it saw": (
        b"DO $$BEGIN RAISE EXCEPTION 'got %', 'sesame'; END$$;",
        "A function raised an error of its own (P0001). It was: DO …",
    ),
    "one that looks at a row": (
        b"CREATE INDEX ON public.t ((b::integer));",
        'invalid input syntax for type integer: "…". It was: CREATE INDEX ON public.t ((b::integer))',
    ),
    "one that finds rows equal": (
        b"CREATE UNIQUE INDEX same ON public.t (b);",
        'could not create unique index "same". It was: CREATE UNIQUE INDEX same ON public.t (b)',
    ),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD)
def test_the_statement_that_is_named_is(bad: str, database: Target) -> None:
    """It stands between others, one of them with letters of more than a byte, in one batch."""
    statement, said = BAD[bad]
    rows = b"COPY public.t (a, b) FROM stdin;\n1\tsesame\n2\tsesame\n\\.\n"
    around = "COMMENT ON TABLE public.t IS 'äöü€'; SELECT 1;".encode()
    error = refusal(database, TABLE, rows, around, statement, around)
    assert error.detail == said
    assert "sesame" not in str(error)
    assert not error.lacks


BAD_ROWS = {
    "a number that is none": (b"sesame\tx", 'invalid input syntax for type integer: "…"'),
    "a number that is too large": (b"99999999999\tsesame", 'value "…" is out of range for type integer'),
    "a column too few": (b"7", 'missing data for column "b"'),
    "a column too many": (b"7\tsesame\tsesame", "extra data after last expected column"),
    "letters of no encoding": (b"7\tsesame\xff", 'invalid byte sequence for encoding "…": 0xff'),
}  # fmt: skip


@pytest.mark.parametrize("bad", BAD_ROWS)
def test_a_bad_row_is_told_by_its_line_and_not_by_its_values(bad: str, database: Target) -> None:
    row, said = BAD_ROWS[bad]
    error = refusal(database, TABLE, b"COPY public.t (a, b) FROM stdin;\n1\tfine\n%b\n2\tfine\n\\.\n" % row)
    assert error.detail == f"{said}. It was: COPY public.t (a, b) FROM stdin, line 2 of the rows"
    assert "sesame" not in str(error)


def test_an_error_of_a_table_in_another_encoding_is_readable(database: Target) -> None:
    whole = dump("COMMENT ON TABLE public.gelöscht IS '';".encode("latin1")).replace(b"UTF8", b"LATIN1")
    with pytest.raises(LoadError) as caught:
        load(database, whole=whole)
    assert 'relation "public.gelöscht" does not exist' in caught.value.detail


def test_a_change_of_rules_counts_from_the_next_statement_on(database: Target) -> None:
    """The server reads a batch by the rules that held before it."""
    whole = dump(
        TABLE, b"COMMENT ON TABLE public.t IS 'C:\\\\x \xfc';", b"COMMENT ON COLUMN public.t.a IS 'it\\'s';"
    )
    whole = whole.replace(b"'UTF8'", b"'LATIN1'").replace(b"strings = on", b"strings = off")
    load(database, whole=whole)
    assert values(database, "SELECT description FROM pg_description WHERE objoid = 'public.t'::regclass ORDER BY objsubid") == [
        "C:\\x ü", "it's",
    ]  # fmt: skip


def test_strings_that_the_server_suddenly_reads_by_other_rules_end_the_load(database: Target) -> None:
    """The lexer knows every way that it can be said; a function that does it is known by the outcome."""
    function = (
        b"CREATE FUNCTION public.bend() RETURNS text LANGUAGE sql AS"
        b" $$SELECT pg_catalog.set_config(concat('standard', '_conforming_strings'), 'off', false)$$;"
    )
    error = refusal(database, function, b"SELECT public.bend();")
    assert error.message == "the dump changed how strings are read"


def test_rows_that_only_the_server_expects_end_the_load(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        loader = Loader(connection)
        loader.statement(b"CREATE TABLE public.t (a text)")
        loader.statement(b"COPY public.t FROM stdin")
        with pytest.raises(LoadError, match="refused a part") as caught:
            loader.finish()
    assert caught.value.detail == "It expects rows where none are. It was: COPY public.t FROM stdin"


def test_only_the_schema_comes_without_rows_and_values(database: Target) -> None:
    load(
        database,
        TABLE,
        b"CREATE SEQUENCE public.s;",
        b"SELECT pg_catalog.lo_create('77');",
        b"COPY public.t (a, b) FROM stdin;\n1\tx\n\\.\n",
        b"SELECT pg_catalog.setval('public.s', 9, true);",
        b"BEGIN;\nSELECT pg_catalog.lo_open('77', 131072);\nSELECT pg_catalog.lowrite(0, '\\x41');",
        b"SELECT pg_catalog.lo_close(0);\nCOMMIT;",
        b"CREATE INDEX i ON public.t (a);",
        schema_only=True,
    )
    assert values(database, "SELECT count(*) FROM public.t") == [0]
    assert values(database, "SELECT last_value FROM public.s") == [1]
    assert values(database, "SELECT count(*) FROM pg_largeobject_metadata") == [0]
    assert values(database, "SELECT count(*) FROM pg_class WHERE relname = 'i'") == [1]


def test_a_line_for_newer_servers_is_left_out_on_older_ones_where_pg_dump_writes_it(
    older_server: Target,
) -> None:
    target = older_server.with_database(f"old_{next(numbers)}")
    run(older_server, "CREATE DATABASE %I TEMPLATE template0", target.database)
    timeout = b"SET transaction_timeout = 0;\n"
    load(target, whole=HEAD.replace(b"SET client", timeout + b"SET client") + TABLE + b"\n" + TAIL)
    assert values(target, "SELECT count(*) FROM public.t") == [0]
    error = refusal(target, *[b"SELECT 1;"] * 30, timeout)
    assert 'unrecognized configuration parameter "transaction_timeout"' in error.detail
    assert error.lacks
    databases.drop(older_server, target.database)


def test_the_same_line_reaches_a_server_that_knows_it(database: Target) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute("SET transaction_timeout = '1h'")
        loader = Loader(connection)
        loader.statement(b"SET transaction_timeout = 0")
        loader.finish()
        assert connection.execute("SHOW transaction_timeout").fetchone() == ("0",)


# What fails is the server and not the dump --------------------------------------------------------------------------


@pytest.fixture
def login(server: Server, database: Target) -> Iterator[Target]:
    """The database by a role that may make tables in it and no more."""
    name = f"lowly_{next(numbers)}"
    with closing(session.connect(database)) as connection:
        connection.execute(
            f"CREATE ROLE {name} LOGIN PASSWORD 'lowly'; GRANT CREATE, USAGE ON SCHEMA public TO {name}".encode()
        )
    yield type(database).of(**{**database.parameters, "user": name, "password": "lowly"})
    run(server.target(), "DROP DATABASE %I WITH (FORCE)", database.database)
    run(server.target(), "DROP ROLE %I", name)


LACKS = {
    "a right": b"CREATE EXTENSION postgres_fdw WITH SCHEMA public;",
    "a role": b"ALTER TABLE public.t OWNER TO nobody_here;",
    "a library": b"CREATE FUNCTION public.f() RETURNS integer LANGUAGE c AS '$libdir/postgis-3', 'f';",
    "an extension": b"CREATE EXTENSION postgis;",
    "a tablespace": b"SET default_tablespace = 'fast_disk';\nCREATE TABLE public.u (a int);",
    "a collation": b'CREATE TABLE public.u (a text COLLATE pg_catalog."xx_XX");',
    "a locale": b"CREATE COLLATION public.c (provider = libc, locale = 'xx_XX.utf8');",
    "ICU": b"CREATE COLLATION public.c (provider = icu, locale = 'de');",
}


@pytest.mark.parametrize("what", LACKS)
def test_what_the_server_lacks_is_told_from_what_is_wrong_with_the_dump(
    what: str, login: Target, database: Target
) -> None:
    error = refusal(login if what == "a right" else database, TABLE, LACKS[what])
    assert error.lacks, error.detail


def test_a_server_without_room_is_no_verdict_on_the_dump(database: Target) -> None:
    statements = (
        b"SET temp_file_limit = 0;\nSET work_mem = '64kB';"
        b"SELECT count(*) FROM (SELECT g FROM generate_series(1, 50000) g ORDER BY 1 DESC) s;"
    )
    error = refusal(database, statements)
    assert error.lacks  # so that a proof says "not proved", and not that the backup is bad
    assert "temporary file size exceeds" in error.detail


def in_the_middle(target: Target, act: Callable[[int], object]) -> None:
    """Send rows without end, and call `act` with the server process's id when they flow."""
    with closing(session.connect(target)) as connection:
        loader = Loader(connection)
        loader.statement(TABLE.rstrip(b";"))
        loader.copy_begin(b"COPY public.t (a, b) FROM stdin", b"public.t", b"(a, b)")
        rows = b"1\tsesame\n" * 10_000
        loader.copy_data(rows)
        act(connection.info.backend_pid)
        for _ in range(2000):
            loader.copy_data(rows)
        loader.copy_end()


def test_a_connection_that_is_ended_among_the_rows_is_no_verdict_on_the_dump(
    server: Server, database: Target
) -> None:
    def terminate(pid: int) -> None:
        with closing(session.connect(server.target())) as connection:
            connection.execute("SELECT pg_terminate_backend(%s, 5000)", [pid])

    with (
        pytest.raises(OpsError) as caught,
        session.translated("the server failed while it loaded the backup"),
    ):
        in_the_middle(database, terminate)
    assert not isinstance(caught.value, LoadError)
    assert caught.value.message.startswith("the server failed while it loaded")
    assert "sesame" not in str(caught.value)


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="Windows has no signal that halts a process")
def test_an_interrupt_gets_through_while_the_server_hangs(database: Target) -> None:
    def halt(pid: int) -> None:
        os.kill(pid, signal.Signals["SIGSTOP"])
        halted.append(pid)
        threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()

    halted: list[int] = []
    began = time.monotonic()
    try:
        with interrupts.stop_on_signals(), pytest.raises(KeyboardInterrupt):
            in_the_middle(database, halt)
        assert time.monotonic() - began < 0.5 + 2
    finally:
        for pid in halted:
            os.kill(pid, signal.Signals["SIGCONT"])
