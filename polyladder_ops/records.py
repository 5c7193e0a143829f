"""What happened to a backup after it was made: verifications and pins, each a small file beside it, never changed.

A record is bound to the bytes by their sha256, so that it can't speak for another file of the same name.
"""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pydantic
from pydantic import AwareDatetime, BaseModel, ConfigDict

from polyladder_ops.portable import sync_directory, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

__all__ = ["Record", "append", "instant_after", "is_pinned", "is_verified", "last_verification", "load_all"]

Kind = Literal["verify", "pin", "unpin"]
Verdict = Literal["passed", "failed", "not proved", ""]


class Record(BaseModel):
    """Who looked at a backup or pinned it, when (this machine's clock), how deep, and what came out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    kind: Kind
    backup: str
    sha256: str
    at: AwareDatetime
    by: str
    level: str = ""
    verdict: Verdict = ""
    details: tuple[str, ...] = ()


def instant_after(records: Iterable[Record]) -> datetime:
    """Return the instant of a new record: now, and later than any other, since the last one counts and clocks differ."""
    return max((datetime.now(UTC), *(record.at + timedelta(microseconds=1) for record in records)))


def append(data: Path, record: Record) -> Path:
    """Write the record beside the backup's data file and return its path; existing ones are never touched."""
    stamp = record.at.astimezone(UTC).strftime("%Y%m%dT%H%M%S%fZ")
    path = data.with_name(f"{data.name}.{record.kind}-{stamp}-{secrets.token_hex(3)}.json")
    write_private(path, record.model_dump_json() + "\n")
    sync_directory(path.parent)
    return path


def load_all(paths: Iterable[Path], sha256: str) -> tuple[Record, ...]:
    """Return the records among these files that speak of the bytes with this sha256, oldest first."""
    records = []
    for path in paths:
        try:
            record = Record.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError):
            continue  # a record that can't be read proves nothing
        if record.sha256 == sha256:
            records.append(record)
    return tuple(sorted(records, key=lambda record: record.at))


def last_verification(records: Iterable[Record]) -> Record | None:
    """Return the newest verification that came to a verdict, if any; "not proved" is none."""
    decided = [r for r in records if r.kind == "verify" and r.verdict in ("passed", "failed")]
    return decided[-1] if decided else None


def is_verified(records: Iterable[Record]) -> bool:
    """Whether the newest verification passed."""
    last = last_verification(records)
    return last is not None and last.verdict == "passed"


def is_pinned(records: Iterable[Record]) -> bool:
    """Whether the newest pin was not taken back."""
    pins = [record for record in records if record.kind in ("pin", "unpin")]
    return bool(pins) and pins[-1].kind == "pin"
