"""A certificate for SSH: issued by flyctl with its traps, and judged before a machine could only say no."""

from __future__ import annotations

import socket
import stat
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import serialization

from polyladder_ops.fly import certificates, machines, remote, tunnel
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.redaction import redact
from polyladder_ops.sandbox.fly import credentials, world
from tests.fly.conftest import APP, DB, shown, until

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud

Fly = Any
NOW = time.time()
HOUR_S = 3600.0


@pytest.fixture
def cloud(cloud: Cloud) -> Cloud:
    cloud.open_ssh(DB)
    return cloud


def test_1_15_it_writes_key_and_certificate_for_us_alone(cloud: Cloud, fly: Fly, tmp_path: Path) -> None:
    said = fly("ssh", "issue", "personal", str(tmp_path / "id"), "--hours", "1")
    assert said.code == 0
    assert said.out.startswith("!!!! WARNING: ")
    assert (
        said.out.splitlines()[-1] == f"Wrote 1-hour SSH credential to {tmp_path}/id, {tmp_path}/id-cert.pub"
    )
    assert (tmp_path / "id").read_text().startswith("-----BEGIN OPENSSH PRIVATE KEY-----\n")
    assert (tmp_path / "id-cert.pub").read_text().startswith("ssh-ed25519-cert-v01@openssh.com AAAA")
    assert {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("id", "id-cert.pub")} == {0o600}


@pytest.mark.parametrize("hours", ["0", "73", "x"])
def test_1_15_hours_are_1_to_72(fly: Fly, tmp_path: Path, cloud: Cloud, hours: str) -> None:
    assert (
        "Invalid expiration time (1-72 hours)"
        in fly("ssh", "issue", "personal", str(tmp_path / "id"), "--hours", hours).err
    )


def test_1_15_the_path_is_the_second_word_even_with_o(fly: Fly, tmp_path: Path, cloud: Cloud) -> None:
    assert fly("ssh", "issue", "-o", "personal", str(tmp_path / "id")).both == (
        1,
        "Error: prompt: non interactive\n",
    )
    assert fly("ssh", "issue", "-o", "personal", "personal", str(tmp_path / "id")).code == 0
    assert "slug argument must be specified when not running interactively" in fly("ssh", "issue").err


def test_1_15_traps_of_files_that_are_there(fly: Fly, tmp_path: Path, cloud: Cloud) -> None:
    (tmp_path / "id").touch()
    said = fly("ssh", "issue", "personal", str(tmp_path / "id"))
    assert "Can't open private key file: " in said.out
    assert said.code == 1
    (tmp_path / "other-cert.pub").touch()
    assert fly("ssh", "issue", "personal", str(tmp_path / "other")).code == 0
    assert (tmp_path / "other").read_text() == ""


def test_1_15_the_environments_organisation_beats_the_word(fly: Fly, tmp_path: Path, cloud: Cloud) -> None:
    said = fly("ssh", "issue", "personal", str(tmp_path / "id"), FLY_ORG="nobody")
    assert "failed retrieving organization with slug nobody" in said.err


def test_1_22_an_apps_own_token_gets_none(fly: Fly, tmp_path: Path, cloud: Cloud) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["deploy-token"] = f"deploy:{APP}"
    assert (
        "unauthorized"
        in fly("ssh", "issue", "personal", str(tmp_path / "id"), FLY_API_TOKEN="deploy-token").err
    )


def test_ours_lasts_an_hour_is_hidden_and_leaves_no_file(
    cloud: Cloud, caller: Flyctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLY_ORG", "nobody")
    made = certificates.issued(caller, certificates.organisation(caller, DB), tmp_path / "state")
    assert HOUR_S - 120 < made.until - time.time() <= HOUR_S
    assert made.key.splitlines()[2] not in redact(f"it is {made.key.splitlines()[2]}")
    assert "PRIVATE" not in repr(made)
    assert [path for path in (tmp_path / "state").rglob("*") if "id" in path.name.split("-")] == []


def test_a_refusal_of_flys_is_explained(cloud: Cloud, caller: Flyctl, tmp_path: Path) -> None:
    cloud.switch("no-certificate")
    with pytest.raises(FlyError) as raised:
        certificates.issued(caller, "personal", tmp_path / "state")
    assert raised.value.name == "token-refused"


def pair(*, begins: float = NOW - 60, seconds: float = HOUR_S, names: str = "root,fly") -> tuple[str, str]:
    key = credentials.new_key()
    text = credentials.signed(
        credentials.new_key(), credentials.public_of(key), names.split(","), seconds=seconds, begins=begins
    )
    return key, text


def test_a_good_one_passes() -> None:
    key, text = pair()
    assert certificates.judged(key, text, now=NOW).until == pytest.approx(NOW - 60 + HOUR_S, abs=1)


@pytest.mark.parametrize(
    ("key", "text", "why"),
    [
        ("", pair()[1], "The key is empty"),
        (pair()[0], "", "The certificate is empty"),
        (pair()[0], pair()[1], "for another key"),
        (pair()[0], "ssh-ed25519-cert-v01@openssh.com AAAA", "can't be read"),
        ("-----BEGIN nothing-----", pair()[1], "can't be read"),
        (*pair(names="fly"), "not for the user root"),
        (*pair(begins=NOW - 2 * HOUR_S), "has expired already"),
        (*pair(begins=NOW + HOUR_S), "valid only later"),
    ],
    ids=[
        "no key",
        "no certificate",
        "another key",
        "no such text",
        "no such key",
        "another user",
        "expired",
        "later",
    ],
)
def test_what_no_machine_would_take_is_named(key: str, text: str, why: str) -> None:
    with pytest.raises(FlyError, match="useless") as raised:
        certificates.judged(key, text, now=NOW)
    assert why in raised.value.detail


def test_a_clock_that_is_half_a_minute_behind_does_not_matter() -> None:
    assert certificates.judged(*pair(begins=NOW + 30), now=NOW)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ('echo \'{"Organization": {"Slug": ""}}\'', "does not tell the organisation"),
        ("echo '{}'", "does not tell"),
    ],
)
def test_an_app_without_an_organisation_is_told(tmp_path: Path, body: str, said: str) -> None:
    with pytest.raises(FlyError, match=said):
        certificates.organisation(script(tmp_path, body), DB)


