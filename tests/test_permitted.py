"""What a dump may say: everything that pg_dump writes, and nothing else."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.postgres import databases, forms
from polyladder_ops.postgres.lexer import DumpError, Lexer, setting_of
from polyladder_ops.postgres.permitted import OnlyPermitted
from polyladder_ops.sandbox import server as servers
from tests import shapes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target

DEBIAN = Path("/usr/lib/postgresql/15/bin")
FORMS = {
    "plain": (),
    "--inserts": ("--inserts",),
    "--column-inserts": ("--column-inserts", "--rows-per-insert=7", "--on-conflict-do-nothing"),
    "--clean": ("--clean", "--if-exists"),
    "without names": ("--no-owner", "--no-acl", "--no-comments", "--disable-triggers", "--data-only"),
    "by authorization": ("--use-set-session-authorization", "--quote-all-identifiers", "--serializable-deferrable"),
}  # fmt: skip


def is_permitted(statement: bytes, *, backslash_escapes: bool = False) -> bool:
    return forms.recognise(statement, backslash_escapes=backslash_escapes) is not None


@dataclass
class Refused:
    """The handler that keeps what is not permitted."""

    statements: int = 0
    refused: list[bytes] = field(default_factory=list)
    escapes: bool = False

    def statement(self, text: bytes) -> None:
        self.statements += 1
        setting = setting_of(text)
        if setting and setting[0] == b"standard_conforming_strings":
            self.escapes = setting[1] == b"off"
        if not is_permitted(text, backslash_escapes=self.escapes):
            self.refused.append(text)

    def comment(self, _text: bytes) -> None: ...

    def copy_begin(self, _statement: bytes, _table: bytes, _columns: bytes) -> None: ...

    def copy_data(self, _data: bytes) -> None: ...

    def copy_end(self) -> None: ...


@pytest.fixture(scope="module")
def everything(server: servers.Server) -> Iterator[Target]:
    """A database with every shape in it that fits beside the others."""
    from tests.faults.places import database

    shapes.make_roles(server.target())
    with database(server.target()) as target:
        shapes.fill(target, [shape for shape in shapes.SHAPES if shape != shapes.EVERYTHING])
        yield target
    shapes.drop_roles(server.target())


def dumped(target: Target, program: Path, *options: str) -> Refused:
    heard = Refused()
    lexer = Lexer(heard)
    environment = portable.clean_environment(
        {
            "PGHOST": target.host,
            "PGPORT": str(target.port),
            "PGUSER": target.user,
            "PGPASSWORD": target.password,
        }
    )
    done = subprocess.run(
        [program / "pg_dump", *options, target.database], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    lexer.feed(done.stdout)
    lexer.close()
    return heard


@pytest.mark.parametrize("form", FORMS)
def test_all_that_pg_dump_writes_is_permitted(form: str, everything: Target) -> None:
    heard = dumped(everything, servers.programs(), *FORMS[form])
    assert heard.refused == []
    assert heard.statements > 30


@pytest.mark.usefixtures("everything")  # its roles
def test_so_is_one_of_every_kind_of_object(server: servers.Server, database: Target) -> None:
    shapes.fill(database, [shapes.EVERYTHING])
    try:
        for form in (*FORMS.values(), ("--statistics",)):
            assert dumped(database, servers.programs(), *form).refused == []
    finally:
        databases.drop(server.target(), database.database)  # with its subscription


def test_so_is_what_an_older_server_and_client_write(older_server: Target) -> None:
    from tests.faults.places import database

    shapes.make_roles(older_server)
    with database(older_server) as target:
        shapes.fill(target, [shape for shape in shapes.SHAPES if shape != shapes.EVERYTHING])
        for form in FORMS.values():
            assert dumped(target, DEBIAN, *form).refused == []
    shapes.drop_roles(older_server)


@pytest.mark.parametrize(
    "statement",
    [
        "SET search_path = public, pg_catalog",  # clients before 10.3
        "SET default_with_oids = false",  # before 12
        "SET SESSION AUTHORIZATION 'app'",
        "RESET SESSION AUTHORIZATION",
        "SELECT pg_catalog.setval('public.\"it''s\"', 12, true)",
        "SELECT setval('a', 12, true)",
        "SELECT pg_catalog.lo_create('16400')",
        "SELECT pg_catalog.lowrite(0, '\\x00ff')",
        "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata WHERE oid = '16400'",
        "GRANT SELECT(id),INSERT(id) ON TABLE public.note TO app WITH GRANT OPTION",
        "REVOKE GRANT OPTION FOR ALL ON SCHEMA public FROM app",
        "SELECT * FROM pg_catalog.pg_restore_relation_stats(\n\t'version', '180001'::integer,\n\t'relpages', '1'::integer\n)",
        "CREATE TRUSTED PROCEDURAL LANGUAGE plperl",
        "CREATE DEFAULT CONVERSION public.c FOR 'UTF8' TO 'LATIN1' FROM utf8_to_iso8859_1",
        "SECURITY LABEL FOR dummy ON TABLE public.note IS 'secret'",
        "INSERT INTO public.t VALUES (1, -2.5e+10, 'NaN', NULL, B'101', true, '), (pg_read_file(''x'')')",
        "INSERT INTO public.t (id, \"a,b\") OVERRIDING SYSTEM VALUE VALUES\n\t(1, DEFAULT),\n\t(2, 'x') ON CONFLICT DO NOTHING",
        "INSERT INTO public.t DEFAULT VALUES",
    ],
)
def test_so_is_what_other_clients_write(statement: str) -> None:
    assert is_permitted(statement.encode())


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER SYSTEM SET archive_command = 'x'",
        "ALTER DATABASE live RENAME TO gone",
        "ALTER ROLE postgres PASSWORD 'x'",
        "CREATE ROLE intruder SUPERUSER",
        "CREATE DATABASE other",
        "CREATE TABLESPACE t LOCATION '/'",
        "DROP DATABASE live",
        "DROP OWNED BY app",
        "COMMENT ON DATABASE live IS 'polyladder-ops {}'",
        "COMMENT ON ROLE app IS ''",
        "SECURITY LABEL ON ROLE app IS 'x'",
        "GRANT pg_execute_server_program TO app",
        'GRANT "x ON TABLE " TO app',
        "GRANT ALL ON DATABASE live TO PUBLIC",
        "GRANT SET ON PARAMETER log_destination TO app",
        "DO $$ BEGIN END $$",
        "CALL public.p()",
        "SET ROLE postgres",
        "SET session_replication_role = replica",
        "SET LOCAL search_path = public",
        "RESET ALL",
        "SELECT pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.pg_terminate_backend(1)",
        "SELECT pg_catalog.setval('a', (SELECT 1), true)",
        "SELECT pg_catalog.setval('a', length(pg_read_file('/etc/passwd')), true)",
        "SELECT pg_catalog.lo_import('/etc/passwd')",
        "SELECT pg_catalog.lo_export(16400, '/tmp/x')",
        "SELECT pg_catalog.lo_close(0), pg_read_file('/etc/passwd')",
        "SELECT pg_catalog.lo_unlink(oid) FROM pg_catalog.pg_largeobject_metadata",
        "SELECT 1",
        "SELECT * FROM pg_catalog.pg_restore_relation_stats('a', pg_read_file('x'))",
        "TABLE pg_authid",
        "INSERT INTO t SELECT * FROM pg_authid",
        "INSERT INTO t VALUES (pg_read_file('/etc/passwd'))",
        "INSERT INTO t VALUES ('a' || pg_read_file('/etc/passwd'))",
        "INSERT INTO t VALUES (1) RETURNING pg_read_file('/etc/passwd')",
        "UPDATE pg_catalog.pg_authid SET rolsuper = true",
        "DELETE FROM pg_catalog.pg_class",
        "TRUNCATE public.note",
        "WITH x AS (DELETE FROM t RETURNING *) SELECT * FROM x",
        "BEGIN ISOLATION LEVEL SERIALIZABLE",
        "COMMIT AND CHAIN",
        "ROLLBACK",
        "PREPARE TRANSACTION 'x'",
        "SAVEPOINT s",
        "LOAD 'x'",
        "LISTEN x",
        "VACUUM",
        "CLUSTER",
        "CHECKPOINT",
        "EXPLAIN ANALYZE SELECT 1",
        "IMPORT FOREIGN SCHEMA s FROM SERVER x INTO y",
        "CREATE/**/ROLE x",
        "create role x",
    ],
)
def test_what_it_never_writes_is_not(statement: str) -> None:
    assert not is_permitted(statement.encode())


def test_a_literal_ends_where_the_server_ends_it() -> None:
    inside = rb"SELECT pg_catalog.setval('\', ' , code(), ', ' ) -- ')"
    assert is_permitted(inside)  # three literals
    assert not is_permitted(inside, backslash_escapes=True)  # one, code, and a comment
    assert is_permitted(rb"SELECT pg_catalog.lowrite(0, '\\x00')", backslash_escapes=True)


def test_the_refusal_shows_no_literal() -> None:
    with pytest.raises(DumpError) as caught:
        OnlyPermitted(Refused()).statement(b"ALTER ROLE app PASSWORD 'Canary7Canary'")
    assert "ALTER ROLE app PASSWORD" in caught.value.detail
    assert "Canary" not in str(caught.value)


def test_a_long_row_is_looked_at_once() -> None:
    row = b"INSERT INTO t VALUES (" + b"'it''s', " * 300_000 + b"1)"
    assert is_permitted(row)
    assert not is_permitted(row[:-1] + b" + x)")
