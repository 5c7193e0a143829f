"""Before a backup is deleted, those that justify it are read to their ends: a record of them is a claim about yesterday."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import catalog, pruning, records, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.retention import Rule
from tests.factories import put, record, unchecked
from tests.test_tasks import project

if TYPE_CHECKING:
    from polyladder_ops.manifest import Manifest

SITE = "production"
NOW = datetime.now(UTC).replace(microsecond=0)
RULE = Rule(days=30, keep_verified=2)


@dataclass(frozen=True)
class Folder:
    """Backups by their age in days; those of 1 and 60 days are the guards of the others, which are older."""

    path: Path
    made: dict[int, Manifest]

    def file(self, days: int) -> Path:
        return self.path / self.made[days].file

    def rot(self, days: int) -> None:
        """Change one byte of a backup's data; neither size nor time tell it."""
        path = self.file(days)
        data, times = bytearray(path.read_bytes()), path.stat()
        data[3] ^= 1
        path.write_bytes(data)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def prune(self, rule: Rule = RULE) -> pruning.Outcome:
        return pruning.prune(self.path, SITE, rule, now=NOW)

    def ages(self) -> set[int]:
        listed = {backup.id for backup in catalog.scan(self.path, SITE).backups}
        return {days for days, made in self.made.items() if made.id in listed}


def lay(folder: Path, *days: int, verified: bool = True, **changes: Any) -> Folder:
    folder.mkdir()
    made = {}
    for day in days:
        made[day] = put(folder, f"data of {day}".encode(), taken_at=NOW - timedelta(days=day), **changes)
        if verified:
            record(folder, made[day])
    return Folder(folder, made)


@pytest.fixture
def two(tmp_path: Path) -> Folder:
    """Return a folder with one backup that is to go, and the two that stand for it."""
    return lay(tmp_path / "backups", 1, 60, 100)


def test_guards_that_are_whole_let_an_old_one_go(two: Folder) -> None:
    done = two.prune()
    assert (done.ids, done.damages, done.failure) == ((two.made[100].id,), (), None)
    assert two.ages() == {1, 60}


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
@pytest.mark.parametrize("rotten", [1, 60])
def test_a_good_old_backup_stays_when_one_that_stands_for_it_has_rotted(
    rotten: int, encrypted: bool, tmp_path: Path
) -> None:
    folder = lay(tmp_path / "backups", 1, 60, 100, encrypted=encrypted)
    folder.rot(rotten)
    done = folder.prune()
    assert (done.ids, done.failure) == ((), None)
    assert [damage.backup.id for damage in done.damages] == [folder.made[rotten].id]
    assert folder.ages() == {1, 60, 100}


def test_the_next_good_one_stands_for_the_others_instead(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 1, 60, 100, 200)
    folder.rot(60)
    assert folder.prune().ids == (folder.made[200].id,)
    assert folder.ages() == {1, 60, 100}, "what is damaged stays for a person to look at, too"


def test_the_newest_that_nobody_verified_is_read_too(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 60, 61, 100, 101, verified=False)
    for day in (61, 100):
        record(folder.path, folder.made[day])
    folder.rot(60)
    done = folder.prune()
    assert [damage.backup.id for damage in done.damages] == [folder.made[60].id]
    assert done.ids == (folder.made[101].id,)


def test_one_that_can_not_be_read_stands_for_nobody(two: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = storage.fingerprint

    def fails(path: Path) -> tuple[int, str]:
        if path == two.file(60):
            raise OpsError("could not read it", detail="Input/output error.")
        return real(path)

    monkeypatch.setattr(storage, "fingerprint", fails)
    done = two.prune()
    assert (done.ids, done.failure, done.damages[0].why) == (
        (),
        None,
        "could not read it. Input/output error",
    )
    (backup,) = [b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[60].id]
    assert not backup.failed, "that it could not be read is no verdict"


@pytest.mark.skipif(os.name == "nt", reason="Windows lets few people make links")
def test_one_whose_data_was_moved_and_linked_stands_for_nobody_and_stays(two: Folder) -> None:
    moved = two.path.parent / "elsewhere"
    two.file(100).rename(moved)
    two.file(100).symlink_to(moved)
    assert two.prune().ids == ()
    assert two.ages() == {1, 60, 100}


def test_what_was_seen_of_it_is_recorded_once_and_listed_as_failed(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 1, 60, 61, 100)
    folder.rot(1)
    assert folder.prune().ids == (folder.made[100].id,)
    put(folder.path, b"another old one", taken_at=NOW - timedelta(days=200))
    assert folder.prune().damages != ()
    newest = next(catalog.scan(folder.path, SITE).opened())
    assert newest.failed
    assert [r.verdict for r in newest.records] == ["passed", "failed"]


def test_nothing_is_read_where_nothing_goes(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 1, 2, 3)
    folder.rot(1)
    assert folder.prune().damages == ()


def test_a_dry_run_says_the_same_and_records_nothing(two: Folder) -> None:
    two.rot(60)
    before = sorted(two.path.iterdir())
    done = pruning.preview(two.path, SITE, RULE, now=NOW)
    assert not any(decision.goes for decision in done.decisions)
    assert [damage.backup.id for damage in done.damages] == [two.made[60].id]
    assert sorted(two.path.iterdir()) == before


@pytest.mark.parametrize("words", [("backup.prune",), ("backup.prune", "--apply")])
def test_the_task_names_it_and_the_answer_is_no(words: tuple[str, ...], tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 1, 60, 100)
    folder.rot(60)
    shop = project(tmp_path / "project", BACKUP_DIR=str(folder.path), BACKUP_KEEP_VERIFIED="2")
    done = shop.ask(*words)
    assert done.code == 3, done.err
    assert f"{folder.made[60].id} counts for nothing: the file's sha256 is not" in done.err
    assert f"hint: Look with `invoke verify --backup={folder.made[60].id}`" in done.err
    assert folder.ages() == {1, 60, 100}


def looked_at(folder: Folder, days: int) -> None:
    """Record a verification as a run does: bound to the manifest that lies there."""
    data = folder.file(days)
    record(folder.path, folder.made[days], at=NOW, manifest=records.digest_of(Path(f"{data}.json")))


def test_one_whose_manifest_has_rotted_since_it_was_verified_stands_for_nobody(two: Folder) -> None:
    looked_at(two, 1)
    path = Path(f"{two.file(1)}.json")
    path.write_text(unchecked(path.read_text()).replace('"digest": "0', '"digest": "1'))
    assert two.prune().ids == ()
    assert two.ages() == {1, 60, 100}
    backup = next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[1].id)
    assert backup.failed
    assert "its manifest is not the one with which it was verified" in backup.damaged[0]


