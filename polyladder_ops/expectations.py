"""What answer a check expects, spelled so that people read it, and whether a reply of the server is that answer.

``12``, ``> 0`` (also ``>=``, ``<``, ``<=``), ``t`` or ``f``, ``null``, ``'text'``, ``none`` (no rows), ``at most 36 h ago``
(also min and d), or rows as JSON: ``[["de", 3], ["fr", 4]]``.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from polyladder_ops.postgres.questions import Reply

__all__ = ["Fits", "parse", "spelled"]

Fits = Callable[["Reply"], bool]
_NUMBER = r"-?\d+(?:\.\d+)?"
_COMPARED = re.compile(rf"(>=|<=|>|<)\s*({_NUMBER})")
_AGE = re.compile(r"at most (\d{1,6}) (min|h|d) ago")
_UNITS = {"min": timedelta(minutes=1), "h": timedelta(hours=1), "d": timedelta(days=1)}
_WORDS = {
    "none": (),
    "null": ((None,),),
    "t": ((True,),),
    "f": ((False,),),
    "true": ((True,),),
    "false": ((False,),),
}
_COMPARE: dict[str, Callable[[Decimal, Decimal], bool]] = {
    ">": Decimal.__gt__,
    ">=": Decimal.__ge__,
    "<": Decimal.__lt__,
    "<=": Decimal.__le__,
}
_CLOCKS_DIFFER = timedelta(minutes=5)


def parse(text: str) -> Fits | None:
    """Return whether a reply is the one that is expected, as a function; None if the text says nothing we know."""
    if compared := _COMPARED.fullmatch(text):
        operator, bound = _COMPARE[compared[1]], Decimal(compared[2])
        return lambda reply: (number := _number(_only(reply))) is not None and operator(number, bound)
    if age := _AGE.fullmatch(text):
        longest = int(age[1]) * _UNITS[age[2]]
        return lambda reply: (
            (at := _instant(_only(reply))) is not None and (-_CLOCKS_DIFFER <= reply.at - at <= longest)
        )
    rows = _rows(text)
    return None if rows is None else lambda reply: _equal(rows, reply.rows)


def _rows(text: str) -> Sequence[Sequence[Any]] | None:
    if text in _WORDS:
        return _WORDS[text]
    if re.fullmatch(_NUMBER, text):
        return ((Decimal(text),),)
    if re.fullmatch(r"'(?:[^']|'')*'", text):
        return ((text[1:-1].replace("''", "'"),),)
    try:
        found = json.loads(text, parse_float=Decimal, parse_int=Decimal, parse_constant=_no_json)
    except ValueError:
        return None
    is_table = isinstance(found, list) and found and all(isinstance(row, list) and row for row in found)
    if not is_table or any(isinstance(value, list | dict) for row in found for value in row):
        return None
    return [list(row) for row in found]


def _no_json(word: str) -> None:
    raise ValueError(word)


def _only(reply: Reply) -> object:
    """Return the one value of a reply; None if it has another shape."""
    return reply.rows[0][0] if [len(row) for row in reply.rows] == [1] else None


def _number(value: object) -> Decimal | None:
    if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
        return None
    number = Decimal(str(value))
    return None if number.is_nan() else number


def _instant(value: object) -> datetime | None:
    """Return a time as an instant; one without a zone, and a day's beginning, are meant in UTC."""
    if isinstance(value, datetime):
        return value if value.tzinfo else value.replace(tzinfo=UTC)
    return datetime(value.year, value.month, value.day, tzinfo=UTC) if isinstance(value, date) else None


def _equal(wanted: Sequence[Sequence[Any]], found: Sequence[Sequence[Any]]) -> bool:
    return len(wanted) == len(found) and all(
        len(row) == len(other) and all(map(_same, row, other))
        for row, other in zip(wanted, found, strict=True)
    )


def _same(wanted: object, found: object) -> bool:
    """Whether a value is the one that is expected; 1 is not true, and '1' is not 1."""
    if isinstance(wanted, Decimal):
        return _number(found) == wanted
    return type(wanted) is type(found) and wanted == found


def spelled(value: object) -> str:
    """Return a value as the file would spell it, if it can."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "t", False: "f"}[value]
    return f"'{value}'" if isinstance(value, str) else str(value)
