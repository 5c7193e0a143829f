"""The backups in a folder: which there are, and which are whole. Which one a person means is `choosing`'s.

A backup exists when its manifest does. It is *complete* when manifest and data agree; `latest` is the newest complete
one of this site by the server's clock at the snapshot, never by a file's time, never another site's, and never one that is
dated after the present.

A folder may hold thousands. So `scan` reads of each manifest only the first lines, which say whose it is and of when; the
rest is read when a backup is opened, and only an opened one is chosen, counted on or deleted.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from polyladder_ops import clocks, plainfile, records
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import Manifest, load, read_head

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from collections.abc import Set as AbstractSet
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.records import Record

__all__ = [
    "Backup",
    "Catalog",
    "Entry",
    "Listing",
    "names_in",
    "open_backup",
    "records_of",
    "scan",
    "usable",
]

_DATA = re.compile(r".+\.sql\.gz(\.age)?")
_RECORD = re.compile(r"(?P<data>.+\.sql\.gz(?:\.age)?)\.(?P<kind>verify|pin|unpin|checks)-\w+-\w+\.json")


@dataclass(frozen=True)
class Backup:
    """A manifest, the data file beside it (there or not), and what was recorded about it.

    `oddity` is what has the data file's name instead of an ordinary file, such as "a link".
    """

    manifest: Manifest
    path: Path
    stored_bytes: int | None
    records: tuple[Record, ...]
    oddity: str = ""

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
    def level(self) -> str:
        """How deep these bytes were verified, `stored` or `restore`; empty if they were not, or a failure stands."""
        return records.standing(self.records).level if self.complete else ""

    @property
    def verified(self) -> bool:
        """Whether these bytes were verified, however deep, and no failure stands."""
        return bool(self.level)

    @property
    def failed(self) -> bool:
        """Whether a failure of these bytes stands: worse than that nobody has looked."""
        return self.complete and records.standing(self.records).failure is not None

    @property
    def checks_failed(self) -> tuple[str, ...]:
        """The names of the checks that failed on it when it was last restored and asked; none if all passed since."""
        return records.checks_failed(self.records)

    @property
    def pinned(self) -> bool:
        """Whether somebody wants it kept."""
        return records.is_pinned(self.records)

    @property
    def damaged(self) -> tuple[str, ...]:
        """Which records of it can't be read and what they are taken for, in sentences."""
        return tuple(why for record in self.records if record.damaged for why in record.details)

    @property
    def flaw(self) -> str:
        """Why it is not complete; empty if it is."""
        if self.oddity:
            return f"its data file is {self.oddity}, not a file of its own"
        if self.stored_bytes is None:
            return "its data file is missing"
        return "" if self.complete else "its data file has another size than its manifest says"


class _Facts(NamedTuple):
    """What is kept of a backup that was opened, since a whole manifest is too much to keep of each."""

    sha256: str
    size_bytes: int
    stored_bytes: int | None
    flaw: str
    level: str
    pinned: bool
    damaged: tuple[str, ...]
    failure: str
    oddity: str


