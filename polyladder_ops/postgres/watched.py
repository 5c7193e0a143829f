"""What the server writes as it is now, whatever the snapshot: names of other objects, and definitions made of them.

pg_get_viewdef and its like, enum_out, regclass_out and aclitemout look past every snapshot. Whoever watches these kinds
before and after knows whether one dump may hold two spellings of the same thing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.postgres import queries

if TYPE_CHECKING:
    from collections.abc import Collection

    from polyladder_ops.postgres.session import Connection

__all__ = ["Watched", "changed", "in_rows", "read"]

Watched = frozenset[tuple[str, int, str]]
"""Of each object its kind, its oid, and what is another text once it was changed."""

_OURS = """
WITH ours AS (SELECT oid FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
relation AS (SELECT c.oid, c.relname, c.relnamespace, c.relkind
             FROM pg_catalog.pg_class c JOIN ours ON ours.oid = c.relnamespace)
"""
_NAMED = "SELECT x.oid::int8, x.xmin::text FROM pg_catalog.{} x JOIN ours ON ours.oid = x.{}"
_OF_RELATION = "SELECT x.oid::int8, x.xmin::text FROM pg_catalog.{} x JOIN relation ON relation.oid = x.{}"
_ENUM = "a label of an enum"
_ROLE = "a role"
# Rights, statistics and new indexes make a new row of pg_class: only the name is watched there. Of columns, those that no
# lock of ours holds still: all of a relation in one sum, to which every change adds. The name of a role may be in another
# database's encoding, so it is hashed where it is.
_KINDS = {
    "a relation": "SELECT oid::int8, relnamespace || ' ' || relname FROM relation",
    "a column": "SELECT a.attrelid::int8, pg_catalog.sum(a.attnum * a.xmin::text::int8)::text"
    " FROM pg_catalog.pg_attribute a JOIN relation ON relation.oid = a.attrelid"
    " WHERE relation.relkind IN ('v', 'm', 'c', 'f') AND a.attnum > 0 GROUP BY a.attrelid",
    "a schema": "SELECT n.oid::int8, n.nspname::text FROM pg_catalog.pg_namespace n JOIN ours USING (oid)",
    "a function": _NAMED.format("pg_proc", "pronamespace"),
    "a type": _NAMED.format("pg_type", "typnamespace"),
    _ENUM: "SELECT e.oid::int8, e.xmin::text FROM pg_catalog.pg_enum e",
    "a constraint": _NAMED.format("pg_constraint", "connamespace"),
    "a collation": _NAMED.format("pg_collation", "collnamespace"),
    "an operator": _NAMED.format("pg_operator", "oprnamespace"),
    "an operator class": _NAMED.format("pg_opclass", "opcnamespace"),
    "an operator family": _NAMED.format("pg_opfamily", "opfnamespace"),
    "a text search configuration": _NAMED.format("pg_ts_config", "cfgnamespace"),
    "a text search dictionary": _NAMED.format("pg_ts_dict", "dictnamespace"),
    "a text search parser": _NAMED.format("pg_ts_parser", "prsnamespace"),
    "a text search template": _NAMED.format("pg_ts_template", "tmplnamespace"),
    "a statistics object": _NAMED.format("pg_statistic_ext", "stxnamespace"),
    "a rule": _OF_RELATION.format("pg_rewrite", "ev_class"),
    "an index": "SELECT i.indexrelid::int8, i.xmin::text FROM pg_catalog.pg_index i"
    " JOIN relation ON relation.oid = i.indrelid",
    "a default": _OF_RELATION.format("pg_attrdef", "adrelid"),
    "a policy": _OF_RELATION.format("pg_policy", "polrelid"),
    "a trigger": _OF_RELATION.format("pg_trigger", "tgrelid") + " WHERE NOT x.tgisinternal",
    "a cast": "SELECT c.oid::int8, '' FROM pg_catalog.pg_cast c WHERE c.oid >= 16384",
    "default privileges": "SELECT d.oid::int8, '' FROM pg_catalog.pg_default_acl d",
    _ROLE: """SELECT r.oid::int8, pg_catalog.hashtextextended(r.rolname::text, 0)::text
        || ' ' || r.xmin FROM pg_catalog.pg_authid r  -- superuser
        FROM pg_catalog.pg_roles r  -- others
        WHERE r.rolname !~ '^pg_'
    """,
    "what belongs to a role": """SELECT DISTINCT s.refobjid::int8, '' FROM pg_catalog.pg_shdepend s
        JOIN pg_catalog.pg_database d ON d.datname = pg_catalog.current_database()
        WHERE s.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass
          AND (s.dbid = d.oid OR s.classid = 'pg_catalog.pg_database'::pg_catalog.regclass AND s.objid = d.oid)
    """,
}
# One that is gone is in no row and in no definition: what had it had to go first, and that is watched or locked.
_MAY_GO = (_ENUM, _ROLE)
_BY_TYPE = {
    "regclass": {"a relation", "a schema"},
    "regproc": {"a function", "a schema"},
    "regprocedure": {"a function", "a schema", "a type"},
    "regoper": {"an operator", "a schema"},
    "regoperator": {"an operator", "a schema", "a type"},
    "regtype": {"a type", "a schema"},
    "regcollation": {"a collation", "a schema"},
    "regconfig": {"a text search configuration", "a schema"},
    "regdictionary": {"a text search dictionary", "a schema"},
    "regnamespace": {"a schema"},
    "regrole": {_ROLE},
    "aclitem": {_ROLE},
}
# A composite type has its columns in pg_attribute too. Planned otherwise, that is read once for each of these types.
_TYPES_IN_ROWS = b"""
WITH spelled AS MATERIALIZED (
    SELECT t.typname, u.oid FROM pg_catalog.pg_type t, pg_catalog.unnest(ARRAY[t.oid, t.typarray]) u (oid)
    WHERE t.typname = ANY (%s) AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
), used (oid) AS (
    SELECT a.atttypid FROM pg_catalog.pg_attribute a JOIN pg_catalog.pg_class c ON c.oid = a.attrelid
    WHERE a.attrelid >= 16384 AND a.attnum > 0 AND c.relkind IN ('r', 'c')
      AND a.atttypid = ANY (ARRAY(SELECT oid FROM spelled))
    UNION SELECT typbasetype FROM pg_catalog.pg_type WHERE oid >= 16384 AND typbasetype <> 0
    UNION SELECT rngsubtype FROM pg_catalog.pg_range WHERE rngtypid >= 16384
)
SELECT DISTINCT typname::text FROM spelled JOIN used USING (oid)
"""


def read(connection: Connection, kinds: Collection[str] = tuple(_KINDS)) -> Watched:
    """Return what is watched of these kinds, as the transaction sees it; any role may look."""
    text = "\nUNION ALL ".join(f"SELECT '{kind}', x.* FROM ({_KINDS[kind]}\n) x" for kind in kinds)
    superuser = connection.info.parameter_status("is_superuser") == "on"
    major = connection.info.server_version // 10000
    query = queries.for_server(_OURS + text, major=major, superuser=superuser)
    return frozenset(connection.execute(query.encode()).fetchall())


def in_rows(connection: Connection) -> frozenset[str]:
    """Return the kinds that the values of a table may be spelled by: labels of enums, and what a regclass names."""
    types = connection.execute(_TYPES_IN_ROWS, (list(_BY_TYPE),)).fetchall()
    return frozenset({_ENUM}.union(*(_BY_TYPE[name] for (name,) in types)))


def changed(connection: Connection, before: Watched, kinds: Collection[str] = tuple(_KINDS)) -> list[str]:
    """Return those of the kinds of which something has been changed or dropped since; what is new is no change."""
    now = read(connection, kinds)
    other = {(kind, oid) for kind, oid, _ in before - now if kind in kinds}
    there = {(kind, oid) for kind, oid, _ in now} if other else set()
    return sorted({kind for kind, oid in other if kind not in _MAY_GO or (kind, oid) in there})
