"""The stand-in `fly` in a folder of the test, whose machines are only written down, with short moments."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.fly.flyctl import Flyctl
from polyladder_ops.sandbox.fly import world
from polyladder_ops.sandbox.fly.cloud import Cloud

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

APP = "polyladder"
DB = "polyladder-db"


@dataclass(frozen=True)
class Said:
    """What a call said, apart by stream."""

    code: int
    out: str
    err: str

    @property
    def both(self) -> tuple[int, str]:
        return self.code, self.err


@pytest.fixture(autouse=True)
def not_on_windows() -> None:
    """The stand-in and the scripts of these tests are started by a line of shell."""
    if sys.platform == "win32":
        pytest.skip("the stand-in for fly was not tried on Windows")


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    made = Cloud(tmp_path / "fly")
    made.make(app=APP, db_app=DB, secrets={"DATABASE_URL": "postgres://old"}, moment_s=0.2, lease_s=2.0)
    yield made
    made.remove()


@pytest.fixture
def fly(cloud: Cloud) -> Callable[..., Said]:
    """Call the stand-in as a person would, logged in by FLY_API_TOKEN unless said otherwise."""

    def call(*words: str, stdin: str = "", **env: str) -> Said:
        environ = {name: os.environ[name] for name in ("PATH",) if name in os.environ}
        environ |= {"FLY_API_TOKEN": cloud.token, "HOME": str(cloud.folder / "nobody"), **env}
        done = subprocess.run(
            [str(cloud.program), *words],
            env={name: text for name, text in environ.items() if text},
            input=stdin,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return call


def shown(cloud: Cloud, app: str = APP) -> list[dict[str, Any]]:
    """Return the app's machines as Fly's API would show them now."""
    return [each["shown"] for each in world.seen(cloud.folder).machines(app)]


def only(cloud: Cloud) -> str:
    """Return the id of the app's one machine."""
    (machine,) = shown(cloud)
    return str(machine["id"])


@pytest.fixture
def caller(cloud: Cloud, tmp_path: Path) -> Flyctl:
    """Our caller of flyctl, for the stand-in."""
    return Flyctl(str(cloud.program), cloud.token, tmp_path / "config")
