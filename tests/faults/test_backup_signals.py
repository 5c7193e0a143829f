"""A real `invoke backup` that somebody stops: at once, with nothing left, and the next one goes well."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.postgres.session import connect
from tests.faults.places import Place, ask, dumping, environment_of, left_in, processes, with_other
from tests.faults.tunnel import Tunnel, tunnel

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator


pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
HALF = 2_000_000  # bytes on one connection, which must be pg_dump's: it is among the rows
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="looks at processes in /proc")


@pytest.fixture
def stalled(place: Place) -> Iterator[Tunnel]:
    """A tunnel to the server that holds pg_dump's connection when it is among the rows."""
    with tunnel(place.target.port, hold_after=HALF) as made:
        yield made


def url(place: Place, by: Tunnel) -> str:
    return place.url().replace(f":{place.target.port}/", f":{by.port}/")


def dumping_half_way(place: Place, by: Tunnel, *arguments: str) -> subprocess.Popen[bytes]:
    process = place.start(*(arguments or ("backup",)), DATABASE_URL=url(place, by))
    assert by.held.wait(20), process.communicate(timeout=1)
    # Its rows arrive, so nobody asks the server for anything else any more.
    place.wait_for(lambda: [file for file in place.folder.rglob("*.gz") if file.stat().st_size > 100_000])
    if sys.platform == "linux":
        assert len(dumping(place.target)) == 1
    return process


def sent(process: subprocess.Popen[bytes], name: str, *, to_group: bool = False) -> None:
    number = getattr(signal, name)
    if to_group and sys.platform != "win32":
        os.killpg(process.pid, number)
    else:
        os.kill(process.pid, number)


def assert_only_the_clean_up_is_told(err: str, name: str) -> None:
    """The two folders of a run, before they are removed, and then why it ended."""
    *told, last = err.splitlines()
    assert [line.partition("/.run-")[0].split()[0] for line in told] == ["removing", "removing"], err
    assert last == f"error: interrupted by {name}"


@pytest.mark.parametrize(
    ("name", "to_group", "silent"),
    [
        pytest.param("SIGINT", False, False, id="SIGINT"),
        pytest.param("SIGINT", True, False, id="Ctrl-C"),
        pytest.param("SIGTERM", False, False, id="SIGTERM"),
        pytest.param("SIGTERM", False, True, id="SIGTERM and a server that has fallen silent"),
        pytest.param("SIGHUP", False, False, id="SIGHUP"),
    ],
)
def test_a_backup_that_is_stopped_leaves_nothing(
    name: str, to_group: bool, silent: bool, place: Place, stalled: Tunnel
) -> None:
    process = dumping_half_way(place, stalled)
    if silent:
        stalled.hold()
    sent(process, name, to_group=to_group)
    ended = place.end_of(process, within_s=6)
    assert ended.code == 130, ended.said
    assert ended.out == ""
    assert_only_the_clean_up_is_told(ended.err, name)
    place.holds()
    stalled.release()
    assert place.invoke("backup").code == 0
    place.holds(*(backup.id for backup in place.catalog.backups))


def test_an_impatient_second_ctrl_c_changes_nothing(place: Place, stalled: Tunnel) -> None:
    process = dumping_half_way(place, stalled)
    for _ in range(3):
        sent(process, "SIGINT", to_group=True)
        time.sleep(0.05)
    ended = place.end_of(process, within_s=7)
    assert ended.code in (130, -2), ended.said
    place.wait_for(lambda: not dumping(place.target))
    assert place.catalog.backups == ()
    stalled.release()
    place.succeeds()


@on_linux
def test_nobody_on_the_machine_sees_a_secret_while_it_runs(place: Place, stalled: Tunnel) -> None:
    (recipient,) = place.encrypting()
    process = place.start("backup", DATABASE_URL=url(place, stalled), BACKUP_AGE_RECIPIENTS=recipient)
    assert stalled.held.wait(20)
    for command in processes().values():
        place.keeps_secret(command.decode("utf-8", "replace"))
    (pid,) = dumping(place.target)
    place.keeps_secret(str(environment_of(pid)))
    assert not [name for name in environment_of(pid) if name in ("DATABASE_URL", "PGPASSWORD")]
    assert list(place.private.rglob("pgpass")) == []  # it has logged in
    assert [oct(run.stat().st_mode & 0o777) for run in place.folder.glob(".run-*")] == ["0o700"]
    stalled.release()
    ended = place.end_of(process)
    assert ended.code == 0, ended.said
    place.holds(*(backup.id for backup in place.catalog.backups))


@on_linux
def test_a_backup_that_is_killed_leaves_a_folder_that_the_next_one_sweeps(
    place: Place, stalled: Tunnel
) -> None:
    process = dumping_half_way(place, stalled)
    (orphan,) = dumping(place.target)
    sent(process, "SIGKILL")
    assert place.end_of(process).code == -9
    assert [name[:5] for name in left_in(place.folder) + left_in(place.private)] == [".run-", ".run-"]
    assert (len(place.catalog.backups), len(place.catalog.litter)) == (0, 0)
    stalled.release()
    place.wait_for(lambda: orphan not in processes(), within_s=5)
    assert place.invoke("backup").code == 0
    place.holds(*(backup.id for backup in place.catalog.backups))


@pytest.mark.parametrize("silent", [False, True])
def test_a_backup_that_waits_for_the_server_can_be_stopped(silent: bool, place: Place) -> None:
    waits = (
        "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'polyladder-ops'"
        " AND wait_event_type = 'Lock' AND datname = current_database()"
    )
    with (
        closing(connect(place.target, settings={"search_path": "public"})) as migration,
        tunnel(place.target.port) as by,
    ):
        migration.execute("BEGIN; LOCK TABLE note IN ACCESS EXCLUSIVE MODE")
        process = place.start("backup", DATABASE_URL=url(place, by))
        place.wait_for(lambda: ask(place.target, waits))
        if silent:
            by.hold()
        sent(process, "SIGTERM")
        ended = place.end_of(process, within_s=4.5)
        assert ended.code == 130
        assert_only_the_clean_up_is_told(ended.err, "SIGTERM")
        place.holds()
    place.succeeds()


@pytest.mark.parametrize("moment", ["exported", "progress", "dumped"])
def test_an_interrupt_at_any_moment_leaves_nothing(moment: str, place: Place) -> None:
    def interrupt(_event: object) -> None:
        raise KeyboardInterrupt("SIGINT")

    hooked: dict[str, Any] = {moment: interrupt}
    with pytest.raises(KeyboardInterrupt):
        place.take(**hooked)
    place.holds()
    place.succeeds()


def test_a_dump_that_stalls_is_given_up_after_the_time_that_the_command_line_says(
    place: Place, stalled: Tunnel
) -> None:
    process = dumping_half_way(place, stalled, "-T", "1", "backup")
    ended = place.end_of(process, within_s=15)
    assert ended.code == 1
    # By its own clock, or by that of a wait for the server; which comes first is chance.
    ours, its = "error: pg_dump said nothing for 1 s and was ended", "error: pg_dump was ended: nothing came"
    assert ours in ended.err or its in ended.err
    place.holds()


def test_a_session_that_is_idle_while_pg_dump_works_is_not_cut(place: Place) -> None:
    def slow(_size: int) -> None:
        time.sleep(0.5)  # a block is up to half a megabyte

    with tunnel(place.target.port, idle_s=0.8) as impatient:
        target = with_other(place.target, port=impatient.port)
        begun = time.monotonic()
        place.succeeds(target, progress=slow, beat_s=0.3)
        assert time.monotonic() - begun > 1.6
