"""A pg_dump that loses or changes one thing of a definition: its backup must not be proved.

Such a dump restores without an error, and replayed into an empty database it gives what it gave before: only the source
knows better. The stand-in changes one text of what the real pg_dump writes, and must have met it.
"""

from __future__ import annotations

import json
import sys
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients, session
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stand-ins are shell scripts")

SOURCE = """
CREATE TYPE mood AS ENUM ('sad', 'ok');
CREATE DOMAIN percent AS int DEFAULT 5 NOT NULL CHECK (VALUE < 101);
CREATE SEQUENCE counter INCREMENT BY 3 CYCLE;
CREATE TABLE people (
    id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, email varchar(40) NOT NULL DEFAULT 'nobody', age int CHECK (age > 17), m mood,
    low text GENERATED ALWAYS AS (lower(email)) STORED, tag text COLLATE "C");
ALTER TABLE people ADD CONSTRAINT adult CHECK (age < 200) NOT VALID;
CREATE TABLE notes (id int UNIQUE, owner int REFERENCES people ON DELETE CASCADE, note text) WITH (fillfactor = 70);
CREATE UNLOGGED TABLE passing (a int);
ALTER TABLE notes ALTER note SET STORAGE EXTERNAL, ALTER note SET STATISTICS 77;
ALTER TABLE people ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY, REPLICA IDENTITY FULL;
CREATE POLICY own ON people AS RESTRICTIVE FOR SELECT TO pg_monitor USING (email = CURRENT_USER);
CREATE POLICY written ON people WITH CHECK (age > 18);
CREATE UNIQUE INDEX by_tag ON notes (note);
CREATE INDEX few ON people (lower(email) DESC) INCLUDE (age) WHERE age > 30;
CREATE STATISTICS stat (ndistinct) ON age, email FROM people;
CREATE FUNCTION secret(a int DEFAULT 7) RETURNS int LANGUAGE sql IMMUTABLE STRICT SECURITY DEFINER LEAKPROOF
    PARALLEL SAFE COST 5 SET search_path TO 'pg_catalog' AS 'SELECT $1 + 1';
CREATE FUNCTION atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 + 2; END;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TRIGGER stamp BEFORE UPDATE ON people FOR EACH ROW WHEN (OLD.age > 3) EXECUTE FUNCTION touch('x');
CREATE TRIGGER quiet BEFORE DELETE ON people FOR EACH ROW EXECUTE FUNCTION touch(); ALTER TABLE people DISABLE TRIGGER quiet;
CREATE RULE kept AS ON DELETE TO notes WHERE OLD.id > 5 DO INSTEAD NOTHING;
CREATE VIEW seen WITH (security_barrier) AS SELECT id, email FROM people WHERE age > 20;
CREATE MATERIALIZED VIEW counted AS SELECT m, count(*) AS n FROM people GROUP BY m;
CREATE TABLE old (a int, b int) PARTITION BY RANGE (a);
CREATE TABLE old_1 PARTITION OF old FOR VALUES FROM (1) TO (100);
CREATE TABLE base (a int); CREATE TABLE grown (z int, y int) INHERITS (base);
ALTER TABLE grown ADD CONSTRAINT twice CHECK (a > 0); ALTER TABLE base ADD CONSTRAINT twice CHECK (a > 0);
CREATE TABLE strict (a int CONSTRAINT root_nn NOT NULL, d int CONSTRAINT root_dn NOT NULL, e int);
CREATE TABLE stricter (a int CONSTRAINT own_nn NOT NULL, b int, d int NOT NULL) INHERITS (strict);
CREATE TABLE strictest (c int) INHERITS (stricter, strict); ALTER TABLE strict ADD CONSTRAINT late_en NOT NULL e;
CREATE TABLE joined (a int CONSTRAINT joined_nn NOT NULL, d int NOT NULL, e int NOT NULL, b int); ALTER TABLE joined INHERIT strict;
CREATE TABLE later (b int) INHERITS (base); ALTER TABLE later ADD CONSTRAINT later_nn NOT NULL a;
ALTER TABLE base ADD CONSTRAINT base_nn NOT NULL a; ALTER TABLE joined RENAME TO "joined once";
CREATE TABLE strict_part (a int CONSTRAINT sp_nn NOT NULL, b int) PARTITION BY LIST (b);
CREATE TABLE strict_1 (a int CONSTRAINT s1_nn NOT NULL, b int); ALTER TABLE strict_part ATTACH PARTITION strict_1 FOR VALUES IN (1);
CREATE PUBLICATION told FOR TABLE notes (id, note) WHERE (id > 5);
COMMENT ON COLUMN people.email IS 'where they read';
INSERT INTO people (email, age) VALUES ('a', 30); INSERT INTO notes VALUES (1, 1, 'n');
"""
# What is lost: (pattern, what stands there then, what must be named).
LOSSES = {
    "row security": (r"ALTER TABLE public.people ENABLE ROW LEVEL SECURITY;", "", "table public.people"),
    "forced row security": (
        r"ALTER TABLE ONLY public.people FORCE ROW LEVEL SECURITY;",
        "",
        "table public.people",
    ),
    "replica identity": (r"ALTER TABLE ONLY public.people REPLICA IDENTITY FULL;", "", "table public.people"),
    "security definer": (r"SECURITY DEFINER ", "", "function public.secret"),
    "strict": (r"IMMUTABLE STRICT", "IMMUTABLE", "function public.secret"),
    "immutable": (r"IMMUTABLE STRICT", "STRICT", "function public.secret"),
    "leakproof": (r"LEAKPROOF ", "", "function public.secret"),
    "cost": (r"COST 5 ", "", "function public.secret"),
    "parallel": (r" PARALLEL SAFE", "", "function public.secret"),
    "a setting": (r" +SET search_path TO 'pg_catalog'\n", "", "function public.secret"),
    "an argument's default": (r"a integer DEFAULT 7", "a integer DEFAULT 8", "function public.secret"),
    "a body": (r"SELECT \$1 \+ 1", "SELECT $1 + 2", "function public.secret"),
    "a body of statements": (r"SELECT \(1 \+ 2\)", "SELECT (1 + 3)", "function public.atomic"),
    "a default's value": (r"DEFAULT 'nobody'", "DEFAULT 'root'", "table public.people"),
    "a default": (r" DEFAULT 'nobody'::character varying", "", "table public.people"),
    "not null": (
        r"'nobody'::character varying NOT NULL",
        "'nobody'::character varying",
        "table public.people",
    ),
    "a type": (r"character varying\(40\)", "character varying(41)", "table public.people"),
    "a collation": (r'text COLLATE pg_catalog."C"', "text", "table public.people"),
    "a generated column's expression": (
        r"lower\(\(email\)::text\)\) STORED",
        "upper((email)::text)) STORED",
        "table public.people",
    ),
    "generated": (r" GENERATED ALWAYS AS \(lower\(\(email\)::text\)\) STORED", "", "table public.people"),
    "identity always": (
        r"ADD GENERATED ALWAYS AS IDENTITY",
        "ADD GENERATED BY DEFAULT AS IDENTITY",
        "table public.people",
    ),
    "a check": (r"CHECK \(\(age > 17\)\)", "CHECK ((age > 0))", "constraint people_age_check"),
    "a child's own check": (
        r",\n    CONSTRAINT twice CHECK \(\(a > 0\)\)\n\)\nINHERITS",
        "\n)\nINHERITS",
        "constraint twice",
    ),
    "not valid": (r"CHECK \(\(age < 200\)\) NOT VALID", "CHECK ((age < 200))", "constraint adult"),
    "a cascade": (r" ON DELETE CASCADE", "", "constraint notes_owner_fkey"),
    "a unique constraint's kind": (
        r"ADD CONSTRAINT notes_id_key UNIQUE \(id\)",
        "ADD CONSTRAINT notes_id_key CHECK (id > 0)",
        "constraint notes_id_key",
    ),
    "unique": (r"CREATE UNIQUE INDEX by_tag", "CREATE INDEX by_tag", "index public.by_tag"),
    "an index's predicate": (r" WHERE \(age > 30\)", " WHERE (age > 31)", "index public.few"),
    "an index without a predicate": (r" WHERE \(age > 30\)", "", "index public.few"),
    "an index's expression": (r"btree \(lower\(", "btree (upper(", "index public.few"),
    "an index's order": (r"text\) DESC\)", "text))", "index public.few"),
    "an included column": (r" INCLUDE \(age\)", "", "index public.few"),
    "a policy's condition": (r"USING \(\(\(email\)::text = CURRENT_USER\)\)", "USING (true)", "policy own"),
    "a policy's check": (r"WITH CHECK \(\(age > 18\)\)", "WITH CHECK (true)", "policy written"),
    "restrictive": (r" AS RESTRICTIVE", "", "policy own"),
    "a policy's command": (r" FOR SELECT TO", " FOR ALL TO", "policy own"),
    "a policy's roles": (r" TO pg_monitor", "", "policy own"),
    "a switched-off trigger": (r"ALTER TABLE public.people DISABLE TRIGGER quiet;", "", "trigger quiet"),
    "a trigger's condition": (r"WHEN \(\(old.age > 3\)\)", "WHEN ((old.age > 4))", "trigger stamp"),
    "a trigger's argument": (r"touch\('x'\)", "touch('y')", "trigger stamp"),
    "a rule's condition": (r"old.id > 5\)", "old.id > 6)", "rule kept"),
    "a view's condition": (r"\n  WHERE \(age > 20\)", "", "view public.seen"),
    "a view's option": (r" WITH \(security_barrier='true'\)", "", "view public.seen"),
    "a materialized view's query": (r"count\(\*\)", "count(m)", "materialized view public.counted"),
    "a partition's bound": (r"FROM \(1\) TO \(100\)", "FROM (1) TO (200)", "table public.old_1"),
    "the kinds of statistics": (r" \(ndistinct\)", "", "statistics public.stat"),
    "a column of statistics": (r"ON email, age FROM", "ON email, tag FROM", "statistics public.stat"),
    "a sequence's increment": (r"INCREMENT BY 3", "INCREMENT BY 1", "sequence public.counter"),
    "a sequence's cycle": (r"\n    CYCLE;", ";", "sequence public.counter"),
    "a comment": (r"COMMENT ON COLUMN [^;]+;", "", "table public.people"),
    "storage": (r"ALTER TABLE [^;]+SET STORAGE EXTERNAL;", "", "table public.notes"),
    "a target of statistics": (r"ALTER TABLE [^;]+SET STATISTICS 77;", "", "table public.notes"),
    "an option of a table": (r"\nWITH \(fillfactor='70'\)", "", "table public.notes"),
    "unlogged": (r"CREATE UNLOGGED TABLE", "CREATE TABLE", "table public.passing"),
    "an enum's label": (r"'ok'", "'OK'", "type public.mood"),
    "a domain's not null": (r"AS integer NOT NULL DEFAULT 5", "AS integer DEFAULT 5", "type public.percent"),
    "a domain's default": (
        r"AS integer NOT NULL DEFAULT 5",
        "AS integer NOT NULL DEFAULT 6",
        "type public.percent",
    ),
    "a domain's check": (r"VALUE < 101", "VALUE < 102", "type public.percent"),
    "the order of columns": (r"z integer,\n    y integer", "y integer,\n    z integer", "table public.grown"),
    "inheritance": (
        r"z integer,\n    y integer,\n    CONSTRAINT twice CHECK \(\(a > 0\)\)\n\)\nINHERITS \(public.base\)",
        "a integer, z integer, y integer, CONSTRAINT twice CHECK ((a > 0)))",
        "table public.grown",
    ),
    "a child's own not null": (r"a integer CONSTRAINT own_nn NOT NULL", "a integer", "table public.stricter"),
    "its name": (r"CONSTRAINT own_nn NOT NULL", "CONSTRAINT other_nn NOT NULL", "table public.stricter"),
    "one that is older than its parent's": (
        r"\n +CONSTRAINT later_nn NOT NULL a,?| CONSTRAINT later_nn NOT NULL",
        "",
        "table public.later",
    ),
    "the name of a child that joined": (r"CONSTRAINT joined_nn ", "", 'table public."joined once"'),
    "a publication's filter": (r" WHERE \(\(id > 5\)\)", "", "publication told"),
    "another filter": (r"WHERE \(\(id > 5\)\)", "WHERE ((id > 6))", "publication told"),
    "a publication's columns": (r" \(id, note\)", "", "publication told"),
}
_STAND_IN = """
import json, re, sys
pattern, instead, _ = json.load(open(sys.argv[1]))
text, met = re.subn(pattern, lambda _match: instead, sys.stdin.read())
sys.stdout.write(text)
sys.exit(0 if met == 1 else f"met {met} times")
"""


