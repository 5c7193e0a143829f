"""Empties a database in the caller's transaction until it is what template0 would give: what a dump is loaded into.

Whatever the inventory knows goes, object by object: what it still finds afterwards is an error, so nothing is forgotten
in silence, and a schema goes only when it is empty: what somebody has put there since then keeps it. The schema public stays and is emptied, because in majors before 15 only a superuser owns it; its owner, grants and comment
become template0's. Objects that somebody put into the server's own schemas stay, as they are in no dump either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import grants, inventory, queries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from polyladder_ops.postgres.grants import Grant
    from polyladder_ops.postgres.session import Connection

__all__ = ["clear", "hush"]

_TOGETHER = 200
_NAME = "(pg_catalog.pg_identify_object('{0}'::regclass, x.oid, 0)).identity"


def _drop(word: str, catalog: str, condition: str = "true") -> str:
    """Return a query for statements that drop the objects of one catalog; those of extensions and the parts of others go with those."""
    return (
        f"SELECT pg_catalog.format('DROP {word} IF EXISTS %s CASCADE', {_NAME.format(catalog)})"
        f" FROM pg_catalog.{catalog} x WHERE {condition} AND $own({catalog}, x.oid)"
        f" AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d"
        f" WHERE d.classid = '{catalog}'::regclass AND d.objid = x.oid AND d.deptype = 'i'"
        # A partitioned table is a part of itself: of the columns by which it is divided.
        " AND (d.refclassid, d.refobjid) <> (d.classid, d.objid))"
    )


def _in_ours(column: str) -> str:
    return f"x.{column} IN (SELECT s.oid FROM pg_catalog.pg_namespace s WHERE $users(s.nspname))"


_MADE = "x.oid >= 16384"
_EVENT_TRIGGERS = """
SELECT pg_catalog.format('ALTER EVENT TRIGGER %I DISABLE', x.evtname) FROM pg_catalog.pg_event_trigger x
WHERE x.evtenabled <> 'D'
"""
_SUBSCRIPTIONS = """
SELECT pg_catalog.format('ALTER SUBSCRIPTION %1$I DISABLE; DROP SUBSCRIPTION %1$I', x.subname)
FROM pg_catalog.pg_subscription x JOIN pg_catalog.pg_database d ON d.oid = x.subdbid
WHERE d.datname = pg_catalog.current_database()
"""
_EXTENSIONS = """
SELECT pg_catalog.format('DROP EXTENSION IF EXISTS %I CASCADE', x.extname)
FROM pg_catalog.pg_extension x WHERE x.extname <> 'plpgsql'
"""
_SCHEMAS = """
SELECT pg_catalog.format('DROP SCHEMA IF EXISTS %I', x.nspname)
FROM pg_catalog.pg_namespace x WHERE $users(x.nspname) AND x.nspname <> 'public' AND $own(pg_namespace, x.oid)
"""
# In this order: first what would notice the rest or keep it from going, then what holds the most.
_DROPS = (
    _drop("EVENT TRIGGER", "pg_event_trigger"),
    _SUBSCRIPTIONS,
    _drop("PUBLICATION", "pg_publication"),
    _EXTENSIONS,
    _drop("FOREIGN DATA WRAPPER", "pg_foreign_data_wrapper", _MADE),
    _drop("TRANSFORM", "pg_transform", _MADE),
    _drop("CAST", "pg_cast", _MADE),
    _drop("LANGUAGE", "pg_language", _MADE),
    *(
        _drop(word, "pg_class", f"{_in_ours('relnamespace')} AND x.relkind IN ({kinds})")
        for word, kinds in (
            ("VIEW", "'v'"), ("MATERIALIZED VIEW", "'m'"), ("FOREIGN TABLE", "'f'"), ("TABLE", "'r', 'p'"), ("SEQUENCE", "'S'"),
        )
    ),
    _drop("ROUTINE", "pg_proc", _in_ours("pronamespace")),
    _drop("TYPE", "pg_type", f"{_in_ours('typnamespace')} AND x.typtype IN ('b', 'c', 'd', 'e', 'r', 'p')"
          " AND NOT EXISTS (SELECT FROM pg_catalog.pg_type e WHERE e.oid = x.typelem AND e.typarray = x.oid)"),
    _drop("OPERATOR", "pg_operator", _in_ours("oprnamespace")),
    _drop("OPERATOR CLASS", "pg_opclass", _in_ours("opcnamespace")),
    _drop("OPERATOR FAMILY", "pg_opfamily", _in_ours("opfnamespace")),
    _drop("COLLATION", "pg_collation", _in_ours("collnamespace")),
    _drop("CONVERSION", "pg_conversion", _in_ours("connamespace")),
    _drop("STATISTICS", "pg_statistic_ext", _in_ours("stxnamespace")),
    _drop("TEXT SEARCH CONFIGURATION", "pg_ts_config", _in_ours("cfgnamespace")),
    _drop("TEXT SEARCH DICTIONARY", "pg_ts_dict", _in_ours("dictnamespace")),
    _drop("TEXT SEARCH TEMPLATE", "pg_ts_template", _in_ours("tmplnamespace")),
    _drop("TEXT SEARCH PARSER", "pg_ts_parser", _in_ours("prsnamespace")),
    _drop("ACCESS METHOD", "pg_am", _MADE),
    _SCHEMAS,
    "SELECT pg_catalog.format('SELECT pg_catalog.lo_unlink(%s)', x.oid) FROM pg_catalog.pg_largeobject_metadata x",
)  # fmt: skip
# Default privileges: an entry goes by itself once it says what holds without it.
_KINDS = """CASE x.defaclobjtype WHEN 'r' THEN 'TABLES' WHEN 'S' THEN 'SEQUENCES' WHEN 'f' THEN 'ROUTINES'
    WHEN 'T' THEN 'TYPES' WHEN 'n' THEN 'SCHEMAS' WHEN 'L' THEN 'LARGE OBJECTS' END"""
_DEFAULTS = (
    f"""
    SELECT DISTINCT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I %s REVOKE ALL ON %s FROM %s CASCADE',
        pg_catalog.pg_get_userbyid(x.defaclrole), CASE x.defaclnamespace WHEN 0 THEN '' ELSE 'IN SCHEMA public' END, {_KINDS},
        CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(a.grantee)) END)
    FROM pg_catalog.pg_default_acl x, pg_catalog.aclexplode(x.defaclacl) a
    """,
    f"""
    SELECT pg_catalog.format('ALTER DEFAULT PRIVILEGES FOR ROLE %I GRANT ALL ON %s TO %s',
        pg_catalog.pg_get_userbyid(x.defaclrole), {_KINDS}, g.grantee)
    FROM pg_catalog.pg_default_acl x,
         LATERAL (VALUES (pg_catalog.quote_ident(pg_catalog.pg_get_userbyid(x.defaclrole))), ('PUBLIC')) g (grantee)
    WHERE x.defaclnamespace = 0 AND (g.grantee <> 'PUBLIC' OR x.defaclobjtype IN ('f', 'T'))
    """,
)
_PUBLIC = """
SELECT pg_catalog.pg_get_userbyid(s.nspowner), w.owner, pg_catalog.pg_has_role(s.nspowner, 'USAGE'),
       coalesce(s.nspacl, pg_catalog.acldefault('n', s.nspowner))::text[],
       ARRAY[pg_catalog.format('%I=UC/%1$I', w.owner), pg_catalog.format(w.everybody, w.owner)],
       coalesce(pg_catalog.obj_description(s.oid, 'pg_namespace'), '')
