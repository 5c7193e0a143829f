"""Which server and database a connection string names, exactly as libpq reads it, and nothing that the text left open.

Only libpq's own parser is used: a password with ``#``, ``?`` or ``[`` parses there and means another host in urllib.
What libpq would fill in silently (the user's name as database, a socket folder of its own, PGHOST, ~/.pgpass, a service
file) is refused or cut off.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import TYPE_CHECKING
from urllib.parse import unquote

from psycopg import OperationalError, pq

from polyladder_ops.errors import SettingsError
from polyladder_ops.redaction import hide_password

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["Target", "Way", "parse"]

_SCHEMES = ("postgres://", "postgresql://")
_EXAMPLE = "postgres://user:password@host:5432/database"
_WRITE = f"Write it as {_EXAMPLE}."
_ENCODE = f"Write it as {_EXAMPLE}; in the password % is %25, @ is %40, / is %2F."
# What application libraries put into the URL and libpq refuses. The first ones change nothing for us.
_APP_ONLY = {"schema", "connection_limit", "pool_timeout", "statement_cache_size", "sslaccept", "pgbouncer"}
_APP_TOO = _APP_ONLY | {
    "ssl",
    "pool",
    "pool_size",
    "socket_timeout",
    "currentSchema",
    "search_path",
    "uselibpqcompat",
}
_NO_PASSFILE = (
    "/nonexistent/polyladder-ops/no-passfile"  # libpq passes over a file that is not there, in silence
)
_SECRETS = ("password", "sslpassword")
_KEYWORD = re.compile(r"(\w+)\s*=\s*(?:'(?:[^'\\]|\\.)*'|(?:[^\s\\]|\\.)*)", re.DOTALL)
# Secrets have no variable that pg_dump would read them from, only its command line, which everybody sees.
_REFUSED = {
    "service": "It names a service file, which can redirect it.",
    "servicefile": "It names a service file, which can redirect it.",
    "replication": "It asks for replication, and such a connection reads no tables.",
    "sslpassword": "It holds sslpassword; a client key has to be without a passphrase and readable by you only.",
    "scram_client_key": "It holds a key for SCRAM.",
    "scram_server_key": "It holds a key for SCRAM.",
    "oauth_client_secret": "It holds a secret for OAuth.",
}


@dataclass(frozen=True)
class Way:
    """How a server is reached that has no address here: what people call it, which server it is, where logins of a run go, what
    databases it has.

    The server's own socket lets in who administers it, without a password, and nobody else; so others come by `logins`,
    libpq's parameters of another entrance.
    """

    name: str
    system_identifier: str = ""
    logins: Mapping[str, str] = field(default_factory=dict)
    databases: tuple[str, ...] = ()


@dataclass(frozen=True, repr=False)
class Target:
    """One database on one server: libpq's parameters, complete enough that no environment can redirect them.

    `way` is how it is reached, where that is not plain from the parameters.
    """

    parameters: Mapping[str, str]
    way: Way | None = None

    @classmethod
    def of(cls, **parameters: str | int) -> Target:
        """Return the target with these libpq parameters (`host`, `port`, `user`, `password`, `dbname`, …)."""
        texts = {name: str(value) for name, value in parameters.items()}
        names = {texts[name] for name in ("user", "dbname", "host") if name in texts}
        for secret in _SECRETS:
            hide_password(texts.get(secret), names)
        return cls(MappingProxyType({"port": "5432", "passfile": _NO_PASSFILE, **texts}))

    @property
    def host(self) -> str:
        """Name, address or socket folder of the server."""
        return self.parameters.get("host") or self.parameters.get("hostaddr", "")

    @property
    def port(self) -> int:
        """TCP port, or the number in the socket's name."""
        return int(self.parameters["port"])

    @property
    def user(self) -> str:
        """Role to log in as; empty for the name of the operating system's user."""
        return self.parameters.get("user", "")

    @property
    def password(self) -> str:
        """The password, decoded; empty if the string names none."""
        return self.parameters.get("password", "")

    @property
    def database(self) -> str:
        """Name of the database, never empty."""
        return self.parameters["dbname"]

    def with_database(self, name: str) -> Target:
        """Return the same server and login with another database."""
        return replace(self, parameters=MappingProxyType({**self.parameters, "dbname": name}))

    def changed(self, **parameters: str | int) -> Target:
        """Return the same with other parameters, reached by the same way."""
        return replace(Target.of(**{**self.parameters, **parameters}), way=self.way)

    def as_login(self, user: str, password: str, **parameters: str | int) -> Target:
        """Return the same database for another role, who gives a password."""
        entrance = self.way.logins if self.way else {}
        return self.changed(**{**entrance, "user": user, "password": password, **parameters})

    def __str__(self) -> str:
        if self.way:
            return f"{self.database} on {self.way.name}"
        address = self.parameters.get("hostaddr", self.host)
        return f"{self.database} on {self.host}{f' ({address})' if address != self.host else ''}:{self.port}"

    def __repr__(self) -> str:
        return f"Target({self})"


