"""The sandbox's database has every shape that a backup must carry, and is the same each time it is made."""

from __future__ import annotations

import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import damage, seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.writer import TABLES, Writer

if TYPE_CHECKING:
    from polyladder_ops.postgres.conninfo import Target

SAMPLE_SCALE = 0.02
OURS = "NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"
# Each feature with a catalog query that counts it.
FEATURES = {
    "uuid key": "pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)"
    " WHERE i.indisprimary AND a.atttypid = 'uuid'::regtype",
    "serial key": "pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' WHERE d.deptype = 'a'",
    "identity key, always": "pg_attribute WHERE attidentity = 'a'",
    "identity key, by default": "pg_attribute WHERE attidentity = 'd'",
    "jsonb": "pg_attribute WHERE atttypid = 'jsonb'::regtype AND attrelid::regclass::text = 'learning.progress_event'",
    "enum": "pg_type WHERE typtype = 'e'",
    "enum label with a quote": "pg_enum WHERE enumlabel LIKE '%''%'",
    "domain": "pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'd' AND n.nspname = 'public'",
    "domain with a check": "pg_constraint WHERE contypid <> 0 AND contype = 'c' AND connamespace = 'public'::regnamespace",
    "composite type": "pg_type t JOIN pg_class c ON c.oid = t.typrelid WHERE c.relkind = 'c' AND t.typname = 'money_amount'",
    "range type": "pg_range r JOIN pg_type t ON t.oid = r.rngtypid WHERE t.typname = 'score_range'",
    "array of text": "pg_attribute WHERE atttypid = 'text[]'::regtype AND attrelid = 'public.users'::regclass",
    "array of a composite type": "pg_attribute WHERE atttypid = 'public.money_amount[]'::regtype",
    "pg_trgm GIN index": "pg_index i JOIN pg_opclass o ON o.oid = ANY (i.indclass) WHERE o.opcname = 'gin_trgm_ops'",
    "expression index": "pg_index WHERE indexprs IS NOT NULL AND indrelid = 'public.users'::regclass",
    "partial index": "pg_index WHERE indpred IS NOT NULL AND indrelid = 'public.users'::regclass",
    "index with included columns": "pg_index WHERE indnatts > indnkeyatts",
    "BRIN index": "pg_class c JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'brin' AND c.relkind = 'i'",
    "hash index": "pg_class c JOIN pg_am m ON m.oid = c.relam WHERE m.amname = 'hash' AND c.relkind = 'i'",
    "clustered index": "pg_index WHERE indisclustered",
    "partitioned by list": "pg_partitioned_table WHERE partstrat = 'l'",
    "partitioned by range": "pg_partitioned_table WHERE partstrat = 'r'",
    "partitioned by hash of an enum": "pg_partitioned_table p JOIN pg_attribute a"
    " ON a.attrelid = p.partrelid AND a.attnum = ANY (p.partattrs) JOIN pg_type t ON t.oid = a.atttypid"
    " WHERE p.partstrat = 'h' AND t.typtype = 'e'",
    "default partition": "pg_partitioned_table WHERE partdefid <> 0",
    "partition with another column order": "pg_attribute a JOIN pg_attribute b USING (attname)"
    " WHERE a.attrelid = 'learning.review'::regclass AND b.attrelid = 'learning.review_later'::regclass"
    " AND a.attnum > 0 AND a.attnum <> b.attnum",
    "inherited table": "pg_inherits i JOIN pg_class c ON c.oid = i.inhparent WHERE c.relkind = 'r'",
    "inherited column after an own one": "pg_attribute WHERE attrelid = 'learning.article'::regclass"
    " AND attname = 'slug' AND attnum > 4",
    "dropped column": "pg_attribute a JOIN pg_class c ON c.oid = a.attrelid WHERE a.attisdropped AND c.relkind = 'r'",
    "unlogged table": "pg_class WHERE relpersistence = 'u' AND relkind = 'r'",
    "generated column": "pg_attribute WHERE attgenerated = 's'",
    "table without columns": "pg_class WHERE relkind = 'r' AND relnatts = 0",
    "circular foreign keys": "pg_constraint a JOIN pg_constraint b ON a.conrelid = b.confrelid"
    " AND b.conrelid = a.confrelid WHERE a.contype = 'f' AND b.contype = 'f' AND a.conrelid < b.conrelid",
    "foreign key to its own table": "pg_constraint WHERE contype = 'f' AND conrelid = confrelid",
    "deferred foreign key": "pg_constraint WHERE contype = 'f' AND condeferred",
    "exclusion constraint": "pg_constraint WHERE contype = 'x'",
    "check of a varchar in a list": "pg_constraint WHERE contype = 'c' AND pg_get_constraintdef(oid) ~ 'character varying'"
    " AND connamespace = 'public'::regnamespace",
    "constraint that old rows break": "pg_constraint WHERE NOT convalidated AND contype = 'c'",
    "materialized view": "pg_class WHERE relkind = 'm' AND relispopulated",
    "materialized view without data": "pg_class WHERE relkind = 'm' AND NOT relispopulated",
    "view on a view": "pg_depend d JOIN pg_rewrite r ON r.oid = d.objid JOIN pg_class v ON v.oid = r.ev_class"
    " JOIN pg_class b ON b.oid = d.refobjid WHERE d.classid = 'pg_rewrite'::regclass"
    " AND v.relkind = 'v' AND b.relkind = 'v' AND v.oid <> b.oid AND v.relnamespace = 'learning'::regnamespace",
    "trigger that forbids UPDATE and DELETE": "pg_trigger WHERE tgfoid = 'audit.forbid()'::regprocedure AND tgtype & 24 = 24",
    "constraint trigger": "pg_trigger WHERE tgconstraint <> 0 AND NOT tgisinternal",
    "disabled trigger": "pg_trigger WHERE tgenabled = 'D'",
    "trigger enabled always": "pg_trigger WHERE tgenabled = 'A'",
    "plpgsql function": "pg_proc p JOIN pg_language l ON l.oid = p.prolang WHERE l.lanname = 'plpgsql' AND p.prokind = 'f'",
    "function with BEGIN ATOMIC": "pg_proc WHERE prosqlbody IS NOT NULL AND pg_get_functiondef(oid) ~ 'BEGIN ATOMIC'"
    " AND prokind = 'f' AND pronamespace = 'learning'::regnamespace",
    "security definer function with settings": "pg_proc WHERE prosecdef AND proconfig IS NOT NULL",
    "procedure": "pg_proc WHERE prokind = 'p' AND pronamespace = 'learning'::regnamespace",
    "aggregate": "pg_proc WHERE prokind = 'a' AND pronamespace = 'learning'::regnamespace",
    "operator": "pg_operator WHERE oprnamespace = 'learning'::regnamespace",
    "rule with two commands": "pg_rewrite WHERE rulename = 'keep_flags' AND is_instead",
    "large object": "pg_largeobject_metadata",
    "large object of a table": "learning.recording r JOIN pg_largeobject_metadata m ON m.oid = r.sound",
    "large object that is empty": "pg_largeobject_metadata m WHERE NOT EXISTS"
    " (SELECT FROM pg_largeobject l WHERE l.loid = m.oid)",
    "large object of 100 KB": "(SELECT sum(octet_length(data)) FROM pg_largeobject GROUP BY loid) s (size)"
    " WHERE size BETWEEN 90000 AND 110000",
    "large object with grants": "pg_largeobject_metadata WHERE lomacl IS NOT NULL",
    "row-level security": "pg_class WHERE relrowsecurity AND NOT relforcerowsecurity",
    "policy": "pg_policy",
    "restrictive policy": "pg_policy WHERE NOT polpermissive",
    "name with spaces and umlauts": "pg_class WHERE relname = 'Lernfortschritt Übersicht'",
    "name with quotes": "pg_class WHERE relname = 'it''s \"quoted\"'",
    "schema with an umlaut": "pg_namespace WHERE nspname = 'Büro'",
    "column that is a keyword": "pg_attribute WHERE attname = 'select'",
    "column in another script": "pg_attribute WHERE attname ~ '[^ -~ß-ü]'",
    "column with a backslash": r"pg_attribute WHERE attname = E'a\\b'",
    "comment on a table": "pg_description WHERE objoid = 'public.users'::regclass AND objsubid = 0",
    "comment on a column": "pg_description WHERE objsubid > 0 AND objoid = 'public.users'::regclass",
    "comment on a schema": "pg_description WHERE objoid = 'learning'::regnamespace",
    "comment on a constraint": "pg_description d JOIN pg_constraint c ON c.oid = d.objoid WHERE c.contype = 'x'",
    "comment on a large object": "pg_description WHERE classoid = 'pg_largeobject'::regclass",
    "grants to the application": "pg_class WHERE relacl::text ~ 'polyladder_app='",
    "grants to the readers": "pg_class WHERE relacl::text ~ 'polyladder_readonly='",
    "grant option": r"pg_class WHERE relacl::text ~ 'polyladder_readonly=r\*'",
    "grant on a column": "pg_attribute WHERE attacl::text ~ 'polyladder_readonly='",
    "function that not everybody may call": "pg_proc WHERE proacl IS NOT NULL AND NOT proacl::text ~ '[{,]=X'"
    " AND pronamespace = 'learning'::regnamespace",
    "default privileges in a schema": "pg_default_acl WHERE defaclnamespace <> 0",
    "default privileges everywhere": "pg_default_acl WHERE defaclnamespace = 0",
    "another owner than the loader": "pg_class WHERE relowner = 'polyladder_app'::regrole AND relkind = 'r'",
    "the loader as owner": "pg_class WHERE relowner = 10 AND relnamespace = 'audit'::regnamespace AND relkind = 'r'",
    "search_path of two schemas": "pg_db_role_setting s, unnest(s.setconfig) c"
    " WHERE s.setdatabase = :database AND s.setrole = 0 AND c = 'search_path=learning, public'",
    "statement_timeout of the database": "pg_db_role_setting s, unnest(s.setconfig) c"
    " WHERE s.setdatabase = :database AND s.setrole = 0 AND c LIKE 'statement_timeout=%'",
    "time zone of the database": "pg_db_role_setting s, unnest(s.setconfig) c"
    " WHERE s.setdatabase = :database AND s.setrole = 0 AND c ILIKE 'timezone=%'",
    "setting of our own": "pg_db_role_setting s, unnest(s.setconfig) c"
    " WHERE s.setdatabase = :database AND s.setrole = 0 AND c LIKE 'polyladder.release=%\"%'",
    "settings of a role in the database": "pg_db_role_setting WHERE setdatabase = :database AND setrole <> 0",
    "grants on the database": "pg_database WHERE oid = :database AND datacl::text ~ 'polyladder_readonly=c'",
    "connection limit": "pg_database WHERE oid = :database AND datconnlimit > 0",
    "owner of the database": "pg_database WHERE oid = :database AND datdba = 'polyladder_app'::regrole",
    "comment on the database": "pg_shdescription WHERE objoid = :database",
    "migrations as node-pg-migrate keeps them": "(SELECT count(*) FROM public.pgmigrations) m (n) WHERE n BETWEEN 15 AND 30",
    "extended statistics": "pg_statistic_ext",
    "statistics on an expression": "pg_statistic_ext WHERE stxexprs IS NOT NULL",
    "column with a collation": "pg_attribute WHERE attcollation = 'pg_catalog.\"C\"'::regcollation"
    " AND attrelid = 'learning.word'::regclass",
    "sequence that nobody owns": "pg_class s WHERE s.relkind = 'S' AND NOT EXISTS"
    " (SELECT FROM pg_depend d WHERE d.objid = s.oid AND d.deptype IN ('a', 'i'))",
    "sequence with a step and a cache": "pg_sequence WHERE seqincrement <> 1 AND seqcache > 1",
    "replica identity": "pg_class WHERE relreplident = 'f' AND relkind = 'r'",
    "extensions": "pg_extension a, pg_extension b WHERE a.extname = 'pg_trgm' AND b.extname = 'btree_gist'",
    "rows that look like SQL": "public.support_note WHERE body ~ 'DROP TABLE' OR body ~ 'dump complete'",
    "a row that is an end-of-data mark": r"public.support_note WHERE body = E'\\.'",
    "special floats": "public.support_note WHERE weight = 'NaN' OR weight = '-Infinity'",
}


