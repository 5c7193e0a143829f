"""Expressions made once more from the source's text: what is worded otherwise is excused, what means otherwise is not."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops import backups, expressions, loading, restoring
from polyladder_ops.postgres import inventory, session
from polyladder_ops.postgres.proof import renderings
from polyladder_ops.postgres.proof.differences import compare_objects
from tests import shapes
from tests.test_shapes import roles  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.inventory import Inventory
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server

SOURCE = """
CREATE DOMAIN letter AS varchar(3) DEFAULT 'ab' CHECK (VALUE IN ('ab', 'cd'));
CREATE FUNCTION two() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 2';
CREATE FUNCTION placed() RETURNS int LANGUAGE sql SET search_path = public, pg_temp AS 'SELECT 3';
CREATE FUNCTION given(a int DEFAULT 7) RETURNS int LANGUAGE sql AS 'SELECT $1';
CREATE FUNCTION atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 + 2; END;
CREATE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE TABLE t (id int PRIMARY KEY, a varchar(9) DEFAULT 'x', b char(5) CHECK (b = 'q'), n int DEFAULT 0, d date DEFAULT '2026-01-01',
    g text GENERATED ALWAYS AS (a || '-') STORED, v int GENERATED ALWAYS AS (n + 1) VIRTUAL,
    CONSTRAINT few CHECK (a IN ('x', 'y')), CONSTRAINT most CHECK (n > 0 AND id > 0));
