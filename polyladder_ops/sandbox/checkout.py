"""The checkout of the sandbox's app: a package with the migrations that its database notes.

They say nothing: the sandbox makes its data in another way. The one that `invoke sandbox.break` runs is a file like any other.
"""

from __future__ import annotations

import json
from contextlib import closing
from importlib import resources
from typing import TYPE_CHECKING

from polyladder_ops.app.checkout import PACKAGE
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import newest, session

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

__all__ = ["BAD", "bad_migration", "make", "pull_bad_migration"]

BAD = "1767578400000_drop-unused-translations"
"""The migration of one bad evening."""
_QUIET = (
    "-- Up Migration\nSELECT 1; -- The sandbox has it from its beginning.\n-- Down Migration\nSELECT 1;\n"
)


def make(folder: Path, target: Target) -> None:
    """Make the checkout of what the sandbox's database notes, if it is not there. Raise OpsError if that can't be asked."""
    migrations = folder / "migrations"
    if migrations.is_dir():
        return
    with closing(session.connect(target)) as connection, session.translated("could not ask for migrations"):
        noted = newest.migrations(connection) or ()
    half = folder / ".migrations"
    half.mkdir(parents=True, exist_ok=True)
    for each in noted:
        (half / f"{each.name}.sql").write_text(
            bad_migration() if each.name == BAD else _QUIET, encoding="utf-8"
        )
    described = {"name": PACKAGE, "private": True, "scripts": {"migrate:up": "node-pg-migrate up"}}
    (folder / "package.json").write_text(json.dumps(described, indent=1), encoding="utf-8")
    half.rename(migrations)


def bad_migration() -> str:
    """Return the text of the bad migration."""
    return resources.files(__package__).joinpath(f"{BAD}.sql").read_text(encoding="utf-8")


def pull_bad_migration(folder: Path) -> None:
    """Put the bad migration into the checkout, as a colleague's push would. Raise OpsError if there is no checkout."""
    if not (folder / "migrations").is_dir():
        raise OpsError(f"there is no checkout in {folder}", hint="Run `invoke sandbox.up`.")
    (folder / "migrations" / f"{BAD}.sql").write_text(bad_migration(), encoding="utf-8")
