"""Places to back up from and to, and the servers that are in the way of it."""

from __future__ import annotations

import secrets
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres.conninfo import Target
from tests.faults.places import PASSWORD, Place, database, notes, say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.server import Server

linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def role(server: Server) -> Iterator[Target]:
    """A superuser of the server whose name and password need every kind of quoting, gone after the test."""
    made = login(server.target(), superuser=True)
    yield made
    say(server.target(), "DROP ROLE {}", made.user)


def login(server: Target, *, superuser: bool = False) -> Target:
    """Return a new role of the server, with `PASSWORD`."""
    name = f"ops: '{secrets.token_hex(4)}'\"@/%41\\"
    say(
        server,
        f"CREATE ROLE {{}} LOGIN {'SUPERUSER' * superuser} PASSWORD '" + PASSWORD.replace("'", "''") + "'",
        name,
    )
    return Target.of(host=server.host, port=server.port, user=name, password=PASSWORD, dbname=server.database)


@pytest.fixture
def place(role: Target, tmp_path: Path) -> Iterator[Place]:
    """A database with a table of 4 MB, and folders that are not there yet."""
    with database(role, notes) as target:
        yield Place(target, tmp_path / "backups", tmp_path / "state" / "runs")
