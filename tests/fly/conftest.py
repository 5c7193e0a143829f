"""The stand-in `fly` in a folder of the test, whose machines are only written down, with short moments."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.fly import road
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.fleet import Fleet, Pace
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres import clients
from polyladder_ops.sandbox import seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly import platform, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.conftest import FAST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.road import Road
    from polyladder_ops.postgres.conninfo import Target

APP = "polyladder"
DB = "polyladder-db"
DATABASE = "polyladder"


@dataclass(frozen=True)
class Said:
    """What a call said, apart by stream."""

    code: int
    out: str
    err: str

    @property
    def both(self) -> tuple[int, str]:
        return self.code, self.err


@pytest.fixture(autouse=True)
def not_on_windows() -> None:
    """The stand-in and the scripts of these tests are started by a line of shell."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for fly was not tried on Windows")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "fly")
    made.make(app=APP, db_app=DB, secrets={"DATABASE_URL": "postgres://old"}, moment_s=0.2, lease_s=2.0)
    yield made
    made.remove()


@pytest.fixture
def fly(cloud: Cloud) -> Callable[..., Said]:
    """Call the stand-in as a person would, logged in by FLY_API_TOKEN unless said otherwise."""

    def call(*words: str, stdin: str = "", **env: str) -> Said:
        environ = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        environ |= {"FLY_API_TOKEN": cloud.token, "HOME": str(cloud.folder / "nobody"), **env}
        done = subprocess.run(
            [str(cloud.program), *words],
            env={name: text for name, text in environ.items() if text},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def shown(cloud: Cloud, app: str = APP) -> list[dict[str, Any]]:
    """Return the app's machines as Fly's API would show them now."""
    return [each["shown"] for each in world.seen(cloud.folder).machines(app)]


def only(cloud: Cloud) -> str:
    """Return the id of the app's one machine."""
    (machine,) = shown(cloud)
    return str(machine["id"])


@pytest.fixture
def caller(cloud: Cloud, tmp_path: Path) -> Flyctl:
    """Our caller of flyctl, for the stand-in."""
    return Flyctl(str(cloud.program), cloud.token, tmp_path / "config")


# The stand-in's moments take 0.2 s by its clock; what is looked at after 0.5 s is over them, however slow we are.
PACE = Pace(settle_s=0.5, apart_s=0.5, limit_s=60.0)
DEADLINE_S = 60.0


@pytest.fixture
def fleet(caller: Flyctl, tmp_path: Path) -> Fleet:
    return Fleet(caller, APP, tmp_path / "state" / "fly", " --site=rehearsal", pace=PACE)


@pytest.fixture
def workers(tmp_path: Path) -> Iterator[Cloud]:
    """An app of two groups; the worker has no services, so nothing wakes it."""
    made = Cloud(tmp_path / "fly2")
    made.make(app=APP, db_app=DB, groups=("app", "worker"), moment_s=0.2, lease_s=2.0)
    yield made
    made.remove()


def fleet_of(cloud: Cloud, folder: Path) -> Fleet:
    return Fleet(Flyctl(str(cloud.program), cloud.token, folder / "config"), APP, folder, pace=PACE)


def until(is_so: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def states(cloud: Cloud) -> list[str]:
    return [each["state"] for each in shown(cloud)]


def autostarts(cloud: Cloud) -> list[object]:
    return [
        each["config"]["services"][0]["autostart"] for each in shown(cloud) if "services" in each["config"]
    ]


def calls(cloud: Cloud) -> list[str]:
    """The words of each call that asked Fly."""
    return [" ".join(call[:2]) for call in cloud.calls() if call[0] != "version"]


def put(cloud: Cloud, **changes: Any) -> str:
    """Another machine, as `make` takes it; return its id."""
    guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}
    with world.changing(cloud.folder) as here:
        made = platform.make(here, APP, **{"group": "app", "region": "iad", "guest": guest, **changes})
    return str(made["shown"]["id"])


def set_world(cloud: Cloud, **changes: Any) -> None:
    with world.changing(cloud.folder) as here:
        here.data.update(changes)


# The road: a real server that nobody reaches but through the stand-in's tunnel and SSH.


@pytest.fixture(scope="module")
def flex(need: Callable[[object, str], None]) -> Iterator[servers.Server]:
    """A server as Fly's image sets one up: its own socket lets the role postgres in without a password, and nobody else."""
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=FAST, trusts_socket=True)
    seed.fill(made.target(DATABASE), scale=0.02)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def far(flex: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    # As in Fly's image, the server's own programs are found first, but for what a test puts before them.
    path = os.pathsep.join(
        (str(made.folder / "programs"), str(clients.embedded_folder()), os.environ["PATH"])
    )
    env = {"PGHOST": flex.socket_folder, "PG_PORT": str(flex.port), "PGDATA": f"{made.folder}/postgresql"}
    made.open_ssh(DB, {**env, "PATH": path})
    yield made
    made.remove()


@pytest.fixture(scope="module")
def base(far: Cloud) -> str:
    return far.start_api()


@pytest.fixture
def deploy_token(far: Cloud) -> str:
    with world.changing(far.folder) as here:
        here.data["tokens"]["fm2_deploy_db"] = f"deploy:{DB}"
    return "fm2_deploy_db"


def opening(far: Cloud, base: str, token: str, folder: Path) -> Any:
    return road.opened(
        Flyctl(str(far.program), token, folder / "config"), Api(token, base), DB, folder / "runs"
    )


@pytest.fixture
def opens(far: Cloud, base: str, deploy_token: str, tmp_path: Path) -> Callable[[], Any]:
    """Open the road, as a context."""
    return lambda: opening(far, base, deploy_token, tmp_path)


@pytest.fixture
def way(far: Cloud, base: str, deploy_token: str, tmp_path: Path) -> Iterator[Road]:
    before = len(far.calls())
    with opening(far, base, deploy_token, tmp_path) as made:
        assert [call[:2] for call in far.calls()[before:]] == [["machine", "list"], ["proxy", "0:22"]]
        yield made


def target_of(way: Road) -> Target:
    return way.target(DATABASE)
