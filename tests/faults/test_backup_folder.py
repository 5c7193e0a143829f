"""Folders that are full, closed or no folders, and many runs in one of them."""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import subprocess
import sys
import time
import traceback
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, portable, publishing
from polyladder_ops.errors import OpsError
from tests.faults.places import ROWS, Place, left_in, rows_of, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Mount = Callable[[Path, str], None]


@pytest.fixture
def mounted(need: Callable[[object, str], None]) -> Iterator[Mount]:
    """A call that mounts a small file system of its own on a folder, with these options; gone after the test."""
    mounts: list[Path] = []

    def mount(folder: Path, options: str) -> None:
        need(sys.platform == "linux" and portable.is_root(), "only root mounts a file system, on Linux")
        folder.mkdir(parents=True, exist_ok=True)
        argv = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
        done = subprocess.run(argv, capture_output=True, check=False)
        need(done.returncode == 0, f"can't mount a tmpfs here: {done.stderr.decode().strip()}")
        mounts.append(folder)

    yield mount
    for folder in mounts:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def flipped(file: Path) -> None:
    with file.open("r+b") as data:
        data.seek(1000)
        (byte,) = data.read(1)
        data.seek(1000)
        data.write(bytes([byte ^ 1]))


def cut(file: Path) -> None:
    os.truncate(file, 1000)  # what is written still goes on behind a hole


def exchanged(file: Path) -> None:
    other = file.read_bytes()
    file.unlink()
    file.write_bytes(other)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows lets nobody take away a file that is open")
@pytest.mark.parametrize("harm", [flipped, cut, exchanged])
@pytest.mark.parametrize("encrypted", [False, True])
def test_a_backup_that_is_not_what_was_written_is_not_listed(
    encrypted: bool, harm: Callable[[Path], None], place: Place
) -> None:
    """A disk that keeps something else is no error to whom it is written by: only reading it back tells."""
    options: dict[str, Any] = {"recipients": place.encrypting()} if encrypted else {}

    def dumped(_at: object) -> None:
        (file,) = place.folder.glob(".run-*/*.gz")
        assert file.stat().st_size > 2000
        harm(file)

    error = place.fails(OpsError, dumped=dumped, **options)
    assert "reads back otherwise than it was written" in error.message
    place.succeeds(**options)


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_disk_that_gets_full_during_the_dump_keeps_nothing(
    encrypted: bool, place: Place, mounted: Mount
) -> None:
    options: dict[str, Any] = {"recipients": place.encrypting()} if encrypted else {}
    mounted(place.folder, "size=600k")
    error = place.fails(OpsError, **options)
    assert error.message == "could not write the backup"
    assert "No space left" in error.detail
    assert "BACKUP_DIR" in error.hint
    subprocess.run(["mount", "-o", "remount,size=10m", str(place.folder)], check=True)
    place.succeeds(**options)


def test_a_disk_that_gets_full_before_the_manifest_keeps_no_data_either(
    own_place: Place, mounted: Mount
) -> None:
    say(
        own_place.target,
        "TRUNCATE note; DO $$ BEGIN FOR n IN 1..400 LOOP EXECUTE format('CREATE TABLE t%s ()', n); END LOOP; END $$",
    )
    mounted(own_place.folder, "size=10m")
    filler = own_place.folder / "filler"

    def fill(_event: object) -> None:
        """Leave less than the manifest takes, and more than the data."""
        time.sleep(0.2)  # until gzip is through with it
        with suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))
        os.truncate(filler, filler.stat().st_size - 40_000)

    with pytest.raises(OpsError) as caught:
        own_place.take(dumped=fill)
    assert "No space left" in caught.value.detail
    assert caught.value.__cause__ is not None
    calls = traceback.extract_tb(caught.value.__cause__.__traceback__)
    assert "write_private" in [call.name for call in calls]
    assert left_in(own_place.folder) == ["filler"]
    filler.unlink()
    own_place.holds()
    made = own_place.succeeds()
    assert made.path.with_name(f"{made.path.name}.json").stat().st_size > 40_000 > made.manifest.size_bytes


