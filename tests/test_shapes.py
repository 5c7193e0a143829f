"""Whatever a database holds, it comes back: dumped, loaded into another one on the same server, and proved equal."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, restoring
from polyladder_ops.postgres import session

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

SHAPES = {
    "rows of very different lengths, updated and deleted": """
        CREATE TABLE t (id int PRIMARY KEY, body text);
        INSERT INTO t SELECT g, repeat(md5(g::text), CASE WHEN g % 7 = 0 THEN 60 ELSE g % 5 END)
            FROM generate_series(1, 6000) g;
        UPDATE t SET body = body || repeat('x', id % 900) WHERE id % 3 = 0;
        DELETE FROM t WHERE id % 11 = 0;
        INSERT INTO t SELECT g, 'late' FROM generate_series(7000, 7300) g;
    """,
    "values whose text has many forms": """
        CREATE TABLE t (f4 real, f8 float8, n numeric, i interval, ts timestamptz, d date, b bytea, m money,
                        r tstzrange, x xid8, bits bit(5), net inet, j json, jb jsonb, a int[][], p point);
        INSERT INTO t VALUES
            ('NaN', '-Infinity', 'NaN', '1 mon -2 days 03:04:05.6', '-infinity', '0044-03-15 BC', '\\x00ff5c27', 1234.5,
             '[2026-01-01,)', '18446744073709551615', B'10101', '::1/64', '{"a" :  1}', '{"b": [1, 2]}',
             '{{1,2},{3,NULL}}', '(1e-300,2)'),
            (3.4028235e38, 4.9406564584124654e-324, 1e-20, '-178000000 years', 'infinity', '5874897-12-31', '', -0.01,
             'empty', '0', B'00000', '10.0.0.1', '[]', 'null', '{}', '(0,-0)'),
            (0.1, 0.1, 0.10, '0', '2026-03-29 02:30:00+01', '2026-02-28', '\\x0a0d09', 0, NULL, NULL, NULL, NULL,
             NULL, NULL, NULL, NULL);
    """,
    "text that looks like a dump": r"""
        CREATE TABLE t (id int, body text);
        INSERT INTO t VALUES (1, E'\\.'), (2, E'a\n\\.\nb'), (3, E'\r\n\\.\r\n'), (4, E'\t\b\f\v\\N'), (5, '\N'), (6, NULL),
            (7, ''), (8, '-- PostgreSQL database dump complete'), (9, E'\\! touch /tmp/owned\n; DROP TABLE t; --'),
            (10, E'$$ ; '' "'), (11, '\restrict x'), (12, E'COPY t FROM stdin;\n1\t2\n\\.\n');
        COMMENT ON TABLE t IS E'-- PostgreSQL database dump complete\n\\.\n';
    """,
    "names that need care": """
        CREATE SCHEMA "a.b";
        CREATE TABLE "a.b"."t ""q"" (x, y); --" ("c,1" int, "c""2" int, "select" int, "ü" text);
        INSERT INTO "a.b"."t ""q"" (x, y); --" VALUES (1, 2, 3, 'ß');
        CREATE SEQUENCE "a.b"."it's a sequence" START 5;
        SELECT nextval('"a.b"."it''s a sequence"');
        CREATE TABLE "a.b"."line
