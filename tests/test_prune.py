"""Pruning and pins on real folders, by real processes: what goes, what is never touched, kills, races, exit codes."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, catalog, portable, pruning, verification
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.retention import Rule
from polyladder_ops.workspace import folder_lock
from tests.factories import put, record

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.catalog import Entry
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target

ROOT = Path(__file__).parents[1]
SITE = "production"
RULE = Rule(days=30, keep_verified=3)
NOW = datetime.now(UTC).replace(microsecond=0)


def lay(folder: Path, days: int, *, verified: bool = False, **changes: Any) -> Manifest:
    """Lay a backup of this age into the folder, with bytes of its own."""
    made = put(folder, f"data of {days}".encode(), taken_at=NOW - timedelta(days=days), **changes)
    if verified:
        record(folder, made)
    return made


def id_of(days: int) -> str:
    return f"polyladder_{NOW - timedelta(days=days):%Y%m%d_%H%M%S}"


def listed(folder: Path) -> set[str]:
    return {backup.id for backup in catalog.scan(folder, SITE).backups}


def names(folder: Path) -> dict[str, bytes | None]:
    """Return what is in a folder, but for the lock: files with their bytes, folders without."""
    found = (path for path in folder.iterdir() if not path.name.startswith(".lock"))
    return {path.name: None if path.is_dir() else path.read_bytes() for path in found}


def prune(folder: Path, rule: Rule = RULE, **options: Any) -> pruning.Outcome:
    return pruning.prune(folder, SITE, rule, now=NOW, **options)


@dataclass(frozen=True)
class Full:
    """A folder with everything in it that may lie in one: old backups that go, and all else, which stays."""

    path: Path
    old: tuple[str, ...]
    rest: dict[str, bytes | None]
    cut: tuple[str, ...] = ()


def fill(folder: Path, *, old: int = 3) -> Full:
    folder.mkdir(exist_ok=True)
    for day in (1, 2, 50):
        lay(folder, day, verified=True)
    lay(folder, 20)
    record(folder, lay(folder, 70), kind="pin", verdict="")
    lay(folder, 80, site="staging", id="polyladder_of_staging")
    (folder / "polyladder_20200101_000000.sql.gz").write_bytes(b"litter")
    (folder / "polyladder_20200102_000000.sql.gz.json").write_text("no manifest")
    (folder / "polyladder_20200103_000000.sql.gz.pruned").write_text("no tombstone of ours")
    (folder / "notes.pruned").write_text("somebody's")
    (folder / ".run-somebodys").mkdir(exist_ok=True)  # a dead run's would be swept by any command
    gone = [lay(folder, 100 + number) for number in range(old)]
    record(folder, gone[0], sha256="0" * 64)  # speaks of other bytes of the same name
    (folder / f"{gone[0].file}.verify-x-y.json").write_text("damaged")
    rest = names(folder)
    for made in gone:
        rest = {name: data for name, data in rest.items() if name not in (made.file, f"{made.file}.json")}
        record(folder, made, verdict="failed")
        record(folder, made, kind="pin", verdict="")
        record(folder, made, kind="unpin", verdict="", at=NOW)
    return Full(folder, tuple(made.id for made in gone), rest)


@pytest.fixture
def full(tmp_path: Path) -> Full:
    return fill(tmp_path / "backups")


def test_what_is_old_goes_with_all_its_records_and_nothing_else_is_touched(full: Full) -> None:
    done = prune(full.path)
    assert done.failure is None
    assert {backup.id for backup in done.gone} == set(full.old) == {id_of(day) for day in (100, 101, 102)}
    assert names(full.path) == full.rest


def test_a_second_time_nothing_goes(full: Full) -> None:
    prune(full.path)
    again = prune(full.path)
    assert (again.ids, again.failure) == ((), None)
    assert names(full.path) == full.rest


def test_a_folder_that_is_not_there_stays_so(tmp_path: Path) -> None:
    assert prune(tmp_path / "gone") == pruning.Outcome()
    assert not (tmp_path / "gone").exists()


def test_the_age_is_the_manifests_not_the_files(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        lay(tmp_path, day, verified=True)
    young, old = lay(tmp_path, 10), lay(tmp_path, 40)
    for path in (tmp_path / young.file, tmp_path / f"{young.file}.json"):
        os.utime(path, (1, 1))
    assert prune(tmp_path).ids == (old.id,)


def test_an_old_backup_without_its_data_goes_too(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        lay(tmp_path, day, verified=True)
    missing, cut = lay(tmp_path, 40), lay(tmp_path, 41)
    (tmp_path / missing.file).unlink()
    (tmp_path / cut.file).write_bytes(b"da")
    assert prune(tmp_path).ids == (missing.id, cut.id)
    assert catalog.scan(tmp_path, SITE).litter == ()
    assert listed(tmp_path) == {id_of(day) for day in (1, 2, 3)}


def test_what_somebody_changes_without_the_lock_stops_everything(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pruning._delete
    guard = full.path / f"{id_of(50)}.sql.gz"

    def and_then_somebody_cuts_a_guard(backup: Entry) -> None:
        real(backup)
        guard.write_bytes(b"")

    monkeypatch.setattr(pruning, "_delete", and_then_somebody_cuts_a_guard)
    done = prune(full.path)
    assert done.ids == (id_of(100),)
    assert done.failure is not None
    assert f"{id_of(50)} was changed meanwhile" in done.failure.message
    assert set(full.old[1:]) <= listed(full.path)


def test_it_looks_again_whether_what_should_stay_is_there(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pruning._delete

    def and_take_another_too(backup: Entry) -> None:
        real(backup)
        (full.path / f"{id_of(20)}.sql.gz.json").unlink(missing_ok=True)

    monkeypatch.setattr(pruning, "_delete", and_take_another_too)
    done = prune(full.path)
    assert done.failure is not None
    assert "should stay and is not what it was" in done.failure.message


def test_it_looks_again_whether_what_should_go_is_gone(full: Full, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruning, "_delete", lambda _backup: None)
    done = prune(full.path)
    assert done.failure is not None
    assert "was deleted and is there again" in done.failure.message


def test_a_manifest_that_breaks_off_late_guards_nothing_and_stays(full: Full) -> None:
    """Its first lines and its records say: complete, verified, newest. What can't be read must not push others out."""
    for day in (1, 100):
        path = full.path / f"{id_of(day)}.sql.gz.json"
        path.write_bytes(path.read_bytes()[:1200])
    before = names(full.path)
    done = prune(full.path)
    assert (done.ids, done.failure) == ((), None)
    assert {decision.why for decision in done.decisions if "verified" in decision.why} == {
        "among the 3 best verified",
        "nothing goes while only 2 of 3 are verified",
    }
    assert id_of(100) not in {decision.backup.id for decision in done.decisions if decision.goes}
    record(full.path, catalog.open_backup(full.path / f"{id_of(20)}.sql.gz").manifest)
    done = prune(full.path)
    assert set(done.ids) == set(full.old[1:])
    assert before.keys() - names(full.path).keys() == {
        name for name in before if name.startswith(full.old[1:]) and not name.endswith(".pruned")
    }


