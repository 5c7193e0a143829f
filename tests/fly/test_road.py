"""From a token to a proved backup: a real server that nobody reaches but through the stand-in's tunnel and SSH."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops import backups, verification
from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import road
from polyladder_ops.postgres.session import connect
from tests.faults.places import rows_of
from tests.fly.conftest import DATABASE, DB, opening, target_of, until

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.road import Road
    from polyladder_ops.sandbox import server as servers
    from polyladder_ops.sandbox.fly.cloud import Cloud


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
    ],
)
def test_what_the_machine_lacks_is_said(
    way: Road, changes: dict[str, Any], kind: type[OpsError], said: str
) -> None:
    road._expect(way.seen, way.machine, DB)
    with pytest.raises(kind, match=said):
        road._expect(replace(way.seen, **changes), way.machine, DB)


def test_another_role_is_not_let_in_by_the_socket(way: Road) -> None:
    other = target_of(way).changed(user="nobody")
    with pytest.raises(OpsError, match="could not connect"), connect(other):
        pytest.fail("it was let in")


def test_a_login_of_a_run_comes_in_by_the_servers_port(way: Road) -> None:
    there = target_of(way)
    with connect(there) as connection:
        connection.execute(b"CREATE ROLE of_a_run LOGIN PASSWORD 'of-a-run'")
        connection.execute(b"GRANT CONNECT ON DATABASE polyladder TO of_a_run")
        try:
            with connect(there.as_login("of_a_run", "of-a-run")) as other:
                row = other.execute(b"SELECT current_user, inet_server_addr() IS NOT NULL").fetchone()
                assert row == ("of_a_run", True)
            with pytest.raises(OpsError, match="could not connect"), connect(there.as_login("of_a_run", "x")):
                pytest.fail("it was let in")
        finally:
            connection.execute(b"DROP OWNED BY of_a_run; DROP ROLE of_a_run")


def test_a_session_on_another_server_than_the_first_is_refused(way: Road) -> None:
    there = target_of(way)
    assert there.way is not None
    assert there.way.system_identifier
    other = replace(there, way=replace(there.way, system_identifier="7"))
    with pytest.raises(OpsError, match="another server answers"), connect(other):
        pytest.fail("it was taken")


def test_the_apps_databases_are_known(way: Road) -> None:
    assert way.databases == (DATABASE,)
