"""The whole way of a failure: a backup that does not restore, looked at again less deeply, and what is deleted for it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups
from polyladder_ops.postgres import session
from tests.factories import put, record, unchecked
from tests.forging import Fields, dump_of, forged, lying
from tests.test_prune import url
from tests.test_tasks import Project, project

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

NOW = datetime.now(UTC)


@dataclass(frozen=True)
class Shop:
    """A folder with an old backup that restores, one that does not, and a new one; and where tasks are run."""

    project: Project
    folder: Path
    good: Backup
    bad: Backup

    def verify(self, backup: Backup, level: str) -> int:
        return self.project.ask("verify", f"--backup={backup.id}", f"--level={level}").code

    def row(self, backup: Backup) -> dict[str, object]:
        rows = json.loads(self.project.ask("backup.list", "--json").out)
        return next(row for row in rows if row["id"] == backup.id)


def aged(days: int, name: str) -> Fields:
    at = NOW - timedelta(days=days)
    return {"taken_at": at.isoformat(), "finished_at": at.isoformat(), "id": name, "file": f"{name}.sql.gz"}


@pytest.fixture
def shop(database: Target, tmp_path: Path) -> Shop:
    with session.connect(database) as connection:
        connection.execute("CREATE TABLE public.deck (id integer, title text)")
        connection.execute("CREATE INDEX by_title ON public.deck (title)")
        connection.execute("INSERT INTO public.deck VALUES (1, 'verbs')")
    taken = backups.take(database, tmp_path / "taken", site="production", private=tmp_path / "private")
    folder = tmp_path / "backups"
    without = dump_of(taken).replace(b"CREATE INDEX by_title ON public.deck USING btree (title);", b"")
    assert without != dump_of(taken)
    good = lying(taken, folder, lambda fields: fields)
    bad = forged(taken, folder / "made", without)
    good, bad = named(good, folder, 100, "polyladder_good"), named(bad, folder, 50, "polyladder_bad")
    put(folder, taken_at=NOW - timedelta(days=1))
    at = url(database)
    variables = {"BACKUP_DIR": str(folder), "BACKUP_KEEP_VERIFIED": "1", "POLYLADDER_SCRATCH_URL": at}
    return Shop(project(tmp_path / "project", DATABASE_URL=at, **variables), folder, good, bad)


def named(backup: Backup, folder: Path, days: int, name: str) -> Backup:
    """Return the backup with another name and age, alone under it."""
    data = backup.path.read_bytes()
    fields = json.loads(unchecked(backup.path.with_name(f"{backup.path.name}.json").read_text()))
    for path in (backup.path, backup.path.with_name(f"{backup.path.name}.json")):
        path.unlink()
    path = folder / f"{name}.sql.gz"
    path.write_bytes(data)
    path.with_name(f"{path.name}.json").write_text(json.dumps({**fields, **aged(days, name)}))
    from polyladder_ops import catalog

    return catalog.open_backup(path)


def test_after_a_restore_that_failed_a_look_at_the_bytes_makes_it_no_guard(shop: Shop) -> None:
    assert shop.verify(shop.good, "restore") == 0
    assert shop.verify(shop.bad, "restore") == 3
    assert shop.verify(shop.bad, "stored") == 0
    assert (shop.row(shop.bad)["verified"], shop.row(shop.bad)["failed"]) == (False, True)
    assert shop.project.ask("backup.prune", "--apply").code == 0
    assert (shop.folder / shop.good.path.name).exists()


def test_the_failure_is_said_in_each_list_until_a_restore_passes(shop: Shop) -> None:
    shop.verify(shop.bad, "restore")
    shop.verify(shop.bad, "stored")
    for words in (("backup.list",), ("backup.show", f"--backup={shop.bad.id}"), ("restore", "--list")):
        assert "FAILED" in shop.project.ask(*words).out, words
    assert json.loads(shop.project.ask("restore", "--list", "--json").out)[1]["failed"] is True


def test_not_proved_leaves_what_was_proved(shop: Shop, tmp_path: Path) -> None:
    def of_another_major(fields: Fields) -> None:
        fields["source"]["server_major"] = 12

    elsewhere = lying(shop.good, tmp_path / "elsewhere", of_another_major)
    record(elsewhere.path.parent, elsewhere.manifest, level="restore")
    ended = shop.project.ask("verify", f"--backup={elsewhere.path}", "--level=restore")
    assert (ended.code, "NOT PROVED" in ended.out) == (3, True), ended
    shown = json.loads(shop.project.ask("backup.show", f"--backup={elsewhere.path}", "--json").out)
    assert (shown["level"], shown["verification"]["verdict"]) == ("restore", "not proved")
