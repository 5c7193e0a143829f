"""Which server and database a connection string names, exactly as libpq reads it, and nothing that the text left open.

Only libpq's own parser is used: a password with ``#``, ``?`` or ``[`` parses there and means another host in urllib.
What libpq would fill in silently (the user's name as database, PGHOST, ~/.pgpass, a service file) is refused or cut off.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from psycopg import OperationalError, pq

from polyladder_ops.errors import SettingsError
from polyladder_ops.redaction import hide

__all__ = ["Target", "parse"]

_SCHEMES = ("postgres://", "postgresql://")
_EXAMPLE = "postgres://user:password@host:5432/database"
# Parameters that application libraries put into the URL and libpq refuses; they change nothing for us.
_APP_ONLY = re.compile(
    r"(?<=[?&])(?:schema|connection_limit|pool_timeout|statement_cache_size|sslaccept)=[^&]*(?:&|$)"
)
_NO_PASSFILE = (
    "/nonexistent/polyladder-ops/no-passfile"  # libpq passes over a file that is not there, in silence
)
_UNSUPPORTED = {"sslpassword", "replication", "scram_client_key", "scram_server_key", "oauth_client_secret"}
_SECRETS = ("password", "sslpassword")


@dataclass(frozen=True, repr=False)
class Target:
    """One database on one server: libpq's parameters, complete enough that no environment can redirect them."""

    parameters: Mapping[str, str]

    @classmethod
    def of(cls, **parameters: str | int) -> Target:
        """Return the target with these libpq parameters (`host`, `port`, `user`, `password`, `dbname`, …)."""
        texts = {name: str(value) for name, value in parameters.items()}
        for secret in _SECRETS:
            hide(texts.get(secret))
        return cls(MappingProxyType({"port": "5432", "passfile": _NO_PASSFILE, **texts}))

    @property
    def host(self) -> str:
        """Name, address or socket folder of the server; empty for libpq's default socket."""
        return self.parameters.get("host", "")

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
        return Target(MappingProxyType({**self.parameters, "dbname": name}))

    def __str__(self) -> str:
        return f"{self.database} on {self.host or 'the local socket'}:{self.port}"

    def __repr__(self) -> str:
        return f"Target({self})"


def parse(url: str, *, variable: str = "DATABASE_URL") -> Target:
    """Return the target that a URL or a keyword string names.

    Raise SettingsError, without the value, if libpq can't read it, or if it leaves open or makes double which server
    and database are meant: another scheme, no database, several hosts, a service file, a pooler.
    """
    url = url.strip()
    scheme = re.match(r"[A-Za-z][\w+.-]*://", url)
    if not url:
        raise _unusable(variable, "It is empty.")
    if scheme and scheme[0] not in _SCHEMES:
        # libpq takes such a text for a database name and prints it whole, password included.
        raise _unusable(
            variable, f"The scheme {scheme[0]!r} is not PostgreSQL's.", f"Write it as {_EXAMPLE}."
        )
    if any(ord(char) < 32 or ord(char) == 127 for char in url):
        raise _unusable(variable, "It holds a line break or another control character.")
    _refuse_pooler(url, variable)
    options = _options(url, variable)
    _refuse_doubt(options, variable)
    return Target.of(**options)


def _options(url: str, variable: str) -> dict[str, str]:
    if "?" in url:
        url = _APP_ONLY.sub("", url).rstrip("?&")
    try:
        parsed = pq.Conninfo.parse(url.encode())
    except OperationalError as error:
        raise _unusable(
            variable, _why(str(error)), _cure(str(error))
        ) from None  # libpq quotes parts of the password
    options = {o.keyword.decode(): o.val.decode() for o in parsed if o.val is not None}
    if any(char == "\0" or ord(char) < 32 for value in options.values() for char in value):
        raise _unusable(variable, "It holds an encoded line break or another control character.")
    return options


def _why(text: str) -> str:
    """Return what libpq disliked, without the piece of the string that it quotes."""
    if named := re.search(
        r'(?:invalid URI query parameter|invalid connection option)[: ]*"(\w{1,40})"', text
    ):
        return f"It has a parameter that libpq does not know: {named[1]}."
    if "percent-encoded" in text:
        return "It holds a percent sign that is not an encoding such as %40."
    if "port" in text:
        return "Its port is not a number."
    return "libpq can't read it."


def _cure(text: str) -> str:
    if "percent-encoded" in text:
        return "Write % in a password as %25, @ as %40, / as %2F."
    if "query parameter" in text or "connection option" in text:
        return "Remove what only the application understands."
    return f"Write it as {_EXAMPLE}; in the password % is %25, @ is %40, / is %2F."


def _refuse_pooler(url: str, variable: str) -> None:
    if re.search(r"[?&\s]pgbouncer=(?!false|0)", url):
        raise _unusable(
            variable,
            "It says that a connection pooler (pgbouncer) is in between: a snapshot does not survive that.",
            "Use the URL of the server itself.",
        )


def _refuse_doubt(options: dict[str, str], variable: str) -> None:
    host = options.get("host", "")
    if "service" in options:
        raise _unusable(
            variable, "It names a service file, which can redirect it.", "Write host and database out."
        )
    if "sslpassword" in options:
        raise _unusable(
            variable, "It holds sslpassword.", "Use a client key without a passphrase, readable by you only."
        )
    if not options.get("dbname"):
        raise _unusable(
            variable, "It names no database; libpq would take the user's name.", f"Write it as {_EXAMPLE}."
        )
    if "," in host + options.get("port", "") + options.get("hostaddr", ""):
        raise _unusable(
            variable,
            "It names several hosts, so two connections can reach two servers.",
            "Name the primary alone.",
        )
    if "@" in host:
        raise _unusable(
            variable, "The part after its first @ still holds an @.", "Write @ in a password as %40."
        )
    port = options.get("port", "5432") or "5432"
    if not port.isdigit() or not 0 < int(port) < 65536:
        raise _unusable(variable, "Its port is not a number from 1 to 65535.", _cure(""))
    options["port"] = port
    if any(char in options["dbname"] for char in "=/") or "://" in options["dbname"]:
        raise _unusable(
            variable, "Its database name holds = or /; libpq could take it for another string.", _cure("")
        )


def _unusable(variable: str, detail: str, hint: str = "") -> SettingsError:
    return SettingsError(f"{variable} is unusable", detail=detail, hint=hint or f"Write it as {_EXAMPLE}.")
