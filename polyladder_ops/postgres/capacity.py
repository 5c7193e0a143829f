"""What a server can bear: how many connections may work on it at the same time, and with how much memory each.

Asked is the server, not this machine: people restore from a laptop, and Fly's smallest database machine has 256 MB.
"""

from __future__ import annotations

import contextlib
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psycopg
from psycopg import pq

from polyladder_ops.postgres.session import translated

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from polyladder_ops.postgres.session import Connection

__all__ = ["Capacity", "is_small", "jobs", "read", "settings"]

_MB = 1 << 20
# A 256 MB machine is to get one job: pg_restore -j with index builds gets PostgreSQL killed there for want of memory.
_MEMORY_OF_A_JOB = 256 * _MB
# The kernel keeps a part for itself: a machine sold with 512 MB tells of 440 MB and more, one with 256 MB of some 210.
_SMALL = 400 * _MB
_SMALL_MAINTENANCE = 32 * _MB
_FOR_OTHERS = 3  # a look at what is going on, the app's health check, our own session that holds the lock
_MOST_JOBS = 8  # beyond it the one reader of the dump is what all wait for
_FAR_S = 0.02
_SHARING_A_CORE = 3
_MOST_MAINTENANCE = 1 << 30  # a larger sort gains nothing: by then it merges a handful of runs in one pass
_SHARED_BUFFERS = (
    4  # PostgreSQL's documentation (20.4.1) and Fly's image both give them a quarter of the memory
)


@dataclass(frozen=True)
class Capacity:
    """A server's size as far as it tells; `free_connections` are those that this role may open beside the one that asked."""

    cores: int | None
    memory_bytes: int
    free_connections: int
    maintenance_bytes: int
    round_trip_s: float = 0.0


def is_small(memory_bytes: int) -> bool:
    """Whether the server's machine has less than 512 MB: there a load that takes too much ends the live database, too."""
    return memory_bytes < _SMALL


def jobs(capacity: Capacity, wanted: int | None = None) -> int:
    """Return how many connections work at the same time, the one that asked among them.

    What somebody wants is bounded by the free connections only. Otherwise cores and memory bound it, and some
    connections stay free for others; where the cores are unknown there are two at least in all that is sold. Over a
    far link most connections wait for an answer most of the time, so more of them share the cores.
    """
    if wanted is not None:
        return max(1, min(wanted, capacity.free_connections + 1))
    cores, memory = capacity.cores or 2, capacity.memory_bytes // _MEMORY_OF_A_JOB
    cores *= _SHARING_A_CORE if capacity.round_trip_s > _FAR_S else 1
    return max(1, min(cores, memory, capacity.free_connections + 1 - _FOR_OTHERS, _MOST_JOBS))


