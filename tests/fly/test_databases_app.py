"""Which app is a database's: it is never stopped or scaled, whatever its image is called."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.errors import Refused
from polyladder_ops.fly.fleet import Fleet
from polyladder_ops.fly.scaling import scale
from polyladder_ops.fly.stopping import stop
from polyladder_ops.sandbox.fly import world
from tests.fly.conftest import APP, DB, PACE, calls, states

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.sandbox.fly.cloud import Cloud


def _with_an_image_of_its_own(cloud: Cloud, app: str, repository: str, **config: Any) -> None:
    with world.changing(cloud.folder) as here:
        for machine in here.machines(app):
            machine["shown"].pop("checks", None)  # absent in an answer where no check has run yet
            machine["shown"]["image_ref"]["repository"] = repository
            machine["shown"]["config"] |= config


@pytest.mark.parametrize(
    ("config", "why"), [({"checks": {}}, "its volume"), ({"mounts": []}, "its check of postgres-flex")]
)
def test_a_databases_app_is_known_without_the_name_of_its_image(
    config: dict[str, Any], why: str, cloud: Cloud, caller: Flyctl, tmp_path: Path
) -> None:
    _with_an_image_of_its_own(cloud, DB, "pl-db", **config)
    database = Fleet(caller, DB, tmp_path / "state", pace=PACE)
    for act in (stop, lambda each: scale(each, "app", 0)):
        with pytest.raises(Refused, match="is a database's app"):
            act(database)
    assert calls(cloud) == ["machine list"] * 2, why


def test_an_app_that_answers_requests_is_none_though_its_image_is_called_so(
    cloud: Cloud, fleet: Fleet
) -> None:
    volume = {"volume": "vol_1", "path": "/uploads", "name": "uploads", "size_gb": 1}
    _with_an_image_of_its_own(cloud, APP, "postgres-course-web", mounts=[volume])
    stop(fleet)
    assert states(cloud) == ["stopped"]
