"""What one command keeps open: opened once, closed with it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import runs

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_thing_is_opened_once_and_closed_with_the_outermost_block() -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def thing() -> Iterator[str]:
        told.append("opened")
        yield "it"
        told.append("closed")

    with runs.scope():
        assert runs.kept("one", thing) == "it"
        with runs.scope():
            assert runs.kept("one", thing) == "it"
        assert told == ["opened"]
    assert told == ["opened", "closed"]
    with runs.scope():
        runs.kept("one", thing)
    assert told == ["opened", "closed"] * 2


def test_a_block_that_fails_closes_too_and_a_thing_that_does_not_open_is_tried_again() -> None:
    told: list[str] = []

    @contextlib.contextmanager
    def thing() -> Iterator[None]:
        try:
            yield
        finally:
            told.append("closed")

    def broken() -> contextlib.AbstractContextManager[None]:
        raise OSError("not now")

    def command() -> None:
        with runs.scope():
            with pytest.raises(OSError, match="not now"):
                runs.kept("one", broken)
            runs.kept("one", thing)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        command()
    assert told == ["closed"]
