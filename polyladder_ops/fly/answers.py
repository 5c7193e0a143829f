"""Each call that only looks, made once: whether its answer is of the shape that the rest of this room relies on.

The stand-in was written after flyctl's source and documentation; this is how a person finds out whether the real one agrees.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import machines, releases
from polyladder_ops.fly.failures import FlyError

if TYPE_CHECKING:
    from polyladder_ops.fly.flyctl import Flyctl

__all__ = ["CALLS", "Answer", "ask_each"]


@dataclass(frozen=True)
class Answer:
    """One call: whether its answer is as expected, and if not, why not and what helps."""

    call: str
    ok: bool
    detail: str = ""
    hint: str = ""


@dataclass(frozen=True)
class _Call:
    words: tuple[str, ...]
    of_database: bool
    kind: type[Any]
    is_expected: Callable[[Any], bool]


def _rows(*keys: str) -> Callable[[Any], bool]:
    return lambda found: all(isinstance(row, Mapping) and all(key in row for key in keys) for row in found)


def _is_read(found: Any) -> bool:
    return machines.read(found) is not None


CALLS = (
    _Call(("status", "--json"), False, dict, lambda found: isinstance(found.get("Machines"), list) and "Hostname" in found),
    _Call(("machine", "list", "--json"), False, list, _is_read),
    _Call(("machine", "list", "--json"), True, list, _is_read),
    _Call(("scale", "show", "--json"), False, list, _rows("Process", "Count", "Regions")),
    _Call(releases.CALL, False, list, _rows("Version", "Status", "ImageRef")),
    _Call(("secrets", "list", "--json"), False, list, _rows("name", "digest")),
    _Call(("checks", "list", "--json"), False, dict, lambda found: all(isinstance(rows, list) for rows in found.values())),
    _Call(("config", "show"), False, dict, lambda found: "app" in found),
    _Call(("volumes", "list", "--json"), True, list, _rows("id", "name", "size_gb")),
)  # fmt: skip


def ask_each(flyctl: Flyctl, app: str, db_app: str) -> tuple[Answer, ...]:
    """Return what each call came to, in their order; the ones after a refused login are not made, they would say the same."""
    answers = [_version(flyctl)]
    for call in CALLS if answers[0].ok else ():
        answer, over = _ask(flyctl, call, db_app if call.of_database else app)
        answers.append(answer)
        if over:
            break
    return tuple(answers)


def _version(flyctl: Flyctl) -> Answer:
    try:
        return Answer("version", True, ".".join(map(str, flyctl.version())))
    except OpsError as error:
        return Answer("version", False, f"{error.message}. {error.detail}".strip(), error.hint)


def _ask(flyctl: Flyctl, call: _Call, app: str) -> tuple[Answer, bool]:
    """Return the answer, and whether no other call can do better."""
    name = f"{' '.join(word for word in call.words if not word.startswith('-'))} of {app}"
    try:
        found = flyctl.json(call.kind, *call.words, app=app)
        if call.is_expected(found):
            return Answer(name, True), False
        return Answer(
            name, False, "It is JSON, but not as expected.", "Run `fly version upgrade`, and report it."
        ), False
    except FlyError as error:
        over = error.name in ("no-token", "broken-token", "token-refused", "no-api", "silent")
        return Answer(name, False, f"{error.message}. {error.detail}".strip(), error.hint), over
    except OpsError as error:
        return Answer(name, False, f"{error.message}. {error.detail}".strip(), error.hint), False
