"""Which objects of a database were made or changed since a transaction: each row of a catalog says whose last it is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from psycopg import sql

from polyladder_ops.postgres.proof.differences import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["count", "since"]

_SHOWN = 200
# Catalogs whose rows are objects by their oid, and what of them is not looked at: what comes and goes with its table, or is temporary.
_OBJECTS = {
    "pg_class": "c.relkind <> 't' AND n.nspname !~ '^pg_(toast|temp)'",
    "pg_proc": "true",
    "pg_type": "c.typrelid = 0 AND c.typelem = 0",
    "pg_constraint": "NOT EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.oid = c.conrelid AND t.relpersistence = 't')",
    "pg_attrdef": "NOT EXISTS (SELECT FROM pg_catalog.pg_class t WHERE t.oid = c.adrelid AND t.relpersistence = 't')",
    "pg_trigger": "NOT c.tgisinternal",
    "pg_rewrite": "c.rulename <> '_RETURN'",
    **dict.fromkeys(
        ("pg_policy", "pg_extension", "pg_cast", "pg_collation"),
        "true",
    ),
    "pg_namespace": "c.nspname !~ '^pg_(toast_)?temp_'",
    **dict.fromkeys(
        ("pg_conversion", "pg_operator", "pg_opclass", "pg_opfamily", "pg_language", "pg_am", "pg_transform"),
        "true",
    ),
    **dict.fromkeys(
        (
            "pg_ts_config",
            "pg_ts_dict",
            "pg_ts_parser",
            "pg_ts_template",
            "pg_event_trigger",
            "pg_publication",
        ),
        "true",
    ),
    **dict.fromkeys(
        ("pg_foreign_data_wrapper", "pg_foreign_server", "pg_statistic_ext", "pg_default_acl"), "true"
    ),
    "pg_publication_rel": "true",
    "pg_largeobject_metadata": "true",
}
# Parts of objects: the catalog and columns that say of which.
_PARTS = {
    "pg_attribute": (
        "'pg_catalog.pg_class'::pg_catalog.regclass",
        "attrelid",
        "CASE WHEN c.attisdropped THEN 0 ELSE c.attnum END",
        "c.attnum > 0",
    ),
    "pg_rewrite": ("'pg_catalog.pg_class'::pg_catalog.regclass", "ev_class", "0", "c.rulename = '_RETURN'"),
    "pg_enum": ("'pg_catalog.pg_type'::pg_catalog.regclass", "enumtypid", "0", "true"),
    "pg_description": ("c.classoid", "objoid", "c.objsubid", "true"),
    "pg_seclabel": ("c.classoid", "objoid", "c.objsubid", "true"),
    "pg_index": ("'pg_catalog.pg_class'::pg_catalog.regclass", "indexrelid", "0", "true"),
    "pg_sequence": ("'pg_catalog.pg_class'::pg_catalog.regclass", "seqrelid", "0", "true"),
    "pg_inherits": ("'pg_catalog.pg_class'::pg_catalog.regclass", "inhrelid", "0", "true"),
    "pg_partitioned_table": ("'pg_catalog.pg_class'::pg_catalog.regclass", "partrelid", "0", "true"),
    "pg_foreign_table": ("'pg_catalog.pg_class'::pg_catalog.regclass", "ftrelid", "0", "true"),
}


def _rows() -> Iterator[str]:
    """Yield a SELECT for each catalog whose rows are objects: its name, the object and which part of it, the transaction."""
    for name, condition in _OBJECTS.items():
        join = "JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace" if name == "pg_class" else ""
        known_as = name.removesuffix(
            "_metadata"
        )  # a large object's own catalog is not the one that it is known by
        yield (
            f"SELECT '{name}' AS catalog, 'pg_catalog.{known_as}'::pg_catalog.regclass::oid AS classid, c.oid AS objid,"
            f" 0 AS part, c.xmin AS xid FROM pg_catalog.{name} c {join} WHERE {condition}"
        )


def _parts() -> Iterator[str]:
    """Yield the same for each catalog whose rows are parts of objects."""
    for name, (class_, object_, part, condition) in _PARTS.items():
        yield (
            f"SELECT '{name}', ({class_})::oid, c.{object_}, ({part})::int4, c.xmin FROM pg_catalog.{name} c"
            f" WHERE {condition}"
        )


_WHOLE = " UNION ALL ".join(_rows())
_ALL = " UNION ALL ".join((_WHOLE, *_parts()))
# What is temporary is nobody's but its session's: a type or a column of a temporary table is told by the table's schema.
_SINCE = f"""
WITH entries AS ({_ALL}),
later AS (SELECT * FROM entries WHERE pg_catalog.age(xid) < pg_catalog.age({{}}::xid))
SELECT DISTINCT i.type, i.identity, l.catalog,
       l.catalog = 'pg_class' AND NOT EXISTS (
         SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = l.objid AND a.attnum > 0
         AND NOT pg_catalog.age(a.xmin) < pg_catalog.age({{}}::xid)),
       EXISTS (SELECT FROM later t WHERE t.catalog = 'pg_class' AND t.objid = l.objid AND l.catalog = 'pg_attribute'
               AND NOT EXISTS (SELECT FROM pg_catalog.pg_attribute a WHERE a.attrelid = l.objid AND a.attnum > 0
                               AND NOT pg_catalog.age(a.xmin) < pg_catalog.age({{}}::xid)))
FROM later l CROSS JOIN LATERAL pg_catalog.pg_identify_object(l.classid, l.objid, l.part) i
WHERE i.identity IS NOT NULL AND coalesce(i.schema, '') !~ '^pg_(toast|temp)' AND i.identity !~ '^pg_(toast|temp)'
ORDER BY 1, 2 LIMIT {_SHOWN}
"""


def count(connection: Connection) -> int:
    """Return how many objects the catalogs hold. Raise psycopg.Error if they can't be read."""
    row = connection.execute(f"SELECT pg_catalog.count(*) FROM ({_WHOLE}) e".encode()).fetchone()
    assert row is not None
    return int(row[0])


def since(connection: Connection, xid: str, entries: int) -> list[Difference]:
    """Return what was made or changed by transactions after this one; `entries` is what `count` returned then.

    What was dropped has left no row: it is told by the number of rows alone. Raise psycopg.Error if the catalogs can't be read.
    """
    value = sql.Literal(xid)
    found = connection.execute(sql.SQL(_SINCE).format(value, value, value)).fetchall()
    changes = list(_told(found))
    if (gone := entries - count(connection)) > 0:
        changes.append(Difference("objects", "that are gone", f"{gone:,} fewer than then"))
    return changes


def _told(found: Sequence[tuple[str, str, str, bool, bool]]) -> Iterator[Difference]:
    """Yield each once; of a table that is new its columns are not told, of one that is not only they are."""
    told: dict[tuple[str, str], str] = {}
    for kind, name, catalog, is_new, of_a_new_table in found:
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
