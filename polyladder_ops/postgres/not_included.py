"""What a database has and no dump of it holds, in sentences: what pg_dump passes over, without a word.

The inventory holds what pg_dump carries; this is the rest. Only catalogs are read for it, and sizes of tables.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyladder_ops.postgres import queries

if TYPE_CHECKING:
    import psycopg

__all__ = ["NotIncluded", "read"]


@dataclass(frozen=True)
class NotIncluded:
    """What is `always` missing in a dump of such a database, and what is lost of this one: a person must hear of that."""

    always: tuple[str, ...]
    lost: tuple[str, ...]


def read(connection: psycopg.Connection[Any]) -> NotIncluded:
    """Return what a dump by this role leaves out of the connection's database, in one round trip.

    Works in the caller's transaction. Not seen are changes to the system's or an extension's own objects that leave no
    trace of when they were made: options of a table, what was dropped, what is of one transaction with the extension's
    CREATE or older than its last update, what a change of privileges hides (both rewrite the same row of a catalog), and
    most in a database that came through pg_upgrade as far as its extensions go.
    """
    found = [*queries.rows(connection, queries.load("not_included.sql"))]
    always, lost = ({sentence for loud, sentence in found if loud is which} for which in (False, True))
    return NotIncluded(tuple(sorted(always)), tuple(sorted(lost)))
