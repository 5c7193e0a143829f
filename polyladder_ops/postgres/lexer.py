"""Tells statements and COPY data of a plain dump apart exactly as psql does, in one pass over blocks of bytes.

The rules are those of psql's ``psqlscan.l`` and ``copy.c`` (PostgreSQL 18): literals, dollar tags, nested comments,
parentheses, ``BEGIN ATOMIC`` bodies. A backslash outside a literal is a psql command there; here it is an error, except
for pg_dump's own ``\restrict`` pair. What psql would read leniently (a dump that ends inside COPY data) is an error too:
psql takes the end of its input for the end of the rows and commits half a table.
"""

from __future__ import annotations

import re
from typing import Protocol

from polyladder_ops.errors import OpsError

__all__ = ["TRAILER", "DumpError", "Handler", "Lexer", "is_copy_target", "setting_of"]

TRAILER = b"PostgreSQL database dump complete"

_TOKEN = re.compile(
    rb"""['"();\\]"""
    rb"""|--[^\n]*|/\*"""
    rb"""|\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$"""
    rb"""|[A-Za-z_\x80-\xff][A-Za-z0-9_$\x80-\xff]*"""
)
_IN_ESCAPE_STRING = re.compile(rb"\\.|''|'", re.DOTALL)
_IN_COMMENT = re.compile(rb"/\*|\*/")
# psql's {quotecontinue}: a string goes on after white space that holds a line break, comments allowed.
_CONTINUES = re.compile(rb"(?:[ \t\r\f\v]|--[^\n]*)*\n(?:[ \t\n\r\f\v]|--[^\n]*\n)*\Z")
_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_COPY = re.compile(
    rb"COPY\s+(?P<table>%(name)s(?:\.%(name)s)?)\s+(?P<columns>\(%(name)s(?:,\s*%(name)s)*\)\s+)?FROM\s+stdin"
    % {b"name": _NAME},
    re.IGNORECASE,
)
_BLANK = re.compile(rb"\s*")
_ANY_COPY = re.compile(rb"COPY\b", re.IGNORECASE)
_RESTRICT = re.compile(rb"\\(restrict|unrestrict) ([A-Za-z0-9]+)\r?\Z")
_SETTING = re.compile(
    rb"SET\s+(standard_conforming_strings|client_encoding)\s*(?:=|TO)\s*'?([\w-]+)'?\Z", re.IGNORECASE
)
_ROUTINE = {b"create", b"function", b"procedure", b"or", b"replace"}
# Client-only encodings whose second bytes can be a quote or a backslash (PostgreSQL docs, 23.3.1): no server uses them.
_TREACHEROUS = {b"SJIS", b"BIG5", b"GBK", b"UHC", b"GB18030", b"JOHAB", b"SHIFTJIS2004"}


