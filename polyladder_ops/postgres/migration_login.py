"""Who runs a migration: never a superuser for a database whose owner is none.

A migration is a program of the app's. What it makes has to belong to the database's owner, so its sessions begin with that role
(`-c role=`); but of a superuser's session that is no fence, since SET ROLE NONE takes it away. So where our login is a superuser and the
owner is none, a login is made for the run: a member of the owner only, with a random password, dropped at the end. The next command
drops one that a killed run left (`databases.drop_abandoned`).
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode

import psycopg
from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, locks, session, silence
from polyladder_ops.postgres.grants import quoted
from polyladder_ops.redaction import hide, hide_url
from polyladder_ops.undoing import undone

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["AtWork", "Login", "at_work", "blockers", "end_sessions", "living", "opened"]

_ENDING_S = 30.0
_RIGHTS = """
SELECT session_user::text, (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user), o.rolname::text, o.rolsuper,
       pg_catalog.pg_has_role(session_user, o.oid, 'MEMBER')
FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba WHERE d.datname = %s
"""
# What the database or the app's role may have set for the app, and what would end or bend a migration.
_SETTINGS = {
    "statement_timeout": "0",
    "lock_timeout": "60s",  # all that the app asks of that table waits behind a migration that waits
    "idle_in_transaction_session_timeout": "0",
    "default_transaction_read_only": "off",
}

# So that a statement does not go on for hours whose program was killed; not every server's system can tell (14 and later).
_NOTICE = ("client_connection_check_interval", "2s")
_MARK = "polyladder-ops migrate "


@dataclass(frozen=True)
class AtWork:
    """A session of a migration on the server, whether its run lives or not."""

    pid: int
    role: str
    since: str

    def __str__(self) -> str:
        return f"process {self.pid} (role {self.role}, since {self.since})"

    @property
    def ending(self) -> str:
        """The statement that ends it."""
        return f"SELECT pg_catalog.pg_terminate_backend({self.pid})"


@dataclass(frozen=True)
class Login:
    """How a migration's program reaches the database: its variables, whose objects it must make, by which login.

    Its sessions are found when the program is gone: of a login that was made all are its; else by `mark`, their application_name.
    """

    url: str
    options: str
    owner: str
    role: str
    mark: str
    is_made: bool = False

    @property
    def variables(self) -> dict[str, str]:
        """What the program gets in its environment; never in its arguments, which everybody on the machine sees."""
        return {"DATABASE_URL": self.url, "PGOPTIONS": self.options, "PGAPPNAME": self.mark}


@contextlib.contextmanager
def opened(server: Connection, target: Target) -> Iterator[Login]:
    """Within the block a login that may migrate `target` and makes its owner's objects; one that was made is gone afterwards.

    `server` is a session of ours in another database of that server; if it is lost meanwhile, the login goes over another one.
    Raise OpsError if our role is no member of the owner, or if no login can be made or let in.
    """
    ours, is_superuser, owner, owner_is_superuser, is_member = _rights(server, target)
    if not is_member:
        raise OpsError(
            f"what {ours} makes would not belong to {owner}, who owns {target.database}",
            detail=f"{ours} is no member of {owner}.",
            hint=f"Use the owner's DATABASE_URL, or have a superuser run: GRANT {quoted(owner)} TO {quoted(ours)}",
        )
    if not is_superuser or owner_is_superuser:
        yield _login(target, owner)
        return
    name = databases.temporary_name("migrate")
    with undone(f"the login {name}", lambda: _drop(server, target, name, owner)):
        made = _make(server, target, name, owner)
        yield _login(made, owner, is_made=True)


def _rights(server: Connection, target: Target) -> tuple[str, bool, str, bool, bool]:
    with session.translated("could not ask whose the database is"):
        row = server.execute(_RIGHTS, [target.database]).fetchone()
    if row is None:
        raise OpsError(
            f"there is no database {target.database}", hint="List them with `invoke restore.status`."
        )
    ours, is_superuser, owner, owner_is, is_member = row
    return ours, is_superuser, owner, owner_is, is_member


def _make(server: Connection, target: Target, name: str, owner: str) -> Target:
    """Make the login and return how it reaches the database. Raise OpsError if it can't be made or let in."""
    password = secrets.token_urlsafe(24)
    hide(password)
    verifier = server.pgconn.encrypt_password(password.encode(), name.encode(), b"scram-sha-256").decode()
    options = " WITH INHERIT TRUE, SET TRUE" if server.info.server_version >= 160000 else ""
    with session.translated("could not make a login for the migration"):
        databases.hold(server, name)
        row = server.execute("SELECT (pg_catalog.now() + '1 day')::text").fetchone()
        assert row is not None
        with server.transaction():
            role = sql.Identifier(name)
            make = sql.SQL("CREATE ROLE {} LOGIN PASSWORD {} VALID UNTIL {}").format(role, verifier, row[0])
            server.execute(make)
            server.execute(sql.SQL("GRANT {} TO {}" + options).format(sql.Identifier(owner), role))
    made = target.as_login(name, password)
    try:
        session.connect(made).close()
    except OpsError as error:
        raise OpsError(
            "the login that was made for the migration is not let in",
            detail=f"{error.detail} Our own role is a superuser, which a migration must not be.",
            hint=f"Use a DATABASE_URL of {owner}, or let new roles in by pg_hba.conf.",
        ) from error
    return made


