"""The inventory on real servers: equal after a faithful restore, different after every change that matters."""

from __future__ import annotations

import subprocess
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from polyladder_ops import portable
from polyladder_ops.postgres import grants, inventory, queries
from polyladder_ops.postgres.proof import renderings
from polyladder_ops.postgres.proof.differences import compare_objects
from polyladder_ops.postgres.session import Connection, connect
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.inventory import CatalogObject

SHAPES = Path(__file__).with_name("inventory_shapes.sql").read_text(encoding="utf-8")
ROLES = ("inv_owner", "inv_app", 'inv Rôle/="x"')
Names = set[tuple[str, str]]


def by_name(objects: tuple[CatalogObject, ...]) -> dict[tuple[str, str], CatalogObject]:
    return {(o.kind, o.name): o for o in objects}


def differing(one: tuple[CatalogObject, ...], other: tuple[CatalogObject, ...]) -> Names:
    a, b = by_name(one), by_name(other)
    return {key for key in a.keys() | b.keys() if a.get(key) != b.get(key)}


def major(connection: Connection) -> int:
    return connection.info.server_version // 10000


def read(target: Target) -> tuple[CatalogObject, ...]:
    with closing(connect(target)) as connection:
        return inventory.read(connection)


def create(admin: Target, name: str) -> Target:
    """Return a new empty database on the server, with the roles that the shapes name."""
    with closing(connect(admin)) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(name)))
        for role in ROLES:
            if not connection.execute("SELECT FROM pg_roles WHERE rolname = %s", [role]).fetchall():
                connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
    return admin.with_database(name)


def drop(admin: Target, name: str) -> None:
    with closing(connect(admin.with_database(name))) as connection:
        connection.execute("DROP SUBSCRIPTION IF EXISTS sub")
    with closing(connect(admin)) as connection:
        connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


def drop_roles(admin: Target) -> None:
    with closing(connect(admin)) as connection:
        for role in ROLES:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def fill(target: Target) -> None:
    with closing(connect(target)) as connection:
        shapes = queries.for_server(SHAPES, major=major(connection), superuser=True)
        connection.execute(shapes.encode())