def test_one_whose_manifest_is_the_one_that_was_verified_stands_for_others(two: Folder) -> None:
    looked_at(two, 60)
    assert two.prune().ids == (two.made[100].id,)


def test_the_newest_of_which_a_failure_stands_is_no_reason_to_delete_another(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 60, 61, 62, 100)
    record(folder.path, folder.made[60], level="restore", verdict="failed", at=NOW)
    done = folder.prune()
    assert [damage.backup.id for damage in done.damages] == [folder.made[60].id]
    assert "its verification failed" in done.damages[0].why
    assert done.ids == (folder.made[100].id,)
    assert folder.ages() == {60, 61, 62}


# A deletion that a killed run had begun --------------------------------------------------------------------------------


def begin(folder: Folder, days: int) -> None:
    """Leave a backup as a run leaves it that was killed amid its deletion."""
    data = folder.file(days)
    data.with_name(f"{data.name}.json").rename(data.with_name(f"{data.name}.pruned"))


def test_a_deletion_that_was_begun_is_taken_back_where_too_few_good_ones_stand(two: Folder) -> None:
    begin(two, 100)
    two.rot(60)
    assert two.ages() == {1, 60}
    seen = pruning.preview(two.path, SITE, RULE, now=NOW)
    done = two.prune()
    assert seen.back == done.back == (two.made[100].id,)
    assert (done.ids, done.failure) == ((), None)
    assert two.ages() == {1, 60, 100}
    assert next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[100].id).verified


def test_a_deletion_that_was_begun_is_ended_where_enough_stand(two: Folder) -> None:
    begin(two, 100)
    done = two.prune()
    assert (done.ids, done.back) == ((two.made[100].id,), ())
    assert not list(two.path.glob(f"{two.made[100].id}*"))


def test_what_is_left_of_a_deletion_without_its_data_goes_though_too_few_stand(two: Folder) -> None:
    begin(two, 100)
    two.file(100).unlink()
    two.rot(60)
    done = two.prune()
    assert (done.ids, done.back) == ((two.made[100].id,), ())


def test_the_task_says_what_it_took_back(tmp_path: Path) -> None:
    folder = lay(tmp_path / "backups", 1, 60, 100)
    begin(folder, 100)
    folder.rot(60)
    shop = project(tmp_path / "project", BACKUP_DIR=str(folder.path), BACKUP_KEEP_VERIFIED="2")
    dry, done = shop.ask("backup.prune"), shop.ask("backup.prune", "--apply", "--json")
    assert f"would take back the deletion of {folder.made[100].id}" in dry.err
    assert f"took back the deletion of {folder.made[100].id}" in done.err
    assert json.loads(done.out)["taken_back"] == [folder.made[100].id]


# Records that rotted ---------------------------------------------------------------------------------------------------


def alter(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    "rot", [{"sha256": "0" * 64}, {"kind": "unpin"}, {"backup": "polyladder_of_another"}], ids=str
)
def test_a_pin_of_which_a_word_has_rotted_is_a_pin(rot: dict[str, object], two: Folder) -> None:
    alter(record(two.path, two.made[100], kind="pin", level="", verdict=""), **rot)
    assert two.prune().ids == ()
    backup = next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[100].id)
    assert "can't be read, so it counts as a pin" in backup.damaged[0]


@pytest.mark.parametrize(
    "rot", [{"sha256": "0" * 64}, {"verdict": "passed"}, {"at": "2020-01-01T00:00:00Z"}], ids=str
)
def test_a_failure_of_which_a_word_has_rotted_is_a_failure(rot: dict[str, object], two: Folder) -> None:
    alter(record(two.path, two.made[1], verdict="failed", at=NOW), **rot)
    assert two.prune().ids == ()
    backup = next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[1].id)
    assert backup.failed
    assert "can't be read, so it counts as a failure" in backup.damaged[0]


def test_records_from_before_there_was_a_check_count_as_they_stand(two: Folder) -> None:
    path = record(two.path, two.made[100], kind="pin", level="", verdict="")
    fields = json.loads(path.read_text())
    del fields["check"]
    path.write_text(json.dumps(fields))
    backup = next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[100].id)
    assert (backup.pinned, backup.damaged) == (True, ())


def test_a_field_that_a_later_version_adds_is_no_damage(two: Folder) -> None:
    path = record(two.path, two.made[100], kind="pin", level="", verdict="")
    fields = {**json.loads(path.read_text()), "mood": "careful"}
    path.write_text(json.dumps({**fields, "check": records._check(fields)}))
    assert next(b for b in catalog.scan(two.path, SITE).backups if b.id == two.made[100].id).damaged == ()
