"""The machine behind a site's database, for tasks that may give it more: whether that is wanted is asked here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops import output
from polyladder_ops.errors import UsageError
from polyladder_ops.tasks.boundary import confirm

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.restore.plan import Host
    from polyladder_ops.site import Site

__all__ = ["host_of"]


def host_of(place: Site, *, extend: bool, force: bool, end: Callable[[], None]) -> Host | None:
    """Return the machine of the site's database, None where it is not reached by Fly; `end` ends a bar before a question.

    Its volume is enlarged where `extend` says so, or a person at a terminal; `force` alone is no yes to that.
    """

    def agree(question: str) -> bool:
        if extend:
            return True
        if force or not output.can_ask():
            return False
        end()
        confirm(question, place.settings.db_app, force=False)
        return True

    host = place.host(agree)
    if extend and host is None:
        raise UsageError(
            "--extend-volume is for a database on Fly",
            detail="This site goes by DATABASE_URL, and what its server runs on is not known.",
            hint="Leave it out, or set POLYLADDER_ROUTE=fly.",
        )
    return host
