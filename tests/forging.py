"""Backups that somebody changed: the data, the manifest, or both so that they agree."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
from typing import TYPE_CHECKING, Any

from polyladder_ops import catalog
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Ledger
from polyladder_ops.postgres.lexer import Lexer
from tests.factories import unchecked

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from polyladder_ops.catalog import Backup

Fields = dict[str, Any]


def damaged(backup: Backup, folder: Path, data: bytes | None) -> Backup:
    """Return the backup as it lies in another folder, with its manifest and these bytes (None: no file)."""
    folder.mkdir(exist_ok=True)
    path = folder / backup.path.name
    path.unlink(missing_ok=True)
    if data is not None:
        path.write_bytes(data)
    manifest = path.with_name(f"{path.name}.json")
    manifest.write_text(backup.manifest.to_json(), encoding="utf-8")
    return catalog.open_backup(path)


def lying(backup: Backup, folder: Path, lie: Callable[[Fields], object], data: bytes | None = None) -> Backup:
    """Return the backup in another folder, with a manifest that `lie` has changed, and perhaps other bytes."""
    made = damaged(backup, folder, backup.path.read_bytes() if data is None else data)
    manifest = made.path.with_name(f"{made.path.name}.json")
    fields = json.loads(unchecked(manifest.read_text(encoding="utf-8")))
    lie(fields)
    manifest.write_text(json.dumps(fields), encoding="utf-8")
    return catalog.open_backup(made.path)


def forged(
    backup: Backup, folder: Path, dump: bytes, lie: Callable[[Fields], object] | None = None
) -> Backup:
    """Return a backup of this dump whose manifest agrees with it in everything that the stored bytes tell."""
    data = gzip.compress(dump, mtime=0)
    ledger = Ledger()
    with contextlib.suppress(OpsError):  # what can't be read is to be refused by the code under test
        Lexer(ledger).feed(dump)

    def agree(fields: Fields) -> None:
        contents = ledger.contents
        fields |= {
            "size_bytes": len(data),
            "plain_bytes": len(dump),
            "sha256": hashlib.sha256(data).hexdigest(),
            "tables": [vars(table) for table in contents.tables],
            "sequences": [vars(sequence) for sequence in contents.sequences],
            "large_objects": [vars(large_object) for large_object in contents.large_objects],
        }
        if lie:
            lie(fields)

    return lying(backup, folder, agree, data)


def dump_of(backup: Backup) -> bytes:
    """Return the plain dump inside an unencrypted backup."""
    return gzip.decompress(backup.path.read_bytes())
