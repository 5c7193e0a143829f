"""Whether a second copy fits: it, its log and a tenth of the disk; and how large a disk would do."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops import preflight
from polyladder_ops.postgres.volume import Volume
from polyladder_ops.restore import room
from polyladder_ops.restore.room import Room
from tests.test_preflight import MANIFEST, SERVER, found

MB = 1 << 20
GIB = 1 << 30
# What a machine of Fly's with a volume of 1 GB tells of it.
FLYS = 1042284544


def test_the_log_may_grow_by_as_much_as_is_loaded_until_the_server_s_limit() -> None:
    server = replace(SERVER, volume=Volume(FLYS, 700 * MB), live_bytes=200 * MB, wal_bytes=99 * MB)
    here = room.of(server)
    assert here is not None
    assert here.needed_bytes == 260 * MB + 99 * MB
    little = room.of(replace(server, live_bytes=10 * MB))
    assert little is not None
    assert little.needed_bytes == 26 * MB


def test_a_copy_whose_log_would_fill_the_disk_is_in_the_way() -> None:
    """On Fly the log keeps up to a tenth of the volume, and above nine tenths the live database turns read-only."""
    server = replace(SERVER, volume=Volume(FLYS, 400 * MB), live_bytes=200 * MB)
    assert found(server, plain_bytes=MB) == ()
    assert [each.item for each in found(replace(server, wal_bytes=99 * MB), plain_bytes=MB)] == ["space"]


def test_a_disk_that_is_not_seen_is_not_judged() -> None:
    assert room.of(replace(SERVER, volume=None)) is None


def test_without_a_backup_a_copy_of_the_live_database_is_meant() -> None:
    here, with_backup = room.of(SERVER), room.of(SERVER, MANIFEST)
    assert here is not None
    assert with_backup is not None
    assert here.needed_bytes == round(1.3 * GIB)
    assert with_backup.needed_bytes == round(1.5 * GIB)


@given(st.integers(1, 1 << 45), st.floats(0, 1), st.integers(0, 1 << 44))
def test_on_a_disk_of_the_wanted_size_a_copy_fits_and_nothing_stops_its_load(
    total: int, free_share: float, needed: int
) -> None:
    here = Room(total, round(total * free_share), needed)
    used = total - here.free_bytes
    larger = Room(here.wanted_bytes, here.wanted_bytes - used, needed)
    assert larger.is_enough
    assert used + needed <= here.wanted_bytes * room.FULL_SHARE


def test_a_machine_below_512_mb_is_warned_of_with_its_cure() -> None:
    (said,) = preflight.warnings(replace(SERVER, memory_bytes=213 * MB), "`fly scale memory 512 -a db`.")
    assert said.startswith("the server's machine has 213.0 MiB of memory: if it runs out")
    assert "the live database goes down with it" in said
    assert said.endswith("`fly scale memory 512 -a db`.")


def test_a_larger_machine_or_one_of_unknown_memory_is_not_warned_of() -> None:
    assert preflight.warnings(replace(SERVER, memory_bytes=446 * MB), "") == ()
    assert preflight.warnings(SERVER, "") == ()
