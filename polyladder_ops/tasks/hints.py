"""A hint's command with the flags of the command that failed: without them it would mean another database.

The site stands behind every command that is told at all (`output.followed`).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from polyladder_ops import output
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["followed"]


@contextlib.contextmanager
def followed(database: str = "", *, into: str = "") -> Iterator[None]:
    """Within the block an error's hint names `--database` behind commands of migrations.

    And `--into` behind those that act on what a restore set aside.
    """

    def flags(command: str) -> dict[str, str]:
        is_aside = command.startswith(("restore.undo", "restore.discard"))
        is_migration = command.startswith("migrate")
        return {"--into": into if is_aside else "", "--database": database if is_migration else ""}

    try:
        yield
    except OpsError as error:
        error.hint = output.with_flags(error.hint, flags)
        raise