@pytest.mark.parametrize("feature", FEATURES)
def test_the_sandbox_has(feature: str, sample: Target) -> None:
    with connect(sample) as connection:
        query = FEATURES[feature].replace(
            ":database", "(SELECT oid FROM pg_database WHERE datname = current_database())"
        )
        found = connection.execute(f"SELECT count(*) FROM {query}".encode()).fetchone()
    assert found is not None
    assert found[0] > 0


def test_the_sandbox_has_at_least_thirty_tables_in_at_least_three_schemas(sample: Target) -> None:
    with connect(sample) as connection:
        found = connection.execute(
            "SELECT count(*), count(DISTINCT n.nspname) FROM pg_class c"
            " JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname {OURS}".encode()
        ).fetchone()
    assert found is not None
    assert found[0] >= 30
    assert found[1] >= 3


def test_every_table_has_rows(sample: Target) -> None:
    empty_on_purpose = {"public.feature_flag_history"}
    with connect(sample) as connection:
        tables = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
            f" WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND n.nspname {OURS}".encode()
        ).fetchall()
        without = {
            name
            for (name,) in tables
            if not connection.execute(f"SELECT FROM {name} LIMIT 1".encode()).rowcount
        }
    assert without == empty_on_purpose


def test_every_foreign_key_holds_though_the_rows_were_loaded_without_asking(sample: Target) -> None:
    with connect(sample) as connection, connection.transaction(force_rollback=True):
        keys = connection.execute(
            "SELECT conrelid::regclass, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
            " WHERE contype = 'f' AND conparentid = 0"
        ).fetchall()
        assert len(keys) >= 20
        for table, name, definition in keys:
            statement = f"ALTER TABLE {table} DROP CONSTRAINT {name}, ADD CONSTRAINT {name} {definition}"
            connection.execute(statement.encode())


