"""What befalls a backup on its way through Fly: each fault really happens, ends in time, is told with its cure, and leaves nothing."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups
from polyladder_ops.errors import OpsError
from polyladder_ops.fly import certificates, road, tunnel
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly import credentials, platform, world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.conftest import FAST, run
from tests.fly.conftest import APP, DB, set_world, shown, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    Provoke = Callable[["Scene"], AbstractContextManager[None]]


DATABASE = "polyladder"
LIMIT_S = 60.0
NOBODY = "http://127.0.0.1:9"


@dataclass
class Scene:
    """A backup that is taken by the road, and what its faults can change."""

    cloud: Cloud
    server: servers.Server
    flyctl: Flyctl
    api: Api
    folder: Path
    patch: pytest.MonkeyPatch
    there_before: set[int]
    said: list[str] = field(default_factory=list)

    def take(self) -> None:
        """Open the road and take a backup by it."""
        with road.opened(self.flyctl, self.api, DB, self.folder / "runs", say=self.said.append) as way:
            there, private = way.target(DATABASE), self.folder / "state"
            backups.take(there, self.folder / "backups", site="rehearsal", private=private)

    def put(self, **checked: str) -> None:
        """Give the database's app another machine, with this role by Fly's checks."""
        guest = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
        with world.changing(self.cloud.folder) as here:
            made = platform.make(here, DB, group="app", region="iad", guest=guest)
            made["shown"] |= {
                "state": "started",
                "checks": [{"name": "role", "status": "passing", **checked}],
            }
            made["until"] = None

    def files(self) -> list[str]:
        """What a run keeps for a moment, by name; locks may stay."""
        found = [path for path in (self.folder / "runs").rglob("*") if path.is_file()]
        return [path.name for path in found if "lock" not in path.name]


def environment(cloud: Cloud, server: servers.Server) -> dict[str, str]:
    return {
        "PGHOST": server.socket_folder,
        "PG_PORT": str(server.port),
        "PGDATA": f"{cloud.folder}/postgresql",
        "OPERATOR_PASSWORD": server.target().password,
    }


@pytest.fixture(scope="module")
def flex(need: Callable[[object, str], None]) -> Iterator[servers.Server]:
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=FAST, trusts_socket=True)
    seed.fill(made.target(DATABASE), scale=0.02)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def far(flex: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2, behind={flex.port: ("127.0.0.1", flex.port)})
    until(lambda: shown(made, DB)[0]["state"] == "started")
    made.open_ssh(DB, environment(made, flex))
    yield made
    made.remove()


@pytest.fixture(scope="module")
def base(far: Cloud) -> str:
    return far.start_api()


@pytest.fixture
def scene(
    far: Cloud, flex: servers.Server, base: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Scene]:
    """The scene before the fault, and again after it; what takes a minute takes some seconds here."""
    monkeypatch.setattr(tunnel, "opened", partial(tunnel.opened, limit_s=6.0))
    monkeypatch.setattr("polyladder_ops.fly.stream._SILENT_S", 1.0)
    monkeypatch.setattr("polyladder_ops.fly.remote._ANSWER_S", 2.0)
    env = environment(far, flex)
    machine = world.seen(far.folder).machines(DB)[0]
    if machine["ssh"]["env"] != env or not listens(*machine["behind"]["22"]):
        far.open_ssh(DB, env)
    before = world.seen(far.folder).data
    flyctl = Flyctl(str(far.program), far.token, tmp_path / "config")
    yield Scene(
        far, flex, flyctl, Api(far.token, base, timeout_s=10), tmp_path, monkeypatch, on_the_machine(flex)
    )
    with world.changing(far.folder) as here:
        here.data.clear()
        here.data.update(before)


def listens(host: str, port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((host, port), timeout=5).close()
        return True
    return False


def fault(name: str, times: int | None = None, **data: Any) -> Provoke:
    """What the stand-in does by a switch."""

    @contextlib.contextmanager
    def on(scene: Scene) -> Iterator[None]:
        set_world(scene.cloud, **data)
        scene.cloud.switch(name, times=times)
        yield

    return on


def shows(**changes: Any) -> Provoke:
    """What Fly shows of the machine."""

    @contextlib.contextmanager
    def on(scene: Scene) -> Iterator[None]:
        with world.changing(scene.cloud.folder) as here:
            here.machines(DB)[0]["shown"].update(changes)
        yield

    return on


def beside(*roles: str) -> Provoke:
    """Which other machines there are."""

    @contextlib.contextmanager
    def on(scene: Scene) -> Iterator[None]:
        for role in roles:
            scene.put(output=role)
        yield

    return on


def finds(**env: str) -> Provoke:
    """What programs on the machine find in their environment."""

    @contextlib.contextmanager
    def on(scene: Scene) -> Iterator[None]:
        scene.cloud.open_ssh(DB, {**environment(scene.cloud, scene.server), **env})
        yield

    return on


@contextlib.contextmanager
def a_standby(scene: Scene) -> Iterator[None]:
    signal_file = Path(place.read(scene.server.folder).home, "data", "standby.signal")
    scene.server.stop()
    signal_file.touch()
    try:
        scene.server.start()
        scene.cloud.open_ssh(DB, environment(scene.cloud, scene.server))
        yield
    finally:
        scene.server.stop()
        signal_file.unlink()
        scene.server.start()


@contextlib.contextmanager
def file_of_flys(name: str, scene: Scene) -> Iterator[None]:
    (scene.cloud.folder / name).touch()
    try:
        yield
    finally:
        (scene.cloud.folder / name).unlink()


@contextlib.contextmanager
def a_full_disk(scene: Scene) -> Iterator[None]:
    """As Fly's own watch leaves it: sessions may only read, and a file says so."""
    with file_of_flys("readonly.lock", scene):
        run(scene.server.target(), "ALTER DATABASE %I SET default_transaction_read_only = on", DATABASE)
        try:
            yield
        finally:
            run(scene.server.target(), "ALTER DATABASE %I RESET default_transaction_read_only", DATABASE)


