"""Tasks that take and show backups."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.tasks.boundary import cleaning_in_sight, is_dry, open_settings, task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from polyladder_ops.catalog import Backup, Catalog, Entry
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
    Then deletes the backups whose time is over, as `invoke backup.prune --apply` does.

    Examples:
        invoke backup
        invoke backup --site=staging --json
        invoke -T 60 backup         (give up if pg_dump says nothing for a minute)
    """
    from polyladder_ops import backups, catalog, report, terminal
    from polyladder_ops.postgres import dump, poolers, session

    place = open_site(c, site)
    target = place.target()
    if is_dry(c):
        output.line(f"would dump {target} into {place.folder}")
        return
    previous = catalog.scan(place.folder, place.name)
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
            options=backups.Options(
                recipients=place.settings.backup_age_recipients,
                new_source=new_source,
                with_passwords=with_passwords,
                stall_s=c.config.timeouts.command or dump.STALL_S,
                progress=bar.advance,
            ),
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
    for damage in pruned.damages:
        output.note(f"WARNING: {terminal.plain(str(damage))}")
    if json:
        print_json({**report.as_row(done), "pruned": list(pruned.ids)})
    if pruned.failure:
        raise OpsError(
            f"the new backup {done.id} is fine, but not all old ones could be pruned",
            detail=f"{pruned.failure.message}: {pruned.failure.detail}",
            hint=pruned.failure.hint,
        ) from pruned.failure


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
        "changes": "Show per backup which tables grew, fell or changed since the one before.",
        "json": JSON,
    },
)
def list_(c: Context, site: str = "", changes: bool = False, json: bool = False) -> None:
    """List the backups, newest first.

    A backup is complete when its data file has the size that its manifest says. What was verified of it are its bytes, or
    that it restores; FAILED stands until as deep a look passes. Exits 3 if a manifest in the folder can't be read.

    Examples:
        invoke backup.list --changes
        invoke backup.list --json | head
    """
    from datetime import UTC, datetime

    from polyladder_ops import catalog, report
    from polyladder_ops.errors import Mismatch
    from polyladder_ops.terminal import plain

    place = open_site(c, site)
    found = catalog.scan(place.folder, place.name)
    unusable = list(found.headless)
    damaged: list[str] = []

    def noticed(backups: Iterator[Backup]) -> Iterator[Backup]:
        for backup in backups:
            damaged.extend(backup.damaged)
            yield backup

    if json:
        print_json(_rows(place, found, unusable, changes=changes))
    else:
        text = (
            report.changed(noticed(place.each_known(found.opened(unusable, oldest_first=True), unusable)))
            if changes
            else report.listed(noticed(place.each_known(found.opened(unusable), unusable)), datetime.now(UTC))
        )
        if text:
            output.lines(text)
        else:
            output.note(f"no backup of site {place.name} in {place.folder}")
    if others := list(catalog.usable(found.others, unusable)):
        output.note(f"note: {_of_other_sites(others)}")
    for name in found.litter:
        output.note(f"note: {name} has no manifest and is no backup")
    for sentence in damaged:
        output.note(f"warning: {plain(sentence)}")
    for error in unusable:
        output.notes(output.told(error).replace("error:", "warning:", 1))
    if unusable:
        raise Mismatch(f"unreadable manifests in {place.folder}: {len(unusable)}")


def _rows(place: Any, found: Catalog, unusable: list[OpsError], *, changes: bool) -> list[dict[str, Any]]:
    from polyladder_ops import history, report

    if not changes:
        return [report.as_row(backup) for backup in place.each_known(found.opened(unusable), unusable)]
    each = history.one_by_one(place.each_known(found.opened(unusable, oldest_first=True), unusable))
    return [{**report.as_row(backup), "changes": _changes(since)} for backup, since in each][::-1]


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

    chosen = choose(open_site(c, site), backup, task="backup.show")
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

    return Site(open_settings(c, site=site))


def rule_of(place: Any) -> Rule:
    """Return what the settings say on which backups stay."""
    from polyladder_ops.retention import Rule

    return Rule(place.settings.backup_retention, place.settings.backup_keep_verified)


def choose(place: Any, wanted: str, *, task: str) -> Backup:
    """Return the backup of this site that a word names. Raise UsageError naming the newest three if there is no word."""
    from datetime import UTC, datetime

    from polyladder_ops import catalog, choosing

    found = catalog.scan(place.folder, place.name)
    if not wanted:
        newest = ", ".join(entry.id for entry in found.entries[:3])
        raise UsageError(
            "no backup is named",
            detail=f"Newest first: {newest}." if newest else f"There is none in {place.folder}.",
            hint=f"Write `invoke {task} --backup=latest`, an id, a path or a time such as 2026-01-05.",
        )
    damaged: list[OpsError] = []
    (backup,) = place.each_known([choosing.find(found, wanted, now=datetime.now(UTC))], damaged)
    for error in damaged:
        output.note(str(error).replace("error:", "warning:", 1))
    chosen: Backup = backup
    return chosen


def _changes(found: Any) -> Any:
    return (
        None if found is None else [{**dataclasses.asdict(change), "kind": change.kind} for change in found]
    )


def print_json(value: Any) -> None:
    """Print one JSON document on stdout."""
    output.document(value)


collection = Collection("backup")
collection.add_task(take, name="take", default=True)
collection.add_task(list_, name="list")
collection.add_task(show, name="show")
