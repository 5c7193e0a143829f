"""A server for proofs comes by itself where one of the backup's major can be had, else it is said what to install."""

from __future__ import annotations

import os
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import doctor
from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import clients, session
from polyladder_ops.sandbox import installations, place, server
from polyladder_ops.sandbox.installations import Installation, choose
from tests import majors
from tests.conftest import FAST, run
from tests.faults.places import Place

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.postgres.conninfo import Target

linux = pytest.mark.skipif(sys.platform != "linux", reason="servers of other majors are started on Linux")
SHOP = """
CREATE TABLE public.payment (id serial PRIMARY KEY, kind varchar(9) CHECK (kind IN ('card', 'cash')));
INSERT INTO public.payment (kind) VALUES ('card'), ('cash'); CREATE INDEX ON public.payment (kind);
"""
WHEEL = Installation(Path("/venv/bin"), 18, is_embedded=True)
LOCAL = Installation(Path("/usr/lib/postgresql/15/bin"), 15)


def shop(of: Target, folder: Path) -> Place:
    """Return a place whose database is a new one of this server."""
    run(of, "CREATE DATABASE %I TEMPLATE template0", "shop")
    with closing(session.connect(of.with_database("shop"))) as connection:
        connection.execute(SHOP.encode())
    return Place(of.with_database("shop"), folder / "backups", folder / "state" / "runs")


def path_with(*folders: Path) -> str:
    return os.pathsep.join([*map(str, folders), os.environ["PATH"]])


@pytest.fixture(scope="module", params=[13, 14, 15, 16, 17], ids=str)
def older(request: pytest.FixtureRequest, need: Callable[[object, str], None]) -> Iterator[Target]:
    need(majors.programs(request.param), f"no PostgreSQL {request.param} (python -m tests.majors)")
    with majors.running(request.param) as target:
        yield target


@linux
def test_a_backup_of_an_older_server_is_proved_without_naming_a_scratch_server(
    older: Target, tmp_path: Path
) -> None:
    with closing(session.connect(older)) as connection:
        major = connection.info.server_version // 10000
    there = majors.programs(major)
    assert there is not None
    made = shop(older, tmp_path)
    made.take()
    done = made.invoke("verify", "--backup=latest", "--level=restore", PATH=path_with(there))
    assert done.code == 0, done.said
    assert "restores" in done.out or "passed" in done.out
    assert not list((tmp_path / "state" / "scratch").glob("*"))


@linux
def test_without_a_server_of_its_major_nothing_is_proved_and_it_is_said_what_to_install(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    there = {one.major for one in installations.find()}
    major = next((m for m in (13, 14, 16, 17) if m not in there and majors.programs(m)), 0)
    if there >= {13, 14, 16, 17}:
        pytest.skip("all majors are installed here: none is missing")
    need(major, "no PostgreSQL 13, 14, 16 or 17 (python -m tests.majors)")
    with majors.running(major) as target:
        made = shop(target, tmp_path)
        made.take()
        done = made.invoke("verify", "--backup=latest", "--level=restore")
        said = made.invoke("doctor")
    assert done.code == 3, done.said
    assert f"`apt-get install postgresql-{major}`" in done.err
    assert f"POLYLADDER_SCRATCH_URL to a server of version {major}" in done.err
    assert f"`apt-get install postgresql-{major}`" in said.said


@pytest.mark.parametrize(
    ("found", "major", "chosen"),
    [((WHEEL, LOCAL), 15, LOCAL), ((WHEEL, LOCAL), 18, WHEEL), ((WHEEL, LOCAL), 16, WHEEL), ((LOCAL,), 15, LOCAL)],
    ids=["its own major", "the wheel's", "none of it: the wheel", "no wheel"],
)  # fmt: skip
def test_one_of_the_backups_major_is_chosen_before_any_other(
    found: tuple[Installation, ...], major: int, chosen: Installation
) -> None:
    assert choose(found, major) == chosen


def test_where_there_is_none_at_all_it_is_said_what_to_install() -> None:
    with pytest.raises(OpsError, match="no PostgreSQL 17 here") as caught:
        choose((LOCAL,), 17)
    assert "apt-get install postgresql-17" in caught.value.hint
    assert "brew install postgresql@17" in caught.value.hint


def test_of_a_major_that_no_debian_may_have_it_is_said_where_it_comes_from() -> None:
    """Debian 12 has 15 only: `apt-get install postgresql-16` ends there with "Unable to locate package"."""
    for hint in (installations.how_to_install(16), clients.for_debian("postgresql-client-16")):
        assert "`apt-get install postgresql-common`" in hint
        assert "`/usr/share/postgresql-common/pgdg/apt.postgresql.org.sh`" in hint
        assert "PostgreSQL's own repository" in hint


def test_doctor_says_what_to_install_for_a_proof() -> None:
    identity = session.Identity("1", "app", 1, "16.4", 16, is_standby=False, encoding="UTF8")
    answer = doctor.Answer(identity, size_bytes=1, uses_tls=True, is_local=False)
    assert "apt-get install postgresql-16" in doctor.judge_proof("x", 18, answer, is_same_server=False).hint


@linux
def test_a_client_alone_is_no_server(tmp_path: Path) -> None:
    for name in ("psql", "pg_dump", "postgres"):
        program = tmp_path / name
        program.write_text("#!/bin/sh\necho 'postgres (PostgreSQL) 15.4'\n")
        program.chmod(0o755)
    assert installations.examine(tmp_path) is None


@linux
def test_a_server_of_a_local_installation_is_as_closed_as_the_wheels(
    need: Callable[[object, str], None], tmp_path: Path
) -> None:
    """Loopback only, a password of its own, a folder that is its account's, nothing left of it."""
    folder = majors.programs(15)
    need(folder, "no PostgreSQL 15 (python -m tests.majors)")
    assert folder is not None
    local = installations.examine(folder)
    assert local is not None
    made = server.create(tmp_path / "scratch", settings=FAST, installation=local)
    try:
        with closing(session.connect(made.target())) as connection:
            shown = [
                connection.execute(f"SHOW {name}".encode()).fetchone()
                for name in ("server_version_num", "listen_addresses", "fsync")
            ]
            rules = connection.execute("SELECT DISTINCT auth_method FROM pg_hba_file_rules").fetchall()
        home = Path(place.read(tmp_path / "scratch").home)
        assert str(shown[0]).startswith("('15")
        assert shown[1:] == [(place.HOST,), ("off",)]
        assert rules == [("scram-sha-256",)]
        assert (home / "data").stat().st_mode & 0o077 == 0
        made.stop()
        made.start()
        assert made.system_identifier() == made.recorded_identifier
    finally:
        made.remove()
    assert not (tmp_path / "scratch").exists()
    assert not home.exists()