def call(program: Path, target: Target, *argv: str, given: bytes = b"") -> bytes:
    """Run one of PostgreSQL's programs on the target and return its output."""
    done = subprocess.run(
        [program, "-h", target.host, "-p", str(target.port), "-U", target.user, "-d", target.database, *argv],
        input=given,
        capture_output=True,
        env={**portable.clean_environment(), "PGPASSWORD": target.password},
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def copy(dump: Path, source: Target, restored: Target) -> None:
    """Restore what a pg_dump says of the source, stopping at the first error."""
    psql = servers.programs() / "psql"
    call(psql, restored, "-X", "-q", "-v", "ON_ERROR_STOP=1", given=call(dump, source))


@pytest.fixture(scope="module")
def source(server: servers.Server) -> Iterator[Target]:
    target = create(server.target(), "inventory_source")
    fill(target)
    yield target
    drop(server.target(), target.database)
    drop_roles(server.target())


@pytest.fixture(scope="module")
def baseline(source: Target) -> tuple[CatalogObject, ...]:
    return read(source)


@pytest.fixture
def restored(server: servers.Server, source: Target) -> Iterator[Target]:
    target = create(server.target(), "inventory_restored")
    yield target
    drop(server.target(), target.database)


def test_every_kind_of_object_is_there_and_no_name_twice(baseline: tuple[CatalogObject, ...]) -> None:
    assert {o.kind for o in baseline} == {
        "access method", "aggregate", "cast", "collation", "constraint", "conversion", "default privileges",
        "event trigger", "extension", "foreign data wrapper", "foreign server", "foreign table", "function", "index",
        "language", "large object", "materialized view", "operator", "operator class", "operator family", "policy",
        "privileges", "procedure", "publication", "rule", "schema", "sequence", "statistics", "subscription", "table",
        "text search configuration", "text search dictionary", "text search parser", "text search template",
        "transform", "trigger", "type", "user mapping", "view",
    }  # fmt: skip
    assert len(by_name(baseline)) == len(baseline)
    assert list(baseline) == sorted(baseline, key=lambda o: (o.kind, o.name))


def test_a_restored_database_has_the_same_inventory_but_for_what_the_server_rewords(
    source: Target, baseline: tuple[CatalogObject, ...], restored: Target
) -> None:
    copy(servers.programs() / "pg_dump", source, restored)
    found = read(restored)
    assert differing(baseline, found) == {
        ("constraint", "reworded_s_check on inv.reworded"),
        ("table", "inv.grown"),
    }


def test_an_older_server_restores_to_itself_and_nearly_to_a_newer_one(
    server: servers.Server, older_server: Target, source: Target, restored: Target
) -> None:
    old, again = create(older_server, "inventory_old"), create(older_server, "inventory_again")
    fill(old)
    with closing(connect(old)) as connection:
        theirs = major(connection)
    dump = Path(f"/usr/lib/postgresql/{theirs}/bin/pg_dump")
    copy(dump, old, again)
    copy(dump, old, restored)
    first, second, newer = read(old), read(again), read(restored)
    for name in ("inventory_old", "inventory_again"):
        drop(older_server, name)
    drop_roles(older_server)

    reworded = {("constraint", "reworded_s_check on inv.reworded"), ("table", "inv.grown")}
    assert differing(first, second) == reworded
    known = {
        *reworded,
        ("extension", "citext"),
        ("extension", "pg_trgm"),
        ("subscription", "sub"),
        ("view", "inv.seen"),  # queries are written with fewer table names since 16
        ("view", "inv.seen_again"),
        ("materialized view", "inv.filled"),
    }
    then = {key: grants.as_of(o.grants, theirs) for key, o in by_name(newer).items()}
    assert then == {key: o.grants for key, o in by_name(first).items()}
    a, b = ({k: o.definition for k, o in by_name(objects).items()} for objects in (first, newer))
    assert {key for key in a if a[key] != b[key]} <= known


# What is done to the shapes, and which objects must show it: all of them and no other.
CHANGES: list[tuple[str, Names]] = [
    ("DROP INDEX people_trgm", {("index", "inv.people_trgm")}),
    ("CREATE INDEX extra ON people (n)", {("index", "inv.extra")}),
    ("ALTER INDEX people_expr ALTER COLUMN 1 SET STATISTICS 3", {("index", "inv.people_expr")}),
    ("ALTER INDEX people_expr NO DEPENDS ON EXTENSION pg_trgm", {("index", "inv.people_expr")}),
    ("ALTER TABLE people SET WITHOUT CLUSTER", {("index", "inv.people_pkey")}),
    (
        "ALTER TABLE people REPLICA IDENTITY FULL",
        {("table", "inv.people"), ("index", "inv.people_pkey")},
    ),
    ("ALTER TABLE circle_b OWNER TO inv_owner", {("table", "inv.circle_b")}),
    ("REVOKE INSERT ON people FROM inv_app", {("table", "inv.people")}),
    ("REVOKE GRANT OPTION FOR SELECT ON people FROM inv_app", {("table", "inv.people")}),
    ("GRANT UPDATE (mood) ON people TO inv_app", {("table", "inv.people")}),
    ("GRANT MAINTAIN ON people TO inv_app", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER mood SET DEFAULT 'first'", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER always SET GENERATED BY DEFAULT", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER slugged DROP EXPRESSION", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER email SET STATISTICS 3", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER email SET STORAGE MAIN", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER email SET COMPRESSION pglz", {("table", "inv.people")}),
    ("ALTER TABLE people ALTER email SET (n_distinct = 6)", {("table", "inv.people")}),
    ("ALTER TABLE people SET (fillfactor = 71)", {("table", "inv.people")}),
    ("ALTER TABLE people RESET (toast.autovacuum_enabled)", {("table", "inv.people")}),
    ("ALTER TABLE people NO FORCE ROW LEVEL SECURITY", {("table", "inv.people")}),
    ("ALTER TABLE people DISABLE ROW LEVEL SECURITY", {("table", "inv.people")}),
    ("COMMENT ON COLUMN people.email IS 'elsewhere'", {("table", "inv.people")}),
    ("COMMENT ON TABLE people IS NULL", {("table", "inv.people")}),
    (
        # As a label provider does, which no wheel has.
        "SET LOCAL allow_system_table_mods = on; INSERT INTO pg_seclabel VALUES ('people'::regclass, 1259, 3, 'provider', 'x')",
        {("table", "inv.people")},
    ),
    ("ALTER TABLE renamed SET UNLOGGED", {("table", "inv.renamed")}),
    ("ALTER TABLE renamed ALTER a TYPE varchar(5)", {("table", "inv.renamed")}),
    ('ALTER TABLE renamed ALTER a TYPE text COLLATE "C"', {("table", "inv.renamed")}),
    ("ALTER TABLE renamed ALTER b SET NOT NULL", {("table", "inv.renamed")}),
    ("ALTER TABLE renamed SET ACCESS METHOD heap2", {("table", "inv.renamed")}),
    ("ALTER TABLE renamed RENAME CONSTRAINT late_null_a_not_null TO x", {("table", "inv.renamed")}),
    ("ALTER TABLE circle_a VALIDATE CONSTRAINT b_there", {("table", "inv.circle_a")}),
    ("ALTER TABLE child NO INHERIT parent_two", {("table", "inv.child")}),
    ("ALTER TABLE typed NOT OF", {("table", "inv.typed")}),
    (
        "ALTER TABLE people DROP CONSTRAINT kept",
        {("constraint", "kept on inv.people"), ("index", "inv.kept")},
    ),
    ("ALTER TABLE circle_a VALIDATE CONSTRAINT to_b", {("constraint", "to_b on inv.circle_a")}),
    ("ALTER TABLE circle_a ALTER CONSTRAINT to_b DEFERRABLE", {("constraint", "to_b on inv.circle_a")}),
    ("COMMENT ON CONSTRAINT kept ON people IS 'x'", {("constraint", "kept on inv.people")}),
    ("ALTER TABLE people DISABLE TRIGGER late", {("trigger", "late on inv.people")}),
    ("DROP TRIGGER late ON people", {("trigger", "late on inv.people")}),
    ("ALTER TABLE measures_21 DISABLE TRIGGER on_all", {("trigger", "on_all on inv.measures_21")}),
    ("ALTER TABLE people DISABLE RULE refuse", {("rule", "refuse on inv.people")}),
    ("ALTER POLICY everybody ON people USING (id > 1)", {("policy", "everybody on inv.people")}),
    ("ALTER POLICY everybody ON people TO inv_app", {("policy", "everybody on inv.people")}),
    ("ALTER SEQUENCE counter INCREMENT 4", {("sequence", "inv.counter")}),
    ("ALTER SEQUENCE people_id_seq OWNED BY NONE", {("sequence", "inv.people_id_seq")}),
    ("ALTER VIEW seen RESET (security_barrier)", {("view", "inv.seen")}),
    ("ALTER VIEW seen ALTER email DROP DEFAULT", {("view", "inv.seen")}),
    (
        "CREATE OR REPLACE VIEW invoked WITH (security_invoker = true) AS SELECT 2 AS one",
        {("view", "inv.invoked")},
    ),
    ("REFRESH MATERIALIZED VIEW filled WITH NO DATA", {("materialized view", "inv.filled")}),
    ("ALTER STATISTICS people_stat SET STATISTICS 51", {("statistics", "inv.people_stat")}),
    ("ALTER FOREIGN TABLE remote ALTER a OPTIONS (SET column_name 'c')", {("foreign table", "inv.remote")}),
    ("ALTER TYPE mood ADD VALUE 'new' BEFORE 'sad'", {("type", "inv.mood")}),
    ("ALTER TYPE pair ADD ATTRIBUTE w int CASCADE", {("type", "inv.pair"), ("table", "inv.typed")}),
    ("COMMENT ON COLUMN pair.x IS 'x'", {("type", "inv.pair")}),
    ("ALTER DOMAIN percent DROP CONSTRAINT high", {("type", "inv.percent")}),
    ("ALTER DOMAIN percent SET DEFAULT 6", {("type", "inv.percent")}),
    ("COMMENT ON CONSTRAINT low ON DOMAIN percent IS 'x'", {("type", "inv.percent")}),
    ("ALTER TYPE words RENAME TO sentence", {("type", "inv.word")}),
    ("GRANT USAGE ON TYPE mood TO inv_app", {("type", "inv.mood")}),
    (
        "CREATE OR REPLACE FUNCTION touch() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        {("function", "inv.touch()")},
    ),
    ("ALTER FUNCTION slug(text) SECURITY DEFINER", {("function", "inv.slug(pg_catalog.text)")}),
    ('DROP PROCEDURE "Proc;dure"(int)', {("procedure", 'inv."Proc;dure"(integer)')}),
    ("ALTER AGGREGATE summed(int) OWNER TO inv_owner", {("aggregate", "inv.summed(integer)")}),
    ("DROP CAST (num AS int)", {("cast", "(inv.num AS integer)")}),
    ("ALTER OPERATOR === (num, num) SET (RESTRICT = NONE)", {("operator", "inv.===(inv.num,inv.num)")}),
    (
        "ALTER OPERATOR FAMILY num_family USING btree DROP OPERATOR 1 (int, int)",
        {("operator family", "inv.num_family USING btree")},
    ),
    ("COMMENT ON OPERATOR CLASS num_ops USING btree IS 'x'", {("operator class", "inv.num_ops USING btree")}),
    ('ALTER COLLATION "de sort" OWNER TO inv_owner', {("collation", 'inv."de sort"')}),
    ("ALTER CONVERSION conv OWNER TO inv_owner", {("conversion", "inv.conv")}),
    ("ALTER TEXT SEARCH DICTIONARY dict (accept = true)", {("text search dictionary", "inv.dict")}),
    (
        "ALTER TEXT SEARCH CONFIGURATION conf DROP MAPPING FOR word",
        {("text search configuration", "inv.conf")},
    ),
    ("COMMENT ON TEXT SEARCH PARSER prs IS 'x'", {("text search parser", "inv.prs")}),
    ("COMMENT ON TEXT SEARCH TEMPLATE tmpl IS 'x'", {("text search template", "inv.tmpl")}),
    (
        "SET LOCAL allow_system_table_mods = on; UPDATE pg_extension SET extversion = '0.9' WHERE extname = 'pg_trgm'",
        {("extension", "pg_trgm")},
    ),
    ('REVOKE USAGE ON LANGUAGE "Ω lang" FROM inv_app', {("language", '"Ω lang"')}),
    ("COMMENT ON ACCESS METHOD heap2 IS 'x'", {("access method", "heap2")}),
    ("DROP TRANSFORM FOR int LANGUAGE sql", {("transform", "for integer language sql")}),
    ("ALTER EVENT TRIGGER watching ENABLE", {("event trigger", "watching")}),
    ("ALTER FOREIGN DATA WRAPPER wrapper OPTIONS (SET debug 'x')", {("foreign data wrapper", "wrapper")}),
    ("ALTER SERVER \"far away\" OPTIONS (SET host 'x')", {("foreign server", '"far away"')}),
    (
        "ALTER USER MAPPING FOR inv_app SERVER \"far away\" OPTIONS (SET password 'x')",
        {("user mapping", 'inv_app on "far away"')},
    ),
    ('ALTER PUBLICATION "some" ADD TABLE renamed', {("publication", '"some"')}),
    ("ALTER PUBLICATION picked SET TABLE people (id) WHERE (id > 5)", {("publication", "picked")}),
    ("ALTER PUBLICATION picked SET TABLE people (id, email)", {("publication", "picked")}),
    ("ALTER PUBLICATION by_schema DROP TABLES IN SCHEMA public", {("publication", "by_schema")}),
    ("ALTER SUBSCRIPTION sub CONNECTION 'host=localhost password=x'", {("subscription", "sub")}),
    ("ALTER SUBSCRIPTION sub SET (disable_on_error = true)", {("subscription", "sub")}),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner IN SCHEMA inv REVOKE SELECT ON TABLES FROM inv_app",
        {("default privileges", "for role inv_owner in schema inv on tables")},
    ),
    (
        "ALTER DEFAULT PRIVILEGES FOR ROLE inv_owner GRANT EXECUTE ON FUNCTIONS TO PUBLIC",
        {("default privileges", "for role inv_owner on functions")},
    ),
    ("COMMENT ON SCHEMA inv IS NULL", {("schema", "inv")}),
    ("GRANT USAGE ON SCHEMA public TO PUBLIC", {("schema", "public")}),
    ("SELECT lo_unlink(2200)", {("large object", "2200")}),
    ("GRANT UPDATE ON LARGE OBJECT 4711 TO inv_app", {("large object", "4711")}),
    ("GRANT EXECUTE ON FUNCTION show_limit() TO PUBLIC", {("privileges", "function public.show_limit()")}),
    ("REVOKE SELECT ON pg_stats FROM PUBLIC", {("privileges", "view pg_catalog.pg_stats")}),
    ("GRANT SELECT (oid) ON pg_authid TO inv_app", {("privileges", "table pg_catalog.pg_authid")}),
]
# What a restore does, or time, and nobody need know.
NO_CHANGES = [
    "ALTER TABLE renamed ADD c int; ALTER TABLE renamed DROP c",
    "SELECT nextval('counter')",
    "INSERT INTO renamed VALUES ('a', 1); ANALYZE renamed",
    "GRANT ALL ON renamed TO postgres",
    "GRANT EXECUTE ON FUNCTION touch() TO PUBLIC",
    "DROP INDEX people_trgm; CREATE INDEX people_trgm ON people USING gin (email gin_trgm_ops)",
    "CREATE TEMP TABLE passing (a int); CREATE INDEX ON passing (a)",
    "SET LOCAL allow_system_table_mods = on; UPDATE pg_subscription SET subenabled = true",
    "SET LOCAL allow_system_table_mods = on; UPDATE pg_attribute SET attoptions = '{pg_attver=6}' WHERE attrelid = 'renamed'::regclass",
    "SET LOCAL TimeZone = 'Asia/Tokyo'; SET LOCAL DateStyle = 'German'; SET LOCAL quote_all_identifiers = on",
]


