"""Deleting the backups whose time is over, and pinning those that shall stay whatever their age.

What goes is decided by `retention`, by `guards` that were read to their ends, and done here under the folder's lock, in an order that a kill can't turn into a lie:
the manifest becomes a tombstone (`….sql.gz.pruned`), and from then on no backup is listed; then the data goes, then its
records, the tombstone last. The next run ends what a killed one has begun: data beside a tombstone goes only if it has
the size and sha256 that stand there, so nothing else of that name is ever deleted. Where too few guards stand meanwhile, a
deletion that was begun is taken back instead.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pydantic

from polyladder_ops import catalog, plainfile, portable, records, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.guards import Reader, touched
from polyladder_ops.manifest import MOST_BYTES, Manifest
from polyladder_ops.portable import sync_directory
from polyladder_ops.records import Record
from polyladder_ops.workspace import folder_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Backup, Entry
    from polyladder_ops.guards import Damage
    from polyladder_ops.retention import Decision, Rule

__all__ = ["Outcome", "begun", "pin", "preview", "prune", "unpin"]

_TOMBSTONE = ".pruned"
_NAMES_S = (
    0.1  # how old the names may be that a deletion trusts; reading those of a full folder takes a tenth of it
)
_AGAIN = "Look with `invoke backup.list`, then run `invoke backup.prune` again."


@dataclass(frozen=True)
class Outcome:
    """What was decided and what is gone now; `ended` are ids of backups whose deletion a killed run had begun.

    `back` are those of which such a deletion was taken back, `damages` what would have been a guard and is not whole. With
    a `failure` some of what should go may still be there.
    """

    decisions: tuple[Decision[Entry], ...] = ()
    gone: tuple[Entry, ...] = ()
    ended: tuple[str, ...] = ()
    back: tuple[str, ...] = ()
    damages: tuple[Damage, ...] = ()
    failure: OpsError | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """Return what is gone by this run's doing."""
        return (*(backup.id for backup in self.gone), *self.ended)


def preview(folder: Path, site: str, rule: Rule, *, now: datetime) -> Outcome:
    """Return what `prune` would do now, by the same look at the same bytes; nothing is changed."""
    tombstones = [m for _, m in _tombstones(folder, site)]
    manifests = [m for m in tombstones if not (folder / f"{m.file}.json").exists()]
    judged = Reader().judge(catalog.scan(folder, site), rule, now, begun=bool(manifests))
    back = [m.id for m in manifests if not judged.enough and _is_still_there(folder, m)]
    ended = tuple(manifest.id for manifest in manifests if manifest.id not in back)
    return Outcome(judged.decisions, ended=ended, back=tuple(back), damages=judged.damages)


def prune(folder: Path, site: str, rule: Rule, *, now: datetime, patience_s: float = 60.0) -> Outcome:
    """Delete the site's backups whose time is over, look again, and return what went.

    Everything is decided under the lock, so a pin or a backup of another run comes before or after it. That a guard is
    damaged is recorded beside it. Raise Refused if another run keeps the lock, OpsError if we can't look into the folder;
    what fails later is the outcome's failure.
    """
    if not folder.exists():
        return Outcome()
    reader = Reader()
    reader.judge(
        catalog.scan(folder, site), rule, now, begun=bool(begun(folder, site))
    )  # long, so not in the lock
    with folder_lock(folder, doing="pruning backups", timeout_s=patience_s):
        judged = reader.judge(catalog.scan(folder, site), rule, now, begun=bool(begun(folder, site)))
        gone: list[Entry] = []
        ended: list[str] = []
        back: list[str] = []
        failure = None
        try:
            with _on_disk(folder):
                _end_what_was_begun(folder, site, ended, back, justified=judged.enough)
                if judged.any_goes:
                    _delete_all(judged.decisions, judged.guards, gone, _Watch(folder))
                    _look_again(judged.decisions, judged.guards, _Watch(folder))
                _record_damages(judged.damages)
        except OpsError as error:
            failure = error
    return Outcome(judged.decisions, tuple(gone), tuple(ended), tuple(back), judged.damages, failure)


def _record_damages(damages: Sequence[Damage]) -> None:
    """Keep beside each backup what was seen of it, so that every list says it from now on."""
    for damage in damages:
        if damage.seen and not (backup := damage.backup.open()).failed:
            failure = {"level": "stored", "verdict": "failed"}
            records.append(backup.path, _record(backup, "verify", damage.why, **failure))


def begun(folder: Path, site: str) -> tuple[str, ...]:
    """Return the ids of the backups whose deletion a killed run has begun."""
    return tuple(manifest.id for _, manifest in _tombstones(folder, site))


@contextlib.contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Within the block what the file system refuses becomes an OpsError."""
    try:
        yield
    except OSError as error:
        raise OpsError(
            "could not delete all old backups",
            detail=f"{error.filename or folder}: {error.strerror or error}.",
            hint=f"Check the rights of {folder}, then run `invoke backup.prune` again.",
        ) from error


def _delete_all(
    decisions: Sequence[Decision[Entry]], guards: Sequence[Entry], gone: list[Entry], watch: _Watch
) -> None:
    """Delete what shall go; before each one look whether it, and what must stand, are still what was decided on."""
    for decision in decisions:
        if not decision.goes:
            continue
        for backup in (decision.backup, *guards):
            watch.check(backup)
        _delete(decision.backup)
        gone.append(decision.backup)


@dataclass
class _Watch:
    """Whether backups are still what was decided on: their own files at each look, the folder's names every moment."""

    folder: Path
    listing: catalog.Listing = field(default_factory=catalog.Listing)
    listed_at: float = float("-inf")
    seen: dict[str, object] = field(default_factory=dict)

    def check(self, backup: Entry) -> None:
        """Raise OpsError if what is on the disk is not this backup any more: somebody works there without the lock."""
        if time.monotonic() - self.listed_at > _NAMES_S:
            self.listing, self.listed_at = catalog.names_in(self.folder), time.monotonic()
        if not self.listing.shows(backup) or not self._is_same(backup):
            raise OpsError(
                f"backup {backup.id} was changed meanwhile",
                detail="It is not what it was when it was decided what goes, so nothing more was deleted.",
                hint=_AGAIN,
            )

    def _is_same(self, backup: Entry) -> bool:
        """Open it again, unless no file of it was touched since we did."""
        states = [touched(backup.path.with_name(f"{backup.file}{suffix}")) for suffix in ("", ".json")]
        if self.seen.get(backup.file) != states:
            if replace(backup).facts != backup.facts:
                return False
            self.seen[backup.file] = states
        return True