@pytest.fixture(scope="module")
def source(server: servers.Server) -> Target:
    target = server.target("lossy_source")
    with closing(session.connect(server.target())) as connection:
        connection.execute("DROP DATABASE IF EXISTS lossy_source")
        connection.execute("CREATE DATABASE lossy_source TEMPLATE template0")
    with closing(session.connect(target, settings={"search_path": "public"})) as connection:
        connection.execute(SOURCE.encode())
    return target


@pytest.fixture
def taken(source: Target, tmp_path: Path) -> Callable[[tuple[str, str, str]], Backup]:
    """Return a backup whose dump lost this on its way."""

    def take(loss: tuple[str, str, str]) -> Backup:
        script, words, program = tmp_path / "lose.py", tmp_path / "loss.json", tmp_path / "pg_dump"
        script.write_text(_STAND_IN)
        words.write_text(json.dumps(loss))
        program.write_text(
            f'#!/bin/bash\nset -o pipefail\nPATH="{servers.programs()}:$PATH"\n'
            'case "$*" in *--snapshot*) ;; *) exec pg_dump "$@";; esac\n'
            f'pg_dump "$@" | "{sys.executable}" "{script}" "{words}"\n'
        )
        program.chmod(0o755)
        options = backups.Options(clients=clients.find_clients([program]))
        return backups.take(
            source, tmp_path / "backups", site="test", private=tmp_path / "private", options=options
        )

    return take


