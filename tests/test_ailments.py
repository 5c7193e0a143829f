"""What ails a server that still answers, each brought about on a real one."""

from __future__ import annotations

import shutil
import tempfile
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import ailments
from polyladder_ops.postgres.condition import Condition, Slot, read
from polyladder_ops.postgres.session import connect
from polyladder_ops.sandbox import server as servers
from tests.conftest import FAST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.kept import Check
    from polyladder_ops.postgres.conninfo import Target


@pytest.fixture(scope="module")
def own(server: servers.Server) -> Iterator[Target]:
    """A server whose log grows to two files by itself."""
    folder = Path(tempfile.mkdtemp(prefix="plt-"))
    made = servers.create(folder, settings={**FAST, "max_wal_size": "32MB", "min_wal_size": "32MB"})
    yield made.target()
    made.remove()
    shutil.rmtree(folder, ignore_errors=True)


def run(target: Target, *statements: str) -> None:
    with closing(connect(target)) as connection:
        for statement in statements:
            connection.execute(statement.encode())


def found(target: Target) -> dict[str, Check]:
    return {each.name: each for each in ailments.look(target)}


def test_a_server_in_order_has_nothing(own: Target) -> None:
    assert all(each.ok for each in ailments.look(own))


def test_log_that_is_kept_for_a_slot_that_nobody_reads_is_named_with_its_cure(own: Target) -> None:
    more = ["CREATE TABLE public.filler ()", "SELECT pg_switch_wal()", "DROP TABLE public.filler"] * 4
    run(own, "SELECT pg_create_physical_replication_slot('of_a_gone_one', true)", *more)
    told = found(own)["log kept for slots"]
    assert told.ok is False
    assert not told.blocks
    assert "for of_a_gone_one" in told.detail
    with closing(connect(own)) as connection:
        (slot,) = read(connection, own.database).slots
    assert slot.kept_bytes > 32 << 20
    statement = told.hint.split("superuser: ")[1].split(" then")[0]
    run(own, statement)
    assert found(own)["log kept for slots"].ok


def test_a_slot_that_keeps_little_is_none(own: Target) -> None:
    run(own, "SELECT pg_create_physical_replication_slot('fresh', true)")
    try:
        assert found(own)["log kept for slots"].ok
    finally:
        run(own, "SELECT pg_drop_replication_slot('fresh')")


@pytest.mark.parametrize("value", ["on", "true", "yes", "1"])
def test_a_database_that_takes_no_writes_is_named_with_its_cure(value: str, own: Target) -> None:
    run(own, "CREATE DATABASE shut")
    shut = own.with_database("shut")
    try:
        run(own, f"ALTER DATABASE shut SET default_transaction_read_only = '{value}'")
        told = found(shut)["writes"]
        assert told.ok is False
        assert not told.blocks
        run(own, told.hint.split("by hand: ")[1])
        assert found(shut)["writes"].ok
    finally:
        run(own, "DROP DATABASE shut")


def test_several_slots_are_told_the_largest_first() -> None:
    told = ailments.judge(Condition((Slot("a", 3 << 30), Slot("b", 1 << 30))), "x")[0]
    assert "3.0 GiB for a, 1.0 GiB for b" in told.detail
    assert "pg_drop_replication_slot('a')" in told.hint
