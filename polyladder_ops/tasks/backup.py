"""Tasks that take and show backups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError, UsageError
from polyladder_ops.tasks.boundary import cleaning_in_sight, is_dry, open_settings, task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime

    from invoke.context import Context

    from polyladder_ops.besides import Besides
    from polyladder_ops.catalog import Backup, Catalog, Entry
    from polyladder_ops.history import Change
    from polyladder_ops.pruning import Outcome
    from polyladder_ops.retention import Rule

__all__ = ["collection"]

SITE = "Site to act for (default: POLYLADDER_SITE, production)."
JOBS = "How many connections load and compare side by side (default: as many as the server's cores and memory allow)."
JSON = "Print JSON on stdout, for programs."
_SHOWN = 20  # of what is lost


@task(
    name="backup",
    help={
        "site": SITE,
        "new-source": "Accept that this is another database than the site's last backup came from.",
        "with-passwords": "Keep the roles' password verifiers, inside the encrypted file only.",
        "json": JSON,
    },
)
def take(
    c: Context, site: str = "", new_source: bool = False, with_passwords: bool = False, json: bool = False
) -> None:
    """Dump the database into a checked backup.

    Locks every table against changes of its shape, dumps one instant of it, checks while the bytes pass that the dump
    is whole, and writes a manifest of what it must restore to. Encrypts to BACKUP_AGE_RECIPIENTS if they are set.
    Then deletes the backups whose time is over, as `invoke backup.prune --apply` does, and exits 3 if one that others would
    have gone for is damaged.

    Examples:
        invoke backup
        invoke backup --site=staging --json
        invoke -T 60 backup         (give up if nothing comes for a minute)
    """
    from polyladder_ops import backups, catalog, report, terminal
    from polyladder_ops.postgres import dump, poolers, session

    place = open_site(c, site)
    target = place.target()
    previous = catalog.scan(place.folder, place.name)
    _say_that_it_is_new(place.name, previous)
    options = backups.Options(
        recipients=place.settings.backup_age_recipients,
        new_source=new_source,
        with_passwords=with_passwords,
        dumper=place.dumper(),
        stall_s=c.config.timeouts.command or dump.STALL_S,
    )
    if is_dry(c):
        backups.look(target, site=place.name, previous=previous, options=options)
        _try_folders(place)
        output.line(f"would dump {target} into {place.folder}")
        return
    latest = previous.latest
    total = latest.manifest.plain_bytes if latest else session.database_size(target)
    with (
        terminal.Progress(f"dumping {target.database}", total=total) as bar,
        cleaning_in_sight(finish="The next `invoke backup` removes it.", before=bar.__exit__),
    ):
        done = backups.take(
            target,
            place.folder,
            site=place.name,
            private=place.private,
            previous=previous,
            options=dataclasses.replace(options, progress=bar.advance),
        )
    output.note(bar.summary())
    if session.relayed(target):
        output.note(f"note: {poolers.SAID}")
    _say_aloud(done)
    if not json:
        output.line(report.line(done))
    pruned = _prune_after(done, place)
    if pruned.ids:
        output.note(f"pruned: {', '.join(pruned.ids)}")
    for name in pruned.back:
        output.note(f"WARNING: took back the deletion of {name}: too few good ones stand")
    if json:
        print_json({**report.as_row(done), "pruned": list(pruned.ids)})
    if pruned.failure:
        raise OpsError(
            f"the new backup {done.id} is fine, but not all old ones could be pruned",
            detail=f"{pruned.failure.message}: {pruned.failure.detail}",
            hint=pruned.failure.hint,
        ) from pruned.failure
    if pruned.damages:
        raise Mismatch(
            f"the new backup {done.id} is fine, but old ones that others would have gone for are damaged",
            detail=f"{'; '.join(map(str, pruned.damages))}.",
            hint="They are listed as FAILED from now on; verify others to count instead: `invoke backup.list`.",
        )


def _try_folders(place: Any) -> None:
    """Raise OpsError, for a dry run, if a folder that a backup needs takes no files; nothing is left in it."""
    from polyladder_ops import folders

    for variable, folder in (("BACKUP_DIR", place.folder), ("POLYLADDER_STATE_DIR", place.private)):
        tried = folders.try_folder(variable, folder, "backup")
        if not tried.ok:
            raise OpsError("no backup could be written here", detail=tried.detail, hint=tried.hint)


def _say_that_it_is_new(site: str, previous: Catalog) -> None:
    """Say that the folder has backups, and none of this site: it may be a name that was mistyped."""
    from collections import Counter

    from polyladder_ops.terminal import plain

    counted = Counter(entry.site for entry in previous.others).most_common(_SHOWN)
    if counted and not previous.entries:
        known = ", ".join(f"{number} of {plain(name)}" for name, number in counted)
        output.note(
            f"note: this is the first backup of site {plain(site)} here; there are {known}. --site=NAME means another one"
        )


def _prune_after(done: Backup, place: Any) -> Outcome:
    """Delete what is old by our clock and by the server's: a wrong one alone must not make every backup old."""
    from datetime import UTC, datetime

    from polyladder_ops import pruning

    now = min(datetime.now(UTC), done.manifest.finished_at)
    try:
        return pruning.prune(place.folder, place.name, rule_of(place), now=now)
    except OpsError as error:
        return pruning.Outcome(failure=error)


