"""Clocks that are wrong: a server's while a backup was made, and this machine's while something is chosen or deleted."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, catalog, choosing, clocks
from polyladder_ops.doctor import examine
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.site import Site
from tests.conftest import run
from tests.factories import NIGHT, put, record
from tests.test_doctor import by_name, settings
from tests.test_prune import url
from tests.test_standing_failure import named
from tests.test_tasks import Project, project

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

NOW = datetime.now(UTC).replace(microsecond=0)
DAY = timedelta(days=1)
NOWHERE = "postgres://app@127.0.0.1:1/app"


def count(target: Target) -> int:
    with session.connect(target) as connection:
        found = connection.execute("SELECT count(*) FROM public.card").fetchone()
    assert found is not None
    return int(found[0])


def test_latest_is_not_the_one_of_a_clock_that_was_ahead(database: Target, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    with session.connect(database) as connection:
        connection.execute("CREATE TABLE public.card AS SELECT 1 AS id")
    first = backups.take(database, folder, site="production", private=tmp_path / "private")
    named(first, folder, -400, "polyladder_20280101_000000")
    with session.connect(database) as connection:
        connection.execute("INSERT INTO public.card SELECT generate_series(2, 5000)")
    backups.take(database, folder, site="production", private=tmp_path / "private")
    with session.connect(database) as connection:
        connection.execute("DELETE FROM public.card")
    shop = project(tmp_path / "project", BACKUP_DIR=str(folder), DATABASE_URL=url(database))
    done = shop.ask("restore", "--backup=latest", "--force")
    assert done.code == 0, done.err
    assert count(database) == 5000
    assert "polyladder_20280101_000000 is dated in the future" in done.err
    aside = re.search(r"kept as (\w+):", done.out)
    assert aside is not None
    run(database.with_database("postgres"), "DROP DATABASE %I", aside[1])


@pytest.fixture
def three(tmp_path: Path) -> Path:
    """Return a folder with backups of yesterday, of now, and of a clock that was ahead by half a day and by years."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for at in (NOW - DAY, NOW - timedelta(minutes=1), NOW + DAY / 2, NOW + 400 * DAY):
        put(folder, taken_at=at)
    return folder


@pytest.mark.parametrize("word", ["latest", "2026-01-05", "2026-01-05T14:00Z"])
def test_no_word_for_a_time_means_one_of_the_future(word: str, tmp_path: Path) -> None:
    for at in (NIGHT - DAY, NIGHT, NIGHT + DAY / 4, NIGHT + 400 * DAY):
        put(tmp_path, taken_at=at)
    found = choosing.find(catalog.scan(tmp_path, "production"), word, now=NIGHT + DAY / 8)
    assert found.taken_at == NIGHT


def test_its_own_name_means_it(three: Path) -> None:
    found = catalog.scan(three, "production")
    assert choosing.find(found, found.entries[0].id, now=NOW).taken_at == NOW + 400 * DAY


def test_where_all_are_of_the_future_none_is_latest_and_it_is_said_why(tmp_path: Path) -> None:
    made = put(tmp_path, taken_at=NOW + DAY)
    with pytest.raises(OpsError) as caught:
        choosing.find(catalog.scan(tmp_path, "production"), "latest", now=NOW)
    assert f"{made.id}: dated in the future" in caught.value.detail
    assert "an id" in caught.value.hint


def test_it_is_named_wherever_backups_are_looked_at(three: Path, tmp_path: Path) -> None:
    ahead = catalog.scan(three, "production").entries[0].id
    shop = project(tmp_path / "project", BACKUP_DIR=str(three), DATABASE_URL=NOWHERE)
    for words in (
        ("backup.list",),
        ("backup.list", "--json"),
        ("backup.list", "--changes"),
        ("backup.show", "--backup=latest"),
        ("backup.show", f"--backup={ahead}"),
        ("verify", "--backup=latest", "--dry"),
        ("restore", "--list"),
        ("restore", "--list", "--json"),
    ):
        done = shop.ask(*words)
        assert (done.code, f"warning: {ahead} is dated in the future" in done.err) == (0, True), (words, done)
    rows = json.loads(shop.ask("backup.list", "--json").out)
    assert [row["dated_ahead"] for row in rows] == [True, True, False, False]
    for words in (("backup.list",), ("restore", "--list")):
        assert shop.ask(*words).out.count("dated in the FUTURE") == 2, words
    assert "in the future" in shop.ask("backup.prune").out


def test_a_machine_that_is_a_little_behind_still_sees_the_backup_it_just_took(
    three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "ours", lambda: NOW - timedelta(minutes=3))
    shop = project(tmp_path / "project", BACKUP_DIR=str(three), DATABASE_URL=NOWHERE)
    assert json.loads(shop.ask("backup.show", "--backup=latest", "--json").out)["taken_at"].startswith(
        f"{NOW - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}"
    )


