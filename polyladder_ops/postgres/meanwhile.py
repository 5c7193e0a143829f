"""What others do to a database while we look away from it: everything that a dump carries, told so that a change shows.

Rows of tables are held by locks. Everything else can be made, changed and granted beside them: of each of those the
catalog keeps which transaction wrote it last, so a second look finds it without spelling any definition, and without
a lock that would make it wait for ours. What large objects hold and where sequences stand is read as it is.

What others have made and not committed shows in no look, and comes to light after ours: it may use a type or a function
that we drop, which no lock of 13 to 17 keeps from us. So a look counts only if nobody has written and not committed.

Left out is what changes without anybody doing anything that a dump would carry: statistics, what VACUUM and REFRESH
write, temporary tables.
"""

from __future__ import annotations

import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from psycopg import sql

from polyladder_ops.errors import Refused
from polyladder_ops.postgres import clearing_facts, queries, session
from polyladder_ops.postgres.proof import sequences

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["Kept", "Seen", "changed", "positions", "read", "read_at", "settled"]

Seen = frozenset[tuple[str, int, str]]
"""Of each object its catalog, its oid (0: all that came with the server), and what is another text once it was changed."""

_ASK_AGAIN_S = 0.2
_SHOWN = 5
_SEQUENCE, _LARGE_OBJECT = "the position of a sequence", "the bytes of a large object"
_IN_OURS = "n.oid = x.{} AND n.nspname !~ '^pg_(toast|temp_)'"
_OF_OURS = (
    "r.oid = x.{} AND r.relpersistence <> 't' AND r.relnamespace <> 'pg_toast'::pg_catalog.regnamespace"
)
_BY_SCHEMA = {
    "pg_proc": "pronamespace", "pg_type": "typnamespace", "pg_constraint": "connamespace", "pg_operator": "oprnamespace",
    "pg_opclass": "opcnamespace", "pg_opfamily": "opfnamespace", "pg_collation": "collnamespace",
    "pg_conversion": "connamespace", "pg_statistic_ext": "stxnamespace", "pg_ts_config": "cfgnamespace",
    "pg_ts_dict": "dictnamespace", "pg_ts_parser": "prsnamespace", "pg_ts_template": "tmplnamespace",
}  # fmt: skip
_BY_RELATION = {
    "pg_attrdef": "adrelid", "pg_rewrite": "ev_class", "pg_trigger": "tgrelid", "pg_policy": "polrelid",
    "pg_publication_rel": "prrelid",
}  # fmt: skip
_ALONE = (
    "pg_cast", "pg_language", "pg_transform", "pg_am", "pg_amop", "pg_amproc", "pg_extension", "pg_event_trigger",
    "pg_foreign_data_wrapper", "pg_foreign_server", "pg_publication", "pg_publication_namespace",  # 15+
    "pg_default_acl", "pg_user_mapping",  # superuser
)  # fmt: skip
_XMIN = "x.xmin::text"
_DATABASE = "(SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())"
# REFRESH gives a materialized view and its indexes new files, and CREATE INDEX notes itself at its table: the rest counts.
_RELATION = (
    "pg_catalog.concat_ws(' ', x.relname, x.relnamespace, x.relkind, x.relowner, x.relacl, x.reloptions, x.reltablespace,"
    " x.relpersistence, x.relrowsecurity, x.relforcerowsecurity, x.relreplident, x.relispartition)"
)
_INDEX = "pg_catalog.concat_ws(' ', x.indisunique, x.indisprimary, x.indisclustered, x.indisreplident, x.indisvalid)"


def _question(
    catalog: str, where: str = "", *, key: str = "oid", text: str = _XMIN, of: str = "", mark: str = ""
) -> str:
    """Return the query for one catalog, each object's rows as one sum; `of` is the catalog that `key` is an oid of."""
    ours = f"CASE WHEN x.{key}::oid < 16384 THEN 0 ELSE x.{key}::oid::int8 END"
    return (
        f"SELECT '{of or catalog}', {ours}, '{catalog} ' || pg_catalog.count(*) || ' ' ||"
        f' pg_catalog.sum(pg_catalog.hashtextextended(({text}) COLLATE "C", 0)) FROM pg_catalog.{catalog} x'
        f" {where} GROUP BY 2; {mark}"
    )


