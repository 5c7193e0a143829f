"""The roles that a proof needs and its server has not got: made without login, dropped again.

They are known by their comment, so that a run that was killed leaves none for ever. Proofs that run at once on one server share
them: each holds a shared lock meanwhile, and whoever can have that lock alone drops what nobody needs any more.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from psycopg import errors, sql

from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.postgres.properties import Role
    from polyladder_ops.postgres.session import Connection

__all__ = ["drop", "leave", "make", "share"]

_FOR_A_PROOF = "made by polyladder-ops for a proof; it is dropped again"
_ONE_BY_ONE_S = 5  # that another proof's roles are waited for
_LEAVING_S = 1  # that others may take to let go of them; then they drop them
_ONE_BY_ONE, _IN_USE = _FOR_A_PROOF, f"{_FOR_A_PROOF}, when nobody needs it"  # the keys of two locks


def share(connection: Connection) -> None:
    """Have proofs beside us leave the roles to us that they made for us both, as long as this connection lasts."""
    with translated("could not share the roles of a proof"):
        _locked(connection, "pg_advisory_lock_shared", _IN_USE, _ONE_BY_ONE_S)


def leave(connection: Connection) -> None:
    """Need them no more."""
    with translated("could not let go of the roles of a proof"):
        connection.execute(
            "SELECT pg_catalog.pg_advisory_unlock_shared(pg_catalog.hashtextextended(%s, 0))", [_IN_USE]
        )


def make(connection: Connection, wanted: Iterable[Role], *, superusers: bool) -> tuple[str, ...]:
    """Make those of the roles that the server has not got, without login and password, all or none.

    Return the names of those, and of those that another proof has made.
    """
    with translated("could not make the roles"), connection.transaction():
        # Both would find one missing, and one would fail to make it.
        _locked(connection, "pg_advisory_xact_lock", _ONE_BY_ONE, _ONE_BY_ONE_S)
        rows = connection.execute(
            "SELECT rolname, pg_catalog.shobj_description(oid, 'pg_authid') FROM pg_catalog.pg_roles"
        )
        there: dict[str, str | None] = dict(rows.fetchall())
        names = []
        for role in wanted:
            if role.name not in there:
                _make_role(connection, role.name, superuser=superusers and role.superuser)
            if there.get(role.name, _FOR_A_PROOF) == _FOR_A_PROOF:
                names.append(role.name)
    return tuple(names)


def _locked(connection: Connection, function: str, key: str, seconds: int) -> bool:
    """Take a lock; whether we have it. Whoever keeps it longer than that is somebody who only knows its key, or uses it.

    Advisory locks are a database's: all of us take them where the roles are made from.
    """
    with contextlib.suppress(errors.LockNotAvailable), connection.transaction():
        connection.execute(f"SET LOCAL lock_timeout = '{seconds}s'".encode())
        question = f"SELECT pg_catalog.{function}(pg_catalog.hashtextextended(%s, 0))"
        connection.execute(question.encode(), [key])
        connection.execute("SET LOCAL lock_timeout = 0")
        return True
    return False


def _make_role(connection: Connection, name: str, *, superuser: bool) -> None:
    attributes = sql.SQL("SUPERUSER NOLOGIN" if superuser else "NOLOGIN")
    connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(name), attributes))
    comment = sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(name), sql.Literal(_FOR_A_PROOF))
    connection.execute(comment)


# Who makes a role, and is no superuser, is a member of it, by the server's own grant (since 16) or by what he has set.
_AS_MADE = """
SELECT rolname FROM pg_catalog.pg_roles r
WHERE (r.rolname = ANY (%s) OR pg_catalog.pg_has_role(r.oid, 'MEMBER')) AND pg_catalog.shobj_description(r.oid, 'pg_authid') = %s
  AND NOT (r.rolcanlogin OR r.rolcreaterole OR r.rolcreatedb OR r.rolreplication OR r.rolbypassrls)
  AND r.rolvaliduntil IS NULL AND r.rolconnlimit = -1
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s WHERE s.setrole = r.oid AND s.setdatabase = 0)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_auth_members m
                  WHERE m.member = r.oid OR m.roleid = r.oid AND m.member <> (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user)
                    AND NOT (m.grantor = 10 AND m.admin_option))
"""


def drop(connection: Connection, names: Iterable[str]) -> None:
    """Drop the roles that `make` named, and what other proofs have left, unless one needs them still: that drops them.

    One that somebody has taken into use since (a killed proof had left it) is not ours any more.
    """
    ours = list(names)
    with translated("could not drop the roles that were made for the proof"), connection.transaction():
        if not _locked(connection, "pg_advisory_xact_lock", _IN_USE, _LEAVING_S):
            return
        for (name,) in connection.execute(_AS_MADE, [ours, _FOR_A_PROOF]).fetchall():
            others = () if name in ours else (errors.InsufficientPrivilege,)
            with contextlib.suppress(errors.DependentObjectsStillExist, *others), connection.transaction():
                connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))