@dataclass(frozen=True)
class Entry:
    """What a folder's names and the first lines of a manifest tell of a backup; what they don't is read when asked for.

    A manifest that turns out unusable makes no complete, verified or pinned backup.
    """

    folder: Path
    file: str
    site: str
    taken_at: datetime
    has_data: bool
    records: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """The file's stem, as the manifest must say too."""
        return self.file.removesuffix(".age").removesuffix(".sql.gz")

    @property
    def path(self) -> Path:
        """The data file, there or not."""
        return self.folder / self.file

    @property
    def record_paths(self) -> list[Path]:
        """The records beside it, whichever bytes they speak of."""
        return [self.folder / name for name in self.records]

    def open(self) -> Backup:
        """Return the backup. Raise OpsError if its manifest is unusable or not the one that was listed."""
        backup = _opened(self.path, self.record_paths)
        if (backup.manifest.site, backup.taken_at) != (self.site, self.taken_at):
            raise OpsError(f"backup {self.id} was changed meanwhile", hint="Look with `invoke backup.list`.")
        return backup

    @cached_property
    def facts(self) -> _Facts | None:
        """What matters of it once it was opened; None if it can't be."""
        try:
            backup = self.open()
        except OpsError:
            return None
        manifest = backup.manifest
        failure = records.standing(backup.records).failure
        why = "; ".join(failure.details[:3]) or "it failed" if failure else ""
        return _Facts(
            sha256=manifest.sha256,
            size_bytes=manifest.size_bytes,
            stored_bytes=backup.stored_bytes,
            flaw=backup.flaw,
            level=backup.level,
            pinned=backup.pinned,
            damaged=backup.damaged,
            failure=why,
            oddity=backup.oddity,
        )

    @property
    def complete(self) -> bool:
        """As a backup's."""
        return self.has_data and self.facts is not None and not self.facts.flaw

    @property
    def level(self) -> str:
        """As a backup's; without a record it need not be opened."""
        return self.facts.level if self._has("verify") and self.facts is not None else ""

    @property
    def verified(self) -> bool:
        """As a backup's."""
        return bool(self.level)

    @property
    def pinned(self) -> bool:
        """As a backup's; without a record it need not be opened."""
        return self._has("pin") and self.facts is not None and self.facts.pinned

    @property
    def flaw(self) -> str:
        """Why it is not complete; empty if it is."""
        return "its manifest is unusable" if self.facts is None else self.facts.flaw

    def _has(self, kind: str) -> bool:
        return any(name.startswith(f"{self.file}.{kind}-") for name in self.records)


@dataclass(frozen=True)
class Listing:
    """The names of a folder's files, and of the records among them by the data file that they speak of."""

    names: AbstractSet[str] = frozenset()
    records: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def shows(self, entry: Entry) -> bool:
        """Whether all files of this backup, and no more, are there by their names."""
        has_data, recorded = entry.file in self.names, self.records.get(entry.file, ())
        return f"{entry.file}.json" in self.names and (has_data, recorded) == (entry.has_data, entry.records)


@dataclass(frozen=True)
class Catalog:
    """A folder's backups of one site, newest first, and what else was found there; `headless` can't even be ordered."""

    entries: tuple[Entry, ...] = ()
    others: tuple[Entry, ...] = ()
    headless: tuple[OpsError, ...] = ()
    litter: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    @property
    def other_sites(self) -> int:
        """How many are there of other sites."""
        return len(self.others)

    @property
    def latest(self) -> Backup | None:
        """The newest complete backup that is not of the future by this machine's clock."""
        return self.newest(clocks.ours() + clocks.SKEW)

    def newest(self, present: datetime) -> Backup | None:
        """Return the newest complete backup that is not dated after the present."""
        return next((backup for backup in self.opened(until=present) if backup.complete), None)

    def ahead(self, present: datetime) -> tuple[Entry, ...]:
        """Return those that are dated after the present: a clock was wrong, so they are no `latest`."""
        return tuple(entry for entry in self.entries if entry.taken_at > present)

    def opened(
        self,
        unusable: list[OpsError] | None = None,
        *,
        oldest_first: bool = False,
        until: datetime | None = None,
    ) -> Iterator[Backup]:
        """Yield the backups, each opened when its turn comes; add to `unusable` what says why one can't be."""
        entries = reversed(self.entries) if oldest_first else self.entries
        return _each((entry for entry in entries if until is None or entry.taken_at <= until), unusable)

    @property
    def backups(self) -> tuple[Backup, ...]:
        """All of them, opened and held at once: for few."""
        return tuple(self.opened())

    @property
    def unusable(self) -> tuple[OpsError, ...]:
        """What is wrong with each manifest, of any site, that can't be read: reads all."""
        found = list(self.headless)
        for _ in _each((*self.entries, *self.others), found):
            pass
        return tuple(found)


