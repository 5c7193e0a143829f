"""By which way a database is reached, and what is told of the other one."""

from __future__ import annotations

import pytest

from polyladder_ops.route import Route, choose


@pytest.mark.parametrize(
    ("named", "has_url", "has_fly", "route", "said"),
    [
        (None, True, False, Route.DIRECT, ""),
        (None, False, True, Route.FLY, ""),
        (None, False, False, Route.DIRECT, ""),
        (None, True, True, Route.DIRECT, "DATABASE_URL is set, so it is used"),
        (Route.FLY, True, True, Route.FLY, "DATABASE_URL is not used"),
        (Route.FLY, False, False, Route.FLY, ""),
        (Route.DIRECT, True, True, Route.DIRECT, ""),
        (Route.DIRECT, False, True, Route.DIRECT, ""),
    ],
)
def test_the_way_follows_from_what_is_set(
    named: Route | None, has_url: bool, has_fly: bool, route: Route, said: str
) -> None:
    choice = choose(named, has_url=has_url, has_fly=has_fly)
    assert choice.route is route
    assert said in choice.said
    assert bool(said) == bool(choice.said)
    assert choice.why.startswith("By Fly" if route is Route.FLY else "By DATABASE_URL")
