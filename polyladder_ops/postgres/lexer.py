r"""Tells statements and COPY data of a plain dump apart exactly as psql does, in one pass over blocks of bytes.

The rules are those of psql's main loop and ``copy.c`` (PostgreSQL 18); `sqlscan` finds the statements' ends. A backslash
outside a literal is a psql command there; here it is an error, except for pg_dump's own ``\restrict`` pair. What psql
reads leniently is an error too: it takes the end of its input for the end of the rows, and commits half a table.
"""

from __future__ import annotations

import re
from typing import Protocol

from polyladder_ops.postgres.sqlscan import DumpError, Scanner, shown

__all__ = ["TRAILER", "DumpError", "Handler", "Lexer", "is_copy_target", "setting_of"]

TRAILER = b"PostgreSQL database dump complete"

_PIECE = 1 << 14  # SQL is copied once to be lexed, this much at a time; rows are not copied
_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_TABLE = rb"%(name)s(?:\.%(name)s)?" % {b"name": _NAME}
_COLUMNS = rb"\(%(name)s(?:,\s*%(name)s)*\)" % {b"name": _NAME}
_COPY = re.compile(
    rb"COPY\s+(?P<table>%b)\s+(?:(?P<columns>%b)\s+)?FROM\s+stdin\s*" % (_TABLE, _COLUMNS), re.IGNORECASE
)
_ANY_COPY = re.compile(rb"COPY\b", re.IGNORECASE)
_END_OF_ROWS = re.compile(rb"\n\\\.\r?\n")
_END_HERE = re.compile(rb"\\\.\r?\n")
_END_BEGUN = re.compile(rb"\n((?:\\(?:\.\r?)?)?)\Z")  # the next block says whether it is the end of the rows

_RESTRICT = re.compile(rb"\\(restrict|unrestrict) ([A-Za-z0-9]+)\r?\Z")
_SETTING = re.compile(
    rb"SET\s+(standard_conforming_strings|client_encoding)\s*(?:=|TO)\s*('?)([\w-]+)\2\s*\Z", re.IGNORECASE
)
_BENDS = re.compile(
    rb"(?:(?:RE)?SET\s+(?:(?:SESSION|LOCAL)\s+)?|SELECT\s+(?:pg_catalog\s*\.\s*)?set_config\s*\(\s*')"
    rb"(?:standard_conforming_strings|client_encoding|NAMES)\b",
    re.IGNORECASE,
)
# Encodings that a server can have (docs, 23.3.1). In the others the second byte of a letter can be a quote.
_HARMLESS = re.compile(
    rb"UTF8|SQL_ASCII|LATIN\d+|WIN(12\d\d|866|874)|KOI8[RU]|ISO_8859_[5-8]|EUC_(CN|JP|KR|TW|JIS_2004)|MULE_INTERNAL",
    re.IGNORECASE,
)


class Handler(Protocol):
    """Receives a dump piece by piece, in its order."""

    def statement(self, text: bytes, /) -> None:
        """One statement, without its semicolon and without leading white space and comments."""

    def comment(self, text: bytes, /) -> None:
        """One ``--`` comment outside a statement, from the dashes to the end of the line."""

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes, /) -> None:
        """A COPY … FROM stdin; `table` and `columns` as the dump spells them, `columns` with parentheses or empty."""

    def copy_data(self, data: bytes, /) -> None:
        """The next bytes of the rows; blocks begin and end anywhere, the last byte of all is a line feed."""

    def copy_end(self) -> None:
        """The rows are complete."""


