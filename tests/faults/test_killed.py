"""What `kill -9` and Ctrl-C leave: no running scratch server, no row of production's, no password, whenever it comes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import threading
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import session
from polyladder_ops.postgres.conninfo import parse
from polyladder_ops.sandbox import place as places
from polyladder_ops.sandbox import server as servers
from tests.test_tasks import Project, project, url

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="looks into /proc, and Windows has no SIGKILL"
)
LONG_S = 120.0
ROW = "production-row-4711"


@pytest.fixture
def state() -> Iterator[Path]:
    """A state folder that every account may enter: all of a scratch server lies in it then."""
    with tempfile.TemporaryDirectory(prefix="plt-") as made:
        Path(made).chmod(0o711)
        yield Path(made)


@pytest.fixture
def shop(sample_database: Target, state: Path, tmp_path: Path) -> Project:
    """A project with one backup, of a database that takes a moment to load."""
    with closing(session.connect(sample_database)) as connection:
        connection.execute(f"CREATE TABLE public.seen AS SELECT '{ROW}' AS a".encode())
    made = project(
        tmp_path / "project",
        DATABASE_URL=url(sample_database),
        BACKUP_DIR=str(tmp_path / "backups"),
        POLYLADDER_STATE_DIR=str(state),
    )
    assert made.ask("backup").code == 0
    return made


def wait(until: Callable[[], object], why: str) -> None:
    deadline = time.monotonic() + LONG_S
    while not until():
        assert time.monotonic() < deadline, why
        time.sleep(0.002)


def folder(state: Path) -> Path | None:
    return next((path for path in state.glob("scratch/*") if path.is_dir()), None)


def remembered(state: Path) -> places.State | None:
    with contextlib.suppress(OpsError):
        if there := folder(state):
            return places.read(there)
    return None


def home(state: Path) -> Path | None:
    return Path(found.home) if (found := remembered(state)) else None


def has(state: Path, name: str) -> bool:
    there = home(state)
    return there is not None and (there / name).exists()


def processes(state: Path) -> dict[int, str]:
    """Return what runs in this folder or names it: server, initdb, guardian."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if str(state) in command or str(state) in str((path / "cwd").readlink()):
                found[int(path.name)] = command
    return found


def is_loading(state: Path) -> bool:
    """Whether a copy of the backup is being made on the scratch server."""
    there = remembered(state)
    if there is None or not there.system_identifier:
        return False
    with contextlib.suppress(OpsError, OSError):
        at = folder(state)
        assert at is not None
        with closing(session.connect(servers.Server(at).target())) as connection:
            question = b"SELECT count(*) FROM pg_database WHERE datname NOT IN ('postgres', 'template0', 'template1')"
            row = connection.execute(question).fetchone()
            return row is not None and row[0] > 0
    return False


def killed(process: subprocess.Popen[str], state: Path) -> Path | None:
    """Kill the run and return where its server's sockets were, if it had any."""
    there = remembered(state)
    process.kill()
    process.communicate()
    assert process.returncode == -9
    return Path(there.sockets) if there and there.sockets else None


def nothing_is_left(state: Path, sockets: Path | None) -> None:
    def gone() -> bool:
        return not processes(state) and not list(state.glob("scratch/*"))

    wait(gone, f"still there: {processes(state)} {list(state.glob('scratch/**'))}")
    assert sockets is None or not sockets.exists()


def test_a_proof_that_is_killed_leaves_no_server_and_no_rows(shop: Project, state: Path) -> None:
    process = shop.start("verify", "--backup=latest", "--level=restore")
    wait(lambda: is_loading(state) or process.poll() is not None, "no proof began")
    sockets = killed(process, state)
    nothing_is_left(state, sockets)


INSTANTS: dict[str, Callable[[Path], object]] = {
    "as its folder is locked": lambda state: list(state.glob("scratch/*")),
    "as its folder is made": folder,
    "as its home is made": lambda state: (at := home(state)) and at.is_dir(),
    "while initdb is at work": lambda state: has(state, "data"),
    "as initdb is done": lambda state: has(state, "data/PG_VERSION"),
    "as it starts": lambda state: has(state, "data/postmaster.pid"),
}


@pytest.mark.parametrize("instant", INSTANTS.values(), ids=INSTANTS)
def test_a_proof_that_is_killed_while_its_server_is_made_leaves_nothing(
    instant: Callable[[Path], object], shop: Project, state: Path
) -> None:
    process = shop.start("verify", "--backup=latest", "--level=restore")
    wait(lambda: instant(state) or process.poll() is not None, "it did not come so far")
    sockets = killed(process, state)
    nothing_is_left(state, sockets)


INTERRUPTED = {**INSTANTS, "while it loads": is_loading}


@pytest.mark.parametrize("instant", INTERRUPTED.values(), ids=INTERRUPTED)
def test_a_proof_that_is_interrupted_leaves_nothing_not_even_an_empty_lock(
    instant: Callable[[Path], object], shop: Project, state: Path
) -> None:
    process = shop.start("verify", "--backup=latest", "--level=restore")
    wait(lambda: instant(state) or process.poll() is not None, "it did not come so far")
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=LONG_S)
    assert process.returncode == 130, said
    assert processes(state) == {}
    assert list(state.glob("scratch/*")) == []


