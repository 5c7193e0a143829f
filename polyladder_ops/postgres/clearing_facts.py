"""What keeps a database from being emptied and filled again in one transaction, as the server tells it; only looked at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.postgres import application, inventory, properties, queries, volume
from polyladder_ops.postgres.session import identify, translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.postgres.inventory import CatalogEntry
    from polyladder_ops.postgres.properties import DatabaseProperties
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.volume import Volume

__all__ = ["Facts", "Holder", "holders", "read", "writers"]


@dataclass(frozen=True)
class Facts:
    """A database as a role meets it that wants to empty it.

    `locks` are those that dropping everything takes, `capacity` those that the server has room for. `acts_as` says of
    each role whether ours has its rights and may give objects to it; `extensions` says of each one that can be made
    whether our role may make it; `fixed` are installed ones that our role may not drop, with their owners.
    """

    role: str
    is_superuser: bool
    may_create: bool
    is_standby: bool
    capacity: int
    locks: int
    prepared: tuple[str, ...]
    replicating: tuple[str, ...]
    acts_as: Mapping[str, tuple[bool, bool]]
    extensions: Mapping[str, bool]
    fixed: tuple[tuple[str, str], ...]
    objects: tuple[CatalogEntry, ...]
    properties: DatabaseProperties
    volume: Volume | None


# Whatever is dropped is locked, each part by itself: a table's types, its constraints, its TOAST table.
_ONE = """
SELECT current_user::text, pg_catalog.current_setting('is_superuser') = 'on',
       pg_catalog.has_database_privilege(pg_catalog.current_database(), 'CREATE'),
       pg_catalog.current_setting('max_locks_per_transaction')::int8
       * (pg_catalog.current_setting('max_connections')::int8
          + pg_catalog.current_setting('max_prepared_transactions')::int8),
       (SELECT count(*) FROM (SELECT DISTINCT classid, objid FROM pg_catalog.pg_depend WHERE objid >= 16384) d)
       + (SELECT count(*) FROM pg_catalog.pg_largeobject_metadata)
"""
_PREPARED = (
    "SELECT gid FROM pg_catalog.pg_prepared_xacts WHERE database = pg_catalog.current_database() ORDER BY 1"
)
_REPLICATING = """
SELECT s.subname::text FROM pg_catalog.pg_subscription s JOIN pg_catalog.pg_database d ON d.oid = s.subdbid
WHERE d.datname = pg_catalog.current_database() AND s.subslotname IS NOT NULL ORDER BY 1
"""
_ROLES = """
SELECT r.rolname::text, pg_catalog.pg_has_role(r.oid, 'USAGE'),
       pg_catalog.pg_has_role(r.oid, 'SET')  -- 16+
       pg_catalog.pg_has_role(r.oid, 'MEMBER')  -- -15
FROM pg_catalog.pg_roles r
"""
_EXTENSIONS = """
SELECT name::text, pg_catalog.bool_or(NOT superuser OR trusted OR pg_catalog.current_setting('is_superuser') = 'on')
FROM pg_catalog.pg_available_extension_versions GROUP BY name
"""
_FIXED = """
SELECT e.extname::text, pg_catalog.pg_get_userbyid(e.extowner)::text FROM pg_catalog.pg_extension e
WHERE e.extname <> 'plpgsql' AND NOT pg_catalog.pg_has_role(e.extowner, 'USAGE') ORDER BY 1
"""


def read(connection: Connection) -> Facts:
    """Return what the server says of the connection's database. Raise OpsError if it fails."""
    with translated("could not look at the database"):
        ((role, is_superuser, may_create, capacity, locks),) = queries.rows(connection, _ONE)
        return Facts(
            role=role,
            is_superuser=is_superuser,
            may_create=may_create,
            is_standby=identify(connection).is_standby,
            capacity=capacity,
            locks=locks,
            prepared=tuple(gid for (gid,) in queries.rows(connection, _PREPARED)),
            replicating=tuple(name for (name,) in queries.rows(connection, _REPLICATING)),
            acts_as={name: (has, gives) for name, has, gives in queries.rows(connection, _ROLES)},
            extensions=dict(queries.rows(connection, _EXTENSIONS)),
            fixed=tuple((name, owner) for name, owner in queries.rows(connection, _FIXED)),
            objects=inventory.entries(connection),
            properties=properties.read(connection),
            volume=volume.measure(connection),
        )


@dataclass(frozen=True)
class Holder:
    """A session that holds a lock on something of the database."""

    pid: int
    role: str
    application: str
    state: str
    name: str

    @property
    def session(self) -> str:
        """Which one it is, as far as our role may see it."""
        doing = ", ".join(filter(None, [application.shown(self.application), self.state]))
        return f"process {self.pid} of {self.role or 'another role'} ({doing or 'no name'})"

    def __str__(self) -> str:
        return f"{self.session} holds {self.name or 'an object'}"


_HOLDERS = """
SELECT DISTINCT ON (a.pid) a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, ''),
       coalesce(a.state, ''), coalesce(c.oid::regclass::text, '')
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.datname = pg_catalog.current_database()
LEFT JOIN pg_catalog.pg_class c ON c.oid = l.relation
WHERE l.granted AND a.pid <> pg_catalog.pg_backend_pid() AND coalesce(l.relation, l.objid) >= 16384
  AND l.locktype IN ('relation', 'object')
ORDER BY a.pid, c.relkind IS DISTINCT FROM 'r', l.relation
"""


def holders(connection: Connection) -> tuple[Holder, ...]:
    """Return who else holds something in this database now, each with one thing that it holds."""
    return tuple(Holder(*row) for row in queries.rows(connection, _HOLDERS))


# What a transaction makes nobody sees before its COMMIT, but that it has a number, and its locks, everybody sees. Processes
# of the server's own have no user: autovacuum has both, and makes nothing.
_WRITERS = """
SELECT DISTINCT ON (a.pid) a.pid, coalesce(a.usename, '')::text, coalesce(a.application_name, ''),
       coalesce(a.state, ''), ''
FROM pg_catalog.pg_locks l
JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid AND a.datname = pg_catalog.current_database()
WHERE l.granted AND a.usesysid <> 0 AND a.pid NOT IN (pg_catalog.pg_backend_pid(), %s)
  AND (l.locktype = 'transactionid' OR l.locktype = 'relation' AND l.database = a.datid
       AND l.mode NOT IN ('AccessShareLock', 'RowShareLock'))
ORDER BY a.pid
"""


def writers(connection: Connection, *, besides: int) -> tuple[str, ...]:
    """Return in words who else, besides this process of ours, has a transaction open in this database that writes."""
    found = connection.execute(_WRITERS, [besides]).fetchall()
    prepared = queries.rows(connection, _PREPARED)
    return (
        *(Holder(*row).session for row in found),
        *(f"the prepared transaction {gid}" for (gid,) in prepared),
    )
