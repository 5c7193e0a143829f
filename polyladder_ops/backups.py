"""Taking a backup: one instant of the database, one pass over its bytes, and a manifest that says what they hold."""

from __future__ import annotations

import json
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from polyladder_ops import catalog, encryption, expressions, publishing
from polyladder_ops.errors import OpsError, Refused, UsageError
from polyladder_ops.manifest import Manifest, Source
from polyladder_ops.postgres import clients, dump, public, session, snapshot, survey
from polyladder_ops.postgres.contents import ALGORITHM, Contents, Ledger
from polyladder_ops.postgres.here import Here
from polyladder_ops.postgres.lexer import DumpError, Lexer
from polyladder_ops.postgres.session import Connection, Identity, translated
from polyladder_ops.postgres.snapshot import Changed, LocksExhausted, Snapshot
from polyladder_ops.storage import Stored, StoredWriter
from polyladder_ops.workspace import workspace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from datetime import datetime
    from pathlib import Path

    from polyladder_ops.catalog import Backup, Catalog
    from polyladder_ops.postgres.clients import Client
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.programs import Program

__all__ = ["Options", "look", "shrinkage", "take"]

_TRIES = 5
_PAUSE_S = 0.15  # doubled before every new try: a migration's next statement often follows at once
# Beside our own locks pg_dump can only wait behind somebody who waits for us: the sooner we give way, the better.
_QUEUED_S = 2.0


@dataclass(frozen=True)
class Options:
    """How a backup is taken; the defaults are what a nightly run wants.

    `dumper` is a pg_dump elsewhere that is to be used instead of one of `clients`; `compress_there` whether it compresses
    what it sends, which costs its machine's processor and spares the way; that is kept as it came.
    """

    recipients: tuple[str, ...] = ()
    new_source: bool = False
    with_passwords: bool = False
    stall_s: float = dump.STALL_S
    lock_wait_s: float = snapshot.LOCK_WAIT_S
    beat_s: float = 60.0  # what relays connections cuts idle ones; ours is idle while pg_dump works
    clients: Sequence[Client] | None = None
    dumper: Program | None = None
    compress_there: bool = True
    progress: Callable[[int], None] | None = None
    exported: Callable[[Snapshot], None] | None = None
    dumped: Callable[[datetime], None] | None = None


@dataclass
class _Dumped:
    """What one try at a dump brought home."""

    snapshot: Snapshot
    contents: Contents
    stored: Stored
    finished_at: datetime
    facts: survey.Survey = field(repr=False)


def take(
    target: Target,
    folder: Path,
    *,
    site: str,
    private: Path,
    options: Options | None = None,
    previous: Catalog | None = None,
) -> Backup:
    """Return a finished backup of the target in `folder`: data, manifest, both read back.

    `private` is a folder for what must not lie beside backups, `previous` the folder's catalog if it was just read. Raise
    Refused if the target is not the one that this site's last backup came from; OpsError if anything at all went wrong:
    then nothing is listed.
    """
    options = options or Options()
    keys = _keys(options)
    previous = previous or catalog.scan(folder, site)
    with (
        closing(session.connect(target)) as connection,
        translated("the server failed during the backup"),
        _on_disk(folder),
        workspace(private) as hidden,
        workspace(folder) as work,
    ):
        identity = session.identify(connection)
        _check_source(identity, previous, site, new_source=options.new_source)
        need_tls = connection.pgconn.ssl_in_use
        program = _program(options, identity, need_tls=need_tls)

        def attempt(number: int, *, lock: bool) -> _Dumped:
            data = work / f"{number}.sql.gz"
            dumping = _Dumping(connection, target, program, options, keys, hidden, identity, need_tls)
            try:
                return dumping.run(data, lock=lock)
            except BaseException:
                data.unlink(missing_ok=True)
                raise

        dumped, data = _until_quiet(attempt, work)
        manifest = _manifest(dumped, site, identity, program, previous, keys=keys)
        return publishing.publish(folder, work, data, manifest, dumped.stored, recipients=keys)


def look(target: Target, *, site: str, previous: Catalog, options: Options) -> None:
    """Look at all that `take` looks at before it dumps. Raise what it would raise."""
    _keys(options)
    with closing(session.connect(target)) as connection, translated("the server failed during the look"):
        identity = session.identify(connection)
        _check_source(identity, previous, site, new_source=options.new_source)
        _program(options, identity, need_tls=connection.pgconn.ssl_in_use)


def _keys(options: Options) -> list[Any]:
    """Return the public keys to encrypt to. Raise UsageError if there are none and what is asked for needs them."""
    if options.with_passwords and not options.recipients:
        raise UsageError(
            "password verifiers go only into an encrypted backup",
            detail="Whoever has them can try passwords on them.",
            hint="Set BACKUP_AGE_RECIPIENTS, or leave --with-passwords out.",
        )
    return encryption.recipients(options.recipients) if options.recipients else []


