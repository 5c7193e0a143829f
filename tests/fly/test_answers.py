"""What doctor asks of Fly: each call that only looks, once, and what it says of an answer that is not as expected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from polyladder_ops.doctor import judge_fly, judge_shape
from polyladder_ops.fly import shape
from polyladder_ops.fly.answers import CALLS, ask_each
from polyladder_ops.settings import load
from tests.fly.conftest import APP, DB

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud


def test_each_call_that_only_looks_is_made_once_and_changes_nothing(cloud: Cloud, caller: Flyctl) -> None:
    found = ask_each(caller, APP, DB)
    assert [answer for answer in found if not answer.ok] == []
    assert len(cloud.calls()) == len(CALLS) + 1
    assert not {"stop", "start", "update", "count", "set", "deploy"} & {
        word for call in cloud.calls() for word in call
    }
    told = judge_fly(found)
    assert (told.ok, told.detail) == (True, "flyctl 0.4.87; 10 answers are as expected.")


@pytest.mark.parametrize(
    ("fault", "made", "said"),
    [
        ("headless", 10, "status of polyladder: It is JSON, but not as expected."),
        ("cut", 1, "gave no"),
        ("english", 10, "machine list of polyladder: `fly machine list` gave no list"),
        ("old-version", 1, "flyctl 0.4.70 is too old"),
        ("no-token", 2, "Nobody is logged in"),
        ("api-down", 2, "can't be reached"),
        ("wrong-scope", 10, "the token has no right on it"),
    ],
)
def test_an_answer_that_is_not_as_expected_is_named(
    fault: str, made: int, said: str, cloud: Cloud, caller: Flyctl
) -> None:
    cloud.switch(fault)
    found = ask_each(caller, APP, DB)
    assert len(found) == made, "after a refused login the rest would say the same"
    told = judge_fly(found)
    assert told.ok is False
    assert told.blocks == "", "a restore needs no Fly"
    assert said in told.detail
    assert told.hint


def test_a_shape_that_waits_stops_the_app(tmp_path: Path) -> None:
    settings = load({"site": "staging"}, environ={"POLYLADDER_STATE_DIR": str(tmp_path)}, root=tmp_path)
    assert judge_shape(settings) == []
    shape.save(settings.shapes / f"{APP}.json", shape.of(APP, ()))
    (told,) = judge_shape(settings)
    assert (told.ok, told.blocks) == (False, "the app")
    assert told.hint == "Run `invoke fly.start --site=staging`."
