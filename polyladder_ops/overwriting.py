"""Restoring into the live database itself, for a role that may not make a second one.

It saves no space: the server keeps the old rows until the COMMIT. There is no way back but a backup of what was there, so
one is taken first, when nobody can write any more. All is one transaction (`inplace.py`); everybody who wants a table waits
for it.
"""

from __future__ import annotations

import time
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import checks, inplace, restoring, setaside, verification
from polyladder_ops.errors import Interrupted, Mismatch, OpsError, Refused
from polyladder_ops.postgres import clearing_facts, leftovers, locks, meanwhile, poolers, session
from polyladder_ops.terminal import plain
from polyladder_ops.undoing import standing

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from polyladder_ops.backups import Options as BackupOptions
    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.load.loader import Accepted
    from polyladder_ops.postgres.meanwhile import Kept
    from polyladder_ops.replacement import Options
    from polyladder_ops.site import Site

__all__ = ["Overwritten", "estimate_s", "look", "overwrite"]


@dataclass(frozen=True)
class Overwritten:
    """What was done: the backup of what was there before, what was let through, how long everybody waited."""

    kept: Backup | None
    accepted: tuple[str, ...]
    seconds: float


def overwrite(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    options: Options,
    *,
    site: Site,
    before: BackupOptions | None,
    say: Callable[[str], None],
    confirm: Callable[[float], None],
) -> Overwritten:
    """Make the target hold what the backup holds, proved, in one transaction.

    `before` says how to back up what is there now, None not to. `confirm` gets the seconds for which the app will wait.
    Raise Refused if it can't be done so, Mismatch if what comes back is not what was dumped, or if a check fails after
    it was; OpsError if the server fails. But for a failed check the database is as it was then.
    """
    server = locks.maintenance(target)
    with locks.exclusive(server, target.database, doing="restore in place", say=say) as connection:
        if session.is_relayed(connection):
            say(poolers.SAID)
        for sentence in leftovers.settle(connection, server, target.database):
            say(sentence)
        lent = _expect_possible(target, backup.manifest, options.accept, site=site, before=before)
        confirm(estimate_s(target, backup.manifest, backs_up=before is not None))
        kept: list[Backup] = []

        def keep(options: BackupOptions) -> Kept:
            seen: list[Kept] = []
            looking = replace(
                options, exported=lambda held: seen.append(meanwhile.read_at(target, held.name))
            )
            kept.append(setaside.back_up(target, site, looking))
            say(f"kept what is there now as {kept[0].id} (site {kept[0].manifest.site})")
            locks.check(connection, target.database)
            return seen[-1]

        @cache
        def report() -> Callable[[int], None]:  # begun after what `keep` has to say
            return options.progress("restore in place") if options.progress else lambda _size: None

        def progress(size: int) -> None:
            report()(size)

        began = time.monotonic()
        with _telling_if_stopped(target) as committing:
            done = inplace.restore(
                target,
                backup,
                keys,
                accept=options.accept,
                progress=progress,
                keep=partial(keep, before) if before else None,
                committing=committing,
            )
        for not_applied in done.not_given:
            say(f"not given to {target.database}: {plain(str(not_applied))}")
        accepted = [f"{a.item}: {a.why}" for a in (*lent, *done.accepted)] + [
            f"{d.item}: {d.detail}" for d in done.differences
        ]
        with _committed(target, kept):
            restoring.analyze(target)
            accepted += [
                *restoring.limits(backup.manifest),
                *_ask(target, backup, options, kept[0] if kept else None, say),
            ]
    return Overwritten(kept[0] if kept else None, tuple(accepted), time.monotonic() - began)


def look(
    target: Target, manifest: Manifest, accept: Collection[str], *, site: Site, before: BackupOptions | None
) -> tuple[str, ...]:
    """Return in sentences what a restore in place will meet and pass. Raise Refused or Busy where it would be, touching nothing."""
    server = locks.maintenance(target)
    said: list[str] = []
    with locks.exclusive(
        server, target.database, doing="look at it", say=said.append, ends=False
    ) as connection:
        left = [
            f"a run that died left {one.name}: {one.detail}"
            for one in leftovers.find(connection, target.database)
        ]
        lent = _expect_possible(target, manifest, accept, site=site, before=before)
    with closing(session.connect(target)) as inside:
        held = [f"now {one}: it must let go" for one in clearing_facts.holders(inside)]
    return (*said, *left, *(f"accepted: {one.item}: {one.why}" for one in lent), *held)


