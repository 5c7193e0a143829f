"""Every command removes what killed runs left on this machine, says so, and names what it may not touch."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock

from polyladder_ops import folders, portable, trials
from polyladder_ops.sandbox import place as places
from polyladder_ops.workspace import Swept, sweep
from tests.test_tasks import Project, project

if TYPE_CHECKING:
    from collections.abc import Callable

RUN = ".run-0123456789ab"
SERVER = "0123456789ab"
posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no owners and no such links")


@pytest.fixture
def shop(tmp_path: Path) -> Project:
    """A project whose database nobody answers for: no command comes to its end, and each sweeps first."""
    return project(
        tmp_path / "project",
        DATABASE_URL="postgres://app:hush-hush@127.0.0.1:1/app",
        BACKUP_DIR=str(tmp_path / "backups"),
    )


def run_in(parent: Path, name: str = RUN) -> Path:
    """Return the folder of a dead run, with a file that nobody should find there."""
    made = parent / name
    made.mkdir(parents=True)
    (made / "lock").touch()
    (made / "0.sql.gz").write_bytes(b"half of production")
    return made


def server_in(parent: Path) -> Path:
    """Return the folder of a scratch server whose maker died before it ran."""
    made = parent / SERVER
    (made / "server" / "data").mkdir(parents=True)
    (made / "server" / "data" / "rows").write_bytes(b"of production")
    (made / "password").write_text("hush", encoding="ascii")
    places.write(made, places.State("polyladder-ops-0123456789ab", str(made / "server"), 1, 1))
    Path(f"{made}.lock").touch()
    return made


def trial_in(parent: Path) -> Path:
    """Return the folder in which a killed doctor tried what a disk takes."""
    made = parent / ".doctor-ab_12345"
    made.mkdir(parents=True)
    for name in ("lock", "first", "second"):
        (made / name).touch()
    return made


def leave(shop: Project) -> list[Path]:
    return [
        run_in(shop.state / "runs"),
        run_in(Path(shop.variables["BACKUP_DIR"])),
        server_in(shop.state / "scratch"),
        trial_in(shop.state),
        trial_in(Path(shop.variables["BACKUP_DIR"])),
        trial_in(Path(shop.variables["BACKUP_DIR"]).parent),
    ]


TASKS = {
    "backup": ["backup"],
    "list": ["backup.list"],
    "show": ["backup.show", "--backup=latest"],
    "prune": ["backup.prune"],
    "verify": ["verify", "--backup=latest"],
    "restore": ["restore", "--list"],
    "status": ["restore.status", "-T", "1"],
    "doctor": ["doctor"],
    "check": ["restore.check"],
}


@pytest.mark.parametrize("words", TASKS.values(), ids=TASKS)
def test_every_command_removes_what_killed_runs_left_and_says_so(words: list[str], shop: Project) -> None:
    dead = leave(shop)
    done = shop.ask(*words)
    assert [path for path in dead if path.exists()] == []
    assert [path for path in dead if f"note: removed what a killed run left: {path}" not in done.err] == []
    again = shop.ask(*words)
    assert "killed" not in again.err


@pytest.mark.parametrize("words", [["--list"], ["--help", "verify"]])
def test_listing_the_tasks_removes_nothing(words: list[str], shop: Project) -> None:
    dead = leave(shop)
    assert shop.run(*words).code == 0
    assert all(path.exists() for path in dead)


def test_a_dry_run_names_what_the_next_command_removes(shop: Project) -> None:
    dead = leave(shop)
    done = shop.ask("-R", "backup")
    assert [path for path in dead if not path.exists()] == []
    assert [path for path in dead if str(path) not in done.err] == []
    assert done.err.count("the next command removes it") == len(dead)


def linked(path: Path, elsewhere: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(elsewhere, target_is_directory=True)


def others(path: Path, _elsewhere: Path) -> None:
    run_in(path.parent, path.name)
    shutil.chown(path, 65534, 65534)


def unlocked(path: Path, _elsewhere: Path) -> None:
    (run_in(path.parent, path.name) / "lock").unlink()


def a_file(path: Path, _elsewhere: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"somebody's")


@posix
@pytest.mark.parametrize(
    ("make", "why"),
    [
        (linked, "is a link"),
        (others, "belongs to another account"),
        (unlocked, "has no lock as a run's has"),
        (a_file, "is no folder"),
    ],
)
def test_what_belongs_to_others_or_leads_elsewhere_is_named_and_not_touched(
    make: Callable[[Path, Path], None], why: str, shop: Project, tmp_path: Path
) -> None:
    if make is others and not portable.is_root():
        pytest.skip("only root can give a folder to another account")
    elsewhere = run_in(tmp_path / "elsewhere")
    path = Path(shop.variables["BACKUP_DIR"]) / RUN
    make(path, elsewhere)
    done = shop.ask("backup.list")
    assert f"note: perhaps a killed run's, not touched: {path} {why}" in done.err
    assert os.path.lexists(path)
    assert (elsewhere / "0.sql.gz").exists()
    if path.is_dir():
        assert (path / "0.sql.gz").exists()


@posix
def test_a_scratch_server_that_leads_elsewhere_is_named_and_not_touched(
    shop: Project, tmp_path: Path
) -> None:
    elsewhere = server_in(tmp_path / "elsewhere")
    path = shop.state / "scratch" / SERVER
    linked(path, elsewhere)
    done = shop.ask("backup.list")
    assert f"note: perhaps a killed proof's, not touched: {path} is a link" in done.err
    assert (elsewhere / "server" / "data" / "rows").exists()


@pytest.mark.parametrize("home", ["elsewhere", "polyladder-ops"])
def test_what_a_file_of_ours_says_is_not_deleted_unseen(home: str, shop: Project, tmp_path: Path) -> None:
    made = server_in(shop.state / "scratch")
    somebodys = tmp_path / home
    somebodys.mkdir()
    (somebodys / "kept").touch()
    places.write(made, places.State(home, str(somebodys), 1, 1, sockets=str(somebodys)))
    shop.ask("backup.list")
    assert (somebodys / "kept").exists()


def test_an_empty_lock_of_a_proof_that_was_killed_goes_without_a_word(shop: Project) -> None:
    """An older version left one after a Ctrl-C; what is locked, or only looks like one, stays."""
    folder = shop.state / "scratch"
    folder.mkdir(parents=True)
    dead, held, elsewhere = (folder / f"{name}.lock" for name in (SERVER, "a" * 12, "mine"))
    for path in (dead, held, elsewhere):
        path.touch()
    assert "killed" not in shop.ask("-R", "backup").err
    assert dead.exists()
    with FileLock(held):
        assert "killed" not in shop.ask("backup.list").err
    assert sorted(folder.iterdir()) == sorted([held, elsewhere])


def test_a_run_that_lives_is_neither_touched_nor_named(shop: Project) -> None:
    dead = leave(shop)
    with contextlib.ExitStack() as stack:
        for path in dead:
            stack.enter_context(FileLock(f"{path}.lock" if path == dead[2] else path / "lock"))
        done = shop.ask("backup.list")
    assert [path for path in dead if not path.exists()] == []
    assert "killed" not in done.err


def test_whoever_names_things_in_the_folder_keeps_nobody_waiting(shop: Project) -> None:
    dead = leave(shop)
    with FileLock(dead[0].parent / ".lock"):
        done = shop.ask("backup.list")
    assert dead[0].exists()
    assert str(dead[0]) not in done.err
    assert not dead[1].exists()


def test_a_run_that_just_ended_was_not_killed(tmp_path: Path) -> None:
    made = run_in(tmp_path)
    (made / "0.sql.gz").unlink()
    assert sweep(tmp_path) == Swept()
    assert not made.exists()


def test_a_name_that_only_looks_like_a_runs_is_nobodys_business(shop: Project, tmp_path: Path) -> None:
    names = (".run-", ".run-mine", ".run-0123456789abc", ".run-0123456789AB")
    made = [run_in(tmp_path / "backups", name) for name in names]
    assert "killed" not in shop.ask("backup.list").err
    assert [path for path in made if not path.exists()] == []


@posix
def test_what_can_not_be_removed_is_said(shop: Project) -> None:
    if portable.is_root():
        pytest.skip("root may write everywhere")
    dead = leave(shop)[1]
    (dead / "kept").mkdir()
    (dead / "kept" / "file").touch()
    (dead / "kept").chmod(0o500)
    done = shop.ask("backup.list")
    (dead / "kept").chmod(0o700)
    assert f"note: what a killed run left can't be removed: {dead}" in done.err


def test_the_folder_of_a_doctor_that_is_at_work_stays(shop: Project, tmp_path: Path) -> None:
    (tmp_path / "backups").mkdir()
    with trials.trial(tmp_path / "backups") as made:
        done = shop.ask("backup.list")
        assert made.exists()
    assert "killed" not in done.err
    assert not made.exists()


@posix
def test_what_is_named_like_a_doctors_folder_and_is_none_is_named_and_not_touched(
    shop: Project, tmp_path: Path
) -> None:
    made = trial_in(tmp_path / "backups")
    (made / "letters").write_bytes(b"somebody's")
    done = shop.ask("backup.list")
    assert f"perhaps a killed doctor's, not touched: {made} holds what is no trial's" in done.err
    assert (made / "letters").exists()


def test_a_doctor_whose_folder_was_swept_tries_once_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = os.link
    swept: list[Path] = []

    def sweep_once(first: Path, second: Path) -> None:
        if not swept:
            swept.append(first)
            shutil.rmtree(first.parent)
        link(first, second)

    monkeypatch.setattr(
        os, "link", sweep_once
    )  # the instant between making a folder and its lock can't be met
    assert folders.try_folder("BACKUP_DIR", tmp_path, "backup").ok
    assert swept
    assert list(tmp_path.iterdir()) == []
