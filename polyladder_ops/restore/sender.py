"""Who sends a dump into a new database: a login made for it, or where none can be made, our own role."""

from __future__ import annotations

from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from polyladder_ops.postgres import grants, session
from polyladder_ops.postgres.load import login
from polyladder_ops.postgres.load.handover import Handover
from polyladder_ops.postgres.refusals import LoadError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

__all__ = ["RIGHTS", "Sender", "opened"]

RIGHTS = "rights"
"""What `accept` calls it that a file is loaded with the rights of our own role."""


@dataclass
class Sender:
    """The first session that sends a dump, how others are opened, and what its owner does for it; None: it is the owner's."""

    first: Connection
    connect: Callable[[], Connection]
    owner: Handover | None
    by_ourselves: str = ""

    def shut_out(self) -> None:
        """Let the login in no more than it is."""
        if self.owner:
            self.owner.shut_out()

    def finish(self) -> None:
        """End a load of what nobody can judge: what runs code runs as the login; then everything goes to whom it belongs."""
        if self.owner:
            self.owner.annotate()
            self.owner.refresh(self.first)
            self.first.close()
            self.owner.give()
            self.owner.fill()


@contextmanager
def opened(
    owner: Connection,
    target: Target,
    settings: Mapping[str, str],
    manifest: Manifest,
    *,
    accept: Collection[str] = (),
    tick: Callable[[], None] | None = None,
) -> Iterator[Sender]:
    """Within the block who sends a dump into this database: a login made for it, or else our own session in it (`owner`)."""
    if manifest.changes_roles:
        why = "it changes roles by itself, or is one transaction"
        if RIGHTS not in accept:
            raise LoadError(
                "the file can't be loaded by a login that has nothing to lend",
                detail=f"As {why}, code that its rows run would have all rights of the role that restores.",
                hint=f"Nothing live was changed. If you trust whoever wrote to that database: `--accept={RIGHTS}`.",
                item=RIGHTS,
            )
        yield Sender(owner, partial(session.connect, target, settings=settings), None, why)
        return
    with ExitStack() as stack:
        try:
            made = stack.enter_context(login.made(owner, target))
            connect = partial(session.connect, made.target, settings=settings)
            first = stack.enter_context(closing(login.opened(owner, made, connect)))
        except login.NoLogin as error:
            yield Sender(owner, partial(session.connect, target, settings=settings), None, str(error))
        else:
            does = Handover(owner, made, open_to_others=_open_to_others(manifest), accept=accept, tick=tick)
            yield Sender(first, connect, does)


def _open_to_others(manifest: Manifest) -> frozenset[str] | None:
    """Return the functions that others than their owners might call in the source, None if nobody knows."""
    if not manifest.knows_objects:
        return None
    kinds = ("function", "procedure", "aggregate")
    given = [(e, grants.parse(g)) for e in manifest.objects if e.kind in kinds for g in e.grants]
    return frozenset(entry.name for entry, grant in given if grant.grantee != entry.owner)
