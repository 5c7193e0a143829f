"""Making and dropping whole databases.

What is made for a run only has a sealed name whose lock nobody holds once it was killed: so the next one knows it.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
import time
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import application, heartbeat, hints, inside, locks, logins
from polyladder_ops.postgres.session import (
    Connection,
    backend_of,
    connect,
    in_short,
    is_usable,
    translated,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import DatabaseProperties

__all__ = [
    "LocaleMissing",
    "abandoned",
    "available_extensions",
    "can_read_as",
    "create",
    "drop",
    "drop_abandoned",
    "end_session",
    "ended_if_left",
    "has_subscriptions",
    "hold",
    "is_half_dropped",
    "is_servers_own",
    "is_temporary",
    "locked",
    "tablespaces",
    "takes_setting",
    "temporary_name",
    "used",
]

_ENDING_S = 10.0
_CREATEDB = "The role needs CREATEDB (or superuser) on that server."
_SINCE = {"icu": 15, "builtin": 17}
"""The major version that brought each locale provider as one for whole databases."""


class LocaleMissing(OpsError):  # noqa: N818 - a verdict, not an accident
    """The server has not got the encoding, locale or locale provider of the source."""


def available_extensions(connection: Connection) -> Mapping[str, str]:
    """Return each extension that can be made here with the version that it would get."""
    with translated("could not list the extensions"):
        rows = connection.execute(
            "SELECT name, default_version FROM pg_catalog.pg_available_extensions"
        ).fetchall()
    return dict(rows)


def tablespaces(connection: Connection) -> frozenset[str]:
    """Return the names of the server's tablespaces."""
    with translated("could not list the tablespaces"):
        rows = connection.execute("SELECT spcname FROM pg_catalog.pg_tablespace").fetchall()
    return frozenset(name for (name,) in rows)


def is_servers_own(connection: Connection, name: str) -> bool:
    """Whether a database is a template, or the one from which others are made: nobody's data belongs there."""
    with translated("could not look for templates"):
        row = connection.execute(
            "SELECT datistemplate FROM pg_catalog.pg_database WHERE datname = %s", [name]
        ).fetchone()
    return name == "postgres" or row == (True,)


def is_half_dropped(connection: Connection, name: str) -> bool:
    """Whether a DROP DATABASE of it came to no end: it can be dropped, and nothing else."""
    with translated("could not look for what is half dropped"):
        row = connection.execute(
            "SELECT datconnlimit = -2 FROM pg_catalog.pg_database WHERE datname = %s", [name]
        ).fetchone()
    return row == (True,)


def takes_setting(connection: Connection, name: str, value: str) -> bool:
    """Whether the server knows this setting and value, and lets us use them; they then hold for this connection."""
    try:
        connection.execute("SELECT pg_catalog.set_config(%s, %s, false)", [name, value])
    except (errors.UndefinedObject, errors.InvalidParameterValue, errors.InsufficientPrivilege):
        return False
    return True


# Since 17 there is such a setting; what a role may set, it may also give as an option of a connection.
_MAY_BE_QUIET = (
    "(SELECT pg_catalog.has_parameter_privilege(name, 'SET')"
    " FROM pg_catalog.pg_settings WHERE name = 'event_triggers')"
)


def can_read_as(connection: Connection, lc_monetary: str) -> tuple[bool, bool]:
    """Whether we may switch event triggers off, and whether the server knows this locale: in one round trip if it does.

    The locale then holds for this connection.
    """
    quiet = _MAY_BE_QUIET if connection.info.server_version >= 170000 else "false"
    try:
        row = connection.execute(
            f"SELECT {quiet}, pg_catalog.set_config('lc_monetary', %s, false)".encode(), [lc_monetary]
        ).fetchone()
        knows = True
    except errors.InvalidParameterValue:
        row, knows = connection.execute(f"SELECT {quiet}".encode()).fetchone(), False
    return bool(row and row[0]), knows


