"""Backups and verdicts as text for people; pure."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from polyladder_ops import history
from polyladder_ops.catalog import Backup
from polyladder_ops.terminal import age, duration, plain, size, table
from polyladder_ops.verification import Verdict

__all__ = ["as_row", "changed", "described", "line", "listed", "verdict"]

_HEADERS = ("id", "taken at", "age", "size", "tables", "rows", "complete", "verified", "encrypted", "pinned")


def line(backup: Backup) -> str:
    """Return one line about a backup."""
    manifest = backup.manifest
    kept = f"{len(manifest.tables)} tables, {manifest.rows:,} rows, {size(manifest.size_bytes)}"
    return f"{backup.id}  {plain(manifest.source.database)}  {_time(backup.taken_at)}  {kept}"


def listed(backups: Sequence[Backup], now: datetime) -> str:
    """Return the table of backups."""
    return table([_cells(backup, now) for backup in backups], _HEADERS)


def _cells(backup: Backup, now: datetime) -> tuple[object, ...]:
    manifest = backup.manifest
    return (
        backup.id,
        _time(backup.taken_at),
        age(backup.taken_at, now),
        size(manifest.size_bytes),
        len(manifest.tables),
        f"{manifest.rows:,}",
        f"no: {backup.flaw}" if backup.flaw else True,
        backup.verified,
        manifest.encrypted,
        backup.pinned,
    )


def changed(backups: Sequence[Backup]) -> str:
    """Return each backup with what changed since the one before it, newest first."""
    lines = []
    for backup in backups:
        found = history.since(backups, backup)
        lines.append(line(backup))
        if found is None:
            lines.append("  the first one")
        lines += [f"  {plain(str(change))}" for change in found or ()]
        lines += ["  nothing changed"] if found == () else []
    return "\n".join(lines)


def as_row(backup: Backup) -> dict[str, Any]:
    """Return one backup for programs; keys are only ever added."""
    manifest = backup.manifest
    return {
        "id": backup.id,
        "site": manifest.site,
        "database": manifest.source.database,
        "taken_at": manifest.taken_at.isoformat().replace("+00:00", "Z"),
        "size_bytes": manifest.size_bytes,
        "sha256": manifest.sha256,
        "complete": backup.complete,
        "verified": backup.verified,
        "encrypted": manifest.encrypted,
        "pinned": backup.pinned,
        "path": str(backup.path),
        "tables": len(manifest.tables),
        "rows": manifest.rows,
        "plain_bytes": manifest.plain_bytes,
        "server_version": manifest.source.server_version,
        "migration_head": manifest.migration_head,
        "warnings": list(manifest.warnings),
    }


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
        ("snapshot", f"{manifest.snapshot} at {manifest.wal_position}"),
        ("size", f"{size(manifest.size_bytes)} stored, {size(manifest.plain_bytes)} of SQL"),
        ("sha256", manifest.sha256),
        ("encrypted", "yes" if manifest.encrypted else "no"),
        ("migration", manifest.migration_head or "none noted"),
        ("objects", f"{len(manifest.objects)}, owned by {len({o.owner for o in manifest.objects})} roles"),
        ("large objects", str(len(manifest.large_objects))),
        ("extensions", ", ".join(f"{e.name} {e.version}" for e in manifest.extensions) or "none"),
        ("roles", ", ".join(role.name for role in manifest.roles)),
        *(("not included", sentence) for sentence in manifest.not_included),
        *(("warning", sentence) for sentence in manifest.warnings),
        *((record.kind, _recorded(record)) for record in backup.records),
    ]
    lines = [f"{name + ':':<14} {plain(text)}" for name, text in facts]
    biggest = sorted(manifest.tables, key=lambda entry: entry.size_bytes, reverse=True)
    rows = [(entry.name, f"{entry.rows:,}", size(entry.size_bytes), entry.digest) for entry in biggest]
    return "\n".join([backup.id, *lines, "", table(rows, ("table", "rows", "size", "digest"))])


def _recorded(record: Any) -> str:
    level = f" at level {record.level}" if record.level else ""
    return f"{record.verdict or 'noted'}{level} at {_time(record.at)} by {record.by}".replace(
        "noted at", "at"
    )


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
    head = f"{backup.id} {said} ({len(backup.manifest.tables)} tables, {backup.manifest.rows:,} rows, {duration(result.seconds)})"
    return "\n".join([head, *(f"  {plain(reason)}" for reason in result.reasons)])


def _time(instant: datetime) -> str:
    return f"{instant:%Y-%m-%d %H:%M:%S}Z"