def _expect_possible(
    target: Target, manifest: Manifest, accept: Collection[str], *, site: Site, before: BackupOptions | None
) -> tuple[Accepted, ...]:
    """Return whose rights are lent and accepted. Raise Refused with what is known to stop it: nothing is touched yet."""
    if reasons := inplace.obstacles(target, manifest):
        raise Refused(
            f"{target.database} can't be restored in place",
            detail="\n        ".join(f"{reason}." for reason in reasons),
            hint="Nothing was touched. Cure this, or restore beside it, with a role that has CREATEDB.",
        )
    if before:
        setaside.refuse_unverifiable(site, before)
    return inplace.refuse_to_lend(inplace.lends(target, manifest), accept)


@contextmanager
def _telling_if_stopped(target: Target) -> Iterator[Callable[[], None]]:
    """Within the block a transaction is tried; a Ctrl-C says what it has come to. Yields what to call before its COMMIT."""
    stage: list[str] = []
    try:
        yield lambda: stage.append("COMMIT")
    except inplace.Differs as error:
        raise Mismatch(error.message, detail=error.detail, hint=error.hint) from error
    except KeyboardInterrupt as error:
        said = f"interrupted by {str(error) or 'Ctrl-C'}"
        if not stage:
            detail = f"Nothing was committed: {target.database} is as it was."
            raise Interrupted(said, detail=detail) from error
        detail = f"{target.database} holds all of the old state or all of the new."
        raise Interrupted(
            f"{said} at the COMMIT", detail=detail, hint="Look at it before you try again."
        ) from error


@contextmanager
def _committed(target: Target, kept: Sequence[Backup]) -> Iterator[None]:
    """Within the block whatever goes wrong, a Ctrl-C too, says that the restore is committed."""
    done = f"The restore is committed: {target.database} holds the backup now."
    if kept:
        done += f" What it held before is the backup {kept[0].id}."
    hint = f"The planner may lack statistics: run `ANALYZE` in {target.database}, and look at the app."
    try:
        with standing(done.rstrip(".")):
            yield
    except Mismatch:
        raise  # a check, which says so
    except OpsError as error:
        error.detail = f"{error.detail} {done}".strip()
        error.hint = f"{error.hint} {hint}".strip()
        raise
    except KeyboardInterrupt as error:
        said = f"interrupted by {str(error) or 'Ctrl-C'} after the restore"
        raise Interrupted(said, detail=done, hint=hint) from error


def estimate_s(target: Target, manifest: Manifest, *, backs_up: bool) -> float:
    """Return for how many seconds, roughly, nobody can write, the backup of what is there now included."""
    first_s = session.database_size(target) / inplace.BYTES_PER_S if backs_up else 0.0
    return first_s + inplace.estimate_s(manifest)


def _ask(
    target: Target, backup: Backup, options: Options, kept: Backup | None, say: Callable[[str], None]
) -> list[str]:
    """Return the failed checks that are accepted. Raise Mismatch if others failed."""
    asked = checks.run(target, options.checks)
    failed = [a for a in asked if not a.ok]
    passed = [a.check.name for a in asked if a.ok]
    wrong = {f"check:{a.check.name}": a.said for a in failed}
    if unkept := verification.keep_checks(backup, [a.check.name for a in failed], passed):
        say(f"WARNING: {unkept}")
    if others := [f"{item}: {said}" for item, said in wrong.items() if item not in options.accept]:
        raise Mismatch(
            f"{target.database} was restored, and {len(others)} of your checks fail on it",
            detail="\n        ".join(others),
            hint="Look at POLYLADDER_CHECKS"
            + (f"; what was there before is the backup {kept.id}." if kept else " and at the database."),
        )
    return [f"{item}: {said}" for item, said in wrong.items()]
