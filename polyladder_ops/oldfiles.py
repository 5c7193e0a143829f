"""Files that the old scripts made, a dump and nothing beside it: read once, described as far as they tell, no further.

What comes out is a `Backup` that can be loaded and proved like any other: that the database holds what the file says.
That the file says what was in the database nobody can prove; `limits` puts it in words.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import plainfile, storage
from polyladder_ops.catalog import Backup
from polyladder_ops.errors import OpsError
from polyladder_ops.manifest import YEARS, Manifest, Source
from polyladder_ops.postgres.contents import ALGORITHM
from polyladder_ops.postgres.described import DatabaseProperties, Role
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.olddump import Notes
from polyladder_ops.terminal import quoted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from polyladder_ops.storage import Stored

__all__ = ["UNKNOWN", "describe", "is_old", "limits"]

Progress = Callable[[int], None] | None
_NAME = re.compile(r"(?P<stem>.+?)\.sql(?:\.gz(?:\.age)?)?")
_TIME = re.compile(r"polyladder_(\d{8}_\d{6})")
_HEAD = 512
_FLOATS_ARE_SHORT = 12  # since then the shortest digits that mean the number
_TO_SQL = (
    "Turn it into SQL first: `pg_restore -f {to}.sql {path}`; then run `invoke restore --backup={to}.sql`."
)
_UNPACK = "Unpack it first, then restore the .sql.gz that is in it."
_RENAME = "Rename it so that its name says what it is: .sql, .sql.gz or .sql.gz.age."
_ANEW = "Letters such as ä may be others in it now: take a new backup with `invoke backup` if you can."
_TAKE_AWAY = f"{_ANEW} If this is all there is, take the mark away: `tail -c +4 {{path}} > {{to}}_utf8.sql`."
_TURN = (
    f"{_ANEW} If this is all there is: `iconv -f UTF-16 -t UTF-8 {{path}} | tr -d '\\r' > {{to}}_utf8.sql`."
)
_UNIX = (
    "Unpack it, take them away with `tr -d '\\r'`, and look at letters such as ä in what that restores to."
)
# What a file can be at its first bytes, whatever its name says.
_OTHER_KINDS = (
    (0, b"PGDMP", "a dump in pg_dump's custom format (-Fc)", _TO_SQL),
    (257, b"ustar", "a tar archive (perhaps pg_dump -Ft)", _TO_SQL),
    (0, b"PK\x03\x04", "a zip archive, as GitHub hands out artifacts", _UNPACK),
    (0, b"BZh", "compressed with bzip2", _UNPACK),
    (0, b"\xfd7zXZ", "compressed with xz", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "compressed with zstd", _UNPACK),
    (0, b"\x04\x22\x4d\x18", "compressed with lz4", _UNPACK),
    (0, b"\xff\xfe", "UTF-16, as PowerShell writes it", _TURN),
    (0, b"\xfe\xff", "UTF-16", _TURN),
    (0, b"\xef\xbb\xbf", "UTF-8 with a byte order mark, as PowerShell writes it", _TAKE_AWAY),
)
_KINDS = (
    (b"age-encryption.org/", ".age", "encrypted with age"),
    (b"\x1f\x8b", ".gz", "gzip"),
    (b"", ".sql", "not compressed"),
)
# The numbers and texts of a role that the file only names.
_UNKNOWN_ROLE: dict[str, Any] = {
    **dict.fromkeys(("superuser", "createrole", "createdb", "login", "replication", "bypassrls"), False),
    "inherit": True,
    "connection_limit": -1,
    "valid_until": "",
    "settings": (),
    "comment": "",
    "memberships": (),
}

UNKNOWN = DatabaseProperties(
    owner="",
    encoding="UTF8",
    collate="",
    ctype="",
    locale_provider="libc",
    locale="",
    icu_rules="",
    collation_version="",
    tablespace="",
    connection_limit=-1,
    is_template=False,
    grants=(),
    comment="",
    settings=(),
    security_labels=(),
)
"""The properties of a database of which only a file is known, for whoever looks at the file and restores nothing."""


def is_old(path: Path) -> bool:
    """Whether the path names a file or folder that no manifest stands beside, and that is no manifest itself.

    What is written without folder and ending (``latest``, a day) means something else, whatever lies there.
    """
    is_a_word = len(path.parts) == 1 and not path.suffix
    return not is_a_word and path.suffix != ".json" and path.exists() and not Path(f"{path}.json").exists()


def describe(
    path: Path,
    keys: Sequence[Any],
    *,
    site: str,
    like: DatabaseProperties,
    session: Mapping[str, str] | None = None,
    progress: Progress = None,
) -> Backup:
    """Return the file as a backup, after reading every byte of it; `like` are the properties that its database gets.

    `session` are settings that its text depends on (lc_monetary), best those of the database that it came from.
    Raise OpsError, naming the file, if it is cut, half, empty, or another thing than a plain dump of one database.
    """
    name = _checked_name(path)
    notes = Notes()
    try:
        stored = _read(path, keys, notes, progress)
    except OpsError as error:
        error.message = f"{path.name} can't be restored: {error.message}"
        raise
    known = {"site": site, "properties": like, "session": dict(session or {})}
    return Backup(_manifest(path, name, stored, notes, **known), path, stored.size_bytes, ())


def limits(backup: Backup) -> tuple[str, ...]:
    """Return what can't be proved of an old file, each as the end of such a sentence; nothing for a backup of ours."""
    return () if backup.manifest.knows_objects else backup.manifest.not_included


