"""Tasks that bring a backup back, and those for what a restore leaves: undo, abort, discard, status."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from itertools import islice
from typing import TYPE_CHECKING, Any, Self

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Interrupted, Mismatch, Refused, UsageError
from polyladder_ops.tasks import aside, extract
from polyladder_ops.tasks.backup import (
    JOBS,
    JSON,
    SITE,
    choose,
    no_backup,
    open_site,
    present_at,
    print_json,
    refuse_failed,
    tell_of_the_future,
)
from polyladder_ops.tasks.boundary import cleaning_in_sight, confirm, is_dry, number_of, split_items, task
from polyladder_ops.tasks.checks import check
from polyladder_ops.tasks.hints import followed
from polyladder_ops.tasks.hosts import host_of
from polyladder_ops.tasks.inplace import run_in_place

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from invoke.context import Context

    from polyladder_ops.catalog import Backup
    from polyladder_ops.replacement import Options, Plan, Result
    from polyladder_ops.site import Site

__all__ = ["collection"]

ACCEPT = "Let this named obstacle or difference through; the result is then not proved, and exits 3. May be repeated."
FORCE = "Do not ask. It lets nothing through."
_SHOWN = 7


@task(
    name="restore",
    iterable=["accept"],
    help={
        "backup": "Which one: latest, an id, a path or a time. Bare .sql.gz and .sql files of other tools by path.",
        "latest": "The same as --backup=latest.",
        "list": "Show the last 7 backups with what changed in each, and do nothing.",
        "into": "Make a database of this name instead of replacing the live one.",
        "replace": "With --into: set a database of that name aside if there is one.",
        "in-place": "Replace the contents in one transaction, for a role without CREATEDB; the app waits for all of it.",
        "without-backup": "With --in-place: take no backup of what is there now.",
        "create-roles": "Make missing roles as the backup describes them, without passwords.",
        "jobs": JOBS,
        "extend-volume": "On Fly: enlarge the database's volume if a copy does not fit. It can't be made smaller again.",
        "accept": ACCEPT,
        "allow-cross": "The site that the backup is of, if it is another one than the target's.",
        "force": FORCE,
        "site": SITE,
        "json": JSON,
    },
)
def restore(
    c: Context,
    backup: str = "",
    latest: bool = False,
    list: bool = False,  # noqa: A002 - the old script's --list
    into: str = "",
    replace: bool = False,
    in_place: bool = False,
    without_backup: bool = False,
    create_roles: bool = False,
    jobs: str = "",
    accept: Any = None,
    allow_cross: str = "",
    extend_volume: bool = False,
    force: bool = False,
    site: str = "",
    json: bool = False,
) -> None:
    """Replace the database by a proved copy of a backup.

    Verifies the whole file, makes a new database beside the live one, loads and proves it, asks POLYLADDER_CHECKS of it, and only
    then switches the names in one transaction. The old database is kept, closed: `invoke restore.undo` brings it back.

    Examples:
        invoke restore --list
        invoke restore --backup=latest
        invoke restore --backup=2026-01-05T02:00Z --into=yesterday
        invoke restore --backup=latest --force --accept=slot:reporting
    """
    place = open_site(c, site)
    if list:
        _list(place, as_json=json)
        return
    from polyladder_ops import checks, replacement, restore_report

    _refuse_contradictions(
        latest and backup,
        replace and not into,
        in_place and into,
        without_backup and not in_place,
        jobs and in_place,
        extend_volume and in_place,
    )
    target = place.target()
    if into == target.database:
        raise UsageError(f"{into} is the live database", hint="Leave --into out to replace it.")
    chosen, keys = chosen_file(place, "latest" if latest else backup, target)
    _refuse_other_site(chosen, place, allow_cross)
    finish = finish_by(site, in_place=in_place)
    with (
        followed(into=into),
        _Bars() as bars,
        cleaning_in_sight(finish=finish, before=bars.stop),
    ):
        options = replacement.Options(
            name=into or target.database,
            replaces=replace or not into,
            accept=split_items(accept),
            create_roles=create_roles,
            jobs=number_of(jobs, "jobs"),
            checks=checks.read(place.settings.checks) if place.settings.checks else (),
            progress=bars.begin,
            host=host_of(place, extend=extend_volume, force=force, end=bars.end),
        )
        if is_dry(c) and not in_place:
            _preview(target, chosen, options)
            return
        if not is_dry(c):
            _verify(chosen, keys, bars)

        def show(plan: Plan) -> None:
            bars.end()
            output.notes(restore_report.plan(plan, datetime.now(UTC)))
            if not force and output.is_watched() and (found := _choices(place, chosen)):
                output.notes(f"the newest backups (* is the one; another: --backup=ID)\n{found}")

        if in_place:
            run_in_place(
                c,
                place,
                chosen,
                keys,
                options,
                say=_say(bars),
                show=show,
                end=bars.end,
                force=force,
                without_backup=without_backup,
                json=json,
            )
            return
        shown: dict[str, Plan] = {}

        def ask(plan: Plan) -> None:
            shown["plan"] = plan
            show(plan)
            confirm(_question(plan), options.name, force=force)

        try:
            result = replacement.replace(target, chosen, keys, options, say=_say(bars), confirm=ask)
        except KeyboardInterrupt as error:
            raise _interrupted(error, options.name, bars) from error
    with followed(into=into):
        _tell(shown["plan"], result, options, as_json=json, is_live=not into)


def _list(place: Site, *, as_json: bool) -> None:
    from polyladder_ops import catalog, clocks, report, restore_report

    found = catalog.scan(place.folder, place.name)
    present = present_at(place, found)
    newest = list(place.each_known(islice(found.opened(), _SHOWN)))
    if as_json:
        print_json([report.as_row(backup, present) for backup in newest])
    elif newest:
        output.lines(restore_report.choices(newest, None, clocks.ours(), present))
    tell_of_the_future(found, present)
    if not any(backup.complete for backup in found.opened()):
        raise no_backup(place, found)


def _refuse_contradictions(
    two: object, replace: object, both: object, without: object, many: object, extend: object
) -> None:
    """Raise UsageError if flags contradict each other."""
    if two:
        raise UsageError("--latest and --backup name two backups", hint="Write one of them.")
    if replace:
        raise UsageError("--replace goes with --into", hint="Without --into the live database is replaced.")
    if both:
        raise UsageError("--in-place and --into exclude each other", hint="Write one of them.")
    if without:
        raise UsageError(
            "--without-backup goes with --in-place", hint="Else the old database is kept anyway."
        )
    if many:
        raise UsageError(
            "--jobs and --in-place exclude each other",
            hint="One transaction has one connection; leave --jobs out.",
        )
    if extend:
        raise UsageError(
            "--extend-volume is for a copy, and --in-place makes none", hint="Write one of them."
        )


def chosen_file(place: Site, wanted: str, target: Any) -> tuple[Backup, Any]:
    """Return the backup that is meant and the keys for it; a bare file of the old scripts is described first."""
    from pathlib import Path

    from polyladder_ops import oldfiles, seal

    if wanted and oldfiles.is_old(Path(wanted)):
        keys = place.keys(encrypted=wanted.endswith(".age"))
        found = _described(place, Path(wanted), keys, target)
        for sentence in oldfiles.limits(found):
            output.note(f"can't be proved of this file: {sentence}")
        return found, keys
    chosen = choose(place, wanted, task="restore", asks_server=True)
    keys = place.keys(encrypted=chosen.manifest.encrypted)
    return seal.known(chosen, keys), keys


def _described(place: Site, path: Path, keys: Any, target: Any) -> Backup:
    """Return a bare file as a backup; its database gets the live one's properties, since the file knows none."""
    from contextlib import closing

    from polyladder_ops import oldfiles
    from polyladder_ops.postgres import locks, properties, session, switch

    with closing(session.connect(locks.maintenance(target))) as connection:
        there = switch.oid_of(connection, target.database) is not None
        like = properties.read(connection, target.database if there else "template1")
        money = session.setting(target, "lc_monetary") if there else ""
    return oldfiles.describe(
        path, keys, site=place.name, like=like, session={"lc_monetary": money} if money else None
    )


