"""From a token to a proved backup: a real server that nobody reaches but through the stand-in's tunnel and SSH."""

from __future__ import annotations

import json
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import road
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import place, seed
from polyladder_ops.sandbox import server as servers
from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud
from tests.conftest import FAST
from tests.faults.places import rows_of
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.road import Road

DATABASE = "polyladder"


@pytest.fixture(scope="module")
def flex(need: Callable[[object, str], None]) -> Iterator[servers.Server]:
    """A server as Fly's image sets one up: its own socket lets the role postgres in without a password, and nobody else."""
    need(shutil.which("socat"), "no socat (apt-get install socat)")
    made = servers.create(Path(tempfile.mkdtemp(prefix="plt-")), settings=FAST)
    home = Path(place.read(made.folder).home)
    rules = home / "data" / "pg_hba.conf"
    rules.write_text(f"local all postgres trust\nlocal all all reject\n{rules.read_text()}", encoding="utf-8")
    with connect(made.target()) as connection:
        connection.execute(b"SELECT pg_reload_conf()")
    seed.fill(made.target(DATABASE), scale=0.02)
    yield made
    made.remove()


@pytest.fixture(scope="module")
def far(flex: servers.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    state = json.loads((flex.folder / "server.json").read_text(encoding="utf-8"))
    made = Cloud(tmp_path_factory.mktemp("far") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.2)
    until(lambda: shown(made, DB)[0]["state"] == "started")
    env = {"PGHOST": state["sockets"], "PG_PORT": str(state["port"]), "PGDATA": f"{made.folder}/postgresql"}
    made.open_ssh(DB, env)
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
def way(far: Cloud, base: str, deploy_token: str, tmp_path: Path) -> Iterator[Road]:
    before = len(far.calls())
    with opening(far, base, deploy_token, tmp_path) as made:
        assert [call[:2] for call in far.calls()[before:]] == [["machine", "list"], ["proxy", "0:22"]]
        yield made


def target_of(way: Road) -> Target:
    return Target.of(host=str(way.folder), port=way.port, user=road.USER, dbname=DATABASE)


def test_an_apps_own_token_leads_to_the_servers_own_socket(way: Road, flex: servers.Server) -> None:
    with connect(target_of(way)) as connection:
        row = connection.execute(b"SELECT current_user, inet_server_addr() IS NULL").fetchone()
        assert row == ("postgres", True)
        system = connection.execute(b"SELECT system_identifier::text FROM pg_control_system()").fetchone()
    assert system == (flex.system_identifier(),)


def test_a_backup_by_this_way_is_whole_and_the_bytes_came_through_it(
    way: Road, far: Cloud, flex: servers.Server, tmp_path: Path
) -> None:
    there = target_of(way)
    taken = backups.take(there, tmp_path / "backups", site="rehearsal", private=tmp_path / "state")
    with connect(flex.target(DATABASE)) as connection:
        rows = connection.execute(b"SELECT count(*) FROM public.users").fetchone()
    assert (rows_of(taken)["public.users"],) == rows
    assert verification.verify_stored(taken, []).passed
    proved = verification.verify_by_restore(taken, [], flex.target(), trusted=True)
    assert proved.passed, proved.reasons


def test_the_bytes_came_through_the_tunnel(far: Cloud, base: str, deploy_token: str, tmp_path: Path) -> None:
    before = len(far.carried())
    with opening(far, base, deploy_token, tmp_path) as made, connect(target_of(made)) as connection:
        connection.execute(b"SELECT repeat('x', 3000000)")
    until(lambda: sum(each["down"] for each in far.carried()[before:]) > 3_000_000)


@pytest.mark.parametrize(
    ("changes", "kind", "said"),
    [
        ({"is_zombie": True}, Refused, "lost its quorum"),
        ({"socket": ""}, OpsError, "does not run"),
        ({"has_socat": False}, OpsError, "has no socat"),
    ],
)
def test_what_the_machine_lacks_is_said(
    way: Road, changes: dict[str, Any], kind: type[OpsError], said: str
) -> None:
    road._expect(way.seen, way.machine, DB)
    with pytest.raises(kind, match=said):
        road._expect(replace(way.seen, **changes), way.machine, DB)


def test_another_role_is_not_let_in_by_the_socket(way: Road) -> None:
    other = Target.of(**{**target_of(way).parameters, "user": "nobody"})
    with pytest.raises(OpsError, match="could not connect"), connect(other):
        pytest.fail("it was let in")
