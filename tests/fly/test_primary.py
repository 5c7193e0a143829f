"""The machine to go to is found, and what stands in the way is said with its cure, before anything begins."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import machines, primary
from polyladder_ops.fly.machines import Machine
from tests.fly.conftest import DB, until

if TYPE_CHECKING:
    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud


def member(identifier: str = "m1", **changes: Any) -> Machine:
    return Machine(identifier, **{"state": "started", "role": "primary", "is_flex": True, **changes})


def test_the_stand_ins_database_machine_is_found(cloud: Cloud, caller: Flyctl) -> None:
    until(lambda: primary_state(caller) == "started")
    assert primary.find(caller, DB).role == "primary"


def primary_state(caller: Flyctl) -> str:
    return machines.read(caller.json(list, "machine", "list", "--json", app=DB))[0].state


@pytest.mark.parametrize("role", ["primary", "leader"])
def test_1_4_the_primary_is_told_from_its_replicas(role: str) -> None:
    found = (member("m1", role="replica"), member("m2", role=role), member("m3", role=""))
    assert primary.choose(found, DB).id == "m2"


@pytest.mark.parametrize(
    ("found", "kind", "said", "cure"),
    [
        ((), OpsError, "has no machine", "volumes list"),
        ((member(is_flex=False, image="flyio/postgres:14"),), Refused, "Stolon", "DATABASE_URL"),
        ((member("m1"), member("m2")), Refused, "has 2 primaries", "checks list"),
        ((member(state="stopped"),), OpsError, "no machine of polyladder-db is started", "machine start m1"),
        ((member(role="replica"),), OpsError, "holds the primary", "checks list"),
        ((member(role=""),), OpsError, "holds the primary", "checks list"),
        ((member(role="zombie"),), OpsError, "lost its quorum", "repmgr"),
        ((member(role="", is_known=False),), OpsError, "can't be reached", "another server"),
    ],
    ids=["none", "stolon", "split", "stopped", "replica", "no role", "zombie", "lost host"],
)
def test_what_stands_in_the_way_is_said_with_its_cure(
    found: tuple[Machine, ...], kind: type[OpsError], said: str, cure: str
) -> None:
    with pytest.raises(kind) as raised:
        primary.choose(found, DB)
    assert said in raised.value.message
    assert cure in raised.value.hint


def row(**changes: Any) -> dict[str, Any]:
    return {"id": "m1", "state": "started", **changes}


@pytest.mark.parametrize(
    ("check", "role"),
    [
        ({"name": "role", "status": "passing", "output": "primary"}, "primary"),
        ({"name": "role", "status": "critical", "output": "primary"}, ""),
        ({"name": "role", "status": "critical", "output": "zombie"}, "zombie"),
        ({"name": "pg", "status": "passing", "output": "primary"}, ""),
    ],
)
def test_1_4_a_role_counts_while_its_check_passes(check: dict[str, str], role: str) -> None:
    (found,) = machines.read([row(checks=[check])])
    assert found.role == role


@pytest.mark.parametrize(
    ("image", "is_flex"),
    [
        ({"repository": "flyio/postgres-flex"}, True),
        ({"repository": "flyio/postgres"}, False),
        ({"repository": "me/own", "labels": {"fly.pg-manager": "repmgr"}}, True),
        ({}, False),
    ],
)
def test_4_3_flex_is_known_by_its_image_or_its_label(image: dict[str, Any], is_flex: bool) -> None:
    (found,) = machines.read([row(image_ref=image)])
    assert found.is_flex is is_flex


def test_a_look_reads_sizes_socket_and_programs() -> None:
    text = (
        "port=5433\nsize=1042284544\nfree=800000000\nmemory=2.3e+08\nread_only=1\n"
        "socket=/var/run/postgresql/.s.PGSQL.5433\nsocat=1\npg_dump=pg_dump (PostgreSQL) 17.7\nend=1\n"
    )
    assert primary.parsed(text, "m1") == primary.Surroundings(
        5433,
        1042284544,
        800000000,
        230000000,
        "/var/run/postgresql/.s.PGSQL.5433",
        "pg_dump (PostgreSQL) 17.7",
        has_socat=True,
        is_read_only=True,
    )


def test_what_a_look_says_nothing_of_is_not_there() -> None:
    seen = primary.parsed("port=5433\nsize=1\nfree=1\nmemory=1\nzombie=1\nend=1\n", "m1")
    assert seen == primary.Surroundings(5433, 1, 1, 1, is_zombie=True)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "port=5433\nsize=1\nfree=1\nmemory=1\n",
        "port=x\nsize=1\nfree=1\nmemory=1\nend=1\n",
        "port=1\nsize=inf\nfree=1\nmemory=1\nend=1\n",
        "end=1\n",
    ],
)
def test_a_look_that_was_cut_is_none(text: str) -> None:
    with pytest.raises(OpsError, match="does not tell what it is like"):
        primary.parsed(text, "m1")
