"""Triggers of partitions, switched when they are there.

What is on or off otherwise than its parent's is switched behind it in a dump; but where root and middle are off and the
leaves are on, pg_dump writes the leaves' before the trigger is made, and no server finds it. Switched off, the root takes
its partitions with it: so theirs come last.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Switches"]

_NAME = rb'(?:[A-Za-z_\x80-\xff][\w$\x80-\xff]*|"(?:[^"]|"")+")'
_SWITCH = re.compile(
    rb"ALTER (?:FOREIGN )?TABLE (?:ONLY )?(?P<table>(?:%(name)b\.)?%(name)b) (?:ENABLE|DISABLE)(?: ALWAYS| REPLICA)?"
    rb" TRIGGER (?P<trigger>(?!ALL\Z)%(name)b)" % {b"name": _NAME}
)
_MADE = (b"CREATE TRIGGER ", b"CREATE CONSTRAINT TRIGGER ")
_ABOUT_TRIGGERS = (*_MADE, b"COMMENT ON TRIGGER ", b"ALTER TRIGGER ")


class Switches:
    """Keeps them back: what does not switch the trigger that was just made waits for the first statement about something else."""

    def __init__(self) -> None:
        self._waiting: list[tuple[bytes, int]] = []
        self._made = b""

    def takes(self, text: bytes, place: int) -> bool:
        """Whether a statement waits here."""
        switch = _SWITCH.fullmatch(text)
        if switch is None:
            self._made = text if text.startswith(_MADE) else b""
            return False
        its_own = (
            b"TRIGGER %b " % switch["trigger"] in self._made and b" ON %b " % switch["table"] in self._made
        )
        if not its_own:
            self._waiting.append((text, place))
        return not its_own

    def due(self, text: bytes = b"") -> Iterator[tuple[bytes, int]]:
        """Yield what waits no longer when this statement comes; without one, all of it."""
        if not self._waiting or text.startswith(_ABOUT_TRIGGERS) or _SWITCH.fullmatch(text):
            return
        waiting, self._waiting = self._waiting, []
        yield from waiting