def changed(source: Target, statements: str) -> tuple[CatalogObject, ...]:
    """Return the inventory inside a transaction that did this, rolled back."""
    with closing(connect(source)) as connection, connection.transaction(force_rollback=True):
        connection.execute("SET LOCAL search_path = inv, public")
        connection.execute(statements.encode())
        return inventory.read(connection)


@pytest.mark.parametrize(("statements", "names"), CHANGES, ids=[statements[:60] for statements, _ in CHANGES])
def test_a_change_shows_in_the_object_it_was_made_to(
    source: Target, baseline: tuple[CatalogObject, ...], statements: str, names: Names
) -> None:
    assert differing(baseline, changed(source, statements)) == names


@pytest.mark.parametrize(("statements", "names"), CHANGES, ids=[statements[:60] for statements, _ in CHANGES])
def test_no_change_passes_for_another_wording(source: Target, statements: str, names: Names) -> None:
    with closing(connect(source)) as connection:
        wanted = inventory.look(connection)
        with connection.transaction(force_rollback=True):
            connection.execute(f"SET LOCAL search_path = inv, public; {statements}".encode())
            found = inventory.look(connection)
            remade = renderings.rendered(connection, wanted.expressions, found.expressions)
    elsewhere = {("extension", "pg_trgm")} if "extversion" in statements else set()
    assert {(d.kind, d.name) for d in compare_objects(wanted, found, remade)} == names - elsewhere


