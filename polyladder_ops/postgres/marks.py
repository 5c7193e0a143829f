"""What a restore notes in the cluster itself, so that whoever comes next can ask the server what is true.

A note is the comment of a database, since comments change in the same transaction as names do. The comment that the
database had is kept inside and comes back when the note goes.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import pydantic
from psycopg import sql
from pydantic import AwareDatetime, BaseModel, ConfigDict

from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["NAME_BYTES", "Mark", "Marked", "comment", "find", "inner", "name_aside", "parse"]

_PREFIX = "polyladder-ops "
NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts a longer name in silence, perhaps to that of another database."""


class Mark(BaseModel):
    """Why a database is closed: it is `aside` since a switch; or `fenced` for one, as older versions of this program did.

    `live` is the name that it answers to or answered to; `backup` what took its place; `migration_head` its
    newest migration then; `comment` the database's own comment, `was_open` whether it took sessions before. `oid` is the
    database's own: a dump carries comments, and what it is restored to is another database.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["fenced", "aside"]
    live: str
    at: AwareDatetime
    by: str
    backup: str
    migration_head: str | None = None
    comment: str = ""
    was_open: bool = True
    oid: int | None = None

    @property
    def text(self) -> str:
        """The comment that says so."""
        return _PREFIX + self.model_dump_json()


class Marked(BaseModel):
    """A database with a note of ours; sizes that we may not ask for are None."""

    model_config = ConfigDict(frozen=True)

    name: str
    oid: int
    is_open: bool
    size_bytes: int | None
    mark: Mark
    is_half_dropped: bool = False


def parse(text: str) -> Mark | None:
    """Return the note that a comment is, None if it is somebody else's comment."""
    if not text.startswith(_PREFIX):
        return None
    try:
        return Mark.model_validate_json(text.removeprefix(_PREFIX))
    except pydantic.ValidationError:
        return None


def inner(text: str) -> str:
    """Return the database's own comment: what stands inside a note, or the text itself."""
    mark = parse(text)
    return text if mark is None else mark.comment


_MARKED = """
SELECT d.datname, d.oid::int8, d.datallowconn,
       CASE WHEN pg_catalog.has_database_privilege(d.oid, 'CONNECT') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_database_size(d.oid) END,
       pg_catalog.shobj_description(d.oid, 'pg_database'), d.datconnlimit = -2
FROM pg_catalog.pg_database d
WHERE pg_catalog.starts_with(pg_catalog.shobj_description(d.oid, 'pg_database'), %s)
ORDER BY d.datname
"""


def find(connection: Connection) -> tuple[Marked, ...]:
    """Return the databases of this server that carry a note of their own, ordered by name. Raise OpsError if the server fails."""
    with translated("could not look for set-aside databases"):
        rows = connection.execute(_MARKED, [_PREFIX]).fetchall()
    return tuple(
        Marked(name=name, oid=oid, is_open=is_open, size_bytes=size, mark=mark, is_half_dropped=half)
        for name, oid, is_open, size, text, half in rows
        if (mark := parse(text)) is not None and mark.oid in (None, oid)
    )


def comment(name: str, text: str) -> sql.Composed:
    """Return the statement that gives a database this comment; an empty one takes it away."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(text or None))


def name_aside(live: str, at: datetime, taken: frozenset[str]) -> str:
    """Return a free name for the database that is set aside: the live one's, and the time (UTC).

    The name is shortened, at a character's boundary, to the 63 bytes that the server keeps.
    """
    stamp = at.astimezone(UTC).strftime("%Y%m%d_%H%M%S")
    for number in range(1, len(taken) + 2):
        ending = f"_aside_{stamp}" + (f"_{number}" if number > 1 else "")
        head = live.encode()[: NAME_BYTES - len(ending)].decode(errors="ignore")
        if (name := head + ending) not in taken:
            return name
    raise AssertionError("more names tried than there are databases")
