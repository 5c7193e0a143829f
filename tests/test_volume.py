"""The space below a server's data: seen where it can be, never another machine's taken for it, else unknown."""

from __future__ import annotations

import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.postgres import session, volume
from polyladder_ops.postgres.volume import Volume
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server

MIB = 1 << 20


@pytest.fixture
def connection(server: Server) -> Iterator[Connection]:
    with closing(session.connect(server.target())) as opened:
        yield opened


def data_folder(connection: Connection) -> Path:
    row = connection.execute("SELECT current_setting('data_directory')").fetchone()
    assert row is not None
    return Path(row[0])


def about(one: Volume | None, total: int, free: int) -> bool:
    """Whether a volume is this one; others write to the disk meanwhile, and df counts whole blocks."""
    return (
        one is not None
        and abs(one.total_bytes - total) < total / 8
        and abs(one.free_bytes - free) < 256 * MIB
    )


def test_the_share_that_is_used() -> None:
    assert Volume(1000, 150).used_share == pytest.approx(0.85)


def test_a_server_on_this_machine_is_looked_at_directly(connection: Connection) -> None:
    usage = shutil.disk_usage(data_folder(connection))
    assert about(volume._near(connection), usage.used + usage.free, usage.free)
    assert about(volume.measure(connection), usage.used + usage.free, usage.free)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no df")
def test_a_server_is_asked_by_df_for_a_role_that_may_run_programs(connection: Connection) -> None:
    usage = shutil.disk_usage(data_folder(connection))
    assert about(volume._far(connection), usage.used + usage.free, usage.free)
    row = connection.execute("SELECT to_regclass('pg_temp.polyladder_df')").fetchone()
    assert row == (None,)


def test_what_the_df_of_the_server_says_is_in_its_own_blocks(connection: Connection) -> None:
    seen = volume._far(connection)
    assert seen is None or 0 < seen.free_bytes <= seen.total_bytes


class Elsewhere:
    """A session with another machine's server, whose data folder has the name of one that is here."""

    def __init__(self, folder: Path, identifier: int) -> None:
        self._row = (str(folder), identifier)

    def execute(self, *_: object) -> Any:
        return self

    def fetchone(self) -> tuple[str, int]:
        return self._row


def test_a_folder_of_the_same_name_on_this_machine_is_not_taken_for_a_far_servers(
    connection: Connection, server: Server, tmp_path: Path
) -> None:
    folder, own = data_folder(connection), int(server.recorded_identifier)
    here: Any = Elsewhere(folder, own)
    other: Any = Elsewhere(folder, own + 1)
    empty: Any = Elsewhere(tmp_path, own)
    assert volume._near(here) is not None
    assert volume._near(other) is None
    assert volume._near(empty) is None


def test_who_may_neither_look_nor_run_programs_gets_no_answer_and_a_session_that_works(
    server: Server,
) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "volume_poor")
    poor: Target = server.target().of(
        **{**server.target().parameters, "user": "volume_poor", "password": "x"}
    )
    with closing(session.connect(poor)) as connection:
        assert volume.measure(connection) is None
        assert connection.execute("SELECT 1").fetchone() == (1,)
    run(server.target(), "DROP ROLE %I", "volume_poor")


def test_a_session_in_a_transaction_stays_in_it(server: Server) -> None:
    with closing(session.connect(server.target())) as connection, connection.transaction():
        connection.execute("CREATE TEMPORARY TABLE kept ()")
        volume._far(connection)
        assert connection.execute("SELECT count(*) FROM kept").fetchone() == (0,)
