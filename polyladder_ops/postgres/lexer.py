"""Tells statements and COPY data of a plain dump apart exactly as psql does, in one pass over blocks of bytes.

The rules are those of psql's ``psqlscan.l`` and ``copy.c`` (PostgreSQL 18): literals, dollar tags, nested comments,
parentheses, ``BEGIN ATOMIC`` bodies. A backslash outside a literal is a psql command there; here it is an error, except
for pg_dump's own ``\restrict`` pair. What psql reads leniently (it takes the end of its input for the end of the rows
and commits half a table) is an error too, and so is what psql and the server read differently: pg_dump writes neither.
"""

from __future__ import annotations

import re
from typing import Protocol

from polyladder_ops.errors import OpsError

__all__ = ["TRAILER", "DumpError", "Handler", "Lexer", "is_copy_target", "setting_of"]

TRAILER = b"PostgreSQL database dump complete"

_PIECE = 1 << 14  # SQL is copied once to be lexed, this much at a time; rows are not copied
_IN_WORD = rb"[\w$\x80-\xff]"
_SPECIAL = re.compile(rb"['\"();\\$/\x00-]")
_TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_WORD = re.compile(rb"(?<!%b)[A-Za-z_\x80-\xff]%b*" % (_IN_WORD, _IN_WORD))
_WORD_BEFORE = re.compile(rb"(?:\A|[^\w$\x80-\xff])[A-Za-z_\x80-\xff]%b*\Z" % _IN_WORD)
_PREFIX = re.compile(rb"(?:\A|[^\w$\x80-\xff])([EeBbXx]|[Uu]&)\Z")
_LINE_COMMENT = re.compile(rb"--[^\r\n]*")  # a lone carriage return ends one, for psql and for the server
_IN_ESCAPE_STRING = re.compile(rb"\\.|''|'", re.DOTALL)
_IN_COMMENT = re.compile(rb"/\*|\*/")
_BLANK = re.compile(rb"\s*")
# The server joins literals over a line break into one, by the rules of the first; psql sees line by line and does not.
_CONTINUES = re.compile(rb"(?:[ \t\r\f\v]|--[^\r\n]*)*[\r\n](?:[ \t\n\r\f\v]|--[^\r\n]*[\r\n])*\Z")

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_TABLE = rb"%(name)s(?:\.%(name)s)?" % {b"name": _NAME}
_COLUMNS = rb"\(%(name)s(?:,\s*%(name)s)*\)" % {b"name": _NAME}
_COPY = re.compile(
    rb"COPY\s+(?P<table>%b)\s+(?:(?P<columns>%b)\s+)?FROM\s+stdin\s*" % (_TABLE, _COLUMNS), re.IGNORECASE
)
_ANY_COPY = re.compile(rb"COPY\b", re.IGNORECASE)
_END_OF_ROWS = re.compile(rb"\n\\\.\r?\n")
_END_HERE = re.compile(rb"\\\.\r?\n")
_END_BEGUN = re.compile(rb"\n((?:\\(?:\.\r?)?)?)\Z")  # what may turn out to be the end of the rows, in the next block

_RESTRICT = re.compile(rb"\\(restrict|unrestrict) ([A-Za-z0-9]+)\r?\Z")
_SETTING = re.compile(
    rb"SET\s+(standard_conforming_strings|client_encoding)\s*(?:=|TO)\s*('?)([\w-]+)\2\s*\Z", re.IGNORECASE
)
_BENDS = re.compile(
    rb"(?:(?:RE)?SET\s+(?:(?:SESSION|LOCAL)\s+)?|SELECT\b.*\bset_config\s*\(\s*')"
    rb"(?:standard_conforming_strings|client_encoding|NAMES)\b",
    re.IGNORECASE | re.DOTALL,
)
# Encodings that a server can have (docs, 23.3.1). In the others the second byte of a letter can be a quote.
_HARMLESS = re.compile(
    rb"UTF8|SQL_ASCII|LATIN\d+|WIN(12\d\d|866|874)|KOI8[RU]|ISO_8859_[5-8]|EUC_(CN|JP|KR|TW|JIS_2004)|MULE_INTERNAL",
    re.IGNORECASE,
)
_ROUTINE = (b"create", b"or", b"replace", b"function", b"procedure")