def _delete(backup: Entry) -> None:
    facts = backup.facts
    assert facts is not None, "what can't be opened is not deleted"
    tombstone = backup.path.with_name(backup.file + _TOMBSTONE)
    if not backup.complete:  # it can't be taken for whole, and bytes like these would not be known again
        backup.path.unlink(missing_ok=True)
    backup.path.with_name(f"{backup.file}.json").replace(tombstone)
    sync_directory(tombstone.parent)
    backup.path.unlink(missing_ok=True)
    _bury(tombstone, backup.record_paths, facts.sha256)


def _bury(tombstone: Path, recorded: Sequence[Path], sha256: str) -> None:
    """Remove the records that speak of these bytes, and then the last that is left of the backup."""
    for path in recorded:
        if any(not record.damaged for record in records.load_all([path], sha256)):
            path.unlink(missing_ok=True)
    sync_directory(tombstone.parent)
    tombstone.unlink()
    sync_directory(tombstone.parent)


def _end_what_was_begun(
    folder: Path, site: str, ended: list[str], back: list[str], *, justified: bool
) -> None:
    for tombstone, manifest in _tombstones(folder, site):
        data = folder / manifest.file
        listed = data.with_name(f"{data.name}.json")
        if listed.exists():  # somebody has put the backup back
            tombstone.unlink()
            continue
        is_there = _is_still_there(folder, manifest)
        if is_there and not justified:
            tombstone.replace(listed)
            sync_directory(folder)
            back.append(manifest.id)
            continue
        if is_there:
            data.unlink()
        _bury(tombstone, catalog.records_of(data), manifest.sha256)
        ended += [] if data.exists() else [manifest.id]


def _is_still_there(folder: Path, manifest: Manifest) -> bool:
    """Whether the data of a deletion that was begun is there, and is these very bytes."""
    data = folder / manifest.file
    return data.exists() and storage.fingerprint(data) == (manifest.size_bytes, manifest.sha256)


def _tombstones(folder: Path, site: str) -> Iterator[tuple[Path, Manifest]]:
    """Yield the site's tombstones with the manifests that they were; a file that is none stays what it is."""
    for path in sorted(folder.glob(f"*{_TOMBSTONE}")):
        if not re.fullmatch(r".+\.sql\.gz(\.age)?", path.name.removesuffix(_TOMBSTONE)):
            continue
        try:
            manifest = Manifest.model_validate_json(plainfile.read(path, MOST_BYTES))
        except (OSError, pydantic.ValidationError):
            continue
        if (manifest.site, manifest.file) == (site, path.name.removesuffix(_TOMBSTONE)):
            yield path, manifest


def _look_again(decisions: Sequence[Decision[Entry]], guards: Sequence[Entry], watch: _Watch) -> None:
    """Raise OpsError unless all that should go is gone, and all that should stay is there as before."""
    listing = catalog.names_in(watch.folder)
    for decision in decisions:
        backup = decision.backup
        if not decision.goes and not listing.shows(backup):
            raise OpsError(f"backup {backup.id} should stay and is not what it was", hint=_AGAIN)
        if decision.goes and listing.names & {backup.file, f"{backup.file}.json"}:
            raise OpsError(f"backup {backup.id} was deleted and is there again", hint=_AGAIN)
    for backup in guards:
        watch.check(backup)


def pin(backup: Backup, *, reason: str = "") -> Backup:
    """Return the backup as it is pinned; pinning it twice is fine.

    Raise Refused if another run keeps the folder, OpsError if the backup is gone or this can't be recorded beside it.
    """
    return _mark(backup, "pin", reason)


def unpin(backup: Backup) -> Backup:
    """Return the backup as it is without a pin. Raise as `pin` does."""
    return _mark(backup, "unpin", "")


def _mark(chosen: Backup, kind: records.Kind, reason: str) -> Backup:
    wanted = kind == "pin"
    with folder_lock(chosen.path.parent, doing=f"recording {'a pin' if wanted else 'that a pin is gone'}"):
        backup = catalog.open_backup(chosen.path)
        if backup.pinned == wanted and not reason:
            return backup
        try:
            records.append(backup.path, _record(backup, kind, reason))
        except OSError as error:
            raise OpsError(
                f"could not {kind} backup {backup.id}",
                detail=f"{error.strerror or error}: {backup.path.parent}.",
                hint="Make the folder writable and try again.",
            ) from error
        seen = catalog.open_backup(backup.path)
    if seen.pinned != wanted:
        raise OpsError(f"could not {kind} backup {backup.id}", detail="The record is not to be read again.")
    return seen


def _record(backup: Backup, kind: records.Kind, reason: str, **more: Any) -> Record:
    return Record(
        kind=kind,
        backup=backup.id,
        sha256=backup.manifest.sha256,
        at=records.instant_after(backup.records),
        by=portable.by_whom(),
        details=(reason,) if reason else (),
        **more,
    )
