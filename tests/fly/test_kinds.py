"""A database on Fly that this way does not lead to is refused by the name of its kind, with the two ways round."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.errors import Refused
from polyladder_ops.fly import primary
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.fly.machines import Machine
from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import DB, shown, until
from tests.test_tasks import project

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud

CLUSTER = {"id": "gjpkdonnk1lyq06e", "name": "pl-db", "region": "ams", "status": "ready"}


@pytest.fixture
def reader(cloud: Cloud, caller: Flyctl) -> Flyctl:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["fm2_org"] = "org"
        here.data["clusters"] = [{"id": "another", "name": "another"}, CLUSTER]
    return Flyctl(caller.program, "fm2_org", caller.config_dir)


def find(flyctl: Flyctl, app: str, slug: str = "personal") -> Any:
    return primary.find(flyctl, app, organisation=lambda: slug)


def test_a_managed_postgres_is_told_by_name_with_the_two_ways_round(reader: Flyctl) -> None:
    with pytest.raises(Refused) as raised:
        find(reader, "pl-db")
    assert raised.value.message.startswith("pl-db is a Managed Postgres")
    assert "gjpkdonnk1lyq06e" in raised.value.detail
    assert "`fly mpg proxy gjpkdonnk1lyq06e -p 16380`" in raised.value.hint
    assert "direct.gjpkdonnk1lyq06e.flympg.net" in raised.value.hint
    assert "DATABASE_URL" in raised.value.hint


def test_an_app_that_is_neither_is_said_not_to_be_there(reader: Flyctl) -> None:
    with pytest.raises(FlyError) as raised:
        find(reader, "nothing")
    assert raised.value.name == "unknown-app"


def test_no_cluster_at_all_is_english_and_changes_nothing(reader: Flyctl, cloud: Cloud) -> None:
    with world.changing(cloud.folder) as here:
        here.data["clusters"] = []
    with pytest.raises(FlyError, match="`fly machine list` failed"):
        find(reader, "pl-db")


@pytest.mark.parametrize("row", [{"name": "pl-db"}, {"id": "a b; c", "name": "pl-db"}, "pl-db", {"id": 7}])
def test_a_list_of_another_shape_names_nothing(row: Any, reader: Flyctl, cloud: Cloud) -> None:
    with world.changing(cloud.folder) as here:
        here.data["clusters"] = [row]
    with pytest.raises(FlyError, match="`fly machine list` failed"):
        find(reader, "pl-db")


def test_who_may_not_list_them_is_told_what_fly_said_first(caller: Flyctl, reader: Flyctl) -> None:
    """The stand-in's personal token is of the old kind, which Managed Postgres does not take."""
    assert reader.token
    with pytest.raises(FlyError) as raised:
        find(caller, "pl-db")
    assert raised.value.name == "unknown-app"


def test_an_organisation_that_can_not_be_told_changes_nothing(reader: Flyctl) -> None:
    def unknown() -> str:
        raise FlyError("Fly does not tell the organisation")

    with pytest.raises(FlyError, match="`fly machine list` failed"):
        primary.find(reader, "pl-db", organisation=unknown)


def test_an_app_that_is_there_asks_for_no_cluster(reader: Flyctl, cloud: Cloud) -> None:
    until(lambda: shown(cloud, DB)[0]["state"] == "started")
    find(reader, DB)
    assert [call[:2] for call in cloud.calls()] == [["machine", "list"]]


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ("flyio/postgres:14.6", "is a Fly Postgres of the old kind (Stolon)"),
        ("library/postgres:17-alpine", "is no Fly Postgres"),
        ("flyio/postgres-hand:1", "is no Fly Postgres"),
    ],
)
def test_another_kind_in_an_app_of_its_own_is_told_by_name_with_the_two_ways_round(
    image: str, said: str
) -> None:
    with pytest.raises(Refused) as raised:
        primary.choose((Machine("m1", "started", image=image),), DB)
    assert raised.value.message.startswith(f"{DB} {said}")
    assert image in raised.value.detail
    assert "`fly proxy 15432:5432 -a polyladder-db`" in raised.value.hint
    assert "polyladder-db.internal:5432" in raised.value.hint


@pytest.mark.parametrize("organisation", ["", "personal"])
@pytest.mark.parametrize("command", ["backup", "restore.status"])
def test_a_person_is_told_whatever_he_asks_for(
    command: str, organisation: str, reader: Flyctl, cloud: Cloud, tmp_path: Path
) -> None:
    """The organisation is the setting's, else the web app's."""
    home = project(
        tmp_path / "project",
        POLYLADDER_SITE="rehearsal",
        POLYLADDER_DB_APP="pl-db",
        POLYLADDER_FLYCTL=str(cloud.program),
        FLY_API_TOKEN=reader.token or "",
        **({"POLYLADDER_ORG": organisation} if organisation else {}),
    )
    ended = home.run(command)
    assert (ended.code, "error: pl-db is a Managed Postgres" in ended.err) == (4, True), ended
    assert "mpg proxy gjpkdonnk1lyq06e" in ended.err
