"""Whether a backup is what its manifest says (`stored`), and whether it comes back as what was dumped (`restore`).

Every verdict is recorded beside the backup. "Not proved" is not a pass: it names what the server lacked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from polyladder_ops import records, restoring, storage
from polyladder_ops.catalog import Backup
from polyladder_ops.postgres import proof
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.contents import ALGORITHM, Ledger
from polyladder_ops.postgres.databases import LocaleMissing
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.postgres.load import LoadError
from polyladder_ops.records import Record
from polyladder_ops.storage import Damaged, Stored

__all__ = ["LEVELS", "Verdict", "verify_by_restore", "verify_stored"]

LEVELS = ("stored", "restore")
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Verdict:
    """What came out of looking at a backup: `passed`, `failed` or `not proved`, each but the first with its reasons."""

    backup: Backup
    level: Literal["stored", "restore"]
    verdict: Literal["passed", "failed", "not proved"]
    reasons: tuple[str, ...]
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the backup may be trusted as far as this level looks."""
        return self.verdict == "passed"


def verify_stored(backup: Backup, keys: Sequence[Any], *, progress: Progress = None) -> Verdict:
    """Look at every byte: the file against its sha256, age, gzip to its end, the dump's end, each table's digest.

    Raise OpsError if it could not be looked at (no key fits, an unreadable folder): that is no verdict.
    """
    began = time.monotonic()
    reasons = _flaws(backup, keys, progress)
    return _recorded(backup, "stored", "failed" if reasons else "passed", reasons, began)


def _flaws(backup: Backup, keys: Sequence[Any], progress: Progress) -> list[str]:
    manifest = backup.manifest
    if backup.stored_bytes is None:
        return [backup.flaw]
    if manifest.digest_algorithm != ALGORITHM:
        return [f"its digests are {ascii(manifest.digest_algorithm)}, this version knows {ALGORITHM}"]
    size, sha256 = storage.fingerprint(backup.path)
    flaws = []
    if size != manifest.size_bytes:
        flaws.append(f"the file has {size} bytes, the manifest says {manifest.size_bytes}")
    if sha256 != manifest.sha256:
        flaws.append("the file's sha256 is not the one in the manifest")
    ledger = Ledger()
    lexer = Lexer(ledger)

    def sink(block: bytes) -> None:
        lexer.feed(block)
        if progress:
            progress(len(block))

    try:
        found = storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
        lexer.close()
    except (Damaged, DumpError) as error:
        return [*flaws, f"{error.message}. {error.detail}".rstrip(". ")]
    return flaws + _contradictions(backup, found, ledger)


def _contradictions(backup: Backup, found: Stored, ledger: Ledger) -> list[str]:
    manifest = backup.manifest
    flaws = [str(difference) for difference in proof.compare_contents(manifest.contents, ledger.contents)]
    if found.plain_bytes != manifest.plain_bytes:
        flaws.append(f"the dump has {found.plain_bytes} bytes, the manifest says {manifest.plain_bytes}")
    if ledger.contents.encoding != manifest.encoding:
        flaws.append(f"the dump is in {ledger.contents.encoding}, the manifest says {manifest.encoding}")
    return flaws


def verify_by_restore(
    backup: Backup, keys: Sequence[Any], server: Target, *, trusted: bool, progress: Progress = None
) -> Verdict:
    """Load the backup into a scratch database of this server, compare everything, drop it.

    The stored bytes are verified first. Raise OpsError if the server fails; a server that lacks something gives
    "not proved" with its name.
    """
    began = time.monotonic()
    if reasons := _flaws(backup, keys, None):
        return _recorded(backup, "restore", "failed", reasons, began)
    obstacles = restoring.obstacles(server, backup.manifest)
    if obstacles.fatal:
        return _recorded(backup, "restore", "not proved", [*obstacles.fatal, *obstacles.doubts], began)
    try:
        differences = _restored(backup, keys, server, trusted=trusted, progress=progress)
    except LocaleMissing as error:
        return _recorded(
            backup, "restore", "not proved", [error.message, error.detail, *obstacles.doubts], began
        )
    except LoadError as error:
        said = [f"{error.message}: {error.detail}", *obstacles.doubts]
        return _recorded(backup, "restore", "not proved" if obstacles.doubts else "failed", said, began)
    if obstacles.doubts:
        reasons = [*obstacles.doubts, *(str(difference) for difference in differences)]
        return _recorded(backup, "restore", "not proved", reasons, began)
    return _recorded(
        backup, "restore", "failed" if differences else "passed", [str(d) for d in differences], began
    )


def _restored(
    backup: Backup, keys: Sequence[Any], server: Target, *, trusted: bool, progress: Progress
) -> list[proof.Difference]:
    with (
        restoring.temporary_roles(server, backup.manifest, trusted=trusted),
        restoring.temporary_database(server, backup.manifest, purpose="verify") as target,
    ):
        restoring.load(target, backup, keys, progress=progress)
        return restoring.prove(server, target.database, backup, keys)


def _recorded(
    backup: Backup,
    level: Literal["stored", "restore"],
    verdict: Literal["passed", "failed", "not proved"],
    reasons: Sequence[str],
    began: float,
) -> Verdict:
    records.append(
        backup.path,
        Record(
            kind="verify",
            backup=backup.id,
            sha256=backup.manifest.sha256,
            at=datetime.now(UTC),
            by=records.by_whom(),
            level=level,
            verdict=verdict,
            details=tuple(reasons),
        ),
    )
    return Verdict(backup, level, verdict, tuple(reasons), time.monotonic() - began)
