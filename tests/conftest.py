"""Real servers and databases for the tests: one embedded PostgreSQL a worker, a fresh database a test."""

from __future__ import annotations

import contextlib
import itertools
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import portable, redaction
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox import server as servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Durability costs time, and no test of ours cuts the power.
FAST = {"fsync": "off", "full_page_writes": "off", "synchronous_commit": "off"}
SAMPLE_SCALE = 0.02
NOBODY_AT_FLY = str(Path(tempfile.gettempdir(), "nobody-at-fly"))
numbers = itertools.count(1)


@pytest.fixture(autouse=True)
def no_secret_of_another_test() -> Iterator[None]:
    """What one test told the redactor must not star out words in the output of the next."""
    before = dict(redaction._hidden)
    yield
    redaction._hidden.clear()
    redaction._hidden.update(before)


@pytest.fixture(scope="session", autouse=True)
def nobody_is_logged_in_at_fly() -> Iterator[None]:
    """Whose machine this is may be: no test asks the real Fly."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FLY_CONFIG_DIR", NOBODY_AT_FLY)
        yield


@pytest.fixture(scope="session")
def need() -> Callable[[object, str], None]:
    """A call that skips the test, loudly, if what it needs is not there; in CI that is a failure."""

    def demand(component: object, reason: str) -> None:
        if component:
            return
        if os.environ.get("CI") == "true":
            pytest.fail(f"missing in CI: {reason}")
        pytest.skip(reason)

    return demand


@pytest.fixture(scope="session")
def server(need: Callable[[object, str], None]) -> Iterator[servers.Server]:
    """A running embedded server for the whole session; its databases are the tests' own."""
    try:
        servers.programs()
    except OpsError as error:
        need(None, str(error))
    sweep()
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    made = servers.create(folder, settings=FAST)
    yield made
    made.remove()


def sweep() -> None:
    """Remove the servers of test runs that were killed: they would run for ever."""
    for state in Path(tempfile.gettempdir()).glob("plt-*/server.json"):
        with contextlib.suppress(OSError, OpsError):
            if not portable.is_alive(place.read(state.parent).maker):
                servers.Server(state.parent).remove()


def run(target: Target, statement: str, *values: str) -> None:
    """Run the statement that the server's format() makes of `statement` and names."""
    with connect(target) as connection:
        question = "SELECT format(%s::text" + ", %s::text" * len(values) + ")"
        made = connection.execute(question.encode(), [statement, *values]).fetchone()
        assert made is not None
        connection.execute(made[0])


@pytest.fixture
def database(server: servers.Server) -> Iterator[Target]:
    """A fresh empty database, gone after the test."""
    target = server.target(f"test_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE template0", target.database)
    yield target
    run(server.target(), "DROP DATABASE IF EXISTS %I WITH (FORCE)", target.database)


@pytest.fixture(scope="session")
def sample(server: servers.Server) -> Target:
    """The sandbox's database, about 1 MB: to read only, and without a connection left open, since it is a template."""
    target = server.target("sample")
    seed.fill(target, scale=SAMPLE_SCALE)
    return target


@pytest.fixture
def sample_database(server: servers.Server, sample: Target) -> Iterator[Target]:
    """A copy of the sandbox's database with all its properties, gone after the test."""
    target = server.target(f"polyladder_{next(numbers)}")
    run(server.target(), "CREATE DATABASE %I TEMPLATE %I", target.database, sample.database)
    seed.set_properties(target)  # a template does not hand them on
    yield target
    run(server.target(), "DROP DATABASE IF EXISTS %I WITH (FORCE)", target.database)


@pytest.fixture(scope="session")
def older_server(need: Callable[[object, str], None]) -> Iterator[Target]:
    """The oldest PostgreSQL from 15 to 17 that the system has installed, running for the session."""
    if sys.platform != "linux":
        pytest.skip("an older server is looked for in /usr/lib/postgresql only")
    found = [bin_ for major in (15, 16, 17) if (bin_ := Path(f"/usr/lib/postgresql/{major}/bin")).is_dir()]
    need(found, "no PostgreSQL 15, 16 or 17 in /usr/lib/postgresql (apt-get install postgresql)")
    account = portable.system_account(place.ACCOUNT)
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    password = secrets.token_urlsafe()
    portable.write_private(folder / "password", password)
    for path in (folder, folder / "password"):
        portable.give_to(path, account)

    def call(*argv: str) -> None:
        program = [str(found[0] / argv[0]), *argv[1:]]
        with (folder / "said").open("wb") as said:
            done = subprocess.run(
                program,
                cwd=folder,
                env=portable.clean_environment(),
                stdout=said,
                stderr=said,
                check=False,
                **portable.acting_as(account),
            )
        assert done.returncode == 0, (folder / "said").read_text()

    port = place.free_port()
    call("initdb", "-D", "data", "-U", "postgres", "-E", "UTF8", "--locale=C.UTF-8", "-N",
         "--auth=scram-sha-256", "--pwfile=password")  # fmt: skip
    call("pg_ctl", "start", "-w", "-D", "data", "-l", "log", "-o",
         f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off")  # fmt: skip
    yield Target.of(host="127.0.0.1", port=port, user="postgres", password=password, dbname="postgres")
    call("pg_ctl", "stop", "-m", "immediate", "-D", "data")
    shutil.rmtree(folder)