@pytest.mark.parametrize(
    "statement", ["UPDATE audit.log SET action = ''", "DELETE FROM audit.login", "TRUNCATE audit.log"]
)
def test_the_audit_trail_takes_additions_only(statement: str, sample_database: Target) -> None:
    with connect(sample_database) as connection:
        before = connection.execute("SELECT count(*) FROM audit.log").fetchone()
        with pytest.raises(Exception, match="append-only"):
            connection.execute(statement.encode())
        assert connection.execute("SELECT count(*) FROM audit.log").fetchone() == before


def test_a_copy_of_the_sample_has_its_properties(sample: Target, sample_database: Target) -> None:
    def properties(target: Target) -> list[tuple[object, ...]]:
        with connect(target) as connection:
            return connection.execute(
                "SELECT d.datdba::regrole::text, d.datacl::text, d.datconnlimit, shobj_description(d.oid, 'pg_database'),"
                " (SELECT array_agg(s.setrole::regrole || s.setconfig::text ORDER BY 1) FROM pg_db_role_setting s"
                " WHERE s.setdatabase = d.oid) FROM pg_database d WHERE d.datname = current_database()"
            ).fetchall()

    assert properties(sample_database) == properties(sample)


def dump(target: Target) -> list[bytes]:
    """Return the lines of a plain dump, without its random key."""
    address = ["-h", target.host, "-p", str(target.port), "-U", target.user]
    done = subprocess.run(
        [str(servers.programs() / "pg_dump"), *address, target.database],
        env=portable.clean_environment({"PGPASSWORD": target.password, "PGTZ": "UTC"}),
        capture_output=True,
        check=True,
    )
    return [
        line for line in done.stdout.split(b"\n") if not line.startswith((b"\\restrict", b"\\unrestrict"))
    ]


