"""The login by which a dump is sent: a role made for one load, a member of nobody, who owns everything meanwhile.

Rows run code: CHECKs, domains, generated columns and partition keys call functions of whoever made them, as the session's
user. A superuser's session would lend them all its rights, and neither SET ROLE nor SET SESSION AUTHORIZATION protects
it: the function says RESET. So the session's own user must be one who has nothing to lend (tried on 13, 15, 18). A login
that is a member of the owners would be another hole: the function would say SET ROLE.

The role has the name of the database that it loads, if that is a sealed one: whatever drops the one drops the other.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import pq, sql
from psycopg.adapt import Buffer, Loader

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases
from polyladder_ops.postgres.session import in_short, is_full, translated
from polyladder_ops.redaction import hide

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = [
    "Login",
    "NoLogin",
    "code",
    "end",
    "give_tablespaces",
    "give_use",
    "made",
    "made_validator",
    "named",
    "opened",
    "own_rules",
    "restrict",
    "return_public",
    "rewritten",
    "shut_out",
    "take",
]

_QUIET = "-c event_triggers=off"
_MAY_BE_QUIET = "SELECT pg_catalog.has_parameter_privilege(%s::text, 'event_triggers', 'SET')"
_OURSELVES = """
SELECT current_user::text, pg_catalog.current_setting('is_superuser') = 'on', (pg_catalog.now() + '1 day')::text
"""
_TABLESPACES = """
SELECT t.spcname::text, pg_catalog.current_setting('is_superuser') = 'on' FROM pg_catalog.pg_tablespace t
WHERE t.spcname NOT IN ('pg_default', 'pg_global')
"""
# Up to 14 public is a superuser's; everybody may create in it.
_PUBLIC = """
SELECT n.oid::int8, pg_catalog.pg_get_userbyid(n.nspowner)::text, pg_catalog.pg_has_role(n.nspowner, 'USAGE')
FROM pg_catalog.pg_namespace n WHERE n.nspname = 'public'
"""
# Dumps bring rows and values for an extension's configuration; a foreign key may lead to any table of one. Of a foreign
# server the login makes tables itself: a generated column's expression is planned, and so run, by whoever makes it.
_OF_OTHERS = """
SELECT CASE WHEN c.relkind = 'S' THEN 'UPDATE' WHEN c.oid = ANY (e.extconfig) THEN 'INSERT, SELECT, REFERENCES'
            ELSE 'SELECT, REFERENCES' END,
       CASE c.relkind WHEN 'S' THEN 'SEQUENCE' ELSE 'TABLE' END, c.oid::pg_catalog.regclass::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid
                            AND d.objsubid = 0 AND d.deptype = 'e'
