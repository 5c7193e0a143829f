"""Databases on Fly that this way does not lead to, by name, each with the two ways round (contract 8.2, 8.3, 1.20)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import OpsError, Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine

__all__ = ["managed", "of_another_kind"]

_IDENTIFIER = re.compile(r"[A-Za-z0-9-]+")
_STOLON = re.compile(r"(?:^|/)flyio/postgres(?::|$)")
_ROUND = (
    "Two ways lead there, both with DATABASE_URL and POLYLADDER_ROUTE=direct. From here: `fly proxy 15432:5432 -a {app}` in another"
    " terminal, and 127.0.0.1:15432 in the URL. From a machine in the organisation's network: {app}.internal:5432."
)
_ROUND_MANAGED = (
    "Two ways lead there, both with DATABASE_URL and POLYLADDER_ROUTE=direct. From here: `fly mpg proxy {id} -p 16380` in another"
    " terminal, and 127.0.0.1:16380 in the URL. From a machine in the organisation's network: direct.{id}.flympg.net in the URL,"
    " not pgbouncer's address. A restore goes by --in-place there: no role makes databases."
)


def of_another_kind(found: tuple[Machine, ...], app: str) -> Refused:
    """Return the refusal of an app whose machines run no postgres-flex."""
    images = sorted({each.image or "unknown" for each in found})
    is_stolon = any(map(_STOLON.search, images))
    what = "a Fly Postgres of the old kind (Stolon)" if is_stolon else "no Fly Postgres"
    return Refused(
        f"{app} is {what}, and this way leads to flyio/postgres-flex only",
        detail=f"Its machines run {', '.join(images)}.",
        hint=_ROUND.format(app=app),
    )


def managed(flyctl: Flyctl, app: str, organisation: Callable[[], str]) -> Refused | None:
    """Return the refusal if what has the app's name is no app but a Managed Postgres; None if Fly does not say so.

    `organisation` tells the slug of the organisation. Two calls at most, made where a look at the app has failed.
    """
    try:
        clusters = flyctl.json(list, "mpg", "list", "-o", organisation(), "--json")
    except (
        OpsError
    ):  # an empty list is English; and who may not look can't be told more than Fly told already
        return None
    identifier = next((_identifier(each) for each in clusters if _is_named(each, app)), "")
    if not identifier:
        return None
    return Refused(
        f"{app} is a Managed Postgres, and this way leads to flyio/postgres-flex only",
        detail=f"It is the cluster {identifier}: no machine of it is yours, so no SSH leads there.",
        hint=_ROUND_MANAGED.format(id=identifier),
    )


def _is_named(cluster: Any, app: str) -> bool:
    return isinstance(cluster, Mapping) and cluster.get("name") == app and bool(_identifier(cluster))


def _identifier(cluster: Mapping[str, Any]) -> str:
    found = str(cluster.get("id", ""))
    return found if _IDENTIFIER.fullmatch(found) else ""