def _in_schema(column: str) -> str:
    return f"JOIN pg_catalog.pg_namespace n ON {_IN_OURS.format(column)}"


def _of_relation(column: str) -> str:
    return f"JOIN pg_catalog.pg_class r ON {_OF_OURS.format(column)}"


_MARKS = {"pg_publication_namespace": "-- 15+", "pg_user_mapping": "-- superuser"}
_QUESTIONS = "\n".join(
    [
        _question("pg_namespace", "WHERE x.nspname !~ '^pg_(toast|temp_)'"),
        _question("pg_class", _in_schema("relnamespace"), text=_RELATION),
        *(_question(catalog, _in_schema(column)) for catalog, column in _BY_SCHEMA.items()),
        *(_question(catalog, _of_relation(column)) for catalog, column in _BY_RELATION.items()),
        *(_question(catalog, mark=_MARKS.get(catalog, "")) for catalog in _ALONE),
        "SELECT 'pg_largeobject', x.oid::int8, x.xmin::text FROM pg_catalog.pg_largeobject_metadata x;",
        _question("pg_enum", key="enumtypid", of="pg_type"),
        _question("pg_attribute", _of_relation("attrelid"), key="attrelid", of="pg_class",
                  text=f"x.attnum || ' ' || {_XMIN}"),
        _question("pg_index", _of_relation("indexrelid"), key="indexrelid", of="pg_class", text=_INDEX),
        _question("pg_inherits", _of_relation("inhrelid"), key="inhrelid", of="pg_class"),
        _question("pg_partitioned_table", key="partrelid", of="pg_class"),
        _question("pg_sequence", _of_relation("seqrelid"), key="seqrelid", of="pg_class"),
        _question("pg_foreign_table", key="ftrelid", of="pg_class"),
        _question("pg_range", key="rngtypid", of="pg_type"),
        _question("pg_aggregate", key="aggfnoid", of="pg_proc"),
        _question("pg_ts_config_map", key="mapcfg", of="pg_ts_config"),
        _question("pg_description", key="objoid", text=f"x.classoid || ' ' || x.objsubid || ' ' || {_XMIN}"),
        _question("pg_seclabel", key="objoid", text=f"x.classoid || ' ' || x.objsubid || ' ' || {_XMIN}"),
        _question("pg_subscription", f"WHERE x.subdbid = {_DATABASE}", mark="-- superuser"),
        _question("pg_database", f"WHERE x.oid = {_DATABASE}"),
        _question("pg_db_role_setting", f"WHERE x.setdatabase = {_DATABASE}", key="setdatabase", of="pg_database"),
        _question("pg_shdescription", f"WHERE x.objoid = {_DATABASE}", key="objoid", of="pg_database"),
    ]
)  # fmt: skip
# In pieces: the server makes each one in its memory.
_LARGE_OBJECTS = """
WITH RECURSIVE piece (oid, place, size, digest) AS (
    SELECT x.oid, 0::int8, pg_catalog.length(p), pg_catalog.md5(p)
    FROM pg_catalog.pg_largeobject_metadata x CROSS JOIN LATERAL pg_catalog.lo_get(x.oid, 0, 1048576) AS p
    UNION ALL
    SELECT w.oid, w.place + 1, pg_catalog.length(p), pg_catalog.md5(p)
    FROM piece w CROSS JOIN LATERAL pg_catalog.lo_get(w.oid, (w.place + 1) * 1048576, 1048576) AS p WHERE w.size = 1048576
)
SELECT oid::int8, pg_catalog.sum(size)::text || ' ' || pg_catalog.md5(pg_catalog.string_agg(digest, '' ORDER BY place))
FROM piece GROUP BY oid
"""
_SEQUENCES = """
SELECT c.oid::int8, pg_catalog.format('%I.%I', n.nspname, c.relname)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind = 'S' AND c.relpersistence <> 't' AND $users(n.nspname)
"""
_TABLES = """
SELECT c.oid::int8 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE c.relkind IN ('r', 'p') AND $users(n.nspname)
"""


@dataclass(frozen=True)
class Kept:
    """What a backup has kept, as its snapshot saw it: everything beside the rows, and which tables (oids) have some."""

    seen: Seen
    tables: frozenset[int]


