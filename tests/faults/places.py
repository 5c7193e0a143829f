"""A place to back up to while something goes wrong, and what must hold after every fault, whatever it was."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import subprocess
import sys
import time
import traceback
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import quote

import pyrage

from polyladder_ops import backups, catalog, portable, verification
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from polyladder_ops.catalog import Backup, Catalog
    from polyladder_ops.postgres.session import Connection

ROOT = Path(__file__).parents[2]
SITE = "production"
# Everything that a URL, a passfile, a keyword string or SQL spells in a way of its own, and what nothing spells otherwise.
CANARY = "Canary7Canary"
PASSWORD = f"{CANARY}:s s\\w'o\"r@d/%25#?&=ü"
ROWS = 60_000
_Error = TypeVar("_Error", bound=OpsError)


@dataclass(frozen=True)
class Ended:
    """How an `invoke` process ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        return self.out + self.err


@dataclass
class Place:
    """A target, a folder for backups and one for what must not lie there; each try is looked at from all sides."""

    target: Target
    folder: Path
    private: Path
    secrets: set[str] = field(default_factory=set, repr=False)
    identities: list[Any] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        self.hide(self.target.password, CANARY)

    def hide(self, *secrets: str) -> None:
        """Look for these, as they are and encoded, wherever something is said."""
        for secret in secrets:
            self.secrets |= {secret, quote(secret), quote(secret, safe=""), quote(secret, safe="").lower()}

    def encrypting(self) -> tuple[str, ...]:
        """Return a new recipient, whose key the later verifications have."""
        identity = pyrage.x25519.Identity.generate()
        self.identities.append(identity)
        self.hide(str(identity))
        return (str(identity.to_public()),)

    @property
    def catalog(self) -> Catalog:
        return catalog.scan(self.folder, SITE)

    def take(self, target: Target | None = None, **options: Any) -> Backup:
        return backups.take(
            target or self.target,
            self.folder,
            site=SITE,
            private=self.private,
            options=backups.Options(**options),
        )

    def succeeds(self, target: Target | None = None, **options: Any) -> Backup:
        """Return the backup that was taken: listed, complete, verified."""
        known = {backup.id for backup in self.catalog.backups}
        made = self.take(target, **options)
        self.holds(*known, made.id)
        return made

    def fails(self, kind: type[_Error], target: Target | None = None, **options: Any) -> _Error:
        """Return the error, of exactly this class, that taking a backup ended with; nothing else came of it."""
        known = [backup.id for backup in self.catalog.backups]
        try:
            made = self.take(target, **options)
        except OpsError as error:
            failed = error
        else:
            raise AssertionError(f"{made.id} was taken")
        said = "".join(traceback.format_exception(failed))
        assert type(failed) is kind, said
        self.keeps_secret(said)
        assert failed.message[0].islower()
        assert failed.message[-1] != "."
        assert failed.detail.endswith(".")
        assert failed.hint.endswith(".")
        self.holds(*known)
        return failed

    def holds(self, *ids: str) -> None:
        """Check that exactly these backups are listed, each of them verified, and that there is nothing else."""
        found = self.catalog
        assert {backup.id for backup in found.backups} == set(ids)
        for backup in found.backups:
            assert backup.complete
            if not backup.verified:
                verdict = verification.verify_stored(
                    backup, self.identities if backup.manifest.encrypted else []
                )
                assert verdict.passed, verdict.reasons
        assert (found.litter, found.unusable, found.other_sites) == ((), (), 0), found
        self.is_clean()

    def is_clean(self) -> None:
        """Check that no run left a folder, a passfile or a program."""
        assert left_in(self.folder) == left_in(self.private) == []
        assert dumping(self.target) == []

    def keeps_secret(self, text: str) -> None:
        shown = sorted(secret for secret in self.secrets if secret in text)
        assert not shown, f"{shown} in {text}"

    def url(self, **more: str) -> str:
        """Return the target as DATABASE_URL; `more` are its query parameters."""
        t = self.target
        login = f"{quote(t.user, safe='')}:{quote(t.password, safe='')}"
        query = "&".join(f"{name}={quote(value, safe='')}" for name, value in more.items())
        return f"postgres://{login}@{t.host}:{t.port}/{quote(t.database, safe='')}" + ("?" + query) * bool(
            query
        )

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen[bytes]:
        """Start a real `invoke` in a process group of its own."""
        project = self.private.parent / "project"
        project.mkdir(parents=True, exist_ok=True)
        (project / "tasks.py").write_text((ROOT / "tasks.py").read_text())
        variables = {
            "HOME": str(project),
            "PYTHONPATH": str(ROOT),
            "DATABASE_URL": self.url(),
            "BACKUP_DIR": str(self.folder),
            "POLYLADDER_STATE_DIR": str(self.private.parent),
            **environment,
        }
        return portable.start(
            [sys.executable, "-m", "invoke", *arguments],
            env=portable.clean_environment(variables),
            cwd=project,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def end_of(self, process: subprocess.Popen[bytes], *, within_s: float = 60) -> Ended:
        """Return how the process ended, and that it said no secret."""
        try:
            out, err = process.communicate(timeout=within_s)
        finally:
            portable.end(process)
        ended = Ended(process.returncode, out.decode(), err.decode())
        self.keeps_secret(ended.said)
        return ended

    def invoke(self, *arguments: str, **environment: str) -> Ended:
        return self.end_of(self.start(*arguments, **environment))

    def wait_for(self, reached: Callable[[], object], *, within_s: float = 20) -> None:
        wait_for(reached, within_s=within_s)


def wait_for(reached: Callable[[], object], *, within_s: float = 20) -> None:
    deadline = time.monotonic() + within_s
    while not reached():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def left_in(folder: Path) -> list[str]:
    """Return what is in a folder and belongs to no finished backup."""
    if not folder.is_dir():
        return []
    return sorted(
        e.name for e in folder.iterdir() if not e.name.startswith("polyladder_") and e.name != ".lock"
    )


def processes() -> dict[int, bytes]:
    """Return the command lines of all processes; of none where there is no /proc."""
    found = {}
    for entry in Path("/proc").glob("[0-9]*") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError):
            found[int(entry.name)] = (entry / "cmdline").read_bytes()
    return found


