"""The objects of a restored database beside the source's: held exactly, but for how a server words an expression."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import expressions
from polyladder_ops.postgres import grants, inventory, public
from polyladder_ops.postgres.described import Inventory
from polyladder_ops.postgres.proof import differences, renderings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.described import CatalogEntry, Expressions
    from polyladder_ops.postgres.proof.differences import Difference
    from polyladder_ops.postgres.session import Connection

__all__ = ["Objects", "changed", "differ", "look"]


@dataclass(frozen=True)
class Objects:
    """The objects of a restored database beside the source's, and what the source's expressions come to there.

    `wanted` is None if the manifest does not hold enough of them: then a replay of the dump has to do.
    """

    wanted: Inventory | None
    found: Inventory
    rendered: Expressions


def look(
    connection: Connection, manifest: Manifest, keys: Sequence[Any], *, rendered: Expressions | None = None
) -> Objects:
    """Return what there is to compare; what is made for it is rolled back. Raise OpsError if no key fits.

    `rendered` is what the source's expressions come to here if the load has found it out; None: it is found out now.

    A privilege that the source's major did not have yet is no difference: a newer server gives it to every owner.
    """
    major = manifest.source.server_major
    found = inventory.look(connection, as_of=major) if manifest.knows_objects else inventory.look(connection)
    if manifest.knows_objects:
        entries = tuple(replace(entry, grants=grants.as_of(entry.grants, major)) for entry in found.entries)
        found = replace(found, entries=entries)
    texts = expressions.unpacked(manifest, keys)
    if texts is None:
        return Objects(None, found, {})
    if rendered is None:
        rendered = renderings.rendered(connection, texts, found.expressions)
    carried = partial(public.carried, client_major=manifest.source.client_major)
    found = replace(found, entries=carried(found.entries))
    return Objects(Inventory(carried(manifest.objects), texts), found, rendered)


_LATER = ("event trigger", "default privileges", "privileges", "user mapping")


def changed(
    manifest: Manifest, texts: Expressions, rendered: Expressions, found: Inventory
) -> list[Difference]:
    """Return what of the definitions is not the source's, in a copy whose objects still belong to the login that loaded it.

    Rows run code, and that login owns everything meanwhile: whatever is filled, analyzed or answered by others' functions
    afterwards would run what it left there, with their rights.
    """

    def bare(entries: Iterable[CatalogEntry]) -> tuple[CatalogEntry, ...]:
        carried = public.carried(entries, client_major=manifest.source.client_major)
        return tuple(replace(e, owner="", grants=()) for e in carried if e.kind not in _LATER)

    def alone(expressions: Expressions) -> Expressions:
        return {key: text for key, text in expressions.items() if key[0] not in _LATER}

    return differences.compare_objects(
        Inventory(bare(manifest.objects), alone(texts)),
        Inventory(bare(found.entries), alone(found.expressions)),
        rendered,
    )


def differ(
    manifest: Manifest, objects: Objects, replayed: Callable[[], Sequence[CatalogEntry]]
) -> list[Difference]:
    """Return how the objects differ; an old file's are those of the replay, which leaves large objects behind."""
    found = objects.found.entries
    if objects.wanted is not None:
        return differences.compare_objects(objects.wanted, objects.found, objects.rendered)
    if manifest.knows_objects:
        return differences.compare_by_replay(manifest.objects, found, replayed)
    there = [entry for entry in found if entry.kind != "large object"]
    return differences.compare_by_replay(replayed(), there, list)