def test_a_proof_that_ends_by_itself_leaves_neither_server_nor_guardian(shop: Project, state: Path) -> None:
    done = shop.run("verify", "--backup=latest", "--level=restore", "--json")
    assert (done.code, json.loads(done.out)["verdict"]) == (0, "passed"), done.err
    assert processes(state) == {}
    assert list(state.glob("scratch/*")) == []


class Written:
    """Looks all the time, in a thread, for a text in the files of some folders."""

    def __init__(self, text: str, *folders: Path) -> None:
        self.found: set[str] = set()
        self.looks = 0
        self._text, self._folders = text.encode(), folders
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.look()

    def _watch(self) -> None:
        while not self._over.is_set():
            self.look()

    def look(self) -> None:
        self.looks += 1
        for path in (path for folder in self._folders for path in files(folder)):
            with contextlib.suppress(OSError):  # gone again
                if self._text in path.read_bytes():
                    self.found.add(path.name)


def files(folder: Path) -> list[Path]:
    return [Path(place, name) for place, _, names in os.walk(folder) for name in names]


def has_begun(folder: Path, instant: str, process: subprocess.Popen[str]) -> bool:
    return process.poll() is not None or any(True for _ in folder.glob(instant))


def test_a_backup_that_is_killed_leaves_no_password_whenever_that_is(
    sample_database: Target, state: Path, tmp_path: Path
) -> None:
    shop = project(
        tmp_path / "project",
        DATABASE_URL=url(sample_database),
        BACKUP_DIR=str(tmp_path / "backups"),
        POLYLADDER_STATE_DIR=str(state),
    )
    # Whenever: so at no instant may it be there, not only at those at which this test happens to strike.
    with Written(sample_database.password, state, tmp_path / "backups") as written:
        for instant in (".run-*", ".run-*/*.gz", ".run-*/*.gz"):
            process = shop.start("backup")
            wait(partial(has_begun, tmp_path / "backups", instant, process), "no backup began")
            process.kill()
            process.communicate()
        assert shop.run("backup").code == 0
    assert written.looks > 10
    assert written.found == set()


def test_a_proof_whose_guardian_is_killed_with_it_is_ended_by_the_next_command(
    shop: Project, state: Path
) -> None:
    process = shop.start("verify", "--backup=latest", "--level=restore")
    wait(lambda: is_loading(state) or process.poll() is not None, "no proof began")
    at = folder(state)
    assert at is not None
    guardians = [pid for pid, command in processes(state).items() if "guardian" in command]
    assert len(guardians) == 1
    os.kill(guardians[0], 9)
    sockets = killed(process, state)
    assert servers.Server(at).is_running()
    done = shop.run("backup.list")
    assert (done.code, f"note: removed what a killed run left: {at}" in done.err) == (0, True)
    nothing_is_left(state, sockets)


def test_what_a_killed_proof_leaves_on_a_server_of_ones_own_the_next_proof_there_drops(
    server: servers.Server, shop: Project
) -> None:
    role = f"writer_{os.getpid()}"
    there = {**shop.variables, "POLYLADDER_SCRATCH_URL": url(server.target())}
    proving = Project(shop.root, there)

    def asked(question: str) -> list[tuple[str]]:
        with closing(session.connect(server.target())) as connection:
            return connection.execute(question.encode()).fetchall()

    def left() -> list[tuple[str]]:
        """Databases and logins of a proof, and the role that only the backup knows."""
        return asked(
            "SELECT datname::text FROM pg_database WHERE datname ~ '^polyladder_verify_' UNION ALL"
            f" SELECT rolname::text FROM pg_roles WHERE rolname ~ '^polyladder_[a-z]+_[0-9a-f]{{16}}$' OR rolname = '{role}'"
        )

    database = parse(shop.variables["DATABASE_URL"])
    with closing(session.connect(database)) as connection:
        connection.execute(f"CREATE ROLE {role}; ALTER TABLE public.seen OWNER TO {role}".encode())
        # So that a proof is at work for seconds, however busy the machine is that looks for it.
        connection.execute(b"CREATE TABLE public.slow (s int CHECK (pg_sleep(s)::text IS NOT NULL))")
        connection.execute(b"INSERT INTO public.slow VALUES (4)")
    assert shop.ask("backup").code == 0
    with closing(session.connect(database)) as connection:
        connection.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER; DROP ROLE {role}".encode())
    assert left() == []
    process = proving.start("verify", "--backup=latest", "--level=restore")
    wait(
        lambda: {role} < {name for (name,) in left()} or process.poll() is not None,
        "no database and role of a proof came",
    )
    process.kill()
    process.communicate()
    assert process.returncode == -9
    assert {role} < {name for (name,) in left()}
    mine = "SELECT pid::text FROM pg_stat_activity WHERE application_name LIKE 'polyladder-ops%' AND pid <> pg_backend_pid()"
    wait(lambda: not asked(mine), "the server does not let go of a killed proof's sessions")
    done = proving.run("verify", "--backup=latest", "--level=restore")
    assert (done.code, left()) == (0, []), done.err
