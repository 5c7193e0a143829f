"""Verifications and pins: small files that are only added, and speak for nothing but the bytes that they name."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from polyladder_ops import catalog, portable
from polyladder_ops.errors import Refused
from polyladder_ops.records import Record, Standing, is_pinned, load_all, standing
from polyladder_ops.workspace import folder_lock, sweep
from tests.factories import NIGHT, put, record
from tests.test_tasks import project

if TYPE_CHECKING:
    from pathlib import Path

LATER = NIGHT + timedelta(days=1)


def held(folder: Path) -> catalog.Backup:
    """Return the one backup of a folder."""
    (backup,) = catalog.scan(folder, "production").backups
    return backup


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_a_backup_is_verified_after_a_passed_verification_only(tmp_path: Path) -> None:
    made = put(tmp_path)
    assert not held(tmp_path).verified
    record(tmp_path, made)
    assert held(tmp_path).verified
    assert held(tmp_path).level == "stored"
    (last,) = held(tmp_path).records
    assert (last.level, last.by, last.backup) == ("stored", "tests", made.id)


def test_a_failed_verification_takes_the_word_verified_back(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made)
    record(tmp_path, made, verdict="failed", at=LATER, details=("its sha256 differs",))
    assert not held(tmp_path).verified
    record(tmp_path, made, at=LATER + timedelta(hours=1))
    assert held(tmp_path).verified


def test_not_proved_neither_gives_nor_takes_the_word_verified(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made, verdict="not proved")
    assert not held(tmp_path).verified
    record(tmp_path, made, at=LATER)
    record(tmp_path, made, verdict="not proved", at=LATER + timedelta(hours=1))
    assert held(tmp_path).verified


def test_records_count_by_their_instant_not_by_their_name_or_zone(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made, verdict="failed", at=LATER)
    record(tmp_path, made, at=datetime.fromisoformat("2026-01-06T04:30:00+09:00"))  # before the failure
    assert not held(tmp_path).verified


def test_a_record_of_other_bytes_proves_nothing(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made, sha256="0" * 64)
    record(tmp_path, made, kind="pin", verdict="", sha256="0" * 64)
    assert not held(tmp_path).verified
    assert not held(tmp_path).pinned


def test_bytes_that_are_gone_or_cut_are_not_verified(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made)
    (tmp_path / made.file).write_bytes(b"dat")
    assert not held(tmp_path).verified
    (tmp_path / made.file).unlink()
    assert not held(tmp_path).verified


UNREADABLE = {
    "empty": "",
    "cut": '{"kind": "verify"',
    "a list": "[]",
    "another verdict": {"verdict": "wonderful"},
    "another kind": {"kind": "bless"},
    "a time without a zone": {"at": "2026-01-05T02:00:00"},
    "a newer format": {"format": 2},
    "no checksum": {"sha256": None},
}


@pytest.mark.parametrize("content", UNREADABLE.values(), ids=UNREADABLE)
@pytest.mark.parametrize("kind", ["verify", "pin", "unpin"])
def test_a_record_that_can_not_be_read_counts_as_the_careful_case(
    content: str | dict[str, object], kind: str, tmp_path: Path
) -> None:
    made = put(tmp_path)
    record(tmp_path, made)
    verdict = "passed" if kind == "verify" else ""
    path = record(tmp_path, made, kind=kind, verdict=verdict, at=LATER)
    text = content if isinstance(content, str) else json.dumps({**json.loads(path.read_text()), **content})
    path.write_text(text)
    backup = held(tmp_path)
    assert (backup.failed, backup.pinned) == (kind == "verify", kind == "pin")
    assert backup.verified is not backup.failed
    said = [why for record in backup.records for why in record.details]
    assert said == [] if kind == "unpin" else path.name in said[0]


def test_an_unpin_that_can_not_be_read_leaves_a_pin(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made, kind="pin", verdict="")
    record(tmp_path, made, kind="unpin", verdict="", at=LATER).write_text("{")
    assert held(tmp_path).pinned


def test_after_a_record_that_can_not_be_read_a_backup_can_be_verified_again(tmp_path: Path) -> None:
    made = put(tmp_path)
    record(tmp_path, made, at=LATER).write_text("{")
    record(tmp_path, made, at=LATER + timedelta(hours=1))
    assert held(tmp_path).failed  # bytes say nothing of what it may have said
    record(tmp_path, made, level="restore", at=LATER + timedelta(hours=2))
    assert held(tmp_path).level == "restore"


# Level and verdict of one verification after another, and what they come to.
STANDINGS = {
    "a restore that failed stands, whatever the bytes are": ("restore failed, stored passed, stored passed", "", "restore"),
    "until a restore passes": ("restore failed, stored passed, restore passed", "restore", ""),
    "bytes that failed stand against nothing deeper": ("stored failed, restore passed", "restore", ""),
    "nor against bytes that pass": ("stored failed, stored passed", "stored", ""),
    "a later look at the bytes takes nothing from a restore": ("restore passed, stored passed", "restore", ""),
    "bytes that failed take a restore back": ("restore passed, stored failed", "", "stored"),
    "which bytes that pass don't give again": ("restore passed, stored failed, stored passed", "stored", ""),
    "the deeper failure stands": ("restore failed, stored failed, stored passed", "", "restore"),
    "not proved is no verdict": ("restore failed, restore not proved", "", "restore"),
    "nor one that takes anything": ("stored passed, restore not proved", "stored", ""),
}  # fmt: skip


@pytest.mark.parametrize(("said", "level", "failed"), STANDINGS.values(), ids=STANDINGS)
def test_a_failure_stands_until_as_deep_a_look_passes(
    said: str, level: str, failed: str, tmp_path: Path
) -> None:
    made = put(tmp_path)
    for hours, one in enumerate(said.split(", ")):
        depth, _, verdict = one.partition(" ")
        record(tmp_path, made, level=depth, verdict=verdict, at=NIGHT + timedelta(hours=hours))
    found = standing(held(tmp_path).records)
    assert (found.level, found.failure.level if found.failure else "") == (level, failed)


def test_a_record_that_is_gone_or_no_file_proves_nothing(tmp_path: Path) -> None:
    assert load_all([tmp_path / "gone", tmp_path], "0") == ()


def test_a_pin_holds_until_it_is_taken_back(tmp_path: Path) -> None:
    made = put(tmp_path)
    assert not held(tmp_path).pinned
    record(tmp_path, made, kind="pin", verdict="")
    assert held(tmp_path).pinned
    assert not held(tmp_path).verified
    record(tmp_path, made, kind="unpin", verdict="", at=LATER)
    assert not held(tmp_path).pinned
    record(tmp_path, made, kind="pin", verdict="", at=LATER + timedelta(hours=1))
    assert held(tmp_path).pinned


def test_records_are_added_and_never_overwritten(tmp_path: Path) -> None:
    made = put(tmp_path)
    paths = {record(tmp_path, made) for _ in range(20)}
    assert len(paths) == 20
    assert len(held(tmp_path).records) == 20
    assert all(path.name.startswith(f"{made.file}.verify-2026") for path in paths)
    assert all(path.parent == tmp_path for path in paths)


@pytest.mark.parametrize("kind", ["verify", "pin"])
def test_nothing_is_left_of_a_record_that_could_not_be_written(kind: str, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no limit of a file's size")
    import resource

    made = put(tmp_path)
    before, (soft, hard) = names(tmp_path), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (100, hard)
    )  # as a full disk: the file is there, its text is not
    try:
        with pytest.raises(OSError, match="large"):
            record(tmp_path, made, kind=kind, verdict="passed" if kind == "verify" else "")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == before
    assert (held(tmp_path).failed, held(tmp_path).pinned) == (False, False)


_KILLED = """
import os, signal, sys
from pathlib import Path
from polyladder_ops import catalog
from tests.factories import record
os.fsync = lambda _file: os.kill(os.getpid(), signal.SIGKILL)
folder = Path(sys.argv[1])
(backup,) = catalog.scan(folder, "production").backups
record(folder, backup.manifest)
"""


def test_what_a_kill_leaves_of_a_record_is_no_record_and_is_swept(tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no SIGKILL")
    put(tmp_path)
    before = names(tmp_path)
    done = subprocess.run([sys.executable, "-c", _KILLED, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    (left,) = names(tmp_path) - before
    assert not held(tmp_path).records
    with folder_lock(tmp_path), pytest.raises(Refused):  # somebody may be writing it
        sweep(tmp_path, timeout_s=0)
    assert (tmp_path / left).exists()
    assert sweep(tmp_path).removed == (tmp_path / left,)
    assert names(tmp_path) - {".lock"} == before


@pytest.mark.skipif(os.name == "nt", reason="Windows has no modes")
def test_only_we_can_read_a_record(tmp_path: Path) -> None:
    assert record(tmp_path, put(tmp_path)).stat().st_mode & 0o777 == 0o600


def test_a_record_says_who(tmp_path: Path) -> None:
    user, _, host = portable.by_whom().partition("@")
    assert user
    assert host


def test_a_record_without_a_zone_is_not_written() -> None:
    with pytest.raises(ValidationError):
        Record(kind="pin", backup="x", sha256="0", at=datetime(2026, 1, 1), by="x")  # noqa: DTZ001 - that is the point


def test_no_records_say_no() -> None:
    assert not is_pinned([])
    assert standing([]) == Standing()


def test_what_can_not_be_read_is_said_where_it_counts(tmp_path: Path) -> None:
    shop = project(tmp_path / "project", BACKUP_DIR=str(tmp_path / "backups"))
    (tmp_path / "backups").mkdir()
    made = put(tmp_path / "backups")
    name = record(tmp_path / "backups", made, kind="pin", verdict="")
    name.write_text("{")
    for words in (("backup.list",), ("backup.list", "--changes"), ("backup.prune",)):
        done = shop.ask(*words)
        assert (
            done.code,
            f"warning: the record {name.name} can't be read, so it counts as a pin" in done.err,
        ) == (0, True), done.err
    shown = json.loads(shop.ask("backup.list", "--json").out)
    assert shown[0]["damaged_records"] == [f"the record {name.name} can't be read, so it counts as a pin"]
