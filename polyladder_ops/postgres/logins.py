"""The logins that a run makes for itself, known by name and shape: what a dead run left of them the next command drops."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import errors, sql

if TYPE_CHECKING:
    from polyladder_ops.postgres.session import Connection

__all__ = ["AS_MADE", "drop", "whose"]

# A login of a load, of checks, or of a migration (a member of one owner), as it was made: what somebody has taken into use
# since, with more rights, time or members, a comment, or something of its own where we are, is not ours.
AS_MADE = """
SELECT rolname::text FROM pg_catalog.pg_roles r
WHERE rolname ~ '^polyladder_[a-z]+_[0-9a-f]{16}$' AND rolvaliduntil < pg_catalog.now() + '3 days'::pg_catalog.interval
  AND pg_catalog.shobj_description(r.oid, 'pg_authid') IS NULL
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_shdepend o JOIN pg_catalog.pg_database here ON here.oid = o.dbid
                  WHERE o.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND o.refobjid = r.oid
                    AND o.deptype = 'o' AND here.datname = pg_catalog.current_database())
  AND NOT (rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication)
  AND CASE WHEN rolname ~ '^polyladder_check_'
      THEN NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                       WHERE m.member = r.oid AND m.roleid::pg_catalog.regrole::text <> 'pg_read_all_data')
      WHEN rolname ~ '^polyladder_migrate_'
      THEN NOT rolbypassrls AND (SELECT count(*) FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid) <= 1
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.roleid = r.oid)
      ELSE NOT rolinherit AND NOT rolbypassrls
           AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m WHERE m.member = r.oid) END
"""


def drop(connection: Connection, name: str) -> None:
    """Drop the role that loaded a database, if one of this name is such a login still and owns nothing elsewhere."""
    if connection.execute(AS_MADE + " AND rolname = %s", [name]).fetchone():
        with contextlib.suppress(errors.DependentObjectsStillExist, errors.InsufficientPrivilege):
            # What it may do with tablespaces and settings would keep it.
            for statement in ("DROP OWNED BY {}", "DROP ROLE IF EXISTS {}"):
                connection.execute(sql.SQL(statement).format(sql.Identifier(name)))


def whose(name: str) -> str:
    """Return what a login was made for that has no database of its name."""
    purpose = name.split("_")[1]
    return {"migrate": "a migration", "check": "checks or a proof"}.get(purpose, "a copy")
