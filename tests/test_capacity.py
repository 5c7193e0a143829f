"""How much a server bears is asked of the server; what it does not tell is guessed on the small side."""

from __future__ import annotations

import os
import re
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import capacity, session
from polyladder_ops.postgres.capacity import Capacity
from polyladder_ops.postgres.conninfo import Target

if TYPE_CHECKING:
    from collections.abc import Iterator

MB = 1 << 20
capacities = st.builds(
    Capacity,
    cores=st.none() | st.integers(1, 256),
    memory_bytes=st.integers(MB, 1 << 40),
    free_connections=st.integers(0, 10_000),
    maintenance_bytes=st.integers(MB, 1 << 31),
)
# Fly's machines as they tell it: the kernel keeps a part of the memory for itself.
SMALLEST = Capacity(cores=1, memory_bytes=213 * MB, free_connections=280, maintenance_bytes=64 * MB)
USUAL = Capacity(cores=2, memory_bytes=3900 * MB, free_connections=280, maintenance_bytes=64 * MB)


def mb(found: dict[str, str]) -> int:
    size = re.fullmatch(r"(\d+)MB", found["maintenance_work_mem"])
    assert size, found
    return int(size[1])


# The rules ------------------------------------------------------------------------------------------------------------


def test_a_machine_of_256_mb_gets_one_job_whatever_it_says_of_cores() -> None:
    for cores in (None, 1, 8):
        small = Capacity(cores, SMALLEST.memory_bytes, 280, 64 * MB)
        assert capacity.jobs(small) == 1
        assert capacity.settings(small, 1) == {
            "maintenance_work_mem": "26MB",
            "max_parallel_maintenance_workers": "0",
            "max_parallel_workers_per_gather": "0",
        }


def test_below_512_mb_nothing_gets_a_worker_or_more_than_32_mb_whatever_the_server_is_set_to() -> None:
    for memory in range(100, 400, 10):
        small = Capacity(8, memory * MB, 280, 512 * MB)
        chosen = capacity.settings(small, capacity.jobs(small))
        assert capacity.jobs(small) == 1
        assert mb(chosen) <= 32
        assert (chosen["max_parallel_maintenance_workers"], chosen["max_parallel_workers_per_gather"]) == (
            "0",
            "0",
        )


def test_a_machine_sold_with_512_mb_is_not_a_small_one() -> None:
    assert capacity.is_small(SMALLEST.memory_bytes)
    sold = Capacity(cores=1, memory_bytes=446 * MB, free_connections=280, maintenance_bytes=64 * MB)
    assert not capacity.is_small(sold.memory_bytes)
    assert capacity.jobs(sold) == 1
    assert capacity.settings(sold, 1) == {"maintenance_work_mem": "64MB"}


def test_two_cores_get_two_jobs_that_share_an_eighth_of_the_memory() -> None:
    assert capacity.jobs(USUAL) == 2
    assert capacity.settings(USUAL, 2) == {
        "maintenance_work_mem": "243MB",
        "max_parallel_maintenance_workers": "0",
    }


def test_where_the_cores_are_unknown_two_are_assumed() -> None:
    assert capacity.jobs(Capacity(None, 8000 * MB, 280, 64 * MB)) == 2


def test_some_connections_stay_free_unless_somebody_wants_them() -> None:
    narrow = Capacity(cores=8, memory_bytes=8000 * MB, free_connections=4, maintenance_bytes=64 * MB)
    assert capacity.jobs(narrow) == 2
    assert capacity.jobs(narrow, 8) == 5
    full = Capacity(cores=8, memory_bytes=8000 * MB, free_connections=0, maintenance_bytes=64 * MB)
    assert capacity.jobs(full) == capacity.jobs(full, 8) == 1


def test_cores_that_the_jobs_leave_build_one_index_together() -> None:
    large = Capacity(cores=16, memory_bytes=64_000 * MB, free_connections=90, maintenance_bytes=64 * MB)
    assert capacity.settings(large, 4)["max_parallel_maintenance_workers"] == "3"
    assert capacity.settings(large, 8)["max_parallel_maintenance_workers"] == "1"


@given(capacities, st.none() | st.integers(1, 100))
def test_there_is_a_job_at_least_and_a_connection_for_each(room: Capacity, wanted: int | None) -> None:
    number = capacity.jobs(room, wanted)
    assert 1 <= number <= room.free_connections + 1
    assert number <= (wanted or 8)
    if wanted is None and number > 1:
        assert number * 256 * MB <= room.memory_bytes
        assert number <= (room.cores or 2)
        assert number <= room.free_connections - 2


