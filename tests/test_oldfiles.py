"""Files of the old scripts: what they hold comes back and is proved; what is half, cut or another thing is refused by name."""

from __future__ import annotations

import gzip
import random
import subprocess
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pyrage
import pytest

from polyladder_ops import loading, oldfiles, portable, restoring
from polyladder_ops.catalog import Backup
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import properties, session
from polyladder_ops.sandbox import server as servers
from tests.dumps import HEAD, TAIL, dump, old_dump
from tests.factories import manifest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.proof.differences import Difference
    from polyladder_ops.postgres.properties import DatabaseProperties


NAME = "polyladder_20260105_020000"
AS_SCRIPTS = ("--no-owner", "--no-acl")
# Of a client before 10.3, two tables of one name in two schemas.
NINE = (
    HEAD.replace(b"\\restrict oBj9mQ2vXk\n\n", b"")
    .replace(b"18.1", b"9.6.1")
    .replace(b"SELECT pg_catalog.set_config('search_path', '', false);\n", b"SET row_security = off;\n")
    + b"""CREATE SCHEMA billing;
CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog;
SET search_path = public, pg_catalog;
SET default_tablespace = '';
SET default_with_oids = false;
CREATE TABLE users (
    id integer NOT NULL,
    name text
);
CREATE SEQUENCE users_id_seq;
ALTER TABLE ONLY users ALTER COLUMN id SET DEFAULT nextval('users_id_seq'::regclass);
SET search_path = billing, pg_catalog;
CREATE TABLE users (
    id integer NOT NULL,
    name text
);
SET search_path = public, pg_catalog;
COPY users (id, name) FROM stdin;
1	Ada
2	Grace
\\.


SELECT pg_catalog.setval('users_id_seq', 2, true);
SET search_path = billing, pg_catalog;
COPY users (id, name) FROM stdin;
7	Kurt
\\.


"""
    + TAIL.replace(b"\\unrestrict oBj9mQ2vXk\n\n", b"")
)


def dumped(target: Target, *options: str, zone: str = "") -> bytes:
    """Return what the old scripts' pg_dump writes."""
    where = target.parameters
    env = {
        "PGHOST": where["host"],
        "PGPORT": where["port"],
        "PGUSER": where["user"],
        "PGPASSWORD": target.password,
    }
    env |= {"PGTZ": zone} if zone else {}
    env = portable.clean_environment({**env, "PGDATABASE": target.database})
    program = str(servers.programs() / "pg_dump")
    return subprocess.run([program, *options], env=env, check=True, capture_output=True).stdout


@pytest.fixture
def like(sample: Target) -> DatabaseProperties:
    """Properties of the database that an old file is to replace."""
    with closing(session.connect(sample)) as connection:
        return properties.read(connection)


def put(folder: Path, data: bytes, name: str = f"{NAME}.sql.gz") -> Path:
    path = folder / name
    path.write_bytes(gzip.compress(data, 1) if name.endswith(".gz") else data)
    return path


def described(path: Path, like: DatabaseProperties, *keys: object) -> Backup:
    return oldfiles.describe(path, keys, site="production", like=like)


@contextmanager
def restored(server: Target, backup: Backup, *keys: object) -> Iterator[Target]:
    """Within the block a database that the backup was loaded into."""
    with restoring.temporary_database(server, backup.manifest, purpose="old") as target:
        loading.load(target, backup, keys, jobs=3)
        yield target


def proved(server: Target, target: Target, backup: Backup, *keys: object) -> list[Difference]:
    return restoring.prove(server, target.database, backup, keys)


