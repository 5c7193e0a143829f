"""Which backups there are, which are whole, and which one a person means."""

from __future__ import annotations

import json
import os
import sys
import threading
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import catalog, guards, manifest, portable, report
from polyladder_ops.catalog import Backup, Catalog, open_backup, scan
from polyladder_ops.choosing import find, parse_time
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.postgres.described import CatalogEntry
from polyladder_ops.retention import Rule
from tests.factories import NIGHT, put, record, table, unchecked

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.manifest import Manifest

NOW = NIGHT + timedelta(days=30)


@pytest.fixture
def nights(tmp_path: Path) -> Path:
    """A folder with a backup of each night from 5 to 9 January, 02:00 UTC; the last one's data is missing."""
    for day in range(5):
        put(tmp_path, b"x" * day, taken_at=NIGHT + timedelta(days=day))
    (tmp_path / "polyladder_20260109_020000.sql.gz").unlink()
    return tmp_path


def found(folder: Path, wanted: str, *, site: str = "production", now: datetime = NOW) -> str:
    return find(scan(folder, site), wanted, now=now).id.removeprefix("polyladder_")


def test_backups_are_listed_newest_first(nights: Path) -> None:
    assert [backup.taken_at.day for backup in scan(nights, "production").backups] == [9, 8, 7, 6, 5]


def test_the_servers_clock_orders_not_the_files_times_or_names(tmp_path: Path) -> None:
    old = put(tmp_path, id="polyladder_20990101_000000", taken_at=NIGHT)
    new = put(tmp_path, id="polyladder_20000101_000000", taken_at=NIGHT + timedelta(days=1))
    os.utime(tmp_path / old.file, (4_000_000_000, 4_000_000_000))
    assert [backup.id for backup in scan(tmp_path, "production").backups] == [new.id, old.id]
    assert found(tmp_path, "latest") == "20000101_000000"


def test_two_of_one_second_are_both_listed(tmp_path: Path) -> None:
    put(tmp_path)
    put(tmp_path, id="polyladder_20260105_020000_2")
    assert [backup.id for backup in scan(tmp_path, "production").backups] == [
        "polyladder_20260105_020000_2",
        "polyladder_20260105_020000",
    ]
    assert found(tmp_path, "polyladder_20260105_020000") == "20260105_020000"
    assert found(tmp_path, "polyladder_20260105_020000_2") == "20260105_020000_2"


def test_a_dump_without_a_manifest_is_not_listed(nights: Path) -> None:
    (nights / "polyladder_20260201_000000.sql.gz").write_bytes(b"x")
    (nights / "polyladder_20260201_000000.sql.gz.age").write_bytes(b"x")
    (nights / "notes.txt").write_bytes(b"x")
    seen = scan(nights, "production")
    assert len(seen.backups) == 5
    assert seen.litter == ("polyladder_20260201_000000.sql.gz", "polyladder_20260201_000000.sql.gz.age")


def test_a_manifest_without_its_dump_is_listed_as_incomplete_and_never_latest(nights: Path) -> None:
    newest = scan(nights, "production").backups[0]
    assert (newest.complete, newest.verified, newest.flaw) == (False, False, "its data file is missing")
    assert found(nights, "latest") == "20260108_020000"


def test_a_dump_of_another_size_is_incomplete(nights: Path) -> None:
    (nights / "polyladder_20260108_020000.sql.gz").write_bytes(b"xxxx")
    backup = scan(nights, "production").backups[1]
    assert not backup.complete
    assert "another size" in backup.flaw
    assert found(nights, "latest") == "20260107_020000"


def test_a_complete_one_has_no_flaw_and_shows_what_was_recorded(nights: Path) -> None:
    first = scan(nights, "production").backups[-1]
    record(nights, first.manifest)
    record(nights, first.manifest, kind="pin", verdict="")
    seen = scan(nights, "production").backups[-1]
    assert (seen.flaw, seen.complete, seen.verified, seen.pinned) == ("", True, True, True)
    assert not scan(nights, "production").backups[-2].pinned