@pytest.mark.parametrize("loss", LOSSES)
def test_what_a_dump_lost_is_found_when_it_comes_back(
    loss: str, taken: Callable[[tuple[str, str, str]], Backup], server: servers.Server
) -> None:
    verdict = verification.verify_by_restore(taken(LOSSES[loss]), [], server.target(), trusted=True)
    assert verdict.verdict == "failed", verdict.reasons
    assert any(reason.startswith(LOSSES[loss][2]) for reason in verdict.reasons), verdict.reasons


def test_a_dump_that_lost_nothing_is_proved(
    taken: Callable[[tuple[str, str, str]], Backup], server: servers.Server
) -> None:
    nothing = ("PostgreSQL database dump complete", "PostgreSQL database dump complete", "")
    verdict = verification.verify_by_restore(taken(nothing), [], server.target(), trusted=True)
    assert (verdict.verdict, verdict.reasons) == ("passed", ())


def test_no_backup_comes_of_a_dump_that_says_of_no_sequence_where_it_stands(
    taken: Callable[[tuple[str, str, str]], Backup],
) -> None:
    with pytest.raises(OpsError, match="pg_dump left out 1 tables or sequences") as caught:
        taken((r"SELECT pg_catalog.setval\('public.counter'[^;]*;", "", ""))
    assert "public.counter" in caught.value.detail
