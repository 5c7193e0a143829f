"""Waiting for a state, never for a time: whoever asserts after a pause asserts how busy the machine is."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def until(holds: Callable[[], object], what: str, *, seconds: float = 60) -> None:
    """Return when it holds. Raise AssertionError after a deadline that no busy machine needs."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
