"""Whether a site has a backup to count on, as checks of the doctor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from polyladder_ops import catalog, choosing, clocks
from polyladder_ops.errors import OpsError
from polyladder_ops.terminal import age, many

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from polyladder_ops.catalog import Backup, Catalog, Entry
    from polyladder_ops.clocks import Present

__all__ = ["Check", "Stops", "judge", "judge_clocks", "look"]

Stops = Literal["", "backup", "restore", "the app"]
_LIST = "`invoke backup.list` shows all."
_ANOTHER = "Take another with `invoke backup` if the database is well; else restore an older one."
_NONE = f"If it never was backed up, run `invoke backup`. If it was: {choosing.ELSEWHERE[:1].lower()}{choosing.ELSEWHERE[1:]}"


@dataclass(frozen=True)
class Check:
    """One thing that was looked at: fine, not fine, or (None) neither, only worth knowing.

    `blocks` names what can't be done while this is not fine; empty if it is a warning.
    """

    name: str
    ok: bool | None
    detail: str
    hint: str = ""
    blocks: Stops = ""


def look(folder: Path, site: str, known: Callable[[Backup], Backup], present: Present) -> list[Check]:
    """Return what is known of a folder's backups of this site; `known` gives one its whole manifest, where a key is here.

    Raise OpsError if the folder can't be read.
    """
    found = catalog.scan(folder, site)
    unusable: list[OpsError] = list(found.headless)
    newest = next(found.opened(unusable, until=present.until), None)
    if newest is not None:
        try:
            newest = known(newest)
        except OpsError as error:
            unusable.append(error)
    return judge(folder, site, found, newest, unusable, present=present)


def judge(
    folder: Path,
    site: str,
    found: Catalog,
    newest: Backup | None,
    unusable: Sequence[OpsError],
    *,
    present: Present,
) -> list[Check]:
    """Return whether there is a backup to restore from, and what is known against the newest; the folder is named.

    One that is damaged, that failed its verification or a person's checks stops a restore: whoever reads "ok" on a quiet
    day believes that there is one.
    """
    ahead = found.ahead(present.until)
    others = [f"{error.message}" for error in unusable]
    if newest is not None:
        others += [f"{entry.id} is dated in the future, so a clock was wrong" for entry in ahead[:3]]
    doubts = [Check("other backups", False, f"{'; '.join(others)}.", _LIST)] if others else []
    where = f"{folder}" + ("" if folder.exists() else ", which is not there")
    if newest is None:
        if ahead:
            return [_of_the_future(ahead[0], f"site {site} in {where}", present), *doubts]
        return [
            Check("backups", False, f"There is none of site {site} in {where}.", _NONE, "restore"),
            *doubts,
        ]
    named = f"The newest of site {site} in {where} is {newest.id}, {age(newest.taken_at, present.at)}"
    if against := _against(newest):
        return [Check("backups", False, f"{named}: {against}.", f"{_ANOTHER} {_LIST}", "restore"), *doubts]
    if not newest.verified:
        hint = f"Run `invoke verify --backup={newest.id} --level=restore`."
        return [Check("backups", False, f"{named}; nobody has verified it.", hint), *doubts]
    level = "it restores" if newest.level == "restore" else "its bytes were verified"
    warnings = len(newest.manifest.warnings) + len(newest.manifest.lost)
    if warnings:
        hint = f"Read them: `invoke backup.show --backup={newest.id}`."
        return [
            Check("backups", False, f"{named}; {level}, with {many(warnings, 'WARNING')}.", hint),
            *doubts,
        ]
    sealed = "; its warnings are not known, since no key for it is here" if newest.manifest.is_sealed else ""
    return [Check("backups", True, f"{named}; {level}{sealed}."), *doubts]


def _of_the_future(newest: Entry, where: str, present: Present) -> Check:
    """Return that there are backups, and none that a clock lets be the latest."""
    detail = (
        f"The newest of {where} is {newest.id}, dated {newest.taken_at:%Y-%m-%d %H:%M:%S}Z, and it is {present.said}"
        f"{'' if present.servers else ', the only one that could be asked'}: none that can be read is dated before,"
        " so none is `latest`."
    )
    whose = "the server's" if present.servers else "this machine's"
    hint = (
        f"If {whose} clock is behind, set it and look again. If it is right, a clock was ahead when they were made: a"
        f" backup can still be named by its id (`invoke restore --backup={newest.id}`), and {_ANOTHER[:1].lower()}{_ANOTHER[1:]}"
    )
    return Check("backups", False, detail, hint, "restore")


def judge_clocks(present: Present) -> list[Check]:
    """Return a warning if this machine's clock and the server's differ by more than machines do."""
    if present.servers is None or abs(present.servers - present.ours) <= clocks.SKEW:
        return []
    detail = f"It is {present.said}, and {present.ours:%Y-%m-%d %H:%M:%S}Z by this machine's."
    return [
        Check("clocks", False, detail, "Set the one that is wrong: what is old, and goes, is told by both.")
    ]


def _against(newest: Backup) -> str:
    """Return what forbids to count on a backup; empty if nothing is known."""
    if newest.flaw:
        return f"it is not complete, {newest.flaw}"
    if newest.failed:
        return "its verification FAILED"
    failed = ", ".join(newest.checks_failed)
    return f"checks FAILED on it: {failed}" if failed else ""
