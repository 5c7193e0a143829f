"""The whole of it for whoever practises: made with two apps, an edge in front, switches for faults, and gone again."""

from __future__ import annotations

import contextlib
import os
import secrets as random
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from polyladder_ops import portable
from polyladder_ops.errors import OpsError, UsageError
from polyladder_ops.sandbox.fly import disks, machines, platform, tunnels, world
from polyladder_ops.sandbox.fly.faults import FAULTS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Cloud"]

_SERVICE = {
    "protocol": "tcp",
    "internal_port": 3000,
    "autostop": "stop",
    "autostart": True,
    "min_machines_running": 0,
    "ports": [{"port": 443, "handlers": ["tls", "http"]}],
    "checks": [
        {"type": "http", "path": "/health", "interval": "15s", "timeout": "2s", "grace_period": "10s"}
    ],
    "concurrency": {"type": "connections", "hard_limit": 25, "soft_limit": 20},
    "force_instance_key": None,
}
_SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 512}


@dataclass(frozen=True)
class Cloud:
    """A stand-in Fly in a folder."""

    folder: Path

    @property
    def program(self) -> Path:
        """The executable `fly`; `flyctl` lies beside it."""
        return self.folder / "bin" / ("fly.cmd" if os.pathsep == ";" else "fly")

    @property
    def token(self) -> str:
        """A personal token that the stand-in knows."""
        return str(next(iter(world.seen(self.folder).data["tokens"])))

    @property
    def url(self) -> str:
        """Where the edge answers for the app."""
        return f"http://{machines.HOST}:{world.seen(self.folder).data['edge']['port']}"

    def exists(self) -> bool:
        """Whether it was made."""
        return world.exists(self.folder)

    def make(
        self,
        *,
        app: str,
        db_app: str,
        program: Sequence[str] = (),
        secrets: Mapping[str, str] | None = None,
        groups: Sequence[str] = ("app",),
        moment_s: float = 0.3,
        lease_s: float = 120.0,
        behind: Mapping[int, tuple[str, int]] | None = None,
    ) -> None:
        """Make the two apps of contract 9.1: one autostop machine of 512 MB, and a database machine of 256 MB with 1 GB.

        `program` is what a machine of the app runs, with `--port N` added; without it a machine is only written down.
        Groups other than `app` have no services. `behind` says by port what answers on the database machine's address.
        """
        portable.make_private_directory(self.folder)
        served = {group: {"services": [dict(_SERVICE)]} if group == "app" else {} for group in groups}
        web = _app(program, served, {"NODE_ENV": "production", "PORT": "3000"}, dict(secrets or {}), _SMALL)
        database = _app((), {"app": {"mounts": [_MOUNT], "checks": _CHECKS}}, {}, {}, None)
        database["volumes"] = [_VOLUME]
        data = {
            "format": 1, "moment_s": moment_s, "lease_s": lease_s, "faults": {}, "numbers": {},
            "tokens": {f"fo1_{random.token_urlsafe(24)}": "personal"}, "edge": {"port": 0, "pid": 0},
            "organisation": "personal", "authority": None, "other_authorities": {},
            "apps": {app: web, db_app: database},
        }  # fmt: skip
        world.create(self.folder, data)
        self._write_programs()
        with world.changing(self.folder) as here:
            platform.release(here, web := here.apps[app])
            for group in groups:
                platform.make(here, app, group=group, region="iad", guest=web["vm"])
            platform.release(here, here.apps[db_app], image="registry.fly.io/flyio/postgres-flex:17.2")
            guest = {**_SMALL, "memory_mb": 256}
            made = platform.make(here, db_app, group="app", region="iad", guest=guest)
            made["shown"]["checks"] = [{"name": "role", "status": "passing", "output": "primary"}]
            here.apps[db_app]["volumes"][0]["attached_machine_id"] = made["shown"]["id"]
            made["behind"] = {str(port): list(address) for port, address in (behind or {}).items()}

    def _write_programs(self) -> None:
        folder = self.program.parent
        folder.mkdir(exist_ok=True)
        for name in ("fly", "flyctl"):
            _write_program(folder / f"{name}{self.program.suffix}", self.folder)

    def start(self, app: str) -> None:
        """Start the edge in front of the app, where it does not run; a machine that died with the system a request wakes."""
        with world.changing(self.folder) as here:
            edge = here.data["edge"]
            if edge["pid"] and portable.runs(edge["pid"], "python", str(self.folder)):
                return
            edge["port"] = _free_port(edge["port"])
            argv = [
                sys.executable,
                "-m",
                "polyladder_ops.sandbox.fly.edge",
                str(self.folder),
                app,
                str(edge["port"]),
            ]
            nowhere = subprocess.DEVNULL
            process = portable.start(
                argv, env=portable.clean_environment(), stdin=nowhere, stdout=nowhere, stderr=nowhere
            )
            edge["pid"] = process.pid
            process.returncode = 0
        _wait_for(lambda: _listens(edge["port"]), "the edge of the stand-in does not answer")

    def open_ssh(self, app: str, env: Mapping[str, str] | None = None) -> None:
        """Have each machine of the app answer at its port 22 from now on; `env` is what its programs find in their environment.

        The organisation's authority is made with the first.
        """
        from polyladder_ops.sandbox.fly import credentials  # cryptography takes a moment to load

        there: list[str] = []
        with world.changing(self.folder) as here:
            if not here.data["authority"]:
                private = credentials.new_key()
                here.data["authority"] = {"private": private, "public": credentials.public_of(private)}
            for each in here.machines(app):
                before = each.get("ssh", {})
                if before.get("env") == dict(env or {}) and self._runs(before["pid"]):
                    continue
                self._end(before.get("pid"))
                each["ssh"] = {"host_key": credentials.new_key(), "env": dict(env or {}), "pid": 0}
                there.append(each["shown"]["id"])
        for identifier in there:
            self._serve_ssh(app, identifier)

    def open_disk(self, app: str, folder: Path) -> None:
        """Put a `df` into a folder, for the PATH of whatever runs on the app's machine: it tells of the volume, not of our disk."""
        with world.changing(self.folder) as here:
            disks.give(here.apps[app], folder)

    def put_behind(self, app: str, port: int, address: tuple[str, int]) -> None:
        """Have this address answer at a port of the app's machines, where it is not so already."""
        with world.changing(self.folder) as here:
            for each in here.machines(app):
                each.setdefault("behind", {})[str(port)] = list(address)

    def start_api(self) -> str:
        """Have Fly's API answer, where it does not, and return its address, which FLY_API_BASE_URL takes; the authority must be there."""
        known = world.seen(self.folder).data
        port = int(known.get("api_port", 0))
        if not self._runs(known.get("api_pid")):
            port = _free_port(port)
            pid = self._start_python("polyladder_ops.sandbox.fly.api", "api.log", str(port))
            with world.changing(self.folder) as here:
                here.data |= {"api_pid": pid, "api_port": port}
        _wait_for(lambda: _listens(port), "the API of the stand-in does not answer")
        return f"http://{machines.HOST}:{port}"

    def _runs(self, pid: int | None) -> bool:
        """Whether this is a process of the stand-in's that runs."""
        return bool(pid) and portable.runs(pid or 0, "python", str(self.folder))

    def _end(self, pid: int | None) -> None:
        if pid and self._runs(pid):
            os.kill(pid, signal.SIGTERM)

    def _start_python(self, module: str, log_name: str, *words: str) -> int:
        """Start a process of the stand-in's that outlives us, until its world is gone; return its id."""
        log = os.open(self.folder / log_name, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            argv = [sys.executable, "-m", module, str(self.folder), *words]
            process = portable.start(
                argv, env=portable.clean_environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        finally:
            os.close(log)
        process.returncode = 0
        return process.pid

    def _serve_ssh(self, app: str, identifier: str) -> None:
        self._start_python("polyladder_ops.sandbox.fly.hallpass", f"{identifier}.ssh.log", app, identifier)
        _wait_for(
            lambda: world.seen(self.folder).apps[app]["machines"][identifier]["ssh"]["pid"],
            f"SSH of machine {identifier} of the stand-in does not answer",
        )

    def tell(self, app: str, secrets: Mapping[str, str]) -> None:
        """Give the app secrets, as `fly secrets set` does, where it has others: its machines that run start anew."""
        with world.changing(self.folder) as here:
            web = here.apps[app]
            if dict(secrets).items() <= web["secrets"].items():
                return
            web["secrets"].update(secrets)
            web["secrets_version"] += 1
            for machine in here.machines(app):
                platform.take_secrets(web, machine)
                if machine["shown"]["state"] == "started":
                    machines.force_to_end(machine)
                    platform.start(here, app, machine, source="flyd")

    def remove(self) -> None:
        """End its processes and delete it; the edge ends itself when the world is gone."""
        if self.exists():
            with contextlib.suppress(OpsError):  # it is damaged
                self._end_processes()
            machines.force_all_to_end(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)

    def _end_processes(self) -> None:
        with world.changing(self.folder) as here:
            for app in here.apps:
                for machine in here.machines(app):
                    machines.force_to_end(machine)
                    self._end(machine.get("ssh", {}).get("pid"))
            for pid in (here.data["edge"]["pid"], here.data.get("api_pid")):
                self._end(pid)

    def is_running(self) -> bool:
        """Whether the edge answers."""
        return self.exists() and _listens(int(world.seen(self.folder).data["edge"]["port"]))

    def switch(self, name: str, *, times: int | None = None, off: bool = False) -> None:
        """Switch a fault on, for so many times if said, or off; `all` with off means every one. Raise UsageError if unknown."""
        if name not in FAULTS and not (off and name == "all"):
            raise UsageError(f"there is no fault {name}", hint="`invoke sandbox.fault` lists them.")
        with world.changing(self.folder) as here:
            if off:
                here.data["faults"] = {
                    key: value for key, value in here.data["faults"].items() if name not in (key, "all")
                }
            else:
                here.data["faults"][name] = times
            self._release_fault(here, name, off=off)

    @staticmethod
    def _release_fault(here: world.World, name: str, *, off: bool) -> None:
        web = next(iter(here.apps.values()))
        if name == "failed-release" and not off:
            platform.release(
                here, web, status="failed", image="registry.fly.io/polyladder:deployment-01JFAILED"
            )
        if name == "no-release" and not off:
            web["releases"] = []
        elif off and not web["releases"]:
            platform.release(here, web)

    def faults(self) -> dict[str, int | None]:
        """Return the faults that are on, with how often they still come, None for always."""
        return dict(world.seen(self.folder).data["faults"])

    def carried(self) -> list[dict[str, Any]]:
        """Return what each connection through a tunnel has carried, once it was over: app, port, bytes up and down."""
        return tunnels.read_carried(self.folder)

    def calls(self) -> list[list[str]]:
        """Return the words of each call so far."""
        return world.read_calls(self.folder)


def _app(
    program: Sequence[str],
    groups: dict[str, Any],
    env: dict[str, str],
    secrets: dict[str, str],
    vm: dict[str, Any] | None,
) -> world.App:
    return {
        "program": list(program), "region": "iad", "env": env, "groups": groups, "vm": vm, "machines": {}, "releases": [],
        "secrets": secrets, "secrets_version": 1, "volumes": [],
    }  # fmt: skip


_MOUNT = {"volume": "vol_4y6k1l2m3n", "path": "/data", "name": "pg_data", "size_gb": 1, "encrypted": True}
_CHECKS = {"pg": {"type": "http", "port": 5500, "path": "/flycheck/pg", "interval": "15s", "timeout": "10s"}}
_VOLUME = {
    "id": "vol_4y6k1l2m3n", "name": "pg_data", "state": "created", "size_gb": 1, "region": "iad", "zone": "b1",
    "encrypted": True, "attached_machine_id": None, "created_at": "2025-12-01T10:00:00Z", "snapshot_retention": 5,
    "auto_backup_enabled": True,
}  # fmt: skip


def _write_program(path: Path, folder: Path) -> None:
    """Write the executable; its first line would be cut where the path of Python is long, so a shell starts that."""
    module = "polyladder_ops.sandbox.fly.program"
    if path.suffix:
        path.write_text(f'@"{sys.executable}" -m {module} "{folder}" %*\n', encoding="utf-8")
        return
    line = f'exec {shlex.quote(sys.executable)} -m {module} {shlex.quote(str(folder))} "$@"'
    path.write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
    path.chmod(0o700)


def _free_port(wanted: int) -> int:
    """Return the port that it had, or another one if somebody took that."""
    for port in (wanted, 0):
        with contextlib.suppress(OSError), socket.create_server((machines.HOST, port)) as listener:
            return int(listener.getsockname()[1])
    raise OpsError(f"no port of {machines.HOST} is free")


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError):
        socket.create_connection((machines.HOST, port), timeout=1).close()
        return True
    return False


def _wait_for(is_so: Any, said: str) -> None:
    deadline = time.monotonic() + 60
    while not is_so():
        if time.monotonic() > deadline:
            raise OpsError(said)
        time.sleep(0.05)