def test_records_of_one_backup_do_not_speak_for_its_encrypted_twin(tmp_path: Path) -> None:
    plain = put(tmp_path)
    put(tmp_path, encrypted=True)
    record(tmp_path, plain)
    verified = {backup.path.name: backup.verified for backup in scan(tmp_path, "production").backups}
    assert verified == {plain.file: True, f"{plain.file}.age": False}


def test_another_sites_backups_are_counted_and_not_taken(nights: Path) -> None:
    put(nights, taken_at=NIGHT + timedelta(days=20), site="staging")
    seen = scan(nights, "production")
    assert (len(seen.backups), seen.other_sites) == (5, 1)
    assert found(nights, "latest") == "20260108_020000"
    assert found(nights, "latest", site="staging") == "20260125_020000"
    with pytest.raises(OpsError, match="there is no backup polyladder_20260125"):
        found(nights, "polyladder_20260125")
    assert found(nights, "polyladder_20260125_020000") == "20260125_020000"
    with pytest.raises(OpsError, match="no complete backup: latest") as caught:
        found(nights, "latest", site="sandbox")
    assert "6 of other sites" in caught.value.detail


def test_an_unusable_manifest_is_told_and_hides_nobody_else(nights: Path) -> None:
    (nights / "polyladder_20260301_000000.sql.gz.json").write_text("{")
    seen = scan(nights, "production")
    assert len(seen.backups) == 5
    (unusable,) = seen.unusable
    assert "polyladder_20260301_000000" in unusable.message


def test_a_folder_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert scan(tmp_path / "gone", "production") == Catalog()
    with pytest.raises(OpsError, match="no complete backup: latest") as caught:
        find(Catalog(), "latest", now=NOW)
    assert "Look elsewhere" in caught.value.hint


def test_a_folder_that_is_a_file_or_closed_is_said_so(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OpsError, match="could not read the folder") as caught:
        scan(tmp_path / "file", "production")
    assert "BACKUP_DIR" in caught.value.hint
    if sys.platform != "win32" and not portable.is_root():
        (tmp_path / "closed").mkdir(mode=0)
        with pytest.raises(OpsError, match="could not read the folder"):
            scan(tmp_path / "closed", "production")


def test_a_folder_can_be_read_while_files_come_and_go(tmp_path: Path) -> None:
    put(tmp_path)
    stop = threading.Event()

    def churn() -> None:
        while not stop.is_set():
            for number in range(20):
                (tmp_path / f"temporary{number}").touch()
            for number in range(20):
                (tmp_path / f"temporary{number}").unlink()

    thread = threading.Thread(target=churn)
    thread.start()
    try:
        assert all(len(scan(tmp_path, "production").backups) == 1 for _ in range(150))
    finally:
        stop.set()
        thread.join()


@pytest.mark.parametrize(
    ("wanted", "day"),
    [
        ("latest", 8),
        ("polyladder_20260106_020000", 6),
        ("polyladder_20260106", 6),
        ("polyladder_20260109", 9),
        ("2026-01-07", 7),
        ("2026-01-09", 8),
        ("2026-01-20", 8),
        ("2026-01-07T02:00Z", 7),
        ("2026-01-07T01:59:59Z", 6),
        ("2026-01-07T03:00+01:00", 7),
        ("2026-01-07T02:59+01:00", 6),
        ("2026-01-07 02:00Z", 7),
        ("2026-01-07T02:00:00.000001Z", 7),
    ],
)
def test_a_word_finds(wanted: str, day: int, nights: Path) -> None:
    assert found(nights, wanted) == f"202601{day:02}_020000"


