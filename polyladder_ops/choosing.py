"""Which backup a person means: `latest`, an id, a path, a day or an instant."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops.catalog import open_backup
from polyladder_ops.errors import OpsError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.catalog import Backup, Catalog

__all__ = ["ELSEWHERE", "find", "parse_time"]

ELSEWHERE = (
    "Look elsewhere: another folder (set BACKUP_DIR), a file of another tool (`invoke restore --backup=./FILE.sql.gz`),"
    " a database that a restore set aside (`invoke restore.status`), the machines and people that back this site up."
)
"""Where a backup may still be when a folder has none."""
_EXAMPLES = "Write latest, an id such as polyladder_20260105_020000, a path, or a time such as 2026-01-05."


def find(catalog: Catalog, wanted: str, *, now: datetime) -> Backup:
    """Return the backup that a person's word names.

    ``latest``; an id or the unique beginning of one; a path; a day (its end in UTC) or an instant: the newest complete
    backup at or before it. Only a path or a whole id can name another site's. Raise UsageError if the word is none of
    these, OpsError if no backup fits or several do. No word but its own id or path finds one that is dated after `now`.
    """
    if not wanted or wanted.startswith("-"):
        raise UsageError(f"--backup={wanted} names no backup", hint=_EXAMPLES)
    if wanted == "latest":
        return _newest(catalog, now, "latest", now)
    if (instant := parse_time(wanted)) is not None:
        if instant > now + timedelta(days=1):
            raise UsageError(f"{wanted} lies in the future", hint=_EXAMPLES)
        return _newest(catalog, min(instant, now), f"at or before {wanted}", now)
    if os.sep in wanted or "/" in wanted or wanted.endswith((".gz", ".age", ".json")):
        return _by_path(Path(wanted))
    return _by_id(catalog, wanted)


def parse_time(text: str) -> datetime | None:
    """Return the instant that a day or a time with its zone names, or None. Raise UsageError for a time without zone."""
    if re.fullmatch(r"\d{4}-\d{2}-\d{2}", text):
        try:
            return datetime.fromisoformat(text).replace(tzinfo=UTC) + timedelta(days=1, microseconds=-1)
        except ValueError as error:
            raise UsageError(f"{text} is no day", hint=_EXAMPLES) from error
    if not re.match(r"\d{4}-\d{2}-\d{2}[T ]", text):
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"{text} is no time", hint="Write it as 2026-01-05T02:00Z.") from error
    if instant.tzinfo is None:
        raise UsageError(f"{text} has no time zone", hint=f"Write {text}Z for UTC.")
    return instant.astimezone(UTC)


def _newest(catalog: Catalog, until: datetime, word: str, now: datetime) -> Backup:
    if (found := catalog.newest(until)) is not None:
        return found
    raise OpsError(
        f"there is no complete backup: {word}",
        detail=" ".join(_why_not(catalog, until, now)),
        hint=_hint(catalog, until),
    )


def _why_not(catalog: Catalog, until: datetime, now: datetime) -> Iterator[str]:
    """Yield what is there instead, in sentences."""
    if catalog.folder is not None:
        yield f"The folder is {catalog.folder}{'' if catalog.folder.exists() else ', which is not there'}."
    if incomplete := sum(1 for _ in catalog.opened(until=until)):
        yield f"{incomplete} are listed and none is complete."
    elif oldest := next((b for b in catalog.opened(oldest_first=True) if b.taken_at <= now), None):
        yield f"The oldest is {oldest.id}."
    if ahead := catalog.ahead(now):
        yield f"{', '.join(entry.id for entry in ahead[:3])}: dated in the future, so a clock was wrong."
    if catalog.other_sites:
        yield f"There are {catalog.other_sites} of other sites."


def _hint(catalog: Catalog, until: datetime) -> str:
    """Return where to look; never to take a backup now, which would keep the damage and push others out."""
    if any(entry.taken_at > until for entry in catalog.entries):
        return "Write a later time or an id; `invoke backup.list` shows them."
    return ELSEWHERE


def _by_path(path: Path) -> Backup:
    if not path.exists():
        raise OpsError(f"there is no file {path}", hint="List the backups with `invoke backup.list`.")
    return open_backup(path)


def _by_id(catalog: Catalog, wanted: str) -> Backup:
    exact = [entry for entry in (*catalog.entries, *catalog.others) if entry.id == wanted]
    begun = exact or [entry for entry in catalog.entries if entry.id.startswith(wanted)]
    if not wanted.startswith("polyladder_") or not begun:
        raise OpsError(
            f"there is no backup {wanted}", hint=f"{_EXAMPLES} List them with `invoke backup.list`."
        )
    if len(begun) > 1:
        some = ", ".join(entry.id for entry in begun[:5])
        raise UsageError(
            f"{wanted} fits {len(begun)} backups", detail=f"They are {some}.", hint="Write more of the id."
        )
    return begun[0].open()