def settings(capacity: Capacity, jobs: int) -> dict[str, str]:
    """Return the memory settings for each of this many sessions; the server's own stand if there is one.

    An eighth of the memory goes to index builds, which is what they are given while a server does nothing else (20.4.1:
    safe far above work_mem, since a session does one at a time), and leaves shared_buffers and the page cache alone.
    A parallel build keeps to the limit of its session, but takes a core for each worker: those that jobs leave.
    On a small machine the server's own limit does not stand, and nothing gets a worker.
    """
    if is_small(capacity.memory_bytes):
        return _on_a_small_machine(capacity.memory_bytes // 8 // jobs)
    shared = min(capacity.memory_bytes // 8 // jobs, _MOST_MAINTENANCE)
    most = max(shared, capacity.maintenance_bytes // jobs)
    chosen = {"maintenance_work_mem": f"{max(1, most // _MB)}MB"}
    if jobs > 1:
        chosen["max_parallel_maintenance_workers"] = str(max(0, (capacity.cores or 0) // jobs - 1))
    return chosen


def _on_a_small_machine(share: int) -> dict[str, str]:
    return {
        "maintenance_work_mem": f"{max(1, min(share, _SMALL_MAINTENANCE) // _MB)}MB",
        "max_parallel_maintenance_workers": "0",
        "max_parallel_workers_per_gather": "0",
    }


_FREE = """
WITH own AS (SELECT * FROM pg_catalog.pg_roles WHERE rolname = current_user),
     here AS (SELECT * FROM pg_catalog.pg_database WHERE datname = pg_catalog.current_database())
SELECT least(
    pg_catalog.current_setting('max_connections')::int
        - pg_catalog.current_setting('superuser_reserved_connections')::int
        - coalesce(pg_catalog.current_setting('reserved_connections', true)::int, 0)
        - (SELECT sum(numbackends) FROM pg_catalog.pg_stat_database),
    CASE WHEN rolconnlimit >= 0 AND NOT rolsuper THEN rolconnlimit
        - (SELECT count(*) FROM pg_catalog.pg_stat_activity a WHERE a.usesysid = own.oid) END,
    CASE WHEN datconnlimit >= 0 AND NOT rolsuper THEN datconnlimit
        - (SELECT numbackends FROM pg_catalog.pg_stat_database s WHERE s.datid = here.oid) END
)::int,
pg_catalog.pg_size_bytes(pg_catalog.current_setting('maintenance_work_mem')),
pg_catalog.pg_size_bytes(pg_catalog.current_setting('shared_buffers')),
pg_catalog.has_function_privilege('pg_catalog.pg_read_file(text, bigint, bigint, boolean)', 'EXECUTE')
FROM own, here
"""
_CPU_MAX, _MEMORY_MAX = (
    "/sys/fs/cgroup/cpu.max",
    "/sys/fs/cgroup/memory.max",
)  # a container's; a machine has none
_STATUS, _ONLINE, _MEMINFO = "/proc/self/status", "/sys/devices/system/cpu/online", "/proc/meminfo"
_FILES = (_CPU_MAX, _MEMORY_MAX, _STATUS, _ONLINE, _MEMINFO)


def read(connection: Connection) -> Capacity:
    """Return what the server of this connection has and has free. Raise OpsError if it fails.

    Cores and memory stand in files that superusers may read, on Linux. Otherwise
    the cores are unknown, and the memory is what its shared_buffers speak of.
    """
    with translated("could not ask the server for its size"):
        asked_at = time.monotonic()
        row = connection.execute(_FREE).fetchone()
        round_trip_s = time.monotonic() - asked_at
        assert row is not None
        free, maintenance, shared, may_read = row
        files = _files(connection, _FILES) if may_read else {}
    memory = _memory(files) or shared * _SHARED_BUFFERS
    return Capacity(_cores(files), memory, max(0, free), maintenance, round_trip_s)


# A file of the kernel has no length; only with one of ours is it read.
_READ = (
    "SELECT name, pg_catalog.pg_read_file(name, 0, 65536, true) FROM pg_catalog.unnest(%s::text[]) AS name"
)


def _files(connection: Connection, names: Sequence[str]) -> dict[str, str]:
    """Return what stands in the server's files, those left out that it has not or does not give."""
    inside = connection.info.transaction_status == pq.TransactionStatus.INTRANS
    try:
        with connection.transaction() if inside else contextlib.nullcontext():
            rows = connection.execute(_READ, [list(names)]).fetchall()
    except psycopg.DatabaseError:
        if connection.closed:
            raise
        # One round trip is enough almost everywhere; only where one file is refused each is asked for alone.
        each = [_files(connection, [name]) for name in names] if len(names) > 1 else []
        return {name: text for found in each for name, text in found.items()}
    return {name: text for name, text in rows if text}


def _memory(files: Mapping[str, str]) -> int | None:
    """Return the bytes of memory that the server may use: its machine's, or its container's if those are fewer."""
    total = re.search(r"^MemTotal:\s+(\d+) kB", files.get(_MEMINFO, ""), re.MULTILINE)
    limit = re.match(r"\d+", files.get(_MEMORY_MAX, ""))
    return min([*([int(total[1]) << 10] if total else []), *([int(limit[0])] if limit else [])], default=None)


def _cores(files: Mapping[str, str]) -> int | None:
    """Return how many cores may work for the server at the same time: those that run and are allowed, or its quota."""
    allowed = re.search(r"^Cpus_allowed_list:\s+(\S+)", files.get(_STATUS, ""), re.MULTILINE)
    sets = [set(_listed(text)) for text in (files.get(_ONLINE, ""), allowed[1] if allowed else "") if text]
    quota = re.match(r"(\d+) (\d+)", files.get(_CPU_MAX, ""))
    numbers = [len(set.intersection(*sets))] if sets else []
    numbers += [int(quota[1]) // int(quota[2])] if quota else []
    return max(1, min(numbers)) if numbers else None


def _listed(text: str) -> Iterator[int]:
    """Yield the numbers of the kernel's list, ``0-3,8``."""
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        yield from range(int(first), int(last or first) + 1)