class DumpError(OpsError):
    """The bytes are no whole and harmless plain dump."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        hint = "Nothing of it was run. Take another backup, or the one before: `invoke backup.list`."
        super().__init__(message, detail=detail, hint=hint)


class Handler(Protocol):
    """Receives a dump piece by piece, in its order; slices are only good during the call."""

    def statement(self, text: bytes, /) -> None:
        """One statement, without its semicolon and without leading comments."""

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
        self._buffer = bytearray()
        self._copying = False
        self._skip = 0  # bytes at the buffer's start that the handler has already seen (COPY's line feed)
        self._reset(0)
        self._backslash_escapes = False
        self._restrict_key = b""
        self._unrestricted = False
        self._statements = 0
        self._trailer = False

    def _reset(self, start: int) -> None:
        """Begin a statement at this offset of the buffer."""
        self._start = self._position = start
        self._quote = b""  # the closing token of the literal that we are in: ' or " or a dollar tag
        self._escape_string = False
        self._escape_string_end = -1
        self._comment_depth = 0
        self._comment_start = 0
        self._parentheses = 0
        self._atomic = 0  # depth of BEGIN … END inside CREATE FUNCTION
        self._words: list[bytes] = []

    def feed(self, block: bytes) -> None:
        """Take the next bytes of the dump, any number of them."""
        self._buffer += block
        while (
            self._copy_data() if self._copying else self._sql(self._buffer.rfind(b"\n", self._position) + 1)
        ):
            pass

    def close(self) -> None:
        """Say that the input has ended. Raise DumpError if the dump has not."""
        if not self._copying:
            self._sql(len(self._buffer))
        if self._copying:
            raise DumpError(
                "the dump ends inside the rows of a table", detail="The closing line `\\.` is missing."
            )
        if self._quote or self._escape_string or self._comment_depth:
            raise DumpError("the dump ends inside a literal or a comment")
        if self._buffer[self._start :].strip():
            raise DumpError("the dump ends inside a statement")
        if not self._trailer:
            raise DumpError("the dump has no end", detail=f"The comment {TRAILER.decode()!r} is missing.")
        if self._restrict_key and not self._unrestricted:
            raise DumpError("the dump has no end", detail="Its closing `\\unrestrict` is missing.")

    # COPY data ---------------------------------------------------------------------------------------------------

    def _copy_data(self) -> bool:
        r"""Hand on rows up to the line ``\.``; the buffer begins with the line feed before the first of them."""
        ended, end, after = self._end_of_copy()
        if end > self._skip:
            self._handler.copy_data(bytes(memoryview(self._buffer)[self._skip : end]))
        if ended:
            self._handler.copy_end()
            self._copying = False
        self._skip = 0 if ended else max(0, self._skip - after)
        del self._buffer[:after]
        if ended:
            self._reset(0)
        return ended

    def _end_of_copy(self) -> tuple[bool, int, int]:
        """Return whether the data ends here, the end of the rows, and the first byte to keep."""
        buffer, begin = self._buffer, 0
        while (at := buffer.find(b"\n\\.", begin)) >= 0:
            rest = bytes(buffer[at + 3 : at + 5])
            if rest[:1] == b"\n":
                return True, at + 1, at + 4
            if rest == b"\r\n":
                return True, at + 1, at + 5
            if rest in (b"", b"\r"):
                return False, at, at  # the next block decides
            begin = at + 1
        last = buffer.rfind(b"\n", max(0, len(buffer) - 2))
        keep = last if last >= 0 and b"\n\\.".startswith(bytes(buffer[last:])) else len(buffer)
        return False, keep, keep

    # SQL ---------------------------------------------------------------------------------------------------------

    def _sql(self, limit: int) -> bool:
        """Lex whole lines up to `limit`; return True when COPY data begins, False when more input is needed."""
        buffer = self._buffer
        while self._position < limit:
            if self._quote or self._escape_string or self._comment_depth:
                if not self._leave(limit):
                    break
                continue
            token = _TOKEN.search(buffer, self._position, limit)
            if token is None:
                self._position = limit
                break
            self._position = token.end()
            if self._token(token[0], token.start()):
                return True
        self._drop_finished()
        return False

    def _drop_finished(self) -> None:
        """Forget the bytes of finished statements, once per block."""
        if done := self._start:
            del self._buffer[:done]
            self._position -= done
            self._comment_start -= done
            self._escape_string_end -= done
            self._start = 0

    def _is_blank_before(self, at: int) -> bool:
        """Whether nothing but white space stands between the statement's start and this offset."""
        blank = _BLANK.match(self._buffer, self._start, at)
        return blank is not None and blank.end() == at

    def _leave(self, limit: int) -> bool:
        """Move behind the end of the literal or comment that we are in, if it ends before `limit`."""
        if self._comment_depth:
            return self._leave_comment(limit)
        if self._escape_string:
            return self._leave_escape_string(limit)
        at = self._buffer.find(self._quote, self._position, limit)
        if at < 0:
            # A dollar tag never holds a line feed, so it can't be cut by `limit`.
            self._position = limit
            return False
        self._position = at + len(self._quote)
        self._quote = b""
        return True

    def _leave_escape_string(self, limit: int) -> bool:
        for token in _IN_ESCAPE_STRING.finditer(self._buffer, self._position, limit):
            if token[0] == b"'":
                self._position = self._escape_string_end = token.end()
                self._escape_string = False
                return True
        # A backslash at the very end would escape a byte that is not here yet; lines are whole, so it is a line feed.
        self._position = limit
        return False

    def _leave_comment(self, limit: int) -> bool:
        for token in _IN_COMMENT.finditer(self._buffer, self._position, limit):
            self._comment_depth += 1 if token[0] == b"/*" else -1
            if not self._comment_depth:
                self._position = token.end()
                if self._is_blank_before(self._comment_start):
                    self._start = self._position
                return True
        self._position = limit
        return False

    def _token(self, token: bytes, at: int) -> bool:
        """Take one token that begins at offset `at`; return True if COPY data begins behind it."""
        first = token[:1]
        if first == b";":
            return self._semicolon(at)
        if first == b"'":
            self._open_string(at)
        elif first == b'"' or (first == b"$" and token[-1:] == b"$"):
            self._quote = token
        elif token[:2] == b"--":
            self._line_comment(token, at)
        elif token == b"/*":
            self._comment_depth, self._comment_start = 1, at
        elif first == b"\\":
            self._backslash(at)
        elif first == b"(":
            self._parentheses += 1
        elif first == b")":
            self._parentheses = max(0, self._parentheses - 1)
        else:
            self._word(token)
        return False

    def _open_string(self, at: int) -> None:
        before = bytes(self._buffer[max(self._start, at - 2) : at])
        prefixed = before[-1:] in (b"e", b"E") and not re.match(rb"[\w$\x80-\xff]", before[-2:-1])
        between = (
            bytes(self._buffer[self._escape_string_end : at])
            if self._escape_string_end >= self._start
            else b""
        )
        if prefixed or self._backslash_escapes or _CONTINUES.match(between):
            self._escape_string = True
        else:
            self._quote = b"'"

    def _line_comment(self, token: bytes, at: int) -> None:
        if not self._is_blank_before(at):
            return
        self._start = self._position
        text = bytes(token).rstrip(b"\r")
        self._trailer = self._trailer or text == b"-- " + TRAILER
        self._handler.comment(text)

    def _word(self, token: bytes) -> None:
        """Follow CREATE [OR REPLACE] {FUNCTION|PROCEDURE} … BEGIN … END, as psql's lexer does."""
        word = token.lower()
        words = self._words
        if len(words) < 4:
            words.append(word if word in _ROUTINE else b"")
        if self._parentheses or word not in (b"begin", b"case", b"end") or not self._creates_routine():
            return
        if word == b"begin" or (word == b"case" and self._atomic):
            self._atomic += 1
        elif word == b"end" and self._atomic:
            self._atomic -= 1

    def _creates_routine(self) -> bool:
        # psql compares first letters: c, then f or p, or o, r, then f or p.
        initials = b"".join(word[:1] or b"-" for word in self._words)
        return re.match(rb"c(or)?[fp]", initials) is not None

    def _semicolon(self, at: int) -> bool:
        if self._parentheses or self._atomic:
            return False
        text = bytes(self._buffer[self._start : at]).strip()
        self._reset(at + 1)
        if not text:
            return False
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
        end_of_line = self._buffer.find(b"\n", self._position)
        if end_of_line < 0:
            raise DumpError("the dump ends inside the rows of a table")
        # psql would take the rest of the line for SQL after the rows; pg_dump writes none.
        if copy is None or self._buffer[self._position : end_of_line].strip():
            raise DumpError(
                "the dump holds a COPY that pg_dump does not write",
                detail=f"Only `COPY table (columns) FROM stdin;` is loaded, not {_shown(text)}.",
            )
        self._handler.copy_begin(text, copy["table"], (copy["columns"] or b"").strip())
        self._copying = True
        del self._buffer[:end_of_line]
        self._skip = 1
        self._start = self._position = 0

    def _notice_setting(self, text: bytes) -> None:
        setting = setting_of(text)
        if setting is None:
            return
        if setting[0] == b"standard_conforming_strings":
            self._backslash_escapes = setting[1] == b"off"
        elif setting[1].upper().replace(b"_", b"").replace(b"-", b"") in _TREACHEROUS:
            raise DumpError(
                "the dump is in an encoding that can hide quotes", detail=f"It says {_shown(text)}."
            )

    def _backslash(self, at: int) -> None:
        r"""Accept pg_dump's ``\restrict KEY`` before everything and its ``\unrestrict KEY`` after it, nothing else."""
        end = self._buffer.find(b"\n", at)
        line = bytes(self._buffer[at : end if end >= 0 else len(self._buffer)])
        at_line_start = at == 0 or self._buffer[at - 1 : at] == b"\n"
        command = _RESTRICT.match(line)
        if command is None or not at_line_start or end < 0 or not self._is_blank_before(at):
            raise DumpError("the dump holds a psql command", detail=f"It says {_shown(line)}.")
        if command[1] == b"restrict" and not self._restrict_key and not self._statements:
            self._restrict_key = command[2]
        elif command[1] == b"unrestrict" and command[2] == self._restrict_key and not self._unrestricted:
            self._unrestricted = True
        else:
            raise DumpError("the dump holds a psql command out of place", detail=f"It says {_shown(line)}.")
        self._start = self._position = end + 1


def setting_of(statement: bytes) -> tuple[bytes, bytes] | None:
    """Return name and value of a SET that changes how a dump is read; booleans as on and off."""
    setting = _SETTING.match(statement)
    if setting is None:
        return None
    value = setting[2].lower()
    return setting[1].lower(), {b"false": b"off", b"no": b"off", b"0": b"off"}.get(value, value)


def is_copy_target(table: str, columns: str) -> bool:
    """Whether these are a table's name and column list as pg_dump spells them, and no other piece of SQL."""
    return _COPY.fullmatch(f"COPY {table} {columns} FROM stdin".encode()) is not None


def _shown(text: bytes) -> str:
    return ascii(text[:60].decode("utf-8", "replace"))
