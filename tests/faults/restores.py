"""A live database, a backup of what it once was, and what must hold after every fault of a restore, whatever it was."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg import sql

from polyladder_ops import portable, replacement, setaside
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import marks, switch
from polyladder_ops.postgres.locks import Busy
from polyladder_ops.postgres.proof import differences, read_back
from polyladder_ops.postgres.session import connect
from polyladder_ops.settings import load
from polyladder_ops.site import Site
from tests.faults.places import Place, say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.replacement import Result

COMMENT = "the app's own comment: \"don't lose it\""
SETTING = "statement_timeout = '41s'"
ROWS = 4000
JOBS = 2  # so small a dump would get one by itself
_Error = TypeVar("_Error", bound=OpsError)


def app(connection: Connection) -> None:
    """Make a small app's database: rows, a sequence, a large object, an index; `answer` says which one answers."""
    connection.execute(
        "CREATE TABLE which (answer text); INSERT INTO which VALUES ('backup');"
        "CREATE TABLE note (id serial PRIMARY KEY, body text, created_at timestamptz DEFAULT '2026-01-05');"
        f"INSERT INTO note (body) SELECT md5(g::text) FROM generate_series(1, {ROWS}) g;"
        "CREATE INDEX ON note (body);"
        "SELECT lo_from_bytea(16400, 'a large object')"
    )


def spoil(connection: Connection) -> None:
    """Do to it what people restore for: rows are gone, others have come."""
    connection.execute(
        "UPDATE which SET answer = 'live'; DELETE FROM note WHERE id % 2 = 0;"
        "INSERT INTO note (body) VALUES ('only here'); DROP INDEX note_body_idx"
    )