@contextlib.contextmanager
def a_clock_that_is_wrong(scene: Scene) -> Iterator[None]:
    """Each certificate has expired, as this machine sees it."""
    scene.patch.setattr(certificates, "judged", partial(judged_later, certificates.judged))
    yield


def judged_later(judged: Any, key: str, text: str, *, now: float) -> Any:
    return judged(key, text, now=now + 7200)


@contextlib.contextmanager
def another_organisation(scene: Scene) -> Iterator[None]:
    set_world(scene.cloud, other_authorities={"other": credentials.new_key()})
    scene.cloud.switch("api-500")
    scene.patch.setenv("FLY_ORG", "other")
    yield


@contextlib.contextmanager
def keys_left_there(scene: Scene) -> Iterator[None]:
    scene.cloud.switch("api-500")
    runs = scene.folder / "runs"
    runs.mkdir(mode=0o700)
    for name in ("id", "id-cert.pub"):
        (runs / name).touch()
    yield
    for name in ("id", "id-cert.pub"):
        (runs / name).unlink()


@contextlib.contextmanager
def no_api(scene: Scene) -> Iterator[None]:
    scene.api = replace(scene.api, base=NOBODY)
    yield


@contextlib.contextmanager
def an_old_flyctl(scene: Scene) -> Iterator[None]:
    """It does not know what we ask of `fly proxy`."""
    program = scene.folder / "fly"
    body = f"""case $1 in proxy) echo 'Error: unknown flag: --watch-stdin' >&2; exit 1;; esac
exec {scene.cloud.program} "$@"
"""
    program.write_text(f"#!/bin/sh\n{body}", encoding="utf-8")
    program.chmod(0o700)
    scene.flyctl = replace(scene.flyctl, program=str(program))
    yield


@contextlib.contextmanager
def flyctl_killed(scene: Scene) -> Iterator[None]:
    """Each `fly proxy` dies as soon as a backup has begun."""
    is_over = threading.Event()

    def kill() -> None:
        while not is_over.wait(0.05):
            if (scene.folder / "backups").exists():
                for pid in proxies(scene.cloud):
                    with contextlib.suppress(OSError):
                        os.kill(pid, signal.Signals["SIGKILL"])

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield
    finally:
        is_over.set()
        thread.join()


