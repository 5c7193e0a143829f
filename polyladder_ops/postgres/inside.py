"""What shows, in a copy that a killed run left, that somebody has been in it since: it is not ours to drop then."""

from __future__ import annotations

from contextlib import closing, suppress
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect, translated

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["use"]

# A load makes and fills tables, and never changes a row. While the schema public is its login's, all that it made is, too.
# It gives that away only after its last table; and once it has shut the copy nothing is made, so that who opened it has
# made what is newer than its row among the databases.
_USE = """
WITH d AS (SELECT datname, pg_catalog.age(xmin) AS age FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database()),
here AS (
  SELECT pg_catalog.format('%I.%I', n.nspname, c.relname) AS name, pg_catalog.pg_get_userbyid(c.relowner) AS owner, pg_catalog.age(c.xmin) AS age
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'f', 'v', 'S') AND c.oid >= 16384 AND c.relpersistence <> 't' AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend e WHERE e.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND e.objid = c.oid AND e.deptype = 'e'))
SELECT name || ' belongs to ' || owner FROM here, d WHERE owner <> datname AND EXISTS (
  SELECT FROM pg_catalog.pg_namespace p WHERE p.nspname = 'public' AND pg_catalog.pg_get_userbyid(p.nspowner) = datname)
UNION ALL
SELECT name || ' was made or changed' FROM here, d WHERE here.age < d.age AND EXISTS (SELECT FROM here h WHERE h.age > d.age)
UNION ALL
SELECT pg_catalog.format('rows of %I.%I were changed', s.schemaname, s.relname) FROM pg_catalog.pg_stat_user_tables s
WHERE s.n_tup_upd + s.n_tup_del > 0
LIMIT 1
"""


def use(server: Connection, name: str) -> str:
    """Return what shows that somebody has written in this database, in which no run is any more; empty if nothing does.

    That is asked inside it, as far as it lets us in: one that a run has shut is as the run left it.
    """
    opened = server.execute(
        "SELECT 1 FROM pg_catalog.pg_database WHERE datname = %s AND datallowconn", [name]
    ).fetchone()
    if not opened:
        return ""
    known = {**server.info.get_parameters(), "password": server.info.password, "dbname": name}
    with (
        suppress(OpsError),
        translated(f"could not look into {name}"),
        closing(connect(Target.of(**known), timeout_s=5)) as connection,
    ):
        row = connection.execute(_USE).fetchone()
        return str(row[0]) if row else ""
    return ""