def _say_aloud(done: Backup) -> None:
    for sentence in (*done.manifest.warnings, *_lost(done)):
        output.note(f"WARNING: {sentence}")
    for gid in done.manifest.prepared_transactions:
        output.note(f"WARNING: the prepared transaction {gid} is in no dump; commit or roll it back")
    if done.manifest.materialized_views:
        names = ", ".join(done.manifest.materialized_views)
        output.note(f"note: rebuilt at a restore, not compared: {names}")


def _lost(done: Backup) -> list[str]:
    from polyladder_ops.terminal import plain

    lost = done.manifest.lost
    said = [f"not in the backup: {plain(sentence)}" for sentence in lost[:_SHOWN]]
    more = len(lost) - _SHOWN
    return [*said, *([f"and {more} more: `invoke backup.show --backup={done.id}`"] if more > 0 else [])]


@task(
    name="list",
    help={
        "site": SITE,
        "changes": "Show per backup all that changed since the one before, the largest loss first.",
        "json": JSON,
    },
)
def list_(c: Context, site: str = "", changes: bool = False, json: bool = False) -> None:
    """List the backups, newest first.

    A backup is complete when its data file has the size that its manifest says. What was verified of it are its bytes, or
    that it restores; FAILED stands until as deep a look passes. Notes name what else one should know: warnings, checks that
    failed, a date in the future. Exits 3 if no backup is complete, or a manifest in the folder can't be read.

    Examples:
        invoke backup.list --changes
        invoke backup.list --json | head
    """
    from polyladder_ops import catalog, clocks, report
    from polyladder_ops.terminal import plain

    place = open_site(c, site)
    found = catalog.scan(place.folder, place.name)
    present = present_at(place, found)
    unusable = list(found.headless)
    damaged: list[str] = []
    complete = 0

    def each(*, oldest_first: bool = False) -> Iterator[Backup]:
        nonlocal complete
        for backup in place.each_known(found.opened(unusable, oldest_first=oldest_first), unusable):
            damaged.extend(backup.damaged)
            complete += backup.complete
            yield backup

    if json:
        print_json(_rows(each, present, changes=changes))
    else:
        text = (
            report.changed(each(oldest_first=True))
            if changes
            else report.listed(each(), clocks.ours(), present)
        )
        if text:
            output.lines(text)
    tell_of_the_future(found, present)
    if others := list(catalog.usable(found.others, unusable)):
        output.note(f"note: {_of_other_sites(others)}")
    for name in found.litter:
        output.note(f"note: {name} has no manifest and is no backup")
    for sentence in damaged:
        output.note(f"warning: {plain(sentence)}")
    for error in unusable:
        output.notes(output.told(error).replace("error:", "warning:", 1))
    _refuse_to_look_fine(place, found, complete, unusable)


def _refuse_to_look_fine(place: Any, found: Catalog, complete: int, unusable: list[OpsError]) -> None:
    """Raise Mismatch if there is nothing to restore from, or a manifest can't be read: neither is a fine folder."""
    if not complete:
        raise no_backup(place, found)
    if unusable:
        raise Mismatch(f"unreadable manifests in {place.folder}: {len(unusable)}")


def no_backup(place: Any, found: Catalog) -> Mismatch:
    """Return what to say of a folder without a complete backup of the site: where it is, and where else to look."""
    from polyladder_ops import choosing

    listed = len(found.entries)
    missing = "" if place.folder.exists() else f"The folder {place.folder} is not there. "
    what = f"there is no {'complete ' if listed else ''}backup of site {place.name} in {place.folder}"
    return Mismatch(
        what,
        detail=f"{missing}{f'{listed} are listed and none is complete.' if listed else ''}".strip(),
        hint=choosing.ELSEWHERE,
    )


def _rows(each: Callable[..., Iterator[Backup]], present: datetime, *, changes: bool) -> list[dict[str, Any]]:
    from polyladder_ops import history, report

    if not changes:
        return [report.as_row(backup, present) for backup in each()]
    pairs = history.one_by_one(each(oldest_first=True))
    return [{**report.as_row(backup, present), **_changes(since)} for backup, since in pairs][::-1]


def _of_other_sites(others: list[Entry]) -> str:
    """Return how many are not shown, with the newest: what a restore replaced and somebody discarded is among them."""
    named = ", ".join(f"{backup.id} ({backup.site})" for backup in others[:3])
    if len(others) == 1:
        return f"a backup of another site is not shown: {named}"
    return f"{len(others)} backups of other sites are not shown; the newest: {named}"


