"""What tasks can do with a file that no manifest stands beside: read all of it, and say what nobody can prove of it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup

__all__ = ["is_meant", "refuse_extract", "show", "verify"]


def is_meant(word: str) -> bool:
    """Whether --backup names such a file."""
    from polyladder_ops import oldfiles

    return bool(word) and oldfiles.is_old(Path(word))


def verify(place: Any, word: str, *, as_json: bool) -> None:
    """Read the file to its end, tell what is in it, and raise Mismatch: damaged, or at best whole and not proved."""
    from polyladder_ops.gzipped import Damaged
    from polyladder_ops.postgres.sqlscan import DumpError

    try:
        backup = _described(place, word)
    except (Damaged, DumpError) as error:
        raise Mismatch(
            f"{Path(word).name} FAILED: {error.message.partition(': ')[2] or error.message}",
            detail=error.detail,
            hint=error.hint or "Choose another: `invoke backup.list`.",
        ) from error
    _tell(backup, as_json=as_json)
    raise Mismatch(
        f"{backup.path.name} is whole, and not proved",
        detail="Every byte was read and the dump in it ends as a dump must; nothing says what was in the database.",
        hint=f"See what it restores to: `invoke restore --backup={shlex.quote(word)} --into=look`.",
    )


def show(place: Any, word: str, *, as_json: bool) -> None:
    """Read the file to its end and tell what is in it, and what can't be proved."""
    _tell(_described(place, word), as_json=as_json)


def refuse_extract(word: str) -> None:
    """Raise OpsError: single tables are proved against a manifest, and there is none; the way round it is named."""
    raise OpsError(
        f"{Path(word).name} has no manifest beside it, so single tables can't be proved",
        hint=f"Restore all of it beside: `invoke restore --backup={shlex.quote(word)} --into=look`; the tables are in"
        " the database look then.",
    )


def _described(place: Any, word: str) -> Backup:
    from polyladder_ops import oldfiles, terminal

    keys = place.keys(encrypted=word.endswith(".age"))
    with terminal.Progress(f"reading {Path(word).name}") as bar:
        return oldfiles.describe(
            Path(word), keys, site=place.name, like=oldfiles.UNKNOWN, progress=bar.advance
        )


def _tell(backup: Backup, *, as_json: bool) -> None:
    from polyladder_ops import oldfiles, report

    if as_json:
        output.document(report.as_row_of_file(backup, oldfiles.limits(backup)))
    else:
        output.lines(report.of_file(backup, oldfiles.limits(backup)))
