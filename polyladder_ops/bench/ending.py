"""Whether a restore that was measured did its work: the database is counted through and held against its source.

The scripts' psql goes on after errors and says success; a time of that is worth nothing.
"""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.postgres.conninfo import Target

__all__ = ["counts", "expect"]

_OURS = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"
# Partitions count with their root: which of them a row is in can depend on oids, which no two databases share.
_ROWS = f"""
SELECT pg_catalog.string_agg(pg_catalog.format(
    'SELECT %L, pg_catalog.count(*) FROM %I.%I', 'rows of ' || n.nspname || '.' || c.relname, n.nspname, c.relname
), ' UNION ALL ')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p', 'm') AND c.relispopulated AND NOT c.relispartition AND {_OURS}
"""
_OBJECTS = f"""
SELECT 'relations of kind ' || c.relkind::text, pg_catalog.count(*)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE {_OURS} GROUP BY 1
UNION ALL SELECT 'valid indexes', pg_catalog.count(*) FROM pg_catalog.pg_index i
JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE i.indisvalid AND {_OURS}
UNION ALL SELECT 'constraints of type ' || c.contype::text, pg_catalog.count(*)
FROM pg_catalog.pg_constraint c JOIN pg_catalog.pg_namespace n ON n.oid = c.connamespace WHERE {_OURS} GROUP BY 1
UNION ALL SELECT 'functions', pg_catalog.count(*)
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace WHERE {_OURS}
UNION ALL SELECT 'triggers', pg_catalog.count(*) FROM pg_catalog.pg_trigger WHERE NOT tgisinternal
UNION ALL SELECT 'policies', pg_catalog.count(*) FROM pg_catalog.pg_policy
UNION ALL SELECT 'extensions', pg_catalog.count(*) FROM pg_catalog.pg_extension
UNION ALL SELECT 'large objects', pg_catalog.count(*) FROM pg_catalog.pg_largeobject_metadata
"""


def counts(target: Target) -> dict[str, int]:
    """Return how many rows each table of a database holds, and how many objects of each kind there are."""
    with (
        session.translated("could not count what is in the database"),
        closing(session.connect(target)) as connection,
    ):
        found = connection.execute(_OBJECTS.encode()).fetchall()
        made = connection.execute(_ROWS.encode()).fetchone()
        if made and made[0]:
            found += connection.execute(made[0].encode()).fetchall()
    return dict(found)


def expect(wanted: Mapping[str, int], target: Target, *, way: str) -> None:
    """Return if the database holds what its source holds, by number. Raise OpsError with what differs."""
    found = counts(target)
    wrong = [
        f"{found.get(what, 0):,} instead of {wanted.get(what, 0):,} {what}"
        for what in sorted(wanted.keys() | found.keys())
        if found.get(what, 0) != wanted.get(what, 0)
    ]
    if wrong:
        more = f", and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise OpsError(
            f"{way!r} did not restore what was dumped, so there is nothing to measure",
            detail=f"The database has {'; '.join(wrong[:5])}{more}.",
        )