def test_a_flyctl_that_writes_no_files_is_found_out(tmp_path: Path) -> None:
    with pytest.raises(FlyError, match="useless") as raised:
        certificates.issued(script(tmp_path, "true"), "personal", tmp_path / "state")
    assert raised.value.detail == "The key is empty."


def script(tmp_path: Path, body: str) -> Flyctl:
    """A flyctl that does what these lines of shell say."""
    program = tmp_path / "flyctl"
    program.write_text(f"#!/bin/sh\n{body}\n", encoding="utf-8")
    program.chmod(0o700)
    return Flyctl(str(program), None, tmp_path / "config")


def test_a_key_stands_in_place_of_a_certificate() -> None:
    key, _ = pair()
    with pytest.raises(FlyError) as raised:
        certificates.judged(key, credentials.public_of(key), now=NOW)
    assert "a key without a certificate" in raised.value.detail


@pytest.fixture
def api(cloud: Cloud) -> Api:
    return Api(cloud.token, cloud.start_api())


def test_an_apps_own_token_gets_one_for_this_app_without_a_file(
    cloud: Cloud, caller: Flyctl, api: Api, tmp_path: Path
) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"] |= {"fm2_deploy": f"deploy:{DB}", "ssh-token": f"ssh:{DB}"}
    for token in ("fm2_deploy", "FlyV1 fm2_deploy", "ssh-token", cloud.token):
        made = certificates.obtained(caller, replace(api, token=token), DB, tmp_path / "state")
        assert 0 < made.until - time.time() <= HOUR_S
        assert principals(made) == [b"root", b"fly"], "as flyctl asks for one"
        assert made.key.splitlines()[2] not in redact(f"it is {made.key.splitlines()[2]}")
    assert not (tmp_path / "state").exists()
    assert [call for call in cloud.calls() if call[0] == "ssh"] == []


def principals(made: certificates.Certificate) -> list[bytes]:
    found = serialization.load_ssh_public_identity(made.text.encode())
    assert isinstance(found, serialization.SSHCertificate)
    return list(found.valid_principals)


def test_where_the_api_refuses_flyctl_is_asked(
    cloud: Cloud, caller: Flyctl, api: Api, tmp_path: Path
) -> None:
    cloud.switch("api-500")
    assert certificates.obtained(caller, api, DB, tmp_path / "state").until > time.time()
    assert ["ssh", "issue"] in [call[:2] for call in cloud.calls()]


def test_without_a_token_a_persons_login_is_asked_by_flyctl(
    cloud: Cloud, caller: Flyctl, tmp_path: Path
) -> None:
    assert certificates.obtained(caller, None, DB, tmp_path / "state").until > time.time()


def test_where_all_ways_refuse_each_is_told(cloud: Cloud, caller: Flyctl, api: Api, tmp_path: Path) -> None:
    cloud.switch("no-certificate")
    with pytest.raises(FlyError, match=f"no certificate for SSH to {DB} could be had") as raised:
        certificates.obtained(caller, api, DB, tmp_path / "state")
    assert "Not authorized to access this issueCertificate" in raised.value.detail
    assert "`fly ssh issue` failed" in raised.value.detail
    assert f"`fly tokens create ssh -a {DB}`" in raised.value.hint, "the least token that leads there"
    assert raised.value.name == "token-refused"
    assert "fly auth login" in raised.value.hint
    assert not raised.value.passes


def test_where_the_last_way_may_be_taken_later_that_is_told(
    cloud: Cloud, caller: Flyctl, tmp_path: Path
) -> None:
    cloud.switch("rate-limited")
    with pytest.raises(FlyError) as raised:
        certificates.obtained(caller, None, DB, tmp_path / "state")
    assert raised.value.passes


@pytest.mark.parametrize(("token", "name"), [("nobody", "token-refused"), ("deploy-other", "unknown-app")])
def test_what_the_api_says_is_explained(cloud: Cloud, api: Api, token: str, name: str) -> None:
    with world.changing(cloud.folder) as here:
        here.data["tokens"]["deploy-other"] = f"deploy:{APP}"
    with pytest.raises(FlyError) as raised:
        certificates.of_app(replace(api, token=token), DB)
    assert raised.value.name == name
    assert raised.value.hint


def test_an_api_that_is_not_there_is_told_as_that() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(FlyError) as raised:
        certificates.of_app(Api("token", f"http://127.0.0.1:{port}", timeout_s=5), DB)
    assert raised.value.name == "no-api"


def test_the_machines_of_the_app_take_it(cloud: Cloud, caller: Flyctl, api: Api) -> None:
    until(lambda: shown(cloud, DB)[0]["state"] == "started")
    (machine,) = machines.read(caller.json(list, "machine", "list", "--json", app=DB))
    with (
        tunnel.opened(caller, DB, machine, 22, answers=tunnel.ssh_answers) as way,
        remote.logged_in(way, certificates.of_app(api, DB)) as there,
    ):
        assert there.run("echo in") == "in\n"
