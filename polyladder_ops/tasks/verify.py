"""The task that looks at a backup and says whether it may be trusted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, UsageError
from polyladder_ops.tasks import bare
from polyladder_ops.tasks.backup import JOBS, JSON, SITE, choose, open_site, refuse_failed
from polyladder_ops.tasks.boundary import cleaning_in_sight, is_dry, number_of, task

if TYPE_CHECKING:
    from invoke.context import Context

    from polyladder_ops.catalog import Backup
    from polyladder_ops.site import Site
    from polyladder_ops.verification import Unrecorded, Verdict

__all__ = ["verify"]


@task(
    help={
        "backup": "Which one: latest, an id, a path or a time.",
        "level": "stored: every byte of the file (default). restore: load it into a scratch database and compare all.",
        "jobs": f"With --level=restore: {JOBS[0].lower()}{JOBS[1:]}",
        "site": SITE,
        "json": JSON,
    },
)
def verify(
    c: Context, backup: str = "", level: str = "stored", jobs: str = "", site: str = "", json: bool = False
) -> None:
    """Prove that a backup is whole, or that it restores.

    Exits 3 if the backup failed, and also if it could not be proved because the scratch server lacks something, or the private
    key is not here, or another one is: then the file's size and sha256 are looked at, and a changed one has failed. A file without a manifest is read
    to its end; nobody can prove it, so that exits 3 at best.

    Examples:
        invoke verify --backup=latest
        invoke verify --backup=2026-01-05 --level=restore
    """
    from polyladder_ops import report, verification

    if level not in verification.LEVELS:
        raise UsageError(
            f"there is no level {level!r}", hint=f"Write --level={' or --level='.join(verification.LEVELS)}."
        )
    if jobs and level != "restore":
        raise UsageError("--jobs goes with --level=restore", hint="Leave it out, or add --level=restore.")
    wanted = number_of(jobs, "jobs")
    place = open_site(c, site)
    if bare.is_meant(backup):
        bare.verify(place, backup, as_json=json)
        return
    chosen = choose(place, backup, task="verify")
    if is_dry(c):
        _would_verify(place, chosen, level)
        return
    result, unkept = _looked_at(place, chosen, level, wanted)
    for sentence in result.said:
        output.note(f"WARNING: {sentence}")
    if json:
        said = {
            "backup": chosen.id,
            "level": level,
            "verdict": result.verdict,
            "reasons": list(result.reasons),
        }
        output.document({**said, "seconds": round(result.seconds, 3)})
    else:
        output.lines(report.verdict(result))
    if unkept and result.passed:
        raise unkept
    if not result.passed:
        if unkept:
            output.note(f"WARNING: {unkept.in_a_line}")
        is_old = all(
            reason.startswith("definitions compared with the dump only") for reason in result.reasons
        )
        hint = _ANOTHER if result.verdict == "failed" else _ANEW if is_old else _elsewhere(result)
        raise Mismatch(f"backup {chosen.id} is {result.verdict}", hint=hint)


def _would_verify(place: Site, chosen: Backup, level: str) -> None:
    """Say what a real run would do. Raise what it would end with, as far as that is seen without reading the backup."""
    if _is_shut(place, chosen):
        output.line(f"would look at size and sha256 of {chosen.id}")
        raise Mismatch(f"backup {chosen.id} would be not proved: the private key is not here", hint=_KEY)
    if level != "restore":
        output.line(f"would verify {chosen.id} at level {level}")
    else:
        major = chosen.manifest.source.server_major
        where, found = place.scratch_major(major)
        output.line(f"would verify {chosen.id} at level {level} on {where}, version {found}")
        if found != major:
            raise Mismatch(
                f"backup {chosen.id} would be not proved: its server has version {major}",
                hint=_how_to_install(chosen),
            )
    refuse_failed(chosen)


def _is_shut(place: Site, chosen: Backup) -> bool:
    return chosen.manifest.encrypted and place.settings.backup_age_identity_file is None


def _how_to_install(chosen: Backup) -> str:
    from polyladder_ops.sandbox import installations

    return installations.how_to_install(chosen.manifest.source.server_major)


def _looked_at(
    place: Site, chosen: Backup, level: str, jobs: int | None
) -> tuple[Verdict, Unrecorded | None]:
    """Return what came out of looking at the backup, and what kept it from being recorded."""
    from polyladder_ops import verification

    try:
        return _verdict(place, chosen, level, jobs), None
    except verification.Unrecorded as error:
        return error.verdict, error


def _verdict(place: Site, chosen: Backup, level: str, jobs: int | None) -> Verdict:
    from polyladder_ops import encryption, terminal, verification

    is_shut = _is_shut(place, chosen)
    keys = [] if is_shut else place.keys(encrypted=chosen.manifest.encrypted)
    try:
        with (
            terminal.Progress(f"verifying {chosen.id}", total=chosen.manifest.plain_bytes) as bar,
            cleaning_in_sight(finish=_NEXT, before=bar.__exit__),
        ):
            if is_shut:
                return verification.verify_without_key(chosen)
            if level == "stored":
                return verification.verify_stored(chosen, keys, progress=bar.advance)
            with place.scratch(chosen.manifest.source.server_major) as scratch:
                return verification.verify_by_restore(
                    chosen, keys, scratch.target, trusted=scratch.trusted, jobs=jobs, progress=bar.advance
                )
    except encryption.NoKey as error:
        return verification.verify_without_key(chosen, error.message)


_NEXT = "The next `invoke verify --level=restore` removes it."
_ANEW = "Take a new backup, which keeps them: `invoke backup`."
_KEY = "Set BACKUP_AGE_IDENTITY_FILE to the file with the key of one of its recipients, then verify again."
_ANOTHER = "Choose another backup: `invoke backup.list`."


def _elsewhere(result: Verdict) -> str:
    """Return where what lacked for a proof can be had: a key, a server, or what that has not got."""
    if result.needs_key:
        return _KEY
    if any(reason.startswith("the server's major version is") for reason in result.reasons):
        return _how_to_install(result.backup)
    return "Set POLYLADDER_SCRATCH_URL to a server that has what is missing, then verify again."