def _checked_name(path: Path) -> str:
    """Return the file's name without its endings. Raise OpsError if file and name can't be those of a plain dump."""
    if path.is_dir():
        raise _another(path, "a folder (perhaps pg_dump -Fd)", _cure(_TO_SQL, path))
    try:
        with plainfile.opened(path) as file:
            head = file.read(_HEAD)
    except plainfile.NotOrdinary as error:
        hint = "Copy what it gives into a file, and name that."
        if error.what == "a link":
            hint = f"Name the file that it leads to: --backup={quoted(str(path.resolve()))}."
        raise _another(path, error.what, hint) from error
    except OSError as error:
        raise OpsError(f"could not read {path.name}", detail=f"{error.strerror or error}.") from error
    if not head:
        raise OpsError(
            f"{path.name} can't be restored: the file is empty", hint="Choose another: `invoke backup.list`."
        )
    for place, magic, what, hint in _OTHER_KINDS:
        if head.startswith(magic, place):
            raise _another(path, what, _cure(hint, path))
    named = _NAME.fullmatch(path.name)
    suffix, said = next((suffix, said) for magic, suffix, said in _KINDS if head.startswith(magic))
    if named is None or suffix != path.suffix:
        raise _another(path, said, _RENAME)
    return named["stem"]


def _cure(hint: str, path: Path) -> str:
    """Return the hint with its paths filled in; a file is never told to be written over itself."""
    stem = path.name.partition(".")[0]
    to = path.with_name(f"{stem}_plain" if path.name == f"{stem}.sql" else stem)
    return hint.format(path=_word(path), to=_word(to))


def _word(path: Path) -> str:
    """Return the path as a shell takes it, and no flag, whatever its name begins with."""
    return quoted(str(path) if path.is_absolute() else f".{os.sep}{path}")


def _another(path: Path, what: str, hint: str) -> OpsError:
    return OpsError(f"{path.name} can't be restored as it is: it is {what}", hint=hint)


def _read(path: Path, keys: Sequence[Any], notes: Notes, progress: Progress) -> Stored:
    """Feed the notes from the whole file. Raise OpsError if the bytes or the dump in them are not whole."""
    lexer = Lexer(notes)
    begun = False

    def sink(block: bytes) -> None:
        nonlocal begun
        if not begun:
            _check_head(block, path)
            begun = True
        lexer.feed(block)
        if progress:
            progress(len(block))

    stored = storage.read(path, sink, keys=keys, encrypted=path.suffix == ".age")
    if not stored.plain_bytes:
        raise OpsError(
            "nothing is in it",
            detail="Its gzip is whole and empty: pg_dump failed when it was made.",
            hint="Choose another: `invoke backup.list`.",
        )
    lexer.close()
    if notes.is_data_only:
        raise OpsError(
            "it brings rows and makes no tables (pg_dump -a)",
            hint="Choose a backup that holds the tables too.",
        )
    return stored


def _check_head(block: bytes, path: Path) -> None:
    """Raise OpsError if what was compressed, or lies open, is no SQL, or went through Windows."""
    for place, magic, what, hint in _OTHER_KINDS:
        if block.startswith(magic, place):
            unpacked = path.with_name(path.name.removesuffix(".age").removesuffix(".gz"))
            raise OpsError(
                f"what it packs is {what}",
                hint=f"Unpack it: `gunzip -k {_word(path)}`. {_cure(hint, unpacked)}",
            )
    if block[: block.find(b"\n")].endswith(b"\r"):
        raise OpsError(
            "its lines end as on Windows (CRLF)",
            detail="What wrote it has changed the text of the dump.",
            hint=_UNIX,
        )


