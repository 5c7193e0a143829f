"""Single tables out of a backup: what they need comes with them and nothing else, proved, beside or as a file for psql."""

from __future__ import annotations

import gzip
import json
import os
import stat
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyrage
import pytest

from polyladder_ops import backups, extraction, picking, portable
from polyladder_ops.errors import Mismatch, OpsError, Refused, UsageError
from polyladder_ops.postgres import databases, inventory, session
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.sandbox import server as servers
from polyladder_ops.storage import Damaged
from tests.conftest import numbers, run
from tests.forging import damaged, dump_of, forged, lying
from tests.test_tasks import Ended, Project, project, url

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.catalog import Backup
    from polyladder_ops.extraction import Extracted
    from polyladder_ops.postgres.conninfo import Target

OWNER = "extract_owner"
SHAPES = Path(__file__).with_name("extract_shapes.sql")


@pytest.fixture(scope="module")
def taken(server: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """A backup of the shapes; the role that owns them is gone from the server afterwards."""
    folder = tmp_path_factory.mktemp("taken")
    target = server.target("extract_source")
    run(server.target(), "CREATE ROLE %I", OWNER)
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", target.database)
    run(server.target(), "ALTER DATABASE %I SET work_mem = '5MB'", target.database)
    with closing(session.connect(target)) as connection:
        connection.execute(SHAPES.read_bytes())
    made = backups.take(target, folder / "backups", site="production", private=folder / "private")
    databases.drop(server.target(), target.database)
    run(server.target(), "DROP ROLE %I", OWNER)
    return made


@pytest.fixture(scope="module")
def sampled(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    folder = tmp_path_factory.mktemp("sampled")
    return backups.take(sample, folder / "backups", site="production", private=folder / "private")


@pytest.fixture
def name(server: servers.Server) -> Iterator[str]:
    """The name of a database that is not there yet, and nothing but it has come when the test ends."""
    made = f"rescue {next(numbers)}"
    before = set(session.database_sizes(server.target()))
    yield made
    assert set(session.database_sizes(server.target())) - {made} == before
    databases.drop(server.target(), made)


def extract(
    server: servers.Server, name: str, backup: Backup, *tables: str, keys: Sequence[Any] = ()
) -> Extracted:
    wanted = picking.wanted(backup.manifest, tables)
    return extraction.into(server.target(), name, backup, wanted, keys)


def asked(target: Target, question: str) -> list[tuple[Any, ...]]:
    with closing(session.connect(target)) as connection:
        return connection.execute(question.encode()).fetchall()


def kinds_and_names(target: Target) -> set[str]:
    with closing(session.connect(target)) as connection:
        found = {f"{entry.kind} {entry.name}" for entry in inventory.entries(connection)}
    return found - {"schema public", "extension plpgsql"}


# Into a new database --------------------------------------------------------------------------------------------------


def test_a_table_comes_with_what_it_needs_and_nothing_else(
    server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, '"Odd Schema"."Odd ""Na""me"')
    target = server.target(name)
    assert kinds_and_names(target) == {
        'schema "Odd Schema"',
        "type public.mood",
        "type public.grade",
        "collation public.bytes",
        "function public.helper(pg_catalog.text)",
        "function public.folded(pg_catalog.text)",
        "function public.for_index(pg_catalog.text)",
        "sequence public.shared",
        'sequence "Odd Schema"."Odd ""Na""me_id_seq"',
        'sequence "Odd Schema"."Odd ""Na""me_i_seq"',
        'table "Odd Schema"."Odd ""Na""me"',
        'index "Odd Schema"."Odd ""Na""me_pkey"',
        'index "Odd Schema".odd_index',
        'constraint "Odd ""Na""me_pkey" on "Odd Schema"."Odd ""Na""me"',
    }
    assert [table.rows for table in done.contents.tables] == [50]
    assert asked(target, """SELECT count(*), max(folded) FROM "Odd Schema"."Odd ""Na""me" """) == [
        (50, "tab\tund\\Ü9")
    ]
    assert asked(
        target, """SELECT nextval('public.shared'), nextval('"Odd Schema"."Odd ""Na""me_i_seq"')"""
    ) == [(151, 57)]
    assert asked(target, """SELECT col_description('"Odd Schema"."Odd ""Na""me"'::regclass, 2)""") == [
        ("how it went",)
    ]


def test_all_tables_of_the_sample_come_together_and_those_with_extensions_alone(
    server: servers.Server, sampled: Backup, name: str
) -> None:
    tables = [entry.name for entry in sampled.manifest.objects if entry.kind == "table"]
    for table in ("learning.word", "learning.tutor_booking"):
        extract(server, name, sampled, table)
        databases.drop(server.target(), name)
    done = extract(server, name, sampled, *(t for t in tables if "exercise_result_" not in t))
    assert done.contents == replace(
        sampled.manifest.contents,
        large_objects=(),
        sequences=tuple(
            s for s in sampled.manifest.sequences if s.name in {d.name for d in done.contents.sequences}
        ),
    )
    assert {o.name for o in sampled.manifest.objects if o.kind == "constraint"} <= {
        found.removeprefix("constraint ") for found in kinds_and_names(server.target(name))
    }
    assert "trigger users_touch on public.users" in done.outcome.left_out
    assert not [
        found
        for found in kinds_and_names(server.target(name))
        if found.startswith(("trigger", "policy", "view"))
    ]


def test_the_new_database_is_like_the_source_and_ours(
    server: servers.Server, taken: Backup, name: str
) -> None:
    assert taken.manifest.properties.owner == "postgres"
    done = extract(server, name, taken, "parent")
    found = databases_properties(server.target(name))
    assert (found.encoding, found.collate, found.ctype) == tuple(
        getattr(taken.manifest.properties, field) for field in ("encoding", "collate", "ctype")
    )
    assert ("", "work_mem", "5MB") in found.settings
    assert asked(server.target(name), "SELECT tableowner FROM pg_tables WHERE tablename = 'parent'") == [
        ("postgres",)
    ]
    assert not any(grant.startswith("PUBLIC") for grant in found.grants)
    assert picking.ALWAYS_LEFT in done.outcome.left_out


def databases_properties(target: Target) -> Any:
    from polyladder_ops.postgres import properties

    with closing(session.connect(target)) as connection:
        return properties.read(connection)


def test_a_role_that_is_no_superuser_gets_tables_whose_owner_is_missing(
    server: servers.Server, taken: Backup, name: str
) -> None:
    role = f"extractor_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x' CREATEDB", role)
    login = type(server.target()).of(**{**server.target().parameters, "user": role, "password": "x"})
    wanted = picking.wanted(taken.manifest, ["public.book", "page"])
    extraction.into(login, name, taken, wanted, [])
    assert asked(login.with_database(name), "SELECT count(*), current_user::text FROM public.book") == [
        (5000, role)
    ]
    databases.drop(server.target(), name)
    run(server.target(), "DROP ROLE %I", role)


def test_a_partitioned_table_brings_its_partitions_on_every_level(
    server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, "by_year")
    assert {table.name: table.rows for table in done.contents.tables} == {
        "public.older": 49,
        "public.newer_all": 51,
    }
    assert asked(server.target(name), "SELECT count(*), min(year) FROM public.by_year") == [(100, 1951)]
    attached = asked(server.target(name), "SELECT count(*) FROM pg_inherits")
    assert attached == [(6,)]  # three tables and their primary keys


def test_rows_that_load_through_a_root_come_with_the_root_only(
    server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, "by_mood")
    assert [(table.name, table.rows, table.order_free) for table in done.contents.tables] == [
        ("public.by_mood", 30, True)
    ]
    with pytest.raises(UsageError) as caught:
        extract(server, f"{name} too", taken, "mood_0")
    assert caught.value.hint == "Write --table=public.by_mood."


def test_a_partition_alone_comes_without_its_root_and_that_is_said(
    server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, "older")
    assert "the place of public.older among the partitions of public.by_year" in done.outcome.left_out
    assert kinds_and_names(server.target(name)) == {
        "table public.older", "index public.older_pkey", "constraint older_pkey on public.older",
    }  # fmt: skip


def test_a_child_brings_the_definition_of_its_parent_and_a_parent_names_its_children(
    server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, "child")
    assert done.outcome.empty == ("public.parent",)
    assert asked(server.target(name), "SELECT id, more FROM public.child") == [(2, 3)]
    assert asked(server.target(name), "SELECT count(*) FROM ONLY public.parent") == [(0,)]
    databases.drop(server.target(), name)
    done = extract(server, name, taken, "parent")
    assert "table public.child, which inherits from public.parent" in done.outcome.left_out
    assert asked(server.target(name), "SELECT * FROM public.parent") == [(1, "parent")]


def test_a_foreign_key_comes_if_both_its_tables_do(server: servers.Server, taken: Backup, name: str) -> None:
    done = extract(server, name, taken, "page", "public.book")
    target = server.target(name)
    assert asked(target, "SELECT conname FROM pg_constraint WHERE contype = 'f'") == [("page_book_fkey",)]
    assert {
        "foreign key page_owner_fkey on public.page, which refers to public.parent",
        "trigger note on public.page",
    } <= set(done.outcome.left_out)
    assert {extension for (extension,) in asked(target, "SELECT extname FROM pg_extension")} == {
        "plpgsql", "pg_trgm", "btree_gist",
    }  # fmt: skip


@pytest.mark.parametrize(
    "table", ["empty", '"users; Type: TABLE DATA; Schema: public; Owner: x"', '"Odd Schema".book']
)
def test_a_table_without_rows_or_with_a_name_to_stumble_over_comes_too(
    table: str, server: servers.Server, taken: Backup, name: str
) -> None:
    done = extract(server, name, taken, table)
    assert len(done.contents.tables) == 1
    (found,) = [f for f in kinds_and_names(server.target(name)) if f.startswith("table")]
    assert found == f"table {done.contents.tables[0].name}"


def test_a_table_of_another_access_method_brings_it_and_no_other_table_does(
    server: servers.Server, taken: Backup, name: str
) -> None:
    question = "SELECT amname FROM pg_class c JOIN pg_am m ON m.oid = relam WHERE c.oid = '{}'::regclass"
    extract(server, name, taken, "elsewhere", "empty")
    assert asked(server.target(name), question.format("public.elsewhere")) == [("heap2",)]
    assert asked(server.target(name), question.format("public.empty")) == [("heap",)]
    databases.drop(server.target(), name)
    extract(server, name, taken, "empty")
    assert kinds_and_names(server.target(name)) == {
        "table public.empty",
        "constraint empty_a_check on public.empty",
    }


def test_an_encrypted_backup_opens_with_its_key(
    server: servers.Server, sample: Target, tmp_path: Path, name: str
) -> None:
    key = pyrage.x25519.Identity.generate()
    options = backups.Options(recipients=(str(key.to_public()),))
    backup = backups.take(sample, tmp_path / "b", site="production", private=tmp_path / "p", options=options)
    assert extract(server, name, backup, "users", keys=[key]).contents.rows == 160
    with pytest.raises(OpsError, match="none of our keys"):
        extract(server, f"{name} too", backup, "users")


# Names ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("parent", ("public", "parent")),
        ("public.parent", ("public", "parent")),
        ("PARENT", ("public", "parent")),
        (' public . "parent" ', ("public", "parent")),
        ('"Odd ""Na""me"', ("Odd Schema", 'Odd "Na"me')),
        ('"Odd Schema".book', ("Odd Schema", "book")),
        ("by_year", ("public", "by_year")),
    ],
)
def test_a_table_is_named_as_in_sql(given: str, meant: tuple[str, str], taken: Backup) -> None:
    assert picking.wanted(taken.manifest, [given]).tables == {meant}


