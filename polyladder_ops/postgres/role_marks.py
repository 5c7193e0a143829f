"""The roles that a restore has made and that are not its database's yet: known by their comment until the switch.

They can't log in until then. What somebody has done with one since, another attribute, a member, something of its own, a
password, keeps it; what nobody has touched goes with the run that died. Only who may drop a role can write its comment.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pydantic
from psycopg import errors, sql
from pydantic import BaseModel, ConfigDict

from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["Made", "comment", "drop_unused", "find", "is_mark", "put"]

_PREFIX = "made by polyladder-ops for a restore that has not come to its end: "


class _Mark(BaseModel):
    """The database that it was made for, what it was like then, and the comment that it is to get."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    live: str
    seen: str
    comment: str = ""


@dataclass(frozen=True)
class Made:
    """A role that a restore of the database `live` has made; `use` is what somebody has done with it since, if anything."""

    name: str
    live: str
    use: str
    comment: str = ""  # that it is to get


# All that a role is and who is a member of whom; what it has in single databases stands elsewhere.
_SEEN = """
pg_catalog.encode(pg_catalog.sha256(pg_catalog.convert_to(pg_catalog.concat_ws(' ', pg_catalog.to_jsonb(r),
    (SELECT pg_catalog.jsonb_agg(pg_catalog.to_jsonb(m) - 'oid' ORDER BY m.roleid, m.member, m.grantor)
     FROM pg_catalog.pg_auth_members m WHERE r.oid IN (m.roleid, m.member))), 'UTF8')), 'hex')"""
_FIND = f"""
SELECT r.rolname::text, pg_catalog.shobj_description(r.oid, 'pg_authid'), {_SEEN},
    ARRAY(SELECT pg_catalog.pg_get_userbyid(m.member)::text FROM pg_catalog.pg_auth_members m WHERE m.roleid = r.oid),
    EXISTS (SELECT FROM pg_catalog.pg_shdepend o LEFT JOIN pg_catalog.pg_database d
                ON d.oid = CASE o.classid WHEN 'pg_catalog.pg_database'::pg_catalog.regclass THEN o.objid ELSE o.dbid END
            WHERE o.refclassid = 'pg_catalog.pg_authid'::pg_catalog.regclass AND o.refobjid = r.oid
              AND o.classid <> 'pg_catalog.pg_auth_members'::pg_catalog.regclass AND coalesce(d.datname <> ALL (%s), true)),
    EXISTS (SELECT FROM pg_catalog.pg_db_role_setting s JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
            WHERE s.setrole = r.oid AND d.datname <> ALL (%s))
FROM pg_catalog.pg_roles r WHERE pg_catalog.starts_with(pg_catalog.shobj_description(r.oid, 'pg_authid'), %s) ORDER BY r.rolname
"""
_MAY_SEE_PASSWORDS = "SELECT pg_catalog.has_table_privilege('pg_catalog.pg_authid', 'SELECT')"
_KNOWN_BY_ONE = (
    "SELECT rolname::text FROM pg_catalog.pg_authid WHERE rolpassword IS NOT NULL AND rolname = ANY (%s)"
)


def is_mark(text: str) -> bool:
    """Whether a role's comment is a mark of ours."""
    return text.startswith(_PREFIX)


def put(connection: Connection, comments: dict[str, str], live: str) -> None:
    """Mark the roles, which are as they were made now; `comments` are those that they are to get. Raise psycopg.Error if refused."""
    question = f"SELECT r.rolname::text, {_SEEN} FROM pg_catalog.pg_roles r WHERE r.rolname = ANY (%s)"
    for name, seen in connection.execute(question.encode(), [list(comments)]).fetchall():
        mark = _Mark(live=live, seen=seen, comment=comments[name])
        connection.execute(comment(name, _PREFIX + mark.model_dump_json()))


def comment(name: str, text: str) -> sql.Composed:
    """Return the statement that gives a role this comment; an empty one takes it away."""
    return sql.SQL("COMMENT ON ROLE {} IS {}").format(sql.Identifier(name), sql.Literal(text or None))


def find(connection: Connection, besides: Iterable[str] = ()) -> tuple[Made, ...]:
    """Return the roles that are marked; what one has in the databases `besides`, which go, is no use of it.

    Raise OpsError if the server fails.
    """
    gone = list(besides)
    with translated("could not look for roles that restores made"):
        rows = connection.execute(_FIND.encode(), [gone, gone, _PREFIX]).fetchall()
        known = [(_read(text), name, *rest) for name, text, *rest in rows]
        marked = [(mark, *rest) for mark, *rest in known if mark is not None]
        secret = _with_password(connection, [name for _, name, *_ in marked])
    used = {
        name: why
        for mark, name, seen, _, owns, is_set in marked
        if (why := _use(changed=seen != mark.seen, owns=owns, is_set=is_set, secret=name in secret))
    }
    _spread(used, {name: members for _, name, _, members, *_ in marked})
    return tuple(Made(name, mark.live, used.get(name, ""), mark.comment) for mark, name, *_ in marked)


def _read(text: str) -> _Mark | None:
    try:
        return _Mark.model_validate_json(text.removeprefix(_PREFIX))
    except pydantic.ValidationError:
        return None


def _with_password(connection: Connection, names: Sequence[str]) -> frozenset[str]:
    """Return which of them somebody has given a password; only a superuser may see that, and without LOGIN it opens nothing."""
    if not names or connection.execute(_MAY_SEE_PASSWORDS).fetchone() != (True,):
        return frozenset()
    return frozenset(name for (name,) in connection.execute(_KNOWN_BY_ONE, [list(names)]).fetchall())


def _use(*, changed: bool, owns: bool, is_set: bool, secret: bool) -> str:
    if owns:
        return "something is its own, or granted to it"
    if secret:
        return "it has a password"
    return "it was altered, or has other members" if changed else "it has a setting" if is_set else ""


def _spread(used: dict[str, str], members: dict[str, list[str]]) -> None:
    """Add what those in use are members of: they would lose it."""
    while more := {
        name: f"the role {who} is in use, and a member of it"
        for name, each in members.items()
        if name not in used and (who := next((one for one in each if one in used), ""))
    }:
        used.update(more)


def drop_unused(connection: Connection, live: str, in_hand: Iterable[str] = ()) -> tuple[str, ...]:
    """Drop the roles that a dead restore of `live` made and nobody uses; of the others the mark is taken off.

    One that is needed in a database that is `in_hand` stays as it is. Return what was done, in sentences. Another role's, which we may not touch, stay as they are. Raise OpsError if the server fails.
    """
    done = []
    with translated("could not drop the roles that a restore made"), connection.transaction():
        for one in (one for one in find(connection, in_hand) if one.live == live):
            change = (
                comment(one.name, one.comment)
                if one.use
                else sql.SQL("DROP ROLE {}").format(sql.Identifier(one.name))
            )
            with (
                contextlib.suppress(errors.InsufficientPrivilege, errors.DependentObjectsStillExist),
                connection.transaction(),
            ):
                connection.execute(change)
                stays = (
                    f"left the role {one.name}, made without LOGIN, to who has taken it into use ({one.use})"
                )
                done.append(stays if one.use else f"dropped the role {one.name}")
    return tuple(done)
