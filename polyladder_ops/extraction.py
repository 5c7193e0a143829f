"""Bringing single tables back from a backup: into a new database beside, or as a file for psql.

The backup is unpacked only up to the last entry that can belong to these tables, and rows of others go nowhere. So
what is proved is what came out: rows and sequence values against the manifest, table by table, and again as they read
back. That definitions are what was dumped rests on the file's sha256, which is compared at the end; a file that is
damaged elsewhere gives its rows all the same, and says so.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import loading, picking, restoring, storage, textfile
from polyladder_ops.errors import Mismatch, Refused, UsageError
from polyladder_ops.postgres import databases, inventory, marks, properties, session, switch
from polyladder_ops.postgres.grants import Grant
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.postgres.load.loader import Loader, LoadError
from polyladder_ops.postgres.permitted import OnlyPermitted
from polyladder_ops.postgres.picker import Enough, Picker
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.postgres.proof.differences import Difference
from polyladder_ops.postgres.psqlfile import PsqlFile
from polyladder_ops.postgres.switch import Ready
from polyladder_ops.restore import sender
from polyladder_ops.storage import Damaged
from polyladder_ops.undoing import standing, undo_after

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.manifest import Manifest
    from polyladder_ops.picking import Outcome, Wanted
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.picker import Receiver
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.toc import Entry

__all__ = ["BESIDE", "Extracted", "into", "refuse_taken", "to_file"]

BESIDE = "polyladder_extract"
"""The schema that takes the rows of a file whose table is there already."""
Progress = Callable[[int], None] | None


@dataclass(frozen=True)
class Extracted:
    """What came out; `flaw` says what is wrong with the backup's file as a whole, empty if it is its manifest's."""

    backup: Backup
    outcome: Outcome
    read_bytes: int
    seconds: float
    flaw: str
    by_ourselves: str = ""  # why no login of its own loaded it

    @property
    def contents(self) -> Contents:
        """Rows and sequence values that came out, as they were dumped."""
        return self.outcome.contents


def refuse_taken(server: Target, name: str) -> None:
    """Return if a database of this name can be made. Raise Refused if there is one, UsageError if it is no name for one."""
    if not name or len(name.encode()) > marks.NAME_BYTES:
        raise UsageError(
            f"{name!a} is no name for a database",
            detail=f"A name has 1 to {marks.NAME_BYTES} bytes.",
            hint="Choose another.",
        )
    with closing(session.connect(server)) as connection, session.translated("could not list the databases"):
        found = connection.execute("SELECT FROM pg_catalog.pg_database WHERE datname = %s", [name]).fetchone()
    if found is not None:
        raise Refused(
            f"there is a database {name} already",
            detail="Tables are extracted into a new one only, so that nothing is mixed or overwritten.",
            hint="Choose another name for --into, or drop that database first.",
        )


def into(
    server: Target,
    name: str,
    backup: Backup,
    wanted: Wanted,
    keys: Sequence[Any],
    *,
    progress: Progress = None,
) -> Extracted:
    """Make a database of this name that holds these tables, proved, and nothing else; everything in it is ours.

    It gets its name last: whatever happens before, there is no database of that name. Raise Refused if there is one,
    Mismatch if rows are not those of the manifest, OpsError if backup or server fails.
    """
    began = time.monotonic()
    refuse_taken(server, name)
    with closing(session.connect(server)) as connection:
        available = databases.available_extensions(connection)
        manifest = _of_our_own(connection, backup.manifest)
    without = [e.name for e in manifest.extensions if e.name not in available]
    with _gone_if_failing(server, name) as oids:
        with restoring.temporary_database(server, manifest, purpose="extract") as target:
            outcome, read, by = _fill(target, backup, wanted, keys, without=without, progress=progress)
            flaw = _flaw(backup)
            oids.append(_oid(server, target.database))
            _give_name(server, target.database, name, manifest)
        return Extracted(backup, outcome, read, time.monotonic() - began, flaw, by)


def _fill(
    target: Target,
    backup: Backup,
    wanted: Wanted,
    keys: Sequence[Any],
    *,
    without: Sequence[str],
    progress: Progress,
) -> tuple[Outcome, int, str]:
    """Load the tables into an empty database and prove them; return what came, the bytes looked at, why we loaded ourselves."""
    target, settings = loading.circumstances(target, backup.manifest)
    with (
        session.translated("the server failed while it loaded the tables"),
        closing(session.connect(target, settings={**loading.LOADING, **settings})) as owner,
        sender.opened(owner, target, {**loading.LOADING, **settings}, backup.manifest) as sends,
    ):
        sends.shut_out()
        loader = _Loading(sends.first, owner=sends.owner)
        try:
            picker, read = _pick(backup, wanted, keys, loader, without=without, progress=progress)
            loader.finish()
            sends.finish()
        except LoadError as error:
            raise _lacking(error, without) from error
    outcome = picking.outcome(wanted, picker)
    _compare(backup, outcome, loader.ledger.contents)
    _prove(target, settings, outcome)
    return outcome, read, sends.by_ourselves


@contextlib.contextmanager
def _gone_if_failing(server: Target, name: str) -> Iterator[list[int | None]]:
    """Drop the database of this name if the block fails, even right after it was named; only ours, by its oid."""
    oids: list[int | None] = []

    def drop() -> None:
        if None not in oids and _oid(server, name) in oids:
            databases.drop(server, name)

    with standing(f"If there is a database {name} now, it is whole and proved"):
        try:
            yield oids
        except BaseException as error:
            if oids:  # it was about to be named
                undo_after(error, f"the database {name}", drop)
            raise


def _oid(server: Target, name: str) -> int | None:
    with closing(session.connect(server)) as connection:
        return switch.oid_of(connection, name)


def to_file(
    path: Path, backup: Backup, wanted: Wanted, keys: Sequence[Any], *, progress: Progress = None
) -> Extracted:
    """Write a file for psql with these tables; it is there whole, private to us, or not at all.

    Raise Refused if there is a file, Mismatch if rows are not those of the manifest, OpsError if the backup or the
    disk fails.
    """
    began = time.monotonic()
    with textfile.new(path) as write:
        file = PsqlFile(write, schema=BESIDE)

        def decided(picker: Picker) -> None:
            picking.expect_rows(wanted, picker)
            come = picking.outcome(wanted, picker)
            file.head(picking.described(backup.id, wanted, come, BESIDE), wanted.manifest.encoding)

        picker, read = _pick(backup, wanted, keys, file, decided=decided, progress=progress)
        file.finish()
        outcome = picking.outcome(wanted, picker)
        _compare(backup, outcome, file.ledger.contents)
        flaw = _flaw(backup)
    return Extracted(backup, outcome, read, time.monotonic() - began, flaw)


class _Loading(Loader):
    """The loader as a receiver of whole entries."""

    def entry(self, entry: Entry) -> None:
        """Take an entry's statements, under its settings."""
        for statement in (*entry.settings, *entry.statements):
            self.statement(statement)