@pytest.mark.parametrize(
    ("given", "message", "detail"),
    [
        ("parents", "there is no table parents in backup", "Names like it: public.parent."),
        (
            "public.paren",
            "there is no table public.paren in backup",
            "Names like it: public.parent, public.page.",
        ),
        ('Odd "Na"me', "is no name", 'Names like it: "Odd Schema"."Odd ""Na""me".'),
        ('"Parent"', 'there is no table "Parent" in backup', "Names like it: public.parent."),
        ("book", "there is a table book in 2 schemas", 'They are "Odd Schema".book, public.book.'),
        ("titles", "there is no table titles", "public.titles is a view: a backup has no rows of it."),
        (
            "counted",
            "there is no table counted",
            "public.counted is a materialized view: a backup has no rows of it.",
        ),
        ("parent; DROP TABLE x", "is no name", ""),
        ("a.b.c", "is no name", ""),
        ("", "is no name", ""),
    ],
)
def test_a_name_that_fits_nothing_or_too_much_is_wrong_usage(
    given: str, message: str, detail: str, taken: Backup
) -> None:
    with pytest.raises(UsageError) as caught:
        picking.wanted(taken.manifest, ["parent", given])
    assert message in caught.value.message
    assert caught.value.detail == detail


# What goes wrong ------------------------------------------------------------------------------------------------------


