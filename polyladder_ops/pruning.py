"""Deleting the backups whose time is over, and pinning those that shall stay whatever their age.

What goes is decided by `retention` and done here under the folder's lock, in an order that a kill can't turn into a lie:
the manifest becomes a tombstone (`….sql.gz.pruned`), and from then on no backup is listed; then the data goes, then its
records, the tombstone last. The next run ends what a killed one has begun: data beside a tombstone goes only if it has
the size and sha256 that stand there, so nothing else of that name is ever deleted.
"""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydantic

from polyladder_ops import catalog, portable, records, retention, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import Manifest
from polyladder_ops.portable import sync_directory
from polyladder_ops.records import Record
from polyladder_ops.workspace import folder_lock

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.retention import Decision, Rule

__all__ = ["Outcome", "begun", "pin", "prune", "unpin"]

_TOMBSTONE = ".pruned"
_AGAIN = "Look with `invoke backup.list`, then run `invoke backup.prune` again."


@dataclass(frozen=True)
class Outcome:
    """What was decided and what is gone now; `ended` are ids of backups whose deletion a killed run had begun.

    With a `failure` some of what should go may still be there.
    """

    decisions: tuple[Decision, ...] = ()
    gone: tuple[Backup, ...] = ()
    ended: tuple[str, ...] = ()
    failure: OpsError | None = None

    @property
    def ids(self) -> tuple[str, ...]:
        """Return what is gone by this run's doing."""
        return (*(backup.id for backup in self.gone), *self.ended)


def prune(folder: Path, site: str, rule: Rule, *, now: datetime, patience_s: float = 60.0) -> Outcome:
    """Delete the site's backups whose time is over, look again, and return what went.

    Everything is decided under the lock, so a pin or a backup of another run comes before or after it. Raise Refused if
    another run keeps the lock, OpsError if we can't look into the folder; what fails later is the outcome's failure.
    """
    if not folder.exists():
        return Outcome()
    with folder_lock(folder, doing="pruning backups", timeout_s=patience_s):
        backups = catalog.scan(folder, site).backups
        decisions = retention.decide(backups, rule, now)
        gone: list[Backup] = []
        ended: list[str] = []
        failure = None
        try:
            with _on_disk(folder):
                _end_what_was_begun(folder, site, ended)
                _delete_all(decisions, retention.guards(backups, rule, now).all, gone)
                if gone:
                    _look_again(folder, site, decisions)
        except OpsError as error:
            failure = error
    return Outcome(decisions, tuple(gone), tuple(ended), failure)


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


def _delete_all(decisions: Sequence[Decision], guards: Sequence[Backup], gone: list[Backup]) -> None:
    """Delete what shall go; before each one look whether it, and what must stand, are still what was decided on."""
    for decision in decisions:
        if not decision.goes:
            continue
        for backup in (decision.backup, *guards):
            _unchanged(backup)
        _delete(decision.backup)
        gone.append(decision.backup)


def _unchanged(backup: Backup) -> None:
    """Raise OpsError if what is on the disk is not this backup any more: somebody works there without the lock."""
    manifest = backup.path.with_name(f"{backup.path.name}.json")
    if not manifest.exists() or catalog.open_backup(backup.path) != backup:
        raise OpsError(
            f"backup {backup.id} was changed meanwhile",
            detail="It is not what it was when it was decided what goes, so nothing more was deleted.",
            hint=_AGAIN,
        )


def _delete(backup: Backup) -> None:
    tombstone = backup.path.with_name(backup.path.name + _TOMBSTONE)
    if not backup.complete:  # it can't be taken for whole, and bytes like these would not be known again
        backup.path.unlink(missing_ok=True)
    backup.path.with_name(f"{backup.path.name}.json").replace(tombstone)
    sync_directory(tombstone.parent)
    backup.path.unlink(missing_ok=True)
    _bury(tombstone, backup.path, backup.manifest)


def _bury(tombstone: Path, data: Path, manifest: Manifest) -> None:
    """Remove the records that speak of these bytes, and then the last that is left of the backup."""
    for path in catalog.records_of(data):
        if records.load_all([path], manifest.sha256):
            path.unlink(missing_ok=True)
    sync_directory(tombstone.parent)
    tombstone.unlink()
    sync_directory(tombstone.parent)


def _end_what_was_begun(folder: Path, site: str, ended: list[str]) -> None:
    for tombstone, manifest in _tombstones(folder, site):
        data = folder / manifest.file
        if data.with_name(f"{data.name}.json").exists():  # somebody has put the backup back
            tombstone.unlink()
            continue
        if data.exists() and storage.fingerprint(data) == (manifest.size_bytes, manifest.sha256):
            data.unlink()
        _bury(tombstone, data, manifest)
        ended += [] if data.exists() else [manifest.id]


def _tombstones(folder: Path, site: str) -> Iterator[tuple[Path, Manifest]]:
    """Yield the site's tombstones with the manifests that they were; a file that is none stays what it is."""
    for path in sorted(folder.glob(f"*{_TOMBSTONE}")):
        if not re.fullmatch(r".+\.sql\.gz(\.age)?", path.name.removesuffix(_TOMBSTONE)):
            continue
        try:
            manifest = Manifest.model_validate_json(path.read_bytes())
        except (OSError, pydantic.ValidationError):
            continue
        if (manifest.site, manifest.file) == (site, path.name.removesuffix(_TOMBSTONE)):
            yield path, manifest


def _look_again(folder: Path, site: str, decisions: Sequence[Decision]) -> None:
    """Raise OpsError unless all that should go is gone, and all that should stay is there as before."""
    listed = {backup.path: backup for backup in catalog.scan(folder, site).backups}
    for decision in decisions:
        backup = decision.backup
        if not decision.goes and listed.get(backup.path) != backup:
            raise OpsError(f"backup {backup.id} should stay and is not what it was", hint=_AGAIN)
        if decision.goes and (backup.path in listed or backup.path.exists()):
            raise OpsError(f"backup {backup.id} was deleted and is there again", hint=_AGAIN)


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


def _record(backup: Backup, kind: records.Kind, reason: str) -> Record:
    return Record(
        kind=kind,
        backup=backup.id,
        sha256=backup.manifest.sha256,
        at=records.instant_after(backup.records),
        by=portable.by_whom(),
        details=(reason,) if reason else (),
    )
