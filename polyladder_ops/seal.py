"""What a manifest tells of an encrypted backup's contents, sealed to the same keys as the data.

A digest without a key gives a small value away: whoever reads it tries all of them in a second. So only what finds,
orders and guards a backup stays in the clear: its names, counts, sizes, times and sha256. The seal holds the whole
manifest, its clear part too, so that one that was exchanged, or a clear part that was changed, is told.
"""

from __future__ import annotations

import base64
import gzip
import io
import zlib
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pydantic

from polyladder_ops import encryption
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import FORMAT, SEALED_FORMAT, Manifest
from polyladder_ops.postgres.described import DatabaseProperties

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.catalog import Backup

__all__ = ["closed", "known", "opened"]

_LIMIT_BYTES = 1 << 27  # of an opened one: what is packed a thousandfold must not fill the memory
_UNKNOWN = DatabaseProperties(
    **dict.fromkeys(("owner", "encoding", "collate", "ctype", "locale_provider", "locale", "icu_rules"), ""),
    **dict.fromkeys(("collation_version", "tablespace", "comment"), ""),
    connection_limit=-1, is_template=False, grants=(), settings=(), security_labels=(),
)  # fmt: skip
_BLANK: dict[str, Any] = {
    **dict.fromkeys(("snapshot", "wal_position", "expressions"), ""),
    **dict.fromkeys(("sequences", "objects", "extensions", "roles", "prepared_transactions"), ()),
    **dict.fromkeys(("materialized_views", "not_included", "warnings", "lost"), ()),
    "session": {},
    "properties": _UNKNOWN,
    "migration_head": None,
}


def closed(manifest: Manifest, recipients: Sequence[Any]) -> Manifest:
    """Return the manifest as it is stored beside an encrypted backup; as it is without recipients.

    Raise OpsError if it is too large to be opened again.
    """
    if not recipients:
        return manifest
    data = manifest.model_dump_json().encode()
    if len(data) > _LIMIT_BYTES:
        raise OpsError(
            f"the manifest would have {len(data):,} bytes", detail=f"{_LIMIT_BYTES:,} can be opened again."
        )
    sealed = io.BytesIO()
    encryption.encrypt(io.BytesIO(gzip.compress(data, mtime=0)), sealed, recipients)
    text = base64.b64encode(sealed.getvalue()).decode("ascii")
    return _clear(manifest).model_copy(update={"sealed": text})


def opened(manifest: Manifest, keys: Sequence[Any]) -> Manifest:
    """Return the whole manifest; one that was never sealed as it is.

    Raise NoKey if no key fits, OpsError if the seal is damaged or is another backup's.
    """
    if not manifest.is_sealed:
        return manifest
    try:
        sealed = base64.b64decode(manifest.sealed, validate=True)
        packed = io.BytesIO()
        encryption.decrypt(io.BytesIO(sealed), packed, keys)
        inner = Manifest.model_validate_json(_unpacked(packed.getvalue()))
    except encryption.Altered as error:
        raise _damaged(manifest, f"{error.message}. {error.detail}") from error
    except pydantic.ValidationError as error:
        raise _damaged(manifest, "what was sealed is no manifest") from error
    except (ValueError, zlib.error) as error:
        raise _damaged(manifest, str(error)) from error
    if inner.format != FORMAT or _clear(inner) != manifest.model_copy(update={"sealed": ""}):
        raise _damaged(manifest, "it was made for another backup, or what stands in the clear was changed")
    return inner


def known(backup: Backup, keys: Sequence[Any]) -> Backup:
    """Return the backup with its whole manifest. Raise as `opened` does."""
    return replace(backup, manifest=opened(backup.manifest, keys)) if backup.manifest.is_sealed else backup


def _clear(manifest: Manifest) -> Manifest:
    """Return what everybody may read of it."""
    tables = tuple(replace(table, digest="") for table in manifest.tables)
    large_objects = tuple(replace(each, digest="") for each in manifest.large_objects)
    shown = {"format": SEALED_FORMAT, "tables": tables, "large_objects": large_objects}
    return manifest.model_copy(update={**_BLANK, **shown})


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    data = unpacker.decompress(packed, _LIMIT_BYTES)
    if not unpacker.eof:
        raise ValueError("it ends too soon, or is too large")
    return data


def _damaged(manifest: Manifest, why: str) -> OpsError:
    return OpsError(
        f"the sealed part of the manifest of {manifest.id} is damaged",
        detail=f"{why.rstrip('. ')}.",
        hint="Use another backup: `invoke backup.list`.",
    )
