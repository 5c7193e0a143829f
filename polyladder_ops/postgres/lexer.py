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
_SPECIAL = re.compile(rb"['\"();\\$/\x00-]")
_TAG = re.compile(rb"\$(?:[A-Za-z_\x80-\xff][A-Za-z0-9_\x80-\xff]*)?\$")
_WORD = re.compile(rb"(?<![\w$\x80-\xff])[A-Za-z_\x80-\xff][\w$\x80-\xff]*")
_REST_OF_WORD = re.compile(rb"[\w$\x80-\xff]*")
_IN_WORDS = bytes(byte for byte in range(256) if re.match(rb"[\w$\x80-\xff]", bytes([byte])))
_LINE_COMMENT = re.compile(rb"--[^\r\n]*")  # a lone carriage return ends one, for psql and for the server
_IN_ESCAPE_STRING = re.compile(rb"\\.|''|'", re.DOTALL)
_IN_COMMENT = re.compile(rb"/\*|\*/")
_BLANK = re.compile(rb"\s*")
_BLANK_OR_COMMENTS = re.compile(rb"(?:\s++|--[^\r\n]*+)*+\Z")
_LINE_BREAK = re.compile(rb"[\r\n]")

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_TABLE = rb"%(name)s(?:\.%(name)s)?" % {b"name": _NAME}
_COLUMNS = rb"\(%(name)s(?:,\s*%(name)s)*\)" % {b"name": _NAME}
_COPY = re.compile(
    rb"COPY\s+(?P<table>%b)\s+(?:(?P<columns>%b)\s+)?FROM\s+stdin\s*" % (_TABLE, _COLUMNS), re.IGNORECASE
)
_ANY_COPY = re.compile(rb"COPY\b", re.IGNORECASE)
_END_OF_ROWS = re.compile(rb"\n\\\.\r?\n")
_END_HERE = re.compile(rb"\\\.\r?\n")
_END_BEGUN = re.compile(
    rb"\n((?:\\(?:\.\r?)?)?)\Z"
)  # what may turn out to be the end of the rows, in the next block

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
        self._first_words = b""  # their initials as far as they are those of CREATE [OR REPLACE] FUNCTION
        self._is_routine: bool | None = None  # None: its first words have not decided it yet
        self._begin_end = -1  # where the word BEGIN ended
        self._atomic = 0  # depth of BEGIN ATOMIC … END, and of CASE … END inside

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

    def _leave(self, limit: int) -> bool:
        """Move behind the end of the literal or comment that we are in, if it ends before `limit`."""
        if self._comment_depth:
            return self._leave_comment(limit)
        if self._escape_string:
            end = self._end_of_escape_string(limit)
        else:
            # A dollar tag never holds a line break, so it can't be cut by `limit`.
            found = self._buffer.find(self._quote, self._position, limit)
            end = found + len(self._quote) if found >= 0 else -1
        if end < 0:
            self._position = limit
            return False
        self._position = end
        self._own_rules_end = end if self._own_rules else -1
        self._quote, self._escape_string, self._own_rules = b"", False, False
        return True

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

    def _words(self, begin: int, end: int) -> None:
        """Follow CREATE [OR REPLACE] {FUNCTION | PROCEDURE} … BEGIN ATOMIC … END through words outside literals.

        psql counts every BEGIN, so that it never sees the end of a function *named* begin; the server wants ATOMIC.
        """
        for found in _WORD.finditer(bytes(self._buffer[begin:end])):
            word = found[0].lower()
            if self._is_routine is None:
                self._first_words += word[:1] if word in _ROUTINE else b"-"
                if self._first_words not in (b"c", b"co", b"cor"):
                    self._is_routine = self._first_words in (b"cf", b"cp", b"corf", b"corp")
            elif not self._is_routine:
                return
            elif not self._parentheses:
                self._word_of_routine(word, begin + found.start(), begin + found.end())

    def _word_of_routine(self, word: bytes, start: int, end: int) -> None:
        if word == b"begin":
            self._begin_end = end
        elif word == b"atomic" and self._begin_end >= 0 and b"." not in self._buffer[self._begin_end : start]:
            self._atomic += 1
        elif word == b"case" and self._atomic:
            self._atomic += 1
        elif word == b"end" and self._atomic:
            self._atomic -= 1
        if word != b"begin":
            self._begin_end = -1

    def _special(self, byte: int, begin: int, at: int) -> bool:
        """Take the token that this byte begins; `begin` is where the one before ended. Return True before COPY data."""
        if byte == ord(";"):
            return self._semicolon(at)
        if byte == ord("("):
            self._parentheses += 1
        elif byte == ord(")"):
            self._parentheses = max(0, self._parentheses - 1)
        elif byte == ord("'"):
            self._open_string(begin, at)
        elif byte == ord('"'):
            self._quote = b'"'
        elif byte == ord("-"):
            if comment := _LINE_COMMENT.match(self._buffer, at):
                self._line_comment(at, comment.end())
        elif byte == ord("/"):
            if self._buffer[at + 1 : at + 2] == b"*":
                self._comment_depth, self._comment_start, self._position = 1, at, at + 2
        elif byte == ord("$"):
            self._dollar(begin, at)
        elif byte == ord("\\"):
            self._backslash(at)
        else:
            raise DumpError("the dump holds a zero byte outside its rows")
        return False

    def _open_string(self, begin: int, at: int) -> None:
        before = bytes(self._buffer[begin:at])
        word = _last_word(before.removesuffix(b"&")).lower()
        prefix = word if word in ((b"u",) if before.endswith(b"&") else (b"e", b"b", b"x")) else b""
        if not prefix and self._own_rules_end >= 0 and self._joins(self._own_rules_end, at):
            raise DumpError(
                "the dump holds text that psql and the server read differently",
                detail="A literal with a prefix goes on after a line break.",
            )
        self._own_rules = bool(prefix) or self._backslash_escapes
        if prefix == b"e" or (self._backslash_escapes and not prefix):
            self._escape_string = True
        else:
            self._quote = b"'"

    def _joins(self, end: int, at: int) -> bool:
        """Whether nothing but a line break, white space and comments stands between a literal and this quote."""
        between = _BLANK_OR_COMMENTS.match(self._buffer, end, at)
        return between is not None and _LINE_BREAK.search(self._buffer, end, at) is not None

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

    def _line_comment(self, at: int, end: int) -> None:
        self._position = end
        if not self._is_blank_before(at):
            return
        self._start = end
        text = bytes(self._buffer[at:end])
        self._closed = self._closed or (self._trailer and text == b"--")
        self._trailer = self._trailer or text == b"-- " + TRAILER
        self._handler.comment(text)

    def _semicolon(self, at: int) -> bool:
        if self._parentheses or self._atomic:
            return False
        text = bytes(self._buffer[self._start : at]).lstrip()
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
        # psql would take the rest of the line for SQL after the rows; pg_dump writes none.
        if copy is None or not self._ends_line():
            raise DumpError(
                "the dump holds a COPY that pg_dump does not write",
                detail=f"Only `COPY table (columns) FROM stdin;` is loaded, not {_shown(text)}.",
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
        if setting is None or not self._ends_line() or not self._is_harmless(*setting):
            raise DumpError(
                "the dump changes how its text is read in a way that pg_dump does not",
                detail=f"It says {_shown(text)}.",
            )

    def _is_harmless(self, name: bytes, value: bytes) -> bool:
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
            raise DumpError("the dump holds a psql command", detail=f"It says {_shown(line)}.")
        if end < 0:
            raise DumpError("the dump ends inside a line")
        if command[1] == b"restrict" and not self._restrict_key and not self._statements:
            self._restrict_key = command[2]
        elif command[1] == b"unrestrict" and command[2] == self._restrict_key and not self._unrestricted:
            self._unrestricted = True
        else:
            raise DumpError("the dump holds a psql command out of place", detail=f"It says {_shown(line)}.")
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


def _last_word(text: bytes) -> bytes:
    """Return what stands at the very end of `text` without a break between words: letters, digits, dollar signs."""
    return text[len(text.rstrip(_IN_WORDS)) :]


def _shown(text: bytes) -> str:
    return ascii(text[:60].decode("utf-8", "replace"))
