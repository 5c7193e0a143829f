"""A hint's command with the flags of the command that failed: without them it would mean another database."""

from __future__ import annotations

import contextlib
import re
import shlex
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["followed"]

_COMMAND = re.compile(r"`invoke (?!sandbox|dev|--)([^`]+)`")


@contextlib.contextmanager
def followed(site: str, database: str = "", *, into: str = "") -> Iterator[None]:
    """Within the block `--site` stands behind each command that an error's hint names.

    So does `--database` behind those of migrations, and `--into` behind those that act on what a restore set aside.
    """
    try:
        yield
    except OpsError as error:
        error.hint = _COMMAND.sub(
            lambda found: f"`invoke {_with_flags(found[1], site, database, into)}`", error.hint
        )
        raise


def _with_flags(command: str, site: str, database: str, into: str) -> str:
    is_aside = command.startswith(("restore.undo", "restore.discard"))
    given = {
        "--into": into if is_aside else "",
        "--site": site,
        "--database": database if command.startswith("migrate") else "",
    }
    flags = [f"{flag}={shlex.quote(text)}" for flag, text in given.items() if text and flag not in command]
    return " ".join([command, *flags])
