r"""What a dump may say: what pg_dump (9.6 to 18) writes (`forms`); everything else is refused unsent.

A dump has no business with roles, other databases, the server's settings and files, or with code that runs at once: who
put such a statement in wanted something else than data back. This is no sandbox: a function, a default or a view in a
dump can still do whatever the role that loads it may.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from polyladder_ops.postgres import forms
from polyladder_ops.postgres.lexer import DumpError, setting_of

if TYPE_CHECKING:
    from polyladder_ops.postgres.lexer import Handler

__all__ = ["OnlyPermitted", "Unsafe"]

_REPLACED = b"CREATE OR REPLACE VIEW "  # --clean makes such views while it drops


class _Rules:
    """By which rule the literals of the next statement are read."""

    escapes = False

    def notice(self, text: bytes) -> None:
        setting = setting_of(text)
        if setting and setting[0] == b"standard_conforming_strings":
            self.escapes = setting[1] == b"off"


class OnlyPermitted:
    """Hands a dump on to a handler. Raise DumpError at what pg_dump never writes, before the handler sees it."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler
        self._rules = _Rules()
        self._begun = False
        self.comment = handler.comment
        self.copy_begin = handler.copy_begin
        self.copy_data = handler.copy_data
        self.copy_end = handler.copy_end

    def statement(self, text: bytes) -> None:
        """Pass it on; the literals of one that is refused are not shown."""
        form = forms.recognise(text, backslash_escapes=self._rules.escapes)
        # pg_dump drops before it makes. To drop a subscription that was made here would call its publisher.
        if form is None or (form.name == "drop" and self._begun):
            said = " ".join(re.split(rb"['$\"]", text, maxsplit=1)[0][:60].decode("ascii", "replace").split())
            raise DumpError(
                "the dump holds a statement that pg_dump does not write", detail=f"It says {said!r} …."
            )
        self._begun = self._begun or (form.name.startswith("create") and not text.startswith(_REPLACED))
        self._rules.notice(text)
        self._handler.statement(text)


class Unsafe:
    """The handler that finds what can break a server, in a file that nobody vouches for: `found`, by place and form.

    Places count statements from 1 as a `Loader` does, so that each can be accepted by its name.
    """

    def __init__(self) -> None:
        self.found: dict[str, forms.Form] = {}
        self._place = 0
        self._rules = _Rules()

    def statement(self, text: bytes) -> None:
        """Keep it if it is unsafe."""
        self._place += 1
        self._rules.notice(text)
        if text.startswith((b"CREATE", b"ALTER")):
            form = forms.recognise(text, backslash_escapes=self._rules.escapes)
            if form and form.unsafe:
                self.found[f"statement:{self._place}"] = form

    def comment(self, text: bytes, /) -> None:
        """Pass."""

    def copy_begin(self, _statement: bytes, _table: bytes, _columns: bytes, /) -> None:
        """Count it."""
        self._place += 1

    def copy_data(self, data: bytes, /) -> None:
        """Pass."""

    def copy_end(self) -> None:
        """Pass."""