def _drop(server: Connection, target: Target, name: str, owner: str) -> None:
    """Drop the login; what it made as itself (after SET ROLE NONE) goes to the owner and is not lost."""
    role = sql.Identifier(name)
    with session.translated(f"could not drop the login {name}"), living(server, target) as connection:
        if not connection.execute("SELECT 1 FROM pg_catalog.pg_roles WHERE rolname = %s", [name]).fetchone():
            return
        connection.execute(
            sql.SQL("ALTER ROLE {} NOLOGIN").format(role)
        )  # what its program left can't come again
        _end(connection, "usename = %s", [name])
        with closing(session.connect(target)) as inside:
            give = sql.SQL("REASSIGN OWNED BY {} TO {}; DROP OWNED BY {}").format(
                role, sql.Identifier(owner), role
            )
            inside.execute(give)
        connection.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


@contextlib.contextmanager
def living(server: Connection, target: Target) -> Iterator[Connection]:
    """Within the block a session like `server`: itself, or a new one if that was lost (a laptop slept, somebody ended it)."""
    if _lives(server):
        yield server
        return
    with closing(session.connect(locks.maintenance(target))) as again:
        yield again


def _lives(server: Connection) -> bool:
    try:
        server.execute("SELECT 1")
    except psycopg.Error:
        return False
    return True


def _login(target: Target, owner: str, *, is_made: bool = False) -> Login:
    with closing(session.connect(target)) as connection:
        has_tls, ours = bool(connection.pgconn.ssl_in_use), connection.info.user
        notice = (_NOTICE,) if databases.takes_setting(connection, *_NOTICE) else ()
    url = _url(target, ours, has_tls=has_tls)
    hide_url(url)
    settings = {"role": owner, **_SETTINGS, **_waits(), **dict(notice)}
    options = " ".join(f"-c {name}={_escaped(value)}" for name, value in settings.items())
    return Login(url, options, owner, ours, f"{_MARK}{secrets.token_hex(4)}", is_made)


def _waits() -> dict[str, str]:
    """Return how long a lock is waited for where a person said it (`-T`)."""
    each_s = silence.limits().each_s
    return {"lock_timeout": f"{max(1, round(min(each_s, 60) * 1000))}ms"} if each_s else {}


def _escaped(value: str) -> str:
    """Return a value as the server reads it in options: blanks part them, unless a backslash stands before."""
    return re.sub(r"([\s\\])", r"\\\1", value)


def _url(target: Target, user: str, *, has_tls: bool) -> str:
    """Return the URL for node's `pg`, which knows no libpq: it takes TLS for checked unless it is told `no-verify`."""
    given = target.parameters
    host = given.get("host") or given.get("hostaddr", "")
    where = f"[{host}]" if ":" in host else quote(host, safe="")
    login = quote(user, safe="") + (f":{quote(target.password, safe='')}" if target.password else "")
    asked = given.get("sslmode", "prefer")
    mode = asked if asked.startswith("verify") else "no-verify"
    more = {"sslmode": mode if has_tls else "disable"}
    if has_tls and mode != "no-verify":
        more["uselibpqcompat"] = "true"
    more |= {
        name: given[name] for name in ("sslrootcert", "sslcert", "sslkey") if has_tls and given.get(name)
    }
    return f"postgres://{login}@{where}:{target.port}/{quote(target.database, safe='')}?{urlencode(more)}"


# What a migration left is known by its name or its role, though that may have been dropped under it.
_AT_WORK = """
SELECT pid, coalesce(usename::text, 'which is gone'),
  pg_catalog.to_char(backend_start AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS"Z"')
FROM pg_catalog.pg_stat_activity
WHERE datname = %s AND (application_name ~ %s OR usename ~ '^polyladder_migrate_[0-9a-f]{16}$' OR (usename IS NULL AND usesysid <> 0))
ORDER BY backend_start
"""


def at_work(connection: Connection, database: str) -> tuple[AtWork, ...]:
    """Return the sessions of migrations in this database, oldest first. Raise OpsError if the server fails."""
    with session.translated("could not look for migrations at work"):
        rows = connection.execute(_AT_WORK.encode(), [database, f"^{_MARK}[0-9a-f]{{8}}$"]).fetchall()
    return tuple(AtWork(*row) for row in rows)


def end_sessions(server: Connection, login: Login) -> None:
    """Return when no session of the migration is left. Raise OpsError if one does not end within half a minute.

    A server that runs a statement does not notice that whoever sent it is gone.
    """
    with session.translated("could not end the migration's sessions"):
        _end(server, *_sessions(login))


def _sessions(login: Login) -> tuple[str, list[str]]:
    """Return the condition for the sessions of a migration: it may name them as it likes, and a login that was made is its alone."""
    if login.is_made:
        return "usename = %s", [login.role]
    return "usename = %s AND application_name = %s", [login.role, login.mark]


def _end(server: Connection, which: str, given: list[str]) -> None:
    deadline = time.monotonic() + _ENDING_S
    find = f"SELECT pg_catalog.pg_terminate_backend(pid) FROM pg_catalog.pg_stat_activity WHERE {which}"
    while server.execute(find.encode(), given).fetchall():
        if time.monotonic() > deadline:
            raise OpsError(f"a session of the migration does not end (role {given[0]})")
        time.sleep(0.02)


def blockers(server: Connection, login: Login) -> tuple[str, ...]:
    """Return in words which sessions the migration waits for, empty if it does not wait for a lock."""
    which, given = _sessions(login)
    find = (
        "SELECT b.pid, b.usename::text, b.application_name, b.state FROM"
        f" (SELECT pid FROM pg_catalog.pg_stat_activity WHERE {which}) AS a,"
        " LATERAL pg_catalog.unnest(pg_catalog.pg_blocking_pids(a.pid)) AS blocker (pid)"
        " JOIN pg_catalog.pg_stat_activity b ON b.pid = blocker.pid"
    )
    with contextlib.suppress(psycopg.Error):
        rows = server.execute(find.encode(), given).fetchall()
        return tuple(
            f"process {pid} ({role}, {name or 'no name'}, {state})" for pid, role, name, state in rows
        )
    return ()