@task(help={"backup": "Which one: latest, an id, a path or a time.", "site": SITE, "json": JSON})
def show(c: Context, backup: str = "", site: str = "", json: bool = False) -> None:
    """Show what one backup holds and what it lacks.

    Examples:
        invoke backup.show --backup=latest
        invoke backup.show --backup=2026-01-05 --json
    """
    from polyladder_ops import report
    from polyladder_ops.tasks import bare

    place = open_site(c, site)
    if bare.is_meant(backup):
        bare.show(place, backup, as_json=json)
        return
    chosen = choose(place, backup, task="backup.show")
    if json:
        print_json(
            {
                **report.as_row(chosen),
                "manifest": chosen.manifest.model_dump(mode="json", exclude={"expressions", "sealed"}),
            }
        )
    else:
        output.lines(report.described(chosen))


def open_site(c: Context, site: str) -> Any:
    """Return the site that the flag or the settings name."""
    from polyladder_ops.site import Site

    return Site(open_settings(c, site=site), output.step)


def rule_of(place: Any) -> Rule:
    """Return what the settings say on which backups stay."""
    from polyladder_ops.retention import Rule

    return Rule(place.settings.backup_retention, place.settings.backup_keep_verified)


def present_at(place: Any, found: Catalog, *, ask: bool = False) -> datetime:
    """Return what counts as the present for these backups: the server's clock, or ours with some room.

    The server is asked if the caller needs it anyway, or if ours alone would take the newest backup for one of the future.
    """
    from polyladder_ops import clocks

    by_ours = clocks.ours() + clocks.SKEW
    if ask or found.ahead(by_ours):
        return place.clock() or by_ours
    return by_ours


def tell_of_the_future(found: Catalog, present: datetime) -> None:
    """Name on stderr each backup that is dated after the present."""
    from polyladder_ops import clocks
    from polyladder_ops.terminal import age

    for entry in found.ahead(present):
        output.note(
            f"warning: {entry.id} is dated in the future ({age(entry.taken_at, clocks.ours())}): a clock was wrong when"
            " it was made, so it may be older than others and is not `latest`"
        )


def refuse_failed(chosen: Backup) -> None:
    """Raise Mismatch, for a dry run, if the data file is not whole or a failure of it stands: the real one reads it all."""
    hint = "Choose another backup: `invoke restore --list`."
    if not chosen.complete:
        raise Mismatch(
            f"backup {chosen.id} is not complete",
            detail=f"{chosen.flaw[:1].upper()}{chosen.flaw[1:]}.",
            hint=hint,
        )
    if chosen.failed:
        raise Mismatch(
            f"the verification of {chosen.id} FAILED",
            detail="Nothing else stands in the way; a real run would look anew and most likely stop.",
            hint=hint,
        )
    output.line(f"not looked at: the bytes of {chosen.id}, which a real run reads")


def choose(place: Any, wanted: str, *, task: str, asks_server: bool = False) -> Backup:
    """Return the backup of this site that a word names. Raise UsageError naming the newest three if there is no word.

    Those dated in the future are named; with `asks_server` the future begins at the server's clock, wherever ours is.
    """
    from polyladder_ops import catalog, choosing

    found = catalog.scan(place.folder, place.name)
    present = present_at(place, found, ask=asks_server and bool(found.entries))
    tell_of_the_future(found, present)
    if not wanted:
        newest = ", ".join(entry.id for entry in found.entries[:3])
        raise UsageError(
            "no backup is named",
            detail=f"Newest first: {newest}." if newest else f"There is none in {place.folder}.",
            hint=f"Write `invoke {task} --backup=latest`, an id, a path or a time such as 2026-01-05."
            if newest
            else choosing.ELSEWHERE,
        )
    damaged: list[OpsError] = []
    (backup,) = place.each_known([choosing.find(found, wanted, now=present)], damaged)
    for error in damaged:
        output.notes(output.told(error).replace("error:", "warning:", 1))
    chosen: Backup = backup
    return chosen


def _changes(found: Sequence[Change | Besides] | None) -> dict[str, Any]:
    """Return what changed for programs: tables under `changes`, the rest under `other_changes`; None for the first one."""
    from polyladder_ops.history import Change

    if found is None:
        return {"changes": None, "other_changes": None}
    tables = [change for change in found if isinstance(change, Change)]
    return {
        "changes": [{**dataclasses.asdict(change), "kind": change.kind} for change in tables],
        "other_changes": [dataclasses.asdict(change) for change in found if not isinstance(change, Change)],
    }


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    output.document(value)


collection = Collection("backup")
collection.add_task(take, name="take", default=True)
collection.add_task(list_, name="list")
collection.add_task(show, name="show")
