"""The source's own texts of its expressions, as a manifest keeps them: packed.

They are definitions, and in them may stand what nobody else is to read; whoever can read the dump can read them: beside an
encrypted backup they are sealed with the rest of the manifest, or, before that was, by themselves.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING, Any

from polyladder_ops import encryption
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.described import Expressions

__all__ = ["packed", "unpacked"]

_AGE = b"age-encryption.org/"  # how its bytes begin


def packed(expressions: Expressions, recipients: Sequence[Any] = ()) -> str:
    """Return the texts as one line of base64: gzip of JSON, encrypted with age if there are recipients; never empty."""
    rows = [[*key, text] for key, text in sorted(expressions.items())]
    data = gzip.compress(json.dumps(rows, ensure_ascii=False, separators=(",", ":")).encode(), mtime=0)
    if recipients:
        sealed = io.BytesIO()
        encryption.encrypt(io.BytesIO(data), sealed, recipients)
        data = sealed.getvalue()
    return base64.b64encode(data).decode("ascii")


def unpacked(manifest: Manifest, keys: Sequence[Any]) -> Expressions | None:
    """Return the texts that a manifest keeps, None if it was written before there were any.

    Raise OpsError if no key fits, or if they are damaged.
    """
    if not manifest.expressions:
        return None
    try:
        data = base64.b64decode(manifest.expressions, validate=True)
        if data.startswith(_AGE):
            opened = io.BytesIO()
            encryption.decrypt(io.BytesIO(data), opened, keys)
            data = opened.getvalue()
        rows = json.loads(gzip.decompress(data))
        return {(str(kind), str(name), str(slot)): str(text) for kind, name, slot, text in rows}
    except (encryption.Altered, ValueError, TypeError, EOFError, OSError, zlib.error) as error:
        raise OpsError(
            f"the definitions in the manifest of {manifest.id} are damaged",
            detail=f"{error}.".replace("..", "."),
            hint="Use another backup: `invoke backup.list`.",
        ) from error
