"""What a person sees: texts for sizes, times and tables, and a bar on stderr where somebody watches.

Results go to stdout and are printed by the tasks; this module returns text. The bar appears only if stderr is a terminal
that can draw one and no CI reads along; everywhere else there is one line at the end. Colour and bold are off under
NO_COLOR (rich alone would keep the bold), and a name out of a database can't steer the terminal.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
import time
import unicodedata
from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from rich.console import Console
    from rich.progress import Progress as RichProgress

__all__ = [
    "Progress",
    "age",
    "can_draw",
    "console",
    "draws",
    "duration",
    "many",
    "pace",
    "plain",
    "quoted",
    "size",
    "table",
]

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_NUMBER = re.compile(r"[+-]?\d[\d.,]*(?: ?(?:%|ms|s|B|[KMGTP]iB)(?:/s)?)?")


def size(count: int) -> str:
    """Return a count of bytes for a person, such as ``1.5 KiB``; powers of 1024."""
    amount, unit = float(count), 0
    while abs(amount) >= (1023.95 if unit else 1024) and unit < len(_UNITS) - 1:
        amount, unit = amount / 1024, unit + 1
    return f"{amount:.1f} {_UNITS[unit]}" if unit else f"{count} B"


def duration(seconds: float) -> str:
    """Return a length of time for a person: ``0.42 s``, ``12.3 s``, ``1 min 15 s``, ``2 h 5 min``, ``3 d 4 h``."""
    if seconds < 0.995:
        return f"{max(seconds, 0):.2f} s"
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes = round(seconds / 60)
    if round(seconds) < 3600:
        return _two_units(round(seconds), 60, "min", "s")
    return (
        _two_units(minutes, 60, "h", "min")
        if minutes < 24 * 60
        else _two_units(round(minutes / 60), 24, "d", "h")
    )


def many(count: int, thing: str) -> str:
    """Return a count with its thing: ``1 row``, ``4,000 rows``."""
    return f"{count:,} {thing}{'' if count == 1 else 's'}"


def _two_units(count: int, ratio: int, large: str, small: str) -> str:
    whole, rest = divmod(count, ratio)
    return f"{whole} {large} {rest} {small}" if rest else f"{whole} {large}"


def age(then: datetime, now: datetime) -> str:
    """Return how long ago `then` was, in its largest unit: ``3 h ago``; a clock that is behind gives ``in 2 min``."""
    seconds = (now - then).total_seconds()
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= length:
            text = f"{int(abs(seconds) // length)} {unit}"
            return f"{text} ago" if seconds > 0 else f"in {text}"
    return "just now"


def pace(done: int, total: int | None, seconds: float) -> str:
    """Return how far a stream of bytes is: amount, the estimated total, the average rate, the time that is left."""
    rate = done / seconds if seconds > 0 else 0.0
    if not rate:
        return size(done)
    if total is None or done >= total:  # the estimate was too low, so nothing is known about the end
        return f"{size(done)}, {size(round(rate))}/s"
    left = round((total - done) / rate)
    shown = duration(left) if left >= 60 else f"{left} s"
    so_far = f"{size(done)} of about {size(total)}, {size(round(rate))}/s"
    return (
        f"{so_far}, {shown} left" if left else so_far
    )  # after a dump's rows come its indexes, and they take their time


def plain(text: str) -> str:
    """Return the text with line breaks, escapes and other invisible characters written out."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


def quoted(text: str) -> str:
    """Return the text as a shell takes it for one word; what can't be printed is written out as bash and zsh read it."""
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, text))}'"


def _escaped(char: str) -> str:
    if char in "\\'":
        return f"\\{char}"
    if char.isprintable():
        return char
    return f"\\u{ord(char):04x}" if ord(char) < 1 << 16 else f"\\U{ord(char):08x}"


def table(rows: Sequence[Sequence[object]], headers: Sequence[str]) -> str:
    """Return the rows as aligned text without a line break at its end; numbers to the right.

    None is an empty cell, booleans are words. A long cell is never cut: a pipe may read it.
    """
    body = [[_cell(value) for value in row] for row in rows]
    to_right = [
        any(column) and all(not cell or _NUMBER.fullmatch(cell) for cell in column)
        for column in zip(*body, strict=True)
    ] or [False] * len(headers)
    lines = [[plain(header) for header in headers], *body]
    widths = [max(map(_width, column)) for column in zip(*lines, strict=True)]
    return "\n".join(_line(cells, widths, to_right) for cells in lines)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None else plain(str(value))


def _line(cells: Sequence[str], widths: Sequence[int], to_right: Sequence[bool]) -> str:
    padded = [
        " " * (width - _width(cell)) + cell if right else cell + " " * (width - _width(cell))
        for cell, width, right in zip(cells, widths, to_right, strict=True)
    ]
    return "  ".join(padded).rstrip()


def _width(text: str) -> int:
    """Return the columns that a terminal gives the text: two for East Asian ones, none for combining marks."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.combining(char) else 2 if unicodedata.east_asian_width(char) in "WF" else 1
        for char in text
    )


class Stream(Protocol):
    """What can be asked whether it is a terminal."""

    def isatty(self) -> bool:
        """Whether it is one."""


def can_draw(stream: Stream, environ: Mapping[str, str]) -> bool:
    """Whether a bar makes sense there: a terminal that can move its cursor, watched by a person."""
    return stream.isatty() and environ.get("TERM") != "dumb" and not environ.get("CI")


def draws() -> bool:
    """Whether stderr is such a terminal."""
    return sys.stderr is not None and can_draw(sys.stderr, os.environ)


def console() -> Console:
    """Return rich's console on stderr; without any colour, bold or italic if NO_COLOR says so."""
    from rich.console import Console

    if os.environ.get("NO_COLOR"):
        return Console(stderr=True, highlight=False, color_system=None)
    return Console(stderr=True, highlight=False)


class Progress:
    """Counts the bytes of a stream, and draws a bar on stderr if somebody watches; `total` is an estimate.

    A task makes it, hands `advance` down, and prints `summary` at the end.
    """

    def __init__(self, title: str, *, total: int | None = None) -> None:
        self.title = plain(title)
        self.total = total or None
        self.done = 0
        self._begun = time.monotonic()
        self._seconds: float | None = None
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._begun = time.monotonic()
        if draws():
            self._bar = _bar()
            self._bar.add_task(self.title, total=self.total, pace="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._seconds = time.monotonic() - self._begun
        if self._bar is not None:
            self._bar.stop()

    def advance(self, count: int) -> None:
        """Count so many bytes more."""
        self.done += count
        if self._bar is not None:
            total = None if self.total is None else max(self.total, self.done)
            text = pace(self.done, self.total, time.monotonic() - self._begun)
            self._bar.update(self._bar.task_ids[0], completed=self.done, total=total, pace=text)

    def summary(self) -> str:
        """Return one line: what, how much, how long, how fast; what had no bytes only took its time."""
        seconds = time.monotonic() - self._begun if self._seconds is None else self._seconds
        if not self.done:
            return f"{self.title}: {duration(seconds)}"
        rate = f", {size(round(self.done / seconds))}/s" if seconds > 0 else ""
        return f"{self.title}: {size(self.done)} in {duration(seconds)}{rate}"


def _bar() -> RichProgress:
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[pace]}", markup=False),
    )
    # Not redirected: what a task prints on stdout must not come out on stderr while a bar stands there.
    return RichProgress(
        *columns, console=console(), transient=True, redirect_stdout=False, redirect_stderr=False
    )
