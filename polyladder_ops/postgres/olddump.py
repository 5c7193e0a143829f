"""What a dump without a manifest tells of itself, and how one that drops things first is loaded into an empty database.

The statements are known by the way in which pg_dump 9.0 to 18 writes them; what it does not write is passed on.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.contents import Ledger, decode
from polyladder_ops.postgres.permitted import Unsafe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.forms import Form
    from polyladder_ops.postgres.lexer import Handler

__all__ = ["Notes", "PastDrops"]

_NAME = rb'(?:"(?:[^"]|"")+"|[^\s",;()]+)'
_QUALIFIED = rb'(?:"(?:[^"]|"")+"|[^\s"(])+'
_VERSION = re.compile(rb"-- Dumped (from database|by pg_dump) version (\S+)")
_TABLE = re.compile(rb"CREATE (?:UNLOGGED )?TABLE (%b)\s" % _QUALIFIED)
_ATTACHED = re.compile(
    rb"ALTER TABLE (?:ONLY )?%b ATTACH PARTITION (%b) " % (_QUALIFIED, _QUALIFIED), re.DOTALL
)
_INSERT = re.compile(rb"INSERT INTO (%b)" % _QUALIFIED)
_ANOTHER_DATABASE = re.compile(rb"(CREATE|DROP|ALTER) DATABASE\b")
# Where a statement ends in the names of roles.
_OWNER = re.compile(rb"ALTER .* OWNER TO (%b)\Z" % _NAME, re.DOTALL)
_GRANT = re.compile(
    rb"(?:GRANT|REVOKE|ALTER DEFAULT PRIVILEGES) .* (?:TO|FROM) (%b)(?: WITH GRANT OPTION)?(?: GRANTED BY %b)?\Z"
    % (_NAME, _NAME),
    re.DOTALL,
)
_DEFAULTS_OF = re.compile(rb"ALTER DEFAULT PRIVILEGES FOR ROLE (%b) " % _NAME)
_POLICY = re.compile(
    rb"CREATE POLICY %b ON %b(?: AS RESTRICTIVE)?(?: FOR \w+)? TO (%b(?:, %b)*)"
    % (_NAME, _QUALIFIED, _NAME, _NAME)
)
_SESSION = re.compile(rb"SET SESSION AUTHORIZATION (?:'([^']+)'|(%b))\Z" % _NAME)
_NO_ROLES = {b"PUBLIC", b"DEFAULT", b"CURRENT_USER", b"SESSION_USER"}

_BEFORE_DROPS = re.compile(rb"SET |SELECT pg_catalog\.set_config\(")
_DROPS = re.compile(
    rb"DROP |SELECT pg_catalog\.lo_unlink\("
    rb"|CREATE OR REPLACE VIEW %b(?: WITH \([^)]*\))? AS\s+SELECT\s+NULL::"
    rb"|ALTER (?:FOREIGN )?(?:TABLE|DOMAIN) .*\b(?:DROP (?:CONSTRAINT|DEFAULT|IDENTITY|NOT NULL)|DETACH PARTITION)\b"
    % _QUALIFIED,
    re.DOTALL,
)
_DROPS_PUBLIC = re.compile(rb"DROP SCHEMA (?:IF EXISTS )?public\Z")
_ELSEWHERE = "Load it with psql into a server of its own, where nothing else is, and run `invoke backup` on that database."


@dataclass
class Notes:
    """The handler that reads a dump once and keeps what it tells of itself; `contents` as in a manifest.

    Raise OpsError at what leads out of the one database that is restored.
    """

    server_version: str = ""
    client_version: str = ""
    drops_public: bool = False
    has_owners: bool = False
    has_grants: bool = False
    changes_roles: bool = False
    inserted: Counter[bytes] = field(default_factory=Counter)
    _ledger: Ledger = field(default_factory=Ledger)
    _roles: dict[bytes, None] = field(default_factory=dict)
    _created: dict[bytes, None] = field(default_factory=dict)
    _extensions: int = 0
    _partitions: set[bytes] = field(default_factory=set)
    _unsafe: Unsafe = field(default_factory=Unsafe)

    def __post_init__(self) -> None:
        self._past_drops = PastDrops(self._unsafe)  # places count without what is dropped first

    @property
    def unsafe(self) -> dict[str, Form]:
        """What can break a server, by the name that `--accept` takes."""
        return self._unsafe.found

    @property
    def contents(self) -> Contents:
        """Rows of tables, sequences and large objects."""
        return self._ledger.contents

    @property
    def tables(self) -> int:
        """How many tables the dump makes."""
        return len(self._created)

    @property
    def is_data_only(self) -> bool:
        """Whether it fills tables and makes none; an extension may have brought them."""
        return bool(self.contents.tables or self.inserted) and not (self._created or self._extensions)

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles that statements name, but for those that come with a server."""
        return tuple(sorted(self._text(name) for name in self._roles if not name.startswith(b"pg_")))

    @property
    def unfilled(self) -> tuple[str, ...]:
        """The tables that the dump makes and brings no rows for, neither as COPY nor as INSERT; pg_dump writes an empty COPY.

        Partitions are left out: their root may have brought the rows.
        """
        filled = {table.name for table in self.contents.tables}
        bare = [name for name in self._created if name not in self._partitions | self.inserted.keys()]
        return tuple(name for name in map(self._text, bare) if name not in filled)

    def _text(self, name: bytes) -> str:
        return decode(name, self.contents.encoding)

    def comment(self, text: bytes) -> None:
        """Notice the versions. Raise OpsError if this is a dump of a whole server."""
        self._ledger.comment(text)
        if found := _VERSION.match(text):
            version = found[2].decode("ascii", "replace")
            if found[1] == b"by pg_dump":
                self.client_version = version
            else:
                self.server_version = version
        elif text.startswith(b"-- PostgreSQL database cluster dump"):
            raise OpsError(
                "it is a dump of a whole server (pg_dumpall)",
                detail="It makes roles and databases and changes from one to the next.",
                hint=_ELSEWHERE,
            )

    def statement(self, text: bytes) -> None:
        """Notice tables, roles and drops. Raise OpsError at what makes or drops a database."""
        self._ledger.statement(text)
        self._past_drops.statement(text)
        first, _, _ = text.partition(b" ")
        if _ANOTHER_DATABASE.match(text):
            raise OpsError(
                "it makes a database by itself and changes to it (pg_dump -C)",
                detail="It would not stay in the database that it is loaded into.",
                hint=_ELSEWHERE,
            )
        if first == b"CREATE":
            self._notice_created(text)
        elif first == b"INSERT" and (inserted := _INSERT.match(text)):
            self.inserted[self._ledger.qualified(inserted[1])] += 1
        elif first == b"DROP" and not self._created:
            self.drops_public = self.drops_public or _DROPS_PUBLIC.match(text) is not None
        elif first == b"ALTER" and (attached := _ATTACHED.match(text)):
            self._partitions.add(self._ledger.qualified(attached[1]))
        # What is one transaction (pg_restore --single-transaction) begins it before it makes anything.
        self.changes_roles |= _SESSION.match(text) is not None or (first == b"BEGIN" and not self._created)
        for role in _roles(text):
            self._roles[role] = None
        self.has_owners = self.has_owners or _OWNER.match(text) is not None
        self.has_grants = self.has_grants or first == b"GRANT"

    def _notice_created(self, text: bytes) -> None:
        self._extensions += text.startswith(b"CREATE EXTENSION ") and b" plpgsql" not in text[:50]
        if table := _TABLE.match(text):
            name = self._ledger.qualified(table[1])
            self._created[name] = None
            if b"\nPARTITION BY " in text:
                self._partitions.add(name)

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Pass on to the ledger."""
        self._past_drops.copy_begin(statement, table, columns)
        self._ledger.copy_begin(statement, table, columns)

    def copy_data(self, data: bytes) -> None:
        """Pass on to the ledger."""
        self._ledger.copy_data(data)

    def copy_end(self) -> None:
        """Pass on to the ledger."""
        self._ledger.copy_end()


def _roles(text: bytes) -> Iterator[bytes]:
    """Yield the roles that a statement needs, unquoted."""
    for pattern in (_OWNER, _GRANT, _DEFAULTS_OF, _SESSION, _POLICY):
        if found := pattern.match(text):
            names = re.findall(_NAME, found[1] or found[found.lastindex or 1])
            yield from (_unquoted(name) for name in names if name.upper() not in _NO_ROLES)


def _unquoted(name: bytes) -> bytes:
    return name[1:-1].replace(b'""', b'"') if name.startswith(b'"') else name


class PastDrops:
    """Hands a dump on to a handler without what ``pg_dump --clean`` drops first: an empty database holds none of it.

    Only the schema public is there, and dropped, since the dump makes it anew. What pg_dump drops is not always said
    with IF EXISTS, and a view that it makes only to drop it needs types that are not there yet.
    """

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._begun = False
        self.comment = handler.comment
        self.copy_begin = handler.copy_begin
        self.copy_data = handler.copy_data
        self.copy_end = handler.copy_end

    def statement(self, text: bytes) -> None:
        """Pass on what is not dropped before the first thing is made."""
        if not self._begun and not _BEFORE_DROPS.match(text):
            if _DROPS.match(text) and not _DROPS_PUBLIC.match(text):
                return
            self._begun = not _DROPS_PUBLIC.match(text)
        self._handler.statement(text)