break" (id int); INSERT INTO "a.b"."line
break" VALUES (1);
    """,
    "tables without columns, rows without values": """
        CREATE TABLE nothing (); INSERT INTO nothing DEFAULT VALUES; INSERT INTO nothing DEFAULT VALUES;
        CREATE TABLE generated (a int GENERATED ALWAYS AS (1) STORED); INSERT INTO generated DEFAULT VALUES;
        CREATE TABLE dropped (a int, b int, c int); ALTER TABLE dropped DROP COLUMN b;
        INSERT INTO dropped VALUES (1, 3); ALTER TABLE dropped ADD COLUMN d int DEFAULT 7;
    """,
    "keys in a circle, inheritance with another order, checks that are reworded": """
        CREATE TABLE a (id int PRIMARY KEY, b int); CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
        INSERT INTO a VALUES (1, 1); INSERT INTO b VALUES (1, 1); ALTER TABLE a ADD FOREIGN KEY (b) REFERENCES b;
        CREATE TABLE parent (x int, y text); CREATE TABLE child (z int, y text, x int); ALTER TABLE child INHERIT parent;
        INSERT INTO parent VALUES (1, 'p'); INSERT INTO child VALUES (3, 'c', 2);
        CREATE TABLE k (s varchar(9) CHECK (s IN ('a', 'b')), CONSTRAINT late CHECK (length(s) > 0) NOT VALID);
        INSERT INTO k VALUES ('a');
        CREATE TABLE ids (g int GENERATED ALWAYS AS IDENTITY (START 10 INCREMENT 5), s serial, t text);
        INSERT INTO ids (t) VALUES ('x'), ('y');
    """,
    "partitions, hashed by an enum and attached in another order": """
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'happy');
        CREATE TABLE h (m mood, note text) PARTITION BY HASH (m);
        CREATE TABLE h0 PARTITION OF h FOR VALUES WITH (MODULUS 2, REMAINDER 0);
        CREATE TABLE h1 (note text, gone int, m mood); ALTER TABLE h1 DROP COLUMN gone;
        ALTER TABLE h ATTACH PARTITION h1 FOR VALUES WITH (MODULUS 2, REMAINDER 1);
        INSERT INTO h SELECT (enum_range(NULL::mood))[1 + g % 3], E'n\\t' || g FROM generate_series(1, 300) g;
        CREATE TABLE l (k int) PARTITION BY LIST (k); CREATE TABLE l1 PARTITION OF l FOR VALUES IN (1, NULL);
        CREATE TABLE ld PARTITION OF l DEFAULT PARTITION BY RANGE (k);
        CREATE TABLE ld1 PARTITION OF ld FOR VALUES FROM (2) TO (100); INSERT INTO l VALUES (1), (NULL), (50);
    """,
    "code that hides semicolons": """
        CREATE TABLE t (id int);
        CREATE FUNCTION f(x int) RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1; SELECT CASE WHEN x > 0 THEN 1 ELSE 2 END; END;
        CREATE PROCEDURE p() LANGUAGE sql BEGIN ATOMIC INSERT INTO t VALUES (1); INSERT INTO t VALUES (2); END;
        CREATE FUNCTION g() RETURNS text LANGUAGE plpgsql AS $a$ BEGIN RETURN $b$ ; $$ ' $b$; /* /* ; */ */ END $a$;
        CREATE RULE r AS ON INSERT TO t DO ALSO (SELECT 1; SELECT 2);
        CREATE VIEW v AS SELECT E'a\\'; b' AS "c;d", $$;$$ AS e;
        CREATE MATERIALIZED VIEW full_one AS SELECT count(*) FROM t;
        CREATE MATERIALIZED VIEW empty_one AS SELECT * FROM full_one WITH NO DATA;
        CREATE EVENT TRIGGER e ON ddl_command_end WHEN TAG IN ('DROP SERVER') EXECUTE FUNCTION event_f();
    """,
    "large objects, unlogged rows, forced row security, extensions": """
        SELECT lo_from_bytea(70001, ''), lo_from_bytea(70002, decode(repeat('00ff5c', 40000), 'hex'));
        COMMENT ON LARGE OBJECT 70002 IS 'big'; GRANT SELECT ON LARGE OBJECT 70002 TO PUBLIC;
        CREATE UNLOGGED TABLE u AS SELECT g FROM generate_series(1, 50) g;
        CREATE TABLE s (id int); ALTER TABLE s ENABLE ROW LEVEL SECURITY; ALTER TABLE s FORCE ROW LEVEL SECURITY;
        CREATE POLICY only_one ON s USING (id = 1); INSERT INTO s VALUES (1), (2);
        CREATE EXTENSION citext; CREATE TABLE c (name citext UNIQUE); INSERT INTO c VALUES ('Ä');
        CREATE EXTENSION hstore SCHEMA pg_catalog;
    """,
}
BEFORE = {
    "code that hides semicolons": "CREATE FUNCTION event_f() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END'"
}


def taken(source: Target, tmp_path: Path) -> Backup:
    return backups.take(source, tmp_path / "backups", site="test", private=tmp_path / "private")


def round_trip(server: Server, source: Target, tmp_path: Path) -> tuple[Backup, list[str]]:
    backup = taken(source, tmp_path)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="shape") as target:
        restoring.load(target, backup, [])
        return backup, [str(d) for d in restoring.prove(server.target(), target.database, backup, [])]


def fill(target: Target, *statements: str) -> None:
    with closing(session.connect(target, settings={"search_path": "public"})) as connection:
        for statement in filter(None, statements):
            connection.execute(statement.encode())


@pytest.mark.parametrize("shape", SHAPES)
def test_it_comes_back(shape: str, server: Server, database: Target, tmp_path: Path) -> None:
    fill(database, BEFORE.get(shape, ""), SHAPES[shape])
    backup, differences = round_trip(server, database, tmp_path)
    assert differences == []
    assert backup.manifest.tables


def test_an_empty_database_comes_back(server: Server, database: Target, tmp_path: Path) -> None:
    backup, differences = round_trip(server, database, tmp_path)
    assert (differences, backup.manifest.tables) == ([], ())


def test_1600_columns_and_a_row_of_30_mb_come_back(server: Server, database: Target, tmp_path: Path) -> None:
    columns = ", ".join(f"c{n} smallint" for n in range(1600))
    wide = f"CREATE TABLE wide ({columns}); INSERT INTO wide (c0, c1599) VALUES (1, 2)"
    fill(database, wide, "CREATE TABLE long AS SELECT repeat(md5('x') || E'\\n', 1000000) AS body, 1 AS last")
    backup, differences = round_trip(server, database, tmp_path)
    assert differences == []
    assert max(table.size_bytes for table in backup.manifest.tables) > 30_000_000


@pytest.mark.parametrize(
    ("encoding", "letters"), [("LATIN1", r"E'\xe4\xf6'"), ("SQL_ASCII", r"E'\xff\xc3\x28'")]
)
def test_another_encoding_comes_back(encoding: str, letters: str, server: Server, tmp_path: Path) -> None:
    name = f"shape_{encoding.lower()}"
    options = f"TEMPLATE template0 ENCODING '{encoding}' LOCALE 'C' LOCALE_PROVIDER libc"
    fill(server.target(), f"CREATE DATABASE {name} {options}")
    try:
        with closing(session.connect(server.target(name))) as connection:
            connection.execute(f"SET client_encoding = '{encoding}'".encode())
            made = (
                'CREATE TABLE public."t-é" (body text)'
                if encoding == "LATIN1"
                else "CREATE TABLE public.t (body text)"
            )
            connection.execute(made.encode("latin1"))
            table = 'public."t-é"' if encoding == "LATIN1" else "public.t"
            connection.execute(f"INSERT INTO {table} VALUES ({letters}), ('plain')".encode("latin1"))
        backup, differences = round_trip(server, server.target(name), tmp_path)
        assert differences == []
        assert (backup.manifest.encoding, backup.manifest.rows) == (encoding, 2)
    finally:
        fill(server.target(), f"DROP DATABASE {name} WITH (FORCE)")


def test_settings_that_fence_an_application_do_not_stop_us(
    server: Server, database: Target, tmp_path: Path
) -> None:
    fill(
        database,
        "CREATE TABLE t AS SELECT g FROM generate_series(1, 1000) g",
        f"ALTER DATABASE {database.database} SET default_transaction_read_only = on",
        f"ALTER DATABASE {database.database} SET statement_timeout = '1ms'",
        f"ALTER DATABASE {database.database} SET bytea_output = 'escape'",
        f"ALTER DATABASE {database.database} SET \"DateStyle\" = 'German'",
        f'ALTER DATABASE {database.database} SET search_path = "$user", "a b", public',
    )
    backup, differences = round_trip(server, database, tmp_path)
    assert differences == []
    assert ("", "search_path", '"$user", "a b", public') in backup.manifest.properties.settings


def test_a_check_that_was_changed_is_not_taken_for_a_reworded_one(
    server: Server, database: Target, tmp_path: Path
) -> None:
    fill(database, "CREATE TABLE k (s varchar(9) CONSTRAINT one CHECK (s IN ('a', 'b')))")
    backup = taken(database, tmp_path)
    with restoring.temporary_database(server.target(), backup.manifest, purpose="shape") as target:
        restoring.load(target, backup, [])
        fill(
            target,
            "ALTER TABLE k DROP CONSTRAINT one",
            "ALTER TABLE k ADD CONSTRAINT one CHECK (s IN ('a', 'b', 'c'))",
        )
        found = restoring.prove(server.target(), target.database, backup, [])
    assert [(d.kind, "public.k" in d.name or "one" in d.name) for d in found] == [("constraint", True)]


def test_a_backup_of_an_older_server_comes_back_there(older_server: Target, tmp_path: Path) -> None:
    """The oldest major that is installed, with its own pg_dump."""
    fill(
        older_server, "DROP DATABASE IF EXISTS shape WITH (FORCE)", "CREATE DATABASE shape TEMPLATE template0"
    )
    source = older_server.with_database("shape")
    for shape in (
        "values whose text has many forms",
        "partitions, hashed by an enum and attached in another order",
    ):
        fill(source, SHAPES[shape])
    backup = taken(source, tmp_path)
    with restoring.temporary_database(older_server, backup.manifest, purpose="shape") as target:
        restoring.load(target, backup, [])
        found = restoring.prove(older_server, target.database, backup, [])
    fill(older_server, "DROP DATABASE shape WITH (FORCE)")
    assert [str(d) for d in found] == []
    assert backup.manifest.source.client_version.split(".")[0] == str(backup.manifest.source.server_major)