def test_a_database_that_is_there_is_not_touched(
    server: servers.Server, taken: Backup, database: Target
) -> None:
    with pytest.raises(Refused, match="already"):
        extract(server, database.database, taken, "parent")
    assert kinds_and_names(database) == set()


def test_a_database_that_comes_meanwhile_is_not_touched(
    server: servers.Server, taken: Backup, database: Target
) -> None:
    wanted = picking.wanted(taken.manifest, ["parent"])
    late = f"{database.database}_late"

    def make(_size: int) -> None:
        if late not in session.database_sizes(server.target()):
            run(server.target(), "CREATE DATABASE %I TEMPLATE template0", late)

    before = set(session.database_sizes(server.target())) | {late}
    with pytest.raises(OpsError, match="could not rename"):
        extraction.into(server.target(), late, taken, wanted, [], progress=make)
    assert set(session.database_sizes(server.target())) == before
    assert kinds_and_names(server.target(late)) == set()
    databases.drop(server.target(), late)


def test_an_interrupt_leaves_no_database(server: servers.Server, taken: Backup, name: str) -> None:
    def interrupt(_size: int) -> None:
        raise KeyboardInterrupt

    wanted = picking.wanted(taken.manifest, ["public.book"])
    with pytest.raises(KeyboardInterrupt):
        extraction.into(server.target(), name, taken, wanted, [], progress=interrupt)
    assert name not in session.database_sizes(server.target())


