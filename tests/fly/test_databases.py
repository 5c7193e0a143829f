"""Which of a server's databases is the app's."""

from __future__ import annotations

import pytest

from polyladder_ops.errors import UsageError
from polyladder_ops.fly.databases import choose


@pytest.mark.parametrize(
    ("named", "app", "found", "chosen"),
    [
        ("other", "polyladder", ("polyladder",), "other"),
        (None, "polyladder", ("audit", "polyladder"), "polyladder"),
        (None, "poly-ladder", ("audit", "poly_ladder"), "poly_ladder"),
        (None, "poly-ladder", ("poly-ladder",), "poly-ladder"),
        (None, "poly-ladder", (), "poly_ladder"),
    ],
)
def test_the_named_one_or_the_one_of_the_apps_name_is_chosen(
    named: str | None, app: str, found: tuple[str, ...], chosen: str
) -> None:
    assert choose(named, app, found) == chosen


@pytest.mark.parametrize("found", [("audit",), ("audit", "polyladder_old")])
def test_another_one_is_never_guessed(found: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match="can't be told") as caught:
        choose(None, "polyladder", found)
    assert ", ".join(found) in caught.value.detail
    assert "POLYLADDER_DATABASE=" in caught.value.hint