def usable(entries: Iterable[Entry], unusable: list[OpsError]) -> Iterator[Entry]:
    """Yield those that can be opened; add to `unusable` what says why one can't be."""
    return (entry for entry in entries if any(_each([entry], unusable)))


def _each(entries: Iterable[Entry], unusable: list[OpsError] | None) -> Iterator[Backup]:
    for entry in entries:
        try:
            backup = entry.open()
        except OpsError as error:
            if unusable is not None and _manifest_of(entry.path).exists():  # else it was pruned meanwhile
                unusable.append(error)
            continue
        yield backup


def scan(folder: Path, site: str) -> Catalog:
    """Return what the folder holds for this site; a folder that is not there holds nothing."""
    listing = names_in(folder)
    entries: list[Entry] = []
    others: list[Entry] = []
    headless = []
    for name in listing.names:
        data = name.removesuffix(".json")
        if data == name or not _DATA.fullmatch(data):
            continue
        try:
            of_site, taken_at = read_head(folder, name)
        except OpsError as error:
            headless.append(error)
            continue
        its_list = entries if of_site == site else others
        found = listing.records.get(data, ())
        its_list.append(Entry(folder, data, of_site, taken_at, data in listing.names, found))
    for found_ones in (entries, others):
        found_ones.sort(key=lambda entry: (entry.taken_at, entry.file), reverse=True)
    headless.sort(key=str)
    return Catalog(tuple(entries), tuple(others), tuple(headless), _litter(listing.names), folder)


def names_in(folder: Path) -> Listing:
    """Return what a folder's names tell. Raise OpsError if we may not look into it."""
    try:
        with os.scandir(folder) as entries:
            # A link or a pipe is there by its name, and refused when it is opened: what has a loop has it then.
            names = {entry.name for entry in entries if not entry.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        return Listing()
    except OSError as error:
        raise OpsError(
            f"could not read the folder {folder}",
            detail=f"The file system says: {error.strerror or error}.",
            hint="Check its rights, or set BACKUP_DIR to another folder.",
        ) from error
    recorded = defaultdict(list)
    for name in names:
        if name.endswith(".json") and (record := _RECORD.fullmatch(name)):
            recorded[record["data"]].append(name)
    return Listing(names, {data: tuple(sorted(its)) for data, its in recorded.items()})


def records_of(data: Path) -> list[Path]:
    """Return the records that lie beside a data file, there or not, whichever bytes they speak of."""
    return [data.with_name(name) for name in names_in(data.parent).records.get(data.name, ())]


def _litter(names: AbstractSet[str]) -> tuple[str, ...]:
    return tuple(sorted(name for name in names if _DATA.fullmatch(name) and f"{name}.json" not in names))


def _manifest_of(data: Path) -> Path:
    return data.with_name(f"{data.name}.json")


def open_backup(path: Path) -> Backup:
    """Return the backup whose data file or manifest this is, whatever site it is of.

    Raise OpsError if it has no usable manifest.
    """
    data = path.with_name(path.name.removesuffix(".json"))
    if not _manifest_of(data).exists():
        raise OpsError(
            f"{data.name} has no manifest beside it",
            detail="Without one nothing can be proved of it.",
            hint="Copy its .json file beside it, or choose another backup: `invoke backup.list`.",
        )
    return _opened(data, records_of(data))


def _opened(data: Path, recorded: Iterable[Path]) -> Backup:
    manifest = load(_manifest_of(data))
    size, oddity = _size(data)
    recorded_here = records.load_all(recorded, manifest.sha256, _manifest_of(data))
    return Backup(manifest, data, size, recorded_here, oddity)


def _size(data: Path) -> tuple[int | None, str]:
    """Return a file's size, None if there is no ordinary file of that name, and what is there instead."""
    try:
        return plainfile.look(data).st_size, ""
    except FileNotFoundError:
        return None, ""
    except plainfile.NotOrdinary as error:
        return None, error.what
    except OSError as error:
        raise OpsError(f"could not look at {data}", detail=f"{error.strerror or error}.") from error
