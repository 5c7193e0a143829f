"""Folders of runs: private, gone afterwards, swept by the next run when one was killed, left alone while it lives."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.workspace import Swept, folder_lock, sweep, workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATA = "polyladder_20260105_020000.sql.gz"

RUN = """
import os, sys, time
from pathlib import Path
from polyladder_ops.workspace import workspace
parent = Path(sys.argv[1])
with workspace(parent) as work:
    (work / "0.sql.gz").write_bytes(b"half a dump")
    (work / "manifest.json").write_text("{}")
    for name in sys.argv[2:]:
        source = work / ("manifest.json" if name.endswith(".json") else "0.sql.gz")
        os.link(source, parent / name)
    print(work, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], Path]]]:
    """Start a run in a process of its own that publishes these names and waits; return it and its folder."""
    started: list[subprocess.Popen[str]] = []

    def start(*names: str) -> tuple[subprocess.Popen[str], Path]:
        argv = [sys.executable, "-c", RUN, str(tmp_path), *names]
        process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
        started.append(process)
        assert process.stdout is not None
        folder = process.stdout.readline().strip()
        assert folder, "it did not come to its folder"
        return process, Path(folder)

    yield start
    for process in started:
        process.kill()
        process.communicate()


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {".lock"}


def test_a_workspace_is_private_and_gone_afterwards(tmp_path: Path) -> None:
    parent = tmp_path / "a" / "b"
    with workspace(parent) as work:
        assert work.parent == parent
        (work / "deep").mkdir()
        (work / "deep" / "file").touch()
        if sys.platform != "win32":
            assert (work.stat().st_mode & 0o777, parent.stat().st_mode & 0o777) == (0o700, 0o700)
    assert left(parent) == set()


def test_two_workspaces_of_one_process_do_not_disturb_each_other(tmp_path: Path) -> None:
    with workspace(tmp_path) as one:
        with workspace(tmp_path) as other:
            assert one != other
            assert sweep(tmp_path) == Swept()
            assert one.is_dir()
        assert one.is_dir()
        assert not other.exists()