CREATE TABLE u (id int, note text);
CREATE POLICY p ON t USING (a IN ('x', 'y')) WITH CHECK (n > 0);
CREATE INDEX partial ON t (n) WHERE a = 'x'; CREATE UNIQUE INDEX over ON t ((a || b));
CREATE STATISTICS stat ON (a || 'x'), n FROM t;
CREATE RULE kept AS ON DELETE TO t WHERE OLD.n > 5 DO INSTEAD NOTHING;
CREATE TRIGGER stamp BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.n > 3) EXECUTE FUNCTION touch();
CREATE VIEW seen AS SELECT id, a FROM t WHERE n > 3; ALTER VIEW seen ALTER a SET DEFAULT 'z';
CREATE VIEW joined AS SELECT t.id, u.note FROM t LEFT JOIN u ON u.id = t.id;
CREATE MATERIALIZED VIEW counted AS SELECT a, count(*) AS n FROM t GROUP BY a;
CREATE TABLE ranged (a varchar, n int) PARTITION BY RANGE ((n + 1)); CREATE TABLE r1 PARTITION OF ranged FOR VALUES FROM (1) TO (9);
CREATE TABLE x (r int4range, n int, CONSTRAINT apart EXCLUDE USING gist (r WITH &&) WHERE (n > 0));
CREATE PUBLICATION told FOR TABLE t WHERE (id > 5);
"""
# What a restored database may have become, and where that must show.
HOSTILE = {
    "a policy that is true": ("ALTER POLICY p ON t USING (true)", "policy p on public.t"),
    "a policy's check that is true": ("ALTER POLICY p ON t WITH CHECK (true)", "policy p on public.t"),
    "OR for AND": ("ALTER TABLE t DROP CONSTRAINT most, ADD CONSTRAINT most CHECK (n > 0 OR id > 0)", "constraint most on public.t"),
    "a longer list": ("ALTER TABLE t DROP CONSTRAINT few, ADD CONSTRAINT few CHECK (a IN ('x', 'y', 'z'))", "constraint few on public.t"),
    "another char": ("ALTER TABLE t DROP CONSTRAINT t_b_check, ADD CONSTRAINT t_b_check CHECK (b::text = 'q')", "constraint t_b_check on public.t"),
    "1 for 0": ("ALTER TABLE t ALTER n SET DEFAULT 1", "table public.t"),
    "another date": ("ALTER TABLE t ALTER d SET DEFAULT '2026-01-02'", "table public.t"),
    "a default that moves": ("ALTER TABLE t ALTER d SET DEFAULT CURRENT_DATE", "table public.t"),
    "another predicate": ("DROP INDEX partial; CREATE INDEX partial ON t (n) WHERE a = 'y'", "index public.partial"),
    "another expression": ("DROP INDEX over; CREATE UNIQUE INDEX over ON t ((b || a))", "index public.over"),
    "unique lost": ("DROP INDEX over; CREATE INDEX over ON t ((a || b))", "index public.over"),
    "another order": ("DROP INDEX over; CREATE UNIQUE INDEX over ON t ((a || b) DESC)", "index public.over"),
    "another operator class": ("DROP INDEX over; CREATE UNIQUE INDEX over ON t ((a || b) text_pattern_ops)", "index public.over"),
    "an index's sorting": ('DROP INDEX over; CREATE UNIQUE INDEX over ON t ((a || b) COLLATE "C")', "index public.over"),
    "another filter of a view": ("CREATE OR REPLACE VIEW seen AS SELECT id, a FROM t WHERE n > 2", "view public.seen"),
    "another join": ("CREATE OR REPLACE VIEW joined AS SELECT t.id, u.note FROM t JOIN u ON u.id = t.id", "view public.joined"),
    "a view's default": ("ALTER VIEW seen ALTER a SET DEFAULT 'y'", "view public.seen"),
    "another query": ("DROP MATERIALIZED VIEW counted; CREATE MATERIALIZED VIEW counted AS SELECT a, count(a) AS n FROM t GROUP BY a", "materialized view public.counted"),
    "a function's constant": ("CREATE OR REPLACE FUNCTION two() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 3'", "function public.two()"),
    "one schema for two": ("ALTER FUNCTION placed SET search_path = 'public, pg_temp'", "function public.placed()"),
    "another order of schemas": ("ALTER FUNCTION placed SET search_path = pg_temp, public", "function public.placed()"),
    "no schema": ("ALTER FUNCTION placed SET search_path = ''", "function public.placed()"),
    "an argument's default": ("CREATE OR REPLACE FUNCTION given(a int DEFAULT 8) RETURNS int LANGUAGE sql AS 'SELECT $1'", "function public.given(integer)"),
    "security definer": ("ALTER FUNCTION given SECURITY DEFINER", "function public.given(integer)"),
    "a body of statements": ("CREATE OR REPLACE FUNCTION atomic() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT 1 + 3; END", "function public.atomic()"),
    "a statement for a text": ("CREATE OR REPLACE FUNCTION atomic() RETURNS int LANGUAGE sql AS 'SELECT 1 + 2'", "function public.atomic()"),
    "a domain's check": ("ALTER DOMAIN letter DROP CONSTRAINT letter_check; ALTER DOMAIN letter ADD CONSTRAINT letter_check CHECK (VALUE IN ('ab', 'ce'))", "type public.letter"),
    "a domain's default": ("ALTER DOMAIN letter SET DEFAULT 'cd'", "type public.letter"),
    "a rule's condition": ("CREATE OR REPLACE RULE kept AS ON DELETE TO t WHERE OLD.n > 6 DO INSTEAD NOTHING", "rule kept on public.t"),
    "a rule beside": ("CREATE OR REPLACE RULE kept AS ON DELETE TO t WHERE OLD.n > 5 DO ALSO NOTHING", "rule kept on public.t"),
    "a trigger's condition": ("CREATE OR REPLACE TRIGGER stamp BEFORE UPDATE ON t FOR EACH ROW WHEN (OLD.n > 4) EXECUTE FUNCTION touch()", "trigger stamp on public.t"),
    "a trigger's moment": ("CREATE OR REPLACE TRIGGER stamp AFTER UPDATE ON t FOR EACH ROW WHEN (OLD.n > 3) EXECUTE FUNCTION touch()", "trigger stamp on public.t"),
    "another generated column": ("ALTER TABLE t ALTER g SET EXPRESSION AS (a || '+')", "table public.t"),
    "another virtual column": ("ALTER TABLE t DROP v, ADD v int GENERATED ALWAYS AS (n + 2) VIRTUAL", "table public.t"),
    "a generated column that is none": ("ALTER TABLE t ALTER g DROP EXPRESSION", "table public.t"),
    "another bound": ("ALTER TABLE ranged DETACH PARTITION r1; ALTER TABLE ranged ATTACH PARTITION r1 FOR VALUES FROM (1) TO (8)", "table public.r1"),
    "another partition key": ("DROP TABLE ranged; CREATE TABLE ranged (a varchar, n int) PARTITION BY RANGE ((n + 2))", "table public.ranged"),
    "another exclusion": ("ALTER TABLE x DROP CONSTRAINT apart, ADD CONSTRAINT apart EXCLUDE USING gist (r WITH &&) WHERE (n > 1)", "constraint apart on public.x"),
    "other statistics": ("DROP STATISTICS stat; CREATE STATISTICS stat ON (a || 'y'), n FROM t", "statistics public.stat"),
    "another row filter": ("ALTER PUBLICATION told SET TABLE t WHERE (id > 6)", "publication told"),
    "no row filter": ("ALTER PUBLICATION told SET TABLE t", "publication told"),
}  # fmt: skip
# Another wording of the same, as a dump brings it back.
ANEW = {
    "ALTER TABLE t DROP CONSTRAINT few, ADD CONSTRAINT few CHECK (((a)::text = ANY ((ARRAY['x'::character varying, 'y'::character varying])::text[])))",
    "ALTER POLICY p ON t USING (((a)::text = ANY ((ARRAY['x'::character varying, 'y'::character varying])::text[])))",
    "ALTER DOMAIN letter DROP CONSTRAINT letter_check; ALTER DOMAIN letter ADD CONSTRAINT letter_check CHECK (((VALUE)::text = ANY ((ARRAY['ab'::character varying, 'cd'::character varying])::text[])))",
}


def look(connection: Connection) -> Inventory:
    return inventory.look(connection, as_restored=True)


def differing(connection: Connection, wanted: Inventory) -> set[str]:
    found = inventory.look(connection)
    remade = renderings.rendered(connection, wanted.expressions, found.expressions)
    return {f"{d.kind} {d.name}" for d in compare_objects(wanted, found, remade)}


@pytest.fixture(scope="module")
def pair(server: Server) -> Iterator[tuple[Target, Inventory]]:
    """A database, and what its inventory was: what is changed in it later is a restored one's fault."""
    with closing(session.connect(server.target())) as connection:
        connection.execute("CREATE DATABASE renderings TEMPLATE template0")
    with closing(session.connect(server.target("renderings"))) as connection:
        connection.execute(f"SET search_path = public; {SOURCE}".encode())
        connection.execute("SET search_path = ''")
        yield server.target("renderings"), look(connection)
    with closing(session.connect(server.target())) as connection:
        connection.execute("DROP DATABASE renderings WITH (FORCE)")


