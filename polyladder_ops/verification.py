"""Whether a backup is what its manifest says (`stored`), and whether it comes back as what was dumped (`restore`).

Every verdict is recorded beside the backup. "Not proved" is not a pass: it names what the server lacked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from polyladder_ops import catalog, encryption, expressions, portable, records, seal, storage
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import ALGORITHM, Ledger
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.postgres.permitted import OnlyPermitted
from polyladder_ops.records import Record
from polyladder_ops.storage import Damaged, Stored
from polyladder_ops.workspace import folder_lock

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target

__all__ = [
    "LEVELS",
    "Unrecorded",
    "Verdict",
    "keep_checks",
    "verify_by_restore",
    "verify_stored",
    "verify_without_key",
]

LEVELS = ("stored", "restore")
Level = Literal["stored", "restore"]
Word = Literal["passed", "failed", "not proved"]
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Verdict:
    """What came out of looking at a backup: `passed`, `failed` or `not proved`, each but the first with its reasons."""

    backup: Backup
    level: Level
    verdict: Word
    reasons: tuple[str, ...]
    seconds: float
    said: tuple[str, ...] = ()  # what people should know besides
    needs_key: bool = False  # a private key is what lacks for more

    @property
    def passed(self) -> bool:
        """Whether the backup may be trusted as far as this level looks."""
        return self.verdict == "passed"


class Unrecorded(OpsError):  # noqa: N818 - the look itself went well
    """A backup was looked at, and what came out could not be kept beside it: a folder to read only, a full disk."""

    def __init__(self, verdict: Verdict, why: str) -> None:
        super().__init__(
            f"backup {verdict.backup.id} is {verdict.verdict}, but that could not be recorded beside it",
            detail=" ".join((why, *verdict.reasons)),
            hint="Make the folder writable and verify again.",
        )
        self.verdict = verdict


def verify_stored(backup: Backup, keys: Sequence[Any], *, progress: Progress = None) -> Verdict:
    """Look at every byte: the file against its sha256, age, gzip to its end, the dump's end, each table's digest.

    Raise OpsError if it could not be looked at (no key fits, an unreadable folder): that is no verdict.
    """
    began = _Begun.now(backup)
    backup, reasons = _looked_at(backup, keys, progress)
    return _recorded(backup, "stored", "failed" if reasons else "passed", reasons, began)


def verify_without_key(backup: Backup, why: str = "no private key is named") -> Verdict:
    """Look at what can be looked at of an encrypted backup where no private key for it is: the file's size and sha256.

    Never `passed`: what is inside, nobody has seen. Raise OpsError if the file can't be read.
    """
    began = _Begun.now(backup)
    other = (
        _other_file(backup.manifest, *storage.fingerprint(backup.path)) if backup.complete else [backup.flaw]
    )
    shut = f"{_SHUT}, since {why}"
    return replace(
        _recorded(backup, "stored", "failed" if other else "not proved", other or [shut], began),
        needs_key=not other,
    )


_SHUT = "the file has the size and the sha256 that the manifest says; what is inside was not looked at"


def _looked_at(backup: Backup, keys: Sequence[Any], progress: Progress) -> tuple[Backup, list[str]]:
    """Return the backup with its whole manifest, and what is wrong with the two."""
    try:
        backup = seal.known(backup, keys)
    except OpsError as error:
        # No key fits: no verdict, unless the bytes are others anyway.
        other = (
            _other_file(backup.manifest, *storage.fingerprint(backup.path))
            if backup.complete
            else [backup.flaw]
        )
        if not other and isinstance(error, encryption.NoKey):
            raise
        return backup, [*other, f"{error.message}. {error.detail}".rstrip(". ")]
    return backup, _flaws(backup, keys, progress)


def _flaws(backup: Backup, keys: Sequence[Any], progress: Progress) -> list[str]:
    """Return what is wrong with the stored bytes, from one reading of them; a second one names the damage of a file."""
    manifest = backup.manifest
    if backup.stored_bytes is None:
        return [backup.flaw]
    if manifest.digest_algorithm != ALGORITHM:
        return [f"its digests are {manifest.digest_algorithm!a}, this version knows {ALGORITHM}"]
    ledger = Ledger()
    lexer = Lexer(OnlyPermitted(ledger))

    def sink(block: bytes) -> None:
        lexer.feed(block)
        if progress:
            progress(len(block))

    try:
        found = storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
        lexer.close()
    except (Damaged, DumpError) as error:
        other = _other_file(manifest, *storage.fingerprint(backup.path))
        return [*other, f"{error.message}. {error.detail}".rstrip(". ")]
    except OpsError:
        # No key fits: no verdict, unless the bytes are others anyway (a flip in age's header looks like a wrong key).
        if other := _other_file(manifest, *storage.fingerprint(backup.path)):
            return other
        raise
    return [
        *_other_file(manifest, found.size_bytes, found.sha256),
        *_contradictions(manifest, found, ledger),
        *_damaged_definitions(manifest, keys),
    ]


def _damaged_definitions(manifest: Manifest, keys: Sequence[Any]) -> list[str]:
    try:
        expressions.unpacked(manifest, keys)
    except OpsError as error:
        return [f"{error.message}. {error.detail}".rstrip(". ")]
    return []


def _other_file(manifest: Manifest, size: int, sha256: str) -> list[str]:
    flaws = []
    if size != manifest.size_bytes:
        flaws.append(f"the file has {size} bytes, the manifest says {manifest.size_bytes}")
    if sha256 != manifest.sha256:
        flaws.append("the file's sha256 is not the one in the manifest")
    return flaws


def _contradictions(manifest: Manifest, found: Stored, ledger: Ledger) -> list[str]:
    flaws = []
    if manifest.contents != replace(ledger.contents, encoding=manifest.encoding):
        # Late: bytes that are as they should be need no client library.
        from polyladder_ops.postgres.proof import differences

        flaws = [
            str(difference) for difference in differences.compare_contents(manifest.contents, ledger.contents)
        ]
        flaws = flaws or ["the manifest lists the dump's contents in another order, or twice"]
    if found.plain_bytes != manifest.plain_bytes:
        flaws.append(f"the dump has {found.plain_bytes} bytes, the manifest says {manifest.plain_bytes}")
    if ledger.contents.encoding != manifest.encoding:
        flaws.append(f"the dump is in {ledger.contents.encoding}, the manifest says {manifest.encoding}")
    return flaws


def verify_by_restore(
    backup: Backup,
    keys: Sequence[Any],
    server: Target,
    *,
    trusted: bool,
    jobs: int | None = None,
    progress: Progress = None,
) -> Verdict:
    """Load the backup into a scratch database of this server, compare everything, drop it.

    The stored bytes are verified first. Raise OpsError if the server fails; a server that lacks something gives
    "not proved" with its name.
    """
    from polyladder_ops import restoring

    began = _Begun.now(backup)
    backup, reasons = _looked_at(backup, keys, None)
    if reasons:
        return _recorded(backup, "restore", "failed", reasons, began)
    obstacles = restoring.obstacles(server, backup.manifest)
    if obstacles.fatal:
        return _recorded(backup, "restore", "not proved", [*obstacles.fatal, *obstacles.doubts], began)
    lacking, wrong, said = _restored(backup, keys, server, trusted=trusted, jobs=jobs, progress=progress)
    lacking = [*obstacles.doubts, *lacking, *(obstacles.excuses if wrong else ())]
    verdict: Word = "not proved" if lacking else "failed" if wrong else "passed"
    return replace(_recorded(backup, "restore", verdict, [*lacking, *wrong], began), said=said)


def _restored(
    backup: Backup,
    keys: Sequence[Any],
    server: Target,
    *,
    trusted: bool,
    jobs: int | None,
    progress: Progress,
) -> tuple[list[str], list[str], tuple[str, ...]]:
    """Restore and compare; return what the server lacks for a proof, what came out wrong, and what to say besides."""
    from polyladder_ops import loading, restoring
    from polyladder_ops.postgres import alone, session
    from polyladder_ops.postgres.databases import LocaleMissing
    from polyladder_ops.postgres.load.loader import LoadError
    from polyladder_ops.postgres.script import Script

    lacking: list[str] = []
    manifest = backup.manifest
    try:
        with restoring.temporary_database(
            server, manifest, purpose="verify", roles="superusers" if trusted else "made"
        ) as target:
            lacking += [
                *restoring.limits(manifest),
                *restoring.lacking(server, target.database, manifest),
            ]
            script = Script()
            loaded = loading.load(target, backup, keys, jobs=jobs, script=script, progress=progress)
            with closing(session.connect(server)) as outside:
                differences = restoring.prove(
                    server,
                    target.database,
                    backup,
                    keys,
                    jobs=jobs,
                    script=script,
                    loaded=loaded,
                    shut=partial(alone.shut, outside, target.database),
                )
    except LocaleMissing as error:
        return [f"{error.message}: {error.detail}"], [], ()
    except LoadError as error:
        said = [f"{error.message}: {error.detail}"]
        return ([*said, *lacking], [], ()) if error.lacks else (lacking, said, ())
    wrong = [str(d) for d in differences if d.kind != "database" or d.detail not in lacking]
    return lacking, wrong, loaded.said


def _recorded(backup: Backup, level: Level, verdict: Word, reasons: Sequence[str], began: _Begun) -> Verdict:
    """Keep the verdict beside the backup and return it. Raise Unrecorded if it can't be kept, OpsError if the backup is gone.

    It holds for the manifest that lay there when we began: what was compared with another one has not passed.
    """
    if verdict == "passed" and records.digest_of(_manifest_of(backup)) != began.manifest:
        verdict, reasons = "failed", [_CHANGED]
    record = Record(
        kind="verify",
        backup=backup.id,
        sha256=backup.manifest.sha256,
        at=records.instant_after(backup.records),
        by=portable.by_whom(),
        level=level,
        verdict=verdict,
        details=tuple(reasons),
        manifest=began.manifest,
    )
    made = Verdict(backup, level, verdict, tuple(reasons), time.monotonic() - began.at_s)
    try:
        with folder_lock(backup.path.parent, doing="recording a verification"):
            _still_there(backup)
            records.append(backup.path, record)
    except OSError as error:
        raise Unrecorded(made, f"{error.strerror or error}: {backup.path.parent}.") from error
    except OpsError as error:
        _still_there(backup)
        raise Unrecorded(made, error.in_a_line) from error
    return made


_CHANGED = "somebody changed its manifest while it was looked at"


@dataclass(frozen=True)
class _Begun:
    """When a look began, and the digest of the manifest's file that lay there then."""

    at_s: float
    manifest: str

    @classmethod
    def now(cls, backup: Backup) -> _Begun:
        return cls(time.monotonic(), records.digest_of(_manifest_of(backup)))


