"""All that the stand-in knows: one JSON file, changed by one process at a time.

What takes a moment on Fly (a machine that is `stopping`) is written with the time at which it is over, and becomes true
when somebody looks: no process has to run for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from polyladder_ops import portable
from polyladder_ops.errors import OpsError
from polyladder_ops.sandbox.fly import machines
from polyladder_ops.sandbox.fly.arguments import FlyError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "STATE",
    "App",
    "Machine",
    "World",
    "changing",
    "create",
    "exists",
    "log_call",
    "read_calls",
    "seen",
]

STATE = "world.json"
_CALLS = "calls.jsonl"
_KILL_TIMEOUT_S = 5.0
_PARTS = {"apps", "edge", "faults", "lease_s", "moment_s", "numbers", "tokens"}

App = dict[str, Any]
Machine = dict[str, Any]
"""`shown` is what Fly's API answers; beside it lies what Fly keeps to itself: until, next, lease, port, pid, secrets."""


class World:
    """The state, read and settled; a change counts when the block of `changing` ends."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.folder = folder
        self.data = data

    @property
    def apps(self) -> dict[str, App]:
        """The apps by name."""
        return self.data["apps"]  # type: ignore[no-any-return]

    def machines(self, app: str) -> list[Machine]:
        """Return the app's machines, ids descending, as Fly lists them."""
        return sorted(self.apps[app]["machines"].values(), key=lambda each: each["shown"]["id"], reverse=True)

    def number(self, name: str) -> int:
        """Return the next number of a series, from 1."""
        self.data["numbers"][name] = self.data["numbers"].get(name, 0) + 1
        return int(self.data["numbers"][name])

    def has_fault(self, name: str) -> bool:
        """Whether the fault is on; one that counts is one less afterwards."""
        faults = self.data["faults"]
        if name not in faults:
            return False
        if faults[name] is not None:
            faults[name] -= 1
            if faults[name] <= 0:
                del faults[name]
        return True

    def becomes(self, machine: Machine, state: str, *, after_s: float = 0.0, then: str = "") -> None:
        """Put a machine into a state; with `then`, into that one after so many seconds."""
        machine["shown"]["state"] = state
        machine["shown"]["updated_at"] = timestamp()
        machine["until"], machine["next"] = (time.time() + after_s, then) if then else (None, "")

    def settle(self) -> None:
        """Let what has taken its moment be over."""
        now = time.time()
        for app in self.apps.values():
            for key, machine in list(app["machines"].items()):
                if machine["until"] is not None and machine["until"] <= now:
                    self._end_moment(machine, now)
                if (
                    machine["shown"]["state"] == "started"
                    and machine["pid"]
                    and not machines.is_running(machine)
                ):
                    self.becomes(machine, "stopped")  # it crashed
                if machine["shown"]["state"] == "destroyed":
                    del app["machines"][key]

    def _end_moment(self, machine: Machine, now: float) -> None:
        if machine["next"] == "stopped":
            if machines.is_running(machine) and now < machine["until"] + _KILL_TIMEOUT_S:
                return
            machines.force_to_end(machine)
        self.becomes(machine, machine["next"])


def timestamp(seconds: float | None = None) -> str:
    """Return a time as Fly writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() if seconds is None else seconds))


def exists(folder: Path) -> bool:
    """Whether there is a world in the folder."""
    with contextlib.suppress(OSError):  # a name that is too long
        return (folder / STATE).is_file()
    return False


def create(folder: Path, data: dict[str, Any]) -> None:
    """Make a new world; it holds tokens and secrets, so only we can read it."""
    portable.make_private_directory(folder)
    _write(folder, data)


@contextlib.contextmanager
def changing(folder: Path) -> Iterator[World]:
    """Within the block the world is ours alone; it is written at its end, and where that is an error of Fly's."""
    with FileLock(folder / "lock", timeout=30):
        world = World(folder, _read(folder))
        world.settle()
        try:
            yield world
        except FlyError:
            _write(folder, world.data)
            raise
        _write(folder, world.data)


def seen(folder: Path) -> World:
    """Return the world as it is now, to look at only."""
    with changing(folder) as world:
        return world


def _read(folder: Path) -> dict[str, Any]:
    """Return what is written down. Raise OpsError if that is damaged: a full disk, or somebody's editor."""
    try:
        data = json.loads((folder / STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        data = None
    if isinstance(data, dict) and set(data) >= _PARTS:
        return data
    raise OpsError(
        f"the sandbox's Fly is damaged: {folder / STATE} can't be read",
        detail="It holds the machines of the stand-in, nothing of a backup.",
        hint="Run `invoke sandbox.down --force`, then `invoke sandbox.up`.",
    )


def _write(folder: Path, data: dict[str, Any]) -> None:
    fresh = folder / f"{STATE}.{os.getpid()}"
    fresh.unlink(missing_ok=True)
    portable.write_private(fresh, json.dumps(data, indent=1))
    fresh.replace(folder / STATE)
    portable.sync_directory(folder)


def log_call(folder: Path, words: list[str]) -> None:
    """Remember that a command was given; one that asks nobody (`version`) too. No value of a secret is among the words."""
    kept = [
        word.partition("=")[0] + "=…" if words[:1] == ["secrets"] and "=" in word else word for word in words
    ]
    with (folder / _CALLS).open("a", encoding="utf-8") as file:
        file.write(json.dumps(kept) + "\n")


def read_calls(folder: Path) -> list[list[str]]:
    """Return the words of each command so far."""
    if not (folder / _CALLS).is_file():
        return []
    return [json.loads(line) for line in (folder / _CALLS).read_text(encoding="utf-8").splitlines()]
