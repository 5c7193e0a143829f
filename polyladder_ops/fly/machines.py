"""A machine as a value, read from Fly's JSON; what the contract says may be absent (1.4) may be. No env is kept: it has secrets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from polyladder_ops.errors import OpsError

__all__ = ["MARK", "Machine", "managed", "others", "read"]

MARK = "polyladder_shape"
"""The key in a machine's metadata under which it keeps its part of the shape."""
_SPECIAL = ("fly_app_release_command", "fly_app_console", "fly_app_test_machine_command")
_MOVING = ("stopping", "replacing", "updating", "restarting", "starting", "suspending", "migrating")
_OVER = ("destroyed", "destroying")


@dataclass(frozen=True)
class Machine:
    """One machine: size in MB; `autostart` is None where it has no services, so that nothing wakes it.

    `is_known` is False where Fly gave no config, because it can't reach the host. `checks` are pairs of name and status.
    `address` is the one inside Fly's network, which changes when Fly moves the machine; `started_at` is the newest start's
    time in ms, 0 where Fly has forgotten it. `role` is what a database's own check says, empty unless that passes or says
    zombie; `is_flex` of Fly's Postgres that repmgr manages.
    """

    id: str
    state: str
    name: str = ""
    region: str = ""
    group: str = ""
    image: str = ""
    cpu_kind: str = ""
    cpus: int = 0
    memory_mb: int = 0
    autostart: bool | None = None
    is_managed: bool = True
    is_known: bool = True
    is_database: bool = False
    mark: str = ""
    checks: tuple[tuple[str, str], ...] = ()
    address: str = ""
    started_at: int = 0
    role: str = ""
    is_flex: bool = False

    @property
    def size(self) -> str:
        """The size as flyctl takes it, such as shared-cpu-1x."""
        return f"{self.cpu_kind}-cpu-{self.cpus}x"

    @property
    def check(self) -> str:
        """The first check that does not pass, with its status; empty if all do."""
        return next((f"{name} {status}" for name, status in self.checks if status != "passing"), "")

    @property
    def is_moving(self) -> bool:
        """Whether its state is one that passes by itself."""
        return self.state in _MOVING

    @property
    def is_down(self) -> bool:
        """Whether it is stopped and no request wakes it."""
        return self.state == "stopped" and self.autostart is not True and self.is_known


def read(found: object) -> tuple[Machine, ...]:
    """Return the machines of a list from Fly, but those that are destroyed. Raise OpsError if it is of another shape."""
    if not isinstance(found, list):
        raise _another_shape()
    is_web = any(map(_answers_http, found))
    made = (_machine(each, is_web=is_web) for each in found)
    return tuple(each for each in made if each.state not in _OVER)


def managed(found: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return the machines that Fly deploys and scales: what the app is made of."""
    return tuple(each for each in found if each.is_managed)


def others(found: tuple[Machine, ...]) -> tuple[Machine, ...]:
    """Return what runs beside them, or may be woken: consoles, release commands, what `fly machine run` made. We stop none."""
    return tuple(each for each in found if not each.is_managed and not each.is_down)


def _machine(found: object, *, is_web: bool) -> Machine:
    if not isinstance(found, Mapping) or not all(
        isinstance(found.get(key), str) and found[key] for key in ("id", "state")
    ):
        raise _another_shape()
    is_known = isinstance(found.get("config"), Mapping) and found.get("host_status", "ok") == "ok"
    config = _mapping(found.get("config")) or _mapping(found.get("incomplete_config"))
    metadata, guest, image = (
        _mapping(config.get("metadata")),
        _mapping(config.get("guest")),
        _mapping(found.get("image_ref")),
    )
    env = _mapping(config.get("env"))
    group = (
        metadata.get("fly_process_group")
        or metadata.get("process_group")
        or env.get("FLY_PROCESS_GROUP")
        or ""
    )
    is_v2 = metadata.get("fly_platform_version") == "v2"
    return Machine(
        id=found["id"],
        state=found["state"],
        name=str(found.get("name", "")),
        region=str(found.get("region", "")),
        group=str(group),
        image=f"{image.get('repository', '')}:{image.get('tag', '')}" if image else "",
        cpu_kind=str(guest.get("cpu_kind", "")),
        cpus=_number(guest.get("cpus")),
        memory_mb=_number(guest.get("memory_mb")),
        autostart=_autostart(config.get("services")),
        # Of a machine whose host is lost nothing is known; to take it for ours is the careful case.
        is_managed=(is_v2 and group not in _SPECIAL) or (not is_known and not metadata),
        is_known=is_known,
        is_database=_is_database(found, config, image, is_web=is_web),
        mark=str(metadata.get(MARK, "")),
        checks=_checks(found.get("checks")),
        address=str(found.get("private_ip") or ""),
        started_at=_started_at(found.get("events")),
        role=_role(found.get("checks")),
        is_flex=_is_flex(image),
    )


def _autostart(services: object) -> bool | None:
    """Return whether a request wakes the machine; unset means yes (contract 5.1), no services means None."""
    if not isinstance(services, list) or not services:
        return None
    return any(_mapping(each).get("autostart", True) is not False for each in services)


def _is_database(
    found: Mapping[str, Any], config: Mapping[str, Any], image: Mapping[str, Any], *, is_web: bool
) -> bool:
    """Whether it runs PostgreSQL: by Fly's own signs, else by a name or a volume in an app that answers no web request.

    `checks` of the answer may be absent (contract 1.4), those of the config say the same. In doubt it is a database.
    """
    checks = found.get("checks")
    has_role = isinstance(checks, list) and any(_mapping(each).get("name") == "role" for each in checks)
    asks_flex = any(
        "/flycheck/" in str(_mapping(each).get("path", ""))
        for each in _mapping(config.get("checks")).values()
    )
    is_like_one = "postgres" in str(image.get("repository", "")) or bool(config.get("mounts"))
    is_marked = "fly-managed-postgres" in _mapping(config.get("metadata"))
    return has_role or asks_flex or is_marked or (is_like_one and not is_web)


def _answers_http(found: object) -> bool:
    services = _list(_mapping(_mapping(found).get("config")).get("services"))
    ports = [port for each in services for port in _list(_mapping(each).get("ports"))]
    return any("http" in _list(_mapping(port).get("handlers")) for port in ports)


def _checks(found: object) -> tuple[tuple[str, str], ...]:
    rows = [_mapping(each) for each in found] if isinstance(found, list) else []
    return tuple((str(each.get("name", "?")), str(each.get("status", "?"))) for each in rows)


def _role(found: object) -> str:
    """Return what the first check named role says (contract 1.4); one that fails tells nothing but that it is a zombie."""
    first = next((row for each in _list(found) if (row := _mapping(each)).get("name") == "role"), {})
    said = str(first.get("output", "")).strip()
    return said if first.get("status") == "passing" or said == "zombie" else ""


def _is_flex(image: Mapping[str, Any]) -> bool:
    manager = _mapping(image.get("labels")).get("fly.pg-manager")
    return manager == "repmgr" or str(image.get("repository", "")).endswith("flyio/postgres-flex")


def _started_at(found: object) -> int:
    starts = (_mapping(each) for each in _list(found))
    return max((_number(each.get("timestamp")) for each in starts if each.get("type") == "start"), default=0)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _another_shape() -> OpsError:
    return OpsError(
        "Fly's list of machines is of another shape than we know",
        detail="Each machine must have an id and a state. To read it as none would call the app down without a look.",
        hint="Run `fly version upgrade`, then again; report it if this stays.",
    )