JOIN pg_catalog.pg_extension e ON e.oid = d.refobjid
WHERE c.relkind IN ('r', 'p') OR c.relkind = 'S' AND c.oid = ANY (e.extconfig)
UNION ALL
SELECT 'USAGE, CREATE', 'SCHEMA', pg_catalog.quote_ident(n.nspname) FROM pg_catalog.pg_namespace n
JOIN pg_catalog.pg_depend d ON d.classid = 'pg_catalog.pg_namespace'::pg_catalog.regclass AND d.objid = n.oid AND d.deptype = 'e'
WHERE n.nspowner <> pg_catalog.to_regrole(%s)
UNION ALL
SELECT 'USAGE', 'FOREIGN SERVER', pg_catalog.quote_ident(s.srvname) FROM pg_catalog.pg_foreign_server s
WHERE s.srvowner <> pg_catalog.to_regrole(%s)
"""
# Functions that no login could have made: what one may do with them is told by grants, which come last.
_UNSAFE = """
SELECT (pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0)).identity
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND NOT l.lanpltrusted AND l.lanname <> 'sql'
  AND p.proowner <> pg_catalog.to_regrole(%s)
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype IN ('e', 'i'))
"""

_HARMLESS = """
SELECT 'FOREIGN TABLE', c.oid::pg_catalog.regclass::text FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_foreign_table t ON t.ftrelid = c.oid JOIN pg_catalog.pg_foreign_server s ON s.oid = t.ftserver
JOIN pg_catalog.pg_foreign_data_wrapper w ON w.oid = s.srvfdw LEFT JOIN pg_catalog.pg_proc h ON h.oid = w.fdwhandler
-- One of files reads them, or runs programs, for whoever may read the table.
WHERE c.relkind = 'f' AND c.relowner <> pg_catalog.to_regrole(%s) AND h.proname IS DISTINCT FROM 'file_fdw_handler'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = c.oid AND d.deptype = 'e')
UNION ALL
SELECT 'ROUTINE', (pg_catalog.pg_identify_object('pg_catalog.pg_proc'::pg_catalog.regclass, p.oid, 0)).identity
FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_language l ON l.oid = p.prolang
WHERE p.oid >= 16384 AND p.proowner <> pg_catalog.to_regrole(%s) AND l.lanpltrusted AND p.prokind <> 'a'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid AND d.deptype = 'e')
"""

_CODE = """
SELECT 'pg_proc'::pg_catalog.regclass::int8, oid::int8, xmin::text::int8 FROM pg_catalog.pg_proc WHERE oid >= 16384
UNION ALL SELECT 'pg_operator'::pg_catalog.regclass::int8, oid, xmin::text::int8 FROM pg_catalog.pg_operator WHERE oid >= 16384
UNION ALL SELECT 'pg_cast'::pg_catalog.regclass::int8, oid, xmin::text::int8 FROM pg_catalog.pg_cast WHERE oid >= 16384
UNION ALL SELECT 'pg_ts_dict'::pg_catalog.regclass::int8, oid, xmin::text::int8 FROM pg_catalog.pg_ts_dict WHERE oid >= 16384
UNION ALL SELECT 'pg_ts_config'::pg_catalog.regclass::int8, oid, xmin::text::int8 FROM pg_catalog.pg_ts_config WHERE oid >= 16384
UNION ALL SELECT 'pg_ts_config'::pg_catalog.regclass::int8, mapcfg, pg_catalog.sum(xmin::text::int8)::int8
FROM pg_catalog.pg_ts_config_map WHERE mapcfg >= 16384 GROUP BY mapcfg
UNION ALL SELECT 'pg_type'::pg_catalog.regclass::int8, oid, xmin::text::int8 FROM pg_catalog.pg_type
WHERE oid >= 16384 AND typtype IN ('d', 'e', 'r')
"""
# What a generated column is computed from may be rows of another table; before 15 what is counted comes by post.
_REWRITTEN = """
SELECT pg_catalog.format('%I.%I', s.schemaname, s.relname) FROM pg_catalog.pg_stat_user_tables s
WHERE s.n_tup_upd + s.n_tup_del > 0 AND NOT EXISTS (
    SELECT FROM pg_catalog.pg_depend d
    WHERE d.classid = 'pg_catalog.pg_class'::pg_catalog.regclass AND d.objid = s.relid AND d.deptype = 'e')
ORDER BY 1
"""
_BY_POST_S = 1.0
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_NAMED = """
SELECT (pg_catalog.pg_identify_object(t.catalog::pg_catalog.oid, t.oid::pg_catalog.oid, 0)).identity
FROM unnest(%s::int8[], %s::int8[]) AS t (catalog, oid)
"""
# By what they take, a wrapper's (text[], oid) and a language's (oid): names can be spelled in many ways, in any encoding.
_VALIDATORS = """
SELECT EXISTS (SELECT FROM pg_catalog.pg_proc p WHERE p.proowner = pg_catalog.to_regrole(%s)
               AND p.proargtypes::text IN ('1009 26', '26'))
"""


_OWN_RULES = b"""
SELECT pg_catalog.set_config('check_function_bodies', 'off', false),
       pg_catalog.set_config('search_path', coalesce((
    SELECT pg_catalog.string_agg(pg_catalog.quote_ident(n), ', ') FROM pg_catalog.unnest(pg_catalog.current_schemas(false)) AS n
    WHERE n OPERATOR(pg_catalog.<>) 'pg_catalog'), ''), false)