def parse(url: str, *, variable: str = "DATABASE_URL") -> Target:
    """Return the target that a URL or a keyword string names.

    Raise SettingsError, without the value, if libpq can't read it, or if it leaves open or makes double which server
    and database are meant: another scheme, no host, no database, several hosts, a service file, a pooler.
    """
    url = url.strip()
    if why := _strange(url):
        raise _unusable(variable, why)
    is_url = url.startswith(_SCHEMES)
    head, query = _parts(url) if is_url else (url, [])
    _refuse_pooler(query, variable)
    kept = [pair for pair in query if pair[0] not in _APP_ONLY]
    text = head + ("?" if kept else "") + "&".join(f"{name}={value}" for name, value in kept)
    options = _options(text, variable)
    names = [unquote(name) for name, _ in kept] if is_url else _KEYWORD.findall(text)
    if doubled := _doubled(names, _options(head, variable) if kept else {}):
        raise _unusable(variable, f"It says {doubled} twice, and programs differ in which one counts.")
    path = head.split("/", 3)[3:] if is_url else []
    if why := _doubt(options, "".join(path)):
        raise _unusable(variable, why, _ENCODE)
    options.pop("client_encoding", None)  # a dump keeps the database's own
    return Target.of(**{**options, "port": options.get("port") or "5432"})


def _strange(url: str) -> str:
    """Return what is wrong with the text before libpq may see it; empty if nothing is."""
    scheme = re.match(r"[A-Za-z][\w+.-]*://", url)
    if not url:
        return "It is empty."
    if scheme and scheme[0] not in _SCHEMES:
        # libpq takes such a text for a database name and prints it whole, password included.
        return f"The scheme {scheme[0]!r} is not PostgreSQL's."
    if any(ord(char) < 32 or ord(char) == 127 for char in url):
        return "It holds a line break or another control character."
    if any(0xD800 <= ord(char) < 0xE000 for char in url):
        return "It holds bytes that are not UTF-8."
    return ""


def _parts(url: str) -> tuple[str, list[tuple[str, str]]]:
    """Return a URL without its query, and the query, where libpq sees it: a ? in the password begins none."""
    begin = url.index("://") + 3
    login = re.compile(r"[^@/]*@").match(url, begin)
    head, _, query = url[login.end() if login else begin :].partition("?")
    pairs = [pair.partition("=") for pair in query.split("&") if pair]
    return url[: login.end() if login else begin] + head, [(name, value) for name, _, value in pairs]


def _refuse_pooler(query: Iterable[tuple[str, str]], variable: str) -> None:
    if any(name == "pgbouncer" and value not in ("false", "0") for name, value in query):
        raise _unusable(
            variable,
            "It says that a connection pooler (pgbouncer) is in between: a snapshot does not survive that.",
            "Use the URL of the server itself.",
        )


def _options(text: str, variable: str) -> dict[str, str]:
    """Return what libpq reads. Raise SettingsError without what libpq quotes of the text, which may be the password."""
    try:
        parsed = pq.Conninfo.parse(text.encode())
    except OperationalError as error:
        raise _unusable(variable, *_why(str(error))) from None
    try:
        options = {o.keyword.decode(): o.val.decode() for o in parsed if o.val is not None}
    except UnicodeDecodeError:
        raise _unusable(variable, "It holds encoded bytes that are not UTF-8.", _ENCODE) from None
    if any(ord(char) < 32 for value in options.values() for char in value):
        raise _unusable(variable, "It holds an encoded line break or another control character.", _ENCODE)
    return options


def _why(text: str) -> tuple[str, str]:
    """Return what libpq disliked, and what to do."""
    if named := re.search(r'(?:invalid URI query parameter|invalid connection option)[: ]*"([^"]*)"', text):
        known = f": {named[1]}" if named[1] in _APP_TOO else ""
        return (
            f"It has a parameter that libpq does not know{known}.",
            "Remove what only the application understands.",
        )
    if "percent-encoded" in text:
        return "It holds a percent sign that is not an encoding such as %40.", _ENCODE
    return "libpq can't read it.", _ENCODE


def _doubled(names: Iterable[str], before: Mapping[str, str]) -> str:
    """Return the first parameter that is there more than once, among `names` or in the part of the URL before them."""
    return next((name for name, times in Counter([*names, *before]).items() if times > 1), "")


def _doubt(options: Mapping[str, str], path: str) -> str:
    """Return what leaves open which server and database are meant; empty if nothing does."""
    places = ",".join(options.get(name, "") for name in ("host", "hostaddr", "port"))
    host, database = options.get("host", ""), options.get("dbname", "")
    port = options.get("port") or "5432"
    claims = {
        next((why for name, why in _REFUSED.items() if name in options), ""): True,
        "It names no database; libpq would take the user's name.": not database,
        "It names no host, and programs differ in where they look then.": not host
        and not options.get("hostaddr"),
        "It names several hosts, so two connections can reach two servers.": places.count(",") > 2,
        "It holds an @ or / that is not encoded, so its parts can't be told apart.": "@" in host
        or "@" in path,
        "Its port is not a number from 1 to 65535.": not re.fullmatch(r"[0-9]{1,5}", port)
        or not 0 < int(port) < 65536,
        "Its database's name holds = or / or #, which other programs read in other ways.": bool(
            set("=/#") & set(database)
        ),
    }
    return next((why for why, holds in claims.items() if holds and why), "")


def _unusable(variable: str, detail: str, hint: str = _WRITE) -> SettingsError:
    return SettingsError(f"{variable} is unusable", detail=detail, hint=hint)
