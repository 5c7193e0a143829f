"""Tasks that delete old backups, and that keep one from being deleted."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks.backup import JSON, SITE, choose, open_site, print_json, rule_of
from polyladder_ops.tasks.boundary import is_dry, task

if TYPE_CHECKING:
    from datetime import datetime

    from invoke.context import Context

    from polyladder_ops.catalog import Backup
    from polyladder_ops.pruning import Outcome
    from polyladder_ops.retention import Rule

__all__ = ["pin", "prune", "unpin"]

WHICH = "Which one: latest, an id, a path or a time."


@task(help={"apply": "Delete them; without it nothing is changed.", "site": SITE, "json": JSON})
def prune(c: Context, apply: bool = False, site: str = "", json: bool = False) -> None:
    """Show which old backups would go, and delete them.

    A backup goes when it is older than BACKUP_RETENTION days by its manifest. Never a pinned one, the newest, one of the
    BACKUP_KEEP_VERIFIED best verified ones, or one dated in the future; and none while fewer than that many are
    verified. Those that stay for it are read to their ends first: a damaged one counts for nothing, and is said (exit 3).
    Whatever is not a backup of this site is left alone.

    Examples:
        invoke backup.prune
        invoke backup.prune --apply
        invoke -T 5 backup.prune --apply         (wait 5 s at most for another run's lock)
    """
    from polyladder_ops import pruning, report

    place = open_site(c, site)
    rule = rule_of(place)
    now = _earlier_clock(place, rule)
    if apply and not is_dry(c):
        patience_s = c.config.timeouts.command or 60.0
        done = pruning.prune(place.folder, place.name, rule, now=now, patience_s=patience_s)
    else:
        apply = False
        done = pruning.preview(place.folder, place.name, rule, now=now)
    if json:
        print_json(
            {
                "applied": apply,
                "ended": list(done.ended),
                "taken_back": list(done.back),
                "damaged": [{"id": one.backup.id, "why": one.why} for one in done.damages],
                "backups": _rows(done),
            }
        )
    else:
        output.lines(report.decided(done.decisions, now))
    _say(done, applied=apply)
    if done.failure:
        raise done.failure
    if done.damages:
        raise Mismatch(
            f"backups that others would have gone for are damaged: {len(done.damages)}",
            detail=f"{'; '.join(map(str, done.damages))}.",
            hint=f"Look with `invoke verify --backup={done.damages[0].backup.id}`, and verify others to count instead.",
        )


def _earlier_clock(place: Any, rule: Rule) -> datetime:
    """Return the earlier of this machine's present and the server's: a wrong one alone must not make every backup old.

    If the server can't be asked, the time at which it finished the newest backup stands for its clock. Where nothing goes by
    ours it isn't asked: an earlier one makes nothing older.
    """
    from polyladder_ops import catalog, clocks, pruning, retention

    ours, found = clocks.ours(), catalog.scan(place.folder, place.name)
    is_old = any(decision.goes for decision in retention.decide(found.entries, rule, ours))
    if not is_old and not pruning.begun(place.folder, place.name):
        return ours
    servers = place.clock()
    if servers is None and (newest := found.newest(ours)):
        servers = newest.manifest.finished_at
        output.note(
            f"note: the server's clock could not be asked, so ages are counted from the newest backup, {newest.id}"
        )
    return min(ours, servers or ours)


def _rows(done: Outcome) -> list[dict[str, object]]:
    from polyladder_ops import report

    gone = {backup.file for backup in done.gone}
    return [
        {**report.as_row_decided(decision), "gone": decision.backup.file in gone}
        for decision in done.decisions
        if decision.backup.facts is not None
    ]


def _say(done: Outcome, *, applied: bool) -> None:
    from polyladder_ops.terminal import plain

    going = [decision.backup for decision in done.decisions if decision.goes]
    if any(decision.why.startswith("nothing goes while") for decision in done.decisions):
        output.note("note: a backup counts as verified after `invoke verify --backup=ID`")
    for facts in (decision.backup.facts for decision in done.decisions if not decision.goes):
        for sentence in facts.damaged if facts else ():
            output.note(f"warning: {plain(sentence)}")
    if applied:
        for backup in done.gone:
            output.note(f"deleted: {backup.id}")
    elif going or done.ended:
        output.note("note: nothing was changed; `invoke backup.prune --apply` deletes them")
    for name in done.ended:
        does = "ended" if applied else "would end"
        output.note(f"note: {does} the deletion of {name}, which a killed run had begun")
    for name in done.back:
        does = "took back" if applied else "would take back"
        output.note(
            f"warning: {does} the deletion of {name}, which a killed run had begun: too few good ones stand"
        )


@task(
    help={
        "backup": WHICH,
        "reason": "Why, for whoever wonders later.",
        "site": SITE,
        "json": JSON,
    }
)
def pin(c: Context, backup: str = "", reason: str = "", site: str = "", json: bool = False) -> None:
    """Keep a backup, however old it gets.

    Examples:
        invoke backup.pin --backup=2026-01-05 --reason="before the move to version 2"
        invoke backup.pin --backup=latest
    """
    from polyladder_ops import pruning

    chosen = choose(open_site(c, site), backup, task="backup.pin")
    if is_dry(c):
        output.line(f"would pin {chosen.id}")
        return
    _tell(pruning.pin(chosen, reason=reason), "is pinned", json=json)


@task(help={"backup": WHICH, "site": SITE, "json": JSON})
def unpin(c: Context, backup: str = "", site: str = "", json: bool = False) -> None:
    """Let a backup go again when its time is over.

    Examples:
        invoke backup.unpin --backup=polyladder_20260105_020000
    """
    from polyladder_ops import pruning

    chosen = choose(open_site(c, site), backup, task="backup.unpin")
    if is_dry(c):
        output.line(f"would take the pin of {chosen.id} away")
        return
    _tell(pruning.unpin(chosen), "is not pinned", json=json)


def _tell(backup: Backup, now: str, *, json: bool) -> None:
    from polyladder_ops import report

    if json:
        print_json(report.as_row(backup))
    else:
        output.line(f"{backup.id} {now}")
    if backup.flaw:
        output.note(f"WARNING: it is not complete: {backup.flaw}")