def test_a_pin_that_somebody_copies_in_without_the_lock_stops_everything(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = pruning._delete
    pinned = catalog.open_backup(full.path / f"{id_of(102)}.sql.gz")

    def and_a_pin_comes(backup: Entry) -> None:
        real(backup)
        record(full.path, pinned.manifest, kind="pin", verdict="", at=NOW + timedelta(1))
        time.sleep(pruning._NAMES_S * 1.5)

    monkeypatch.setattr(pruning, "_delete", and_a_pin_comes)
    done = prune(full.path)
    assert done.failure is not None
    assert "was changed meanwhile" in done.failure.message
    assert catalog.open_backup(pinned.path).pinned


def test_deleting_many_reads_the_folders_names_seldom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full, listings = fill(tmp_path / "backups", old=100), 0
    real = catalog.names_in

    def count(folder: Path) -> catalog.Listing:
        nonlocal listings
        listings += 1
        return real(folder)

    monkeypatch.setattr(catalog, "names_in", count)
    began = time.monotonic()
    assert len(prune(full.path).ids) == 100
    assert listings <= 5 + (time.monotonic() - began) / pruning._NAMES_S
    assert names(full.path) == full.rest


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")
def test_a_folder_where_nothing_can_be_deleted_is_said_so(full: Full) -> None:
    if portable.is_root():
        pytest.skip("root may write everywhere")
    (full.path / ".lock").touch()
    full.path.chmod(0o500)
    done = prune(full.path)
    full.path.chmod(0o700)
    assert done.failure is not None
    assert "could not delete all old backups" in done.failure.message
    assert set(full.old) <= listed(full.path)


def test_a_file_that_can_not_be_deleted_is_said_so_and_the_next_run_ends_it(
    full: Full, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path.name == f"{id_of(101)}.sql.gz":
            raise PermissionError(13, "Permission denied", str(path))
        real(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    done = prune(full.path)
    assert done.ids == (id_of(100),)
    assert done.failure is not None
    assert "Permission denied" in done.failure.detail
    assert id_of(101) not in listed(full.path)
    monkeypatch.undo()
    assert set(prune(full.path).ids) == {id_of(101), id_of(102)}
    assert names(full.path) == full.rest


# Killed --------------------------------------------------------------------------------------------------------------


# Counts the changes of names in its folder, and kills itself just before the one that is asked for.
DIES = """
import os, signal, sys
from datetime import datetime
from pathlib import Path
from polyladder_ops import pruning
from polyladder_ops.retention import Rule
folder, at, now = Path(sys.argv[1]), int(sys.argv[2]), datetime.fromisoformat(sys.argv[3])
changes = 0
def count(event, _arguments):
    global changes
    if event in ("os.rename", "os.remove"):
        changes += 1
        if changes == at:
            os.kill(os.getpid(), signal.SIGKILL)
print("ready", flush=True)
sys.stdin.readline()
sys.addaudithook(count)
done = pruning.prune(folder, "production", Rule(30, 3), now=now)
print(changes, *done.ids, *([done.failure] if done.failure else []))
"""


def pruner(folder: Path, *, dies_at: int = 0) -> subprocess.Popen[str]:
    """Return a process that is about to prune and waits for a word."""
    argv = [sys.executable, "-c", DIES, str(folder), str(dies_at), NOW.isoformat()]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def ended(process: subprocess.Popen[str]) -> list[str]:
    out, _ = process.communicate(timeout=60)
    return out.split()


def is_in_order_after_a_kill(full: Full) -> None:
    """Nothing that is listed as complete lacks a byte; a rerun ends as if nobody had been killed."""
    for backup in catalog.scan(full.path, SITE).backups:
        assert backup.complete or backup.id in full.cut
        if backup.complete:
            assert hashlib.sha256(backup.path.read_bytes()).hexdigest() == backup.manifest.sha256
    left = names(full.path)
    assert {name: left.get(name) for name in full.rest} == full.rest
    begun = set(pruning.begun(full.path, SITE))
    still = {name.split(".")[0] for name in left if name.endswith((".sql.gz.json", ".pruned"))}
    done = prune(full.path)
    assert done.failure is None
    assert begun <= set(done.ids)
    assert set(done.ids) == set(full.old) & still
    assert names(full.path) == full.rest


posix_only = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no SIGKILL")


@posix_only
@pytest.mark.parametrize("cut", [False, True])
def test_killed_before_each_change_of_a_name_it_leaves_no_lie_and_the_next_run_ends_it(
    cut: bool, tmp_path: Path
) -> None:
    counting = pruner(fill(tmp_path / "counted", old=2).path)
    go(counting)
    changes = int(ended(counting)[0])
    assert changes >= 2 * 6
    for at in range(1, changes + 1):
        full = fill(tmp_path / str(at), old=2)
        if cut:
            (full.path / f"{full.old[1]}.sql.gz").write_bytes(b"da")
            full = replace(full, cut=full.old[1:])
        process = pruner(full.path, dies_at=at)
        go(process)
        ended(process)
        assert process.returncode == -9
        is_in_order_after_a_kill(full)


@posix_only
def test_killed_from_outside_at_any_instant_it_leaves_no_lie(tmp_path: Path) -> None:
    whole = pruner(fill(tmp_path / "timed", old=20).path)
    begun = time.monotonic()
    go(whole)
    ended(whole)
    takes_s = time.monotonic() - begun
    dice = random.Random(40)
    killed_half_way = 0
    # How long it takes was measured once, and the machine may have been busy just then: more tries meet it half way, too.
    for number in range(200):
        if number >= 40 and killed_half_way >= 5:
            break
        full = fill(tmp_path / str(number), old=20)
        process = pruner(full.path)
        go(process)
        time.sleep(dice.random() * takes_s)
        process.kill()
        ended(process)
        killed_half_way += 0 < len(set(full.old) & listed(full.path)) < 20
        is_in_order_after_a_kill(full)
    assert killed_half_way >= 5


@posix_only
def test_what_a_killed_run_began_is_known_by_its_bytes_alone(full: Full) -> None:
    """Data that was put there under the same name meanwhile is not ours to delete."""
    data = full.path / f"{id_of(100)}.sql.gz"
    data.with_name(f"{data.name}.json").rename(f"{data}.pruned")
    data.write_bytes(b"of somebody")
    assert pruning.begun(full.path, SITE) == (id_of(100),)
    assert set(prune(full.path).ids) == {id_of(101), id_of(102)}
    assert data.read_bytes() == b"of somebody"
    assert not Path(f"{data}.pruned").exists()
    assert data.name in catalog.scan(full.path, SITE).litter


def test_a_backup_that_was_put_back_meanwhile_is_a_backup_again(full: Full) -> None:
    record(full.path, catalog.open_backup(full.path / f"{id_of(100)}.sql.gz").manifest, kind="pin",
           verdict="", at=NOW + timedelta(1))  # fmt: skip
    manifest = full.path / f"{id_of(100)}.sql.gz.json"
    Path(f"{manifest.with_suffix('')}.pruned").write_bytes(manifest.read_bytes())
    assert set(prune(full.path).ids) == {id_of(101), id_of(102)}
    backup = catalog.open_backup(full.path / f"{id_of(100)}.sql.gz")
    assert backup.complete
    assert backup.pinned
    assert pruning.begun(full.path, SITE) == ()


def test_a_tombstone_of_another_site_is_not_ours(full: Full) -> None:
    manifest = full.path / "polyladder_of_staging.sql.gz.json"
    manifest.rename(manifest.with_suffix(".pruned"))
    prune(full.path)
    assert (full.path / "polyladder_of_staging.sql.gz").exists()
    assert (full.path / "polyladder_of_staging.sql.gz.pruned").exists()


# With others at work -------------------------------------------------------------------------------------------------


def waiting(folder: Path) -> subprocess.Popen[str]:
    """Return a process that wants to prune while we hold the lock."""
    process = pruner(folder)
    go(process)
    time.sleep(0.3)
    assert process.poll() is None
    return process


def test_a_pin_that_comes_first_keeps_its_backup(full: Full) -> None:
    with folder_lock(full.path):
        process = waiting(full.path)
        backup = catalog.open_backup(full.path / f"{id_of(101)}.sql.gz")
        record(full.path, backup.manifest, kind="pin", verdict="", at=NOW + timedelta(1))
    assert set(ended(process)[1:]) == {id_of(100), id_of(102)}
    assert id_of(101) in listed(full.path)


def test_a_verification_that_fails_meanwhile_keeps_everything(full: Full) -> None:
    with folder_lock(full.path):
        process = waiting(full.path)
        backup = catalog.open_backup(full.path / f"{id_of(50)}.sql.gz")
        record(full.path, backup.manifest, verdict="failed", at=NOW + timedelta(1))
    assert ended(process)[1:] == []
    assert set(full.old) <= listed(full.path)


PINS = """
import json, sys
from pathlib import Path
from polyladder_ops import catalog, pruning, verification
from polyladder_ops.errors import OpsError
folder = Path(sys.argv[1])
chosen = [catalog.open_backup(folder / name.removeprefix("pin:")) for name in sys.argv[2:]]
print("ready", flush=True)
sys.stdin.readline()
done = {"pinned": [], "looked at": []}
for name, backup in zip(sys.argv[2:], chosen):
    is_pin = name.startswith("pin:")
    try:
        if is_pin:
            pruning.pin(backup)
        else:
            verification.verify_stored(backup, [])
    except OpsError:
        continue
    done["pinned" if is_pin else "looked at"].append(backup.path.name)
print(json.dumps(done))
"""


@pytest.mark.parametrize("seed", range(5))
def test_pins_and_verifications_at_the_same_time_come_before_or_after(seed: int, tmp_path: Path) -> None:
    full = fill(tmp_path / "backups", old=60)
    files = [f"{named}.sql.gz" for named in full.old]
    random.Random(seed).shuffle(files)
    files[::2] = [f"pin:{name}" for name in files[::2]]
    argv = [sys.executable, "-c", PINS, str(full.path), *files]
    other = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    assert other.stdout.readline() == "ready\n"
    process = pruner(full.path)
    go(other)
    time.sleep(0.02 * seed)
    go(process)
    said = ended(process)
    assert all(word.startswith("polyladder_") for word in said[1:]), said
    done = json.loads(other.communicate(timeout=60)[0])
    there = {backup.path.name: backup for backup in catalog.scan(full.path, SITE).backups}
    for name in done["pinned"]:
        assert there[name].complete
        assert there[name].pinned
    assert {name.removesuffix(".sql.gz") for name in done["pinned"]} & set(said[1:]) == set()
    recorded = {path.name.split(".sql.gz")[0] for path in full.path.glob("*.sql.gz.*-*.json")}
    without_backup = recorded - {name.removesuffix(".sql.gz") for name in there}
    assert without_backup <= {id_of(100)}  # beside which a foreign record lay from the beginning


@pytest.mark.parametrize("doing", ["pin:", "verify"])
def test_whoever_waits_for_a_prune_finds_the_backup_gone_and_records_nothing(doing: str, full: Full) -> None:
    chosen = full.path / f"{id_of(101)}.sql.gz"
    argv = [sys.executable, "-c", PINS, str(full.path), f"{doing.removesuffix('verify')}{chosen.name}"]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    with folder_lock(full.path):
        go(process)
        time.sleep(0.5)
        assert process.poll() is None
        pruning._delete(
            next(entry for entry in catalog.scan(full.path, SITE).entries if entry.path == chosen)
        )
    assert json.loads(process.communicate(timeout=60)[0]) == {"pinned": [], "looked at": []}
    assert [name for name in names(full.path) if name.startswith(chosen.name)] == []


def test_a_verdict_on_a_backup_that_was_deleted_meanwhile_is_an_error(full: Full) -> None:
    backup = catalog.open_backup(full.path / f"{id_of(101)}.sql.gz")
    begun = verification._Begun.now(backup)
    prune(full.path)
    with pytest.raises(OpsError) as caught:
        verification._recorded(backup, "stored", "passed", (), begun)
    assert caught.value.message == f"backup {backup.id} is not there any more"
    assert names(full.path) == full.rest


def test_backups_that_are_taken_meanwhile_stand(sample: Target, tmp_path: Path) -> None:
    folder = tmp_path / "backups"
    taken = []
    for number in range(3):
        fill(folder, old=30)
        process = pruner(folder)
        go(process)
        taken.append(
            backups.take(sample, folder, site=SITE, private=tmp_path / str(number),
                         options=backups.Options(new_source=True))
        )  # fmt: skip
        assert len(ended(process)) == 31
    for made in taken:
        assert verification.verify_stored(catalog.open_backup(made.path), []).passed


# Pins ----------------------------------------------------------------------------------------------------------------


def test_a_pin_holds_until_it_is_taken_back_and_says_who_and_why(full: Full) -> None:
    backup = catalog.open_backup(full.path / f"{id_of(100)}.sql.gz")
    pinned = pruning.pin(backup, reason="before version 2")
    assert pinned.pinned
    assert (pinned.records[-1].details, pinned.records[-1].by) == (("before version 2",), portable.by_whom())
    assert pruning.pin(backup) == pinned
    assert backup.id not in prune(full.path).ids
    assert not pruning.unpin(backup).pinned
    assert not pruning.unpin(backup).pinned
    assert prune(full.path).ids == (backup.id,)


def test_a_pin_counts_though_another_machines_clock_was_ahead(tmp_path: Path) -> None:
    made = lay(tmp_path, 40)
    record(tmp_path, made, kind="unpin", verdict="", at=NOW + timedelta(days=3))
    backup = catalog.open_backup(tmp_path / made.file)
    assert pruning.pin(backup).pinned
    assert not pruning.unpin(backup).pinned


def test_a_backup_that_is_gone_can_not_be_pinned(full: Full) -> None:
    backup = catalog.open_backup(full.path / f"{id_of(100)}.sql.gz")
    prune(full.path)
    with pytest.raises(OpsError, match="has no manifest beside it"):
        pruning.pin(backup)
    assert names(full.path) == full.rest


def test_a_pin_that_can_not_be_recorded_is_an_error(tmp_path: Path) -> None:
    made = put(tmp_path, id="polyladder_" + "x" * 225)  # no room in a name for what a record adds
    with pytest.raises(OpsError, match="could not pin") as caught:
        pruning.pin(catalog.open_backup(tmp_path / made.file))
    assert caught.value.hint


# As a person runs it -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ended:
    code: int
    out: str
    err: str


def invoke(full: Full | Path, *argv: str, **more: str) -> Ended:
    folder = full.path if isinstance(full, Full) else full
    project = folder.parent / "project"
    project.mkdir(exist_ok=True)
    (project / "tasks.py").write_text("from polyladder_ops.tasks import ns\n")
    variables = {"BACKUP_DIR": str(folder), "POLYLADDER_STATE_DIR": str(folder.parent / "state"), **more}
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *argv],
        cwd=project,
        env=portable.clean_environment({"PYTHONPATH": str(ROOT), **variables}),
        capture_output=True,
        text=True,
        check=False,
    )
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("argv", [("backup.prune",), ("-R", "backup.prune", "--apply")])
def test_without_apply_it_shows_what_would_go_and_why_and_changes_nothing(
    argv: tuple[str, ...], full: Full
) -> None:
    before = names(full.path)
    done = invoke(full, *argv)
    assert done.code == 0, done
    lines = done.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == list(full.old)
    assert all(line.endswith("  older than 30 days") for line in lines[1:4])
    assert lines[5:] == [
        "stay  because",
        "   3  not older than 30 days",
        "   1  among the 3 best verified",
        "   1  pinned",
    ]
    *clock, last = done.err.splitlines()
    assert [line.split(",")[0] for line in clock] == ["note: the server's clock could not be asked"]
    assert last == "note: nothing was changed; `invoke backup.prune --apply` deletes them"
    assert names(full.path) == before
    assert not (full.path / ".lock").exists()


def test_with_apply_it_deletes_and_says_what(full: Full) -> None:
    done = invoke(full, "backup.prune", "--apply", "--json")
    assert done.code == 0, done
    said = json.loads(done.out)
    assert (said["applied"], said["ended"]) == (True, [])
    rows = {row["id"]: row for row in said["backups"]}
    assert {named for named, row in rows.items() if row["gone"]} == set(full.old)
    assert rows[id_of(70)]["why"] == "pinned"
    assert done.err.splitlines()[1:] == [f"deleted: {named}" for named in full.old]
    assert names(full.path) == full.rest
    again = invoke(full, "backup.prune", "--apply")
    assert (again.code, again.err, again.out.splitlines()[0]) == (0, "", "nothing goes")


def test_the_settings_say_how_long_and_how_many(full: Full) -> None:
    few = json.loads(invoke(full, "backup.prune", "--json", BACKUP_RETENTION="10").out)
    assert {row["id"] for row in few["backups"] if row["goes"]} == {*full.old, id_of(20)}
    none = invoke(full, "backup.prune", "--apply", BACKUP_KEEP_VERIFIED="4")
    assert none.out.startswith("nothing goes\n")
    assert "nothing goes while only 3 of 4 are verified" in none.out
    wrong = invoke(full, "backup.prune", BACKUP_KEEP_VERIFIED="0")
    assert wrong.code == 2
    assert "BACKUP_KEEP_VERIFIED (environment) is not a positive whole number" in wrong.err


def test_a_deletion_that_a_killed_run_began_is_shown_and_ended(full: Full) -> None:
    manifest = full.path / f"{id_of(100)}.sql.gz.json"
    manifest.rename(manifest.with_suffix(".pruned"))
    assert (
        f"note: would end the deletion of {id_of(100)}, which a killed run"
        in invoke(full, "backup.prune").err
    )
    done = invoke(full, "backup.prune", "--apply")
    assert (done.code, f"note: ended the deletion of {id_of(100)}" in done.err) == (0, True)
    assert names(full.path) == full.rest


HOLDS = """
import sys, time
from pathlib import Path
from polyladder_ops.workspace import folder_lock
with folder_lock(Path(sys.argv[1]), doing="looking at the sky"):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(full: Full) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder's lock."""
    argv = [sys.executable, "-c", HOLDS, str(full.path)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_second_run_is_told_who_is_at_work_and_a_dead_one_needs_nobody(
    full: Full, holder: subprocess.Popen[str]
) -> None:
    before = names(full.path)
    busy = invoke(full, "-T", "1", "backup.prune", "--apply")
    assert busy.code == 4
    assert f"error: another run keeps {full.path} locked" in busy.err
    assert f"It is {portable.by_whom()}, process {holder.pid}, since {NOW:%Y-}" in busy.err
    assert "looking at the sky. It did not let go within 1 s." in busy.err
    assert names(full.path) == before
    with pytest.raises(Refused), folder_lock(full.path, timeout_s=0.1):
        pass
    holder.kill()
    holder.wait()
    assert invoke(full, "-T", "1", "backup.prune", "--apply").code == 0
    assert names(full.path) == full.rest


def test_pins_by_hand(full: Full) -> None:
    pinned = invoke(full, "backup.pin", f"--backup={id_of(100)}", "--reason=before version 2")
    assert (pinned.code, pinned.out) == (0, f"{id_of(100)} is pinned\n")
    assert "before version 2" in invoke(full, "backup.show", f"--backup={id_of(100)}").out
    again = invoke(full, "backup.pin", f"--backup={id_of(100)}", "--json")
    assert json.loads(again.out)["pinned"] is True
    assert invoke(full, "-R", "backup.unpin", f"--backup={id_of(100)}").out.startswith("would take the pin")
    invoke(full, "backup.prune", "--apply")
    assert listed(full.path) & set(full.old) == {id_of(100)}
    unpinned = invoke(full, "backup.unpin", f"--backup={id_of(100)}")
    assert (unpinned.code, unpinned.out) == (0, f"{id_of(100)} is not pinned\n")
    assert invoke(full, "backup.pin").code == 2
    assert invoke(full, "backup.pin", "--backup=polyladder_19990101_000000").code == 1


def url(target: Target) -> str:
    return f"postgres://{target.user}:{target.password}@{target.host}:{target.port}/{target.database}"


@pytest.fixture
def of_the_sample(full: Full, sample: Target, tmp_path: Path) -> Full:
    """The same, and a backup of the sample's database, so that the next one comes from where the last one came."""
    backups.take(sample, full.path, site=SITE, private=tmp_path / "private",
                 options=backups.Options(new_source=True))  # fmt: skip
    return full


def test_a_backup_prunes_at_its_end(of_the_sample: Full, sample: Target) -> None:
    done = invoke(of_the_sample, "backup", "--json", DATABASE_URL=url(sample))
    assert done.code == 0, done
    said = json.loads(done.out)
    assert (said["pruned"], said["complete"]) == (list(of_the_sample.old), True)
    assert f"pruned: {', '.join(of_the_sample.old)}" in done.err.splitlines()
    assert listed(of_the_sample.path) & {*of_the_sample.old, said["id"]} == {said["id"]}
    again = invoke(of_the_sample, "backup", DATABASE_URL=url(sample))
    assert (again.code, "pruned" in again.err) == (0, False)


def test_a_backup_that_fails_prunes_nothing(of_the_sample: Full, sample: Target) -> None:
    before = names(of_the_sample.path)
    done = invoke(of_the_sample, "backup", DATABASE_URL=f"{url(sample)}_that_is_not_there")
    assert done.code == 1
    assert names(of_the_sample.path) == before


def test_a_backup_that_meets_a_damaged_guard_is_fine_itself_and_the_answer_is_no(
    of_the_sample: Full, sample: Target
) -> None:
    guard = of_the_sample.path / f"{id_of(50)}.sql.gz"
    guard.write_bytes(guard.read_bytes()[::-1])
    done = invoke(of_the_sample, "backup", "--json", DATABASE_URL=url(sample))
    said = json.loads(done.out)
    assert (done.code, said["pruned"]) == (3, []), done
    assert f"the new backup {said['id']} is fine, but old ones" in done.err
    assert f"{id_of(50)} counts for nothing: the file's sha256" in done.err
    assert set(of_the_sample.old) <= listed(of_the_sample.path)


def test_a_backup_whose_pruning_fails_says_that_it_is_fine_itself(
    of_the_sample: Full, sample: Target
) -> None:
    folder = of_the_sample.path
    Path(folder, f"{id_of(101)}.sql.gz.pruned").mkdir()  # nothing can be renamed to this
    done = invoke(of_the_sample, "backup", "--json", DATABASE_URL=url(sample))
    assert done.code == 1, done
    said = json.loads(done.out)
    assert said["pruned"] == [id_of(100)]
    assert f"error: the new backup {said['id']} is fine, but not all old ones could be pruned" in done.err
    assert "hint: " in done.err
    assert verification.verify_stored(catalog.open_backup(folder / f"{said['id']}.sql.gz"), []).passed