FROM pg_catalog.pg_namespace s,
     (SELECT 'pg_database_owner', '=U/%I') w (owner, everybody)  -- 15+
     (SELECT r.rolname, '=UC/%I' FROM pg_catalog.pg_roles r WHERE r.oid = 10) w (owner, everybody)  -- -14
WHERE s.nspname = 'public'
"""
_COMMENT = "standard public schema"
_STAYS = {("schema", "public"), ("extension", "plpgsql")}


def clear(connection: Connection) -> None:
    """Drop everything that a dump would carry, in the transaction that is open on this connection.

    The settings of the session are bent afterwards until the transaction ends or they are set again. Raise OpsError if
    anything is left, psycopg.Error if the server refuses.
    """
    superuser = connection.info.parameter_status("is_superuser") == "on"
    hush(connection)
    for questions in (_DROPS, _DEFAULTS):
        _do(connection, [text for (text,) in queries.rows(connection, ";".join(questions))])
    if superuser:
        _do(connection, list(_system_grants(connection)))
    _reset_public(connection)
    _do(connection, ["CREATE EXTENSION IF NOT EXISTS plpgsql WITH SCHEMA pg_catalog"])
    left = [
        f"{entry.kind} {entry.name}"
        for entry in inventory.entries(connection)
        if (entry.kind, entry.name) not in _STAYS and (superuser or entry.kind != "privileges")
    ]
    if left:
        raise OpsError(
            "the database could not be emptied",
            detail=f"There is still {', '.join(left[:5])}{f' and {len(left) - 5} more' if len(left) > 5 else ''}.",
            hint="Restore beside it instead, or drop what is left by hand.",
        )


def hush(connection: Connection) -> None:
    """Switch the event triggers off, in the transaction that is open: they would run at whatever we do."""
    _do(connection, [text for (text,) in queries.rows(connection, _EVENT_TRIGGERS)])


def _do(connection: Connection, statements: Sequence[str]) -> None:
    for begin in range(0, len(statements), _TOGETHER):
        connection.execute(";\n".join(statements[begin : begin + _TOGETHER]).encode(connection.info.encoding))


def _system_grants(connection: Connection) -> Iterator[str]:
    """Yield what gives the server's own objects the privileges back that they were born with."""
    rows = list(queries.rows(connection, queries.load("inventory_privileges.sql")))
    for kind, identity, _owner, part, acl, initial in rows:
        where = f"{_WORDS.get(kind, kind.upper())} {identity}"
        now, before = ({grants.parse(g) for g in grants.canonical(a)} for a in (acl, initial))
        yield from (
            f"REVOKE {_privileges(g, part)} ON {where} FROM {_role(connection, g)} CASCADE"
            for g in now - before
        )
        yield from _grants(connection, before - now, where, part)


