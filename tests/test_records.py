"""Verifications and pins: small files that are only added, and speak for nothing but the bytes that they name."""

from __future__ import annotations

import json
import os
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from pydantic import ValidationError

from polyladder_ops import catalog, portable
from polyladder_ops.records import Record, is_pinned, is_verified, last_verification, load_all
from tests.factories import NIGHT, put, record

if TYPE_CHECKING:
    from pathlib import Path

LATER = NIGHT + timedelta(days=1)


def held(folder: Path) -> catalog.Backup:
    """Return the one backup of a folder."""
    (backup,) = catalog.scan(folder, "production").backups
    return backup


def test_a_backup_is_verified_after_a_passed_verification_only(tmp_path: Path) -> None:
    made = put(tmp_path)
    assert not held(tmp_path).verified
    record(tmp_path, made)
    assert held(tmp_path).verified
    last = last_verification(held(tmp_path).records)
    assert last is not None
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
def test_a_record_that_can_not_be_read_proves_nothing(
    content: str | dict[str, object], tmp_path: Path
) -> None:
    made = put(tmp_path)
    path = record(tmp_path, made)
    text = content if isinstance(content, str) else json.dumps({**json.loads(path.read_text()), **content})
    path.write_text(text)
    assert held(tmp_path).records == ()
    assert not held(tmp_path).verified


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
    assert not is_verified([])
    assert not is_pinned([])
    assert last_verification([]) is None