"""


class NoLogin(Exception):  # noqa: N818 - a fact about the server
    """The server makes no such login, or lets it not in; the text says why."""


@dataclass(frozen=True)
class Login:
    """The role, how it reaches the database, and who owned the schema public (its oid, the owner) before; None: nobody."""

    role: str
    target: Target
    public: tuple[int, str] | None

    @property
    def identifier(self) -> sql.Identifier:
        """Its name, quoted."""
        return sql.Identifier(self.role)


@contextlib.contextmanager
def made(owner: Connection, target: Target) -> Iterator[Login]:
    """Within the block a login that may make everything in this database; `end` drops it when it has done so.

    `owner` is our session in the database, `target` how it was reached. If the block fails, the role goes with its
    database (`databases.drop`); in one whose name is not sealed what it made becomes ours. Raise NoLogin if there is none.
    """
    is_sealed = databases.is_temporary(target.database)
    role = target.database if is_sealed else databases.temporary_name("load")
    password = secrets.token_urlsafe(24)
    hide(password)
    login = _made(owner, role, password, target, is_sealed=is_sealed)
    try:
        yield login
    except BaseException:
        if not is_sealed:
            with contextlib.suppress(psycopg.Error, OpsError):
                return_public(owner, login)
                end(owner, login)
        raise


def _made(owner: Connection, role: str, password: str, target: Target, *, is_sealed: bool) -> Login:
    try:
        if not is_sealed:
            databases.hold(owner, role)
        public = _make(owner, role, password, target)
    except psycopg.Error as error:
        raise NoLogin(in_short(error)) from error
    reached = target.as_login(role, password)
    if _is_quiet(target) and owner.execute(_MAY_BE_QUIET, [role]).fetchone() != (True,):
        loud = target.parameters["options"].replace(_QUIET, "").strip()
        reached = reached.changed(options=loud)
    return Login(role, reached, public)


def _is_quiet(target: Target) -> bool:
    return _QUIET in target.parameters.get("options", "")


def _make(owner: Connection, role: str, password: str, target: Target) -> tuple[int, str] | None:
    """Make the role and what it may, all or nothing; return what the schema public was, None if it stays whose it is."""
    name, database = sql.Identifier(role), sql.Identifier(target.database)
    ((ourselves, is_superuser, until),) = _answer(owner, _OURSELVES)
    public = next(((oid, whose) for oid, whose, may in _answer(owner, _PUBLIC) if may), None)
    verifier = owner.pgconn.encrypt_password(password.encode(), role.encode(), b"scram-sha-256").decode()
    made = sql.SQL("CREATE ROLE {} LOGIN NOINHERIT PASSWORD {} VALID UNTIL {}").format(name, verifier, until)
    rights = [sql.SQL("GRANT CONNECT, CREATE, TEMPORARY ON DATABASE {} TO {}").format(database, name)]
    if not is_superuser:
        options = " WITH INHERIT TRUE, SET TRUE" if owner.info.server_version >= 160000 else ""
        rights.append(sql.SQL("GRANT {} TO {}" + options).format(name, sql.Identifier(ourselves)))
    if public:
        rights.append(sql.SQL("ALTER SCHEMA public OWNER TO {}").format(name))
    quiet = [sql.SQL("GRANT SET ON PARAMETER event_triggers TO {}").format(name)] if _is_quiet(target) else []
    _say(owner, made, *rights, *(quiet if is_superuser else ()))
    if not is_superuser:
        # Who may switch them off may not always let others do so; the login's own sessions meet none.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            _say(owner, *quiet)
    return public


def opened(owner: Connection, login: Login, connect: Callable[[], Connection]) -> Connection:
    """Return the login's first session. Raise NoLogin, and leave no login behind, if the server does not let it in."""
    try:
        return connect()
    except OpsError as error:
        if is_full(
            error
        ):  # whoever may connect can bring that about: it is no reason to lend anybody our rights
            raise
        return_public(owner, login)
        end(owner, login)
        raise NoLogin(f"{error.message}: {error.detail}".rstrip(". ")) from error


def shut_out(owner: Connection, login: Login) -> None:
    """Let no more sessions of the login in. Raise psycopg.Error if the server refuses."""
    database = sql.Identifier(login.target.database)
    # A limit keeps itself out, the right to connect whoever it makes a member of itself (before 16 it may).
    _say(
        owner,
        sql.SQL("ALTER ROLE {} CONNECTION LIMIT 0").format(login.identifier),
        sql.SQL("REVOKE CONNECT ON DATABASE {} FROM {}").format(database, login.identifier),
    )


# Names mean what they mean to the server, and text comes as text: a dump may have said that they are looked for elsewhere first.
_OUR_NAMES = "SET LOCAL search_path = ''; SET LOCAL client_encoding = 'UTF8'"


class _Utf8(Loader):
    """What was sent as UTF-8 while the session has another encoding before and after."""

    def load(self, data: Buffer) -> str:
        return bytes(data).decode(errors="backslashreplace")