def test_a_machine_that_is_far_behind_asks_the_server(
    three: Path, tmp_path: Path, sample: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clocks, "ours", lambda: NOW - 10 * DAY)
    shop = project(tmp_path / "project", BACKUP_DIR=str(three), DATABASE_URL=url(sample))
    shown = json.loads(shop.ask("backup.show", "--backup=latest", "--json").out)
    assert shown["taken_at"].startswith(f"{NOW - timedelta(minutes=1):%Y-%m-%dT%H:%M:%S}")


def test_the_servers_clock_is_asked_and_one_that_can_not_be_asked_is_none(
    sample: Target, tmp_path: Path
) -> None:
    there = Site(settings(tmp_path, DATABASE_URL=url(sample))).clock()
    assert there is not None
    assert abs(there - datetime.now(UTC)) < timedelta(minutes=5)
    assert Site(settings(tmp_path, DATABASE_URL=NOWHERE)).clock() is None
    assert Site(settings(tmp_path)).clock() is None


def test_the_doctor_goes_by_the_servers_clock_and_says_that_this_machines_is_behind(
    tmp_path: Path, sample: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(tmp_path, taken_at=NOW - timedelta(hours=3))
    monkeypatch.setattr(clocks, "ours", lambda: NOW - 10 * DAY)
    checks = by_name(examine(settings(tmp_path, BACKUP_DIR=str(tmp_path), DATABASE_URL=url(sample))))
    assert f"is {made.id}, 3 h ago; nobody has verified it" in checks["backups"].detail
    assert (checks["clocks"].ok, checks["clocks"].blocks, checks["restore"].ok) == (False, "", False)
    assert re.search(
        rf"It is {NOW:%Y-%m-%d} .* by the server's clock, and {NOW - 10 * DAY:%Y-%m-%d} .* by this machine's",
        checks["clocks"].detail,
    )


@pytest.mark.parametrize("whose", ["the server's", "this machine's"])
def test_where_all_are_of_the_future_the_doctor_says_by_whose_clock_and_not_that_there_is_none(
    whose: str, tmp_path: Path, sample: Target
) -> None:
    made = put(tmp_path, taken_at=NOW + DAY)
    live = url(sample) if whose == "the server's" else NOWHERE
    checks = by_name(examine(settings(tmp_path, BACKUP_DIR=str(tmp_path), DATABASE_URL=live)))
    found = checks["backups"]
    assert (found.ok, found.blocks) == (False, "restore")
    assert "There is none" not in found.detail
    assert f"{made.id}, dated {made.taken_at:%Y-%m-%d %H:%M:%S}Z, and it is {NOW:%Y-%m-%d}" in found.detail
    assert f"by {whose} clock" in found.detail
    assert f"If {whose} clock is behind, set it" in found.hint
    assert f"`invoke restore --backup={made.id}`" in found.hint
    assert "other backups" not in checks


# Pruning -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def pruned(tmp_path: Path) -> tuple[Path, Project]:
    """Return a folder with verified backups of the last days, and a project that keeps one verified for 30 days."""
    folder = tmp_path / "backups"
    folder.mkdir()
    for days in (0, 1, 2):
        record(folder, put(folder, taken_at=NOW - days * DAY - timedelta(minutes=5)))
    variables = {"BACKUP_DIR": str(folder), "BACKUP_KEEP_VERIFIED": "1"}
    return folder, project(tmp_path / "project", DATABASE_URL=NOWHERE, **variables)


def left(folder: Path) -> int:
    return len(catalog.scan(folder, "production").entries)


def test_prune_asks_the_servers_clock_too(
    pruned: tuple[Path, Project], sample: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = pruned
    monkeypatch.setattr(clocks, "ours", lambda: NOW + 400 * DAY)
    assert shop.ask("backup.prune", "--apply", DATABASE_URL=url(sample)).code == 0
    assert left(folder) == 3


@pytest.mark.parametrize("at", ["", NOWHERE], ids=["none is named", "it does not answer"])
def test_while_the_server_can_not_be_asked_the_newest_backup_tells_the_time(
    at: str, pruned: tuple[Path, Project], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = pruned
    monkeypatch.setattr(clocks, "ours", lambda: NOW + 400 * DAY)
    done = shop.ask("backup.prune", "--apply", DATABASE_URL=at)
    assert (done.code, left(folder)) == (0, 3), done.err
    assert "note: the server's clock could not be asked" in done.err


def test_a_machine_whose_clock_is_behind_deletes_nothing_that_is_young_by_it(
    pruned: tuple[Path, Project], sample: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, shop = pruned
    old = put(folder, b"old", taken_at=NOW - 35 * DAY)
    monkeypatch.setattr(clocks, "ours", lambda: NOW - 10 * DAY)
    shop.ask("backup.prune", "--apply", DATABASE_URL=url(sample))
    assert (folder / old.file).exists()
    monkeypatch.undo()
    shop.ask("backup.prune", "--apply", DATABASE_URL=url(sample))
    assert not (folder / old.file).exists()