def test_a_folder_that_may_only_be_read_is_named(place: Place, mounted: Mount) -> None:
    if portable.is_root():
        mounted(place.folder, "ro")
    elif sys.platform == "win32":
        pytest.skip("Windows has no modes")
    else:
        place.folder.mkdir(mode=0o500)
    error = place.fails(OpsError)
    assert str(place.folder) in str(error)
    assert "rights" in error.hint


@pytest.mark.parametrize("which", ["folder", "private"])
def test_a_file_in_a_folder_s_place_is_named(which: str, place: Place) -> None:
    there = getattr(place, which)
    there.parent.mkdir(exist_ok=True)
    there.write_text("a file")
    kept = place.folder, place.private
    place.folder, place.private = (
        (there.parent / "nothing", place.private)
        if which == "folder"
        else (place.folder, there.parent / "nothing")
    )
    with pytest.raises(OpsError) as caught:
        backups.take(place.target, kept[0], site="production", private=kept[1])
    assert str(there) in str(caught.value)
    assert caught.value.hint
    assert there.read_text() == "a file"
    there.unlink()
    place.folder, place.private = kept
    place.succeeds()


def test_a_file_for_a_folder_is_said_by_the_task(place: Place) -> None:
    place.folder.parent.mkdir(exist_ok=True)
    place.folder.write_text("a file")
    ended = place.invoke("backup")
    assert ended.code == 1
    assert "Traceback" not in ended.err
    assert str(place.folder) in ended.err.splitlines()[0]


@pytest.mark.parametrize("good_calls", [0, 1])
def test_a_disk_that_fails_after_a_name_was_given_takes_the_names_back(
    good_calls: int, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = itertools.count()

    def fail(_path: Path) -> None:
        if next(calls) >= good_calls:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patched:  # a disk that fails at this call can't be had
        patched.setattr(publishing, "sync_directory", fail)
        error = place.fails(OpsError)
    assert "Input/output error" in error.detail
    place.succeeds()


def test_what_a_run_left_that_died_between_data_and_manifest_is_swept(place: Place) -> None:
    made = place.succeeds()
    dead = place.folder / ".run-000000000000"
    dead.mkdir()
    (dead / "lock").touch()
    os.link(made.path, dead / "0.sql.gz")
    made.path.rename(made.path.with_name("polyladder_20200101_000000.sql.gz"))
    made.path.with_name(f"{made.path.name}.json").unlink()
    for record in place.folder.glob("*.verify-*.json"):
        record.unlink()
    place.succeeds()
    assert not dead.exists()


def second_just_begun() -> None:
    time.sleep(1 - time.time() % 1)


def test_backups_at_once_all_survive_whatever_their_second(place: Place) -> None:
    ways = [{}, {"recipients": place.encrypting()}, {}, {"recipients": place.encrypting()}]
    second_just_begun()
    with ThreadPoolExecutor(len(ways)) as pool:
        made = list(pool.map(lambda way: place.take(**way), ways))
    place.holds(*(backup.id for backup in made))
    assert len({backup.id for backup in made}) == len(ways)
    assert {backup.manifest.encrypted for backup in made} == {True, False}
    assert all(rows_of(backup) == {"public.note": ROWS} for backup in made)


def test_twins_of_one_second_keep_their_order(place: Place) -> None:
    for _ in range(5):
        second_just_begun()
        first, second = place.take(), place.take(recipients=place.encrypting())
        if first.taken_at.second == second.taken_at.second:
            break
    assert second.id == f"{first.id}_2"
    place.holds(*(backup.id for backup in place.catalog.backups))
    assert place.catalog.latest is not None
    assert place.catalog.latest.id == second.id


def test_backups_of_two_processes_at_once_both_survive(place: Place) -> None:
    running = [place.start("backup"), place.start("backup")]
    assert [place.end_of(process).code for process in running] == [0, 0]
    assert len(place.catalog.backups) == 2
    place.holds(*(backup.id for backup in place.catalog.backups))


def test_the_files_are_for_us_only(place: Place) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows has no modes")
    made = place.succeeds()
    assert place.folder.stat().st_mode & 0o777 == 0o700
    files = [made.path, made.path.with_name(f"{made.path.name}.json")]
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    assert shutil.which("gunzip") is None or subprocess.run(["gunzip", "-t", made.path], check=True)