def _manifest_of(backup: Backup) -> Path:
    return backup.path.with_name(f"{backup.path.name}.json")


def keep_checks(backup: Backup, failed: Sequence[str], passed: Sequence[str] = ()) -> str:
    """Keep beside the backup which of your checks failed on a copy of it, by name, and which of those that had pass now.

    One that had failed and was not asked again stands: other questions say nothing of it. Return what kept it from being recorded, empty if nothing did; a file without a manifest has no records.
    """
    if not backup.path.with_name(f"{backup.path.name}.json").exists():
        return ""
    try:
        with folder_lock(backup.path.parent, doing="recording checks"):
            seen = records.load_all(catalog.records_of(backup.path), backup.manifest.sha256)
            known = records.checks_failed(record for record in seen if not record.damaged)
            stand = tuple(dict.fromkeys([*(n for n in known if n not in passed), *failed]))
            if failed or stand != records.checks_failed(seen):
                records.append(backup.path, _checks(backup, seen, stand))
    except (OSError, OpsError) as error:
        why = getattr(error, "message", None) or str(error)
        return f"what your checks said of {backup.id} could not be recorded beside it: {why}"
    return ""


def _checks(backup: Backup, seen: Sequence[Record], failed: Sequence[str]) -> Record:
    return Record(
        kind="checks",
        backup=backup.id,
        sha256=backup.manifest.sha256,
        at=records.instant_after(seen),
        by=portable.by_whom(),
        verdict="failed" if failed else "passed",
        details=tuple(failed),
    )


def _still_there(backup: Backup) -> None:
    """Raise OpsError if the backup was deleted while it was looked at: a verdict on it would help nobody."""
    if not backup.path.exists() and not backup.path.with_name(f"{backup.path.name}.json").exists():
        raise OpsError(
            f"backup {backup.id} is not there any more",
            detail="It was deleted or moved while it was looked at.",
            hint="See what there is: `invoke backup.list`.",
        )