def parted(lines: list[bytes], copy: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return the lines outside of the COPY blocks that begin so, and those inside of them, sorted."""
    outside: list[bytes] = []
    inside: list[bytes] = []
    goes_to = outside
    for line in lines:
        if line == b"\\.":
            goes_to = outside
        goes_to.append(line)
        if line.startswith(copy):
            goes_to = inside
    return outside, sorted(inside)


def test_the_same_scale_gives_the_same_dump_but_for_what_an_enums_oid_decides(
    database: Target, sample: Target
) -> None:
    seed.fill(database, scale=SAMPLE_SCALE)
    one, other = (parted(dump(target), b"COPY learning.exercise_result (") for target in (sample, database))
    assert one[0] == other[0]
    assert one[1] == other[1]
    assert len(one[1]) == 500


def test_another_scale_gives_proportionally_more(database: Target, sample: Target) -> None:
    seed.fill(database, scale=2 * SAMPLE_SCALE)
    with connect(database) as more, connect(sample) as less:
        for table in ("learning.review", "public.users", "audit.log"):
            question = f"SELECT count(*) FROM {table}".encode()
            many, few = more.execute(question).fetchone(), less.execute(question).fetchone()
            assert many is not None
            assert few is not None
            assert many[0] == 2 * few[0]


def test_a_bar_hears_of_every_step_from_nothing_to_all(database: Target) -> None:
    heard: list[tuple[float, str]] = []
    seed.fill(database, scale=0.001, progress=lambda share, what: heard.append((share, what)))
    shares = [share for share, _ in heard]
    assert shares == sorted(shares)
    assert (shares[0], shares[-1]) == (0, 1)
    assert {"users", "reviews", "statistics"} <= {what for _, what in heard}
    assert set(seed._WEIGHTS) <= {what for _, what in heard}


def test_a_database_with_tables_is_not_filled(sample_database: Target) -> None:
    assert not seed.is_empty(sample_database)
    with pytest.raises(OpsError, match="is not empty"):
        seed.fill(sample_database)


def test_a_fill_that_fails_leaves_the_database_empty(database: Target) -> None:
    with connect(database) as connection:
        connection.execute("SELECT lo_create(91003)")  # in the way of the last step's own
    with pytest.raises(OpsError, match="could not fill"):
        seed.fill(database, scale=0.001)
    assert seed.is_empty(database)


def test_the_application_logs_in_but_is_no_superuser(sample: Target) -> None:
    from polyladder_ops.postgres.conninfo import Target as Another

    app = Another.of(**{**sample.parameters, "user": seed.APP_ROLE})
    with connect(app) as connection:
        assert connection.execute(
            "SELECT rolsuper FROM pg_roles WHERE rolname = current_user"
        ).fetchone() == (False,)
        assert connection.execute("SELECT count(*) > 0 FROM public.users").fetchone() == (True,)


def test_the_schema_and_its_rows_load_on_an_older_server_too(older_server: Target) -> None:
    target = older_server.with_database("polyladder")
    seed.fill(target, scale=SAMPLE_SCALE)
    with connect(target) as connection:
        assert connection.info.server_version < 180000
        assert connection.execute("SELECT count(*) FROM public.users").fetchone() == (160,)


def test_the_writer_commits_to_all_its_tables_and_counts_by_the_servers_clock(
    sample_database: Target,
) -> None:
    clock = "SELECT clock_timestamp()"
    count = f"SELECT {' + '.join(f'(SELECT count(*) FROM {table})' for table in TABLES)}".encode()
    with connect(sample_database) as connection:
        first = connection.execute(count).fetchone()
        with Writer(sample_database) as writer:
            start = connection.execute(clock).fetchone()
            assert start is not None
            while sum(writer.commits_since(start[0]).values()) < 300:
                time.sleep(0.01)
            end = connection.execute(clock).fetchone()
            assert end is not None
            record = writer.stop()
        last = connection.execute(count).fetchone()
    between = record.commits_between(start[0], end[0])
    assert set(between) == set(TABLES)
    assert sum(between.values()) >= 300
    assert record.commits_between(end[0], end[0]) == {}
    inserting = [commit for commit in record.commits if commit.table in INSERTS]
    deleted = sum(commit.table == "public.notification" for commit in record.commits)
    assert first is not None
    assert last is not None
    assert last[0] - first[0] == len(inserting) - min(deleted, 400)


INSERTS = {
    "learning.review",
    "learning.progress_event",
    "learning.session",
    "public.notification",
    "audit.log",
}


def test_a_writer_that_cannot_connect_says_why(sample: Target) -> None:
    with pytest.raises(OpsError, match="the writer did not start") as caught:
        Writer(sample.with_database("nowhere")).start()
    assert "nowhere" in caught.value.detail
    assert sample.password not in str(caught.value)


def test_a_writer_that_was_killed_is_no_record(sample_database: Target) -> None:
    with Writer(sample_database) as writer:
        assert writer._process is not None
        writer._process.kill()
        writer._process.wait()
        with pytest.raises(OpsError, match="could not go on"):
            writer.stop()


def test_the_accident_drops_a_table_spoils_rows_and_says_so(sample_database: Target, sample: Target) -> None:
    told = damage.break_database(sample_database)
    assert "Dropped the table learning.translation with its 800 rows." in told
    assert all("{}" not in sentence and sentence.endswith(".") for sentence in told)
    with connect(sample_database) as broken, connect(sample) as whole:
        gone = broken.execute("SELECT to_regclass('learning.translation')").fetchone()
        assert gone == (None,)
        for question in (
            "SELECT count(*) FROM learning.review",
            "SELECT md5(string_agg(display_name, ',' ORDER BY number)) FROM public.users",
            "SELECT md5(string_agg(lemma, ',' ORDER BY id)) FROM learning.word",
            "SELECT count(*) FROM pg_largeobject_metadata",
            "SELECT last_value FROM learning.progress_event_id_seq",
        ):
            assert broken.execute(question.encode()).fetchone() != whole.execute(question.encode()).fetchone()


def test_an_accident_happens_once(sample_database: Target) -> None:
    damage.break_database(sample_database)
    with pytest.raises(OpsError, match="could not break"):
        damage.break_database(sample_database)
