"""What people and programs read of backups and verdicts."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from polyladder_ops import report
from polyladder_ops.catalog import Backup
from polyladder_ops.manifest import Manifest, Source
from polyladder_ops.postgres.contents import ALGORITHM, TableData
from polyladder_ops.postgres.inventory import CatalogEntry
from polyladder_ops.postgres.properties import DatabaseProperties, Extension
from polyladder_ops.records import Record
from polyladder_ops.verification import Level, Verdict, Word

AT = datetime(2026, 1, 5, 2, 0, 0, 123456, tzinfo=UTC)
PROPERTIES = DatabaseProperties(
    owner="app", encoding="UTF8", collate="C", ctype="C", locale_provider="libc", locale="", icu_rules="",
    collation_version="", tablespace="pg_default", connection_limit=-1, is_template=False, grants=(), comment="",
    settings=(), security_labels=(),
)  # fmt: skip


def backup(at: datetime = AT, *records: Record, stored: int | None = 1536, **changes: Any) -> Backup:
    """Return a backup of two tables that lies nowhere."""
    id_ = f"polyladder_{at:%Y%m%d_%H%M%S}"
    fields: dict[str, Any] = {
        "id": id_, "file": f"{id_}.sql.gz", "site": "staging", "taken_at": at, "finished_at": at, "snapshot": "7:7:",
        "source": Source(system_identifier="42", database="app", database_oid=5, server_version="18.1", server_major=18,
                         client_version="18.2", tool_version="1"),
        "wal_position": "0/1", "tables_locked": True, "size_bytes": 1536, "plain_bytes": 4096, "sha256": "ab" * 32,
        "encrypted": False, "digest_algorithm": ALGORITHM, "encoding": "UTF8", "session": {}, "sequences": (),
        "large_objects": (), "objects": (CatalogEntry("table", "a", "app", (), ""), CatalogEntry("privileges", "b", "", (), "")),
        "tables": (TableData("public.a", "(x)", 1200, 40, "0" * 32), TableData("public.b", "(x)", 7, 90, "1" * 32)),
        "extensions": (Extension("pg_trgm", "1.6", "public"),), "roles": (), "properties": PROPERTIES,
        "migration_head": "17_add", "prepared_transactions": (), "materialized_views": (),
        "not_included": ("passwords of roles",), "warnings": ("table public.c fell from 9 rows to 0",), **changes,
    }  # fmt: skip
    return Backup(Manifest(**fields), Path("/backups") / fields["file"], stored, records)


def record(verdict: Word, level: Level = "stored", *details: str, at: datetime = AT) -> Record:
    return Record(
        kind="verify",
        backup="b",
        sha256="ab" * 32,
        at=at,
        by="me@here",
        level=level,
        verdict=verdict,
        details=details,
    )


def row(shown: Backup) -> list[str]:
    """Return the cells of the one backup in a list."""
    header, line = report.listed([shown], AT + timedelta(hours=3)).splitlines()
    assert header.split() == [
        "id",
        "taken",
        "at",
        "age",
        "size",
        "tables",
        "rows",
        "complete",
        "verified",
        "encrypted",
        "pinned",
        "notes",
    ]
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def test_a_list_tells_of_each_backup_what_a_person_chooses_by() -> None:
    assert row(backup()) == [
        "polyladder_20260105_020000", "2026-01-05 02:00:00Z", "3 h ago", "1.5 KiB", "2", "1,207", "yes", "no", "no", "no",
        "1 WARNING",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("records", "said"),
    [
        ([], "no"),
        ([record("passed")], "bytes"),
        ([record("passed", "restore")], "restores"),
        ([record("passed"), record("failed", "restore")], "FAILED"),
        ([record("failed"), record("passed")], "bytes"),
        ([record("not proved", "restore")], "no"),
        ([record("passed"), record("not proved", "restore")], "bytes"),
        ([record("failed", "restore"), record("passed")], "FAILED"),
    ],
)
def test_a_list_tells_a_failed_backup_from_one_that_nobody_looked_at(
    records: list[Record], said: str
) -> None:
    assert row(backup(AT, *records))[7] == said


@pytest.mark.parametrize(
    ("stored", "said"),
    [
        (None, "no: its data file is missing"),
        (3, "no: its data file has another size than its manifest says"),
    ],
)
def test_what_is_not_complete_says_why_and_is_never_verified(stored: int | None, said: str) -> None:
    shown = backup(AT, record("passed"), stored=stored)
    assert row(shown)[6:8] == [said, "no"]
    assert report.as_row(shown)["verified"] is False


def test_a_row_for_programs_has_the_promised_keys_and_is_json() -> None:
    promised = {"id", "site", "database", "taken_at", "size_bytes", "sha256", "complete", "verified", "encrypted", "pinned"}  # fmt: skip
    found = json.loads(json.dumps(report.as_row(backup(AT, record("failed", "restore", "why", "more")))))
    assert promised <= found.keys()
    assert found["taken_at"] == "2026-01-05T02:00:00.123456Z"
    assert found["verification"] == {
        "level": "restore", "verdict": "failed", "at": "2026-01-05T02:00:00.123456Z", "reasons": ["why", "more"],
    }  # fmt: skip
    assert report.as_row(backup())["verification"] is None


def test_changes_are_told_under_each_backup() -> None:
    day = timedelta(days=1)
    old, new = TableData("public.a", "", 10, 1, "0"), TableData("public.a", "", 7, 1, "1")
    shown = [backup(AT + 2 * day, tables=(new,)), backup(AT + day, tables=(new,)), backup(AT, tables=(old,))]
    assert [line for line in report.changed(shown[::-1]).splitlines() if line.startswith(" ")] == [
        "  nothing changed", "  public.a fell by 3 (10 → 7 rows)", "  the first one",
    ]  # fmt: skip


def test_a_description_says_what_is_not_in_it_and_who_looked_at_it() -> None:
    text = report.described(backup(AT, record("not proved", "restore", "a", "b", "c", "d", "e")))
    lines = text.splitlines()
    assert lines[0] == "polyladder_20260105_020000"
    for line in (
        "not included:  passwords of roles",
        "warning:       table public.c fell from 9 rows to 0",
        "objects:       2, owned by 1 roles",
        "verify:        not proved at level restore, 2026-01-05 02:00:00Z by me@here: a; b; c; and 2 more",
    ):
        assert line in lines, text
    assert text.index("public.b") < text.index("public.a"), "the larger table comes first"


def test_a_pin_is_told_by_who_and_when() -> None:
    pin = Record(kind="pin", backup="b", sha256="ab" * 32, at=AT, by="me@here")
    assert "pin:           2026-01-05 02:00:00Z by me@here" in report.described(backup(AT, pin)).splitlines()


VERDICTS: dict[tuple[Level, Word], str] = {
    ("stored", "passed"): "is whole: every byte and every table is what the manifest says",
    ("restore", "passed"): "restores to exactly what was dumped",
    ("stored", "failed"): "FAILED at level stored",
    ("restore", "failed"): "FAILED at level restore",
    ("restore", "not proved"): "is NOT PROVED at level restore",
}


@pytest.mark.parametrize("case", VERDICTS)
def test_a_verdict_is_a_sentence_and_its_reasons(case: tuple[Level, Word]) -> None:
    level, word = case
    reasons = () if word == "passed" else ("table public.a: it is missing",)
    lines = report.verdict(Verdict(backup(), level, word, reasons, 1.25)).splitlines()
    assert lines == [
        f"polyladder_20260105_020000 {VERDICTS[case]} (2 tables, 1,207 rows, 1.2 s)",
        *(f"  {reason}" for reason in reasons),
    ]


def test_a_server_that_differs_in_everything_does_not_flood_the_screen() -> None:
    reasons = tuple(f"table t{number}: its grants differ" for number in range(500))
    lines = report.verdict(Verdict(backup(), "restore", "not proved", reasons, 1)).splitlines()
    assert len(lines) == 22
    assert lines[-1] == "  and 480 more; --json shows all"


def test_names_can_not_steer_the_terminal() -> None:
    evil = "x\x1b[2J\r\n"
    shown = backup(
        AT,
        record("failed", "stored", evil),
        tables=(TableData(evil, "", 1, 1, ""),),
        roles=(),
        migration_head=evil,
    )
    texts = [
        report.described(shown),
        report.listed([shown], AT),
        report.changed([backup(AT - timedelta(days=1)), shown]),
        report.verdict(Verdict(shown, "stored", "failed", (evil,), 1)),
    ]  # fmt: skip
    assert not [text for text in texts if "\x1b" in text or "\r" in text]


def test_times_are_told_in_utc_wherever_a_record_was_written() -> None:
    there = AT.astimezone(timezone(timedelta(hours=9)))
    shown = backup(AT, record("passed", at=there))
    assert "passed at level stored, 2026-01-05 02:00:00Z" in report.described(shown)
    assert report.as_row(shown)["verification"]["at"] == "2026-01-05T02:00:00.123456Z"
