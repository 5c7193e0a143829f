"""What one command keeps open until its end: opened when it is first needed, closed with the command, however that ends."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator
    from contextlib import AbstractContextManager

__all__ = ["kept", "scope"]

T = TypeVar("T")


class _Run:
    def __init__(self) -> None:
        self.stack = contextlib.ExitStack()
        self.things: dict[Hashable, Any] = {}


_runs: list[_Run] = []


@contextlib.contextmanager
def scope() -> Iterator[None]:
    """Within the block things can be kept; a block within a block is part of it."""
    if _runs:
        yield
        return
    run = _Run()
    _runs.append(run)
    try:
        with run.stack:
            yield
    finally:
        _runs.remove(run)


def kept(key: Hashable, opened: Callable[[], AbstractContextManager[T]]) -> T:
    """Return what was opened under this key in this run, and open it if nothing was; it is closed with the run."""
    if not _runs:
        raise AssertionError("nothing is kept outside of a run")
    run = _runs[-1]
    if key not in run.things:
        run.things[key] = run.stack.enter_context(opened())
    thing: T = run.things[key]
    return thing
