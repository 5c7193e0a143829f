"""Restores as text for people and as values for programs: what would be replaced, what was, what stands aside; pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from polyladder_ops import besides, clocks, history, records, report
from polyladder_ops.terminal import age, duration, many, plain, quoted, size, table

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.marks import Marked
    from polyladder_ops.postgres.switch import Switched
    from polyladder_ops.replacement import Plan, Result
    from polyladder_ops.restore.undo import Undoing
    from polyladder_ops.setaside import Status

__all__ = [
    "against",
    "as_json",
    "choices",
    "done",
    "plan",
    "state",
    "status",
    "status_as_json",
    "undoing",
    "undone",
]

_LOST = 20  # of what is not in a backup
_LEAST, _MOST = 5, 20  # changes that are shown of a backup, and losses
_WRITES = 20  # of the tables that were written to since a restore


def plan(shown: Plan, now: datetime) -> str:
    """Return what would be replaced by what, side by side, and what could not be looked at."""
    server, live, manifest = shown.server, shown.live, shown.backup.manifest
    source = manifest.source
    newest = live.newest if live else None
    is_unread = live is not None and any("newest row" in what for what in live.unread)
    rows = [
        (
            "database",
            str(shown.target) if server.live_oid else f"{shown.target} (not there yet)",
            source.database or "unknown",
        ),
        (
            "server",
            f"PostgreSQL {server.identity.server_version}, system {server.identity.system_identifier}",
            f"PostgreSQL {source.server_version}, system {source.system_identifier or 'unknown'}",
        ),
        (
            "size",
            size(server.live_bytes) if server.live_bytes is not None else "",
            f"{size(manifest.plain_bytes)} of SQL, {many(manifest.rows, 'row')}",
        ),
        (
            "newest",
            f"{_time(newest[1])}, {age(newest[1], now)} ({newest[0]})"
            if newest
            else "not looked at"
            if is_unread
            else "no row with a time",
            f"{_time(manifest.taken_at)}, {age(manifest.taken_at, now)}"
            if manifest.knows_objects
            else f"unknown; the file is of {_time(manifest.taken_at)}",
        ),
        (
            "migration",
            (live.migration_head if live else None) or "none noted",
            manifest.migration_head or "none noted"
            if manifest.knows_objects
            else "not known: noted in a manifest only",
        ),
    ]
    lines = [table(rows, ("", "now", f"backup {shown.backup.id}"))]
    lines += [f"WARNING: {plain(sentence)}" for sentence in against(shown.backup, now)]
    lines += [f"WARNING: {plain(sentence)}" for sentence in manifest.warnings]
    lines += [f"WARNING: not in the backup: {plain(sentence)}" for sentence in manifest.lost[:_LOST]]
    if len(manifest.lost) > _LOST:
        lines.append(
            f"WARNING: and {len(manifest.lost) - _LOST} more: `invoke backup.show --backup={plain(shown.backup.id)}`"
        )
    lines += [f"WARNING: {plain(sentence)}" for sentence in shown.warnings]
    lines += [f"accepted: {plain(item)}" for item in shown.accepted]
    lines += [f"note: {plain(sentence)}" for sentence in shown.unknowns]
    return "\n".join(lines)


_STATES = {"stored": "bytes verified", "restore": "restores"}


def state(backup: Backup, present: datetime) -> str:
    """Return how good a backup is known to be, and what speaks against it."""
    unproved = "verification FAILED" if backup.failed else backup.flaw or "not verified"
    return ", ".join((_STATES.get(backup.level, unproved), *report.marks(backup, present)))


def against(backup: Backup, present: datetime) -> Iterator[str]:
    """Yield what was found out about a backup since it was made, in sentences."""
    if failure := records.standing(backup.records).failure:
        why = f": {'; '.join(failure.details[:3])}" if failure.details else ""
        yield f"its verification FAILED at level {failure.level}, {_time(failure.at)}{why}"
    if backup.checks_failed:
        yield f"your checks FAILED on a copy of it: {', '.join(backup.checks_failed)}"
    if backup.taken_at > present + clocks.SKEW:
        yield f"it is dated in the future ({_time(backup.taken_at)}), so a clock was wrong and it may be an old one"


def choices(
    backups: Sequence[Backup], chosen: Backup | None, now: datetime, present: datetime | None = None
) -> str:
    """Return the last backups, newest first, with what changed in each: after a bad DELETE the newest may hold the damage.

    What is dated after `present` (None: now) is of the future.
    """
    lines = []
    for backup in backups:
        mark = "* " if chosen is not None and backup.id == chosen.id else "  "
        held = f"{many(backup.manifest.rows, 'row')}, {plain(state(backup, present or now))}"
        when = f"{_time(backup.taken_at)}, {age(backup.taken_at, now)}"
        lines.append(f"{mark}{plain(backup.id)}  {when}, {held}")
        changed = (history.since(backups, backup) if backup is not backups[-1] else None) or ()
        shown = max(_LEAST, sum(change.rank < besides.ALTERED for change in changed[:_MOST]))
        lines += [f"      {plain(str(change))}" for change in changed[:shown]]
        more = len(changed) - shown
        lines += [f"      and {more} more, none worse: `invoke backup.list --changes`"] if more > 0 else []
    return "\n".join(lines)


def done(shown: Plan, result: Result, unused: Sequence[str] = (), *, is_live: bool = True) -> str:
    """Return one line about what is there now, and one about the way back; `unused` was accepted and never met."""
    manifest, switched = shown.backup.manifest, result.switched
    held = [many(len(manifest.tables), "table"), many(manifest.rows, "row")]
    held[1:1] = [many(len(manifest.objects), "object")] if manifest.knows_objects else []
    how = "proved equal" if manifest.knows_objects else "proved to hold what the file says"
    verdict = "but for what was accepted" if result.accepted else how
    seconds, outage = (
        sum(result.seconds.values()),
        f"; nobody got in for {round(switched.outage_s * 1000)} ms",
    )
    head = f"{plain(switched.live)} is {plain(shown.backup.id)} now, {verdict} ({', '.join(held)})"
    lines = [f"{head} in {duration(seconds)}{outage if switched.aside else ''}"]
    lines += [f"  accepted: {plain(item)}" for item in result.accepted]
    lines += [f"note: --accept={plain(item)} met nothing of that name" for item in unused]
    if switched.aside:
        which = "" if is_live else f" --into={quoted(switched.live)}"
        lines.append(
            f"what it was is kept as {plain(switched.aside)}: `invoke restore.undo{which}` brings it back,"
            f" `invoke restore.discard{which}` drops it"
        )
    return "\n".join(lines)


def beside(name: str) -> str:
    """Return what can be done with a database that was made beside the live one."""
    from polyladder_ops.postgres import printable  # late: looking at files needs no client library

    asks = f"invoke restore.check --database={quoted(name)}"
    drops = f"DROP DATABASE {printable.identifier(name)};"
    return f"your checks ask it by `{asks}`; no task drops it: in psql in another database, {plain(drops)}"


def as_json(shown: Plan, result: Result) -> dict[str, Any]:
    """Return a restore for programs; keys are only ever added."""
    switched = result.switched
    return {
        "backup": shown.backup.id,
        "database": switched.live,
        "aside": switched.aside or None,
        "switched_at": _iso(switched.at),
        "outage_s": round(switched.outage_s, 3),
        "seconds": {name: round(value, 3) for name, value in result.seconds.items()},
        "accepted": list(result.accepted),
        "checks_failed": list(result.failed),
        "roles_made": list(result.roles),
        "not_given": list(result.not_given),
        "undo_sql": list(result.undo),
        "proved": shown.backup.manifest.knows_objects and not result.accepted,
    }


def undoing(shown: Undoing, now: datetime) -> str:
    """Return what would come back, and what would come aside for it."""
    aside = shown.aside
    lines = [
        (
            f"{plain(aside.name)}, set aside {age(aside.mark.at, now)} ({_time(aside.mark.at)}) for {plain(aside.mark.backup)},"
            f" becomes {plain(str(shown.live))}"
        ),
        f"migration: {plain(shown.migration_head or 'none noted')} → {plain(aside.mark.migration_head or 'none noted')}",
    ]
    if not shown.is_there:
        return "\n".join(
            [lines[0], f"there is no {plain(shown.live.database)} any more: nothing is set aside for it"]
        )
    lines += [f"WARNING: {sentence}" for sentence in (_not_back(shown),) if sentence]
    changes, unsure = shown.since.changes, plain(shown.since.unsure)
    if changes:
        lines.append(f"written since, and set aside with the database ({len(changes)}):")
        lines += [f"  {plain(str(difference))}" for difference in changes[:_WRITES]]
        more = len(changes) - _WRITES
        lines += [f"  and {more} more"] if more > 0 else []
        lines += [f"note: there may be more: {unsure}"] if unsure else []
    elif unsure:
        lines.append(f"note: what was written since can't be told: {unsure}. It is kept aside")
    elif shown.since.is_certain:
        lines.append("nothing was written since")
    else:
        also = "".join(f", {plain(what)}" for what in shown.since.unread)
        lines.append(
            "no row, sequence, object or setting was found that was written since; whatever was is kept aside."
            f" Not seen: rows of who had track_counts off, and of foreign tables{also}"
        )
    return "\n".join(lines)


def undone(shown: Undoing, switched: Switched) -> str:
    """Return which state is live after an undo, and what was kept."""
    name, aside = plain(switched.live), plain(switched.aside)
    outage = f"(nobody got in for {round(switched.outage_s * 1000)} ms)"
    kept = f"what was live is kept as {aside} {outage}" if aside else "there was no live one"
    lines = [f"{name} is what it was at {_time(shown.aside.mark.at)}, when it was set aside; {kept}"]
    return "\n".join((*lines, *filter(None, [_not_back(shown)])))


def _not_back(shown: Undoing) -> str:
    kept = shown.in_place
    if kept is None:
        return ""
    return (
        f"a restore in place was begun after that; what it replaced is not this state, but the backup {plain(kept.id)}"
        f" of site {plain(kept.manifest.site)} ({_time(kept.taken_at)})"
    )


def status(found: Status, now: datetime) -> str:
    """Return the table of set-aside databases, and what else is there."""
    headers = ("set aside", "was", "when", "size", "replaced by", "migration", "by")
    lines = [table([_aside(marked, now) for marked in found.asides], headers)] if found.asides else []
    if found.looking:
        enter, allow, connect, leave, close = map(plain, found.looking)
        lines.append(
            f"to look into the newest: `{enter}`, there\n  {allow}\n  {connect}\nand when done\n  {leave}\n  {close}"
        )
    lines += [f"IN USE {_used(marked)}" for marked in found.used]
    lines += [f"NOTED {_claimed(marked)}" for marked in found.claimed]
    lines += [f"OF ANOTHER ROLE {_of_other(marked)}" for marked in found.others]
    lines += [f"a run is at work: {plain(found.holder)}"] if found.holder else []
    lines += [f"LEFTOVER {plain(one.name)}: {plain(one.detail)}" for one in found.leftovers]
    return "\n".join(lines) or "nothing is set aside, no run is at work, nothing is left over"


def _used(marked: Marked) -> str:
    was = f" as {plain(marked.mark.name)}" if marked.use == "renamed" else ""
    return f"{plain(marked.name)}: set aside from {plain(marked.mark.live)}{was}, {marked.use} since; it is left alone"


def _claimed(marked: Marked) -> str:
    return (
        f"{plain(marked.name)}: its comment says that it was set aside from {plain(marked.mark.live)}. An older version of this"
        f" program wrote so, or its owner ({plain(marked.owner)}) did: it is touched only by name"
    )


def _of_other(marked: Marked) -> str:
    role, live = plain(marked.role), plain(marked.mark.live)
    return (
        f"{plain(marked.name)}: the role {role} has noted that it set it aside from {live}, as any role can;"
        f" who acts on it does so as {role} (set DATABASE_URL so)"
    )


def _aside(marked: Marked, now: datetime) -> tuple[object, ...]:
    mark = marked.mark
    return (
        marked.name,
        mark.live,
        age(mark.at, now),
        "?" if marked.size_bytes is None else size(marked.size_bytes),
        mark.backup,
        mark.migration_head,
        mark.by,
    )


def status_as_json(found: Status) -> dict[str, Any]:
    """Return the same for programs; keys are only ever added."""
    return {
        "asides": [
            {
                "name": m.name,
                "was": m.mark.live,
                "at": _iso(m.mark.at),
                "size_bytes": m.size_bytes,
                "backup": m.mark.backup,
                "migration_head": m.mark.migration_head,
                "by": m.mark.by,
            }
            for m in found.asides
        ],
        "in_use": [{"name": m.name, "was": m.mark.live, "since": m.use} for m in found.used],
        "noted": [{"name": m.name, "was": m.mark.live, "owner": m.owner} for m in found.claimed],
        "of_others": [{"name": m.name, "was": m.mark.live, "role": m.role} for m in found.others],
        "leftovers": [
            {
                "database": one.database or None,
                "role": one.role or None,
                "detail": one.detail,
                "is_used": one.is_used,
            }
            for one in found.leftovers
        ],
        "holder": found.holder or None,
    }


def _time(instant: datetime) -> str:
    return f"{instant.astimezone(UTC):%Y-%m-%d %H:%M:%S}Z"


def _iso(instant: datetime) -> str:
    return instant.astimezone(UTC).isoformat().replace("+00:00", "Z")
