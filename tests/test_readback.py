"""What a backup's file holds under its final name is read from there, most of it while the file grows."""

from __future__ import annotations

import hashlib
import os
import time
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, catalog, readback
from polyladder_ops.errors import OpsError
from polyladder_ops.readback import ReadBack

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

STEP = 100_000


def written(path: Path, monkeypatch: pytest.MonkeyPatch, *, blocks: int = 5) -> tuple[ReadBack, bytes]:
    """Return who followed a file that grew by blocks, each read back before the next came, and a rest; and its bytes."""
    monkeypatch.setattr(readback, "_STEP", STEP)
    whole = b"".join(bytes([65 + n]) * STEP for n in range(blocks)) + b"rest"
    with path.open("wb", buffering=0) as file:
        follower = ReadBack(path, file.fileno())
        for at in range(0, len(whole), STEP):
            file.write(whole[at : at + STEP])
            follower.grown(file.tell())
            while at < blocks * STEP and follower._at < at + STEP:
                time.sleep(0.001)
        follower.close()
    return follower, whole


def digest(data: bytes) -> tuple[int, str]:
    return len(data), hashlib.sha256(data).hexdigest()


def test_a_file_that_grew_is_known_whole_under_its_other_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, whole = written(tmp_path / "hidden", monkeypatch)
    (tmp_path / "hidden").rename(tmp_path / "final")
    assert follower._at == len(whole) - len(b"rest")  # that is left to the end
    assert follower.look(tmp_path / "final") == digest(whole)


@pytest.mark.parametrize("blocks", [0, 1])
def test_a_small_file_is_read_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, blocks: int
) -> None:
    follower, whole = written(tmp_path / "x", monkeypatch, blocks=blocks)
    assert follower.look(tmp_path / "x") == digest(whole)


@pytest.mark.parametrize("size", [7, STEP * 5, STEP * 5 + 9])
def test_a_file_of_another_size_has_that_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    follower, _ = written(tmp_path / "x", monkeypatch)
    os.truncate(tmp_path / "x", size)
    assert follower.look(tmp_path / "x")[0] == size


def test_another_file_under_the_name_is_read_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    follower, whole = written(tmp_path / "x", monkeypatch)
    other = b"!" + whole[1:]
    (tmp_path / "y").write_bytes(other)
    assert follower.look(tmp_path / "y") == digest(other)


def test_what_could_not_be_written_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", failing)
    monkeypatch.setattr(readback, "_STEP", 1)
    with (tmp_path / "x").open("wb", buffering=0) as file:
        follower = ReadBack(tmp_path / "x", file.fileno())
        file.write(b"x")
        follower.grown(1)
        while follower._failure is None:
            time.sleep(0.001)
        with pytest.raises(OSError, match="no space left"):
            follower.close()


def flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size - 1)


def exchanged(path: Path) -> None:
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(b"x" * len(data))


@pytest.mark.parametrize("harm", [flipped, cut, exchanged])
def test_a_backup_that_is_not_what_was_written_is_not_listed(
    database: Target, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    link = backups._link

    def harmed(source: Path, final: Path) -> None:
        link(source, final)
        if final.suffix == ".gz":
            harm(final)

    monkeypatch.setattr(backups, "_link", harmed)
    with pytest.raises(OpsError, match="reads back otherwise than it was written"):
        backups.take(database, tmp_path / "b", site="test", private=tmp_path / "private")
    assert not list(catalog.scan(tmp_path / "b", "test").opened())
    assert not list((tmp_path / "b").glob("*.sql.gz*"))
