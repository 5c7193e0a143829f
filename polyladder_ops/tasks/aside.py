"""Tasks for what a restore leaves: the way back, the clean-up, the set-aside databases."""

from __future__ import annotations

import shlex
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Interrupted, Mismatch, UsageError
from polyladder_ops.tasks.backup import JSON, SITE, open_site, print_json
from polyladder_ops.tasks.boundary import cleaning_in_sight, confirm, is_dry, split_items, task
from polyladder_ops.tasks.hints import followed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.site import Site

__all__ = ["abort", "abort_of", "discard", "status", "undo"]

FORCE = "Do not ask. It lets nothing through."
ASIDE = "The set-aside database that is meant (default: the newest; `invoke restore.status` lists them)."
INTO = (
    "The database whose place was taken, if it is not the live one: the name that `restore --into` was given."
)


def abort_of(site: str, into: str = "") -> str:
    """Return the command that cleans up after a restore of this site, or of the database `into` beside it."""
    flags = {"--into": into, "--site": site}
    return " ".join(
        ["invoke restore.abort", *(f"{flag}={shlex.quote(text)}" for flag, text in flags.items() if text)]
    )


@contextmanager
def _stoppable(site: str, finish: str, into: str = "") -> Iterator[None]:
    """Within the block clean-ups are seen; a Ctrl-C says how to look at what is true now. Hints keep `--site` and `--into`."""
    with followed(into=into):
        try:
            with cleaning_in_sight(finish=f"Run `{abort_of(site, into)}`: {finish}"):
                yield
        except KeyboardInterrupt as error:
            said = f"interrupted by {str(error) or 'Ctrl-C'}"
            raise Interrupted(said, hint="`invoke restore.status` shows what is there now.") from error


@task(
    iterable=["accept"],
    help={
        "database": ASIDE,
        "into": INTO,
        "accept": "migrations: go back although the live database has newer migrations.",
        "force": FORCE,
        "site": SITE,
        "json": JSON,
    },
)
def undo(
    c: Context,
    database: str = "",
    into: str = "",
    accept: Any = None,
    force: bool = False,
    site: str = "",
    json: bool = False,
) -> None:
    """Bring back what the last restore set aside.

    Both databases are kept: what is live now, with everything written since, is set aside in its place.

    Examples:
        invoke restore.undo
        invoke restore.undo --database=polyladder_aside_20260105_020311 --force
    """
    from polyladder_ops import restore_report
    from polyladder_ops.restore import undo as undoing

    place, accepted_items = open_site(c, site), split_items(accept)
    if unknown := accepted_items - {"migrations"}:
        raise UsageError(
            f"--accept={min(unknown)} lets nothing through here",
            hint="Only --accept=migrations can be needed.",
        )

    shown: list[undoing.Undoing] = []

    def ask(found: undoing.Undoing) -> None:
        shown.append(found)
        live = found.live
        output.notes(restore_report.undoing(found, datetime.now(UTC)))
        if is_dry(c):
            raise _DryRun
        sets = f"sets {live.database} aside and " if found.is_there else ""
        confirm(f"This {sets}brings {found.aside.name} back.", live.database, force=force)

    try:
        with _stoppable(site, "it says whether anything is left.", into):
            switched, accepted = undoing.undo(
                _whose(place, into),
                database,
                site=place,
                accept=accepted_items,
                say=_to_stderr,
                confirm=ask,
                look_only=is_dry(c),
            )
    except _DryRun:
        output.line("would do so")
        return
    if json:
        print_json(
            {
                "database": switched.live,
                "aside": switched.aside or None,
                "state_of": shown[0].aside.mark.at.astimezone(UTC).isoformat(),
                "outage_s": round(switched.outage_s, 3),
                "accepted": list(accepted),
            }
        )
    else:
        output.lines(restore_report.undone(shown[0], switched))
    if accepted:
        said = f"As it was before that: {' '.join(accepted)}"
        raise Mismatch(f"{switched.live} is back, with what was accepted", detail=said)


def _whose(place: Site, into: str) -> Target:
    """Return the database whose place was taken by a restore: the live one, or the one that `into` names."""
    return place.target().with_database(into) if into else place.target()