def create(connection: Connection, name: str, like: DatabaseProperties) -> None:
    """Create an empty database from template0 with this encoding, locale and provider, and in this tablespace if it is there.

    It is ours alone, and closed: nobody else may connect to it, once it takes sessions. Raise LocaleMissing if the server has not got them, OpsError if it refuses otherwise.
    """
    options = [
        sql.SQL("{} = {}").format(sql.SQL(word), sql.Literal(value))
        for word, value in _locale_options(like, connection.info.server_version // 10000)
    ]
    # To name the default takes a right of its own.
    if like.tablespace != "pg_default" and like.tablespace in tablespaces(connection):
        options.append(sql.SQL("TABLESPACE = {}").format(sql.Identifier(like.tablespace)))
    # Everybody may connect to a new one: it must be closed until that is taken back.
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false {}").format(
        sql.Identifier(name), sql.SQL(" ").join(options)
    )
    revoke = sql.SQL("REVOKE CONNECT, TEMPORARY ON DATABASE {} FROM PUBLIC").format(sql.Identifier(name))
    try:
        connection.execute(statement)
        connection.execute(revoke)
    except (
        errors.InvalidParameterValue,
        errors.WrongObjectType,
        errors.FeatureNotSupported,
        errors.UndefinedFile,
    ) as error:
        raise LocaleMissing(
            "the server lacks the locale of the source", detail=f"{in_short(error)}."
        ) from error
    except errors.DuplicateDatabase as error:
        raise OpsError(
            f"there is a database {name} already", hint="Choose another name, or drop it first."
        ) from error
    except psycopg.Error as error:
        may_not = isinstance(error, errors.InsufficientPrivilege) and not _may_create(connection)
        hint = _CREATEDB if may_not else hints.following(error)
        raise OpsError(
            f"could not create the database {name}", detail=f"{in_short(error)}.", hint=hint
        ) from error


def _may_create(connection: Connection) -> bool:
    """Whether our role may make databases at all: of a tablespace or a template the server says no in the same way."""
    row = connection.execute(
        "SELECT rolcreatedb OR rolsuper FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    return row == (True,)


@contextlib.contextmanager
def ended_if_left(server: Target, connection: Connection) -> Iterator[None]:
    """Within the block this session is told something; when the block ends early, the server does not go on with it.

    A Ctrl-C may come before the server has even heard, and psycopg does not always wait for the end.
    """
    pid = backend_of(connection)
    try:
        yield
    except BaseException:
        if not is_usable(connection):
            connection.close()
            with contextlib.suppress(OpsError):  # the server is gone, as who drops the database will say
                end_session(server, pid)
        raise


def end_session(server: Target, pid: int) -> None:
    """Return when the server has ended this session of ours and whatever it was doing, or does not within ten seconds.

    Raise OpsError if the server can't be asked.
    """
    deadline = time.monotonic() + _ENDING_S
    with closing(connect(server, timeout_s=5)) as connection, translated("could not end a session of ours"):
        while connection.execute(
            "SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity"
            " WHERE pid = %s AND application_name LIKE 'polyladder-ops%%'",
            [pid],
        ).fetchall():
            if time.monotonic() > deadline:
                return
            time.sleep(0.02)


def _locale_options(like: DatabaseProperties, major: int) -> list[tuple[str, str]]:
    """Return what CREATE DATABASE is told of the locale. Raise LocaleMissing if this major has no words for it."""
    since = max(_SINCE.get(like.locale_provider, 0), 16 if like.icu_rules else 0)
    if major < since:
        what = f"the locale provider {like.locale_provider}" + (" with rules" if like.icu_rules else "")
        raise LocaleMissing(
            "the server lacks the locale of the source",
            detail=f"It is PostgreSQL {major}, and {what} came with {since}.",
        )
    options = [("ENCODING", like.encoding), ("LC_COLLATE", like.collate), ("LC_CTYPE", like.ctype)]
    if major >= 15:
        options.append(("LOCALE_PROVIDER", like.locale_provider))
    if like.locale and like.locale_provider == "icu":
        options.append(("ICU_LOCALE", like.locale))
    if like.locale and like.locale_provider == "builtin":
        options.append(("BUILTIN_LOCALE", like.locale))
    if like.icu_rules:
        options.append(("ICU_RULES", like.icu_rules))
    return options


def drop(server: Target, name: str) -> None:
    """Drop a database of this server if it is there, whoever is connected to it.

    Its subscriptions would keep it from being dropped. They are dropped without a word to their publisher: the slots
    there belong to the database that was dumped.
    """
    with (
        translated(f"could not drop the database {name}"),
        closing(connect(server, timeout_s=5)) as connection,
    ):
        for subscription in _subscriptions(connection, name):
            # To drop one it must be entered, and a copy that was proved is shut.
            connection.execute(
                sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(sql.Identifier(name))
            )
            _forget(server.with_database(name), sql.Identifier(subscription))
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))
        if is_temporary(name):
            logins.drop(connection, name)


