r"""Names and texts as SQL that a person can be shown and can run: what would steer the terminal stands there as a code.

PostgreSQL reads ``U&"\001B"`` as a name and ``E'\u001B'`` as a text, whatever standard_conforming_strings says
(https://www.postgresql.org/docs/current/sql-syntax-lexical.html, 4.1.1 and 4.1.2.2).
"""

from __future__ import annotations

from urllib.parse import quote

from psycopg import sql

__all__ = ["connect", "identifier", "literal"]


def identifier(name: str) -> str:
    """Return the name as SQL in printable characters only."""
    if name.isprintable():
        return sql.Identifier(name).as_string(None)
    quoted = name.replace("\\", "\\\\").replace('"', '""')
    return 'U&"' + _coded(quoted, "\\{:04X}", "\\+{:06X}") + '"'


def literal(text: str) -> str:
    """Return the text as SQL in printable characters only; an empty one is NULL."""
    if text.isprintable():
        return sql.Literal(text or None).as_string(None)
    quoted = text.replace("\\", "\\\\").replace("'", "''")
    return "E'" + _coded(quoted, "\\u{:04X}", "\\U{:08X}") + "'"


def connect(database: str) -> str:
    r"""Return the line with which psql goes to another database of its server, in printable characters only.

    psql reads no ``U&"…"`` there, and takes a name with ``=`` or of an address's beginning for a connection string; in an
    address every character can stand as a code (https://www.postgresql.org/docs/current/app-psql.html, ``\connect``).
    """
    if database.isprintable() and not set("=:") & set(database):
        return f"\\connect {sql.Identifier(database).as_string(None)}"
    return f"\\connect -reuse-previous=on postgresql:///{quote(database, safe='')}"


def _coded(text: str, short: str, long: str) -> str:
    return "".join(
        char if char.isprintable() else (short if ord(char) <= 0xFFFF else long).format(ord(char))
        for char in text
    )
