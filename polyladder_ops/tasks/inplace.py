"""What `invoke restore --in-place` does: the same question and answer, around one transaction in the live database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks.backup import print_json, refuse_failed
from polyladder_ops.tasks.boundary import confirm, is_dry

if TYPE_CHECKING:
    from collections.abc import Callable

    from invoke.context import Context

    from polyladder_ops.backups import Options as BackupOptions
    from polyladder_ops.catalog import Backup
    from polyladder_ops.overwriting import Overwritten
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.replacement import Options, Plan
    from polyladder_ops.site import Site

__all__ = ["run_in_place"]


def run_in_place(
    c: Context,
    place: Site,
    chosen: Backup,
    keys: Any,
    options: Options,
    *,
    say: Callable[[str], None],
    show: Callable[[Plan], None],
    end: Callable[[], None],
    force: bool,
    without_backup: bool,
    json: bool,
) -> None:
    """Restore into the live database and tell how it went. Raise Mismatch if something was let through."""
    from polyladder_ops import backups, inplace, overwriting, replacement
    from polyladder_ops.terminal import duration

    target = place.target()
    before = (
        None
        if without_backup
        else backups.Options(
            recipients=place.settings.backup_age_recipients, new_source=True, dumper=place.dumper()
        )
    )
    if is_dry(c):
        _preview(place, target, chosen, options, before)
        return

    def ask(seconds: float) -> None:
        kept = (
            "with no backup of what is there now" if without_backup else "after a backup of what is there now"
        )
        show(replacement.preview(target, chosen, options))
        output.note(
            f"In place: the app will wait about {duration(seconds)} for its tables, and no undo brings this back."
        )
        output.note(f"WARNING: {inplace.lends(target, chosen.manifest)}")
        confirm(f"This overwrites {target} by {chosen.id}, {kept}.", target.database, force=force)

    result = overwriting.overwrite(
        target,
        chosen,
        keys,
        options,
        site=place,
        before=before,
        say=say,
        confirm=ask,
    )
    end()
    _tell(target, chosen, result, as_json=json)
    if result.accepted:
        raise Mismatch(
            f"{target.database} was restored, but not all of it is proved",
            detail=f"Let through: {'; '.join(result.accepted)}.",
            hint="Look at each.",
        )


def _preview(
    place: Site, target: Target, chosen: Backup, options: Options, before: BackupOptions | None
) -> None:
    """Say what a real run would do and meet. Raise what it would be refused for."""
    from polyladder_ops import clocks, inplace, overwriting, replacement, restore_report
    from polyladder_ops.terminal import duration

    seconds = overwriting.estimate_s(target, chosen.manifest, backs_up=before is not None)
    output.line(f"would overwrite {target} by {chosen.id}; the app would wait about {duration(seconds)}")
    output.lines(restore_report.plan(replacement.preview(target, chosen, options), clocks.ours()))
    output.note(f"WARNING: {inplace.lends(target, chosen.manifest)}")
    for sentence in overwriting.look(target, chosen.manifest, options.accept, site=place, before=before):
        output.note(sentence)
    refuse_failed(chosen)


def _tell(target: Any, chosen: Backup, result: Overwritten, *, as_json: bool) -> None:
    from polyladder_ops.terminal import duration, plain

    if as_json:
        print_json(
            {
                "backup": chosen.id,
                "database": target.database,
                "kept": result.kept.id if result.kept else None,
                "accepted": list(result.accepted),
                "seconds": round(result.seconds, 3),
                "proved": chosen.manifest.knows_objects and not result.accepted,
            }
        )
        return
    held = "proved equal" if chosen.manifest.knows_objects else "proved to hold what the file says"
    how = "but for what was accepted" if result.accepted else held
    output.line(f"{plain(target.database)} is {plain(chosen.id)} now, {how}, in {duration(result.seconds)}")
    if result.kept:
        output.line(
            f"what it was is the backup {plain(result.kept.id)} of site {plain(result.kept.manifest.site)}"
        )
