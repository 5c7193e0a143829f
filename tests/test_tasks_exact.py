"""What `invoke restore` makes of definitions: one that is not the source's replaces nothing, an old backup's are no proof."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.forging import dump_of, forged, lying
from tests.test_expressions import as_before
from tests.test_tasks_restore import Shop, instead, shop, taken, untouched  # noqa: F401 - two are fixtures

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

SAID = "definitions compared with the dump only"


@pytest.mark.parametrize("words", [("--latest", "--force"), ("--latest", "--force", "--in-place")])
def test_a_definition_that_the_dump_changed_replaces_nothing(
    words: tuple[str, ...],
    shop: Shop,  # noqa: F811
    taken: tuple[Target, Backup],  # noqa: F811
    tmp_path: Path,
) -> None:
    dump = dump_of(taken[1])
    changed = dump.replace(b"    title text\n", b"    title text DEFAULT 'x'\n")
    assert changed != dump
    instead(shop, forged(taken[1], tmp_path / "forged", changed))
    done = shop.ask("restore", *words)
    assert done.code == 3, done
    assert "table:public.deck" in done.err
    untouched(shop)
    let_through = shop.ask("restore", *words, "--accept=table:public.deck")
    assert let_through.code == 3
    assert shop.decks() == 500


@pytest.mark.parametrize("words", [("--latest", "--force"), ("--latest", "--force", "--in-place")])
def test_a_backup_of_before_comes_back_and_is_not_called_proved(
    words: tuple[str, ...],
    shop: Shop,  # noqa: F811
    taken: tuple[Target, Backup],  # noqa: F811
    tmp_path: Path,
) -> None:
    instead(shop, lying(taken[1], tmp_path / "lying", as_before))
    done = shop.ask("restore", *words)
    assert done.code == 3, done
    assert SAID in done.out + done.err
    assert shop.decks() == 500


def test_what_a_backup_shows_of_itself_leaves_the_texts_out(shop: Shop) -> None:  # noqa: F811
    shown = shop.ask("backup.show", "--backup=latest", "--json")
    assert shown.code == 0
    assert '"objects"' in shown.out
    assert '"expressions"' not in shown.out
