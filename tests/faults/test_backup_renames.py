"""What is dropped while it is dumped, seen past the snapshot: dumped again, or no backup; never two spellings."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from polyladder_ops import loading, restoring
from tests.faults.places import Place, ask, say

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.snapshot import Snapshot
    from polyladder_ops.sandbox import server as servers


@pytest.fixture
def place(own_place: Place) -> Place:
    """The place of these tests has a database of its own; `note`, between the two other tables, keeps pg_dump busy."""
    return own_place


class Tries:
    """How often a dump was begun, and what is done once or each time after a snapshot or while rows come."""

    def __init__(self, place: Place, statements: str, *, always: bool = False) -> None:
        self.number = 0
        self._place, self._statements, self._always = place, statements, always
        self._done_in: list[int] = []

    def begun(self, _snapshot: Snapshot) -> None:
        self.number += 1

    def at_definitions(self, snapshot: Snapshot) -> None:
        self.begun(snapshot)
        self._do()

    def at_rows(self, _size: int) -> None:
        self._do()

    def _do(self) -> None:
        if self.number not in self._done_in and (self._always or not self._done_in):
            self._done_in.append(self.number)
            say(self._place.target, self._statements)


def come_back(backup: Backup, place: Place, server: servers.Server, question: str) -> object:
    """Return the answer of the backup, brought back on the same server and proved against its manifest."""
    name = f"{place.target.database}_back"
    restoring.make_database(server.target(), name, backup.manifest)
    try:
        loading.load(server.target(name), backup, [])
        assert list(restoring.prove(server.target(), name, backup, [])) == []
        return ask(server.target(name), question)
    finally:
        say(server.target(), "DROP DATABASE {} WITH (FORCE)", name)


@pytest.mark.parametrize(
    ("statements", "drop"),
    [
        (
            "ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO pg_monitor",
            "ALTER DEFAULT PRIVILEGES REVOKE SELECT ON TABLES FROM pg_monitor",
        ),
        (
            (
                "CREATE TYPE mood AS ENUM ('well'); CREATE CAST (mood AS bytea) WITH INOUT;"
                " CREATE CAST (mood AS int) WITH INOUT"
            ),
            "DROP CAST (mood AS bytea)",
        ),
        ("CREATE AGGREGATE total (int) (sfunc = int4pl, stype = int)", "DROP AGGREGATE total (int)"),
    ],
)
def test_what_is_dropped_while_its_name_is_read_is_dumped_again(
    statements: str, drop: str, place: Place, server: servers.Server
) -> None:
    say(place.target, statements)
    tries = Tries(place, drop)
    made = place.succeeds(exported=tries.at_definitions)
    come_back(made, place, server, "SELECT 1")
    assert tries.number == 2