@pytest.fixture
def changing(pair: tuple[Target, Inventory]) -> Iterator[Connection]:
    with closing(session.connect(pair[0])) as connection, connection.transaction(force_rollback=True):
        yield connection


def change(connection: Connection, statements: str) -> None:
    connection.execute(f"SET LOCAL search_path = public; {statements}".encode())
    connection.execute("SET LOCAL search_path = ''")


@pytest.mark.parametrize("name", HOSTILE)
def test_what_means_otherwise_is_never_excused(
    name: str, pair: tuple[Target, Inventory], changing: Connection
) -> None:
    statements, where = HOSTILE[name]
    change(changing, statements)
    assert where in differing(changing, pair[1])


@pytest.mark.parametrize("statements", sorted(ANEW))
def test_what_is_only_worded_otherwise_is_excused(
    statements: str, pair: tuple[Target, Inventory], changing: Connection
) -> None:
    change(changing, statements)
    assert inventory.look(changing).expressions != pair[1].expressions
    assert differing(changing, pair[1]) == set()


def test_nothing_of_it_stays(pair: tuple[Target, Inventory], changing: Connection) -> None:
    change(changing, ";".join(statements for statements, _ in list(HOSTILE.values())[:8]))
    before = inventory.look(changing)
    differing(changing, pair[1])
    assert inventory.look(changing) == before
    (left,) = changing.execute(
        "SELECT count(*) FROM pg_class WHERE relname ~ 'polyladder_remade'"
    ).fetchone() or (1,)
    assert left == 0


def test_two_statements_in_one_text_are_refused_and_the_others_are_made(
    pair: tuple[Target, Inventory], changing: Connection
) -> None:
    """What could be said with one statement more would be done by whoever proves the restore."""
    canary = "CREATE TABLE public.canary ()"
    default, check = ("table", "public.t", "default of n"), ("constraint", "few on public.t", "check")
    wanted = {default: f"1; {canary}", check: "a = 'x'::text"}
    assert renderings.rendered(changing, wanted, pair[1].expressions) == {check: "((a)::text = 'x'::text)"}
    alone = renderings.rendered(changing, {default: f"1); {canary}; --"}, pair[1].expressions)
    assert alone == {}
    assert changing.execute("SELECT pg_catalog.to_regclass('public.canary')").fetchone() == (None,)


