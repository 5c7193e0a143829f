"""The description of a backup: what was dumped from where and when, how it is stored, and what it must restore to.

It is written last; a dump without one is litter. It holds names, counts and digests, never a row or a password, and of
definitions only what a server may word otherwise (views, checks, defaults …), packed by `expressions.py`. Beside an
encrypted dump all but names, counts, sizes and times is sealed to the same keys (`seal.py`) and blank in the clear.
`format` says how to read it: fields are only added within one format. The last one, `whole`, is a digest of the text before
it, so that a character that rots is told; it is no bar to a forger, and not there in manifests from before there was one.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import pydantic
from pydantic import AfterValidator, BaseModel, ConfigDict, FailFast, Field

from polyladder_ops import plainfile
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Contents, LargeObject, SequenceValue, TableData
from polyladder_ops.postgres.described import (  # noqa: TC001 - pydantic asks for them
    CatalogEntry,
    DatabaseProperties,
    Extension,
    Role,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "FORMAT",
    "MOST_BYTES",
    "SEALED_FORMAT",
    "YEARS",
    "Instant",
    "Manifest",
    "Source",
    "load",
    "read_head",
]

FORMAT = 1
SEALED_FORMAT = 2  # of one whose blank parts are sealed: an older version must not take them for the truth

_FORMATS = (FORMAT, SEALED_FORMAT)

# The first lines as `Manifest.to_json` writes them, up to the instant; without escapes, of which we write none there.
_HEAD = re.compile(
    rb'\{\r?\n "format": [12],\r?\n "id": "[^"\\]*",\r?\n "file": "(?P<file>[^"\\]*)",\r?\n "site": "(?P<site>[^"\\]*)",\r?\n'
    rb' "source": \{\r?\n(?:  "\w+": [^\r\n{}]*\r?\n)+ \},\r?\n "taken_at": "(?P<taken_at>[^"\\]*)",\r?\n'
)
_HEAD_BYTES = 2048

_WHOLE = re.compile(rb',\s*"whole"\s*:(?P<value>\s*"(?P<digest>[0-9a-f]{64})"\s*\}\s*\Z)?')
_WHOLE_BYTES = 256  # of the text's end, in which it stands
_BLANKS = b" \t\r\n"  # another program may set them otherwise; within a value they can't rot into each other
_BLOCK = 1 << 20
_ALONE = (
    "Use another backup: `invoke backup.list`. If there is none, move the manifest elsewhere: `invoke restore --backup=./FILE`"
    " then takes the data without it."
)

# Of a text that somebody else may have laid there. A database of fifty thousand objects, sealed, comes to half of it;
# read, each value takes a hundred bytes and more, also where three bytes of text make one.
MOST_BYTES = 64 << 20
_MOST_VALUES = 1_500_000
_MOST = 2**63  # no count, size or position of a server goes further
YEARS = range(1970, 9000)  # near the calendar's ends arithmetic with an instant fails

_T = TypeVar("_T")
_Many = Annotated[
    tuple[_T, ...], FailFast()
]  # a report on each of a million wrong ones would take a gigabyte


def _utc(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise ValueError("has no time zone")
    if value.year not in YEARS:
        raise ValueError(f"lies in the year {value.year}")
    return value.astimezone(UTC)


Instant = Annotated[datetime, AfterValidator(_utc)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)


class Source(_Frozen):
    """The server and database that a backup was taken from, and with what."""

    system_identifier: str
    database: str
    database_oid: int
    server_version: str
    server_major: int
    client_version: str
    tool_version: str

    @property
    def client_major(self) -> int:
        """The major of the pg_dump that wrote it."""
        return int(re.split(r"\D", self.client_version, maxsplit=1)[0])


class Manifest(_Frozen):
    """One backup. Times are the server's clock; `taken_at` is the snapshot's instant and orders backups."""

    format: Annotated[int, Field(strict=True)] = FORMAT
    id: str
    file: str
    site: str
    source: Source
    taken_at: Instant
    finished_at: Instant
    snapshot: str
    wal_position: str
    tables_locked: bool
    size_bytes: int
    plain_bytes: int
    sha256: str
    encrypted: bool
    digest_algorithm: str
    encoding: str
    session: dict[str, str]
    tables: _Many[TableData]
    sequences: _Many[SequenceValue]
    large_objects: _Many[LargeObject]
    objects: _Many[CatalogEntry]
    extensions: _Many[Extension]
    roles: _Many[Role]
    properties: DatabaseProperties
    migration_head: str | None
    prepared_transactions: _Many[str]
    materialized_views: _Many[str]
    not_included: _Many[str]
    warnings: _Many[str]
    lost: _Many[str] = ()  # of what is not included that which a person must hear of
    knows_objects: bool = True  # False for an old file, of which only what stands in it is known
    changes_roles: bool = False  # of an old file: it says SET SESSION AUTHORIZATION, or is one transaction
    expressions: str = ""  # long, so near the end; empty in backups from before there was one
    sealed: str = ""  # the whole manifest for whoever has a key; then much of what stands above is blank

    @property
    def is_sealed(self) -> bool:
        """Whether only names, counts, sizes and times are known: `seal.opened` tells the rest."""
        return bool(self.sealed)

    @property
    def contents(self) -> Contents:
        """What the dump must be found to hold."""
        return Contents(self.encoding, self.tables, self.sequences, self.large_objects)

    @property
    def rows(self) -> int:
        """Rows of all tables together."""
        return sum(table.rows for table in self.tables)

    def to_json(self) -> str:
        """Return the text that is stored. Raise OpsError if nobody could read it back for its size."""
        fields = self.model_dump_json(indent=1).removesuffix("\n}")
        text = f'{fields},\n "whole": "{_digest(fields.encode())}"\n}}\n'
        if flaw := _oversize(text.encode()):
            raise OpsError(f"the manifest of {self.id} can't be written", detail=flaw)
        return text


def load(path: Path) -> Manifest:
    """Return the manifest stored at this path.

    Raise OpsError if it can't be read, is not JSON, lacks or contradicts something, or has a newer format.
    """
    try:
        text = plainfile.read(path, MOST_BYTES)
    except OSError as error:
        why = error.strerror or str(error)
        raise _unusable(path, f"{why[:1].upper()}{why[1:]}.") from error
    if flaw := _oversize(text):
        raise _unusable(path, flaw)
    try:
        manifest = Manifest.model_validate_json(text)
    except pydantic.ValidationError as error:
        raise _why(path, text, error) from None
    if manifest.format not in _FORMATS or "format" not in manifest.model_fields_set:
        raise _unreadable(path, manifest.format if manifest.format > SEALED_FORMAT else None)
    if manifest.is_sealed != (manifest.format == SEALED_FORMAT) or manifest.is_sealed > manifest.encrypted:
        raise _unusable(path, "Its format and what is sealed in it contradict each other.")
    if any(not -_MOST <= number < _MOST for number in _numbers(manifest)):
        raise _unusable(path, "A number in it is larger than any that a server has.")
    _check_names(path, manifest)
    if not _is_whole(text):
        raise _unusable(
            path, "It is not what was written: something in it has rotted or was changed.", _ALONE
        )
    return manifest


def read_head(folder: Path, name: str) -> tuple[str, datetime]:
    """Return of which site and instant the manifest of this name is, as `load` would say, from its first lines if they do.

    What comes after them is not looked at. Raise OpsError as `load` does if the first lines don't say it.
    """
    path = f"{folder}{os.sep}{name}"
    try:
        with plainfile.opened(path) as file:  # a Path takes as long as the reading, 10,000 times
            head = _HEAD.match(file.read(_HEAD_BYTES) or b"")
        if head is not None and head["file"].decode() == name.removesuffix(".json"):
            return head["site"].decode(), _utc(datetime.fromisoformat(head["taken_at"].decode()))
    except (OSError, ValueError):
        pass
    manifest = load(folder / name)
    return manifest.site, manifest.taken_at


class _Format(BaseModel):
    """What a manifest of any version says of how to read it."""

    format: object = None


def _is_whole(text: bytes) -> bool:
    """Whether a text is what its last field says; it may be from before there was that field."""
    start = max(0, len(text) - _WHOLE_BYTES)
    found = _WHOLE.search(text, start)
    if found is None:
        return True
    return found["digest"] is not None and found["digest"].decode() == _digest(text[: found.start()])


def _digest(text: bytes) -> str:
    """Return the sha256 of a text without its blanks."""
    digest = hashlib.sha256()
    for start in range(0, len(text), _BLOCK):
        digest.update(text[start : start + _BLOCK].translate(None, _BLANKS))
    return digest.hexdigest()


def _oversize(text: bytes) -> str:
    """Return why a text is too much to be read; empty if it is not."""
    if len(text) > MOST_BYTES:
        return f"It has {len(text):,} bytes; at most {MOST_BYTES:,} are read."
    values = sum(map(text.count, (b",", b"[", b"{")))
    return f"It has {values:,} values; at most {_MOST_VALUES:,} are read." if values > _MOST_VALUES else ""


def _numbers(manifest: Manifest) -> Iterator[int]:
    yield from (manifest.size_bytes, manifest.plain_bytes)
    yield from (manifest.source.database_oid, manifest.source.server_major)
    yield manifest.properties.connection_limit
    for table in manifest.tables:
        yield from (table.rows, table.size_bytes)
    yield from (sequence.value for sequence in manifest.sequences)
    for large_object in manifest.large_objects:
        yield from (large_object.oid, large_object.size_bytes)
    yield from (role.connection_limit for role in manifest.roles)


def _why(path: Path, text: bytes, error: pydantic.ValidationError) -> OpsError:
    """Return what is wrong with a text that is no manifest: a newer format, rather than what that changes."""
    with contextlib.suppress(pydantic.ValidationError):
        seen = _Format.model_validate_json(text).format
        if seen not in _FORMATS or isinstance(seen, bool):
            return _unreadable(path, seen)
    problems = [
        f"{'.'.join(map(str, p['loc'])) or 'the text'}: {p['msg']}" for p in error.errors(include_input=False)
    ]
    return _unusable(path, "; ".join(problems[:5]) + ".")


def _check_names(path: Path, manifest: Manifest) -> None:
    """A manifest speaks of the file beside it only: a name with a folder in it would lead elsewhere."""
    if f"{manifest.file}.json" != path.name or manifest.file not in (
        f"{manifest.id}.sql.gz",
        f"{manifest.id}.sql.gz.age",
    ):
        raise _unusable(path, f"It speaks of another file ({manifest.file!a}).")
    if manifest.encrypted != manifest.file.endswith(".age"):
        raise _unusable(path, "Its file name and its word on encryption contradict each other.")


def _unreadable(path: Path, seen: object) -> OpsError:
    if isinstance(seen, int) and seen > SEALED_FORMAT:
        why = f"It has format {seen}; this version reads formats up to {SEALED_FORMAT}."
        return _unusable(path, why, "Upgrade polyladder-ops, then try again.")
    return _unusable(path, "It does not say its format.")


def _unusable(path: Path, detail: str, hint: str = "") -> OpsError:
    return OpsError(
        f"the manifest {path.name} is unusable",
        detail=detail,
        hint=hint or "Leave the backup as it is and use another one: `invoke backup.list`.",
    )