def _refuse_other_site(chosen: Backup, place: Site, allowed: str) -> None:
    other = chosen.manifest.site
    if other in (place.name, allowed):
        return
    raise Refused(
        f"{chosen.id} is a backup of site {other}, and this is site {place.name}",
        detail="Restoring it would put one site's data into another.",
        hint=f"Add --allow-cross={other} if that is meant.",
    )


def finish_by(site: str, *, in_place: bool = False) -> str:
    """Return what finishes a clean-up of a restore that was left."""
    if in_place:
        return "The next `invoke backup` sweeps its folder; the server does the rest by itself."
    return f"Run `{aside.abort_of(site)}`: it drops what is half made."


def _interrupted(error: KeyboardInterrupt, name: str, bars: _Bars) -> Interrupted:
    """Return what a person wants to know then: whether anything was changed."""
    said = f"interrupted by {str(error) or 'Ctrl-C'}"
    if bars.has_begun("switch"):
        return Interrupted(
            said, hint=f"{name} is the old or the new one; `invoke restore.status` shows which."
        )
    return Interrupted(
        said, hint=f"{name} was not touched; `invoke restore.status` shows if anything is left."
    )


def _verify(chosen: Backup, keys: Any, bars: _Bars) -> None:
    from polyladder_ops import oldfiles, verification

    if oldfiles.is_old(chosen.path):
        return  # it was read to its end to be described
    progress = bars.begin("verify", total=chosen.manifest.plain_bytes)
    try:
        result = verification.verify_stored(chosen, keys, progress=progress)
        bars.end()
    except verification.Unrecorded as error:  # an emergency may leave no more than a folder to read
        result = error.verdict
        bars.end()
        output.note(f"WARNING: {error.in_a_line}")
    if not result.passed:
        raise Mismatch(
            f"backup {chosen.id} is {result.verdict}, so nothing was touched",
            detail="\n        ".join(result.reasons[:10]),
            hint="Choose another backup: `invoke restore --list`.",
        )


