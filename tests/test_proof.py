"""The proof tells a restored database from one in which the smallest thing is not as it was dumped."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import capacity, session
from polyladder_ops.postgres.contents import Contents, SequenceValue, TableData
from polyladder_ops.postgres.inventory import CatalogEntry
from polyladder_ops.postgres.proof import read_back
from polyladder_ops.postgres.proof.differences import compare_by_replay
from tests.faults.places import wait_for
from tests.forging import lying
from tests.test_expressions import as_before

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@pytest.fixture(scope="module")
def backup(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    seeded = tmp_path_factory.mktemp("proof")
    return backups.take(sample, seeded / "backups", site="test", private=seeded / "private")


@pytest.fixture(scope="module")
def restored(server: Server, backup: Backup) -> Iterator[Target]:
    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        loading.load(target, backup, [])
        yield target


@pytest.fixture(scope="module")
def old(backup: Backup, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    """The backup as a version described it that kept no texts of definitions: a replay has to do there."""
    return lying(backup, tmp_path_factory.mktemp("old"), as_before)


def differences(server: Server, restored: Target, backup: Backup, jobs: int | None = None) -> list[str]:
    return [str(d) for d in restoring.prove(server.target(), restored.database, backup, [], jobs=jobs)]


def test_a_restored_database_is_equal_and_the_proof_leaves_nothing(
    server: Server, restored: Target, backup: Backup
) -> None:
    before = session.database_sizes(server.target()).keys()
    assert differences(server, restored, backup) == []
    assert differences(server, restored, backup, jobs=3) == []
    assert session.database_sizes(server.target()).keys() == before


def test_a_backup_that_keeps_definitions_needs_no_replay(
    server: Server, restored: Target, backup: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_words: Any, **_more: Any) -> None:
        raise AssertionError

    monkeypatch.setattr(restoring, "replay", never)
    assert differences(server, restored, backup) == []


def seen_replays(server: Server, *, until_seen: bool) -> tuple[list[bool], Callable[[int], None]]:
    """Return whether a replay's database was there when rows came, and who looks; the first look waits until it was."""
    seen: list[bool] = []

    def is_there() -> bool:
        return any(name.startswith("polyladder_replay") for name in session.database_sizes(server.target()))

    def look(_size: int) -> None:
        if until_seen and not seen:
            wait_for(is_there)
        seen.append(is_there())

    return seen, look


def test_statements_are_replayed_while_rows_are_read(server: Server, restored: Target, old: Backup) -> None:
    seen, look = seen_replays(server, until_seen=True)
    assert restoring.prove(server.target(), restored.database, old, [], jobs=2, progress=look) == []
    assert seen[0]


@pytest.mark.parametrize("free", [2, 4])
def test_a_server_without_connections_to_spare_is_asked_for_one_thing_at_a_time(
    free: int, server: Server, restored: Target, old: Backup
) -> None:
    seen, look = seen_replays(server, until_seen=False)
    with ExitStack() as opened:
        connection = opened.enter_context(closing(session.connect(restored)))
        while (left := capacity.read(connection).free_connections) > free + 1:  # the second reader takes one
            for _ in range(left - free - 1):
                opened.enter_context(closing(session.connect(restored)))
        assert restoring.prove(server.target(), restored.database, old, [], jobs=2, progress=look) == []
    assert not any(seen)