@dataclass
class Stage:
    """A place whose live database has gone on since its backup was taken."""

    place: Place
    backup: Backup
    before: Contents
    origin: str  # of what the live database is a copy
    _asking: Connection | None = field(default=None, repr=False)

    @property
    def target(self) -> Target:
        return self.place.target

    @property
    def server(self) -> Target:
        return self.target.with_database("postgres")

    @property
    def site(self) -> Site:
        """What the settings of a process name."""
        environ = {
            "DATABASE_URL": self.place.url(),
            "BACKUP_DIR": str(self.place.folder),
            "POLYLADDER_STATE_DIR": str(self.place.private.parent),
        }
        return Site(load({}, environ=environ, root=self.place.private.parent, config=None))

    @property
    def asking(self) -> Connection:
        """A session in the maintenance database that lasts, but for a restart of the server."""
        if self._asking:
            with contextlib.suppress(psycopg.OperationalError):
                self._asking.execute("SELECT 1")
                return self._asking
            self._asking.close()
        self._asking = connect(self.server)
        return self._asking

    # What is done ------------------------------------------------------------------------------------------------

    def set_up(self) -> None:
        """Make the live database what it was before the restore."""
        name = self.target.database
        self.clear()
        say(self.server, "CREATE DATABASE {} TEMPLATE {}", name, self.origin)
        say(self.server, "ALTER DATABASE {} SET " + SETTING, name)
        connection = self.asking
        connection.execute(marks.comment(name, COMMENT))
        self.old = self.oid()

    def clear(self) -> None:
        """Drop the live database and all that stands beside it."""
        connection = self.asking
        for name in (self.target.database, *(m.name for m in self.marked(connection)), *self.copies()):
            for text in ("DROP DATABASE IF EXISTS {} WITH (FORCE)",):
                connection.execute(sql.SQL(text).format(sql.Identifier(name)))

    def replace(
        self,
        target: Target | None = None,
        *,
        accept: tuple[str, ...] = (),
        confirm: Any = None,
        **options: Any,
    ) -> Result:
        """Restore in this process, without asking."""
        target = target or self.target
        self.said: list[str] = []
        options = {"name": target.database, "jobs": JOBS, **options}
        made = replacement.Options(accept=frozenset(accept), **options)
        return replacement.replace(
            target, self.backup, [], made, say=self.said.append, confirm=confirm or (lambda _plan: None)
        )

    def fails(self, kind: type[_Error], target: Target | None = None, **options: Any) -> _Error:
        """Return the error, of exactly this class, that a restore ended with; the live database is as it was."""
        try:
            self.replace(target, **options)
        except OpsError as error:
            failed = error
        else:
            raise AssertionError("it was restored")
        assert type(failed) is kind, failed
        self.place.keeps_secret(str(failed))
        self.place.keeps_secret("\n".join(self.said))
        assert not failed.message[0].isupper()
        assert failed.hint.endswith((".", "`", "`.", "'")) or not failed.hint
        self.is_untouched()
        return failed

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        return self.place.start(*(arguments or (*self.arguments, f"--jobs={JOBS}")), **environment)

    @property
    def arguments(self) -> tuple[str, ...]:
        return ("restore", f"--backup={self.backup.id}", "--force")

    def abort(self) -> tuple[str, ...]:
        """Clean up as soon as the server has noticed that the dead run's session is gone."""
        deadline = time.monotonic() + 15
        while True:
            try:
                return setaside.abort(self.target)
            except Busy:
                assert time.monotonic() < deadline, "the dead holder's lock stays"
                time.sleep(0.02)

    # What is looked at -------------------------------------------------------------------------------------------

    def oid(self) -> int | None:
        connection = self.asking
        return switch.oid_of(connection, self.target.database)

    def marked(self, connection: Connection) -> list[marks.Marked]:
        return [m for m in marks.find(connection) if m.mark.live == self.target.database]

    def copies(self) -> list[str]:
        """Return the copies that are being made or were left half-made."""
        connection = self.asking
        return [
            n for n in switch.names(connection) if n.startswith(("polyladder_beside_", "polyladder_replay_"))
        ]

    def holds(self, contents: Contents, name: str = "") -> None:
        """Check, row by row, what a database holds."""
        with closing(connect(self.target.with_database(name or self.target.database))) as connection:
            found = read_back.read_contents(connection, self.backup.manifest.contents)
        assert differences.compare_contents(contents, found) == []

    def is_untouched(self) -> None:
        """Check that the live database is the old one, complete, open, with its comment, and that nothing stands beside."""
        assert self.oid() == self.old
        self.is_clean(asides=0)
        self.holds(self.before)

    def is_restored(self, *, asides: int = 1) -> marks.Marked:
        """Check that the live database is the proved copy, and that the old one stands aside, closed and complete."""
        assert self.oid() not in (None, self.old)
        self.is_clean(asides=asides)
        self.holds(self.backup.manifest.contents)
        connection = self.asking
        (aside,) = [m for m in self.marked(connection) if m.oid == self.old]
        assert switch.comment_of(connection, aside.name) == COMMENT
        switch.let_in(connection, aside.name)
        self.holds(self.before, aside.name)
        switch.close(connection, aside.name)
        return aside

    def is_clean(self, *, asides: int) -> None:
        """Check that no copy, no fence and no lock is left, and that the live database takes sessions."""
        assert self.copies() == [], self.copies()
        connection = self.asking
        found = self.marked(connection)
        assert [(m.mark.kind, m.is_open) for m in found] == [("aside", False)] * asides
        row = connection.execute(
            "SELECT datallowconn, shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = %s",
            [self.target.database],
        ).fetchone()
        assert row == (True, COMMENT)
        assert setaside.status(self.target).leftovers == ()
        # A session's lock goes with its server process, a moment after the session.
        self.place.wait_for(lambda: not setaside.status(self.target).holder, within_s=3)


