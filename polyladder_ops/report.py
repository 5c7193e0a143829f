"""Backups and verdicts as text for people; pure."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from polyladder_ops import clocks, history
from polyladder_ops.terminal import age, duration, many, plain, size, table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from polyladder_ops.besides import Besides
    from polyladder_ops.catalog import Backup, Entry
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.records import Record
    from polyladder_ops.retention import Decision
    from polyladder_ops.verification import Verdict

__all__ = [
    "VERIFIED",
    "as_row",
    "as_row_decided",
    "as_row_of_file",
    "changed",
    "decided",
    "described",
    "line",
    "listed",
    "marks",
    "of_file",
    "verdict",
]

VERIFIED = {"": "no", "stored": "bytes", "restore": "restores"}
"""What was verified of a backup, by level, in a word."""
_SHOWN = 20  # of the reasons; a server of another major differs in every table
_HEADERS = (
    "id",
    "taken at",
    "age",
    "size",
    "tables",
    "rows",
    "complete",
    "verified",
    "encrypted",
    "pinned",
    "notes",
)


def line(backup: Backup) -> str:
    """Return one line about a backup."""
    manifest = backup.manifest
    kept = f"{many(len(manifest.tables), 'table')}, {many(manifest.rows, 'row')}, {size(manifest.size_bytes)}"
    return f"{plain(backup.id)}  {plain(manifest.source.database)}  {_time(backup.taken_at)}  {kept}"


def listed(backups: Iterable[Backup], now: datetime, present: datetime | None = None) -> str:
    """Return the table of backups; empty if there are none. What is dated after `present` (None: now) is of the future."""
    cells = [_cells(backup, now, present or now) for backup in backups]
    return table(cells, _HEADERS) if cells else ""


def _cells(backup: Backup, now: datetime, present: datetime) -> tuple[object, ...]:
    manifest = backup.manifest
    return (
        backup.id,
        _time(backup.taken_at),
        age(backup.taken_at, now),
        size(manifest.size_bytes),
        len(manifest.tables),
        f"{manifest.rows:,}",
        f"no: {backup.flaw}" if backup.flaw else True,
        _verified(backup),
        manifest.encrypted,
        backup.pinned,
        "; ".join(marks(backup, present)),
    )


def marks(backup: Backup, present: datetime) -> tuple[str, ...]:
    """Return what besides its bytes speaks against a backup, in a few words each: it may be whole and still not good."""
    warnings = len(backup.manifest.warnings) + len(backup.manifest.lost)
    told = [
        (backup.taken_at > present, "dated in the FUTURE"),
        (warnings, f"{warnings:,} WARNING{'S' * (warnings != 1)}"),
        (backup.manifest.is_sealed, "warnings sealed"),
        (backup.damaged, f"unreadable records: {len(backup.damaged)}"),
        (backup.checks_failed, f"checks FAILED: {', '.join(backup.checks_failed)}"),
    ]
    return tuple(text for holds, text in told if holds)


def _verified(backup: Backup) -> object:
    """Say a failure louder than that nobody has looked, and how deep somebody has."""
    return "FAILED" if backup.failed else VERIFIED[backup.level]


def changed(oldest_first: Iterable[Backup]) -> str:
    """Return each backup with what changed since the one before it, newest first."""
    shown = ["\n".join(_changed(backup, found)) for backup, found in history.one_by_one(oldest_first)]
    return "\n".join(reversed(shown))


def _changed(backup: Backup, found: Sequence[history.Change | Besides] | None) -> list[str]:
    lines = [line(backup), *(f"  {plain(str(change))}" for change in found or ())]
    lines += ["  the first one"] if found is None else []
    return [*lines, *(["  nothing changed"] if found == () else [])]


def decided(decisions: Sequence[Decision[Entry]], now: datetime) -> str:
    """Return the backups that go, each with its reason, and below them how many stay, by reason."""
    going = [
        (b.id, _time(b.taken_at), age(b.taken_at, now), size(facts.stored_bytes or 0), decision.why)
        for decision in decisions
        if decision.goes and (b := decision.backup) and (facts := b.facts)
    ]
    staying = Counter(decision.why for decision in decisions if not decision.goes)
    tables = [
        table(going, ("id", "taken at", "age", "size", "goes because it is")) if going else "nothing goes",
        table([(count, why) for why, count in staying.items()], ("stay", "because")) if staying else "",
    ]
    return "\n\n".join(filter(None, tables))


def as_row_decided(decision: Decision[Entry]) -> dict[str, Any]:
    """Return one decision for programs; keys are only ever added. The backup must be one that can be opened."""
    backup = decision.backup
    assert backup.facts is not None
    return {
        "id": backup.id,
        "path": str(backup.path),
        "taken_at": _iso(backup.taken_at),
        "size_bytes": backup.facts.size_bytes,
        "verified": backup.verified,
        "level": backup.level or None,
        "pinned": backup.pinned,
        "goes": decision.goes,
        "why": decision.why,
    }


def as_row(backup: Backup, present: datetime | None = None) -> dict[str, Any]:
    """Return one backup for programs; keys are only ever added."""
    manifest = backup.manifest
    ahead = backup.taken_at > (present or clocks.ours() + clocks.SKEW)
    return {
        "id": backup.id,
        "site": manifest.site,
        "database": manifest.source.database,
        "taken_at": _iso(manifest.taken_at),
        "size_bytes": manifest.size_bytes,
        "sha256": manifest.sha256,
        "complete": backup.complete,
        "verified": backup.verified,
        "level": backup.level or None,
        "failed": backup.failed,
        "checks_failed": list(backup.checks_failed),
        "dated_ahead": ahead,
        "encrypted": manifest.encrypted,
        "pinned": backup.pinned,
        "verification": _verification(backup),
        "path": str(backup.path),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "plain_bytes": manifest.plain_bytes,
        "server_version": manifest.source.server_version,
        "sealed": manifest.is_sealed,
        "migration_head": manifest.migration_head,
        "damaged_records": list(backup.damaged),
        "warnings": None if manifest.is_sealed else list(manifest.warnings),
        "lost": None if manifest.is_sealed else list(manifest.lost),
    }


def _verification(backup: Backup) -> dict[str, Any] | None:
    """Return what the newest verification said, "not proved" included; None if there was none."""
    looked = [record for record in backup.records if record.kind == "verify"]
    if not looked:
        return None
    last = looked[-1]
    return {"level": last.level, "verdict": last.verdict, "at": _iso(last.at), "reasons": list(last.details)}


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")


def described(backup: Backup) -> str:
    """Return everything a person may ask of one backup, biggest tables first."""
    manifest = backup.manifest
    source = manifest.source
    facts = [
        ("file", backup.path.name + (f" (not complete: {backup.flaw})" if backup.flaw else "")),
        (
            "taken from",
            f"{source.database}, PostgreSQL {source.server_version}, system {source.system_identifier}",
        ),
        (
            "taken at",
            f"{_time(manifest.taken_at)} by the server's clock, with pg_dump {source.client_version}",
        ),
        *([] if manifest.is_sealed else [("snapshot", f"{manifest.snapshot} at {manifest.wal_position}")]),
        ("size", f"{size(manifest.size_bytes)} stored, {size(manifest.plain_bytes)} of SQL"),
        ("sha256", manifest.sha256),
        ("verified", _verified(backup)),
        ("encrypted", "yes" if manifest.encrypted else "no"),
        ("large objects", str(len(manifest.large_objects))),
        *([("sealed", _SEALED)] if manifest.is_sealed else _definitions(manifest)),
        *((record.kind, _recorded(record)) for record in backup.records),
    ]
    lines = [f"{name + ':':<14} {plain(str(text))}" for name, text in facts]
    biggest = sorted(manifest.tables, key=lambda entry: entry.size_bytes, reverse=True)
    rows = [(entry.name, f"{entry.rows:,}", size(entry.size_bytes), entry.digest) for entry in biggest]
    return "\n".join([plain(backup.id), *lines, "", table(rows, ("table", "rows", "size", "digest"))])


_SEALED = "all but names, rows and bytes: set BACKUP_AGE_IDENTITY_FILE to see objects, roles, warnings and what is not included"


def _definitions(manifest: Manifest) -> list[tuple[str, str]]:
    owners = {entry.owner for entry in manifest.objects} - {""}
    return [
        ("migration", manifest.migration_head or "none noted"),
        ("objects", f"{len(manifest.objects)}, owned by {len(owners)} roles"),
        ("extensions", ", ".join(f"{e.name} {e.version}" for e in manifest.extensions) or "none"),
        ("roles", ", ".join(role.name for role in manifest.roles)),
        *(("not included", sentence) for sentence in manifest.not_included),
        *(("warning", sentence) for sentence in manifest.warnings),
    ]


def of_file(backup: Backup, limits: Sequence[str]) -> str:
    """Return what is in a file that has no manifest, biggest tables first, and what nobody can prove of it."""
    manifest = backup.manifest
    versions = manifest.source.server_version or "unknown", manifest.source.client_version or "unknown"
    facts = [
        ("file", f"{backup.path.name}, no manifest"),
        ("taken from", f"PostgreSQL {versions[0]}, by pg_dump {versions[1]}, as it says"),
        ("size", f"{size(manifest.size_bytes)} stored, {size(manifest.plain_bytes)} of SQL"),
        ("sha256", manifest.sha256),
        ("holds", f"{many(len(manifest.tables), 'table')}, {many(manifest.rows, 'row')}"),
        *(("not proved", sentence) for sentence in limits),
    ]
    lines = [f"{name + ':':<14} {plain(text)}" for name, text in facts]
    biggest = sorted(manifest.tables, key=lambda entry: entry.size_bytes, reverse=True)
    rows = [(entry.name, f"{entry.rows:,}", size(entry.size_bytes), entry.digest) for entry in biggest]
    return "\n".join([*lines, "", table(rows, ("table", "rows", "size", "digest"))])


def as_row_of_file(backup: Backup, limits: Sequence[str]) -> dict[str, Any]:
    """Return the same for programs; keys are only ever added."""
    manifest = backup.manifest
    return {
        "path": str(backup.path),
        "has_manifest": False,
        "size_bytes": manifest.size_bytes,
        "plain_bytes": manifest.plain_bytes,
        "sha256": manifest.sha256,
        "tables": {entry.name: entry.rows for entry in manifest.tables},
        "rows": manifest.rows,
        "not_proved": list(limits),
    }


def _recorded(record: Record) -> str:
    what = f"{record.verdict} at level {record.level}, " if record.kind == "verify" else ""
    why = f": {_few(record.details)}" if record.details else ""
    return f"{what}{_time(record.at)} by {record.by}{why}"


def _few(reasons: Sequence[str]) -> str:
    more = f"; and {len(reasons) - 3} more" if reasons[3:] else ""
    return "; ".join(reasons[:3]) + more


def verdict(result: Verdict) -> str:
    """Return one line about a verification, and its reasons below it."""
    backup = result.backup
    words = {
        ("stored", "passed"): "is whole: every byte and every table is what the manifest says",
        ("restore", "passed"): "restores to exactly what was dumped",
    }
    said = words.get((result.level, result.verdict), f"is {result.verdict.upper()} at level {result.level}")
    if result.verdict == "failed":
        said = f"FAILED at level {result.level}"
    held = f"{many(len(backup.manifest.tables), 'table')}, {many(backup.manifest.rows, 'row')}"
    head = f"{plain(backup.id)} {said} ({held}, {duration(result.seconds)})"
    reasons = [f"  {plain(reason)}" for reason in result.reasons[:_SHOWN]]
    more = len(result.reasons) - _SHOWN
    return "\n".join([head, *reasons, *([f"  and {more} more; --json shows all"] if more > 0 else [])])


def _time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"