def test_a_server_that_can_not_say_now_is_no_verdict_on_a_definition(pair: tuple[Target, Inventory]) -> None:
    """A lock that does not come in time says nothing of the text: to take that for a difference was a false alarm."""
    check = ("constraint", "few on public.t", "check")
    with closing(session.connect(pair[0])) as holding, closing(session.connect(pair[0])) as connection:
        connection.execute("SET lock_timeout = '50ms'")
        with holding.transaction():
            holding.execute("LOCK TABLE public.t IN ACCESS EXCLUSIVE MODE")
            with pytest.raises(
                psycopg.OperationalError, match=r"could not say what check of few .*lock timeout"
            ):
                renderings.rendered(connection, {check: "a = 'x'::text"}, pair[1].expressions)
        assert set(renderings.rendered(connection, {check: "a = 'x'::text"}, pair[1].expressions)) == {check}


def test_outside_a_transaction_nothing_stays_either(pair: tuple[Target, Inventory]) -> None:
    key = ("table", "public.t", "default of n")
    with closing(session.connect(pair[0])) as connection:
        assert renderings.rendered(connection, {key: "5 * 5"}, pair[1].expressions) == {key: "(5 * 5)"}
        assert inventory.look(connection).expressions == pair[1].expressions
        assert connection.info.transaction_status == psycopg.pq.TransactionStatus.IDLE


@pytest.fixture
def worded(
    server: Server,
    roles: None,  # noqa: F811
    database: Target,
    tmp_path: Path,
) -> Iterator[tuple[Backup, Target]]:
    """A backup of all that is worded anew, and a database that it was loaded into."""
    names = [name for name, text in shapes.SHAPES.items() if "CREATE EVENT TRIGGER" not in text]
    shapes.fill(database, [name for name in names if "EXTENSION" not in shapes.SHAPES[name]])
    backup = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    with restoring.temporary_database(server.target(), backup.manifest, purpose="shape") as target:
        loading.load(target, backup, [])
        yield backup, target


def test_an_owner_who_is_no_superuser_can_tell(worded: tuple[Backup, Target]) -> None:
    backup, target = worded
    wanted = expressions.unpacked(backup.manifest, [])
    assert wanted
    with closing(session.connect(target)) as connection, connection.transaction(force_rollback=True):
        connection.execute("CREATE ROLE renderer")
        connection.execute(f'GRANT ALL ON DATABASE "{target.database}" TO renderer'.encode())
        others = (
            "SELECT oid::regclass::text FROM pg_class WHERE oid >= 16384 AND relkind IN ('r', 'p', 'v', 'm')"
            " AND relowner <> 'renderer'::regrole"
        )
        for (schema,) in connection.execute(
            "SELECT oid::regnamespace::text FROM pg_namespace WHERE oid >= 16384 OR nspname = 'public'"
        ).fetchall():
            connection.execute(f"ALTER SCHEMA {schema} OWNER TO renderer".encode())
        _give_all(connection)
        assert connection.execute(others.encode()).fetchall() == []
        found = inventory.look(connection).expressions
        otherwise = {key for key in wanted if found[key] != wanted[key]}
        assert len(otherwise) > 20
        connection.execute("SET LOCAL ROLE renderer")
        remade = renderings.rendered(connection, wanted, found)
        assert {key for key in otherwise if remade.get(key) != found[key]} == set()


def _give_all(connection: Connection) -> None:
    """Make everything that has an owner `renderer`'s, as it is while a login of our own loads."""
    for (statement,) in connection.execute("""
        SELECT pg_catalog.format('ALTER %s %s OWNER TO renderer', CASE c.relkind WHEN 'S' THEN 'SEQUENCE' WHEN 'v' THEN 'VIEW'
            WHEN 'm' THEN 'MATERIALIZED VIEW' ELSE 'TABLE' END, c.oid::regclass)
        FROM pg_class c WHERE c.oid >= 16384 AND c.relkind IN ('r', 'p', 'v', 'm', 'S') AND NOT EXISTS (
            SELECT FROM pg_depend d WHERE d.objid = c.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND c.relkind = 'S')
        UNION ALL SELECT pg_catalog.format('ALTER ROUTINE %s OWNER TO renderer', p.oid::regprocedure) FROM pg_proc p
        WHERE p.oid >= 16384 AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.objid = p.oid AND d.classid = 'pg_proc'::regclass AND d.deptype = 'i')
        UNION ALL SELECT pg_catalog.format('ALTER DOMAIN %s OWNER TO renderer', t.oid::regtype) FROM pg_type t WHERE t.oid >= 16384 AND t.typtype = 'd'
        UNION ALL SELECT pg_catalog.format('ALTER STATISTICS %s.%I OWNER TO renderer', x.stxnamespace::regnamespace, x.stxname) FROM pg_statistic_ext x
    """).fetchall():
        connection.execute(statement.encode())