def _pick(
    backup: Backup,
    wanted: Wanted,
    keys: Sequence[Any],
    receiver: Receiver,
    *,
    without: Collection[str] = (),
    decided: Callable[[Picker], None] | None = None,
    progress: Progress,
) -> tuple[Picker, int]:
    """Hand on what belongs to the tables, up to its end; return the picker and how many bytes of SQL were looked at."""
    manifest = backup.manifest
    picker = Picker(
        receiver,
        wanted.tables.__contains__,
        encoding=manifest.encoding,
        without=without,
        decided=decided or (lambda found: picking.expect_rows(wanted, found)),
    )
    lexer = Lexer(OnlyPermitted(picker))
    read = 0

    def sink(block: bytes) -> None:
        nonlocal read
        read += len(block)
        lexer.feed(block)
        if progress:
            progress(len(block))

    try:
        storage.read(backup.path, sink, keys=keys, encrypted=manifest.encrypted)
        lexer.close()
        picker.close()
    except Enough:
        pass
    except (Damaged, DumpError) as error:
        error.hint = f"Run `invoke verify --backup={backup.id}`, or choose another one: `invoke backup.list`."
        raise
    return picker, read


def _of_our_own(connection: Connection, manifest: Manifest) -> Manifest:
    """Return the manifest as if the database had been ours, closed to everyone else: roles may be missing here."""
    row = connection.execute("SELECT current_user::text").fetchone()
    assert row is not None
    alone = Grant(row[0], ("CREATE", "CONNECT", "TEMPORARY"), row[0])
    ours = replace(manifest.properties, owner=row[0], grants=(str(alone),), connection_limit=-1)
    return manifest.model_copy(update={"properties": ours})


def _lacking(error: LoadError, without: Sequence[str]) -> LoadError:
    if without:
        error.detail = f"{error.detail}. The server has not got {', '.join(without)}.".replace("..", ".")
    return error.for_good()


def _compare(backup: Backup, outcome: Outcome, passed: Contents) -> None:
    """Raise Mismatch if what passed is not what the manifest says."""
    if lost := differences.compare_contents(outcome.contents, passed):
        raise Mismatch(
            f"backup {backup.id} does not hold what its manifest says",
            detail=_some(lost),
            hint="Nothing was kept. Choose another backup: `invoke backup.list`.",
        )


def _prove(target: Target, settings: dict[str, str], outcome: Outcome) -> None:
    """Raise Mismatch if the database does not hold what it should."""
    with closing(session.connect(target, settings=settings)) as connection:
        found = read_back.read_contents(connection, outcome.contents)
    with closing(session.connect(target)) as connection:
        there = {(entry.kind, entry.name) for entry in inventory.entries(connection)}
    wrong = differences.compare_contents(outcome.contents, found)
    wrong += [Difference(kind, name, "it is missing") for kind, name in sorted(outcome.objects - there)]
    if wrong:
        raise Mismatch(
            "the extracted tables are not what was dumped",
            detail=_some(wrong),
            hint="The new database was dropped. Run `invoke verify --level=restore` on the backup.",
        )


def _some(wrong: Sequence[Difference]) -> str:
    more = f"; and {len(wrong) - 5} more" if wrong[5:] else ""
    return "; ".join(str(difference) for difference in wrong[:5]) + f"{more}."


def _flaw(backup: Backup) -> str:
    """Return what is wrong with the file as a whole, from its bytes as they are stored."""
    manifest = backup.manifest
    if storage.fingerprint(backup.path) == (manifest.size_bytes, manifest.sha256):
        return ""
    return "the backup's file is not the one that its manifest describes; its definitions may be damaged"


def _give_name(server: Target, made: str, name: str, manifest: Manifest) -> None:
    with closing(session.connect(server)) as connection:
        gifts = partial(properties.apply, properties=manifest.properties)
        switch.publish(connection, name, Ready(made, switch.oid_of(connection, made), gifts))
