"""Questions to the catalogs, in SQL that is written once for every major of PostgreSQL.

It is sent as it stands, after a few small substitutions:

- a line that ends in `-- 15+`, `-- -14`, `-- 15-16`, `-- superuser` or `-- others` is for those majors or roles only;
- `$users(schema)` is true for a schema of the user's, `$own(catalog, oid)` for what is no member of an extension;
- `$later(a, b)` is how many transactions later than `b` the transaction `a` began, round the end of their numbers;
- `$named(catalog, oid)` is an object's qualified name;
- `$sorted(array)`, `$operators(condition)` and `$functions(condition)` are lists in the order of their bytes.
"""

from __future__ import annotations

import re
from importlib import resources
from typing import TYPE_CHECKING, Any

from psycopg.adapt import Buffer, Loader
from psycopg.rows import tuple_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    import psycopg

__all__ = ["for_server", "load", "pin", "rows"]

# What bends how the server writes names and constants; and to compile such a query takes far longer than to run it (tried).
_PINS = """
SELECT pg_catalog.set_config(name, value, true) FROM (VALUES
    ('search_path', ''), ('quote_all_identifiers', 'off'), ('TimeZone', 'UTC'), ('DateStyle', 'ISO, MDY'),
    ('IntervalStyle', 'postgres'), ('bytea_output', 'hex'), ('extra_float_digits', '3'), ('lc_monetary', 'C'),
    ('jit', 'off')
) pins (name, value);
"""
_LIST = '(SELECT pg_catalog.array_agg(v ORDER BY v COLLATE "C") FROM {})'
_MACROS = {
    r"\$users\(([\w.]+)\)": r"(\1 !~ '^pg_' AND \1 <> 'information_schema')",
    r"\$own\((\w+), ([\w.]+)\)": r"$own('\1'::regclass, \2)",
    r"\$own\(([^,]+), ([\w.]+)\)": "(NOT EXISTS (SELECT FROM pg_catalog.pg_depend member"
    r" WHERE member.classid = \1 AND member.objid = \2 AND member.deptype = 'e'))",
    r"\$later\(([\w.]+), ([\w.]+)\)": (
        r"(((\1::text::int8 - \2::text::int8 + 2147483648) & 4294967295) - 2147483648)"
    ),
    r"\$sorted\(([\w.]+)\)": _LIST.format(r"pg_catalog.unnest(\1) v"),
    r"\$named\((\w+), ([\w.]+)\)": r"(pg_catalog.pg_identify_object('\1'::regclass, \2, 0)).identity",
    r"\$operators\(([^()]+)\)": _LIST.format(
        "(SELECT pg_catalog.concat(a.amopstrategy, ' ', a.amopopr::regoperator, ' for order by ' ||"
        " (pg_catalog.pg_identify_object('pg_opfamily'::regclass, nullif(a.amopsortfamily, 0), 0)).identity)"
        r" FROM pg_catalog.pg_amop a WHERE \1) x (v)"
    ),
    r"\$functions\(([^()]+)\)": _LIST.format(
        "(SELECT pg_catalog.format('%s (%s, %s) %s', a.amprocnum, a.amproclefttype::regtype,"
        r" a.amprocrighttype::regtype, a.amproc::regprocedure) FROM pg_catalog.pg_amproc a WHERE \1) x (v)"
    ),
}
_MARK = re.compile(
    r"-- (?:(?P<since>\d+)\+|(?P<low>\d*)-(?P<high>\d+)|(?P<role>superuser|others))(?: \(.*\))?$"
)


def for_server(text: str, *, major: int, superuser: bool) -> str:
    """Return SQL without the lines that are marked for other majors or for superusers."""
    return "\n".join(line for line in text.splitlines() if _is_for(line, major, superuser=superuser))


def _is_for(line: str, major: int, *, superuser: bool) -> bool:
    mark = _MARK.search(line)
    if mark is None:
        return True
    if mark["role"]:
        return superuser is (mark["role"] == "superuser")
    if mark["since"]:
        return major >= int(mark["since"])
    return int(mark["low"] or 0) <= major <= int(mark["high"])


def load(file: str) -> str:
    """Return the text of an SQL file of this package."""
    return resources.files(__package__).joinpath(file).read_text(encoding="ascii")


def pin(connection: psycopg.Connection[Any]) -> None:
    """Pin until the end of the transaction what bends the server's spelling, as `rows` does."""
    connection.execute(_PINS.encode())


def rows(connection: psycopg.Connection[Any], query: str) -> Iterator[tuple[Any, ...]]:
    """Yield the rows of all results of these statements, in one round trip (the simple protocol takes many).

    Works in the caller's transaction; until that ends the settings that bend the server's spelling (search_path,
    TimeZone …) are pinned. Text comes as str whatever the encoding of the connection.
    """
    superuser = connection.info.parameter_status("is_superuser") == "on"
    query = for_server(query, major=connection.info.server_version // 10000, superuser=superuser)
    for macro, expansion in _MACROS.items():
        query = re.sub(macro, expansion, query)
    with connection.cursor(row_factory=tuple_row) as cursor:
        for kind in ("text", "name"):
            cursor.adapters.register_loader(kind, _Text)
        cursor.execute((_PINS + _in_own_encoding(connection, query)).encode(), prepare=False)
        while cursor.nextset():
            if cursor.description:
                yield from cursor


def _in_own_encoding(connection: psycopg.Connection[Any], query: str) -> str:
    """A SQL_ASCII database holds any bytes, but hands them to a client that wants UTF-8 only if they are that."""
    before = connection.info.parameter_status("client_encoding")
    if connection.info.parameter_status("server_encoding") != "SQL_ASCII" or before == "SQL_ASCII":
        return query
    change = "SET LOCAL client_encoding = '{}'"
    return f"{change.format('SQL_ASCII')};{query};\n{change.format(before)}"


class _Text(Loader):
    """In a SQL_ASCII database text has no encoding that anybody knows; bytes that are not UTF-8 stay visible."""

    def load(self, data: Buffer) -> str:
        encoding = self.connection.info.encoding if self.connection else "utf-8"
        return bytes(data).decode("utf-8" if encoding == "ascii" else encoding, "backslashreplace")
