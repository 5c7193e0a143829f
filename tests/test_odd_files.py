"""A folder with one foreign file: every task goes on, says what is wrong with it, and takes little memory for it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import catalog, checks, encryption, plainfile, portable
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.storage import fingerprint, read
from tests.factories import NIGHT, manifest, put, record, unchecked
from tests.test_tasks import ROOT, Project, project

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pipes by name, and links for few")
ODD = manifest(taken_at=NIGHT + timedelta(days=1))
NAME = f"{ODD.file}.json"
HUGE = 10**400
MOST_BYTES = 150 << 20


def changed(**fields: Any) -> str:
    """Return a manifest's text with these fields; a dotted name leads into the first of a list."""
    whole: dict[str, Any] = json.loads(unchecked(ODD.to_json()))
    for name, value in fields.items():
        *way, last = name.split("__")
        inner = whole
        for step in way:
            inner = inner[step][0] if isinstance(inner[step], list) else inner[step]
        inner[last] = value
    return json.dumps(whole, indent=1)


def long_list(item: str, size_bytes: int) -> str:
    """Return a manifest whose tables are very many of one thing."""
    before, after = changed(tables="HERE").split('"HERE"')
    return before + "[" + ",".join([item] * (size_bytes // (len(item) + 1))) + "]" + after


TEXTS: dict[str, Callable[[], str]] = {
    "year 1": lambda: changed(taken_at="0001-01-01T00:00:00Z"),
    "year 1, fourteen hours ahead": lambda: changed(taken_at="0001-01-01T00:00:00+14:00"),
    "year 9999": lambda: changed(taken_at="9999-12-31T23:59:59Z"),
    "year 9999, twelve hours behind": lambda: changed(taken_at="9999-12-31T23:59:59-12:00"),
    "an end in year 9999": lambda: changed(finished_at="9999-12-31T23:59:59.999999-12:00"),
    "a size of 400 digits": lambda: changed(size_bytes=HUGE),
    "a plain size of 400 digits": lambda: changed(plain_bytes=HUGE),
    "rows of 400 digits": lambda: changed(tables__rows=HUGE),
    "a table's size of 400 digits": lambda: changed(tables__size_bytes=-HUGE),
    "a position of 400 digits": lambda: changed(sequences__value=HUGE),
    "a large object of 400 digits": lambda: changed(large_objects__size_bytes=HUGE),
    "a number of 5,000 digits": lambda: changed(size_bytes="HERE").replace('"HERE"', "9" * 5000),
    "20 MB of empty lists": lambda: long_list("[]", 20_000_000),
    "3 MB of empty lists": lambda: long_list("[]", 3_000_000),
    "3 MB of empty objects": lambda: long_list("{}", 3_000_000),
    "100 MB of empty lists": lambda: long_list("[]", 100_000_000),
    "100 MB of nested lists": lambda: changed(tables="HERE").replace(
        '"HERE"', "[" * 50_000_000 + "]" * 50_000_000
    ),
    "another encoding": lambda: changed().encode("utf-16").decode("latin-1"),
}


def sparse(path: Path) -> None:
    path.write_text(changed(), encoding="utf-8")
    os.truncate(path, 400_000_000)


def looped(path: Path) -> None:
    path.symlink_to(path.name)


def piped(path: Path) -> None:
    if sys.platform != "win32":
        os.mkfifo(path)


def leading_elsewhere(path: Path) -> None:
    (path.parent / "elsewhere").write_text(changed(), encoding="utf-8")
    path.symlink_to("elsewhere")


THINGS: dict[str, Callable[[Path], None]] = {
    "400 MB": sparse,
    "a link to itself": looped,
    "a link": leading_elsewhere,
    "a pipe": piped,
}

TASKS = (
    ("backup.list", 3),
    ("backup.list --json", 3),
    ("backup.list --changes", 3),
    ("restore --list", 0),
    ("backup.show --backup=latest", 0),
    ("backup.prune", 0),
    ("backup.prune --apply", 0),
    ("backup.pin --backup=latest", 0),
)
PEAK = (
    "import sys\nfrom invoke.program import Program\nfrom polyladder_ops import usage\n"
    "from polyladder_ops.tasks import ns\n"
    "Program(namespace=ns).run(['invoke', 'backup.list'], exit=False)\nprint('peak', usage.peak_bytes())"
)


@pytest.fixture
def place(tmp_path: Path) -> Project:
    """A project with one good backup, whose bytes nobody reads."""
    folder = tmp_path / "backups"
    folder.mkdir()
    put(folder)
    return project(tmp_path / "project", BACKUP_DIR=str(folder))


def goes_on(place: Project, folder: Path) -> None:
    """Every task does its work, the list names the odd file and exits 3, and little memory is taken."""
    for words, code in TASKS:
        done = place.ask(*words.split())
        assert "Traceback" not in done.err, (words, done.err[-2000:])
        assert done.code == code, (words, done)
    listed = place.ask("backup.list")
    assert manifest().id in listed.out
    assert ODD.id not in listed.out
    assert f"the manifest {NAME} is unusable" in listed.err
    if sys.platform == "linux":
        assert peak(folder) < MOST_BYTES


def peak(folder: Path) -> int:
    """Return the memory that a list of the folder takes, as a process of its own."""
    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    environment = {**portable.clean_environment(), "PYTHONPATH": paths, "BACKUP_DIR": str(folder)}
    done = subprocess.run(
        [sys.executable, "-c", PEAK], env=environment, capture_output=True, text=True, check=True
    )
    return int(done.stdout.rsplit("peak ", 1)[1])


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_an_odd_manifest_is_unusable_and_stops_no_task(
    text: Callable[[], str], place: Project, tmp_path: Path
) -> None:
    (tmp_path / "backups" / NAME).write_text(text(), encoding="utf-8")
    (tmp_path / "backups" / ODD.file).write_bytes(b"data")
    goes_on(place, tmp_path / "backups")


@posix
@pytest.mark.parametrize("lay", THINGS.values(), ids=THINGS)
def test_what_is_no_ordinary_manifest_is_unusable_and_stops_no_task(
    lay: Callable[[Path], None], place: Project, tmp_path: Path
) -> None:
    lay(tmp_path / "backups" / NAME)
    goes_on(place, tmp_path / "backups")


@posix
@pytest.mark.parametrize("what", ["a pipe", "a device", "a link", "a link to itself"])
def test_data_that_is_no_file_is_not_read_and_makes_no_complete_backup(
    what: str, place: Project, tmp_path: Path
) -> None:
    folder = tmp_path / "backups"
    made = put(folder, taken_at=NIGHT + timedelta(days=1))
    data = folder / made.file
    data.rename(tmp_path / "real")
    if what == "a pipe":
        piped(data)
    else:
        targets = {"a device": "/dev/zero", "a link": "../real", "a link to itself": data.name}
        data.symlink_to(targets[what])
    kind, seen = "a pipe" if what == "a pipe" else "a link", list[bytes]()
    backup = catalog.open_backup(data)
    assert (backup.complete, backup.flaw) == (False, f"its data file is {kind}, not a file of its own")
    for look in (
        lambda: fingerprint(data),
        lambda: read(data, seen.append),
        lambda: read(data, seen.append, encrypted=True),
    ):
        with pytest.raises(OpsError) as caught:
            look()
        assert f"it is {kind}" in str(caught.value).replace("It is", "it is")
    assert seen == []
    assert place.ask("verify", f"--backup={made.id}").code == 3
    assert re.search(rf"{made.id}.* no: its data file is {kind}", place.ask("backup.list").out)
    assert manifest().id in place.ask("backup.show", "--backup=latest").out


def dated(path: Path) -> None:
    path.write_text(re.sub(r'"at": ?"[^"]*"', '"at": "9999-12-31T23:59:59.999999-12:00"', path.read_text()))


def instead(lay: Callable[[Path], None]) -> Callable[[Path], None]:
    def laid(path: Path) -> None:
        path.unlink()
        lay(path)

    return laid


RECORDS: dict[str, Callable[[Path], None]] = {
    "of the year 9999": dated,
    "400 MB long": lambda path: os.truncate(path, 400_000_000),
    "a link to itself": instead(looped),
    "a pipe": instead(piped),
}


@posix
@pytest.mark.parametrize("spoil", RECORDS.values(), ids=RECORDS)
def test_an_odd_record_counts_as_the_careful_case_and_stops_no_task(
    spoil: Callable[[Path], None], place: Project, tmp_path: Path
) -> None:
    path = record(
        tmp_path / "backups", manifest(sha256=fingerprint(tmp_path / "backups" / manifest().file)[1])
    )
    spoil(path)
    for words, code in TASKS:
        done = place.ask(*words.split())
        assert (done.code, "Traceback" in done.err) == (0 if code == 3 else code, False), (words, done)
    assert "FAILED" in place.ask("backup.list").out
    if sys.platform == "linux":
        assert peak(tmp_path / "backups") < MOST_BYTES


@posix
def test_settings_that_are_a_pipe_are_refused_and_not_waited_for(place: Project) -> None:
    piped(place.root / ".env")
    done = place.ask("backup.list")
    assert done.code == 2
    assert ".env can't be read: it is a pipe, not a file." in done.err
    with pytest.raises(SettingsError, match="can't be read"):
        checks.read(place.root / ".env")
    with pytest.raises(SettingsError, match="can't be read"):
        encryption.identities(place.root / ".env")


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"12345")
    assert plainfile.read(tmp_path / "file", 5) == b"12345"
    with pytest.raises(plainfile.TooLarge, match="at most 4 are read"):
        plainfile.read(tmp_path / "file", 4)


def test_settings_and_checks_that_nobody_wrote_by_hand_are_refused_and_not_read(place: Project) -> None:
    (place.root / ".env").write_text("")
    os.truncate(place.root / ".env", 1 << 40)
    done = place.ask("backup.list")
    assert (done.code, ".env can't be read: it has 1,099,511,627,776 bytes" in done.err) == (2, True), done
    with pytest.raises(SettingsError, match="can't be read"):
        checks.read(place.root / ".env")


def test_a_manifest_that_nobody_could_read_back_is_not_written() -> None:
    many = manifest(warnings=("x,",) * 1_000_000)
    with pytest.raises(OpsError, match=r"can't be written"):
        many.to_json()
