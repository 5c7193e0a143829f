"""What happened to a backup after it was made: verifications and pins, each a small file beside it, never changed.

A record is bound to the bytes by their sha256, so that it can't speak for another file of the same name, and to itself by
`check`: if one character of it rots, it can't be read and counts as the careful case.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel, ConfigDict, Field

from polyladder_ops import plainfile
from polyladder_ops.manifest import YEARS, Instant
from polyladder_ops.portable import give_name, sync_directory, write_private

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

__all__ = [
    "LEVELS",
    "Level",
    "Record",
    "Standing",
    "append",
    "checks_failed",
    "digest_of",
    "instant_after",
    "is_pinned",
    "load_all",
    "standing",
]

_MOST_BYTES = 1 << 20  # of a record; the longest reasons of a failure take a hundredth of it
_STAMP = "%Y%m%dT%H%M%S%fZ"
_CHECK_DIGITS = 16
_NAME = re.compile(r"(?P<data>.+)\.(?P<kind>verify|pin|unpin|checks)-(?P<stamp>\w+)-\w+\.json")

Kind = Literal["verify", "pin", "unpin", "checks"]
Level = Literal["stored", "restore"]
LEVELS: tuple[Level, ...] = ("stored", "restore")
"""How deep a verification looks: at the bytes, or at what they restore to, which looks at the bytes first."""
Verdict = Literal["passed", "failed", "not proved", ""]


class Record(BaseModel):
    """Who looked at a backup or pinned it, when (this machine's clock), how deep, and what came out."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    kind: Kind
    backup: str
    sha256: str
    at: Instant
    by: str
    level: str = ""
    verdict: Verdict = ""
    details: tuple[str, ...] = ()
    manifest: str = (
        ""  # sha256 of the manifest's file as it was then; empty in records from before there was one
    )
    check: str = ""  # of all else in it; empty in records from before there was one
    damaged: bool = Field(default=False, exclude=True)  # it stands for a file that can't be read


def instant_after(records: Iterable[Record]) -> datetime:
    """Return the instant of a new record: now, and later than any other, since the last one counts and clocks differ."""
    return max((datetime.now(UTC), *(record.at + timedelta(microseconds=1) for record in records)))


def append(data: Path, record: Record) -> Path:
    """Write the record beside the backup's data file and return its path; existing ones are never touched.

    Whoever calls this holds the folder's lock. Raise OSError if it can't be written: then nothing of it is there.
    """
    stamp = record.at.astimezone(UTC).strftime(_STAMP)
    path = data.with_name(f"{data.name}.{record.kind}-{stamp}-{secrets.token_hex(3)}.json")
    fields = json.loads(record.model_dump_json(exclude={"check"}))
    # Whole or not at all: half a record would count as the careful case. A kill leaves the hidden name, which is swept.
    fresh = data.with_name(f".new-{secrets.token_hex(6)}")
    try:
        write_private(fresh, json.dumps({**fields, "check": _check(fields)}) + "\n")
        give_name(fresh, path)
    finally:
        with contextlib.suppress(OSError):
            fresh.unlink(missing_ok=True)
    sync_directory(path.parent)
    return path


def _check(fields: dict[str, object]) -> str:
    """Return a digest of a record's fields, however they are spelled, also of those that a later version adds."""
    text = json.dumps({name: value for name, value in fields.items() if name != "check"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:_CHECK_DIGITS]


def _read(path: Path) -> Record:
    """Return the record in a file. Raise ValueError if it is none, or not what was written."""
    text = plainfile.read(path, _MOST_BYTES)
    record = Record.model_validate_json(text)
    name = _NAME.fullmatch(path.name)
    if name is not None and name["kind"] != record.kind:
        raise ValueError("its name and its text say different kinds")
    if record.check and record.check != _check(json.loads(text)):
        raise ValueError("its check is not that of its text")
    return record


def digest_of(manifest: Path) -> str:
    """Return the sha256 of a manifest's file as it lies there; empty if it can't be read."""
    try:
        return hashlib.sha256(manifest.read_bytes()).hexdigest()
    except OSError:
        return ""


def load_all(paths: Iterable[Path], sha256: str, manifest: Path | None = None) -> tuple[Record, ...]:
    """Return the records among these files that speak of the bytes with this sha256, oldest first.

    One that can't be read counts as the careful case, whichever bytes it spoke of: a pin as a pin, a verification as a failure.
    So does a verification that passed with another manifest than this file: what it was held against is not there any more.
    """
    records: list[Record] = []
    for path in paths:
        try:
            record = _read(path)
        except FileNotFoundError:
            continue  # taken away meanwhile
        except (OSError, ValueError):  # pydantic's is one
            records += _unreadable(path, sha256)
            continue
        if record.sha256 == sha256:
            is_of_another = record.manifest and manifest and record.manifest != digest_of(manifest)
            records.append(_outlived(record) if is_of_another and record.verdict == "passed" else record)
    return tuple(sorted(records, key=lambda record: record.at))


def _outlived(record: Record) -> Record:
    """Return what a verification is taken for of which the manifest was changed since."""
    why = "its manifest is not the one with which it was verified, so that counts as a failure"
    return record.model_copy(update={"verdict": "failed", "details": (why,), "damaged": True})


def _unreadable(path: Path, sha256: str) -> Iterator[Record]:
    """Yield what a record is taken for that can't be read, by its name; nothing if it would only loosen something."""
    name = _NAME.fullmatch(path.name)
    if name is None or name["kind"] == "unpin":
        return
    is_pin = name["kind"] == "pin"
    is_verify = name["kind"] == "verify"
    kind: Kind = "pin" if is_pin else "verify" if is_verify else "checks"
    yield Record(
        kind=kind,
        backup=name["data"],
        sha256=sha256,
        at=_instant(path, name["stamp"]),
        by="nobody knows whom",
        level="restore" if is_verify else "",
        verdict="" if is_pin else "failed",
        details=(
            f"the record {path.name} can't be read, so it counts as a {'pin' if is_pin else 'failure'}",
        ),
        damaged=True,
    )


def _instant(path: Path, stamp: str) -> datetime:
    """Return when a record was written, by its name, or else by its file."""
    with contextlib.suppress(ValueError):
        named = datetime.strptime(stamp, _STAMP).replace(tzinfo=UTC)
        if named.year in YEARS:
            return named
    with contextlib.suppress(OSError, ValueError, OverflowError):
        touched = datetime.fromtimestamp(path.lstat().st_mtime, UTC)
        if touched.year in YEARS:
            return touched
    return datetime.now(UTC)


@dataclass(frozen=True)
class Standing:
    """How deep these bytes are known to be good (empty: not at all), and the failure that stands against them."""

    level: Level | Literal[""] = ""
    failure: Record | None = None


def standing(records: Iterable[Record]) -> Standing:
    """Return what verifications, oldest first, have come to. "Not proved" is no verdict.

    A failure stands until one of its own level or a deeper one passes: that bytes are whole says nothing of a restore.
    """
    level: Level | Literal[""] = ""
    failure: Record | None = None
    for record in records:
        if record.kind != "verify" or record.verdict not in ("passed", "failed"):
            continue
        depth = _depth(record.level)
        if record.verdict == "failed":
            level = ""
            failure = record if failure is None or depth >= _depth(failure.level) else failure
            continue
        failure = None if failure and _depth(failure.level) <= depth else failure
        if failure is None and depth >= _depth(level):
            level = LEVELS[max(depth, 1) - 1]
    return Standing(level, failure)


def _depth(level: str) -> int:
    """Return how much a level shows; one that is not known counts as the least."""
    return next((depth for depth, known in enumerate(LEVELS, 1) if known == level), 0)


def checks_failed(records: Iterable[Record]) -> tuple[str, ...]:
    """Return the names of the checks that failed on restored copies, each until it passed; none if none did.

    Each record names all that stood when it was written, so the last one counts, and one behind it that can't be read.
    """
    names: tuple[str, ...] = ()
    for record in records:
        if record.kind == "checks" and record.verdict == "failed":
            names = (*names, *record.details) if record.damaged else record.details
        elif record.kind == "checks":
            names = ()
    return names


def is_pinned(records: Iterable[Record]) -> bool:
    """Whether the newest pin was not taken back."""
    pins = [record for record in records if record.kind in ("pin", "unpin")]
    return bool(pins) and pins[-1].kind == "pin"
