"""A database that somebody began to drop, or closed by hand, in the place of the live one: told before anything is built."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.conftest import run
from tests.test_tasks_restore import shop, taken  # noqa: F401 - fixtures

if TYPE_CHECKING:
    from tests.test_tasks_restore import Shop

HALF = "UPDATE pg_database SET datconnlimit = -2 WHERE datname = %L"
WORDS = {"restore": ["restore", "--latest"], "undo": ["restore.undo"]}


def spoiled(shop: Shop, what: str, statement: str) -> None:  # noqa: F811
    """Do this to the live database, which a restore has made if that is to be undone."""
    if what == "undo":
        assert shop.ask("restore", "--latest", "--force").code == 0
    run(shop.live.with_database("postgres"), statement, shop.name)


@pytest.mark.parametrize("what", WORDS)
def test_a_live_one_that_is_half_dropped_is_in_the_way_until_it_is_dropped(
    what: str,
    shop: Shop,  # noqa: F811
) -> None:
    spoiled(shop, what, HALF)
    before = shop.names()
    drop = f'DROP DATABASE "{shop.name}";'
    for words in (["-R", *WORDS[what]], [*WORDS[what], "--force"]):
        ended = shop.ask(*words)
        assert ended.code == (3 if words[:2] == ["-R", "restore"] else 4), ended
        assert drop in ended.out + ended.err
        assert "half dropped" in ended.err or "half-dropped: somebody began to drop" in ended.out + ended.err
        assert "load:" not in ended.err
    assert shop.names() == before
    run(shop.live.with_database("postgres"), drop)
    assert shop.ask(*WORDS[what], "--force").code == 0
    assert shop.decks() == (500 if what == "restore" else 520)


@pytest.mark.parametrize("how", ["ALLOW_CONNECTIONS false", "CONNECTION LIMIT 0"])
@pytest.mark.parametrize("what", WORDS)
def test_a_live_one_that_was_closed_by_hand_is_set_aside_as_it_is(
    what: str,
    how: str,
    shop: Shop,  # noqa: F811
) -> None:
    spoiled(shop, what, f"ALTER DATABASE %I {how}")
    for words in (["-R", *WORDS[what]], [*WORDS[what], "--force"]):
        ended = shop.ask(*words)
        assert ended.code == 0, ended
    assert len(shop.asides()) == 1


def test_a_set_aside_one_that_is_half_dropped_is_none_to_bring_back_but_the_rest_of_one(shop: Shop) -> None:  # noqa: F811
    assert shop.ask("restore", "--latest", "--force").code == 0
    (aside,) = shop.asides()
    run(shop.live.with_database("postgres"), HALF, aside)
    told = shop.ask("restore.status")
    assert (told.code, told.out) == (3, f"LEFTOVER {aside}: half dropped\n")
    dry = shop.ask("-R", "restore.undo")
    assert (dry.code, f"there is no set-aside database of {shop.name}" in dry.err) == (1, True), dry
    assert shop.ask("restore.abort").out == f"dropped the rest of {aside}\n"
    assert shop.asides() == []