@pytest.mark.parametrize("statements", NO_CHANGES)
def test_what_has_no_meaning_does_not_show(
    source: Target, baseline: tuple[CatalogObject, ...], statements: str
) -> None:
    assert differing(baseline, changed(source, statements)) == set()


def test_an_invalid_index_is_left_out_as_pg_dump_leaves_it_out(source: Target) -> None:
    mark = "SET LOCAL allow_system_table_mods = on; UPDATE pg_index SET indisvalid = false WHERE indexrelid = %s::regclass"
    names = by_name(changed(source, mark.replace("%s", "'people_trgm'")))
    assert ("index", "inv.people_trgm") not in names
    assert ("index", "inv.people_expr") in names
    assert ("index", "inv.measures_half") in names  # invalid, but of a partitioned table: dumped


def test_definitions_hold_no_password_and_digests_tell_them_apart(
    source: Target, baseline: tuple[CatalogObject, ...]
) -> None:
    assert b"canary-mapping" in call(servers.programs() / "pg_dump", source)
    assert not [o for o in baseline if "canary" in o.definition]
    digests = {inventory.digest(o) for o in baseline if o.kind == "table"}
    assert all(len(d) == 32 and int(d, 16) for d in digests)
    # plain partitions of one root differ in their bound at least
    assert len(digests) == sum(o.kind == "table" for o in baseline)