@pytest.mark.parametrize(
    "options",
    [
        AS_SCRIPTS,
        (),
        (*AS_SCRIPTS, "--clean", "--if-exists"),
        ("--clean",),
        (*AS_SCRIPTS, "--column-inserts"),
    ],
    ids=" ".join,
)
def test_what_the_old_scripts_dumped_comes_back_and_is_proved(
    options: tuple[str, ...], sample: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    server = sample.with_database("postgres")
    backup = described(put(tmp_path, dumped(sample, *options)), like)
    with restored(server, backup) as target:
        assert proved(server, target, backup) == []
        with closing(session.connect(target)) as connection, closing(session.connect(sample)) as live:
            for question in (
                b"SELECT count(*), sum(id) FROM learning.word",
                b"SELECT count(*) FROM audit.log",
            ):
                assert connection.execute(question).fetchone() == live.execute(question).fetchone()


def test_a_plain_file_and_an_encrypted_one_restore_too(
    sample: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    server = sample.with_database("postgres")
    data = dumped(sample, *AS_SCRIPTS)
    key = pyrage.x25519.Identity.generate()
    sealed = tmp_path / f"{NAME}.sql.gz.age"
    sealed.write_bytes(pyrage.encrypt(gzip.compress(data, 1), [key.to_public()]))
    for path in (put(tmp_path, data, "dump.sql"), sealed):
        backup = described(path, like, key)
        assert (backup.complete, backup.manifest.plain_bytes) == (True, len(data))
        with restored(server, backup, key) as target:
            assert proved(server, target, backup, key) == []


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (b"UPDATE learning.word SET lemma = lemma || '~' WHERE id = 7", "learning.word: its"),
        (
            b"DELETE FROM public.payment WHERE id = (SELECT min(id) FROM public.payment)",
            "public.payment: it has",
        ),
        (b"SELECT nextval('learning.word_id_seq')", "learning.word_id_seq: it stands at"),
        (b"DROP INDEX learning.word_lemma_trgm_idx", "learning.word_lemma_trgm_idx: it is missing"),
        (b"GRANT SELECT ON learning.word TO polyladder_readonly", "learning.word: its grants differ"),
        (b"CREATE TABLE public.more ()", "public.more: it was not in the source"),
    ],
)
def test_the_proof_tells_what_came_back_otherwise_than_the_file_says(
    damage: bytes, said: str, sample: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    server = sample.with_database("postgres")
    backup = described(put(tmp_path, dumped(sample, *AS_SCRIPTS)), like)
    with restored(server, backup) as target:
        with closing(session.connect(target)) as connection:
            connection.execute(damage)
        (difference,) = proved(server, target, backup)
    assert said in str(difference)


def test_a_file_that_changes_between_reading_and_loading_is_not_loaded(
    server: servers.Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    path = put(tmp_path, NINE)
    backup = described(path, like)
    # What changes need not be a row that is compared.
    for change in (
        NINE.replace(b"Kurt", b"Emmy"),
        NINE.replace(
            b"\n-- PostgreSQL database dump complete",
            b"\nCREATE TABLE public.spy ();\n\n-- PostgreSQL database dump complete",
        ),
    ):
        assert change != NINE
        put(tmp_path, change)
        with pytest.raises(OpsError, match="changed since it was taken"), restored(server.target(), backup):
            pass


def test_a_dump_of_a_client_before_10_3_is_proved_under_the_names_that_it_means(
    server: servers.Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    backup = described(put(tmp_path, NINE), like)
    assert [(t.name, t.rows) for t in backup.manifest.tables] == [("public.users", 2), ("billing.users", 1)]
    assert [s.name for s in backup.manifest.sequences] == ["public.users_id_seq"]
    assert (backup.manifest.source.server_version, backup.manifest.source.server_major) == ("9.6.1", 9)
    assert any("floating-point" in sentence for sentence in oldfiles.limits(backup))
    with restored(server.target(), backup) as target:
        assert proved(server.target(), target, backup) == []
        with closing(session.connect(target)) as connection:
            connection.execute("DELETE FROM billing.users")
        (difference,) = proved(server.target(), target, backup)
    assert str(difference) == "table billing.users: it has 0 rows instead of 1"


def test_what_cannot_be_proved_of_a_file_is_said(
    sample: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    bare = oldfiles.limits(described(put(tmp_path, dumped(sample, *AS_SCRIPTS)), like))
    said = "\n".join(bare)
    for piece in (
        "that it holds what was in the database: no manifest",
        "that nobody changed it since",
        "its name says 2026-01-05 02:00:00",
        "it names no owners",
        "it holds no grants",
        "it only names polyladder_app",  # a policy does
        "the database's owner, grants and settings",
    ):
        assert piece in said
    assert "INSERT" not in said
    assert "does not fill" not in said
    full = "\n".join(oldfiles.limits(described(put(tmp_path, dumped(sample)), like)))
    assert "it names no owners" not in full
    assert "it holds no grants" not in full


def test_a_backup_of_ours_has_no_such_limits() -> None:
    assert oldfiles.limits(Backup(manifest(), Path("x"), 0, ())) == ()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--schema-only",), "tables that it makes and does not fill: "),
        (
            ("--exclude-table-data=learning.word",),
            "rows of 1 tables that it makes and does not fill: learning.word",
        ),
        (("--inserts",), "tables: they are INSERT statements, loaded and not compared"),
    ],
)
def test_rows_that_a_file_lacks_are_named(
    options: tuple[str, ...], said: str, sample: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    data = dumped(sample, *options)
    found = "\n".join(oldfiles.limits(described(put(tmp_path, data), like)))
    assert said in found


def test_a_schema_public_that_is_dropped_and_made_anew_loses_its_grants_and_that_is_said(
    server: servers.Server, like: DatabaseProperties, tmp_path: Path
) -> None:
    """So did pg_dump --clean before 15."""
    data = old_dump(
        b"ALTER TABLE ONLY public.t DROP CONSTRAINT t_pkey;",
        b"DROP VIEW public.v;",
        b"CREATE OR REPLACE VIEW public.v AS\nSELECT\n    NULL::public.mood AS m;",
        b"DROP TABLE public.t;",
        b"DROP TYPE public.mood;",
        b"DROP SCHEMA public;",
        b"DROP SCHEMA billing;",
        b"CREATE SCHEMA public;",
        b"CREATE TABLE public.t (\n    a integer\n);",
        b"COPY public.t (a) FROM stdin;\n1\n\\.\n",
        b"CREATE VIEW public.v AS\n SELECT t.a\n   FROM public.t;",
    )
    backup = described(put(tmp_path, data), like)
    assert "the grants on schema public: it drops that schema and makes it anew" in oldfiles.limits(backup)
    with restored(server.target(), backup) as target:
        assert proved(server.target(), target, backup) == []


@pytest.mark.parametrize("zone", ["Asia/Kathmandu", "America/St_Johns"])
def test_times_are_proved_in_whatever_zone_the_dump_was_written(
    zone: str, server: servers.Server, database: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    with closing(session.connect(database)) as connection:
        connection.execute("CREATE TABLE public.seen (id int, at timestamptz)")
        connection.execute(
            "INSERT INTO public.seen SELECT i, timestamptz '2026-01-01' + i * interval '9 days' FROM generate_series(1, 90) i"
        )
        connection.execute("CREATE TABLE public.winter AS SELECT at FROM public.seen WHERE id < 5")
    data = dumped(database, zone=zone)
    assert b"+00" not in data
    backup = described(put(tmp_path, data), like)
    with restored(server.target(), backup) as target:
        assert proved(server.target(), target, backup) == []
        with closing(session.connect(target)) as connection:
            connection.execute("UPDATE public.seen SET at = at + interval '1 microsecond' WHERE id = 60")
        (difference,) = proved(server.target(), target, backup)
    assert str(difference) == "table public.seen: its 90 rows are not the rows that were dumped"


def test_the_dump_of_an_empty_database_is_whole_and_said_to_hold_nothing(
    database: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    first, *_ = oldfiles.limits(described(put(tmp_path, dumped(database)), like))
    assert first == "that there was anything: it makes no table"


def test_the_time_of_a_file_is_that_of_its_name_or_else_its_own(
    like: DatabaseProperties, tmp_path: Path
) -> None:
    named = described(put(tmp_path, old_dump()), like)
    assert (named.id, named.taken_at) == (NAME, datetime(2026, 1, 5, 2, tzinfo=UTC))
    other = put(tmp_path, old_dump(), "polyladder_20269999_020000.sql.gz")
    touched = datetime.fromtimestamp(other.stat().st_mtime, UTC)
    assert described(other, like).taken_at == touched
    assert f"the file is of {touched:%Y-%m-%d %H:%M:%S}Z" in "\n".join(
        oldfiles.limits(described(other, like))
    )


def test_roles_are_known_by_every_way_in_which_a_dump_names_one(
    like: DatabaseProperties, tmp_path: Path
) -> None:
    data = dump(
        b"CREATE SCHEMA app;",
        b'ALTER TABLE public.users OWNER TO "the owner";',
        b"ALTER SCHEMA app OWNER TO pg_database_owner;",
        b"GRANT SELECT,INSERT ON TABLE public.users TO reader;",
        b'GRANT ALL ON TABLE public.users TO "wri""ter" WITH GRANT OPTION;',
        b"REVOKE USAGE ON SCHEMA public FROM PUBLIC;",
        b"ALTER DEFAULT PRIVILEGES FOR ROLE maker IN SCHEMA public GRANT SELECT ON TABLES TO taker;",
        b"CREATE POLICY own ON public.users FOR SELECT TO one, two USING (true);",
        b"CREATE POLICY every ON public.users USING ((name = ' TO nobody'::text));",
        b"SET SESSION AUTHORIZATION 'grantor';",
        b"COMMENT ON TABLE public.users IS 'OWNER TO nobody';",
    )
    found = described(put(tmp_path, data), like).manifest.roles
    assert [role.name for role in found] == sorted(
        ["the owner", "reader", 'wri"ter', "maker", "taker", "one", "two", "grantor"]
    )
    assert not any(role.login or role.superuser for role in found)


def whole(server: bytes = b"") -> bytes:
    return dump(b"CREATE TABLE public.t (a integer);", b"COPY public.t (a) FROM stdin;\n1\n\\.\n", server)


@pytest.mark.parametrize(
    ("name", "data", "said", "hint"),
    [
        ("a.sql", b"", "the file is empty", "choose"),
        ("a.sql.gz", b"", "the file is empty", "choose"),
        ("a.sql.gz", gzip.compress(b"", mtime=0), "nothing is in it", "choose"),
        ("a.sql.gz", gzip.compress(whole())[:-5], "the gzip data is cut", ""),
        ("a.sql.gz", gzip.compress(whole()) + b"more", "something stands behind the gzip data", ""),
        ("a.sql.gz", gzip.compress(whole()[: -len(TAIL)]), "the dump has no end", "another"),
        ("a.sql.gz", gzip.compress(whole().partition(b"\n\\.")[0] + b"\n"), "inside the rows of a table", "another"),
        ("a.sql.gz", gzip.compress(old_dump()) + gzip.compress(old_dump()), "the dump goes on after its end", "another"),
        ("a.sql", whole(b"\\! touch x"), "the dump holds a psql command", "another"),
        ("a.dump", b"PGDMP\x01\x10", "pg_dump's custom format", "pg_restore -f {at}/a.sql {at}/a.dump`; then run `invoke restore --backup={at}/a.sql`"),
        ("a.sql", b"PGDMP\x01\x10", "pg_dump's custom format", "pg_restore -f {at}/a_plain.sql {at}/a.sql"),
        ("a.sql.gz", b"PGDMP\x01\x10", "pg_dump's custom format", "pg_restore"),
        ("a.sql.gz", gzip.compress(b"PGDMP\x01\x10", mtime=0), "pg_dump's custom format", "`gunzip -k {at}/a.sql.gz`"),
        ("a.tar", b"toc.dat".ljust(257, b"\0") + b"ustar  \0", "a tar archive", "pg_restore"),
        ("database-backup-7.zip", b"PK\x03\x04", "a zip archive", "unpack"),
        ("a.sql", b"\xff\xfe-\0-\0", "UTF-16, as PowerShell writes it", "invoke backup"),
        ("a.sql", b"\xef\xbb\xbf" + whole(), "UTF-8 with a byte order mark", "tail -c +4 {at}/a.sql > {at}/a_plain_utf8.sql"),
        ("a.sql.gz", gzip.compress(b"\xef\xbb\xbf" + whole()), "UTF-8 with a byte order mark", "invoke backup"),
        ("a.sql", whole().replace(b"\n", b"\r\n"), "its lines end as on Windows (CRLF)", "tr -d"),
        ("a.sql.gz", gzip.compress(whole().replace(b"\n", b"\r\n")), "its lines end as on Windows (CRLF)", "tr -d"),
        ("a.sql.gz", whole(), "it is not compressed", "rename"),
        ("a.sql", gzip.compress(whole()), "it is gzip", "rename"),
        ("a.gz", gzip.compress(whole()), "it is gzip", "rename"),
        ("a.txt", whole(), "it is not compressed", "rename"),
        ("a.sql.gz", b"age-encryption.org/v1\n", "it is encrypted with age", "rename"),
        ("a.sql", dump(b"CREATE DATABASE x;", b"\\connect x"), "it makes a database by itself", "psql"),
        ("a.sql", dump(b"DROP DATABASE IF EXISTS x;"), "it makes a database by itself", "psql"),
        ("a.sql", b"--\n-- PostgreSQL database cluster dump\n--\n", "a dump of a whole server", "psql"),
        ("a.sql", dump(b"COPY public.t (a) FROM stdin;\n1\n\\.\n"), "it brings rows and makes no tables", "tables"),
        ("a.sql", b"<html>not found</html>", "the dump", ""),
    ],
)  # fmt: skip
def test_what_is_half_or_another_thing_is_refused_by_name(
    *, name: str, data: bytes, said: str, hint: str, like: DatabaseProperties, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(OpsError) as caught:
        described(path, like)
    error = caught.value
    assert error.exit_code == 1
    assert error.message.startswith(f"{name} can't be restored")
    assert said in error.message
    assert hint in error.hint.lower() or hint.format(at=tmp_path) in error.hint
    assert "{" not in error.hint


def test_a_folder_of_pg_dump_is_refused_with_what_to_do(like: DatabaseProperties, tmp_path: Path) -> None:
    made = tmp_path / "old ones" / "dumped"
    made.mkdir(parents=True)
    (made / "toc.dat").write_bytes(b"PGDMP")
    with pytest.raises(OpsError, match="a folder") as caught:
        described(made, like)
    assert f"`pg_restore -f '{made}'.sql '{made}'`" in caught.value.hint


def test_a_hint_names_a_file_as_a_shell_reads_it_from_where_it_was_named(
    like: DatabaseProperties, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("-a\n.dump").write_bytes(b"PGDMP")
    with pytest.raises(OpsError) as caught:
        described(Path("-a\n.dump"), like)
    assert r"`pg_restore -f $'./-a\u000a'.sql $'./-a\u000a.dump'`" in caught.value.hint


def test_real_dumps_of_other_kinds_are_refused(
    database: Target, like: DatabaseProperties, tmp_path: Path
) -> None:
    for number, (options, said) in enumerate(
        {
            ("-Fc",): "custom format",
            ("-Ft",): "a tar archive",
            ("-C",): "makes a database",
            ("-C", "-c"): "makes a",
        }.items()
    ):
        path = put(tmp_path, dumped(database, *options), f"{number}.sql")
        with pytest.raises(OpsError, match=said):
            described(path, like)


def test_no_cut_of_a_file_passes(sample: Target, like: DatabaseProperties, tmp_path: Path) -> None:
    data = dumped(sample, *AS_SCRIPTS)
    chance = random.Random(59)
    for cut in [*(chance.randrange(1, len(data)) for _ in range(25)), len(data) - 1, len(data) - 30]:
        path = put(tmp_path, data[:cut])
        with pytest.raises(OpsError):
            described(path, like)
    packed = gzip.compress(data, 1)
    for cut in [*(chance.randrange(1, len(packed)) for _ in range(10)), len(packed) - 1]:
        path.write_bytes(packed[:cut])
        with pytest.raises(OpsError):
            described(path, like)


def test_a_file_is_old_if_no_manifest_stands_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path, whole())
    assert oldfiles.is_old(path)
    (tmp_path / "latest").mkdir()
    monkeypatch.chdir(tmp_path)
    assert not oldfiles.is_old(Path("latest"))
    assert oldfiles.is_old(Path(path.name))
    assert not oldfiles.is_old(tmp_path / "elsewhere.sql.gz")
    manifest = tmp_path / f"{path.name}.json"
    manifest.write_text("{}", encoding="utf-8")
    assert not oldfiles.is_old(path)
    assert not oldfiles.is_old(manifest)