def _preview(target: Any, chosen: Backup, options: Options) -> None:
    from polyladder_ops import replacement, restore_report

    plan = replacement.preview(target, chosen, options)
    output.line(f"would make {options.name} what {chosen.id} holds")
    output.lines(restore_report.plan(plan, datetime.now(UTC)))
    for obstacle in plan.obstacles:
        output.line(f"in the way: {obstacle}. {obstacle.cure}")
    if plan.obstacles:
        raise Mismatch(f"{len(plan.obstacles)} things stand in the way")
    refuse_failed(chosen)


def _question(plan: Plan) -> str:
    if plan.server.live_oid is None:
        return f"This makes the database {plan.target.database}."
    return f"This sets {plan.target.database} aside and puts {plan.backup.id} in its place."


def _choices(place: Site, chosen: Backup) -> str:
    from polyladder_ops import catalog, restore_report

    found = catalog.scan(place.folder, place.name)
    return restore_report.choices(
        list(place.each_known(islice(found.opened(), _SHOWN))), chosen, datetime.now(UTC)
    )


def _tell(plan: Plan, result: Result, options: Options, *, as_json: bool, is_live: bool) -> None:
    from polyladder_ops import restore_report

    met = tuple(result.accepted)
    unused = sorted(item for item in options.accept if not any(a.startswith(f"{item}: ") for a in met))
    if as_json:
        print_json({**restore_report.as_json(plan, result), "accept_unused": unused})
    else:
        output.lines(restore_report.done(plan, result, unused, is_live=is_live))
    if not is_live and not result.switched.aside:
        output.note(restore_report.beside(result.switched.live))
    if result.failed:
        raise Mismatch(
            f"{result.switched.live} is there to look at, but {len(result.failed)} of your checks failed on it",
            detail="\n        ".join((*result.failed, *result.accepted)),
            hint="Perhaps the backup holds the damage, and an older one does not: `invoke restore --list`.",
        )
    if result.accepted:
        raise Mismatch(
            f"{result.switched.live} was restored, but not all of it is proved",
            detail=f"Let through: {'; '.join(result.accepted)}.",
            hint="Look at each."
            if not result.switched.aside
            else "Look at each; what it was is kept, and `invoke restore.undo` brings it back.",
        )


class _Bars:
    """One bar after the other on stderr, each ended by the next or by a sentence."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._total: int | None = None
        self._begun: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.end(quietly=True, stopped=kind in (Interrupted, KeyboardInterrupt))

    def has_begun(self, name: str) -> bool:
        """Whether a bar of this name was ever shown."""
        return name in self._begun

    def begin(self, name: str, *, total: int | None = None) -> Callable[[int], None]:
        from polyladder_ops import terminal

        self.end()
        self._begun.add(name)
        self._total = total or self._total
        self._bar = terminal.Progress(name, total=self._total if name in _WITH_BYTES else None)
        self._bar.__enter__()
        advance: Callable[[int], None] = self._bar.advance
        return advance

    def stop(self) -> None:
        """End the bar of what has failed, or was stopped."""
        self.end(quietly=True, stopped=isinstance(sys.exc_info()[1], Interrupted | KeyboardInterrupt))

    def end(self, *, quietly: bool = False, stopped: bool = False) -> None:
        if self._bar is not None:
            self._bar.__exit__()
            if not quietly or self._bar.done:
                output.note(f"{self._bar.summary()}{', stopped' if stopped else ''}")
            self._bar = None


_WITH_BYTES = ("verify", "load", "proof")


def _say(bars: _Bars) -> Callable[[str], None]:
    def say(sentence: str) -> None:
        bars.end()
        output.note(sentence)

    return say


collection = Collection("restore")
collection.add_task(restore, name="restore", default=True)
collection.add_task(check, name="check")
collection.add_task(extract.extract, name="extract")
collection.add_task(aside.undo, name="undo")
collection.add_task(aside.abort, name="abort")
collection.add_task(aside.discard, name="discard")
collection.add_task(aside.status, name="status")