def test_an_ordinary_role_reads_the_same_but_for_secrets(
    source: Target, baseline: tuple[CatalogObject, ...]
) -> None:
    found = changed(source, "SET LOCAL ROLE inv_owner")
    assert differing(baseline, found) == {("subscription", "sub"), ("user mapping", 'inv_app on "far away"')}


def test_names_that_are_not_of_the_encoding_stay_visible(server: servers.Server) -> None:
    with closing(connect(server.target())) as connection:
        connection.execute("CREATE DATABASE ascii_only TEMPLATE template0 ENCODING 'SQL_ASCII' LOCALE 'C'"
                           " LOCALE_PROVIDER libc")  # fmt: skip
    with closing(connect(server.target("ascii_only"))) as connection:
        connection.execute("SET client_encoding = 'SQL_ASCII'")
        connection.execute(b'CREATE TABLE public."m\xff" (a int)')
        without_encoding = inventory.read(connection)
    with_encoding = read(server.target("ascii_only"))
    with closing(connect(server.target())) as connection:
        connection.execute("DROP DATABASE ascii_only")
    assert with_encoding == without_encoding
    assert [(o.name, o.owner) for o in with_encoding if o.kind == "table"] == [
        ('public."m\\xff"', "postgres")
    ]


def test_lines_marked_for_other_servers_are_left_out() -> None:
    text = "a  -- 15+\nb  -- -14\nc  -- 15-16 (why)\nd  -- superuser\ne  -- others\nf -- 14 or so"
    assert queries.for_server(text, major=15, superuser=True) == (
        "a  -- 15+\nc  -- 15-16 (why)\nd  -- superuser\nf -- 14 or so"
    )
    assert queries.for_server(text, major=14, superuser=False) == "b  -- -14\ne  -- others\nf -- 14 or so"
    assert queries.for_server(text, major=17, superuser=False) == "a  -- 15+\ne  -- others\nf -- 14 or so"
