"""Backup and verify, plain and encrypted, against the old scripts' line, pg_dump alone, and gunzip.

The old way is the scripts' own line, through bash. Every backup is made anew in every pair.
"""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING

from polyladder_ops import backups, encryption, portable, usage
from polyladder_ops.bench import targets
from polyladder_ops.bench.stage import SITE, Stage, url
from polyladder_ops.usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from polyladder_ops.catalog import Backup

__all__ = ["OLD_BACKUP", "Backups", "take"]

# The scripts' own words; pipefail only lets the benchmark notice a pg_dump that failed, which the scripts did not.
OLD_BACKUP = (
    'set -o pipefail; pg_dump "$DATABASE_URL" --no-owner --no-acl | gzip > "$1" && exec gunzip -t "$1"'
)


def take(stage: Stage, scale: float, folder: Path) -> Backup:
    """Return a backup of the data of this scale, taken by the library in this process."""
    return backups.take(stage.filled(scale), folder, site=SITE, private=stage.folder / "state")


class Backups:
    """The ways of the part, each once a pair."""

    def __init__(self, stage: Stage, scale: float) -> None:
        self.plain_bytes = 0
        self._stage = stage
        self._scale = scale
        self._plain, self._sealed = stage.folder / "plain", stage.folder / "sealed"
        self._old_file = stage.folder / "old.sql.gz"
        self._key = stage.folder / "identity.txt"
        public, secret = encryption.new_pair()
        portable.write_private(self._key, f"{secret}\n")
        self._encrypted = {"BACKUP_AGE_RECIPIENTS": public, "BACKUP_AGE_IDENTITY_FILE": str(self._key)}
        stage.filled(scale)
        self._floor()  # everything was read once, so that the first way measured does not pay for a cold cache

    def ways(self) -> dict[str, Callable[[], Usage]]:
        """Return what is run, in its order."""
        return {
            targets.BACKUP: lambda: self._invoke("backup"),
            targets.OLD_BACKUP: self._old,
            targets.LIBRARY: self._library,
            targets.FLOOR: self._floor,
            targets.ENCRYPTED: lambda: self._invoke("backup", encrypted=True),
            targets.VERIFY: lambda: self._invoke("verify", "--backup=latest"),
            targets.GUNZIP: self._gunzip,
            targets.VERIFY_ENCRYPTED: lambda: self._invoke("verify", "--backup=latest", encrypted=True),
        }

    def tidy(self) -> None:
        """Remove what a pair made."""
        for folder in (self._plain, self._sealed):
            shutil.rmtree(folder)
        self._old_file.unlink()

    def _invoke(self, *task: str, encrypted: bool = False) -> Usage:
        """Run a task of ours as people do, start-up included."""
        target = self._stage.filled(self._scale)
        settings: Mapping[str, str] = {
            "POLYLADDER_SITE": SITE,
            "POLYLADDER_STATE_DIR": str(self._stage.folder / "state"),
            "BACKUP_DIR": str(self._sealed if encrypted else self._plain),
            "DATABASE_URL": url(target, target.password),
            **(self._encrypted if encrypted else {}),
        }
        return self._stage.measured([sys.executable, "-m", "invoke", *task], settings)

    def _library(self) -> Usage:
        began, cpu = time.perf_counter(), usage.cpu_seconds()
        made = take(self._stage, self._scale, self._plain)
        seconds, cpu_after = time.perf_counter() - began, usage.cpu_seconds()
        self.plain_bytes = made.manifest.plain_bytes
        return Usage(0, seconds, None if cpu is None or cpu_after is None else cpu_after - cpu)

    def _old(self) -> Usage:
        database = {"DATABASE_URL": url(self._stage.filled(self._scale))}
        return self._stage.script(OLD_BACKUP, str(self._old_file), variables=database)

    def _floor(self) -> Usage:
        database = url(self._stage.filled(self._scale))
        return self._stage.measured(
            [str(self._stage.client.program), "--no-password", f"--dbname={database}"]
        )

    def _gunzip(self) -> Usage:
        return self._stage.measured(["gunzip", "-t", str(max(self._plain.glob("*.sql.gz")))])
