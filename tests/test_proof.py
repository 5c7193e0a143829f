"""The proof tells a restored database from one in which the smallest thing is not as it was dumped."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, restoring
from polyladder_ops.postgres import databases, session

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server


@pytest.fixture(scope="module")
def backup(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Backup:
    seeded = tmp_path_factory.mktemp("proof")
    return backups.take(sample, seeded / "backups", site="test", private=seeded / "private")


@pytest.fixture
def restored(server: Server, backup: Backup) -> Iterator[Target]:
    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        restoring.load(target, backup, [])
        yield target


def differences(server: Server, restored: Target, backup: Backup) -> list[str]:
    return [str(d) for d in restoring.prove(server.target(), restored.database, backup, [])]


def test_a_restored_database_is_equal(server: Server, restored: Target, backup: Backup) -> None:
    assert differences(server, restored, backup) == []


DAMAGE = {
    "one byte of a row": (
        "UPDATE learning.word SET lemma = overlay(lemma placing '~' from 1 for 1) WHERE id = 7",
        ["table learning.word: its"],
    ),
    "a row less": (
        "DELETE FROM public.device WHERE ctid = (SELECT min(ctid) FROM public.device)",
        ["table public.device: it has"],
    ),
    "a row more": (
        'INSERT INTO public.language SELECT (jsonb_populate_record(l, \'{"code": "zz"}\')).* FROM public.language l LIMIT 1',
        ["table public.language: it has"],
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
        "REVOKE SELECT ON learning.word FROM polyladder_readonly",
        ["learning.word: its grants differ"],
    ),
    "a grant more": (
        "GRANT DELETE ON learning.word TO polyladder_readonly",
        ["learning.word: its grants differ"],
    ),
    "another owner": (
        "ALTER TABLE public.device OWNER TO postgres",
        ["public.device: its owner is postgres"],
    ),
    "a large object's byte": (
        "SELECT lo_put(oid, 3, '\\x00') FROM pg_largeobject_metadata ORDER BY oid LIMIT 1",
        ["large object "],
    ),
    "a large object less": (
        "SELECT lo_unlink(oid) FROM pg_largeobject_metadata ORDER BY oid LIMIT 1",
        ["large object ", "it is missing"],
    ),
    "a table less": ("DROP TABLE learning.note CASCADE", ["table learning.note: it is missing"]),
    "a table more": ("CREATE TABLE public.extra ()", ["table public.extra: it was not in the source"]),
    "a comment": ("COMMENT ON TABLE public.users IS 'other'", ["public.users: its definition"]),
    "a column's default": (
        "ALTER TABLE public.users ALTER streak_days SET DEFAULT 99",
        ["public.users: its definition"],
    ),
    "row security off": (
        "ALTER TABLE learning.note DISABLE ROW LEVEL SECURITY",
        ["learning.note: its "],
    ),
    "a setting of the database": ("ALTER DATABASE {database} SET search_path = public", ["search_path"]),
    "a comment on the database": ("COMMENT ON DATABASE {database} IS 'other'", ["database "]),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_the_proof_names(damage: str, server: Server, restored: Target, backup: Backup) -> None:
    statement, said = DAMAGE[damage]
    with closing(session.connect(restored)) as connection:
        connection.execute(statement.replace("{database}", restored.database).encode())
    found = differences(server, restored, backup)
    assert found, "the damage went unnoticed"
    assert all(any(piece in difference for difference in found) for piece in said), found


def test_the_proof_names_a_missing_index(server: Server, restored: Target, backup: Backup) -> None:
    with closing(session.connect(restored)) as connection:
        found = connection.execute(
            "SELECT c.oid::regclass::text FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid"
            " WHERE i.indrelid = 'learning.word'::regclass AND NOT i.indisunique LIMIT 1"
        ).fetchone()
        assert found is not None
        connection.execute(f"DROP INDEX {found[0]}".encode())
    assert f"index {found[0]}: it is missing" in differences(server, restored, backup)


def test_the_proof_names_a_trigger_that_is_switched_off(
    server: Server, restored: Target, backup: Backup
) -> None:
    with closing(session.connect(restored)) as connection:
        connection.execute(b"ALTER TABLE audit.log DISABLE TRIGGER ALL")
    assert any(
        "audit.log" in difference and "definition" in difference
        for difference in differences(server, restored, backup)
    )


def test_no_database_is_left_behind_by_a_proof(server: Server, restored: Target, backup: Backup) -> None:
    before = set(session.database_sizes(server.target()))
    with closing(session.connect(restored)) as connection:
        connection.execute(b"ALTER TABLE public.users ALTER streak_days SET DEFAULT 99")
    assert differences(server, restored, backup)
    assert set(session.database_sizes(server.target())) == before


def test_making_a_database_that_is_there_is_refused(server: Server, restored: Target, backup: Backup) -> None:
    with (
        pytest.raises(Exception, match="there is a database"),
        closing(session.connect(server.target())) as connection,
    ):
        databases.create(connection, restored.database, backup.manifest.properties)


def test_a_path_is_no_name_for_a_table(
    server: Server, restored: Target, backup: Backup, tmp_path: Path
) -> None:
    """A manifest is data: what it calls a table can't be a piece of SQL."""
    evil = backup.manifest.tables[0].__class__("pg_class; DROP TABLE public.users", "", 0, 0, "")
    lying = backup.manifest.model_copy(update={"tables": (evil,)})
    with pytest.raises(Exception, match="names something that is no table"):
        restoring.prove(server.target(), restored.database, backup.__class__(lying, backup.path, 1, ()), [])
    assert differences(server, restored, backup) == []
