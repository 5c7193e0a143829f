"""Files of the app's checkout, read as they should be: ordinary ones, of a size that people write."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

from polyladder_ops import plainfile
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["json_object", "text"]

_MOST_BYTES = 64 << 20


def text(path: Path) -> str:
    """Return what is in a file; bytes that are no text are replaced, as node does. Raise OpsError if it can't be read."""
    with _telling(path):
        return _read(path)


def json_object(path: Path) -> dict[str, Any]:
    """Return the object in a file of JSON, an empty one if it is not there or holds another value.

    Raise OpsError if it can't be read.
    """
    with _telling(path), contextlib.suppress(FileNotFoundError, NotADirectoryError):
        found = json.loads(_read(path))
        return found if isinstance(found, dict) else {}
    return {}


def _read(path: Path) -> str:
    return plainfile.read(path, _MOST_BYTES, through_links=True).decode("utf-8", "replace")


@contextlib.contextmanager
def _telling(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, RecursionError) as error:
        raise OpsError(
            f"could not read {path}",
            detail=f"{getattr(error, 'strerror', None) or error}.",
            hint="Look at that file of the app's checkout: `git status` tells whether it is the app's own.",
        ) from error