_WORDS = {"view": "TABLE", "function": "ROUTINE", "aggregate": "ROUTINE", "window": "ROUTINE"}


def _grants(connection: Connection, given: Iterable[Grant], where: str, part: str = "") -> Iterator[str]:
    for grant in given:
        option = " WITH GRANT OPTION" if grant.privileges[0].endswith("*") else ""
        yield f"GRANT {_privileges(grant, part)} ON {where} TO {_role(connection, grant)}{option}"


def _privileges(grant: Grant, part: str) -> str:
    names = (name.removesuffix("*") for name in grant.privileges)
    return ", ".join(f"{name} ({part})" if part else name for name in names)


def _role(connection: Connection, grant: Grant) -> str:
    return sql.Identifier(grant.grantee).as_string(connection) if grant.grantee else grants.PUBLIC


def _reset_public(connection: Connection) -> None:
    """Give the schema public the owner, the grants and the comment that template0 has; where we may not, it stays."""
    connection.execute("CREATE SCHEMA IF NOT EXISTS public")
    owner, wanted, is_ours, *_ = _public(connection)
    if not is_ours:
        return
    if owner != wanted:
        connection.execute(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(wanted)))
    *_, acl, born, comment = _public(connection)
    now, before = ([grants.parse(g) for g in grants.canonical(a)] for a in (acl, born))
    if now != before:
        _do(connection, [f"REVOKE ALL ON SCHEMA public FROM {_role(connection, g)} CASCADE" for g in now])
        _do(connection, list(_grants(connection, before, "SCHEMA public")))
    if comment != _COMMENT:
        connection.execute(sql.SQL("COMMENT ON SCHEMA public IS {}").format(_COMMENT))


def _public(connection: Connection) -> tuple[Any, ...]:
    (found,) = queries.rows(connection, _PUBLIC)
    return found