def environment_of(pid: int) -> dict[str, str]:
    """Return the environment of a process; an empty one if it is gone."""
    with contextlib.suppress(OSError):
        pairs = Path(f"/proc/{pid}/environ").read_bytes().decode().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if "=" in pair)
    return {}


def dumping(target: Target) -> list[int]:
    """Return the processes that dump this database (on Linux; none elsewhere)."""
    return [
        pid
        for pid, command in processes().items()
        if b"--snapshot=" in command and environment_of(pid).get("PGDATABASE") == target.database
    ]


_numbers = itertools.count(1)


def login(server: Target, rights: str = "") -> Target:
    """Return a new role of the server with `PASSWORD` and a name that needs quoting too."""
    name = f"ops: '{secrets.token_hex(4)}'\"@/%41\\"
    password = PASSWORD.replace("'", "''")
    say(server, f"CREATE ROLE {{}} LOGIN {rights} PASSWORD '{password}'", name)
    return with_other(server, user=name, password=PASSWORD)


def with_other(target: Target, **parameters: str | int) -> Target:
    """Return the target with other parameters."""
    more: dict[str, str | int] = {**target.parameters, **parameters}
    return Target.of(**more)


@contextlib.contextmanager
def database(
    server: Target,
    fill: Callable[[Connection], object] | None = None,
    *,
    name: str = "",
    options: str = "TEMPLATE template0",
) -> Iterator[Target]:
    """Within the block a database on the server, filled; the server's own role owns it."""
    target = server.with_database(name or f"fault_{next(_numbers)}_{os.getpid()}")
    say(server, "CREATE DATABASE {} " + options, target.database)
    try:
        if fill:
            with closing(connect(target, settings={"search_path": "public"})) as connection:
                fill(connection)
        yield target
    finally:
        say(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", target.database)


def say(target: Target, statements: str, *names: str) -> None:
    """Run statements, `{}` in them being names, in one transaction if they are several."""
    from psycopg import sql

    composed = sql.SQL(statements).format(*map(sql.Identifier, names)) if names else sql.SQL(statements)
    with closing(connect(target, settings={"search_path": "public"})) as connection:
        connection.execute(composed)


def ask(target: Target, question: str) -> Any:
    """Return the first value of the answer."""
    with closing(connect(target)) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return row[0]


def notes(connection: Connection) -> None:
    """Make a table that takes a dump more than one block."""
    connection.execute(
        "CREATE TABLE note AS SELECT g AS id, md5(g::text) || md5((-g)::text) AS body"
        f" FROM generate_series(1, {ROWS}) AS g"
    )


def rows_of(backup: Backup) -> Mapping[str, int]:
    return {table.name: table.rows for table in backup.manifest.tables}
