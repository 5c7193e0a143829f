"""The task that brings single tables back, without touching the rest."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, UsageError
from polyladder_ops.tasks import bare
from polyladder_ops.tasks.aside import abort_of
from polyladder_ops.tasks.backup import JSON, SITE, choose, open_site, print_json, refuse_failed
from polyladder_ops.tasks.boundary import cleaning_in_sight, is_dry, task

if TYPE_CHECKING:
    from invoke.context import Context

    from polyladder_ops.extraction import Extracted

__all__ = ["extract"]


@task(
    iterable=["table"],
    help={
        "backup": "Which one: latest, an id, a path or a time.",
        "table": "A table, as in SQL: users, public.users, '\"Odd Name\"'. May be repeated; a root brings its partitions.",
        "into": "A new database beside, of this name.",
        "to-file": "A new file for psql instead, .sql or .sql.gz. It holds people's data.",
        "site": SITE,
        "json": JSON,
    },
)
def extract(
    c: Context,
    backup: str = "",
    table: Any = None,
    into: str = "",
    to_file: str = "",
    site: str = "",
    json: bool = False,
) -> None:
    """Bring single tables back, beside or as a file.

    Nothing that is there is touched: they go into a new database, or into a file for psql that harms no table. Rows and
    sequence values are proved against the backup's manifest; the definitions that they need come with them. The backup
    is unpacked only as far as these tables reach. Exits 3, and keeps nothing, if the rows are not those that were
    dumped; exits 3 and keeps them if they are, but the backup's file is damaged elsewhere.

    Examples:
        invoke restore.extract --backup=latest --table=users --into=rescue
        invoke restore.extract --backup=2026-01-05 --table=public.users --table=learning.deck --into=rescue
        invoke restore.extract --backup=latest --table=users --to-file=users.sql.gz
    """
    from polyladder_ops import extraction, picking, seal, terminal, textfile
    from polyladder_ops.postgres import locks

    if bool(into) == bool(to_file):
        raise UsageError(
            "a place for the tables is needed, and one only",
            hint="Write --into=NAME for a new database, or --to-file=PATH for a file.",
        )
    place = open_site(c, site)
    if bare.is_meant(backup):
        bare.refuse_extract(backup)
    chosen = choose(place, backup, task="restore.extract")
    keys = place.keys(encrypted=chosen.manifest.encrypted)
    chosen = seal.known(chosen, keys)
    wanted = picking.wanted(chosen.manifest, table or ())
    path = Path(to_file)
    server = None if to_file else locks.maintenance(place.target())
    if server is None:
        textfile.refuse_taken(path)
    else:
        extraction.refuse_taken(server, into)
    where = str(path) if to_file else f"the new database {into}"
    if is_dry(c):
        output.line(f"would extract {', '.join(wanted.names)} of {chosen.id} into {where}")
        refuse_failed(chosen)
        return
    finish = f"Run `{abort_of(site)}`: it drops what is half made."
    with (
        terminal.Progress(f"extracting from {chosen.id}", total=chosen.manifest.plain_bytes) as bar,
        cleaning_in_sight(finish=finish, before=bar.__exit__),
    ):
        if server is None:
            done = extraction.to_file(path, chosen, wanted, keys, progress=bar.advance)
        else:
            done = extraction.into(server, into, chosen, wanted, keys, progress=bar.advance)
    _say(done, where, is_file=server is None)
    if json:
        print_json(_as_json(done, {"file": str(path)} if to_file else {"database": into}))
    else:
        for entry in done.contents.tables:
            output.line(
                f"{terminal.plain(entry.name)}  {terminal.many(entry.rows, 'row')}, {terminal.size(entry.size_bytes)}"
            )
    if done.flaw:
        raise Mismatch(
            f"the tables are in {where} and their rows are proved, but {done.flaw}",
            hint="Look at the definitions, then run `invoke verify` on the backup.",
        )


def _say(done: Extracted, where: str, *, is_file: bool) -> None:
    """Tell people on stderr what they have now and what they have not."""
    from polyladder_ops import terminal

    total = done.backup.manifest.plain_bytes
    notes = [
        f"extracted from {done.backup.id} into {where} in {terminal.duration(done.seconds)}; every row is proved",
        f"unpacked {terminal.size(done.read_bytes)} of {terminal.size(total)}",
        *(f"definition only, without rows: {name}" for name in done.outcome.empty),
        *(f"left out: {sentence}" for sentence in done.outcome.left_out),
        "everything in it belongs to the role that " + ("loads it" if is_file else "made it"),
    ]
    if is_file:
        notes.append("it holds people's data: delete it when it has done its work")
    for note in notes:
        output.note(f"note: {note}")


def _as_json(done: Extracted, where: dict[str, str]) -> dict[str, Any]:
    return {
        "backup": done.backup.id,
        **where,
        "tables": [dataclasses.asdict(entry) for entry in done.contents.tables],
        "sequences": [dataclasses.asdict(sequence) for sequence in done.contents.sequences],
        "definitions_only": list(done.outcome.empty),
        "left_out": list(done.outcome.left_out),
        "read_bytes": done.read_bytes,
        "plain_bytes": done.backup.manifest.plain_bytes,
        "flaw": done.flaw,
        "seconds": round(done.seconds, 3),
    }
