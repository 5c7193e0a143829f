"""What a database's definitions are at one moment: enough to see who owns what is new, and whether anything has changed.

Read from catalogs only. An object of an extension is the extension's; what is new and not its owner's is named.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.postgres import newest, session

if TYPE_CHECKING:
    from polyladder_ops.postgres.newest import Noted
    from polyladder_ops.postgres.session import Connection

__all__ = ["Owned", "Seen", "look"]

# Each catalog of things that have an owner, with the column that names it.
_OWNED = {
    "pg_class": "relowner",
    "pg_proc": "proowner",
    "pg_type": "typowner",
    "pg_namespace": "nspowner",
    "pg_collation": "collowner",
    "pg_conversion": "conowner",
    "pg_operator": "oprowner",
    "pg_opclass": "opcowner",
    "pg_opfamily": "opfowner",
    "pg_ts_config": "cfgowner",
    "pg_ts_dict": "dictowner",
    "pg_statistic_ext": "stxowner",
    "pg_foreign_server": "srvowner",
    "pg_extension": "extowner",
    "pg_event_trigger": "evtowner",
    "pg_publication": "pubowner",
    "pg_largeobject_metadata": "lomowner",
}
# What has no owner of its own and yet is a definition.
_OTHERS = (
    "pg_attribute",
    "pg_attrdef",
    "pg_constraint",
    "pg_index",
    "pg_trigger",
    "pg_policy",
    "pg_rewrite",
    "pg_enum",
)
_MEMBER = (
    "EXISTS (SELECT FROM pg_catalog.pg_depend d WHERE d.classid = '{0}'::pg_catalog.regclass AND d.objid = o.oid"
    " AND d.deptype IN ('e', 'i'))"
)
# Who acts as the database's owner can act as this role; all else other sessions make meanwhile.
_REACH = "pg_catalog.pg_has_role((SELECT d.datdba FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database()), {}, 'MEMBER')"
_FIRST_OURS = 16384
_LARGE_OBJECTS = 2995  # pg_largeobject_metadata, on every server
# That of a partitioned table is invalid until each partition has its part, and one that another session still builds is as well.
_INVALID = f"""
SELECT i.indexrelid::pg_catalog.regclass::text FROM pg_catalog.pg_index i JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
WHERE NOT i.indisvalid AND c.relkind <> 'I' AND {_REACH.format("c.relowner")}
  AND i.indexrelid NOT IN (SELECT p.index_relid FROM pg_catalog.pg_stat_progress_create_index p WHERE p.index_relid IS NOT NULL)
"""

_TABLES = f"""
SELECT count(*) FROM pg_catalog.pg_class o
WHERE o.relkind IN ('r', 'p') AND o.relpersistence <> 't' AND o.oid >= {_FIRST_OURS} AND o.relname <> 'pgmigrations'
  AND NOT {_MEMBER.format("pg_catalog.pg_class")}
"""


@dataclass(frozen=True)
class Owned:
    """An object: its catalog's and its own oid, what it is called, whose it is.

    `in_reach`: who acts as the database's owner can have made it.
    """

    catalog: int
    oid: int
    name: str
    owner: str
    in_reach: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Seen:
    """The migrations that are noted (None: there is no such table), who owns what, invalid indexes, a digest of all definitions.

    `elsewhere` are the other schemas that have a table of that name; `tables` says how many there are of other names.
    """

    noted: tuple[Noted, ...] | None
    owned: frozenset[Owned]
    invalid: frozenset[str]
    digest: str
    elsewhere: tuple[str, ...] = ()
    tables: int = 0

    @property
    def names(self) -> tuple[str, ...]:
        """The noted migrations' names, oldest first."""
        return tuple(noted.name for noted in self.noted or ())

    def strangers(self, before: Seen, owner: str) -> tuple[str, ...]:
        """Return in words what has come since `before`, or has another owner since, is not `owner`'s, and may be made by `owner`.

        Large objects are data, which other sessions store meanwhile: they are passed over.
        """
        return tuple(f"{o.name} ({o.owner})" for o in self._others(before, owner) if o.in_reach)

    def meanwhile(self, before: Seen, owner: str) -> tuple[str, ...]:
        """Return in words what roles have made since `before` that `owner` can't act as."""
        return tuple(f"{o.name} ({o.owner})" for o in self._others(before, owner) if not o.in_reach)

    def _others(self, before: Seen, owner: str) -> list[Owned]:
        new = {o for o in self.owned - before.owned if o.owner != owner and o.catalog != _LARGE_OBJECTS}
        return sorted(new, key=lambda o: (o.name, o.owner))


def look(connection: Connection, schema: str = "public") -> Seen:
    """Return what is there now, in one snapshot; of the notes what the table in this schema says.

    Raise OpsError if the server fails, or pgmigrations is another's table.
    """
    with session.translated("could not look at the database's definitions"), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        owned = connection.execute(" UNION ALL ".join(map(_of, _OWNED.items())).encode()).fetchall()
        invalid = connection.execute(_INVALID).fetchall()
        ((digest,),) = connection.execute(_print().encode()).fetchall()
        ((tables,),) = connection.execute(_TABLES.encode()).fetchall()
        return Seen(
            newest.migrations(connection, schema),
            frozenset(Owned(*row) for row in owned),
            frozenset(name for (name,) in invalid),
            digest,
            tuple(name for name in newest.noted_in(connection) if name != schema),
            tables,
        )


def _of(catalog: tuple[str, str]) -> str:
    table, owner = catalog
    more = " AND o.relkind NOT IN ('i', 'I', 't') AND o.relpersistence <> 't'" if table == "pg_class" else ""
    if table == "pg_type":  # arrays and the types of rows go with what they are of
        more = " AND o.typelem = 0 AND (o.typrelid = 0 OR EXISTS (SELECT FROM pg_catalog.pg_class c WHERE c.oid = o.typrelid AND c.relkind = 'c'))"
    name = f"pg_catalog.pg_describe_object('pg_catalog.{table}'::pg_catalog.regclass, o.oid, 0)"
    if table == "pg_largeobject_metadata":
        name = "'large object ' || o.oid"
    member = _MEMBER.format(f"pg_catalog.{table}")
    return (
        f"SELECT 'pg_catalog.{table}'::pg_catalog.regclass::int8, o.oid::int8, {name}, pg_catalog.pg_get_userbyid(o.{owner})::text,"
        f" {_REACH.format(f'o.{owner}')}"
        f" FROM pg_catalog.{table} o WHERE o.oid >= {_FIRST_OURS} AND NOT {member}{more}"
    )


def _print() -> str:
    """Return the question for one value that changes with every change of a definition.

    By who wrote each row last (xmin): what VACUUM and ANALYZE write in place does not count.
    """
    each = []
    for table in (*_OWNED, *_OTHERS):
        key = {"pg_attribute": "attrelid", "pg_index": "indexrelid"}.get(table, "oid")
        each.append(
            f"SELECT '{table}', {key}::int8, xmin::text FROM pg_catalog.{table} WHERE {key} >= {_FIRST_OURS}"
        )
    rows = " UNION ALL ".join(each)
    return f"SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(t.c || t.k || '.' || t.x, ',' ORDER BY t.c, t.k, t.x), '')) FROM ({rows}) t (c, k, x)"