class Lexer(Scanner):
    """Feeds a handler from blocks of a dump; `close` decides whether it was whole.

    Raise DumpError as soon as the bytes can't be part of a harmless dump, or at `close` if something is missing.
    """

    def __init__(self, handler: Handler) -> None:
        super().__init__()
        self._handler = handler
        self._copying = False
        self._at_line_start = False  # in rows: the next byte begins a line
        self._held = b""  # in rows: the beginning of that line, if it may be the end of the rows
        self._statements = 0
        self._restrict_key = b""
        self._unrestricted = False
        self._trailer = False
        self._closed = False

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the dump, any number of them."""
        at = 0
        while at < len(block):
            at = self._rows(block, at) if self._copying else self._sql(block, at)

    def close(self) -> None:
        """Say that the input has ended. Raise DumpError if the dump has not."""
        if not self._copying:
            self._scan(len(self._buffer))
        rest = bytes(self._buffer[self._start :])
        if self._copying:
            raise DumpError(
                "the dump ends inside the rows of a table", detail="The closing line `\\.` is missing."
            )
        if self._is_inside or rest.strip():
            raise DumpError("the dump ends inside a statement or a comment")
        if not self._closed:
            raise DumpError("the dump has no end", detail=f"The comment {TRAILER.decode()!r} is missing.")
        if self._restrict_key and not self._unrestricted:
            raise DumpError("the dump has no end", detail="Its closing `\\unrestrict` is missing.")
        if rest.count(b"\n") < (1 if self._unrestricted else 2):
            raise DumpError("the dump has no end", detail="Its last, empty line is missing.")

    # Rows --------------------------------------------------------------------------------------------------------

    def _rows(self, block: bytes, at: int) -> int:
        r"""Hand on rows from this offset up to the line ``\.``; return the offset of what was not taken."""
        if self._at_line_start:
            line = self._held + block[at : at + 4]
            if end := _END_HERE.match(line):
                return at + self._end_of_rows(end.end())
            if _END_BEGUN.match(b"\n" + line):
                self._held = line
                return len(block)
            self._hand_on(self._held)
            self._held = b""
        if end := _END_OF_ROWS.search(block, at):
            self._hand_on(block[at : end.start() + 1])
            self._end_of_rows(0)
            return end.end()
        begun = _END_BEGUN.search(block, max(at, len(block) - 4))
        self._at_line_start = begun is not None
        self._held = begun[1] if begun else b""
        until = len(block) - len(self._held)
        self._hand_on(block if until - at == len(block) else block[at:until])
        return len(block)

    def _hand_on(self, rows: bytes) -> None:
        if rows:
            self._handler.copy_data(rows)

    def _end_of_rows(self, taken: int) -> int:
        """Leave the rows; return how many of `taken` bytes, some of them held from the block before, are new."""
        new = taken - len(self._held)
        self._held = b""
        self._copying = False
        self._reset(0)
        self._handler.copy_end()
        return new

    # SQL ---------------------------------------------------------------------------------------------------------

    def _sql(self, block: bytes, at: int) -> int:
        """Scan the next piece of SQL, up to its last whole line; return the offset of what was not taken."""
        piece = block[at : at + _PIECE]
        self._buffer += piece
        lines = piece.rfind(b"\n") + 1
        if lines and self._scan(len(self._buffer) - len(piece) + lines):
            at -= len(self._buffer)  # the rows that followed in the same piece
            self._buffer.clear()
        return at + len(piece)

    def _comment(self, text: bytes) -> None:
        self._closed = self._closed or (self._trailer and text == b"--")
        self._trailer = self._trailer or text == b"-- " + TRAILER
        self._handler.comment(text)

    def _statement(self, text: bytes) -> bool:
        """Hand on one statement; return True if rows follow it."""
        if self._unrestricted or self._trailer:
            raise DumpError("the dump goes on after its end", detail="Something was appended to it.")
        self._statements += 1
        if _ANY_COPY.match(text):
            self._copy(text)
            return True
        self._notice_setting(text)
        self._handler.statement(text)
        return False

    def _copy(self, text: bytes) -> None:
        copy = _COPY.fullmatch(text)
        # psql would take the rest of the line for SQL after the rows; pg_dump writes none.
        if copy is None or not self._ends_line():
            raise DumpError(
                "the dump holds a COPY that pg_dump does not write",
                detail=f"Only `COPY table (columns) FROM stdin;` is loaded, not {shown(text)}.",
            )
        del self._buffer[: self._buffer.find(b"\n", self._position) + 1]
        self._copying = self._at_line_start = True
        self._handler.copy_begin(text, copy["table"], copy["columns"] or b"")

    def _ends_line(self) -> bool:
        """Whether nothing but the line's end follows the semicolon. Raise DumpError if it has not come."""
        end = self._buffer.find(b"\n", self._position)
        if end < 0:
            raise DumpError("the dump ends inside a line")
        return not self._buffer[self._position : end].strip()

    def _notice_setting(self, text: bytes) -> None:
        setting = setting_of(text)
        if setting is None and not _BENDS.match(text):
            return
        # psql learns of it at the next line only.
        if setting is None or not self._ends_line() or not self._take_setting(*setting):
            raise DumpError(
                "the dump changes how its text is read in a way that pg_dump does not",
                detail=f"It says {shown(text)}.",
            )

    def _take_setting(self, name: bytes, value: bytes) -> bool:
        """Read what follows by this setting; return whether it is one that can be followed."""
        if name == b"client_encoding":
            return _HARMLESS.fullmatch(value) is not None
        self._backslash_escapes = value == b"off"
        return value in (b"on", b"off")

    def _backslash(self, at: int) -> None:
        r"""Accept pg_dump's ``\restrict KEY`` before everything and its ``\unrestrict KEY`` after it, nothing else."""
        end = self._buffer.find(b"\n", at)
        line = bytes(self._buffer[at : end if end >= 0 else len(self._buffer)])
        at_line_start = at == 0 or self._buffer[at - 1 : at] == b"\n"
        command = _RESTRICT.match(line)
        if command is None or not at_line_start or not self._is_blank_before(at):
            raise DumpError("the dump holds a psql command", detail=f"It says {shown(line)}.")
        if end < 0:
            raise DumpError("the dump ends inside a line")
        if command[1] == b"restrict" and not self._restrict_key and not self._statements:
            self._restrict_key = command[2]
        elif command[1] == b"unrestrict" and command[2] == self._restrict_key and not self._unrestricted:
            self._unrestricted = True
        else:
            raise DumpError("the dump holds a psql command out of place", detail=f"It says {shown(line)}.")
        self._start = self._position = end + 1


def setting_of(statement: bytes) -> tuple[bytes, bytes] | None:
    """Return name and value, in small letters, of a SET that changes how a dump is read; booleans as on and off."""
    setting = _SETTING.match(statement)
    if setting is None:
        return None
    value = setting[3].lower()
    return setting[1].lower(), {b"true": b"on", b"false": b"off"}.get(value, value)


def is_copy_target(table: str, columns: str) -> bool:
    """Whether these are a table's name and column list as pg_dump spells them, and no other piece of SQL."""
    return re.fullmatch(_TABLE, table.encode()) is not None and (
        not columns or re.fullmatch(_COLUMNS, columns.encode()) is not None
    )
