"""A dump's statements, kept while it is loaded: to do them once more nobody need unpack and decrypt its rows again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.postgres.load.loader import brings_data

if TYPE_CHECKING:
    from polyladder_ops.postgres.lexer import Handler

__all__ = ["Script"]

_MOST = 16 << 20  # bytes; a schema that is larger is read from the file again
_EACH = 128  # what keeping one costs beside its text


@dataclass
class Script:
    """`statements` with their places in the dump, but those that bring data; None: nothing passed by, or too much."""

    statements: list[tuple[bytes, int]] | None = field(default=None, repr=False)  # they may hold passwords
    _size: int = 0

    def before(self, handler: Handler) -> Handler:
        """Return a handler that keeps what it hands on to this one."""
        self.statements, self._size = [], 0
        return _Keeper(handler, self)

    def keep(self, text: bytes, place: int) -> None:
        """Take one statement; once it is too much, nothing is kept at all."""
        self._size += len(text) + _EACH
        if self._size > _MOST:
            self.statements = None
        elif self.statements is not None:
            self.statements.append((text, place))


@dataclass
class _Keeper:
    _handler: Handler = field(repr=False)
    _script: Script
    _place: int = 0

    def statement(self, text: bytes) -> None:
        self._place += 1
        if not brings_data(text):
            self._script.keep(text, self._place)
        self._handler.statement(text)

    def comment(self, text: bytes) -> None:
        self._handler.comment(text)

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        self._place += 1
        self._handler.copy_begin(statement, table, columns)

    def copy_data(self, data: bytes) -> None:
        self._handler.copy_data(data)

    def copy_end(self) -> None:
        self._handler.copy_end()
