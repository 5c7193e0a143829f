"""Which tables of a backup a person means, and what must come out of it for them: values from the manifest."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.postgres import psqlfile, toc
from polyladder_ops.postgres.contents import Contents, decode

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.picker import Picker

__all__ = ["ALWAYS_LEFT", "Outcome", "Parts", "Wanted", "described", "expect_rows", "outcome", "wanted"]

Parts = tuple[str, ...]
"""Schema and table, without quotes."""

_IDENTIFIER = r'(?:[^\W\d][\w$]*|"(?:[^"]|"")+")'
_GIVEN = re.compile(rf"\s*(?:(?P<schema>{_IDENTIFIER})\s*\.\s*)?(?P<table>{_IDENTIFIER})\s*")
_HOW = """Write it as in SQL: --table=users, --table=public.users, --table='"Odd Name"'."""
_ROWLESS = ("view", "materialized view", "foreign table")
_LEFT = ("trigger", "rule", "policy")
ALWAYS_LEFT = "owners, grants, views, row security, publications and event triggers"


@dataclass(frozen=True)
class Wanted:
    """Tables of a backup, as a person named them; their partitions are found in the dump."""

    manifest: Manifest
    tables: frozenset[Parts]

    @property
    def names(self) -> tuple[str, ...]:
        """The tables as SQL spells them, sorted."""
        spelled = _spelled(self.manifest, "table")
        return tuple(sorted(spelled[parts] for parts in self.tables))


def wanted(manifest: Manifest, given: Sequence[str]) -> Wanted:
    """Return the tables that these words name, quoted as in SQL.

    Raise UsageError if one is no name, names no table, or fits tables of several schemas.
    """
    if not given:
        raise UsageError("no table is named", hint=_HOW)
    if not manifest.knows_objects:
        raise OpsError(
            "tables can be extracted only from a backup with a manifest",
            detail="What this file must hold is written nowhere, so nothing of it could be proved.",
            hint="Restore all of it beside: `invoke restore --backup=PATH --into=NAME`.",
        )
    return Wanted(manifest, frozenset(_one(manifest, text) for text in given))


def _one(manifest: Manifest, text: str) -> Parts:
    there = _spelled(manifest, "table")
    found = _GIVEN.fullmatch(text)
    if found is None:
        raise UsageError(f"--table={text} is no name", detail=_like(text, there), hint=_HOW)
    schema, table = (_folded(found[part]) if found[part] else "" for part in ("schema", "table"))
    fitting = [parts for parts in there if parts[-1] == table and schema in ("", parts[0])]
    if not fitting:
        raise UsageError(
            f"there is no table {text} in backup {manifest.id}",
            detail=_why(manifest, text, schema, table),
            hint=_HOW,
        )
    if len(fitting) > 1:
        raise UsageError(
            f"there is a table {text} in {len(fitting)} schemas",
            detail=f"They are {', '.join(sorted(there[parts] for parts in fitting))}.",
            hint="Name it with its schema.",
        )
    return fitting[0]


def _folded(identifier: str) -> str:
    """Return what the server makes of an identifier: without quotes A to Z are small letters."""
    if identifier.startswith('"'):
        return identifier[1:-1].replace('""', '"')
    return re.sub("[A-Z]", lambda letter: letter[0].lower(), identifier)


def _spelled(manifest: Manifest, *kinds: str) -> dict[Parts, str]:
    names = [entry.name for entry in manifest.objects if entry.kind in kinds]
    return {toc.parts(name.encode(), "UTF8"): name for name in names}


def _why(manifest: Manifest, text: str, schema: str, table: str) -> str:
    for kind in _ROWLESS:
        for parts, name in _spelled(manifest, kind).items():
            if parts[-1] == table and schema in ("", parts[0]):
                return f"{name} is a {kind}: a backup has no rows of it."
    return _like(text, _spelled(manifest, "table"))


def _like(text: str, there: dict[Parts, str]) -> str:
    """Return a sentence on tables with a name like this, whatever it lacks: quotes, capitals, its schema."""
    plain = text.replace('"', "").lower()
    by_word: dict[str, list[str]] = {}
    for parts, name in there.items():
        for word in (".".join(parts).lower(), parts[-1].lower()):
            by_word.setdefault(word, []).append(name)
    close = difflib.get_close_matches(plain, by_word, n=5, cutoff=0.7)
    names = list(dict.fromkeys(name for word in close for name in by_word[word]))
    return f"Names like it: {', '.join(names[:5])}." if names else ""


@dataclass(frozen=True)
class Outcome:
    """What must come out for some tables, and what is known to stay behind.

    `contents` are rows and sequence values; `empty` tables come without rows, because something needs their
    definitions; `objects` are (kind, name) of what must be there besides, as the inventory has it.
    """

    contents: Contents
    empty: tuple[str, ...]
    objects: frozenset[tuple[str, str]]
    left_out: tuple[str, ...]


def expect_rows(wanted: Wanted, picker: Picker) -> None:
    """Return if the dump has what it takes to prove each table that was picked.

    Raise UsageError if a partition comes only together with its root, OpsError if manifest and dump contradict.
    """
    encoding, definitions = wanted.manifest.encoding, picker.definitions
    there = {toc.parts(name, encoding) for name in picker.tables}
    filled = {table.name for table in wanted.manifest.tables}
    for lost in sorted(wanted.tables - there):
        raise OpsError(f"the dump has no table {'.'.join(lost)}, though its manifest says so", hint=_VERIFY)
    for name in picker.tables:
        spelled, root = decode(name, encoding), definitions.root_of(name)
        if spelled in filled or definitions.is_partitioned(name):
            continue
        if root and decode(root, encoding) in filled:
            if picker.has(root):
                continue
            raise UsageError(
                f"the rows of {spelled} can't be told from those of the other partitions",
                detail=f"The backup loads them through {decode(root, encoding)}: each may fall into another partition.",
                hint=f"Write --table={decode(root, encoding)}.",
            )
        raise OpsError(f"the backup has no rows of {spelled}", hint=_VERIFY)


_VERIFY = "Run `invoke verify`, or choose another backup: `invoke backup.list`."


def outcome(wanted: Wanted, picker: Picker) -> Outcome:
    """Return what must have come out, now that the dump has passed."""
    manifest = wanted.manifest
    encoding, definitions = manifest.encoding, picker.definitions
    tables = {decode(name, encoding) for name in picker.tables}
    sequences = {decode(name, encoding) for entry in definitions.taken("SEQUENCE") for name in entry.makes}
    contents = replace(
        manifest.contents,
        tables=tuple(table for table in manifest.tables if table.name in tables),
        sequences=tuple(sequence for sequence in manifest.sequences if sequence.name in sequences),
        large_objects=(),
    )
    defined = {decode(entry.table, encoding) for entry in definitions.taken("TABLE")}
    parts = {toc.parts(name, encoding) for name in picker.tables}
    hanging = list(_hanging(manifest, parts))
    left = {("constraint", name) for name in picker.foreign_keys_left}
    objects = {(kind, name) for kind, name in hanging if kind == "constraint"} - left
    objects |= {("table", name) for known, name in _spelled(manifest, "table").items() if known in parts}
    return Outcome(
        contents,
        tuple(sorted(defined - tables)),
        frozenset(objects),
        tuple(_left_out(wanted, picker, hanging)),
    )


def _hanging(manifest: Manifest, tables: set[Parts]) -> Iterator[tuple[str, str]]:
    """Yield (kind, name) of what hangs on these tables; the inventory calls it ``name on schema.table``."""
    spelled = {name for parts, name in _spelled(manifest, "table").items() if parts in tables}
    for entry in manifest.objects:
        if entry.kind in ("constraint", *_LEFT):
            ends = [entry.name[found.end() :] for found in re.finditer(" on ", entry.name)]
            if not spelled.isdisjoint(ends):
                yield entry.kind, entry.name


def _left_out(wanted: Wanted, picker: Picker, hanging: list[tuple[str, str]]) -> Iterator[str]:
    encoding, definitions = wanted.manifest.encoding, picker.definitions
    for name in picker.tables:
        root = definitions.root_of(name)
        if root and not picker.has(root):
            yield f"the place of {decode(name, encoding)} among the partitions of {decode(root, encoding)}"
        for child in definitions.children(name):
            if not picker.has(child):
                yield f"table {decode(child, encoding)}, which inherits from {decode(name, encoding)}"
    yield from picker.left_out
    yield from (f"{kind} {name}" for kind, name in hanging if kind in _LEFT)
    if wanted.manifest.large_objects:
        yield "large objects, even if a column of type oid names them"
    yield ALWAYS_LEFT


def described(backup: str, wanted: Wanted, come: Outcome, schema: str) -> Iterator[str]:
    """Yield lines for the head of a file for psql: what it is, how it is loaded, and what to do with its rows."""
    manifest = wanted.manifest
    yield from (
        f"Tables of backup {backup}: database {manifest.source.database}, as it was at {manifest.taken_at:%Y-%m-%d %H:%M:%S}Z.",
        "IT HOLDS PEOPLE'S DATA. Keep it private and delete it when it has done its work.",
        "",
        *(f"  {table.name}: {table.rows} rows" for table in come.contents.tables),
        "",
        "Load it with psql 11 or newer; it is one transaction, which stops at the first error:",
        "    psql -X -f FILE DATABASE-URL             (a .gz: gunzip -c FILE | psql -X DATABASE-URL)",
        f"A table that is missing there is made anew. The rows of one that is there go beside it, into the schema {schema}",
        "(another one: psql -v schema=NAME), and the table stays as it is. To put back what it lacks, look, and then say:",
        *(
            f"    {psqlfile.recipe(table, schema)}"
            for table in come.contents.tables
            if table.rows and table.columns
        ),
        f"    DROP SCHEMA {schema} CASCADE;",
        "",
        "What is made belongs to who loads the file. Not in here:",
        *(f"  {sentence}" for sentence in come.left_out),
        "",
    )