def read_at(target: Target, snapshot: str) -> Kept:
    """Return what the exported snapshot sees. Raise OpsError if the server fails or the snapshot is gone."""
    with (
        closing(session.connect(target)) as connection,
        session.translated("could not look at the database as the backup sees it"),
    ):
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
        tables = frozenset(oid for (oid,) in queries.rows(connection, _TABLES))
        return Kept(read(connection) | positions(connection), tables)


def read(connection: Connection) -> Seen:
    """Return everything but rows and sequences' positions; it waits for nobody's lock on a table."""
    with connection.transaction(force_rollback=True):  # nothing of it is to be committed
        found = frozenset(queries.rows(connection, _QUESTIONS))
        held = connection.execute(_LARGE_OBJECTS.encode()).fetchall()
    return found | {(_LARGE_OBJECT, oid, text) for oid, text in held}


def settled(outside: Connection, *, besides: Connection, wait_s: float) -> Seen:
    """Return what `read` does, looked at while nobody else, besides this session of ours, had something to commit.

    Whoever has is waited for, `wait_s` seconds. Raise Refused, with who it is, if he has not ended by then.
    """
    ours = session.backend_of(besides)
    deadline = time.monotonic() + wait_s
    while True:
        writers = clearing_facts.writers(outside, besides=ours)
        if not writers:
            seen = read(outside)
            # And once more: who began while we looked, and is at it still, showed in neither.
            if not (writers := clearing_facts.writers(outside, besides=ours)):
                return seen
        if time.monotonic() > deadline:
            raise _uncommitted(writers, wait_s)
        time.sleep(_ASK_AGAIN_S)


def _uncommitted(writers: tuple[str, ...], wait_s: float) -> Refused:
    more = f" and {len(writers) - _SHOWN} more" if len(writers) > _SHOWN else ""
    return Refused(
        "somebody else writes to the database and has not committed",
        detail=f"Waited {wait_s:g} s for {'; '.join(writers[:_SHOWN])}{more}. What that makes could use what a restore"
        " in place drops.",
        hint="Nothing was touched. Stop the app, or end that transaction where it runs, then try again.",
    )


def positions(connection: Connection) -> Seen:
    """Return where the sequences stand; what it takes to read them is let go of where there is no transaction."""
    names = {name: oid for oid, name in queries.rows(connection, _SEQUENCES)}
    found = sequences.read(connection, list(names))
    return frozenset((_SEQUENCE, names[one.name], f"{one.value} {one.called}") for one in found)


def changed(connection: Connection, before: Seen, now: Seen) -> list[str]:
    """Return in words what was made, changed or dropped between two looks, by name as far as it is still there."""
    other = {(catalog, oid) for catalog, oid, _ in before ^ now}
    there = {(catalog, oid) for catalog, oid, _ in now}
    return list(dict.fromkeys(_named(connection, catalog, oid, there) for catalog, oid in _in_order(other)))


def _in_order(found: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """What people know by name comes first: relations, then what belongs to them."""
    first = ("pg_class", _SEQUENCE, _LARGE_OBJECT, "pg_largeobject", "pg_proc", "pg_namespace")
    return sorted(found, key=lambda one: (first.index(one[0]) if one[0] in first else len(first), *one))


_CLASSES = {_SEQUENCE: "pg_class", _LARGE_OBJECT: "pg_largeobject"}
_WITHOUT_NAME = {
    "pg_database": "the database's own settings",
    "pg_description": "a comment",
    "pg_seclabel": "a security label",
    "pg_subscription": "a subscription",
}


def _named(connection: Connection, catalog: str, oid: int, there: set[tuple[str, int]]) -> str:
    if said := _WITHOUT_NAME.get(catalog):
        return said
    if not oid:
        return f"something of the server's own in {catalog}"
    if (catalog, oid) not in there:
        return f"something in {catalog} is gone"
    (row,) = connection.execute(
        "SELECT pg_catalog.pg_describe_object(pg_catalog.to_regclass(%s), %s::oid, 0)",
        [f"pg_catalog.{_CLASSES.get(catalog, catalog)}", oid],
    ).fetchall()
    return row[0] or f"something in {catalog}"