@given(capacities, st.integers(1, 100))
def test_memory_for_index_builds_is_bounded_and_never_less_than_the_servers_own(
    room: Capacity, jobs: int
) -> None:
    one, each = mb(capacity.settings(room, 1)), mb(capacity.settings(room, jobs))
    assert one >= room.maintenance_bytes // MB or capacity.is_small(room.memory_bytes)
    assert each <= one
    own = max(1, room.maintenance_bytes // MB)
    assert each <= max(1024, own)
    assert (each - 1) * jobs * MB <= max(room.memory_bytes // 8, room.maintenance_bytes)


# A server -------------------------------------------------------------------------------------------------------------


@pytest.fixture
def ordinary(database: Target) -> Iterator[Target]:
    """A role without any right to speak of, with two connections, and a database that it may enter."""
    role = f"small_{database.database}"
    with closing(session.connect(database)) as connection:
        connection.execute(f"CREATE ROLE {role} LOGIN PASSWORD 'small' CONNECTION LIMIT 2".encode())
        yield Target.of(**{**database.parameters, "user": role, "password": "small"})
        connection.execute(f"DROP ROLE {role}".encode())


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells its size in files")
@pytest.mark.parametrize("inside", [False, True])
def test_a_superuser_is_told_cores_and_memory(database: Target, inside: bool) -> None:
    total = int(re.findall(r"MemTotal:\s+(\d+) kB", Path("/proc/meminfo").read_text())[0]) << 10
    with closing(session.connect(database)) as connection:
        if inside:
            connection.execute("BEGIN")
        found = capacity.read(connection)
    assert found.cores is not None
    assert 1 <= found.cores <= (os.cpu_count() or 1)
    assert 4 * 64 * MB < found.memory_bytes <= total  # which shared_buffers alone would speak of
    assert found.maintenance_bytes == 64 * MB


def test_another_role_is_told_what_shared_buffers_speak_of(ordinary: Target) -> None:
    with closing(session.connect(ordinary)) as connection:
        found = capacity.read(connection)
        shared = connection.execute("SELECT pg_size_bytes(current_setting('shared_buffers'))").fetchone()
    assert shared is not None
    assert (found.cores, found.memory_bytes) == (None, 4 * shared[0])


def test_free_connections_are_those_that_this_role_may_still_open(ordinary: Target, database: Target) -> None:
    with ExitStack() as opened:

        def connected(target: Target) -> session.Connection:
            return opened.enter_context(closing(session.connect(target)))

        first = connected(ordinary)
        assert capacity.read(first).free_connections == 1
        connected(ordinary)
        assert capacity.read(first).free_connections == 0
        superuser = connected(database)
        superuser.execute(f"ALTER DATABASE {database.database} CONNECTION LIMIT 3".encode())
        # No limit but the server's binds a superuser. Of 100 some are reserved and four are taken.
        assert 50 < capacity.read(superuser).free_connections <= 100 - 3 - 4
        with pytest.raises(OpsError, match="could not connect"):
            connected(ordinary)


def test_the_limit_of_a_database_counts(ordinary: Target, database: Target) -> None:
    with closing(session.connect(database)) as owner:
        owner.execute(f"ALTER ROLE {ordinary.user} CONNECTION LIMIT -1".encode())
        owner.execute(f"ALTER DATABASE {database.database} CONNECTION LIMIT 7".encode())
        with closing(session.connect(ordinary)) as connection:
            # The fixture's, the owner's and its own are three.
            assert capacity.read(connection).free_connections == 4


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="only Linux tells its size in files")
@pytest.mark.parametrize("inside", [False, True])
def test_a_file_that_is_refused_is_unknown_and_the_rest_is_read(database: Target, inside: bool) -> None:
    """No server reads /proc/self/mem from its beginning; the transaction around goes on."""
    names = ["/proc/self/mem", "/nowhere", capacity._MEMINFO]
    with closing(session.connect(database)) as connection:
        if inside:
            connection.execute("BEGIN")
        assert capacity._files(connection, names).keys() == {capacity._MEMINFO}
        assert capacity._files(connection, names[:2]) == {}
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_server_that_is_gone_is_an_error(database: Target) -> None:
    with closing(session.connect(database)) as connection, closing(session.connect(database)) as other:
        other.execute("SELECT pg_catalog.pg_terminate_backend(%s)", [connection.info.backend_pid])
        with pytest.raises(OpsError, match="could not ask the server for its size"):
            capacity.read(connection)
        with pytest.raises(psycopg.OperationalError):
            capacity._files(connection, capacity._FILES)


def test_an_older_server_is_asked_the_same(older_server: Target) -> None:
    with closing(session.connect(older_server)) as connection:
        assert capacity.read(connection).cores is not None


# What the kernel's files say ------------------------------------------------------------------------------------------

STATUS = "Name:\tpostgres\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,6\nMems_allowed_list:\t0\n"
MEMINFO = "MemTotal:        4025608 kB\nMemFree:          123 kB\n"


@pytest.mark.parametrize(
    ("files", "cores", "memory"),
    [
        ({}, None, None),
        ({capacity._STATUS: STATUS, capacity._MEMINFO: MEMINFO}, 5, 4025608 << 10),
        ({capacity._STATUS: STATUS, capacity._ONLINE: "0-1\n"}, 2, None),
        ({capacity._ONLINE: "0\n"}, 1, None),
        ({capacity._STATUS: STATUS, capacity._CPU_MAX: "200000 100000\n"}, 2, None),
        ({capacity._STATUS: STATUS, capacity._CPU_MAX: "50000 100000\n"}, 1, None),
        ({capacity._STATUS: STATUS, capacity._CPU_MAX: "max 100000\n"}, 5, None),
        ({capacity._MEMINFO: MEMINFO, capacity._MEMORY_MAX: "268435456\n"}, None, 1 << 28),
        ({capacity._MEMINFO: MEMINFO, capacity._MEMORY_MAX: "max\n"}, None, 4025608 << 10),
        ({capacity._MEMINFO: MEMINFO, capacity._MEMORY_MAX: "99999999999\n"}, None, 4025608 << 10),
    ],
)
def test_the_smaller_of_machine_and_container_counts(
    files: dict[str, str], cores: int | None, memory: int | None
) -> None:
    assert (capacity._cores(files), capacity._memory(files)) == (cores, memory)
