"""What a file that nobody vouches for may load only if a person said so: what can break the server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops.postgres.permitted import Unsafe
from polyladder_ops.postgres.refusals import Accepted, LoadError, shown

if TYPE_CHECKING:
    from collections.abc import Collection

    from polyladder_ops.postgres.lexer import Handler

__all__ = ["OnlyAccepted"]


class OnlyAccepted:
    """Hands a dump on to a handler; what is unsafe only if `accept` names it, and then it is added to `met`.

    Raise LoadError at the first that is not named, before the handler sees it.
    """

    def __init__(self, handler: Handler, *, accept: Collection[str], met: list[Accepted]) -> None:
        self._handler = handler
        self._accept = frozenset(accept)
        self._met = met
        self._unsafe = Unsafe()
        self.comment = handler.comment
        self.copy_data = handler.copy_data
        self.copy_end = handler.copy_end

    def statement(self, text: bytes) -> None:
        """Pass it on if it is safe, or accepted."""
        known = len(self._unsafe.found)
        self._unsafe.statement(text)
        for item, form in list(self._unsafe.found.items())[known:]:
            if item not in self._accept:
                raise LoadError(
                    "the file makes something that can break the server, and nobody vouches for the file",
                    detail=f"It is {item}, {form}: {shown(text, 'utf-8')}.",
                    hint=f"Nothing live was changed. Read it in the file; if it is meant: `--accept={item}`.",
                    item=item,
                )
            self._met.append(
                Accepted(item, f"{form}, which can break the server, was done: {shown(text, 'utf-8')}")
            )
        self._handler.statement(text)

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Count it and pass it on."""
        self._unsafe.copy_begin(statement, table, columns)
        self._handler.copy_begin(statement, table, columns)
