"""What will run of a migration's file is what node-pg-migrate 8 runs of it, and what is worth a look is said."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from polyladder_ops.app.migration_files import File, is_reversible, ordered, parts, remarks
from tests import node
from tests.test_limits import says

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

CUTS = [
    "CREATE TABLE t ();",
    "-- Up Migration\nCREATE TABLE t ();\n-- Down Migration\nDROP TABLE t;\n",
    "-- Down Migration\nDROP TABLE t;\n-- Up Migration\nCREATE TABLE t ();\n",
    "CREATE TABLE t ();\n-- Down Migration\nDROP TABLE t;\n",
    "CREATE TABLE s ();\n-- up migration\nCREATE TABLE t ();",
    "-- Up Migration\nCREATE TABLE t ();\n  -- down   migration is not possible\nCREATE TABLE u ();\n-- Down Migration\n",
    "------ - UP\tMIGRATIONS of today\nSELECT 1;\r\n--down migration\r\nSELECT 2;",
    "SELECT '\n-- Down Migration\n';",
    "-- Up Migration\nSELECT 1; -- Down Migration\nSELECT 2;",
    "\n\n--\n\n-up migration\nSELECT 1;\u2028-- down\u00a0migration\nSELECT 2;",
    "\ufeff-- Up Migration\nSELECT 1;",
    "",
]
CUT = """
import { readFileSync } from "node:fs";
import { getActions } from "%s";
const said = JSON.parse(readFileSync(0, "utf8")).map((text) => {
  const of = (action) => { if (!action) return null; let sql = ""; action({ sql: (s) => { sql = s; } }); return sql; };
  const { up, down } = getActions(text);
  return [of(up), of(down)];
});
console.log(JSON.stringify(said));
"""


def cut_by_node(texts: list[str]) -> list[list[str | None]]:
    module = node.root() / "workspace/packages/db/node_modules/node-pg-migrate/dist/legacy/sqlMigration.js"
    argv = ["node", "--input-type=module", "-e", CUT % module.resolve().as_uri()]
    done = subprocess.run(
        argv, input=json.dumps(texts), capture_output=True, text=True, check=True, encoding="utf-8"
    )
    found: list[list[str | None]] = json.loads(done.stdout)
    return found


def test_a_file_is_cut_as_node_pg_migrate_cuts_it(need: Callable[[object, str], None]) -> None:
    need(not node.lacking(), node.lacking())
    assert [[parts(text).up, parts(text).down] for text in CUTS] == cut_by_node(CUTS)


PIECES = ["-- Up Migration", "-- down migration", "--", "-", "\n", "\r", "\u2028", " ", "\t", "\u00a0", "\ufeff", "up", "Down", "migration", "x", "\u0131", "\x1f", "\x85"]  # fmt: skip


def test_any_file_is_cut_as_node_pg_migrate_cuts_it(need: Callable[[object, str], None]) -> None:
    need(not node.lacking(), node.lacking())
    texts: list[str] = []

    @settings(max_examples=400, database=None, derandomize=True)
    @given(st.lists(st.sampled_from(PIECES), max_size=14))
    def gather(pieces: list[str]) -> None:
        texts.append("".join(pieces))

    gather()
    assert len(texts) >= 200
    for text, found in zip(texts, cut_by_node(texts), strict=True):
        assert [parts(text).up, parts(text).down] == found, repr(text)


def file(folder: Path, text: str, name: str = "1700000000000_a.sql") -> File:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return File(path)


def said(
    folder: Path, text: str, name: str = "1700000000000_a.sql", *, down: bool = False
) -> list[tuple[int, str, bool]]:
    return [(r.line, r.said, r.beyond) for r in remarks(file(folder, text, name), ["polyladder"], down=down)]


@pytest.mark.parametrize(
    ("statement", "word", "beyond"),
    [
        ("CREATE ROLE reporter", "changes roles", True),
        ("alter  user app WITH PASSWORD 'x'", "changes roles", True),
        ("DROP ROLE IF EXISTS app", "changes roles", True),
        ("REASSIGN OWNED BY a TO b", "changes roles", True),
        ("GRANT app TO reporter", "changes roles", True),
        ("REVOKE app FROM reporter", "changes roles", True),
        ("SET ROLE other", "acts as another role", True),
        ("RESET ROLE", "acts as another role", True),
        ("SET SESSION AUTHORIZATION other", "acts as another role", True),
        ("ALTER DATABASE x SET timezone = 'UTC'", "names a database", True),
        ("CREATE DATABASE x", "names a database", True),
        ("GRANT CONNECT ON DATABASE x TO app", "names a database", True),
        ("COMMENT ON DATABASE x IS 'y'", "names a database", True),
        ("ALTER SYSTEM SET work_mem = '1GB'", "names a database", True),
        ("\\connect other", "names a database", True),
        ("SELECT dblink('x') FROM polyladder.t", "names this database", False),
        ("COMMIT", "ends or begins a transaction", False),
        ("begin", "ends or begins a transaction", False),
        ("CREATE INDEX CONCURRENTLY i ON t (a)", "can't run in a transaction", False),
        ("VACUUM t", "can't run in a transaction", False),
        ("DROP TABLE t", "drops or empties", False),
        ("DROP SCHEMA s CASCADE", "drops or empties", False),
        ("TRUNCATE t", "drops or empties", False),
        ("ALTER TABLE t DROP COLUMN a", "drops or empties", False),
        ("ALTER TABLE t DROP a", "drops or empties", False),
        ('ALTER TABLE t ADD b int, DROP "a b"', "drops or empties", False),
        ("DELETE FROM t", "touches every row", False),
        ("UPDATE t SET a = 1", "touches every row", False),
        ("DELETE FROM t USING u WHERE t.a = u.a", "deletes rows", False),
        ("WITH old AS (DELETE FROM t WHERE a RETURNING *) SELECT count(*) FROM old", "deletes rows", False),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN DELETE", "deletes rows", False),
        ("SELECT lo_unlink(7)", "drops or empties", False),
        ("WITH o AS (SELECT 1) DELETE FROM t USING o WHERE t.a = o.a", "deletes rows", False),
        ("WITH o AS (SELECT 1 WHERE true), p AS (SELECT 2) DELETE FROM t", "touches every row", False),
        ("WITH o AS (SELECT 1) UPDATE t SET a = 1", "touches every row", False),
        ("WITH o AS (UPDATE t SET a = 1 RETURNING 1) SELECT 1 WHERE true", "touches every row", False),
        ("UPDATE t SET a = (SELECT 1 FROM b WHERE b.id = 1)", "touches every row", False),
        ("EXPLAIN ANALYZE DELETE FROM t WHERE a", "deletes rows", False),
        ("PREPARE p (int) AS DELETE FROM t WHERE a = $1", "deletes rows", False),
        ("ALTER TYPE t DROP ATTRIBUTE a", "drops or empties", False),
        ("ALTER TABLE t DETACH PARTITION p", "drops or empties", False),
        ("ALTER TABLE t ALTER COLUMN a TYPE int USING a::int", "rewrites a column", False),
        ("ALTER TABLE t ALTER a SET DATA TYPE text USING left(a, 1)", "rewrites a column", False),
        ("ALTER TABLE t ALTER a TYPE text, ALTER b TYPE numeric(10, 2)", "rewrites a column", False),
        ("ALTER TYPE t ALTER ATTRIBUTE a TYPE date CASCADE", "rewrites a column", False),
        ("SELECT setval('s', 1)", "sets a sequence", False),
        ("WITH m AS (SELECT 1) SELECT pg_catalog.setval('s', 1) FROM m", "sets a sequence", False),
        ("ALTER SEQUENCE s RESTART", "sets a sequence", False),
        ("ALTER TABLE t ALTER COLUMN a RESTART WITH 5", "sets a sequence", False),
        ("TRUNCATE t RESTART IDENTITY", "drops or empties", False),
        ("MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = u.b", "writes over rows", False),
        ("INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET b = 1", "writes over rows", False),
        (
            "WITH o AS (INSERT INTO t SELECT 1 ON CONFLICT (a) DO UPDATE SET b = 1 RETURNING 1) SELECT 1",
            "writes over rows",
            False,
        ),
        ("CREATE OR REPLACE RULE r AS ON DELETE TO t DO INSTEAD NOTHING", "does something else", False),
        ("CREATE RULE r AS ON INSERT TO t DO ALSO DELETE FROM u", "does something else", False),
        ("SELECT dblink_exec('x', 'DROP TABLE t')", "acts on another database", True),
        ("DO $$ BEGIN PERFORM setval('s', 1); END $$", "in a body: sets a sequence", False),
        (
            "DO $$ BEGIN ALTER TABLE t ALTER a TYPE int USING 1; END $$",
            "in a body: rewrites a column",
            False,
        ),
        ("DO $$ BEGIN PERFORM dblink_exec('x', 'y'); END $$", "in a body: acts on another", True),
        ("DO 'BEGIN DELETE FROM t WHERE a; END'", "in a body: deletes rows", False),
        ("DO LANGUAGE plpgsql E'BEGIN DROP TABLE t; END'", "in a body: drops or empties", False),
        (
            "CREATE FUNCTION f() RETURNS void LANGUAGE sql AS 'TRUNCATE t'",
            "in a body: drops or empties",
            False,
        ),
    ],
)
def test_a_statement_that_is_worth_a_look_is_named_with_its_line(
    statement: str, word: str, beyond: bool, tmp_path: Path
) -> None:
    found = said(tmp_path, f"-- Up Migration\n-- a remark;\nSELECT 1;\n\n{statement};\nSELECT 2;\n")
    if word == "names this database":
        assert found == []  # a schema of that name is none
    else:
        ((line, text, reaches),) = found
        assert (line, reaches) == (5, beyond)
        assert text.startswith(word)


@pytest.mark.parametrize(
    "statement",
    [
        "CREATE TABLE t (a int)",
        "ALTER TABLE t DROP CONSTRAINT c",
        "ALTER TABLE t ALTER a DROP NOT NULL",
        "ALTER TABLE t ALTER COLUMN a DROP DEFAULT",
        "DROP INDEX i",
        "INSERT INTO t VALUES ('DROP TABLE t; COMMIT')",
        "SELECT 1 /* DROP ROLE x; */",
        "GRANT SELECT ON t TO polyladder",
        "ALTER TABLE t OWNER TO polyladder",
        "UPDATE t SET a = 1 WHERE b",
        "UPDATE t SET a = (SELECT 1) WHERE b IN (SELECT 2)",
        "WITH o AS (SELECT 1) UPDATE t SET a = 1 WHERE b",
        "WITH o AS (SELECT 1) SELECT * FROM o",
        "CREATE TABLE t (update text, delete text)",
        "SELECT 1 FROM t FOR UPDATE",
        "CREATE TRIGGER x BEFORE UPDATE ON t FOR EACH ROW EXECUTE FUNCTION f()",
        "COMMENT ON TABLE t IS 'BEGIN DELETE FROM t; END'",
        "ALTER TABLE t ATTACH PARTITION p DEFAULT",
        "CREATE USER MAPPING FOR x SERVER s",
        "ROLLBACK TO a",
        "SELECT polyladder_count()",
        "ALTER TABLE t ALTER a TYPE text, ALTER COLUMN b TYPE varchar(80)",
        "INSERT INTO t VALUES (1) ON CONFLICT DO NOTHING",
        "INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING",
        "MERGE INTO t USING u ON t.a = u.a WHEN NOT MATCHED THEN INSERT VALUES (1)",
        "ALTER SEQUENCE s OWNED BY t.a",
        "CREATE RULE r AS ON INSERT TO t DO ALSO INSERT INTO u VALUES (1)",
        "SELECT nextval('s'), currval('s')",
        "SET search_path TO public",
    ],
)
def test_a_harmless_statement_is_passed_over(statement: str, tmp_path: Path) -> None:
    assert said(tmp_path, f"{statement};") == []


def test_the_name_of_the_database_is_seen(tmp_path: Path) -> None:
    assert said(tmp_path, "SELECT dblink_connect($a$dbname='polyladder'$a$);") == [
        (1, "in a body: names this database", True)
    ]
    assert said(tmp_path, "CREATE PUBLICATION polyladder FOR ALL TABLES;")[0][1].startswith(
        "names this database"
    )


def test_what_a_body_does_is_seen(tmp_path: Path) -> None:
    ((line, text, beyond),) = said(tmp_path, "SELECT 1;\nDO $$ BEGIN EXECUTE 'DROP ROLE x'; END $$;")
    assert (line, beyond) == (2, True)
    assert text.startswith("in a body: changes roles")


@pytest.mark.parametrize(
    ("text", "loses"),
    [
        ("DROP TABLE t", True),
        ("TRUNCATE t", True),
        ("DELETE FROM t WHERE a", True),
        ("UPDATE t SET a = 1", True),
        ("DROP OWNED BY a", True),  # changes roles is said of it first
        ("DO $$ BEGIN DROP TABLE t; END $$", True),
        ("DO $$ BEGIN DELETE FROM t WHERE a; END $$", True),
        ("COMMIT", False),
        ("CREATE ROLE a", False),
        ("CREATE DATABASE x", False),
    ],
)
def test_what_may_lose_what_is_there_is_known(text: str, loses: bool, tmp_path: Path) -> None:
    (found,) = remarks(file(tmp_path, text), ["polyladder"])
    assert found.loses is loses


def test_what_an_update_with_a_condition_writes_over_is_not_seen(tmp_path: Path) -> None:
    says("What an UPDATE with a WHERE writes over is not asked for.")
    assert said(tmp_path, "UPDATE t SET a = 1 WHERE b") == []


@pytest.mark.parametrize(
    "text",
    [
        "pgm.dropColumns('t', 'a')",
        "pgm.dropMaterializedView('t')",
        "pgm.dropExtension('t')",
        "pgm.sql('DELETE FROM t WHERE a')",
        "pgm.sql('UPDATE users SET email = NULL')",
        'pgm.sql(`UPDATE public."users" AS u SET email = NULL`)',
        "pgm.sql('ALTER TABLE users DROP name')",
        "pgm.sql('ALTER TABLE a DETACH PARTITION b')",
        "pgm.sql('ALTER TYPE a DROP ATTRIBUTE b')",
        "pgm.sql('DROP MATERIALIZED VIEW v')",
        "pgm.sql('DROP EXTENSION citext CASCADE')",
        "pgm.sql('ALTER TABLE t ALTER COLUMN a TYPE int USING a::int')",
        "pgm.alterColumn('t', 'a', { type: 'int', using: 'a::int' })",
        "pgm.alterColumn('t', 'a', { type: 'text', using: 'left(a, 1)' })",
        "pgm.setTypeAttribute('t', 'a', 'int')",
        "pgm.sql(\"SELECT setval('s', 1)\")",
        "pgm.sql('ALTER SEQUENCE s RESTART')",
        "pgm.alterSequence('s', { restart: 1 })",
        "pgm.sql('MERGE INTO t USING u ON t.a = u.a WHEN MATCHED THEN UPDATE SET b = u.b')",
        "pgm.sql('INSERT INTO t VALUES (1) ON CONFLICT (a) DO UPDATE SET a = 1')",
        "pgm.sql('CREATE RULE r AS ON DELETE TO t DO INSTEAD NOTHING')",
        "pgm.sql(\"SELECT dblink_exec('x', 'y')\")",
    ],
)
def test_what_a_program_may_lose_is_known_by_its_words(text: str, tmp_path: Path) -> None:
    program = file(tmp_path, f"export const up = (pgm) => {text};", "1700000000000_a.ts")
    assert [found.loses for found in remarks(program, ["polyladder"])] == [True]


def test_a_program_is_looked_at_by_its_words(tmp_path: Path) -> None:
    text = "export const up = (pgm) => {\n  pgm.noTransaction();\n  pgm.dropTable('t');\n  pgm.createRole('x');\n};\n"
    found = said(tmp_path, text, "1700000000000_a.ts")
    assert [(line, beyond) for line, _, beyond in found] == [(4, True), (2, False), (3, False)]


@pytest.mark.parametrize(
    "text",
    [
        "pgm.sql('UPDATE users SET email = NULL WHERE id = 1')",
        "pgm.sql('ALTER TABLE users DROP CONSTRAINT c')",
        "pgm.sql('ALTER TABLE users ADD a int'); pgm.sql('DROP INDEX i')",
        "pgm.sql('INSERT INTO t VALUES (1) ON CONFLICT (a) DO NOTHING')",
        "pgm.alterColumn('t', 'a', { type: 'varchar(80)', notNull: true })",
        "pgm.alterColumn('t', 'a', { default: 1 })",
        "pgm.sql('ALTER TABLE t ALTER COLUMN a TYPE text')",
    ],
)
def test_what_a_program_changes_by_harmless_words_is_passed_over(text: str, tmp_path: Path) -> None:
    assert said(tmp_path, f"export const up = (pgm) => {text};", "1700000000000_a.ts") == []


def test_what_a_program_puts_together_is_not_seen(tmp_path: Path) -> None:
    says("one in TypeScript may drop what none of its words names")
    assert (
        said(tmp_path, "export const up = (pgm) => pgm['drop' + 'Table']('t');", "1700000000000_a.ts") == []
    )


@pytest.mark.parametrize(
    ("text", "line", "word"),
    [
        ("CREATE TABLE t ();\n-- Down Migration\nDROP TABLE t;", 2, "no up marker: all of the file runs"),
        (
            "-- Up Migration\nSELECT 1;\n-- Down migration is not possible\nSELECT 2;",
            3,
            "a remark that counts as a marker",
        ),
        ("-- Up Migration\nSELECT 1;\n-- Up Migration\nSELECT 2;", 3, "a marker again"),
        ("SELECT 1;\n-- Up Migration\nSELECT 2;", 1, "what stands above the first marker does not run"),
    ],
)
def test_a_cut_that_nobody_meant_is_named(text: str, line: int, word: str, tmp_path: Path) -> None:
    assert any(at == line and what.startswith(word) for at, what, _ in said(tmp_path, text)), said(
        tmp_path, text
    )


def test_without_an_up_marker_what_the_down_part_drops_is_named_as_run(tmp_path: Path) -> None:
    found = said(tmp_path, "CREATE TABLE t ();\n-- Down Migration\nDROP TABLE t;\n")
    assert (3, "drops or empties: DROP TABLE t", False) in found


def test_only_the_way_that_runs_is_looked_at(tmp_path: Path) -> None:
    text = "-- Up Migration\nCREATE TABLE t ();\n-- Down Migration\nDROP TABLE t;\n"
    assert said(tmp_path, text) == []
    assert said(tmp_path, text, down=True) == [(4, "drops or empties: DROP TABLE t", False)]


def test_digits_that_are_no_decimals_are_letters(tmp_path: Path) -> None:
    names = ["1900000000000_10\u00b2.sql", "1900000000000_9\u2460.sql"]
    assert [f.path.name for f in ordered([File(tmp_path / name) for name in names])] == names[::-1]


def test_a_file_without_a_down_part_has_no_way_back(tmp_path: Path) -> None:
    assert not is_reversible(file(tmp_path, "SELECT 1;"))
    assert is_reversible(file(tmp_path, "-- Down Migration\nSELECT 1;"))
    assert not is_reversible(file(tmp_path, "export const down = false;", "1_a.ts"))
    assert is_reversible(file(tmp_path, "export async function down() {}", "1_a.ts"))


def test_files_are_ordered_by_the_number_in_front(tmp_path: Path) -> None:
    names = [
        "20260105020000000_c.sql",
        "1700000000000_a10.sql",
        "1700000000000_a9.sql",
        "1800000000000_d.ts",
        "x.sql",
    ]
    found = [f.path.name for f in ordered([File(tmp_path / name) for name in names])]
    assert found == [
        "x.sql",
        "1700000000000_a9.sql",
        "1700000000000_a10.sql",
        "20260105020000000_c.sql",
        "1800000000000_d.ts",
    ]