def _answer(owner: Connection, question: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
    """Return the rows of the answer, by our names; in one message, since over a far link each round trip counts."""
    with psycopg.ClientCursor(owner) as cursor:
        for kind in ("text", "name"):
            cursor.adapters.register_loader(kind, _Utf8)
        cursor.execute(f"{_OUR_NAMES}; {question}".encode(), parameters or None)
        while cursor.nextset():
            pass
        return cursor.fetchall()


def _say(owner: Connection, *statements: sql.Composable) -> None:
    """Do all of these or none, by our names, in one message: the server takes that for one transaction.

    What a role may do with a setting or a tablespace stands in one row for all roles of the server. Of two runs that change it at
    once one is refused ("tuple concurrently updated") instead of waiting; its turn comes a moment later.
    """
    message = sql.SQL("; ").join([sql.SQL(_OUR_NAMES), *statements])
    for pause_s in _PAUSES_S:
        try:
            owner.execute(message)
            return
        except psycopg.errors.InternalError_ as error:
            if (
                owner.info.transaction_status != pq.TransactionStatus.IDLE
                or "tuple concurrently" not in in_short(error)
            ):
                raise
            time.sleep(pause_s)
    owner.execute(message)


@contextlib.contextmanager
def _by_our_names(owner: Connection) -> Iterator[None]:
    """Within the block names mean what they mean to the server: a dump may have said that they are looked for elsewhere first."""
    with owner.transaction():
        # And texts come as texts, whatever the dump has said of that.
        owner.execute("SET LOCAL search_path = ''; SET LOCAL client_encoding = 'UTF8'")
        yield


def own_rules(owner: Connection) -> None:
    """Have this session take the server's own names before all others, and look into no function's body while it is made.

    A literal of a type that is called text, as the server's, would run code of who made that type, and so would a literal in the
    body of a function in SQL (tried). Where the search path does not name pg_catalog the server looks there first.
    """
    owner.execute(_OWN_RULES)


def give_use(owner: Connection, login: Login) -> None:
    """Let the login use what extensions and superusers brought: fill their configuration, refer to their tables, use their servers."""
    statement = sql.SQL("GRANT {} ON {} {} TO {}")
    grants = [
        statement.format(sql.SQL(rights), sql.SQL(kind), sql.SQL(name), login.identifier)
        for rights, kind, name in _answer(owner, _OF_OTHERS, [login.identifier.as_string(None)] * 2)
    ]
    if grants:
        _say(owner, *grants)


def give_tablespaces(owner: Connection, login: Login) -> None:
    """Let the login put its tables where the source has them; a superuser can, and else nobody needs it to be let."""
    grant = sql.SQL("GRANT CREATE ON TABLESPACE {} TO {}")
    names = [name for name, may in _answer(owner, _TABLESPACES) if may]
    if names:
        _say(owner, *(grant.format(sql.Identifier(name), login.identifier) for name in names))


def restrict(owner: Connection, login: Login, open_to_others: frozenset[str]) -> None:
    """Take from everybody the functions in C and the like that nobody but their owners might call; `open_to_others` are the rest.

    Grants come last: until then a user's CHECK would call what only a superuser should.
    """
    with _by_our_names(owner):
        for (identity,) in owner.execute(_UNSAFE, [login.identifier.as_string(None)]).fetchall():
            if identity not in open_to_others:
                owner.execute(sql.SQL("REVOKE ALL ON ROUTINE {} FROM PUBLIC").format(sql.SQL(identity)))


def take(owner: Connection, login: Login) -> None:
    """Give the login what had to be made for it and lends nothing: foreign tables, functions in everybody's languages."""
    with _by_our_names(owner):
        for kind, name in owner.execute(_HARMLESS, [login.identifier.as_string(None)] * 2).fetchall():
            owner.execute(
                sql.SQL("ALTER {} {} OWNER TO {}").format(sql.SQL(kind), sql.SQL(name), login.identifier)
            )


def code(owner: Connection) -> frozenset[tuple[int, int, int]]:
    """Return what code there is: catalog, oid and the transaction that wrote it last."""
    return frozenset(_answer(owner, _CODE))


def rewritten(owner: Connection) -> tuple[str, ...]:
    """Return the tables whose rows somebody has changed or deleted; extensions do so with their own."""
    if owner.info.server_version < 150000:
        time.sleep(_BY_POST_S)
    return tuple(name for (name,) in _answer(owner, _REWRITTEN))


def named(owner: Connection, code: Iterable[tuple[int, int, int]]) -> tuple[str, ...]:
    """Return the names of such things, as far as they are there."""
    with _by_our_names(owner):
        things = sorted({(catalog, oid) for catalog, oid, _ in code})
        rows = owner.execute(_NAMED, [[c for c, _ in things], [o for _, o in things]]).fetchall()
    return tuple(sorted({name or "one that is gone" for (name,) in rows}))


def made_validator(owner: Connection, login: Login) -> bool:
    """Whether the login made a function that could look at what is made for somebody: it would run as who makes that.

    A superuser names it once, for a wrapper or a language, and whoever owns it may replace it.
    """
    return _answer(owner, _VALIDATORS, [login.identifier.as_string(None)]) == [(True,)]


def return_public(owner: Connection, login: Login) -> None:
    """Give the schema public back to whom it was, unless the dump made it anew."""
    if login.public and any(oid == login.public[0] for oid, *_ in _answer(owner, _PUBLIC)):
        _say(owner, sql.SQL("ALTER SCHEMA public OWNER TO {}").format(sql.Identifier(login.public[1])))


def end(owner: Connection, login: Login) -> None:
    """Make ours what still belongs to the login, and drop it. Raise OpsError if the server refuses."""
    ending = ("REASSIGN OWNED BY {} TO CURRENT_USER", "DROP OWNED BY {}", "DROP ROLE {}")
    with translated("could not drop the login that loaded the backup"):
        _say(owner, *(sql.SQL(statement).format(login.identifier) for statement in ending))