def _program(options: Options, identity: Identity, *, need_tls: bool) -> Program:
    if options.dumper:
        return options.dumper
    found = clients.find_clients() if options.clients is None else options.clients
    return Here(clients.choose(found, identity.major, need_tls=need_tls))


@contextmanager
def _on_disk(folder: Path) -> Iterator[None]:
    """Within the block what the file system refuses becomes an OpsError."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise OpsError(
            "could not write the backup",
            detail=f"{where}: {error.strerror or error}.".replace("..", "."),
            hint=f"Check space and rights of {folder}, or set BACKUP_DIR to another folder.",
        ) from error


def _check_source(identity: Identity, previous: Catalog, site: str, *, new_source: bool) -> None:
    if identity.is_standby:
        raise Refused(
            "the server is a standby",
            detail="Its data may be behind, and a dump of it can be cancelled by replay.",
            hint="Point DATABASE_URL at the primary.",
        )
    newest = None if new_source else next(previous.opened(), None)
    if newest is None:
        return
    last = newest.manifest.source
    known, now = (last.system_identifier, last.database), (identity.system_identifier, identity.database)
    if known != now:
        raise Refused(
            f"this is not the database that site {site} was backed up from",
            detail=f"The last backup came from {known[1]} (system {known[0]}), this is {now[1]} (system {now[0]}).",
            hint="Check DATABASE_URL; if the site has moved on purpose, say --new-source.",
        )


def _until_quiet(attempt: Callable[..., _Dumped], work: Path) -> tuple[_Dumped, Path]:
    """Try until no table changed between the lock and the end of the dump; go without locks if there is no room."""
    lock, why = True, ""
    for number in range(_TRIES):
        time.sleep(_PAUSE_S * 2 ** (number - 1) if why else 0)
        try:
            return attempt(number, lock=lock), work / f"{number}.sql.gz"
        except Changed as error:
            why = str(error)
        except LocksExhausted:
            if not lock:
                raise
            lock = False
    raise OpsError(
        f"the tables changed during each of {_TRIES} tries",
        detail=f"{why.rstrip('.')}.",
        hint="Take the backup when no migration runs.",
    )


@dataclass
class _Dumping:
    """One try: everything it needs, and the run."""

    connection: Connection
    target: Target
    program: Program
    options: Options
    keys: list[Any]
    hidden: Path
    identity: Identity
    need_tls: bool

    def run(self, data: Path, *, lock: bool) -> _Dumped:
        writer = StoredWriter(data, self.keys)
        try:
            with snapshot.hold(self.connection, lock=lock, lock_wait_s=self.options.lock_wait_s) as held:
                if self.options.exported:
                    self.options.exported(held)
                if self.options.with_passwords:
                    writer.write(_verifiers(survey.password_verifiers(self.connection)))
                contents, facts = self._stream(held, writer)
                self._check_tables(contents)
                if self.options.dumped:
                    self.options.dumped(survey.clock(self.connection))
            finished_at = survey.clock(self.connection)
            self._check_unchanged(held)
            return _Dumped(held, contents, writer.finish(), finished_at, facts)
        except BaseException:
            writer.abort()
            raise

    def _check_unchanged(self, held: Snapshot) -> None:
        if not held.locked and not snapshot.unchanged(self.connection, held):
            raise Changed("a table was rewritten while it was dumped without locks")
        if moved := snapshot.respelled(self.connection, held):
            raise Changed(f"{' and '.join(moved)} was changed while rows were read")

    def _check_tables(self, contents: Contents) -> None:
        lost = [*survey.left_out(self.connection, contents), *survey.unset(self.connection, contents)]
        if lost:
            raise OpsError(
                f"pg_dump left out {len(lost)} tables or sequences",
                detail=f"The dump has nothing of {', '.join(lost[:5])}{', …' if lost[5:] else ''}.",
                hint=f"Nothing was kept. Look at {self.program}, then run `invoke backup` again.",
            )

    def _stream(self, held: Snapshot, writer: StoredWriter) -> tuple[Contents, survey.Survey]:
        ledger = Ledger()
        lexer = Lexer(ledger)
        progress = self.options.progress or (lambda _size: None)
        facts: list[survey.Survey] = []
        heard_at: float | None = None
        keeps = self.options.compress_there and self.program.packs

        def look_early() -> None:
            # pg_dump waits for whoever holds a lock, by itself; when it has got through, so can we.
            with suppress(Changed):
                facts.append(self._survey(held))

        def sink(block: bytes) -> None:
            nonlocal heard_at
            if not facts:
                facts.append(self._survey(held))
            if heard_at is None:
                # All definitions are read now, by pg_dump too: none may have changed until here.
                self._expect_unmoved(held)
            if heard_at is None or time.monotonic() - heard_at > self.options.beat_s:
                survey.clock(self.connection)
                heard_at = time.monotonic()
            if keeps:
                writer.count(len(block))
            else:
                writer.write(block)
            lexer.feed(block)
            progress(len(block))

        try:
            self._run(held, sink, look_early, writer.write_packed)
            lexer.close()
        except DumpError as error:
            raise OpsError(
                f"what pg_dump wrote is unusable: {error.message}",
                detail=error.detail or f"It is {self.program}.",
                hint="Nothing was kept. Look at that program, then run `invoke backup` again.",
            ) from error
        return ledger.contents, facts[0]

    def _run(
        self,
        held: Snapshot,
        sink: Callable[[bytes], None],
        meanwhile: Callable[[], None],
        keep: Callable[[bytes], None],
    ) -> None:
        wait_s = self.options.lock_wait_s
        dump.run(
            self.program,
            self.target,
            held.name,
            sink,
            meanwhile=meanwhile,
            private=self.hidden,
            need_tls=self.need_tls,
            encoding=self.identity.encoding,
            holder=self.connection,
            compress=self.options.compress_there,
            keep=keep,
            lock_wait_s=min(_QUEUED_S, wait_s) if held.locked else wait_s,
            stall_s=self.options.stall_s,
        )

    def _survey(self, held: Snapshot) -> survey.Survey:
        try:
            return survey.read(self.connection, held)
        except LocksExhausted:
            raise
        except OpsError as error:  # what was dropped meanwhile can be the reason
            self._expect_unmoved(held, error)
            raise

    def _expect_unmoved(self, held: Snapshot, failure: OpsError | None = None) -> None:
        with closing(session.connect(self.target)) as outside:
            moved = snapshot.moved(outside, held)
        if moved:
            raise Changed(f"{' and '.join(moved)} was changed while definitions were read") from failure


def _verifiers(roles: dict[str, str]) -> bytes:
    """Return comment lines, which every reader of SQL passes over; JSON in ASCII has no line feed to break out with."""
    lines = [
        f"-- polyladder-ops password verifier: {json.dumps([name, text])}" for name, text in roles.items()
    ]
    return ("\n".join(lines) + "\n").encode("ascii") if lines else b""


def _manifest(
    dumped: _Dumped, site: str, identity: Identity, program: Program, previous: Catalog, *, keys: list[Any]
) -> Manifest:
    facts = dumped.facts
    moved = [
        f"the columns of {name} come back in another order: pg_dump puts what is inherited first"
        for name in facts.inventory.reordered
    ]
    manifest = Manifest(
        id="polyladder_" + dumped.snapshot.taken_at.strftime("%Y%m%d_%H%M%S"),
        file="",
        site=site,
        source=Source(
            system_identifier=identity.system_identifier,
            database=identity.database,
            database_oid=identity.database_oid,
            server_version=identity.server_version,
            server_major=identity.major,
            client_version=program.version,
            tool_version=version("polyladder-ops"),
        ),
        taken_at=dumped.snapshot.taken_at,
        finished_at=dumped.finished_at,
        snapshot=dumped.snapshot.text,
        wal_position=dumped.snapshot.wal_position,
        tables_locked=dumped.snapshot.locked,
        size_bytes=dumped.stored.size_bytes,
        plain_bytes=dumped.stored.plain_bytes,
        sha256=dumped.stored.sha256,
        encrypted=bool(keys),
        digest_algorithm=ALGORITHM,
        encoding=dumped.contents.encoding,
        session=facts.session,
        tables=dumped.contents.tables,
        sequences=dumped.contents.sequences,
        large_objects=dumped.contents.large_objects,
        objects=facts.inventory.entries,
        extensions=facts.extensions,
        roles=facts.roles,
        properties=facts.properties,
        migration_head=facts.migration_head,
        prepared_transactions=facts.prepared_transactions,
        materialized_views=facts.materialized_views,
        not_included=facts.not_included,
        lost=facts.lost,
        warnings=(*facts.warnings, *moved, *public.lost(facts.inventory.entries, client_major=program.major)),
        expressions=expressions.packed(facts.inventory.expressions),
    )
    latest = previous.newest(manifest.taken_at)
    before = latest.manifest if latest else None
    return manifest.model_copy(update={"warnings": (*shrinkage(before, manifest), *manifest.warnings)})


def shrinkage(before: Manifest | None, now: Manifest) -> tuple[str, ...]:
    """Return what looks like loss against the backup before: tables fallen to 0 rows or gone, half of all rows gone."""
    if before is None:
        return ()
    rows = {table.name: table.rows for table in now.tables}
    lost = [
        f"table {table.name} fell from {table.rows:,} rows to {'0' if table.name in rows else 'nothing: it is gone'}"
        for table in before.tables
        if table.rows and not rows.get(table.name)
    ]
    if now.rows * 2 <= before.rows:
        lost.append(f"the total fell from {before.rows:,} rows to {now.rows:,}")
    return tuple(f"{sentence} since {before.id}" for sentence in lost)
