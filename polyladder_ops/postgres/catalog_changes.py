"""Which objects of a database were made or changed since a transaction: each row of a catalog says whose last it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from polyladder_ops.postgres.proof.differences import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["count", "since", "unread"]

_SHOWN = 200
_HERE = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
_TEMPORARY = "(SELECT t.oid FROM pg_catalog.pg_class t WHERE t.relpersistence = 't')"


@dataclass(frozen=True)
class _Look:
    """A catalog, of what each of its rows is or is a part, and which rows are looked at: not what is temporary.

    `gone` is what is fewer if there are fewer of its rows. `major` is the server's from which on it is there; what is
    `guarded` not everybody may read.
    """

    catalog: str
    where: str = "true"
    of: str = ""  # the catalog of the object, if it is another one
    oid: str = "oid"
    part: str = "0"
    schema: str = ""
    gone: str = ""
    major: int = 0
    guarded: str = ""

    def __str__(self) -> str:
        of = self.of if "." in self.of else f"'pg_catalog.{self.of or self.catalog}'::pg_catalog.regclass"
        schema = (
            f"JOIN pg_catalog.pg_namespace n ON n.oid = c.{self.schema} AND n.nspname !~ '^pg_(toast|temp)'"
        )
        return (
            f"SELECT '{self.catalog}' AS catalog, ({of})::oid AS classid, (c.{self.oid})::oid AS objid,"
            f" ({self.part})::int4 AS part, c.xmin AS xid, '{self.gone}' AS gone"
            f" FROM pg_catalog.{self.catalog} c {schema if self.schema else ''} WHERE {self.where}"
        )


def _in_schemas() -> Iterator[_Look]:
    columns = {
        "pg_proc": "pronamespace", "pg_constraint": "connamespace", "pg_operator": "oprnamespace",
        "pg_opclass": "opcnamespace", "pg_opfamily": "opfnamespace", "pg_collation": "collnamespace",
        "pg_conversion": "connamespace", "pg_statistic_ext": "stxnamespace", "pg_ts_config": "cfgnamespace",
        "pg_ts_dict": "dictnamespace", "pg_ts_parser": "prsnamespace", "pg_ts_template": "tmplnamespace",
    }  # fmt: skip
    for catalog, column in columns.items():
        yield _Look(catalog, schema=column, gone="objects")
    # An array comes and goes with its element, a row with its table.
    is_array = "EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.typarray = c.oid)"
    yield _Look("pg_type", f"c.typrelid = 0 AND NOT {is_array}", schema="typnamespace", gone="objects")
    yield _Look("pg_class", "c.relkind <> 't'", schema="relnamespace", gone="objects")


def _alone() -> Iterator[_Look]:
    for catalog in (
        "pg_extension", "pg_cast", "pg_language", "pg_am", "pg_transform", "pg_event_trigger", "pg_publication",
        "pg_publication_rel", "pg_foreign_data_wrapper", "pg_foreign_server", "pg_default_acl", "pg_largeobject_metadata",
    ):  # fmt: skip
        of = catalog.removesuffix("_metadata")  # a large object is known by the other catalog
        yield _Look(catalog, of=of, gone="objects")
    yield _Look("pg_namespace", "c.nspname !~ '^pg_(toast_)?temp_'", gone="objects")
    yield _Look("pg_publication_namespace", gone="objects", major=15)
    yield _Look("pg_user_mapping", gone="objects", guarded="user mappings")
    yield _Look("pg_subscription", f"c.subdbid = {_HERE}", gone="objects", guarded="subscriptions")


def _of_relations() -> Iterator[_Look]:
    columns = {
        "pg_attrdef": "adrelid",
        "pg_policy": "polrelid",
        "pg_trigger": "tgrelid",
        "pg_rewrite": "ev_class",
    }
    also = {"pg_trigger": " AND NOT c.tgisinternal", "pg_rewrite": " AND c.rulename <> '_RETURN'"}
    for catalog, column in columns.items():
        where = f"c.{column} NOT IN {_TEMPORARY}{also.get(catalog, '')}"
        yield _Look(catalog, where, gone="objects")
    # A foreign key's own triggers can be switched off.
    yield _Look("pg_trigger", f"c.tgconstraint <> 0 AND c.tgisinternal AND c.tgrelid NOT IN {_TEMPORARY}",
                of="pg_constraint", oid="tgconstraint")  # fmt: skip
    number = "CASE WHEN c.attisdropped THEN 0 ELSE c.attnum END"
    yield _Look("pg_attribute", "c.attnum > 0", of="pg_class", oid="attrelid", part=number)
    yield _Look("pg_rewrite", "c.rulename = '_RETURN'", of="pg_class", oid="ev_class")
    yield _Look("pg_type", "c.typrelid <> 0", of="pg_class", oid="typrelid")
    yield _Look(
        "pg_inherits", f"c.inhrelid NOT IN {_TEMPORARY}", of="pg_class", oid="inhrelid", gone="inheritances"
    )
    for catalog, column in {
        "pg_index": "indexrelid", "pg_sequence": "seqrelid", "pg_partitioned_table": "partrelid", "pg_foreign_table": "ftrelid",
    }.items():  # fmt: skip
        yield _Look(catalog, of="pg_class", oid=column)


def _of_others() -> Iterator[_Look]:
    yield _Look("pg_enum", of="pg_type", oid="enumtypid")
    yield _Look("pg_range", of="pg_type", oid="rngtypid")
    yield _Look("pg_aggregate", of="pg_proc", oid="aggfnoid")
    yield _Look("pg_amop", of="pg_opfamily", oid="amopfamily", gone="members of operator families")
    yield _Look("pg_amproc", of="pg_opfamily", oid="amprocfamily", gone="members of operator families")
    yield _Look("pg_ts_config_map", of="pg_ts_config", oid="mapcfg", gone="mappings of text search")
    is_ours = f"NOT (c.classoid = 'pg_catalog.pg_class'::pg_catalog.regclass AND c.objoid IN {_TEMPORARY})"
    for catalog, gone in {"pg_description": "comments", "pg_seclabel": "security labels"}.items():
        yield _Look(catalog, is_ours, of="c.classoid", oid="objoid", part="c.objsubid", gone=gone)
    yield _Look("pg_init_privs", of="c.classoid", oid="objoid", part="c.objsubid")
    yield _Look("pg_depend", "c.deptype IN ('e', 'x')", of="c.classid", oid="objid", part="c.objsubid",
                gone="members of extensions")  # fmt: skip


def _of_the_database() -> Iterator[_Look]:
    yield _Look("pg_database", f"c.oid = {_HERE}")
    yield _Look(
        "pg_db_role_setting", f"c.setdatabase = {_HERE}", of="pg_database", oid="setdatabase", gone="settings"
    )
    where = f"c.objoid = {_HERE} AND c.classoid = 'pg_catalog.pg_database'::pg_catalog.regclass"
    for catalog, gone in {"pg_shdescription": "comments", "pg_shseclabel": "security labels"}.items():
        yield _Look(catalog, where, of="pg_database", oid="objoid", gone=gone)


_LOOKS = (*_in_schemas(), *_alone(), *_of_relations(), *_of_others(), *_of_the_database())
_OF_THE_DATABASE = {
    "pg_database": "its owner, privileges or limits were changed since",
    "pg_db_role_setting": "settings of it, or of a role in it, were changed since",
    "pg_shdescription": "its comment was changed since",
    "pg_shseclabel": "its security labels were changed since",
}
# What lies two thousand million transactions back is frozen, and looks as if it were to come: its age is less than 0.
_IS_LATER = "pg_catalog.age({}) >= 0 AND pg_catalog.age({}) < pg_catalog.age({{xid}}::xid)"
_IS_NEW = (
    "NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = l.objid AND a.attnum > 0"
    f" AND NOT ({_IS_LATER.format('a.xmin', 'a.xmin')}))"
)
# What is temporary is nobody's but its session's: a type or a column of a temporary table is told by the table's schema.
_SINCE = f"""
WITH entries AS ({{entries}}),
later AS (SELECT * FROM entries WHERE {_IS_LATER.format("xid", "xid")})
SELECT DISTINCT i.type, i.identity, l.catalog,
       l.catalog = 'pg_class' AND {_IS_NEW},
       l.catalog = 'pg_attribute' AND EXISTS (SELECT FROM later t WHERE t.catalog = 'pg_class' AND t.objid = l.objid) AND {_IS_NEW}
