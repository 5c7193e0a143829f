"""How a backup comes to its final names: data first, manifest last, both read back; else nothing of it is there."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from polyladder_ops import catalog, seal, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.portable import give_name, sync_directory, write_private
from polyladder_ops.workspace import folder_lock

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.storage import Stored

__all__ = ["publish"]


def publish(
    folder: Path, work: Path, data: Path, manifest: Manifest, stored: Stored, *, recipients: Sequence[Any]
) -> Backup:
    """Return the backup, when data and manifest have their final names, the manifest last, and were looked at there.

    Its manifest is sealed to these recipients, if there are any. Raise OpsError if either reads back otherwise than it was
    written: then neither is there.
    """
    suffix = ".sql.gz.age" if manifest.encrypted else ".sql.gz"
    with folder_lock(folder, doing="publishing a backup"):
        named = _free_id(folder, manifest.id)
        manifest = manifest.model_copy(update={"id": named, "file": named + suffix})
        described = work / "manifest.json"
        closed = seal.closed(manifest, recipients)
        write_private(described, closed.to_json())
        final, final_manifest = folder / manifest.file, folder / f"{manifest.file}.json"
        try:
            _link(data, final)
            sync_directory(folder)
            _link(described, final_manifest)
            sync_directory(folder)
            _read_back(final, manifest, stored)
            return replace(_listed(final, closed), manifest=manifest)
        except BaseException:
            # Nobody may meet the data without its manifest, or a false one.
            for name in (final_manifest, final):
                with suppress(OSError):
                    name.unlink(missing_ok=True)
            raise


def _read_back(final: Path, manifest: Manifest, stored: Stored) -> None:
    if not storage.holds(final, stored):
        raise OpsError(
            f"backup {manifest.id} reads back otherwise than it was written",
            detail=f"Its {stored.size_bytes:,} bytes have become others, or are not all there.",
            hint=f"Check the disk under {final.parent}; then run `invoke backup` again.",
        )


def _listed(final: Path, closed: Manifest) -> Backup:
    """Return the backup as everybody meets it from now on."""
    found = catalog.open_backup(final)
    if found.manifest != closed:
        raise OpsError(
            f"the manifest of {found.id} reads back otherwise than it was written",
            hint=f"Check the disk under {final.parent}; then run `invoke backup` again.",
        )
    return found


def _free_id(folder: Path, wanted: str) -> str:
    """Return the id, or the first of its twins `_2`, `_3`, … that no file has, encrypted or not."""
    names = {path.name.split(".", 1)[0] for path in folder.iterdir()}
    number, named = 1, wanted
    while named in names:
        number += 1
        named = f"{wanted}_{number}"
    return named


def _link(source: Path, final: Path) -> None:
    """Publish under a name that must be free."""
    with source.open("rb") as file:
        os.fsync(file.fileno())
    give_name(source, final)