class _DryRun(Exception):  # noqa: N818 - an answer, not an accident
    """Everything was looked at and shown."""


@task(help={"into": INTO, "site": SITE})
def abort(c: Context, into: str = "", site: str = "") -> None:
    """Clean up after a restore that died.

    Asks the server what is true: drops half-made copies, closes what was set aside and is open, opens the live database if
    a run of an older version closed it. A run that still lives is left alone (exit 4).

    Examples:
        invoke restore.abort
        invoke restore.abort --into=yesterday
    """
    from polyladder_ops import setaside

    target = _whose(open_site(c, site), into)
    if is_dry(c):
        found = setaside.status(target).leftovers
        for one in found:
            would = "leave" if one.is_used or one.live not in ("", target.database) else "settle"
            output.line(f"would {would} {one.name}: {one.detail}")
        if not found:
            output.line("nothing is left over")
        return
    with _stoppable(site, "it goes on.", into):
        done = setaside.abort(target, say=_to_stderr)
    for sentence in done or ("nothing was left over",):
        output.line(sentence)


@task(
    iterable=["accept"],
    help={
        "database": ASIDE,
        "into": INTO,
        "without-backup": "Drop it without a backup: its rows are gone then.",
        "accept": "not-restored: drop it though its backup could not be restored anywhere; not-included: though no dump holds all of it.",
        "force": FORCE,
        "site": SITE,
    },
)
def discard(
    c: Context,
    database: str = "",
    into: str = "",
    without_backup: bool = False,
    accept: Any = None,
    force: bool = False,
    site: str = "",
) -> None:
    """Drop a set-aside database, once a backup of it is proved.

    Takes a backup of it (site <site>-aside), restores that on a scratch server, and looks that nobody wrote to it meanwhile.

    Examples:
        invoke restore.discard
        invoke restore.discard --database=polyladder_aside_20260105_020311 --without-backup --force
    """
    from polyladder_ops import backups
    from polyladder_ops.restore import discard as discarding

    place, accepted = open_site(c, site), split_items(accept)
    if unknown := accepted - set(discarding.ITEMS):
        raise UsageError(
            f"--accept={min(unknown)} lets nothing through here",
            hint=f"Only --accept={' and --accept='.join(discarding.ITEMS)} can be needed.",
        )
    backed = "without a backup" if without_backup else "after a backup that is restored on a scratch server"

    def ask(aside: Any) -> None:
        if is_dry(c):
            output.line(f"would drop {aside.name} {backed}")
            raise _DryRun
        confirm(f"This drops {aside.name} for good, {backed}.", aside.name, force=force)

    finish = "it closes what is open. A folder is swept by the next `invoke backup`."
    try:
        with _stoppable(site, finish, into):
            done = discarding.discard(
                _whose(place, into),
                database,
                site=place,
                options=backups.Options(
                    recipients=place.settings.backup_age_recipients, new_source=True, dumper=place.dumper()
                ),
                without_backup=without_backup,
                accept=accepted,
                say=_to_stderr,
                confirm=ask,
                look_only=is_dry(c),
            )
    except _DryRun:
        return
    kept = done.kept
    said = (
        f"it is kept as backup {kept.id} of site {kept.manifest.site}" if kept else "there is no backup of it"
    )
    output.line(f"{done.aside.name} is dropped; {said}")
    if done.accepted:
        raise Mismatch(
            f"{done.aside.name} is dropped, with what was accepted", detail=" ".join(done.accepted)
        )


@task(help={"site": SITE, "json": JSON})
def status(c: Context, site: str = "", json: bool = False) -> None:
    """Show what restores set aside or left over.

    Exits 3 if a run that died left something: `invoke restore.abort` puts it right.

    Examples:
        invoke restore.status --json
    """
    from polyladder_ops import restore_report, setaside

    found = setaside.status(open_site(c, site).target())
    if json:
        print_json(restore_report.status_as_json(found))
    else:
        output.lines(restore_report.status(found, datetime.now(UTC)))
    if found.leftovers:
        hint = setaside.to_settle(found.leftovers, found.live)
        raise Mismatch("a run that died left something", hint=hint)


def _to_stderr(sentence: str) -> None:
    output.note(sentence)