def running(*words: str) -> list[int]:
    """The ids of processes whose command holds these words."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True)
    rows = [line.split(None, 1) for line in found.stdout.splitlines()]
    return [int(pid) for pid, command in rows if all(word in command for word in words)]


def proxies(cloud: Cloud) -> list[int]:
    return running(str(cloud.folder), " proxy ")


# By name: how it comes about, what is told of it, and where it leads on nevertheless, what was said on the way.
TOLD: dict[str, tuple[Provoke, tuple[str, ...]]] = {
    "two primaries": (beside("primary"), ("has 2 primaries", "fly checks list")),
    "a replica that checks call primary": (a_standby, ("is a standby", "Run it again in a moment")),
    "only a replica": (
        shows(checks=[{"name": "role", "status": "passing", "output": "replica"}]),
        ("holds the primary", "fly checks list"),
    ),
    "the machine stopped": (shows(state="stopped"), ("is started", "fly machine start")),
    "a host that is lost": (
        shows(host_status="unreachable", checks=[]),
        ("can't be reached", "another server"),
    ),
    "a zombie": (partial(file_of_flys, "zombie.lock"), ("is a zombie", "repmgr")),
    "a server that does not run": (
        finds(PG_PORT="9"),
        ("PostgreSQL does not run", "no socket of port 9", "fly logs"),
    ),
    "a proxy that closes each connection": (
        fault("tunnel-closes"),
        ("nobody answers at port 22", "closed the connection", "fly logs"),
    ),
    "a tunnel that is silent at once": (
        fault("tunnel-stalls", tunnel_after=0),
        ("nobody answers at port 22", "said nothing"),
    ),
    "a tunnel that falls silent in the dump": (
        fault("tunnel-stalls"),
        ("was lost", "does not answer", "from its beginning"),
    ),
    "a tunnel that is cut in the dump": (fault("tunnel-cuts"), ("was lost", "from its beginning")),
    "flyctl killed in the dump": (flyctl_killed, ("is gone", "signal 9", "from its beginning")),
    "no tunnel into the network": (fault("no-tunnel"), ("tunnel unavailable", "fly agent restart")),
    "a token without the app's network": (fault("no-network"), ("500", "fly tokens create")),
    "no network": (fault("api-down"), ("can't be reached from here", "your own network")),
    "too many calls": (fault("rate-limited"), ("429", "Wait a minute")),
    "an expired token": (fault("expired-token"), ("does not accept the token", "fly auth login")),
    "a token of another app": (fault("wrong-scope"), ("no right on it", "fly apps list")),
    "a flyctl that is too old": (an_old_flyctl, ("too old", "fly version upgrade")),
    "a flyctl that crashes": (fault("panic"), ("flyctl crashed", "fly version upgrade")),
    "a list that is cut": (fault("cut"), ("gave no list",)),
}
# A program outlives the connection that it was started by (contract 6.4, 31): the next run finds it by its name at the server.
AMID = (
    "a tunnel that falls silent in the dump",
    "a tunnel that is cut in the dump",
    "flyctl killed in the dump",
)
WORKS: dict[str, tuple[Provoke, tuple[str, ...]]] = {
    "several machines": (beside("replica", "replica"), ()),
    "a database that may only be read": (a_full_disk, ()),
    "noise on stdout": (fault("noise"), ()),
    "a proxy that closes the first connection": (fault("tunnel-closes", times=1), ()),
    "Fly's API that fails": (fault("api-500"), ()),
    "Fly's API that is not there": (no_api, ()),
    "keys that were left": (keys_left_there, ()),
    "an organisation that the shell names": (another_organisation, ()),
    "a certificate that seems expired": (a_clock_that_is_wrong, ("expired", "`fly ssh console`")),
    "no certificate for us": (fault("no-own-certificate"), ("no certificate", "`fly ssh console`")),
    "a machine that denies us": (fault("ssh-denies"), ("does not take", "`fly ssh console`")),
}


def test_a_backup_by_this_road_works_where_nothing_is_wrong(scene: Scene) -> None:
    scene.take()
    assert len(list((scene.folder / "backups").glob("*.json"))) == 1


@pytest.mark.parametrize("name", TOLD)
def test_what_stops_it_is_told_in_time_with_its_cure(scene: Scene, name: str) -> None:
    provoke, words = TOLD[name]
    with provoke(scene):
        began = time.monotonic()
        with pytest.raises(OpsError) as raised:
            scene.take()
        assert time.monotonic() - began < LIMIT_S
    for word in words:
        assert word in str(raised.value)
    assert raised.value.hint
    assert list((scene.folder / "backups").glob("polyladder_*")) == []
    expect_nothing_left(scene, also_there=name not in AMID)


@pytest.mark.parametrize("name", WORKS)
def test_what_need_not_stop_it_does_not(scene: Scene, name: str) -> None:
    provoke, words = WORKS[name]
    with provoke(scene):
        scene.take()
        for word in words:
            assert word in " ".join(scene.said)
    expect_nothing_left(scene)


def expect_nothing_left(scene: Scene, *, also_there: bool = True) -> None:
    """Return if no process and no file of the run is left, here or on the machine."""
    assert scene.files() == []
    assert proxies(scene.cloud) == []
    if also_there:
        until(lambda: not on_the_machine(scene.server) - scene.there_before)


def on_the_machine(server: servers.Server) -> set[int]:
    """The ids of the programs by which sessions of ours come to the server."""
    ours = (server.socket_folder, f"TCP:127.0.0.1:{server.port}")
    return {pid for each in ours for pid in running("socat", each)}
