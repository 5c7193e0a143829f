r"""The statements that pg_dump (9.6 to 18) writes into a plain dump of one database; everything else is refused unsent.

A dump has no business with roles, other databases, the server's settings and files, or with code that runs at once: who
put such a statement in wanted something else than data back. What SELECT and INSERT hold are therefore literals. This is
no sandbox: a function, a default or a view in a dump can still do whatever the role that loads it may.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyladder_ops.postgres import forms
from polyladder_ops.postgres.lexer import DumpError, setting_of

if TYPE_CHECKING:
    from polyladder_ops.postgres.lexer import Handler

__all__ = ["OnlyPermitted", "is_permitted"]


def is_permitted(statement: bytes, *, backslash_escapes: bool = False) -> bool:
    """Whether pg_dump writes such statements. `backslash_escapes` as in `standard_conforming_strings = off`."""
    return forms.recognise(statement, backslash_escapes=backslash_escapes) is not None


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
