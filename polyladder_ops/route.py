"""By which way a site's database is reached: DATABASE_URL, or Fly's SSH with nothing but a token; decided from settings alone."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Choice", "Route", "choose"]


class Route(StrEnum):
    """A way to the database."""

    DIRECT = "direct"
    FLY = "fly"


@dataclass(frozen=True)
class Choice:
    """The way, why it is that one, and what to tell of the one that was not taken (empty if there is no other)."""

    route: Route
    why: str
    said: str = ""


def choose(named: Route | None, *, has_url: bool, has_fly: bool) -> Choice:
    """Return the way: the one that is named; else DATABASE_URL if there is one, else Fly where a token or a login leads there."""
    if named:
        why = f"{_NAMES[named]}: POLYLADDER_ROUTE says so."
        is_unused = named is Route.FLY and has_url
        return Choice(named, why, "POLYLADDER_ROUTE is fly, so DATABASE_URL is not used" if is_unused else "")
    if has_fly and not has_url:
        return Choice(Route.FLY, f"{_NAMES[Route.FLY]}: no DATABASE_URL, and a token or a login.")
    said = "DATABASE_URL is set, so it is used; POLYLADDER_ROUTE=fly goes by Fly" if has_fly else ""
    lacks = "" if has_url else ", which is not set; nor does a token or a login lead to Fly"
    return Choice(Route.DIRECT, f"{_NAMES[Route.DIRECT]}{lacks}.", said)


_NAMES = {Route.DIRECT: "By DATABASE_URL", Route.FLY: "By Fly"}
