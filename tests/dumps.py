"""Small plain dumps as pg_dump writes them, and an ear for what the lexer makes of them."""

from __future__ import annotations

from dataclasses import dataclass, field

from polyladder_ops.postgres.lexer import Lexer

KEY = b"oBj9mQ2vXk"
HEAD = (
    b"""--
-- PostgreSQL database dump
--

\\restrict %b

-- Dumped from database version 18.1
-- Dumped by pg_dump version 18.1

SET statement_timeout = 0;
SET client_encoding = 'UTF8';
SET standard_conforming_strings = on;
SELECT pg_catalog.set_config('search_path', '', false);

"""
    % KEY
)
TAIL = (
    b"""--
-- PostgreSQL database dump complete
--

\\unrestrict %b

"""
    % KEY
)


def dump(*pieces: bytes) -> bytes:
    """Return a whole dump with these pieces of SQL in it, each on lines of its own."""
    return HEAD + b"".join(piece + b"\n\n" for piece in pieces) + TAIL


def old_dump(*pieces: bytes) -> bytes:
    r"""Return a dump of a client from before ``\restrict``."""
    restrict = (b"\\restrict %b\n\n" % KEY, b"\\unrestrict %b\n\n" % KEY)
    return dump(*pieces).replace(restrict[0], b"").replace(restrict[1], b"")


def blocks(data: bytes, size: int) -> list[bytes]:
    """Return the bytes in blocks of this size."""
    return [data[at : at + size] for at in range(0, len(data), size)]


@dataclass
class Heard:
    """What a handler was told, rows joined: the same for every way to cut the bytes into blocks."""

    events: list[tuple[bytes, ...]] = field(default_factory=list)
    _rows: bytearray | None = None

    def statement(self, text: bytes) -> None:
        self.events.append((b"statement", text))

    def comment(self, text: bytes) -> None:
        self.events.append((b"comment", text))

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        assert self._rows is None
        self.events.append((b"copy", statement, table, columns))
        self._rows = bytearray()

    def copy_data(self, data: bytes) -> None:
        assert self._rows is not None
        assert data
        self._rows += data

    def copy_end(self) -> None:
        assert self._rows is not None
        self.events.append((b"rows", bytes(self._rows)))
        self._rows = None

    def of(self, kind: bytes) -> list[bytes]:
        """Return the texts of one kind of event."""
        return [event[1] for event in self.events if event[0] == kind]

    @property
    def statements(self) -> list[bytes]:
        """The statements behind the head of `HEAD`, COPY's among them."""
        return [event[1] for event in self.events if event[0] in (b"statement", b"copy")][4:]


def listen(data: bytes, *, size: int = 1 << 20, close: bool = True) -> Heard:
    """Return what a lexer tells of these bytes, fed in blocks of this size."""
    heard = Heard()
    lexer = Lexer(heard)
    for block in blocks(data, size):
        lexer.feed(block)
    if close:
        lexer.close()
    return heard
