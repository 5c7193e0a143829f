"""A volume of the database's app is enlarged on the stand-in: when somebody agreed, seen afterwards, said where it is not so."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError, Refused
from polyladder_ops.fly.volumes import Host
from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import DB, calls, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud
    from tests.fly.conftest import Said

A_GB = 1042284544
VOLUME = "vol_4y6k1l2m3n"


@pytest.fixture
def asked() -> list[str]:
    return []


@pytest.fixture
def host(cloud: Cloud, caller: Flyctl, asked: list[str]) -> Host:
    def agree(question: str) -> bool:
        asked.append(question)
        return True

    return Host(caller, DB, shown(cloud, DB)[0]["id"], agree, lambda _sentence: None)


def size(cloud: Cloud) -> int:
    return int(world.seen(cloud.folder).apps[DB]["volumes"][0]["size_gb"])


def test_a_volume_is_enlarged_once_somebody_agreed_and_then_looked_at(
    host: Host, cloud: Cloud, asked: list[str]
) -> None:
    assert host.enlarge(A_GB, round(2.5 * A_GB))
    assert size(cloud) == 3
    assert calls(cloud) == ["volumes list", "volumes extend", "volumes list"]
    assert cloud.calls()[1] == ["volumes", "extend", VOLUME, "-s", "3", "-y", "-a", DB]
    (question,) = asked
    assert f"`fly volumes extend {VOLUME} -s 3 -a {DB} -y`" in question
    assert "can't be made smaller again" in question
    assert "restarted" in question


def test_without_a_yes_nothing_is_enlarged(host: Host, cloud: Cloud) -> None:
    assert not replace(host, agree=lambda _question: False).enlarge(A_GB, 2 * A_GB)
    assert size(cloud) == 1
    assert calls(cloud) == ["volumes list"]


def test_a_machine_that_must_be_restarted_first_is_told_of_and_is_not_restarted(
    host: Host, cloud: Cloud
) -> None:
    cloud.switch("extend-waits")
    with pytest.raises(Refused) as raised:
        host.enlarge(A_GB, 2 * A_GB)
    assert f"machine {host.machine} of {DB} must be restarted" in raised.value.message
    assert size(cloud) == 2
    with pytest.raises(Refused, match="must be restarted"):
        host.enlarge(A_GB, 2 * A_GB)
    assert size(cloud) == 2, "what is not seen yet is not paid for twice"


def test_an_extension_that_only_says_so_is_an_error(host: Host, cloud: Cloud) -> None:
    cloud.switch("extend-lies")
    with pytest.raises(OpsError, match=f"volume {VOLUME} of {DB} has 1 GB still"):
        host.enlarge(A_GB, 2 * A_GB)


@pytest.mark.parametrize("scope", [f"ssh:{DB}", "readonly"])
def test_a_token_that_may_not_is_told_which_may(scope: str, host: Host, cloud: Cloud, caller: Flyctl) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["theirs"] = scope
    with pytest.raises(OpsError) as raised:
        replace(host, flyctl=replace(caller, token="theirs")).enlarge(A_GB, 2 * A_GB)
    assert "right to enlarge a volume" in raised.value.hint
    assert f"`fly tokens create deploy -a {DB}`" in raised.value.hint
    assert size(cloud) == 1


def test_the_cure_names_the_command_and_what_it_costs(host: Host, cloud: Cloud) -> None:
    cure = host.more_room(A_GB, 2 * A_GB)
    command = f"`fly volumes extend {VOLUME} -s 2 -a {DB} -y`"
    assert cure.startswith(
        f"With --extend-volume `invoke restore` runs {command}: a volume can't be made smaller"
    )
    assert size(cloud) == 1


def test_where_fly_does_not_answer_the_cure_says_so_and_a_restore_is_not_kept_from_its_words(
    host: Host, cloud: Cloud
) -> None:
    cloud.switch("api-down")
    assert "Fly's API can't be reached" in host.more_room(A_GB, 2 * A_GB)


def test_too_little_memory_has_its_cure(host: Host) -> None:
    assert host.more_memory() == f"`fly scale memory 512 -a {DB}` gives it enough, and restarts it."


# The stand-in ---------------------------------------------------------------------------------------------------------


def test_1_21_extend_wants_a_volume_that_is_there_a_size_and_never_less(
    fly: Callable[..., Said], cloud: Cloud
) -> None:
    for words in ((), ("vol_no", "-s", "2"), (VOLUME,), (VOLUME, "-s", "1")):
        assert fly("volumes", "extend", *words, "-a", DB).code == 1
    assert size(cloud) == 1
    done = fly("vol", "extend", VOLUME, "--size=2", "-a", DB, "-y")
    assert (done.code, "without needing a restart" in done.out) == (0, True)
    (machine,) = shown(cloud, DB)
    assert machine["config"]["mounts"][0]["size_gb"] == 2
    (volume,) = json.loads(fly("volumes", "list", "-a", DB, "-j").out)
    assert (volume["size_gb"], volume["attached_machine_id"]) == (2, machine["id"])


@pytest.fixture
def disk(cloud: Cloud) -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="plt-disk-") as folder:
        cloud.open_disk(DB, Path(folder))
        yield Path(folder)


def df(disk: Path, data: Path, *flags: str) -> list[int]:
    done = subprocess.run([str(disk / "df"), *flags, str(data)], capture_output=True, text=True, check=True)
    return [int(number) for number in done.stdout.splitlines()[1].split()[1:4]]


def test_a_machines_own_df_tells_of_its_volume_and_of_what_lies_there(
    disk: Path, tmp_path: Path, fly: Callable[..., Said]
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows").write_bytes(b"x" * (3 << 20))
    assert df(disk, data, "-Pk") == [1017856, 3072, 1017856 - 3072]
    assert df(disk, data, "-PB1") == [A_GB, 3 << 20, A_GB - (3 << 20)]
    fly("volumes", "extend", VOLUME, "-s", "3", "-a", DB)
    assert df(disk, data, "-Pk")[0] == 3 * 1017856


def test_a_volume_that_waits_for_a_start_is_larger_after_it(
    disk: Path, tmp_path: Path, fly: Callable[..., Said], cloud: Cloud
) -> None:
    cloud.switch("extend-waits")
    assert "stop and start your Machine" in fly("volumes", "extend", VOLUME, "-s", "2", "-a", DB).out
    assert df(disk, tmp_path, "-Pk")[0] == 1017856
    identifier = shown(cloud, DB)[0]["id"]
    fly("machine", "stop", identifier, "-a", DB, "-w", "60s")
    fly("machine", "start", identifier, "-a", DB)
    assert df(disk, tmp_path, "-Pk")[0] == 2 * 1017856
