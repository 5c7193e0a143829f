"""Finds where SQL statements end, as psql's ``psqlscan.l`` (PostgreSQL 18) does: the ground that the dump's lexer stands on.

Literals, dollar tags, nested comments, parentheses, ``BEGIN ATOMIC`` bodies. Whatever psql and the server would read
differently is an error: pg_dump never writes it, and who wrote it wanted one of them deceived.
"""

from __future__ import annotations

import re

from polyladder_ops.errors import OpsError

__all__ = ["DumpError", "Scanner", "shown"]

_SPECIAL = re.compile(rb"['\"();\\$/\x00-]")
_TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_WORD = re.compile(rb"(?<![\w$\x80-\xff])[A-Za-z_\x80-\xff][\w$\x80-\xff]*")
_REST_OF_WORD = re.compile(rb"[\w$\x80-\xff]*")
_IN_WORDS = bytes(byte for byte in range(256) if _REST_OF_WORD.fullmatch(bytes([byte])))
_LINE_COMMENT = re.compile(rb"--[^\r\n]*")  # a lone carriage return ends one, for psql and for the server
_IN_COMMENT = re.compile(rb"/\*|\*/")
_IN_ESCAPE_STRING = re.compile(rb"\\.|''|'", re.DOTALL)
_BLANK = re.compile(rb"\s*")
_BLANK_OR_COMMENTS = re.compile(rb"(?:\s++|--[^\r\n]*+)*+\Z")
_LINE_BREAK = re.compile(rb"[\r\n]")
_HALF_NUMBER = re.compile(rb"(?:\A|[^\w$\x80-\xff])(?:\d[\d_]*\.?[\d_]*|\.\d[\d_]*)[eE]\Z")
_DIFFERENTLY = "the dump holds text that psql and the server may read differently"
_KEYWORDS = (b"create", b"or", b"replace", b"function", b"procedure")


class DumpError(OpsError):
    """The bytes are no whole and harmless plain dump."""

    def __init__(self, message: str, *, detail: str = "") -> None:
        hint = "Do not restore from it; take another backup, or choose one before it: `invoke backup.list`."
        super().__init__(message, detail=detail, hint=hint)