def _manifest(path: Path, stem: str, stored: Stored, notes: Notes, **known: Any) -> Manifest:
    contents = notes.contents
    taken_at, since = _instant(path, stem)
    return Manifest(
        id=stem,
        file=path.name,
        source=_source(notes),
        taken_at=taken_at,
        finished_at=taken_at,
        snapshot="",
        wal_position="",
        tables_locked=False,
        size_bytes=stored.size_bytes,
        plain_bytes=stored.plain_bytes,
        sha256=stored.sha256,
        encrypted=path.suffix == ".age",
        digest_algorithm=ALGORITHM,
        encoding=contents.encoding,
        tables=contents.tables,
        sequences=contents.sequences,
        large_objects=contents.large_objects,
        objects=(),
        extensions=(),
        roles=tuple(Role(name=name, **_UNKNOWN_ROLE) for name in notes.roles),
        migration_head=None,
        prepared_transactions=(),
        materialized_views=(),
        not_included=(*_doubts(notes), since, *_lost(notes)),
        warnings=(),
        knows_objects=False,
        changes_roles=notes.changes_roles,
        **known,
    )


def _major(notes: Notes) -> int:
    """Return the major version of the server that was dumped, 0 if the dump does not say it."""
    found = re.match(r"\d+", notes.server_version)
    return int(found[0]) if found else 0


def _source(notes: Notes) -> Source:
    return Source(
        system_identifier="",
        database="",
        database_oid=0,
        server_version=notes.server_version,
        server_major=_major(notes),
        client_version=notes.client_version,
        tool_version=version("polyladder-ops"),
    )


def _instant(path: Path, stem: str) -> tuple[datetime, str]:
    """Return the time in the name, as if it were UTC, or the file's own; and why it is no more than a hint."""
    if found := _TIME.match(stem):
        with contextlib.suppress(ValueError):
            named = datetime.strptime(found[1], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
            why = f"when and where it was taken: its name says {named:%Y-%m-%d %H:%M:%S}, by the clock of whoever made it"
            if named.year in YEARS:
                return named, why
    touched = _touched(path)
    return (
        touched,
        f"when and where it was taken: the file is of {touched:%Y-%m-%d %H:%M:%S}Z, or was copied then",
    )


def _touched(path: Path) -> datetime:
    """Return when the file was last written to; 1970 if it has a time that no calendar knows."""
    try:
        touched = datetime.fromtimestamp(path.stat().st_mtime, UTC)
    except (OverflowError, ValueError):
        return datetime.fromtimestamp(0, UTC)
    return touched if touched.year in YEARS else datetime.fromtimestamp(0, UTC)


def _doubts(notes: Notes) -> list[str]:
    doubts = [] if notes.tables else ["that there was anything: it makes no table"]
    doubts += [
        f"that it does the server no harm: {item}, {form}, can break it and needs `--accept={item}`"
        for item, form in notes.unsafe.items()
    ]
    doubts += [
        "that it holds what was in the database: no manifest was written with it",
        "that nobody changed it since: its SQL runs with the rights of the role that restores",
    ]
    return doubts


def _lost(notes: Notes) -> list[str]:
    """Return what old files lack, or say in a way that can't be compared."""
    lost = []
    if not notes.has_owners:
        lost.append("who owned what: it names no owners, so that all will belong to the role that restores")
    if not notes.has_grants:
        lost.append(
            "who might read and write: it holds no grants, so that others than the owner may do nothing"
        )
    if notes.drops_public:
        lost.append("the grants on schema public: it drops that schema and makes it anew")
    named = f"it only names {', '.join(notes.roles)}" if notes.roles else "it names none"
    lost.append(f"roles with their rights and passwords: {named}")
    lost.append("the database's owner, grants and settings: they are taken from the database that it is for")
    if 0 < _major(notes) < _FLOATS_ARE_SHORT:
        lost.append("floating-point columns: that server wrote such numbers longer, so they read as changed")
    if notes.inserted:
        # How many rows a statement brings only the server knows (--rows-per-insert).
        lost.append(
            f"rows of {len(notes.inserted):,} tables: they are INSERT statements, loaded and not compared"
        )
    if notes.unfilled:
        some = f"{', '.join(notes.unfilled[:5])}{', …' if len(notes.unfilled) > 5 else ''}"
        lost.append(f"rows of {len(notes.unfilled):,} tables that it makes and does not fill: {some}")
    return lost
