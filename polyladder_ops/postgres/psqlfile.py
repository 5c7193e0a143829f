r"""Writes what was picked from a dump as a file for psql that does no harm to a database where some of it is already.

One transaction, stopped at the first error. Types, functions and the like are made only if they are missing. A table
that is missing is made anew, with all that hangs on it; the rows of one that is there go into a table beside it, in a
schema of their own. psql decides that when it loads the file: `\if` needs psql 10, ``:{?schema}`` 11.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyladder_ops.postgres import toc
from polyladder_ops.postgres.contents import Ledger, decode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from polyladder_ops.postgres.contents import TableData
    from polyladder_ops.postgres.toc import Entry

__all__ = ["PsqlFile", "recipe"]

# Of the dump's first statements these change what the others mean; the rest are time limits, some of them too new.
_MEANING = re.compile(
    rb"SET (client_encoding|standard_conforming_strings|check_function_bodies|xmloption|client_min_messages|row_security) "
    rb"|SELECT pg_catalog\.set_config\('search_path', '', false\)\Z"
)
_SEQUENCE = re.compile(rb"CREATE (?:UNLOGGED )?SEQUENCE (%b)" % toc.QUALIFIED)
_LINE_BREAKS = re.compile(r"[^\x20-\x7e\xa0-\U0010ffff]|[\x85\u2028\u2029]")

_OPENING = rb"""\set ON_ERROR_STOP on
\if :{?schema}
\else
\set schema %b
\endif
BEGIN;
"""


class PsqlFile:
    """The receiver that writes to `write`, and keeps a ledger of the rows and sequence values that it wrote.

    `schema` takes the rows of tables that are there already, unless the one who loads the file names another.
    """

    def __init__(self, write: Callable[[bytes], object], *, schema: str) -> None:
        self.ledger = Ledger()
        self._write = write
        self._schema = schema.encode("ascii")
        self._first: list[bytes] = []
        self._numbers: dict[bytes, int] = {}  # of relations, which psql is asked about by name
        self._index_tables: dict[tuple[bytes, ...], bytes] = {}
        self._filled: dict[bytes, int] = {}  # tables whose rows were written, with their number
        self._settings: dict[bytes, bytes] = {}
        self._last_relation = b""

    def head(self, sentences: Iterable[str], encoding: str) -> None:
        """Write comments for whoever opens the file, and what begins the transaction."""
        for sentence in sentences:
            self._write((b"-- " + _in_comment(sentence, encoding)).rstrip() + b"\n")
        self._write(_OPENING % self._schema)
        for statement in self._first:
            self._statement(statement)

    def comment(self, text: bytes) -> None:
        """Pass a comment to the ledger; the file has its own."""
        self.ledger.comment(text)

    def statement(self, text: bytes) -> None:
        """Keep one of the dump's first statements, if others depend on it, to be written behind the head."""
        self.ledger.statement(text)
        if _MEANING.match(text):
            self._first.append(text)

    def entry(self, entry: Entry) -> None:
        """Write an entry, so that it is done only where it is missing."""
        for setting in entry.settings:
            name = setting.split(b" ")[1]
            if self._settings.get(name) != setting:
                self._settings[name] = setting
                self._statement(setting)
        for statement in entry.statements:
            self.ledger.statement(statement)
        relation = self._relation(entry)
        if relation:
            self._if_missing(relation, entry.statements)
        elif entry.kind != "COMMENT":  # what is there keeps its own
            for statement in entry.statements:
                self._statement(_tolerant(statement))

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Begin the rows of a table, in the table itself or beside it."""
        self.ledger.copy_begin(statement, table, columns)
        number = self._number(table)
        if table not in self._filled:
            self._filled[table] = number
            self._write(b"\\if :pl_missing_%d\n\\else\n" % number)
            self._statement(b'CREATE SCHEMA IF NOT EXISTS :"schema"')
            like = (
                b"LIKE " + table if columns else b""
            )  # all its columns may be generated, so that none is dumped
            self._statement(b"CREATE TABLE :pl_rows_%d (%b)" % (number, like))
            self._write(b"\\endif\n")
        self._statement(b"COPY :pl_rows_%d %b FROM stdin" % (number, columns), end=b";\n")

    def copy_data(self, data: bytes) -> None:
        """Write rows."""
        self.ledger.copy_data(data)
        self._write(data)

    def copy_end(self) -> None:
        """End the rows."""
        self.ledger.copy_end()
        self._write(b"\\.\n\n")

    def finish(self) -> None:
        """Write what ends the transaction and tells where the rows are."""
        self._write(b"COMMIT;\n")
        for number, table in zip(self._filled.values(), self.ledger.contents.tables, strict=True):
            told = b"SELECT pg_catalog.concat(:'pl_rows_%d', ': %d rows') AS \"where they are\""
            self._statement(told % (number, table.rows))

    # Pieces -------------------------------------------------------------------------------------------------------

    def _relation(self, entry: Entry) -> bytes:
        """Return the table or sequence that has to be missing for this entry to be of use; empty if it hangs on none."""
        if entry.kind == "INDEX ATTACH":
            return next(
                (self._index_tables[i] for i in toc.attached(entry)[1:] if i in self._index_tables), b""
            )
        if index := toc.index_of(entry):
            return self._index_tables.get(index, b"")
        if entry.kind == "COMMENT":
            return self._last_relation
        relation = entry.table or toc.sequence_set(entry)
        if entry.kind == "SEQUENCE" and (made := _SEQUENCE.match(entry.statements[0])):
            relation = made[1]
        if entry.index:
            self._index_tables[entry.index] = entry.table
        if entry.kind in ("TABLE", "SEQUENCE"):
            self._number(relation)
            for name in entry.makes:  # an identity's sequence comes and goes with its table
                self._numbers.setdefault(name, self._numbers[relation])
        self._last_relation = relation if relation in self._numbers else b""
        return self._last_relation

    def _number(self, relation: bytes) -> int:
        """Return the number of a relation; at its first mention psql is told to look whether it is there."""
        if relation not in self._numbers:
            self._numbers[relation] = number = len(self._numbers) + 1
            name = _literal(relation)
            beside = b"pg_catalog.format('%%I.%%I', :'schema', %b)" % _literal(_without_quotes(relation))
            missing = b"pg_catalog.to_regclass(%b) IS NULL" % name
            self._write(
                b"SELECT %b AS pl_missing_%d, CASE WHEN %b THEN %b ELSE %b END AS pl_rows_%d \\gset\n"
                % (missing, number, missing, name, beside, number)
            )
        return self._numbers[relation]

    def _if_missing(self, relation: bytes, statements: Sequence[bytes]) -> None:
        self._write(b"\\if :pl_missing_%d\n" % self._numbers[relation])
        for statement in statements:
            self._statement(statement)
        self._write(b"\\endif\n")

    def _statement(self, text: bytes, *, end: bytes = b";\n\n") -> None:
        self._write(text + end)


def _tolerant(statement: bytes) -> bytes:
    """Return a statement that does another one, and nothing if what it makes is there."""
    if statement.startswith(b"CREATE EXTENSION IF NOT EXISTS"):
        return statement
    inner, outer = (_tag(statement, name) for name in (b"made", b"do"))
    return (
        b"DO %b\nBEGIN\n    EXECUTE %b%b%b;\n"
        b"EXCEPTION WHEN duplicate_object OR duplicate_table OR duplicate_function OR duplicate_schema THEN\n"
        b"    NULL;\nEND\n%b" % (outer, inner, statement, inner, outer)
    )


def _literal(text: bytes) -> bytes:
    """Return a literal that means the same however strings are read."""
    tag = _tag(text, b"name")
    return tag + text + tag


def _tag(text: bytes, name: bytes) -> bytes:
    number = 0
    while b"$" + (tag := b"pl_%b_%d" % (name, number)) in text:
        number += 1
    return b"$%b$" % tag


def _without_quotes(relation: bytes) -> bytes:
    """Return schema and table as one name, for a table beside: two schemas may have tables of the same name."""
    found = toc.pieces(relation)
    names = [p[1:-1].replace(b'""', b'"') if p.startswith(b'"') else p for p in found]
    return b".".join(names[1:] if names[0] == b"public" else names)


def _in_comment(text: str, encoding: str) -> bytes:
    """Return text for a comment of one line in a file of this encoding."""
    line = _LINE_BREAKS.sub(lambda found: ascii(found[0])[1:-1], text)
    return line.encode("utf-8" if encoding == "UTF8" else "ascii", "backslashreplace")


def recipe(table: TableData, schema: str) -> str:
    """Return the statement that puts back what is missing from a table, from the rows beside it."""
    columns = table.columns[1:-1]
    beside = decode(_without_quotes(table.name.encode()), "UTF8").replace('"', '""')
    return (
        f"INSERT INTO {table.name} ({columns}) OVERRIDING SYSTEM VALUE"
        f' SELECT {columns} FROM {schema}."{beside}" ON CONFLICT DO NOTHING;'
    )