class Scanner:
    """Walks over a buffer of SQL and calls `_statement`, `_comment` and `_backslash` of its child at what it meets.

    The buffer begins with the unfinished statement. Raise DumpError at what can't be part of a dump.
    """

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._backslash_escapes = False  # standard_conforming_strings = off
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
        self._first_words = b""  # their initials as far as they are those of CREATE [OR REPLACE] FUNCTION
        self._is_routine: bool | None = None  # None: its first words have not decided it yet
        self._begin_end = -1  # where the word BEGIN ended
        self._atomic = 0  # depth of BEGIN ATOMIC … END, and of CASE … END inside

    def _statement(self, text: bytes) -> bool:
        """Take a statement without its semicolon and without what was blank before it; return True to stop there."""
        raise NotImplementedError

    def _comment(self, text: bytes) -> None:
        """Take a ``--`` comment that stands outside a statement, without its line break."""
        raise NotImplementedError

    def _backslash(self, at: int) -> None:
        """Decide what a backslash outside literals means, and move behind it or raise."""
        raise NotImplementedError

    def _scan(self, limit: int) -> bool:
        """Walk up to `limit`, the end of a line; return True if `_statement` stopped, False if more input is needed."""
        buffer = self._buffer
        while (begin := self._position) < limit:
            if self._quote or self._escape_string or self._comment_depth:
                if not self._leave(limit):
                    break
                continue
            found = _SPECIAL.search(buffer, begin, limit)
            at = found.start() if found else limit
            if self._is_routine is not False:
                self._words(begin, at)
            self._position = at
            if found:
                self._position = at + 1
                if self._special(buffer[at], begin, at):
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

    def _is_blank_before(self, at: int) -> bool:
        """Whether nothing but white space stands between the statement's start and this offset."""
        blank = _BLANK.match(self._buffer, self._start, at)
        return blank is not None and blank.end() == at

    # Inside literals and comments --------------------------------------------------------------------------------

    @property
    def _is_inside(self) -> bool:
        return bool(self._quote or self._escape_string or self._comment_depth)

    def _leave(self, limit: int) -> bool:
        """Move behind the end of the literal or comment that we are in, if it ends before `limit`."""
        if self._comment_depth:
            return self._leave_comment(limit)
        end = self._end_of_escape_string(limit) if self._escape_string else self._end_of_quote(limit)
        if end < 0:
            self._position = limit
            return False
        self._position = end
        self._own_rules_end = end if self._own_rules else -1
        self._quote, self._escape_string, self._own_rules = b"", False, False
        return True

    def _end_of_quote(self, limit: int) -> int:
        # No closing token holds a line break, so `limit` never cuts one. A doubled quote closes and opens again.
        found = self._buffer.find(self._quote, self._position, limit)
        return found + len(self._quote) if found >= 0 else -1

    def _end_of_escape_string(self, limit: int) -> int:
        # A backslash can't be the last byte before `limit`: lines are whole, so it is followed by a line feed.
        for token in _IN_ESCAPE_STRING.finditer(self._buffer, self._position, limit):
            if token[0] == b"'":
                return token.end()
        return -1

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

    # Outside -----------------------------------------------------------------------------------------------------

    def _words(self, begin: int, end: int) -> None:
        """Follow CREATE [OR REPLACE] {FUNCTION | PROCEDURE} … BEGIN ATOMIC … END through words outside literals.

        psql counts every BEGIN, so that it never sees the end of a function *named* begin; the server wants ATOMIC.
        """
        for found in _WORD.finditer(bytes(self._buffer[begin:end])):
            word = found[0].lower()
            if self._is_routine is None:
                self._first_words += word[:1] if word in _KEYWORDS else b"-"
                if self._first_words not in (b"c", b"co", b"cor"):
                    self._is_routine = self._first_words in (b"cf", b"cp", b"corf", b"corp")
            elif not self._is_routine:
                return
            elif not self._parentheses:
                self._word_of_routine(word, begin + found.start(), begin + found.end())

    def _word_of_routine(self, word: bytes, start: int, end: int) -> None:
        begun = self._begin_end >= 0 and b"." not in self._buffer[self._begin_end : start]
        self._begin_end = end if word == b"begin" else -1
        if (word == b"atomic" and begun) or (word == b"case" and self._atomic):
            self._atomic += 1
        elif word == b"end" and self._atomic:
            self._atomic -= 1

    def _special(self, byte: int, begin: int, at: int) -> bool:
        """Take the token that this byte begins; `begin` is where the one before ended. Return True to stop."""
        if byte == ord(";"):
            return self._semicolon(at)
        if byte in b"()":
            self._parentheses = max(0, self._parentheses + (1 if byte == ord("(") else -1))
        elif byte == ord("'"):
            self._open_string(begin, at)
        elif byte == ord('"'):
            self._quote = b'"'
        elif byte in b"-/":
            self._perhaps_comment(begin, at)
        elif byte == ord("$"):
            self._dollar(begin, at)
        elif byte == ord("\\"):
            self._backslash(at)
        else:
            raise DumpError("the dump holds a zero byte outside its rows")
        return False

    def _semicolon(self, at: int) -> bool:
        if self._parentheses or self._atomic:
            return False
        text = bytes(self._buffer[self._start : at]).lstrip()
        self._reset(at + 1)
        return bool(text) and self._statement(text)

    def _open_string(self, begin: int, at: int) -> None:
        before = bytes(self._buffer[begin:at])
        word = _last_word(before.removesuffix(b"&")).lower()
        prefix = word if word in ((b"u",) if before.endswith(b"&") else (b"e", b"b", b"x")) else b""
        if not prefix and self._own_rules_end >= 0 and self._joins(self._own_rules_end, at):
            # The server joins literals over a line break by the first one's rules; psql sees line by line.
            raise DumpError(_DIFFERENTLY, detail="A literal with a prefix goes on after a line break.")
        self._own_rules = bool(prefix) or self._backslash_escapes
        self._escape_string = prefix == b"e" or (self._backslash_escapes and not prefix)
        self._quote = b"" if self._escape_string else b"'"

    def _joins(self, end: int, at: int) -> bool:
        """Whether nothing but a line break, white space and comments stands between a literal and this quote."""
        between = _BLANK_OR_COMMENTS.match(self._buffer, end, at)
        return between is not None and _LINE_BREAK.search(self._buffer, end, at) is not None

    def _perhaps_comment(self, begin: int, at: int) -> None:
        if comment := _LINE_COMMENT.match(self._buffer, at):
            if _HALF_NUMBER.search(bytes(self._buffer[begin:at])):
                raise DumpError(_DIFFERENTLY, detail="A number ends in e and a comment.")
            self._position = comment.end()
            if self._is_blank_before(at):
                self._start = self._position
                self._comment(bytes(comment[0]))
        elif self._buffer[at : at + 2] == b"/*":
            self._comment_depth, self._comment_start, self._position = 1, at, at + 2

    def _dollar(self, begin: int, at: int) -> None:
        if _last_word(bytes(self._buffer[begin:at])).lstrip(b"0123456789"):
            rest = _REST_OF_WORD.match(self._buffer, at)
            assert rest is not None
            self._position = rest.end()
        elif tag := _TAG.match(self._buffer, at):
            self._quote = bytes(tag[0])
            self._position = tag.end()
        elif not self._buffer[at + 1 : at + 2].isdigit():
            raise DumpError("the dump holds a dollar sign where no server takes one")


def shown(text: bytes) -> str:
    """Return the beginning of a piece of a dump, for a person, in ASCII and quotes."""
    return ascii(text[:60].decode("utf-8", "replace"))


def _last_word(text: bytes) -> bytes:
    """Return what stands unbroken at the very end of `text`: letters, digits, underscores, dollar signs."""
    return text[len(text.rstrip(_IN_WORDS)) :]