FROM later l CROSS JOIN LATERAL pg_catalog.pg_identify_object(l.classid, l.objid, l.part) i
WHERE i.identity IS NOT NULL AND coalesce(i.schema, '') !~ '^pg_(toast|temp)' AND i.identity !~ '^pg_(toast|temp)'
ORDER BY 1, 2, 3 LIMIT {_SHOWN}
"""
_COUNT = "SELECT e.catalog, pg_catalog.count(*) FROM ({}) e WHERE e.gone <> '' GROUP BY 1"


def count(connection: Connection) -> dict[str, int]:
    """Return how many rows each catalog has whose going shows; of those that we may read. Raise psycopg.Error if it fails."""
    return _counted(connection, _read(connection))


def _counted(connection: Connection, looks: Sequence[_Look]) -> dict[str, int]:
    found: dict[str, int] = dict(connection.execute(_COUNT.format(_entries(looks)).encode()).fetchall())
    return {look.catalog: found.get(look.catalog, 0) for look in looks if look.gone}


def unread(connection: Connection) -> tuple[str, ...]:
    """Return what this role may not look at."""
    return tuple(look.guarded for look in _LOOKS if look.guarded and not _may_read(connection, look.catalog))


def _may_read(connection: Connection, catalog: str) -> bool:
    row = connection.execute(
        "SELECT pg_catalog.has_table_privilege(%s, 'SELECT')", [f"pg_catalog.{catalog}"]
    ).fetchone()
    return row is not None and bool(row[0])


def _read(connection: Connection) -> tuple[_Look, ...]:
    """Return the looks that this server and our role allow."""
    major, shut = connection.info.server_version // 10000, unread(connection)
    return tuple(look for look in _LOOKS if look.major <= major and look.guarded not in shut)


def _entries(looks: Sequence[_Look]) -> str:
    return " UNION ALL ".join(map(str, looks))


def since(connection: Connection, xid: str, before: Mapping[str, int]) -> list[Difference]:
    """Return what was made or changed by transactions after this one; `before` is what `count` returned then.

    What was dropped has left no row: it is told by the number of rows alone. Raise psycopg.Error if the catalogs can't be read.
    """
    looks = _read(connection)
    asked = sql.SQL(_SINCE).format(entries=sql.SQL(_entries(looks)), xid=sql.Literal(xid))
    changes = list(_told(connection.execute(asked).fetchall()))
    return changes + list(_gone(looks, before, _counted(connection, looks)))


def _gone(looks: Sequence[_Look], before: Mapping[str, int], now: Mapping[str, int]) -> Iterator[Difference]:
    fewer: dict[str, int] = {}
    for look in looks:
        if look.gone and look.catalog in before:
            less = before[look.catalog] - now[look.catalog]
            fewer[look.gone] = fewer.get(look.gone, 0) + max(0, less)
    for gone, number in fewer.items():
        if number:
            yield Difference(gone, "that are gone", f"{number:,} fewer than then")


def _told(found: Sequence[tuple[str, str, str, bool, bool]]) -> Iterator[Difference]:
    """Yield each once; of a table that is new its columns are not told, of one that is not only they are."""
    told: dict[tuple[str, str], str] = {}
    for kind, name, catalog, is_new, of_a_new_table in found:
        if said := _OF_THE_DATABASE.get(catalog):
            yield Difference(kind, name, said)
            continue
        if of_a_new_table:
            continue
        is_stored = catalog == "pg_class" and kind in ("table", "materialized view")
        changed = _STORED if is_stored else "it was made or changed since"
        before = told.get((kind, name))
        told[kind, name] = _MADE if is_new or before == _MADE else changed if before is None else before
    columns = [name for kind, name in told if kind == "table column"]
    for (kind, name), detail in told.items():
        if not (detail == _STORED and any(column.startswith(f"{name}.") for column in columns)):
            yield Difference(kind, name, detail)


_MADE = "it was made since"
_STORED = "it was changed, emptied or stored anew since"
