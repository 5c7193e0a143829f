"""The backups in a folder: which there are, which are whole, and which one a person means.

A backup exists when its manifest does. It is *complete* when manifest and data agree; `latest` is the newest complete
one of this site by the server's clock at the snapshot, never by a file's time, never another site's.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import records
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.manifest import Manifest, load

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.records import Record

__all__ = ["Backup", "Catalog", "find", "open_backup", "records_of", "scan"]

_MANIFEST = re.compile(r".+\.sql\.gz(\.age)?\.json")
_RECORD = re.compile(r"(?P<data>.+\.sql\.gz(?:\.age)?)\.(?:verify|pin|unpin)-\w+-\w+\.json")
_EXAMPLES = "Write latest, an id such as polyladder_20260105_020000, a path, or a time such as 2026-01-05."


@dataclass(frozen=True)
class Backup:
    """A manifest, the data file beside it (there or not), and what was recorded about it."""

    manifest: Manifest
    path: Path
    stored_bytes: int | None
    records: tuple[Record, ...]

    @property
    def id(self) -> str:
        """The file's stem."""
        return self.manifest.id

    @property
    def taken_at(self) -> datetime:
        """The server's clock at the snapshot."""
        return self.manifest.taken_at

    @property
    def complete(self) -> bool:
        """Whether the data file is there with the size that the manifest says; `verify` looks at every byte."""
        return self.stored_bytes == self.manifest.size_bytes

    @property
    def verified(self) -> bool:
        """Whether the last verification of these bytes passed."""
        return self.complete and records.is_verified(self.records)

    @property
    def failed(self) -> bool:
        """Whether the last verification of these bytes failed: worse than that nobody has looked."""
        last = records.last_verification(self.records)
        return self.complete and last is not None and last.verdict == "failed"

    @property
    def pinned(self) -> bool:
        """Whether somebody wants it kept."""
        return records.is_pinned(self.records)

    @property
    def flaw(self) -> str:
        """Why it is not complete; empty if it is."""
        if self.stored_bytes is None:
            return "its data file is missing"
        return "" if self.complete else "its data file has another size than its manifest says"


@dataclass(frozen=True)
class Catalog:
    """A folder's backups of one site, newest first, and what else was found there."""

    backups: tuple[Backup, ...] = ()
    others: tuple[Backup, ...] = ()
    unusable: tuple[OpsError, ...] = ()
    litter: tuple[str, ...] = ()

    @property
    def other_sites(self) -> int:
        """How many are there of other sites."""
        return len(self.others)

    @property
    def latest(self) -> Backup | None:
        """The newest complete backup."""
        return next((backup for backup in self.backups if backup.complete), None)


def scan(folder: Path, site: str) -> Catalog:
    """Return what the folder holds for this site; a folder that is not there holds nothing."""
    sizes = _sizes(folder)
    recorded = _records(folder, sizes)
    backups: list[Backup] = []
    others: list[Backup] = []
    unusable = []
    for name in sizes:
        if not _MANIFEST.fullmatch(name):
            continue
        try:
            manifest = load(folder / name)
        except OpsError as error:
            unusable.append(error)
            continue
        found = records.load_all(recorded[manifest.file], manifest.sha256)
        its_list = backups if manifest.site == site else others
        its_list.append(Backup(manifest, folder / manifest.file, sizes.get(manifest.file), found))
    backups.sort(key=lambda backup: (backup.taken_at, backup.id), reverse=True)
    return Catalog(tuple(backups), tuple(others), tuple(unusable), _litter(sizes))


def _sizes(folder: Path) -> dict[str, int]:
    """Return the files of a folder with their sizes. Raise OpsError if we may not look into it."""
    sizes = {}
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(FileNotFoundError):  # another run works here too
                    if entry.is_file():
                        sizes[entry.name] = entry.stat().st_size
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise OpsError(
            f"could not read the folder {folder}",
            detail=f"The file system says: {error.strerror or error}.",
            hint="Check its rights, or set BACKUP_DIR to another folder.",
        ) from error
    return sizes


