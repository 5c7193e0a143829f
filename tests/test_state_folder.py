"""A POLYLADDER_STATE_DIR that can't be worked in: each command that needs it says so in three lines, and doctor before it."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import settings
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.fly import shape
from polyladder_ops.sandbox import place as places
from tests.factories import put
from tests.test_tasks import Project, project

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows says all of it in other words")


def a_file(path: Path) -> Path:
    path.touch()
    return path


def a_loop(path: Path) -> Path:
    path.symlink_to(path)
    return path


def too_long(path: Path) -> Path:
    return path.with_name("n" * 300)


ODD = {"a file": a_file, "a loop": a_loop, "too long a name": too_long}
TASKS = {
    "verify": ["verify", "--backup=latest", "--level=restore"],
    "health": ["health"],
    "status": ["fly.status"],
    "stop": ["fly.stop", "--force"],
    "start": ["fly.start"],
    "scale": ["fly.scale", "--count=1", "--force"],
    "up": ["sandbox.up"],
    "drill": ["sandbox.drill"],
}


@pytest.fixture(params=list(ODD.values()), ids=list(ODD))
def shop(request: pytest.FixtureRequest, tmp_path: Path) -> Project:
    """A project with a backup, a flyctl that is never asked, and a state folder that is none."""
    make: Callable[[Path], Path] = request.param
    (tmp_path / "backups").mkdir()
    put(tmp_path / "backups")
    return project(
        tmp_path / "project",
        DATABASE_URL="postgres://app:hush-hush@127.0.0.1:1/app",
        BACKUP_DIR=str(tmp_path / "backups"),
        FLY_API_TOKEN="hush",
        POLYLADDER_FLYCTL=sys.executable,
        POLYLADDER_STATE_DIR=str(make(tmp_path / "state")),
    )


@pytest.mark.parametrize("words", TASKS.values(), ids=TASKS)
def test_what_needs_the_state_folder_names_it_and_what_the_system_says(
    words: list[str], shop: Project
) -> None:
    done = shop.ask(*words)
    assert done.code == 1, done
    assert f"error: could not work in {shop.variables['POLYLADDER_STATE_DIR']}" in done.err
    assert "detail: The file system says: " in done.err
    assert "bug" not in done.err


def test_doctor_says_that_it_stops_a_restore(shop: Project) -> None:
    done = shop.ask("doctor", "-T", "5")
    assert done.code == 3, done
    (line,) = [line for line in done.out.splitlines() if line.startswith("POLYLADDER_STATE_DIR  ")][-1:]
    assert line.split()[1:3] == ["stops", "restore"]


@pytest.fixture
def full() -> Iterator[None]:
    """Files that take no more than a few bytes, as on a full disk: the name is there, the text is not."""
    if sys.platform == "win32":
        pytest.skip("Windows has no limit of a file's size")
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("full")
def test_a_shape_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="could not work in"):
        shape.save(tmp_path / "pl.json", shape.Shape("pl", "2026-12-01", {"app": 1}, ()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("full")
def test_a_servers_state_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OpsError, match="could not work in"):
        places.write(tmp_path, places.State("polyladder-ops-0123456789ab", "home", 1, 1))
    assert list(tmp_path.iterdir()) == []


def test_without_a_home_the_state_folder_has_to_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows knows a profile")
    import pwd

    def nobody(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.delenv("HOME")
    monkeypatch.delenv("XDG_STATE_HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", nobody)  # as a container's nameless user is met
    with pytest.raises(SettingsError) as caught:
        settings.load({}, environ={}, root=tmp_path, config=None)
    assert "POLYLADDER_STATE_DIR" in str(caught.value)


def test_a_half_made_sandbox_whose_makers_number_is_somebody_elses_can_be_removed(tmp_path: Path) -> None:
    shop = project(tmp_path / "project")
    folder = shop.state / "sandbox" / "server"
    (folder / "server" / "data").mkdir(parents=True)
    places.write(folder, places.State("polyladder-ops-0123456789ab", str(folder / "server"), 1, os.getppid()))
    for task in ("sandbox.up", "sandbox.drill"):
        done = shop.ask(task)
        assert (done.code, "invoke sandbox.down" in done.err) == (1, True), done.err
    asked = shop.ask("sandbox.down")
    assert (asked.code, folder.exists()) == (4, True), asked
    gone = shop.ask("sandbox.down", "--force")
    assert (gone.code, gone.out) == (0, "the half-made sandbox is gone\n"), gone
    assert not folder.exists()
    assert shop.ask("sandbox.down", "--force").out == "there is no sandbox\n"