def test_what_a_killed_run_left_is_swept_by_the_next_one(
    tmp_path: Path, run: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    process, dead = run()
    process.kill()
    process.wait()
    assert (dead / "0.sql.gz").exists()
    with workspace(tmp_path) as work:
        assert not dead.exists()
        assert left(tmp_path) == {work.name}


def test_a_run_that_lives_is_not_swept(
    tmp_path: Path, run: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    process, alive = run(DATA)
    with workspace(tmp_path):
        assert sweep(tmp_path) == Swept()
    assert (alive / "0.sql.gz").exists()
    assert (tmp_path / DATA).exists()
    process.kill()
    process.wait()
    assert sweep(tmp_path) == Swept((alive,))
    assert left(tmp_path) == set()


def test_data_that_a_killed_run_published_without_its_manifest_is_taken_back(
    tmp_path: Path, run: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    process, _ = run(DATA, "polyladder_20260105_030000.sql.gz.age")
    (tmp_path / "polyladder_20260104_020000.sql.gz").write_bytes(b"half a dump")  # somebody's, and no twin
    process.kill()
    process.wait()
    sweep(tmp_path)
    assert left(tmp_path) == {"polyladder_20260104_020000.sql.gz"}


def test_a_backup_that_was_published_whole_stays_though_its_run_was_killed(
    tmp_path: Path, run: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    process, _ = run(DATA, f"{DATA}.json")
    process.kill()
    process.wait()
    sweep(tmp_path)
    assert left(tmp_path) == {DATA, f"{DATA}.json"}


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_data_published_without_its_manifest_is_taken_back_after_an_error(
    error: type[BaseException], tmp_path: Path
) -> None:
    with pytest.raises(error), workspace(tmp_path) as work:
        fail(work, error)
    assert left(tmp_path) == {"polyladder_20260105_030000.sql.gz", "polyladder_20260105_030000.sql.gz.json"}


def fail(work: Path, error: type[BaseException]) -> None:
    publish(work, DATA)
    publish(work, "polyladder_20260105_030000.sql.gz", manifest=True)
    raise error


def publish(work: Path, name: str, *, manifest: bool = False) -> None:
    (work / name).write_bytes(b"dump")
    os.link(work / name, work.parent / name)
    if manifest:
        (work.parent / f"{name}.json").touch()


def test_a_folder_whose_run_died_before_it_had_a_lock_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".run-0123456789ab").mkdir()
    (tmp_path / ".run-file").touch()
    (tmp_path / "other").mkdir()
    assert sweep(tmp_path) == Swept()  # it holds nothing, so nobody need hear of it
    assert left(tmp_path) == {".run-file", "other"}
    assert sweep(tmp_path / "gone") == Swept()


def test_many_processes_at_once_each_have_their_own_folder(
    tmp_path: Path, run: Callable[..., tuple[subprocess.Popen[str], Path]]
) -> None:
    found: list[Path] = []
    threads = [threading.Thread(target=lambda: found.append(run()[1])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(found)) == 4
    assert all(folder.is_dir() for folder in found)


def test_the_folders_lock_keeps_others_out_and_says_so(tmp_path: Path) -> None:
    with FileLock(tmp_path / ".lock"):
        began = time.monotonic()
        with pytest.raises(Refused, match=r"keeps .* locked") as caught, folder_lock(tmp_path, timeout_s=0.2):
            pass
        assert time.monotonic() - began < 5
        assert caught.value.exit_code == 4
        assert caught.value.hint
    with folder_lock(tmp_path, timeout_s=0.2):
        pass


HOLD = """
import sys, time
from pathlib import Path
from polyladder_ops.workspace import folder_lock
with folder_lock(Path(sys.argv[1]), doing="looking at the sky"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder's lock."""
    argv = [sys.executable, "-c", HOLD, str(tmp_path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def refused(folder: Path) -> str:
    """Return why the folder's lock can't be had."""
    with pytest.raises(Refused) as caught, folder_lock(folder, timeout_s=0.1):
        pass
    return caught.value.detail


def test_whoever_waits_in_vain_is_told_who_holds_the_lock(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    year = f"{datetime.now(UTC):%Y}"
    assert refused(tmp_path).startswith(f"It is {portable.by_whom()}, process {holder.pid}, since {year}-")
    assert refused(tmp_path).endswith("Z: looking at the sky. It did not let go within 0.1 s.")


def test_the_lock_of_a_killed_run_is_free_and_its_name_is_not_told_again(
    tmp_path: Path, holder: subprocess.Popen[str]
) -> None:
    holder.kill()
    holder.wait()
    note = tmp_path / ".lock-holder"
    assert str(holder.pid) in note.read_text()
    with FileLock(tmp_path / ".lock"):  # somebody who has not signed
        assert refused(tmp_path) == "It did not let go within 0.1 s."
    began = time.monotonic()
    with folder_lock(tmp_path, doing="something else"):
        assert time.monotonic() - began < 5
        assert f"process {os.getpid()}, " in refused(tmp_path)
        assert str(holder.pid) not in note.read_text()
    assert not note.exists()


def test_a_run_on_another_machine_is_believed(tmp_path: Path) -> None:
    told = {"by": "eve@elsewhere", "pid": 2**22 + 1, "since": "2026-01-05 02:00:00Z", "doing": "this"}
    (tmp_path / ".lock-holder").write_text(json.dumps(told))
    with FileLock(tmp_path / ".lock"):
        assert "It is eve@elsewhere, process 4194305, since 2026-01-05 02:00:00Z: this." in refused(tmp_path)


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"by": "x"}', "\\xff", '{"by": "x", "pid": 1e400, "since": "", "doing": ""}']
)
def test_a_damaged_note_on_the_holder_is_passed_over(content: str, tmp_path: Path) -> None:
    (tmp_path / ".lock-holder").write_text(content)
    with FileLock(tmp_path / ".lock"):
        assert refused(tmp_path) == "It did not let go within 0.1 s."


@pytest.mark.skipif(sys.platform == "win32", reason="Windows keeps symbolic links to administrators")
def test_a_note_that_leads_elsewhere_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "somebodys").write_text("something")
    (tmp_path / ".lock-holder").symlink_to(tmp_path / "somebodys")
    with folder_lock(tmp_path):
        assert f"process {os.getpid()}, " in refused(tmp_path)
    assert (tmp_path / "somebodys").read_text() == "something"


def test_the_lock_holds_where_no_note_can_be_left(tmp_path: Path) -> None:
    (tmp_path / ".lock-holder").mkdir()
    with folder_lock(tmp_path):
        assert refused(tmp_path) == "It did not let go within 0.1 s."


def test_an_error_inside_the_folders_lock_passes_through_and_lets_go(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="mine"), folder_lock(tmp_path):
        raise FileNotFoundError("mine")
    with folder_lock(tmp_path, timeout_s=0.2):
        pass


def test_a_lock_that_can_not_be_taken_is_said_so(tmp_path: Path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OpsError, match="could not work in") as caught, folder_lock(tmp_path):
        pass
    assert caught.value.hint


def test_a_place_where_no_folder_can_be_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for parent in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OpsError, match="could not work in") as caught, workspace(parent):
            pass
        assert caught.value.hint


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no modes")
def test_a_folder_that_we_may_not_write_in_is_said_so(tmp_path: Path) -> None:
    if portable.is_root():
        pytest.skip("root may write everywhere")
    (tmp_path / "closed").mkdir(mode=0o500)
    with pytest.raises(OpsError, match=r"could not work in .*closed"), workspace(tmp_path / "closed"):
        pass