@contextlib.contextmanager
def stage(place: Place, *, name: str) -> Iterator[Stage]:
    """Within the block a stage; `place` names the server, and where the backup goes."""
    server = place.target.with_database("postgres")
    origin = f"{name[:20]}_origin"
    with closing(connect(server)) as connection:
        connection.execute(sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(origin)))
        connection.execute(marks.comment(origin, COMMENT))
    say(server, "ALTER DATABASE {} SET " + SETTING, origin)
    with closing(connect(server.with_database(origin), settings={"search_path": "public"})) as connection:
        app(connection)
    backup = place.take(server.with_database(origin))
    with closing(connect(server.with_database(origin), settings={"search_path": "public"})) as connection:
        spoil(connection)
        before = read_back.read_contents(connection, backup.manifest.contents)
    made = Stage(
        Place(server.with_database(name), place.folder, place.private, place.secrets), backup, before, origin
    )
    yield made
    made.clear()
    made.asking.close()
    say(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", origin)


# A process that asks all the time: one line each time, JSON: when, the oids that have the live name, who answers.
_POLLER = """
import json, sys, time
import psycopg
server, live, name, every_s, connect_every = json.loads(sys.stdin.readline())
catalog = psycopg.connect(server, autocommit=True, application_name="poller")
turn = 0
while True:
    began = time.time()
    oids = [oid for (oid,) in catalog.execute("SELECT oid::int8 FROM pg_database WHERE datname = %s", [name])]
    answer = None
    if turn % connect_every == 0:
        try:
            with psycopg.connect(live, application_name="poller") as asking:
                answer = asking.execute("SELECT answer FROM public.which").fetchone()[0]
        except psycopg.Error as error:
            answer = "error: " + " ".join(str(error).split())[-200:]
    print(json.dumps([began, time.time(), oids, answer]), flush=True)
    turn += 1
    time.sleep(max(0, every_s - (time.time() - began)))
"""


@dataclass(frozen=True)
class Seen:
    """What the poller saw once, and when it asked."""

    began: float
    ended: float
    oids: tuple[int, ...]
    answer: str | None


# What somebody who connects may hear while the names change hands.
CLOSED = (
    "is not currently accepting connections",
    "terminating connection",
    "server closed the connection",
    "It seems to have just been dropped or renamed.",
)


class Poller:
    """A separate process that looks at the live name every 20 ms."""

    def __init__(self, stage: Stage, output: Path, *, connect_every: int) -> None:
        self._output = output
        server, live = (
            " ".join(
                f"{k}='{str(v).replace(chr(92), chr(92) * 2).replace(chr(39), chr(92) + chr(39))}'"
                for k, v in target.parameters.items()
            )
            for target in (stage.server, stage.target)
        )
        with output.open("wb") as file:
            self._process = portable.start(
                [sys.executable, "-c", _POLLER],
                env=portable.clean_environment(),
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        assert self._process.stdin is not None
        told = json.dumps([server, live, stage.target.database, 0.02, connect_every])
        self._process.stdin.write(told.encode() + b"\n")
        self._process.stdin.flush()

    def seen(self, since: float = 0.0) -> list[Seen]:
        assert self._process.poll() is None, self._output.read_text()
        lines = self._output.read_text().splitlines()[:-1]
        found = [
            Seen(began, ended, tuple(oids), answer) for began, ended, oids, answer in map(json.loads, lines)
        ]
        return [one for one in found if one.began >= since]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin:
            self._process.stdin.close()


@contextlib.contextmanager
def polling(stage: Stage, output: Path, *, connect_every: int = 8) -> Iterator[Poller]:
    """Within the block a poller that has begun."""
    made = Poller(stage, output, connect_every=connect_every)
    try:
        deadline = time.monotonic() + 10
        while not output.exists() or output.read_bytes().count(b"\n") < 2:
            assert time.monotonic() < deadline, output.read_text()
            time.sleep(0.01)
        yield made
    finally:
        made.end()


def always_one(seen: list[Seen], *oids: int | None, answers: tuple[str, ...] = ("live", "backup")) -> None:
    """Check that exactly one database had the name each time, these in this order, and never one again after its next."""
    assert seen
    assert {len(one.oids) for one in seen} == {1}
    in_turn = [oids.index(one.oids[0]) for one in seen]
    assert in_turn == sorted(in_turn)
    answered = [
        answers.index(one.answer) for one in seen if one.answer and not one.answer.startswith("error")
    ]
    assert answered == sorted(answered)
    errors = {one.answer for one in seen if one.answer and one.answer.startswith("error")}
    assert {error for error in errors if not any(words in error for words in CLOSED)} == set()