def test_a_replay_that_finds_the_server_full_is_done_after_the_rows(
    server: Server, restored: Target, old: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[Target] = []

    def full_at_first(target: Target, *words: Any, **more: Any) -> None:
        tries.append(target)
        if len(tries) == 1:
            raise OpsError("could not connect", detail="FATAL: sorry, too many clients already.")
        loading.replay(target, *words, **more)

    monkeypatch.setattr(restoring, "replay", full_at_first)
    assert differences(server, restored, old, jobs=2) == []
    assert len(tries) == 2


def test_the_first_cause_tells_of_a_replay_that_failed_after_it(
    server: Server, restored: Target, old: Backup, monkeypatch: pytest.MonkeyPatch
) -> None:
    has_failed = threading.Event()

    def fail(_size: int) -> None:
        has_failed.set()
        raise OpsError("the disk is full", detail="First.")

    def fail_later(*_words: Any, **_more: Any) -> None:
        assert has_failed.wait(10)
        raise OpsError("could not replay", detail="Second.")

    monkeypatch.setattr(restoring, "replay", fail_later)
    with pytest.raises(OpsError, match="the disk is full") as caught:
        restoring.prove(server.target(), restored.database, old, [], jobs=2, progress=fail)
    assert caught.value.detail == "First. Besides, could not replay: Second."


def test_several_connections_read_what_one_reads(restored: Target, backup: Backup) -> None:
    wanted = backup.manifest.contents
    told: list[int] = []
    with ExitStack() as opened:
        one, *others = [opened.enter_context(closing(session.connect(restored))) for _ in range(4)]
        alone = read_back.read_contents(one, wanted)
        beside = read_back.read_contents(one, wanted, others=others, progress=told.append)
        assert beside == alone
        assert sum(told) == sum(table.size_bytes for table in beside.tables)
        last = "SELECT query FROM pg_catalog.pg_stat_activity WHERE pid = ANY(%s)"
        pids = [other.info.backend_pid for other in others]
        assert any("COPY" in query for (query,) in one.execute(last, [pids]))
        one.execute("BEGIN")
        assert read_back.read_contents(one, wanted) == alone


def test_every_connection_reads_in_the_encoding_of_the_dump(database: Target) -> None:
    wanted = Contents(
        "LATIN1",
        tuple(TableData(f"public.t{n}", "(t)", 0, 1 << 20, "", has_huge_rows=False) for n in range(6)),
    )
    with ExitStack() as opened:
        one, *others = [opened.enter_context(closing(session.connect(database))) for _ in range(3)]
        for table in wanted.tables:
            one.execute(
                f"CREATE TABLE {table.name} AS SELECT 'é' AS t FROM generate_series(1, 1000)".encode()
            )
        found = read_back.read_contents(one, wanted, others=others)
    assert [table.size_bytes for table in found.tables] == [2 * 1000] * 6


def test_a_reader_that_the_server_ends_ends_the_proof_with_that_cause(
    server: Server, restored: Target, backup: Backup
) -> None:
    """One waits for a table that somebody has locked; a proof without that table is none."""
    waiting = "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_locks WHERE NOT granted"

    def end(holder: session.Connection) -> None:
        while not holder.execute(waiting).fetchall():
            time.sleep(0.02)

    with closing(session.connect(restored)) as holder, ThreadPoolExecutor() as pool:
        holder.execute("BEGIN")
        holder.execute("LOCK TABLE learning.word")
        ended = pool.submit(end, holder)
        with pytest.raises(OpsError, match="could not read the database back") as caught:
            differences(server, restored, backup, jobs=2)
        ended.result(timeout=10)
        assert "terminating connection" in caught.value.detail


def test_small_tables_share_a_round_trip_and_large_ones_come_first() -> None:
    sizes = [10, 300_000, *[5000] * 120, 900_000, 0]
    tables = [
        TableData(f"public.t{n}", "(n)", 1, size, "", has_huge_rows=False) for n, size in enumerate(sizes)
    ]
    there = {table.name: read_back._Relation() for table in tables}
    tasks = list(read_back._Tables(there, None).tasks(tables))
    assert [task.size_bytes for task in tasks] == [900_000, 300_000, 250_000, 250_000, 100_010]


def test_tables_with_huge_rows_are_one_connections() -> None:
    """A connection keeps the room of its largest row, so that each connection that met one would have its own."""
    tables = [
        TableData(f"public.t{n}", "(n)", 1, size, "", has_huge_rows=size > 500)
        for n, size in enumerate([100, 600, 1000])
    ]
    tasks = list(
        read_back._Tables({table.name: read_back._Relation() for table in tables}, None).tasks(tables)
    )
    assert [task.size_bytes for task in tasks] == [1600, 100]


MIXED = """
CREATE EXTENSION postgres_fdw SCHEMA public;
CREATE SERVER nowhere FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'no.such.host');
CREATE TYPE public.mood AS ENUM ('good', 'bad');
CREATE TABLE public.root (a int, mood public.mood) PARTITION BY LIST (a);
CREATE TABLE public.by_name PARTITION OF public.root FOR VALUES IN (1);
CREATE TABLE public.hashed PARTITION OF public.root FOR VALUES IN (2) PARTITION BY HASH (mood);
CREATE TABLE public.hashed_0 PARTITION OF public.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.hashed_1 PARTITION OF public.hashed FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO public.root SELECT n % 2 + 1, CASE WHEN n % 3 = 0 THEN 'good' ELSE 'bad' END::public.mood FROM generate_series(1, 99) n;
CREATE FOREIGN TABLE public.far PARTITION OF public.root FOR VALUES IN (3) SERVER nowhere;
"""


def test_a_root_is_compared_by_the_leaves_that_the_dump_fills_through_it(
    server: Server, database: Target, tmp_path: Path
) -> None:
    """Others have their own COPY, or rows on another server; both counted among the root's once, a false alarm."""
    with closing(session.connect(database)) as connection:
        connection.execute(MIXED.encode())
    taken = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    rows = {table.name: table.rows for table in taken.manifest.tables}
    assert (rows["public.by_name"], rows["public.root"]) == (49, 50)
    with restoring.temporary_database(server.target(), taken.manifest, purpose="test") as target:
        loading.load(target, taken, [])
        assert restoring.prove(server.target(), target.database, taken, []) == []
        with closing(session.connect(target)) as connection:
            connection.execute(b"DELETE FROM public.hashed_0 WHERE ctid = '(0,1)'")
        (lost,) = differences(server, target, taken)
    assert lost == "table public.root: it has 49 rows instead of 50"


DAMAGE = {
    "one byte of a row": (
        "UPDATE learning.word SET lemma = overlay(lemma placing '~' from 1 for 1) WHERE id = 7",
        ["table learning.word: its 400 rows are not the rows that were dumped"],
    ),
    "a row less": (
        "DELETE FROM public.device WHERE ctid = (SELECT min(ctid) FROM public.device)",
        ["table public.device: it has"],
    ),
    "a row more": (
        'INSERT INTO public.language SELECT (jsonb_populate_record(l, \'{"code": "zz"}\')).* FROM public.language l LIMIT 1',
        ["table public.language: it has"],
    ),
    "a row of a partition, in a table that is compared in any order": (
        "UPDATE learning.exercise_result SET score = score + 1 WHERE ctid = (SELECT min(ctid) FROM learning.exercise_result)",
        ["table learning.exercise_result: its"],
    ),
    "a column less": (
        "ALTER TABLE learning.deck DROP COLUMN color",
        [
            "table learning.deck: its columns are not the columns that were dumped",
            "table learning.deck: its definition is not the one that was dumped",
        ],
    ),
    "a sequence one further": (
        "SELECT nextval('learning.word_id_seq')",
        ["sequence learning.word_id_seq: it stands at"],
    ),
    "a sequence called": (
        "SELECT setval('public.invoice_number', last_value, NOT is_called) FROM public.invoice_number",
        ["sequence public.invoice_number: it stands at"],
    ),
    "a grant less": (
        "REVOKE SELECT ON learning.course FROM polyladder_readonly",
        ["table learning.course: its grants differ: missing polyladder_readonly=SELECT"],
    ),
    "a grant more": (
        "GRANT DELETE ON learning.lesson TO polyladder_readonly",
        ["table learning.lesson: its grants differ"],
    ),
    "another owner": (
        "ALTER TABLE public.device OWNER TO postgres",
        [
            "table public.device: its owner is postgres instead of polyladder_app",
            "sequence public.device_id_seq: its owner is postgres instead of polyladder_app",
        ],
    ),
    "a large object's byte": ("SELECT lo_put(91001, 3, '\\x00')", ["large object 91001: its 3200 bytes are not the bytes that were dumped"]),
    "a large object less": ("SELECT lo_unlink(91002)", ["large object 91002: it is missing"]),
    "a large object more": ("SELECT lo_create(4711)", ["large object 4711: it was not"]),
    "a table less": (
        "DROP TABLE learning.translation CASCADE",
        ["table learning.translation: it is missing", "table learning.translation_en: it is missing", "learning.translation"],
    ),
    "a table more": ("CREATE TABLE public.extra ()", ["table public.extra: it was not in the source"]),
    "an index less": ("DROP INDEX learning.word_lemma_trgm_idx", ["index learning.word_lemma_trgm_idx: it is missing"]),
    "a comment": (
        "COMMENT ON TABLE public.users IS 'other'",
        ["table public.users: its definition is not the one that was dumped"],
    ),
    "a column's default": (
        "ALTER TABLE public.payment ALTER status SET DEFAULT 'paid'",
        ["table public.payment: its definition is not the one that was dumped"],
    ),
    "a check that a restore words otherwise anyway": (
        (
            "ALTER TABLE public.user_settings DROP CONSTRAINT user_settings_theme_check,"
            " ADD CONSTRAINT user_settings_theme_check CHECK (theme IN ('system', 'light', 'dark', 'mauve'))"
        ),
        ["constraint user_settings_theme_check on public.user_settings: its check is not"],
    ),
    "row security off": ("ALTER TABLE learning.note DISABLE ROW LEVEL SECURITY", ["learning.note: its "]),
    "a trigger off": ("ALTER TABLE audit.log DISABLE TRIGGER ALL", ["on audit.log: its definition"]),
    "an extension's version": ("UPDATE pg_extension SET extversion = '1.5' WHERE extname = 'pg_trgm'", ["extension pg_trgm: it is version 1.5 in schema public instead"]),
}  # fmt: skip


@pytest.fixture(scope="module")
def found(server: Server, restored: Target, backup: Backup) -> list[str]:
    """What the proof says of the restored database after all the damage."""
    with closing(session.connect(restored)) as connection:
        for statement, _ in DAMAGE.values():
            connection.execute(statement.replace("{database}", restored.database).encode())
    return differences(server, restored, backup)


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_proof_names(damage: str, found: list[str], restored: Target) -> None:
    for piece in DAMAGE[damage][1]:
        said = piece.replace("{database}", restored.database)
        assert any(said in difference for difference in found), found


def test_several_connections_name_the_same(
    server: Server, found: list[str], restored: Target, backup: Backup
) -> None:
    assert differences(server, restored, backup, jobs=3) == found


def test_the_proof_names_nothing_else(found: list[str], restored: Target) -> None:
    expected = [
        piece.replace("{database}", restored.database) for _, pieces in DAMAGE.values() for piece in pieces
    ]
    assert [d for d in found if not any(piece in d for piece in expected)] == []
    assert len(found) == len(set(found))


def test_a_name_that_is_a_piece_of_sql_is_never_sent(server: Server, restored: Target) -> None:
    """A manifest is data: what it calls a table or a sequence can't be a statement."""
    evil = "pg_class; DROP TABLE public.users"
    for wanted in (
        Contents(tables=(TableData(evil, "", 0, 0, ""),)),
        Contents(tables=(TableData("public.users", "(id) TO PROGRAM 'touch canary' --", 0, 0, ""),)),
        Contents(sequences=(SequenceValue(evil, 1, called=True),)),
    ):
        with (
            closing(session.connect(restored)) as connection,
            pytest.raises(OpsError, match="names something that is no table"),
        ):
            read_back.read_contents(connection, wanted)


def test_definitions_that_are_worded_alike_need_no_replay(backup: Backup) -> None:
    def never() -> list[CatalogEntry]:
        raise AssertionError

    objects = backup.manifest.objects
    assert compare_by_replay(objects, objects, never) == []
    assert [str(d) for d in compare_by_replay(objects[:2], objects[:1], never)] == [
        f"{objects[1].kind} {objects[1].name}: it is missing"
    ]


def test_a_definition_worded_otherwise_is_equal_if_the_dump_itself_gives_that_wording() -> None:
    wanted, found, other = (CatalogEntry("view", "v", "o", (), digest) for digest in "abc")
    assert compare_by_replay([wanted], [found], lambda: [found]) == []
    for replayed in ([other], [wanted], []):
        (difference,) = compare_by_replay([wanted], [found], lambda again=replayed: again)  # type: ignore[misc]
        assert str(difference) == "view v: its definition is not the one that was dumped"