def _subscriptions(connection: Connection, database: str) -> list[str]:
    found = connection.execute(
        "SELECT s.subname FROM pg_catalog.pg_subscription s"
        " JOIN pg_catalog.pg_database d ON d.oid = s.subdbid WHERE d.datname = %s",
        [database],
    )
    return [name for (name,) in found.fetchall()]


def has_subscriptions(connection: Connection, database: str) -> bool:
    """Whether a database has subscriptions, which must be dropped before it, from inside."""
    return bool(_subscriptions(connection, database))


def _forget(target: Target, subscription: sql.Identifier) -> None:
    with closing(connect(target, timeout_s=5)) as connection:
        for change in ("ALTER SUBSCRIPTION {} DISABLE", "ALTER SUBSCRIPTION {} SET (slot_name = NONE)"):
            connection.execute(sql.SQL(change).format(subscription))
        connection.execute(sql.SQL("DROP SUBSCRIPTION {}").format(subscription))


def is_temporary(name: str) -> bool:
    """Whether a name is one that `temporary_name` makes."""
    return _TEMPORARY.fullmatch(name) is not None and _seal(name[:-8]) == name[-8:]


_TEMPORARY = re.compile(r"polyladder_[a-z]+_[0-9a-f]{16}")


def temporary_name(purpose: str) -> str:
    """Return a new name for a database that is made for one proof; `drop_abandoned` knows it by its seal."""
    begun = f"polyladder_{purpose}_{secrets.token_hex(4)}"
    return begun + _seal(begun)


def _seal(begun: str) -> str:
    return hashlib.blake2b(begun.encode(), digest_size=4, person=b"proof").hexdigest()


@contextlib.contextmanager
def locked(server: Target, name: str) -> Iterator[Connection]:
    """Within the block this database counts as in use, until the block ends or our process does; yields what holds it."""
    with closing(connect(server)) as connection:
        hold(connection, name)
        with heartbeat.kept(connection):
            yield connection


def hold(connection: Connection, name: str) -> None:
    """Make this database count as in use as long as the connection lasts."""
    locks.acquire(connection, name)


def abandoned(connection: Connection, *, ours_only: bool = False) -> list[str]:
    """Return the databases that killed runs left half-made, and logins without one; `ours_only`: those that we may drop.

    Until the connection ends we hold their locks. One that somebody has taken into use since is not among them (`used`).
    """
    with translated("could not look for what killed runs left"):
        copies = connection.execute(
            f"{_COPIES} AND (pg_catalog.pg_has_role(d.datdba, 'USAGE') OR NOT %s) AND {_WHY_USED} IS NULL".encode(),
            [ours_only],
        ).fetchall()
        copies = [row for row in copies if is_temporary(*row) and _is_unlocked(connection, *row)]
        rows = [row for row in copies if not inside.use(connection, *row)]
        rows += connection.execute(
            f"{logins.AS_MADE} AND rolname NOT IN (SELECT datname FROM pg_catalog.pg_database)"
            " AND (pg_catalog.pg_has_role(r.oid, 'MEMBER') OR NOT %s)".encode(),
            [ours_only],
        ).fetchall()
        sealed = [name for (name,) in rows if is_temporary(name)]
        return [name for name in sealed if _is_unlocked(connection, name)]


