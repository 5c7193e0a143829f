"""Between two backups: which tables grew, fell, changed; the losses first."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops.catalog import Backup
from polyladder_ops.history import Change, changes, one_by_one, since
from tests.factories import NIGHT, manifest, table

if TYPE_CHECKING:
    from polyladder_ops.postgres.contents import TableData


def backup(*tables: TableData, day: int = 0, stored_bytes: int | None = 0) -> Backup:
    return Backup(manifest(tables=tables, taken_at=NIGHT + timedelta(days=day)), Path("x"), stored_bytes, ())


def test_each_kind_of_change_has_its_word_and_losses_come_first() -> None:
    before = backup(
        table("a", 5), table("b", 5), table("c", 5), table("d", 50), table("e", 5), table("same", 9)
    )
    now = backup(
        table("a", 7, "a" * 32), table("b", 2, "b" * 32), table("c", 5, "c" * 32), table("e", 0, "e" * 32),
        table("f", 1), table("same", 9), day=1,
    )  # fmt: skip
    assert [str(change) for change in changes(before, now)] == [
        "d is gone (50 rows)",
        "e emptied by 5 (5 → 0 rows)",
        "b fell by 3 (5 → 2 rows)",
        "c changed (still 5 rows)",
        "f is new (1 row)",
        "a grew by 2 (5 → 7 rows)",
    ]


def test_the_words_are_those_of_the_numbers() -> None:
    kinds = {
        (None, 0): "new",
        (0, None): "gone",
        (3, 0): "emptied",
        (0, 3): "grew",
        (3, 2): "fell",
        (3, 3): "changed",
        (0, 0): "changed",
    }
    assert {pair: Change("t", *pair).kind for pair in kinds} == kinds


def test_large_numbers_are_readable() -> None:
    assert str(Change("t", 1_234_567, 1_000)) == "t fell by 1,233,567 (1,234,567 → 1,000 rows)"


def test_a_new_or_lost_table_may_be_empty() -> None:
    assert str(Change("t", None, 0)) == "t is new (0 rows)"
    assert str(Change("t", 0, None)) == "t is gone (0 rows)"


def test_equal_backups_have_no_changes() -> None:
    assert changes(backup(table()), backup(table(), day=1)) == ()


def test_other_columns_are_a_change_even_if_the_rows_are_as_many() -> None:
    wider = replace(table(), columns="(id, title, more)")
    assert [change.kind for change in changes(backup(table()), backup(wider))] == ["changed"]


def test_changes_are_counted_since_the_complete_backup_before() -> None:
    first = backup(table(rows=1), day=0)
    broken = backup(table(rows=9), day=1, stored_bytes=None)
    last = backup(table(rows=4, digest="4" * 32), day=2)
    newest_first = [last, broken, first]
    assert since(newest_first, last) == (Change("public.decks", 1, 4),)
    assert since(newest_first, broken) == (Change("public.decks", 1, 9),)
    assert since(newest_first, first) is None


def test_one_by_one_says_of_each_what_since_says() -> None:
    newest_first = [
        backup(table(rows=4, digest="4" * 32), day=3),
        backup(table(rows=9), day=2, stored_bytes=None),
        backup(table(rows=1), day=1),
        backup(table(rows=2), day=0, stored_bytes=None),
    ]
    assert [found for _, found in one_by_one(newest_first[::-1])][::-1] == [
        since(newest_first, backup) for backup in newest_first
    ]