def test_a_path_finds_its_backup_whatever_site_it_is_of(
    nights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(nights, taken_at=NIGHT + timedelta(days=20), site="staging")
    data = nights / "polyladder_20260125_020000.sql.gz"
    assert found(nights, str(data)) == "20260125_020000"
    assert found(nights, f"{data}.json") == "20260125_020000"
    monkeypatch.chdir(nights)
    assert found(nights, data.name) == "20260125_020000"
    assert found(nights, f"./{data.name}") == "20260125_020000"


def test_opening_by_path_brings_size_and_records_too(nights: Path) -> None:
    data = nights / "polyladder_20260106_020000.sql.gz"
    record(nights, open_backup(data).manifest)
    opened = open_backup(data)
    assert (opened.stored_bytes, opened.verified, opened.path) == (1, True, data)
    (listed,) = (backup for backup in scan(nights, "production").backups if backup.id == opened.id)
    assert opened == listed
    missing = open_backup(nights / "polyladder_20260109_020000.sql.gz.json")
    assert missing.stored_bytes is None


def test_brackets_and_stars_in_a_path_are_letters(tmp_path: Path) -> None:
    folder = tmp_path / "a [1] *"
    folder.mkdir()
    made = put(folder, id="polyladder_[x]*")
    record(folder, made)
    assert open_backup(folder / made.file).verified


NOT_FOUND = {
    "polyladder_2025": (OpsError, "there is no backup polyladder_2025"),
    "20260106_020000": (OpsError, "there is no backup 20260106_020000"),
    "lates": (OpsError, "there is no backup lates"),
    "polyladder_202601": (UsageError, "fits 5 backups"),
    "2026-01-04": (OpsError, "no complete backup: at or before 2026-01-04"),
    "2026-01-05T01:59Z": (OpsError, "no complete backup: at or before"),
    "2026-01-07T02:00": (UsageError, "has no time zone"),
    "2026-13-40": (UsageError, "is no day"),
    "2026-01-07T99:00Z": (UsageError, "is no time"),
    "2026-03-01": (UsageError, "lies in the future"),
    "9999-12-31": (UsageError, "lies in the future"),
    "": (UsageError, "names no backup"),
    "-x": (UsageError, "names no backup"),
    "--force": (UsageError, "names no backup"),
    "-": (UsageError, "names no backup"),
    "gone/polyladder_1.sql.gz": (OpsError, "there is no file"),
    "polyladder_1.sql.gz": (OpsError, "there is no file"),
}


@pytest.mark.parametrize("wanted", NOT_FOUND)
def test_a_word_that_finds_nothing_is_said_with_what_to_write(wanted: str, nights: Path) -> None:
    kind, words = NOT_FOUND[wanted]
    with pytest.raises(kind, match=words) as caught:
        found(nights, wanted)
    assert type(caught.value) is kind
    assert caught.value.hint


def test_a_prefix_that_fits_several_names_them(nights: Path) -> None:
    with pytest.raises(UsageError) as caught:
        found(nights, "polyladder_2026010")
    assert "polyladder_20260109_020000, polyladder_20260108_020000" in caught.value.detail


def test_only_incomplete_ones_before_a_day_are_counted(nights: Path) -> None:
    for data in nights.glob("*.gz"):
        data.unlink()
    with pytest.raises(OpsError) as caught:
        found(nights, "2026-01-07")
    assert "3 are listed and none is complete" in caught.value.detail


def test_the_oldest_is_named_where_nothing_is_old_enough(nights: Path) -> None:
    with pytest.raises(OpsError) as caught:
        found(nights, "2026-01-01")
    assert "polyladder_20260105_020000" in caught.value.detail


def test_today_is_no_future_though_its_end_is(nights: Path) -> None:
    assert found(nights, "2026-01-08", now=datetime(2026, 1, 8, 3, tzinfo=UTC)) == "20260108_020000"


def test_a_file_without_a_manifest_is_refused_by_path(tmp_path: Path) -> None:
    (tmp_path / "polyladder_1.sql.gz").write_bytes(b"x")
    with pytest.raises(OpsError, match=r"polyladder_1\.sql\.gz has no manifest beside it") as caught:
        open_backup(tmp_path / "polyladder_1.sql.gz")
    assert "json" in caught.value.hint
    with pytest.raises(OpsError, match="no manifest"):
        found(tmp_path, f"{tmp_path}/")


def test_times_are_read_as_utc_instants() -> None:
    assert parse_time("2026-01-05") == datetime(2026, 1, 5, 23, 59, 59, 999999, tzinfo=UTC)
    assert parse_time("2026-01-05T02:00+02:00") == datetime(2026, 1, 5, tzinfo=UTC)
    assert parse_time("polyladder_20260105") is None
    assert parse_time("latest") is None


def test_a_backup_shows_the_manifests_instant(nights: Path) -> None:
    backup: Backup = scan(nights, "production").backups[-1]
    assert (backup.taken_at, backup.id) == (NIGHT, "polyladder_20260105_020000")


# What only the first lines of a manifest tell -------------------------------------------------------------------------


def cut_tail(folder: Path, day: int) -> None:
    """Leave of a manifest what its first lines say, as a full disk does."""
    path = folder / f"polyladder_202601{day:02}_020000.sql.gz.json"
    path.write_bytes(path.read_bytes()[:1200])


def test_a_manifest_that_breaks_off_late_is_never_latest_and_is_named(nights: Path) -> None:
    cut_tail(nights, 8)
    seen = scan(nights, "production")
    assert [entry.taken_at.day for entry in seen.entries] == [9, 8, 7, 6, 5]
    assert [backup.taken_at.day for backup in seen.backups] == [9, 7, 6, 5]
    assert found(nights, "latest") == found(nights, "2026-01-08") == "20260107_020000"
    (unusable,) = seen.unusable
    assert "polyladder_20260108_020000" in unusable.message
    with pytest.raises(OpsError, match=r"polyladder_20260108_020000.* is unusable"):
        found(nights, "polyladder_20260108")
    broken = seen.entries[1]
    assert (broken.complete, broken.verified, broken.pinned) == (False, False, False)
    assert broken.flaw == "its manifest is unusable"


def test_the_first_lines_are_read_as_the_whole_is(tmp_path: Path) -> None:
    shapes: dict[str, Callable[[str], str]] = {
        "as we write it": lambda text: text,
        "with the line ends of Windows": lambda text: text.replace("\n", "\r\n"),
        "indented otherwise": lambda text: json.dumps(json.loads(text), indent=4),
        "on one line": lambda text: json.dumps(json.loads(text)),
        "in another order": lambda text: json.dumps(dict(reversed(json.loads(text).items())), indent=1),
        "in another zone": lambda text: text.replace("02:00:00Z", "04:00:00+02:00"),
        "with much before its time": lambda text: text.replace(
            '"database": "polyladder"', f'"database": "{"x" * 5000}"'
        ),
    }
    for number, change in enumerate(shapes.values()):
        made = put(
            tmp_path, taken_at=NIGHT + timedelta(days=number), site='caf\u00e9 "1"' if number % 2 else "a"
        )
        path = tmp_path / f"{made.file}.json"
        path.write_bytes(change(unchecked(path.read_text(encoding="utf-8"))).encode())
    seen = scan(tmp_path, "a")
    entries = sorted((*seen.entries, *seen.others), key=lambda entry: entry.taken_at)
    assert len(entries) == len(shapes)
    for number, entry in enumerate(entries):
        backup = entry.open()
        assert entry.taken_at == backup.taken_at == NIGHT + timedelta(days=number)
        assert (entry.site, entry.id, entry.path) == (backup.manifest.site, backup.id, backup.path)


@pytest.mark.parametrize(
    ("was", "now"),
    [
        ('"format": 1', '"format": 3'),
        ('"file": "polyladder_', '"file": "../polyladder_'),
        ('"taken_at": "2026-01-05T02:00:00Z"', '"taken_at": "2026-01-05T02:00:00"'),
        ('"taken_at": "2026-01-05T02:00:00Z"', '"taken_at": "soon"'),
        ('"site": "production"', '"site": "\x00\ud83d"'),
    ],
)
def test_first_lines_that_lie_are_no_entry(was: str, now: str, tmp_path: Path) -> None:
    made = put(tmp_path)
    path = tmp_path / f"{made.file}.json"
    path.write_bytes(path.read_text(encoding="utf-8").replace(was, now).encode("utf-8", "surrogatepass"))
    seen = scan(tmp_path, "production")
    assert (seen.entries, seen.others, len(seen.unusable)) == ((), (), 1)


def test_a_backup_that_is_pruned_while_others_are_listed_is_not_called_broken(nights: Path) -> None:
    seen = scan(nights, "production")
    (nights / "polyladder_20260106_020000.sql.gz.json").unlink()
    unusable: list[OpsError] = []
    assert [backup.taken_at.day for backup in seen.opened(unusable)] == [9, 8, 7, 5]
    assert unusable == []


def test_a_manifest_that_was_changed_since_it_was_listed_is_not_opened(nights: Path) -> None:
    seen = scan(nights, "production")
    path = nights / "polyladder_20260108_020000.sql.gz.json"
    path.write_text(
        unchecked(path.read_text(encoding="utf-8")).replace("2026-01-08T02", "2026-01-02T02"),
        encoding="utf-8",
    )
    with pytest.raises(OpsError, match="polyladder_20260108_020000 was changed meanwhile"):
        seen.entries[1].open()
    assert seen.latest is not None
    assert seen.latest.taken_at.day == 7


MANY = 300


@pytest.fixture(scope="module")
def full_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with many backups of a large database each."""
    folder = tmp_path_factory.mktemp("many")
    objects = tuple(CatalogEntry("table", f"public.t{n}", "app", (), "2" * 32) for n in range(300))
    put(folder, taken_at=NIGHT, objects=objects, tables=tuple(table(f"public.t{n}") for n in range(50)))
    first = folder / "polyladder_20260105_020000.sql.gz"
    text = unchecked(Path(f"{first}.json").read_text(encoding="utf-8"))
    for number in range(1, MANY):
        at = NIGHT + timedelta(minutes=number)
        name = f"polyladder_{at:%Y%m%d_%H%M%S}"
        (folder / f"{name}.sql.gz").write_bytes(first.read_bytes())
        changed = text.replace("polyladder_20260105_020000", name)
        changed = changed.replace(
            '"taken_at": "2026-01-05T02:00:00Z"', f'"taken_at": "{at:%Y-%m-%dT%H:%M:%SZ}"'
        )
        (folder / f"{name}.sql.gz.json").write_text(changed, encoding="utf-8")
    return folder


def test_of_many_backups_one_is_opened_to_find_the_latest(
    full_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Path] = []

    real = manifest.load

    def load(path: Path) -> Manifest:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(catalog, "load", load)
    monkeypatch.setattr(manifest, "load", load)
    seen = scan(full_folder, "production")
    assert len(seen.entries) == MANY
    assert opened == []
    newest = find(seen, "latest", now=NOW)
    assert newest.id == seen.entries[0].id
    assert len(opened) == 1


def test_memory_holds_of_each_of_many_backups_a_line_not_its_manifest(full_folder: Path) -> None:
    manifest.load(full_folder / "polyladder_20260105_020000.sql.gz.json")  # what the first one makes for all
    tracemalloc.start()
    try:
        seen = scan(full_folder, "production")
        text = report.listed(seen.opened(), NOW)
        rows = [report.as_row(backup) for backup in seen.opened()]
        changes = report.changed(seen.opened(oldest_first=True))
        decided = guards.Reader().judge(seen, Rule(days=1, keep_verified=1), NOW).decisions
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (len(text.splitlines()), len(rows), len(decided)) == (MANY + 1, MANY, MANY)
    assert changes.count("nothing changed") == MANY - 1
    assert peak < MANY * 12_000, peak