_COPIES = """
SELECT d.datname FROM pg_catalog.pg_database d WHERE d.datname ~ '^polyladder_[a-z]+_[0-9a-f]{16}$'
"""
# A copy of ours belongs to us, has no comment and no setting after it was made, is nobody's but ours and its login's to enter,
# and only sessions of ours are in it.
_WHY_USED = f"""
coalesce(
  CASE WHEN pg_catalog.shobj_description(d.oid, 'pg_database') IS NOT NULL THEN 'it has a comment' END,
  CASE WHEN d.datdba <> (SELECT u.oid FROM pg_catalog.pg_roles u WHERE u.rolname = current_user)
       THEN 'it belongs to ' || pg_catalog.pg_get_userbyid(d.datdba) END,
  (SELECT 'a setting' FROM pg_catalog.pg_db_role_setting s
   WHERE s.setdatabase = d.oid AND pg_catalog.age(s.xmin) < pg_catalog.age(d.xmin) LIMIT 1),
  (SELECT 'a grant to ' || coalesce(g.rolname, 'PUBLIC') FROM pg_catalog.aclexplode(d.datacl) x
   LEFT JOIN pg_catalog.pg_roles g ON g.oid = x.grantee
   WHERE x.grantee <> d.datdba AND coalesce(g.rolname, '') !~ '^polyladder_[a-z]+_[0-9a-f]{{16}}$' LIMIT 1),
  (SELECT 'a session of ' || a.usename FROM pg_catalog.pg_stat_activity a
   WHERE a.datid = d.oid AND a.backend_type = 'client backend' AND a.usename !~ '^polyladder_[a-z]+_[0-9a-f]{{16}}$'
     AND coalesce(a.application_name, '') !~ '{application.OURS}' LIMIT 1))
"""


def used(connection: Connection) -> dict[str, str]:
    """Return the copies that killed runs left and somebody has taken into use since, each with what shows it."""
    with translated("could not look for what killed runs left"):
        rows = connection.execute(
            f"SELECT * FROM (SELECT d.datname::text AS name, {_WHY_USED} AS why FROM pg_catalog.pg_database d"
            " WHERE d.datname ~ '^polyladder_[a-z]+_[0-9a-f]{16}$') c WHERE why IS NOT NULL ORDER BY name".encode()
        ).fetchall()
        found = {name: why for name, why in rows if is_temporary(name)}
        for (name,) in connection.execute(_COPIES.encode()).fetchall():
            if name not in found and is_temporary(name) and _is_unlocked(connection, name):
                found[name] = inside.use(connection, name)
    return {name: why for name, why in sorted(found.items()) if why}


def drop_abandoned(server: Target) -> list[str]:
    """Drop the databases that killed runs left half-made, and return the names of those that are gone.

    Another role's stay, for that to drop, and a login that owns something elsewhere.
    """
    with closing(connect(server)) as connection:
        dead = abandoned(connection, ours_only=True)
        for name in dead:
            drop(server, name)
        rows = connection.execute(
            "SELECT datname FROM pg_catalog.pg_database UNION ALL SELECT rolname FROM pg_catalog.pg_roles"
        ).fetchall()
    return [name for name in dead if (name,) not in rows]


def _is_unlocked(connection: Connection, name: str) -> bool:
    """Whether nobody who counts holds the database's lock, from whichever database of the server; then we do."""
    try:
        locks.acquire(connection, name)
    except locks.Busy:
        return False
    return True