def _records(folder: Path, names: Iterable[str]) -> dict[str, list[Path]]:
    """Return the records among these files by the data file that they speak of."""
    recorded = defaultdict(list)
    for name in names:
        if record := _RECORD.fullmatch(name):
            recorded[record["data"]].append(folder / name)
    return recorded


def records_of(data: Path) -> list[Path]:
    """Return the records that lie beside a data file, there or not, whichever bytes they speak of."""
    return _records(data.parent, _sizes(data.parent))[data.name]


def _litter(names: dict[str, int]) -> tuple[str, ...]:
    data = re.compile(r".+\.sql\.gz(\.age)?")
    return tuple(sorted(name for name in names if data.fullmatch(name) and f"{name}.json" not in names))


def open_backup(path: Path) -> Backup:
    """Return the backup whose data file or manifest this is, whatever site it is of.

    Raise OpsError if it has no usable manifest.
    """
    data = path.with_name(path.name.removesuffix(".json"))
    if not Path(f"{data}.json").exists():
        raise OpsError(
            f"{data.name} has no manifest beside it",
            detail="Without one nothing can be proved of it.",
            hint="Copy its .json file beside it, or choose another backup: `invoke backup.list`.",
        )
    manifest = load(Path(f"{data}.json"))
    sizes = _sizes(data.parent)
    found = records.load_all(_records(data.parent, sizes)[data.name], manifest.sha256)
    return Backup(manifest, data, sizes.get(data.name), found)


def find(catalog: Catalog, wanted: str, *, now: datetime) -> Backup:
    """Return the backup that a person's word names.

    ``latest``; an id or the unique beginning of one; a path; a day (its end in UTC) or an instant: the newest complete
    backup at or before it. Only a path or a whole id can name another site's. Raise UsageError if the word is none of
    these, OpsError if no backup fits or several do.
    """
    if not wanted or wanted.startswith("-"):
        raise UsageError(f"--backup={wanted} names no backup", hint=_EXAMPLES)
    if wanted == "latest":
        return _newest(catalog, datetime.max.replace(tzinfo=UTC), "latest")
    if (instant := parse_time(wanted)) is not None:
        if instant > now + timedelta(days=1):
            raise UsageError(f"{wanted} lies in the future", hint=_EXAMPLES)
        return _newest(catalog, instant, f"at or before {wanted}")
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


def _newest(catalog: Catalog, until: datetime, word: str) -> Backup:
    fitting = [b for b in catalog.backups if b.taken_at <= until]
    for backup in fitting:
        if backup.complete:
            return backup
    detail = f"{len(fitting)} are listed and none is complete." if fitting else ""
    hint = "Take one with `invoke backup`."
    if catalog.backups and not fitting:
        detail = f"The oldest is {catalog.backups[-1].id}."
        hint = "Write a later time; `invoke backup.list` shows them."
    if catalog.other_sites:
        detail = f"{detail} There are {catalog.other_sites} of other sites.".strip()
    raise OpsError(f"there is no complete backup: {word}", detail=detail, hint=hint)


def _by_path(path: Path) -> Backup:
    if not path.exists():
        raise OpsError(f"there is no file {path}", hint="List the backups with `invoke backup.list`.")
    return open_backup(path)


def _by_id(catalog: Catalog, wanted: str) -> Backup:
    exact = [backup for backup in (*catalog.backups, *catalog.others) if backup.id == wanted]
    begun = exact or [backup for backup in catalog.backups if backup.id.startswith(wanted)]
    if not wanted.startswith("polyladder_") or not begun:
        raise OpsError(
            f"there is no backup {wanted}", hint=f"{_EXAMPLES} List them with `invoke backup.list`."
        )
    if len(begun) > 1:
        some = ", ".join(backup.id for backup in begun[:5])
        raise UsageError(
            f"{wanted} fits {len(begun)} backups", detail=f"They are {some}.", hint="Write more of the id."
        )
    return begun[0]