class DumpError(OpsError):
    """The bytes are no whole and harmless plain dump."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        hint = "Do not restore from it; take another backup, or choose one before it: `invoke backup.list`."
        super().__init__(message, detail=detail, hint=hint)


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


class Lexer:
    """Feeds a handler from blocks of a dump; `close` decides whether it was whole.

    Raise DumpError as soon as the bytes can't be part of a harmless dump, or at `close` if something is missing.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._buffer = bytearray()  # SQL from the beginning of an unfinished statement on
        self._copying = False
        self._at_line_start = False  # in rows: the next byte begins a line
        self._held = b""  # in rows: the beginning of that line, if it may be the end of the rows
        self._backslash_escapes = False
        self._restrict_key = b""
        self._unrestricted = False
        self._statements = 0
        self._trailer = False
        self._closed = False
        self._reset(0)

    def _reset(self, start: int) -> None:
        """Begin a statement at this offset of the buffer."""
        self._start = self._position = start
        self._quote = b""  # the closing token of the literal that we are in: ' or " or a dollar tag
        self._escape_string = False
        self._own_rules = False  # the literal that we are in has a prefix, or backslashes count in it
        self._own_rules_end = -1  # where the last such literal ended
        self._comment_depth = 0
        self._comment_start = 0
        self._parentheses = 0
        self._first_words = b""  # initials of CREATE [OR REPLACE] {FUNCTION | PROCEDURE} as far as they have come
        self._begin_end = -1  # where the word BEGIN ended
        self._atomic = 0  # depth of BEGIN ATOMIC … END and of CASE … END inside

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the dump, any number of them."""
        at = 0
        while at < len(block):
            at = self._rows(block, at) if self._copying else self._sql(block, at)

    def close(self) -> None:
        """Say that the input has ended. Raise DumpError if the dump has not."""
        if not self._copying:
            self._lex(len(self._buffer))
        if self._copying:
            raise DumpError(
                "the dump ends inside the rows of a table", detail="The closing line `\\.` is missing."
            )
        if self._quote or self._escape_string or self._comment_depth:
            raise DumpError("the dump ends inside a literal or a comment")
        rest = bytes(self._buffer[self._start :])
        if rest.strip():
            raise DumpError("the dump ends inside a statement")
        if not self._closed:
            raise DumpError("the dump has no end", detail=f"The comment {TRAILER.decode()!r} is missing.")
        if self._restrict_key and not self._unrestricted:
            raise DumpError("the dump has no end", detail="Its closing `\\unrestrict` is missing.")
        if rest.count(b"\n") < (1 if self._unrestricted else 2):
            raise DumpError("the dump has no end", detail="Its last, empty line is missing.")

    # COPY data ---------------------------------------------------------------------------------------------------

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
        """Lex the next piece of SQL, up to its last whole line; return the offset of what was not taken."""
        piece = block[at : at + _PIECE]
        self._buffer += piece
        lines = piece.rfind(b"\n") + 1
        if lines and self._lex(len(self._buffer) - len(piece) + lines):
            at -= len(self._buffer)  # the rows that followed in the same piece
            self._buffer.clear()
        return at + len(piece)

    def _lex(self, limit: int) -> bool:
        """Lex up to `limit`, the end of a line; return True when COPY data begins, False when more input is needed."""
        buffer = self._buffer
        while self._position < limit:
            if self._quote or self._escape_string or self._comment_depth:
                if not self._leave(limit):
                    break
                continue
            found = _SPECIAL.search(buffer, self._position, limit)
            at = found.start() if found else limit
            if len(self._first_words) < 5:
                self._words(at)
            self._position = at
            if found:
                self._position = at + 1
                if self._special(buffer[at], at):
                    return True
        self._drop_finished()
        return False

    def _drop_finished(self) -> None:
        """Forget the bytes of finished statements, once per piece."""
        if done := self._start:
            del self._buffer[:done]
            self._position -= done
            self._comment_start -= done
            self._own_rules_end -= done
            self._begin_end -= done
            self._start = 0
