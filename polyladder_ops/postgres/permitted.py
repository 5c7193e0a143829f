r"""The statements that pg_dump (9.6 to 18) writes into a plain dump of one database; everything else is refused unsent.

A dump has no business with roles, other databases, the server's settings and files, or with code that runs at once: who
put such a statement in wanted something else than data back. What SELECT and INSERT hold are therefore literals. This is
no sandbox: a function, a default or a view in a dump can still do whatever the role that loads it may.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyladder_ops.postgres.lexer import DumpError, setting_of

if TYPE_CHECKING:
    from polyladder_ops.postgres.lexer import Handler

__all__ = ["OnlyPermitted", "is_permitted"]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_QUALIFIED = rb"%b(?:\.%b)*" % (_NAME, _NAME)
_KINDS = (
    rb"(?:AGGREGATE|FUNCTION|PROCEDURE|OPERATOR(?: CLASS| FAMILY)?|(?:FOREIGN )?TABLE|(?:MATERIALIZED )?VIEW|INDEX"
    rb"|SEQUENCE|STATISTICS|ACCESS METHOD|CAST|COLLATION|CONVERSION|DOMAIN|(?:EVENT )?TRIGGER|EXTENSION|POLICY"
    rb"|FOREIGN DATA WRAPPER|(?:PROCEDURAL )?LANGUAGE|PUBLICATION|RULE|SCHEMA|SERVER|SUBSCRIPTION|TRANSFORM|TYPE"
    rb"|TEXT SEARCH (?:CONFIGURATION|DICTIONARY|PARSER|TEMPLATE)|USER MAPPING)\s"
)
_PRIVILEGES = rb"[A-Z]+(?: [A-Z]+)*(?:\(%b(?:, ?%b)*\))?" % (_NAME, _NAME)
_GRANTED = rb"(?:TABLE|SEQUENCE|SCHEMA|FUNCTION|PROCEDURE|TYPE|DOMAIN|LANGUAGE|LARGE OBJECT|FOREIGN DATA WRAPPER|FOREIGN SERVER)\s"
_SETTINGS = (
    rb"(?:statement_timeout|lock_timeout|idle_in_transaction_session_timeout|transaction_timeout|client_encoding"
    rb"|standard_conforming_strings|escape_string_warning|check_function_bodies|xmloption|client_min_messages|row_security"
    rb"|search_path|default_tablespace|default_table_access_method|default_with_oids|default_toast_compression)"
)
# How a statement begins, where what follows takes effect on the thing that it names only.
_BEGINNINGS = re.compile(
    b"|".join(
        (
            rb"SET %b(?: = | TO )" % _SETTINGS,
            rb"(?:SET|RESET) SESSION AUTHORIZATION\b",
            rb"(?:BEGIN|COMMIT)\Z",
            rb"CREATE (?:OR REPLACE )?(?:UNLOGGED |UNIQUE |CONSTRAINT |DEFAULT |TRUSTED )?%b" % _KINDS,
            rb"(?:ALTER|DROP) %b" % _KINDS,
            rb"ALTER (?:LARGE OBJECT|DEFAULT PRIVILEGES)\s",
            rb"COMMENT ON (?:%b|(?:COLUMN|CONSTRAINT|LARGE OBJECT)\s)" % _KINDS,
            rb"SECURITY LABEL (?:FOR %b )?ON (?:%b|(?:COLUMN|LARGE OBJECT)\s)" % (_NAME, _KINDS),
            rb"(?:GRANT|REVOKE) %b(?:,\s?%b)* ON %b" % (_PRIVILEGES, _PRIVILEGES, _GRANTED),
            rb"REFRESH MATERIALIZED VIEW\s",
        )
    )
)


def _literals(text: bytes) -> tuple[re.Pattern[bytes], re.Pattern[bytes]]:
    """Return what a SELECT and an INSERT of pg_dump's are, if the text of a literal is this."""
    number = rb"[-+]?[\d.][\d.eE+-]*+"
    value = rb"(?:[BX]?'%b'|%b|NULL|DEFAULT|true|false)(?:::[\w.\" ]+(?:\[\])?)?" % (text, number)
    values = rb"\(%b(?:,\s*+%b)*+\)" % (value, value)
    select = (
        rb"SELECT (?:pg_catalog\.)?(?:set_config|setval|lo_create|lo_open|lowrite|lo_close|lo_unlink)%b"
        rb"|SELECT pg_catalog\.lo_unlink\(oid\) FROM pg_catalog\.pg_largeobject_metadata WHERE oid = '\d+'"
        rb"|SELECT (?:\* FROM )?pg_catalog\.pg_(?:restore|clear)_(?:relation|attribute|extended)_stats\(\s*+%b(?:,\s*+%b)*+\s*+\)"
    ) % (values, value, value)
    insert = (
        rb"INSERT INTO %(table)b(?: \(%(name)b(?:, ?%(name)b)*+\))?(?: OVERRIDING (?:SYSTEM|USER) VALUE)?"
        rb"(?: DEFAULT VALUES|\s+VALUES\s*+%(values)b(?:,\s*+%(values)b)*+)(?:\s+ON CONFLICT DO NOTHING)?"
    ) % {b"table": _QUALIFIED, b"name": _NAME, b"values": values}
    return re.compile(select), re.compile(insert)


# A backslash is a letter like others, or with standard_conforming_strings = off, where pg_dump doubles it, only a pair is.
_PLAIN = _literals(rb"(?:[^']|'')*+")
_ESCAPED = _literals(rb"(?:[^'\\]|''|\\\\)*+")


def is_permitted(statement: bytes, *, backslash_escapes: bool = False) -> bool:
    """Whether pg_dump writes such statements. `backslash_escapes` as in `standard_conforming_strings = off`."""
    if _BEGINNINGS.match(statement):
        return True
    select, insert = _ESCAPED if backslash_escapes else _PLAIN
    fitting = insert if statement.startswith(b"INSERT") else select
    return fitting.fullmatch(statement) is not None


class OnlyPermitted:
    """Hands a dump on to a handler. Raise DumpError at what pg_dump never writes, before the handler sees it."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._escapes = False
        self.comment = handler.comment
        self.copy_begin = handler.copy_begin
        self.copy_data = handler.copy_data
        self.copy_end = handler.copy_end

    def statement(self, text: bytes) -> None:
        """Pass it on; the literals of one that is refused are not shown."""
        if not is_permitted(text, backslash_escapes=self._escapes):
            said = " ".join(re.split(rb"['$\"]", text, maxsplit=1)[0][:60].decode("ascii", "replace").split())
            raise DumpError(
                "the dump holds a statement that pg_dump does not write", detail=f"It says {said!r} …."
            )
        setting = setting_of(text)
        if setting and setting[0] == b"standard_conforming_strings":
            self._escapes = setting[1] == b"off"
        self._handler.statement(text)
