"""Which volumes must be how large for a second copy, decided from Fly's list of them."""

from __future__ import annotations

from typing import Any

import pytest

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly import room
from polyladder_ops.fly.room import Step, Volume
from tests.fly.conftest import DB

A_GB = 1042284544  # what a file system on a volume of 1 GB tells
MINE = Volume("vol_1", "pg_data", 1, "m1")


def steps(*volumes: Volume, total: int = A_GB, wanted: float = 1.5) -> tuple[Step, ...]:
    return room.steps(volumes, "m1", DB, total_bytes=total, wanted_bytes=round(wanted * A_GB))


def test_whole_gigabytes_until_it_fits_and_one_more_at_least() -> None:
    assert steps(MINE) == (Step(MINE, 2),)
    assert steps(MINE, wanted=2.0) == (Step(MINE, 2),)
    assert steps(MINE, wanted=2.01) == (Step(MINE, 3),)
    assert steps(MINE, wanted=0.9) == (Step(MINE, 2),)


def test_the_command_is_one_that_a_person_can_type() -> None:
    (step,) = steps(MINE)
    assert step.command(DB) == "fly volumes extend vol_1 -s 2 -a polyladder-db -y"
    assert step.words == ("volumes", "extend", "vol_1", "-s", "2", "-y")


def test_replicas_get_as_much_and_before_the_primary() -> None:
    """What is loaded comes to them, too: one that is full stops, and with too few of them nobody may write."""
    replica = Volume("vol_2", "pg_data", 1, "m2")
    large, loose = Volume("vol_3", "pg_data", 10, "m3"), Volume("vol_4", "pg_data", 1)
    other = Volume("vol_5", "backups", 1, "m1x")
    assert steps(MINE, replica, large, loose, other) == (Step(replica, 2), Step(MINE, 2))


def test_a_machine_without_a_volume_is_told_of() -> None:
    with pytest.raises(OpsError, match="no volume of polyladder-db is attached to machine m1"):
        steps(Volume("vol_2", "pg_data", 1, "m2"))


def test_what_was_enlarged_and_is_not_seen_yet_is_not_enlarged_again() -> None:
    with pytest.raises(Refused) as raised:
        steps(Volume("vol_1", "pg_data", 2, "m1"))
    assert "must be restarted" in raised.value.message
    assert "`fly machine restart m1 -a polyladder-db`" in raised.value.hint


@pytest.mark.parametrize("found", [None, {}, [{}], [{"id": "vol_1"}], [{"id": "", "size_gb": 1}], ["vol_1"]])
def test_a_list_of_another_shape_is_not_read_as_none(found: Any) -> None:
    with pytest.raises(OpsError, match="of another shape"):
        room.read(found)


def test_a_volume_that_is_attached_to_nothing_has_no_machine() -> None:
    assert room.read([{"id": "vol_1", "name": "pg_data", "size_gb": 3, "attached_machine_id": None}]) == (
        Volume("vol_1", "pg_data", 3),
    )