def altered(backup: Backup, folder: Path, change: Callable[[bytes], bytes]) -> Backup:
    """Return the backup with another dump inside, and a manifest that still tells of the first."""
    dump = dump_of(backup)
    assert change(dump) != dump
    return damaged(backup, folder / "altered", gzip.compress(change(dump), 1))


ALTERED: dict[str, Callable[[bytes], bytes]] = {
    "a letter": lambda dump: dump.replace(b"\tparent\n", b"\tpArent\n"),
    "a row less": lambda dump: dump.replace(b"1\tparent\n", b""),
    "no rows at all": lambda dump: dump.replace(b"COPY public.parent (id, said) FROM stdin;\n1\tparent\n\\.\n", b""),
    "the other table's rows": lambda dump: dump.replace(b"COPY public.parent ", b"COPY ONLY_THERE.parent "),
}  # fmt: skip


@pytest.mark.parametrize("what", ALTERED)
def test_rows_that_are_not_those_of_the_manifest_are_not_kept(
    what: str, server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    backup = altered(taken, tmp_path, ALTERED[what])
    with pytest.raises(Mismatch, match="does not hold what its manifest says") as caught:
        extract(server, name, backup, "parent")
    assert caught.value.detail.startswith("table public.parent: ")
    assert name not in session.database_sizes(server.target())
    with pytest.raises(Mismatch):
        extraction.to_file(tmp_path / "out.sql", backup, picking.wanted(backup.manifest, ["parent"]), [])
    assert list(tmp_path.glob("*out*")) + list(tmp_path.glob(".*")) == []


def test_a_sequence_that_stands_elsewhere_is_noticed(
    server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    backup = altered(taken, tmp_path, lambda dump: dump.replace(b"'public.shared', 1", b"'public.shared', 2"))
    with pytest.raises(Mismatch, match="does not hold") as caught:
        extract(server, name, backup, '"Odd ""Na""me"')
    assert "sequence public.shared" in caught.value.detail


FORGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "rows that a column pads": (
        lambda d: d.replace(b"    said text\n", b"    said character(9)\n"),
        "table public.parent: ",
    ),
    "no constraint": (
        lambda d: d.replace(b"ALTER TABLE ONLY public.parent\n    ADD CONSTRAINT parent_pkey PRIMARY KEY (id)", b"SET row_security = off"),
        "constraint parent_pkey on public.parent: it is missing",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_what_only_the_new_database_can_show_is_noticed(
    what: str, server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    change, said = FORGED[what]
    dump = dump_of(taken)
    assert change(dump) != dump
    with pytest.raises(Mismatch, match="not what was dumped") as caught:
        extract(server, name, forged(taken, tmp_path / "forged", change(dump)), "parent")
    assert said in caught.value.detail
    assert name not in session.database_sizes(server.target())


def test_a_file_that_is_cut_before_the_rows_gives_nothing(
    server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    data = taken.path.read_bytes()
    for size in (0, 100, len(data) // 2):
        backup = damaged(taken, tmp_path / "cut", data[:size])
        with pytest.raises(Damaged) as caught:
            extract(server, name, backup, "page")
        assert caught.value.hint.startswith(f"Run `invoke verify --backup={taken.id}`")
        assert name not in session.database_sizes(server.target())
    whole = dump_of(taken)
    at = whole.index(b"COPY public.page ") + 60
    backup = damaged(
        taken, tmp_path / "cut", gzip.compress(whole[:at])
    )  # as between the members of a gzip file
    with pytest.raises(OpsError, match="the dump ends inside the rows"):
        extract(server, name, backup, "page")


def test_damage_elsewhere_does_not_keep_the_rows_back_but_is_told(
    server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    whole = dump_of(taken)
    behind = whole.index(b"-- Name: TABLE parent; Type: ACL")
    for backup in (
        altered(taken, tmp_path, lambda dump: dump.replace(b"2\tchild\t3\n", b"2\tchild\t4\n")),
        damaged(taken, tmp_path / "cut", gzip.compress(whole[: behind + 200])),
    ):
        done = extract(server, name, backup, "parent")
        assert done.flaw
        assert asked(server.target(name), "SELECT * FROM public.parent") == [(1, "parent")]
        databases.drop(server.target(), name)


def test_an_extension_that_the_server_lacks_matters_only_to_what_needs_it(
    server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    dump = dump_of(taken).replace(b"EXISTS pg_trgm ", b"EXISTS postgis ")

    def lie(fields: dict[str, Any]) -> None:
        fields["extensions"] = [{"name": "postgis", "version": "3.5", "schema": "public"}]

    backup = forged(taken, tmp_path / "forged", dump, lie)
    assert extract(server, name, backup, "parent").contents.rows == 1
    with pytest.raises(OpsError) as caught:
        extract(server, f"{name} too", backup, "public.book")
    assert 'operator class "public.gin_trgm_ops" does not exist' in caught.value.detail
    assert caught.value.detail.endswith("The server has not got postgis.")


def test_a_table_that_only_the_manifest_knows_is_an_error(
    server: servers.Server, taken: Backup, name: str, tmp_path: Path
) -> None:
    def lie(fields: dict[str, Any]) -> None:
        for entry in fields["objects"]:
            entry["name"] = entry["name"].replace("public.parent", "public.ghost")

    backup = lying(taken, tmp_path / "lying", lie)
    with pytest.raises(OpsError, match=r"the dump has no table public\.ghost"):
        extract(server, name, backup, "ghost")


# A file for psql ------------------------------------------------------------------------------------------------------


def psql(target: Target, file: Path, *argv: str, code: int = 0) -> str:
    """Load a file as its head says."""
    done = subprocess.run(
        [str(servers.programs() / "psql"), "-X", *argv, "-f", str(file), "-h", target.host, "-p", str(target.port),
         "-U", target.user, target.database],
        capture_output=True,
        env={**portable.clean_environment(), "PGPASSWORD": target.password},
        check=False,
        text=True,
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    return done.stdout + done.stderr


def to_file(path: Path, backup: Backup, *tables: str) -> Extracted:
    return extraction.to_file(path, backup, picking.wanted(backup.manifest, tables), [])


def contents(target: Target, done: Extracted) -> list[str]:
    """Return what a database lacks of what was extracted."""
    with closing(session.connect(target)) as connection:
        found = read_back.read_contents(connection, done.contents)
        there = {(entry.kind, entry.name) for entry in inventory.entries(connection)}
    wrong = differences.compare_contents(done.contents, found)
    return [str(d) for d in wrong] + [name for kind, name in done.outcome.objects - there]


EACH = [
    ['"Odd ""Na""me"'], ["by_year"], ["by_mood"], ["child"], ["page", "public.book"], ["empty"], ["older"],
    ['"users; Type: TABLE DATA; Schema: public; Owner: x"'],
]  # fmt: skip


@pytest.mark.parametrize("tables", EACH)
def test_a_file_makes_in_an_empty_database_what_is_missing_there(
    tables: list[str], taken: Backup, database: Target, tmp_path: Path
) -> None:
    file = tmp_path / "out.sql"
    done = to_file(file, taken, *tables)
    psql(database, file)
    assert contents(database, done) == []
    assert not asked(database, "SELECT FROM pg_namespace WHERE nspname = 'polyladder_extract'")


def test_a_file_of_the_whole_sample_loads(sampled: Backup, database: Target, tmp_path: Path) -> None:
    tables = [
        o.name for o in sampled.manifest.objects if o.kind == "table" and "exercise_result_" not in o.name
    ]
    done = to_file(tmp_path / "out.sql", sampled, *tables)
    psql(database, tmp_path / "out.sql")
    assert contents(database, done) == []


def test_rows_of_tables_that_are_there_go_beside_and_the_head_says_how_they_come_back(
    sampled: Backup, sample_database: Target, tmp_path: Path
) -> None:
    file = tmp_path / "out.sql"
    done = to_file(file, sampled, "users", "learning.word", '"Büro"."it\'s ""quoted"""', "learning.review")
    with closing(session.connect(sample_database)) as connection:
        connection.execute(b"ALTER TABLE public.users DISABLE TRIGGER ALL")
        connection.execute(b"UPDATE public.users SET display_name = 'new' WHERE number = 1")
        connection.execute(b"DELETE FROM public.users WHERE number > 100")
        connection.execute(b"DELETE FROM learning.review WHERE word_id % 2 = 0")
        before = read_back.read_contents(connection, sampled.manifest.contents)
    said = psql(sample_database, file)
    assert "polyladder_extract.users: 160 rows" in said
    with closing(session.connect(sample_database)) as connection:
        assert read_back.read_contents(connection, sampled.manifest.contents) == before
        head = [
            line
            for line in file.read_text(encoding="utf-8").splitlines()
            if line.startswith("--     INSERT INTO ")
        ]
        assert len(head) == len([table for table in done.contents.tables if table.rows and table.columns])
        for line in head:
            connection.execute(line.removeprefix("--     ").encode())
        assert connection.execute("SELECT count(*) FROM public.users").fetchone() == (160,)
        assert connection.execute("SELECT display_name FROM public.users WHERE number = 1").fetchone() == (
            "new",
        )
        assert connection.execute("SELECT count(*) FROM learning.review").fetchone() == (3260,)
        connection.execute(b"DROP SCHEMA polyladder_extract CASCADE")
    psql(sample_database, file, "-v", "schema=Other One")
    assert asked(sample_database, 'SELECT count(*) FROM "Other One".users') == [(160,)]
    assert "already exists" in psql(sample_database, file, "-v", "schema=Other One", code=3)


def test_rows_of_a_table_whose_columns_are_all_computed_go_beside_too(
    taken: Backup, database: Target, tmp_path: Path
) -> None:
    to_file(tmp_path / "out.sql", taken, "computed")
    psql(database, tmp_path / "out.sql")
    assert "polyladder_extract.computed: 1 rows" in psql(database, tmp_path / "out.sql")
    assert asked(database, "SELECT a FROM public.computed") == [(1,)]


def test_a_dropped_table_comes_back_in_its_place(
    sampled: Backup, sample_database: Target, tmp_path: Path
) -> None:
    with closing(session.connect(sample_database)) as connection:
        connection.execute(b"DROP TABLE learning.deck CASCADE")
    done = to_file(tmp_path / "out.sql.gz", sampled, "learning.deck", "learning.deck_word")
    (tmp_path / "out.sql").write_bytes(gzip.decompress((tmp_path / "out.sql.gz").read_bytes()))
    psql(sample_database, tmp_path / "out.sql")
    deck = replace(done.contents, tables=done.contents.tables[:1])
    with closing(session.connect(sample_database)) as connection:
        found = read_back.read_contents(connection, deck)
    assert found.tables == deck.tables
    assert asked(sample_database, 'SELECT count(*) FROM polyladder_extract."learning.deck_word"') == [(240,)]


def test_a_file_is_private_says_what_it_is_and_is_never_written_over(taken: Backup, tmp_path: Path) -> None:
    file = tmp_path / "out.sql"
    to_file(file, taken, "parent")
    if os.name == "posix":
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    text = file.read_text(encoding="utf-8")
    assert taken.id in text.splitlines()[0]
    assert "PEOPLE'S DATA" in text.splitlines()[1]
    with pytest.raises(Refused, match="already"):
        to_file(file, taken, "child")
    assert file.read_text(encoding="utf-8") == text
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("name", ["out.txt", "out.gz", "nowhere/out.sql", "-"])
def test_a_file_that_can_not_be_made_is_refused_first(name: str, taken: Backup, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        to_file(tmp_path / name, taken, "parent")


def test_an_interrupt_leaves_no_file(taken: Backup, tmp_path: Path) -> None:
    def interrupt(_size: int) -> None:
        raise KeyboardInterrupt

    wanted = picking.wanted(taken.manifest, ["public.book"])
    with pytest.raises(KeyboardInterrupt):
        extraction.to_file(tmp_path / "out.sql", taken, wanted, [], progress=interrupt)
    assert list(tmp_path.iterdir()) == []


# The task -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def where(taken: Backup, server: servers.Server, tmp_path: Path) -> Project:
    damaged(taken, tmp_path / "backups", taken.path.read_bytes())
    return project(
        tmp_path / "project",
        BACKUP_DIR=str(tmp_path / "backups"),
        DATABASE_URL=url(server.target("gone")),
    )


def call(where: Project, *argv: str) -> Ended:
    return where.run("restore.extract", "--backup=latest", *argv)


def test_the_task_tells_what_came_and_what_did_not(where: Project, server: servers.Server, name: str) -> None:
    found = call(where, "--table=page", "--table=public.book", f"--into={name}")
    assert (found.code, found.out.splitlines()[0].split("  ")[0]) == (0, "public.book")
    assert "note: left out: foreign key page_owner_fkey on public.page" in found.err
    assert "every row is proved" in found.err
    assert call(where, "--table=page", f"--into={name}").code == 4
    databases.drop(server.target(), name)
    found = call(where, "--table=child", f"--into={name}", "--json")
    said = json.loads(found.out)
    assert (found.code, said["database"], said["definitions_only"]) == (0, name, ["public.parent"])
    assert [(table["name"], table["rows"]) for table in said["tables"]] == [("public.child", 1)]
    assert 0 < said["read_bytes"] <= said["plain_bytes"]


def test_a_dry_run_names_the_tables_and_does_nothing(
    where: Project, server: servers.Server, name: str
) -> None:
    found = where.run("-R", "restore.extract", "--backup=latest", "--table=page", f"--into={name}")
    assert (found.code, found.out.split(" of ")[0]) == (0, "would extract public.page")
    assert name not in session.database_sizes(server.target())


@pytest.mark.parametrize(
    ("argv", "code"),
    [
        (["--into=x"], 2),
        (["--table=parent"], 2),
        (["--table=parent", "--into=x", "--to-file=x.sql"], 2),
        (["--table=parents", "--into=x"], 2),
        (["--table=parent", "--to-file=-"], 2),
        (["--table=parent", "--to-file=x.txt"], 2),
        (["--table=parent", "--into=postgres"], 4),
        (["--table=parent", f"--into={'x' * 64}"], 2),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    argv: list[str], code: int, where: Project, server: servers.Server
) -> None:
    before = set(session.database_sizes(server.target()))
    found = call(where, *argv)
    assert found.code == code, found
    assert found.err.splitlines()[-1].startswith("hint: ")
    assert set(session.database_sizes(server.target())) == before


def test_a_backup_that_is_damaged_elsewhere_exits_3_and_gives_the_rows(
    where: Project, server: servers.Server, taken: Backup, name: str
) -> None:
    file = where.root.parent / "backups" / taken.path.name
    file.write_bytes(gzip.compress(dump_of(taken).replace(b"2\tchild\t3\n", b"2\tchild\t4\n")))
    path = where.root / "out.sql"
    found = where.run("restore.extract", f"--backup={file}", "--table=parent", f"--to-file={path}")
    assert (found.code, path.exists()) == (3, True)
    assert "damaged" in found.err
    found = where.run("restore.extract", f"--backup={file}", "--table=child", f"--into={name}")
    assert (found.code, name in session.database_sizes(server.target())) == (3, False)


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")
def test_a_ctrl_c_exits_130_and_leaves_nothing(where: Project, server: servers.Server, name: str) -> None:
    import signal
    import time

    process = where.start("restore.extract", "--backup=latest", "--table=public.book", f"--into={name}")
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and process.poll() is None:
        if [
            found
            for found in session.database_sizes(server.target())
            if found.startswith("polyladder_extract_")
        ]:
            process.send_signal(signal.SIGINT)
            break
    out, err = process.communicate(timeout=30)
    assert (process.returncode, out) == (130, ""), err


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent the POSIX way")
def test_an_interrupt_while_connecting_leaves_no_half_open_connection() -> None:
    """The server would wait a minute for its password, and the DROP DATABASE that cleans up would wait for the server."""
    import signal
    import socket
    import threading

    with socket.create_server(("127.0.0.1", 0)) as listening:
        target = session_target(listening.getsockname()[1])
        threading.Timer(1.0, signal.raise_signal, [signal.SIGINT]).start()
        with pytest.raises(KeyboardInterrupt) as caught:
            session.connect(target)
        half_open, _ = listening.accept()
        half_open.settimeout(5)
        with half_open:
            while half_open.recv(4096):  # what it had asked for; then it must have hung up
                pass
        assert caught.value is not None


def session_target(port: int) -> Target:
    from polyladder_ops.postgres.conninfo import Target

    return Target.of(host="127.0.0.1", port=port, user="x", password="x", dbname="x", sslmode="disable")
