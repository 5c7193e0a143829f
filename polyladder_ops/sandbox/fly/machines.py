"""A machine of the stand-in as a process of this system, if its app has a program; else it is only written down."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

from polyladder_ops import portable

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.sandbox.fly.world import App, Machine, World

__all__ = ["answers", "ask_to_end", "force_all_to_end", "force_to_end", "is_running", "start"]

HOST = "127.0.0.1"
_PROGRAM = "python"
_NOTE = ".pid"


def start(world: World, app: App, machine: Machine) -> None:
    """Start the machine's process with the secrets that the machine holds, on a port of its own."""
    if not app["program"]:
        return
    with socket.create_server((HOST, 0)) as listener:
        machine["port"] = int(listener.getsockname()[1])
    env = portable.clean_environment(
        {**app["env"], **machine["secrets"], "FLY_MACHINE_ID": machine["shown"]["id"]}
    )
    log = os.open(
        world.folder / f"{machine['shown']['id']}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600
    )
    try:
        argv = [*app["program"], "--port", str(machine["port"])]
        process = portable.start(argv, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    finally:
        os.close(log)
    machine["pid"] = process.pid
    note = world.folder / f"{machine['shown']['id']}{_NOTE}"
    note.write_text(json.dumps({"pid": process.pid, "port": machine["port"]}), encoding="utf-8")
    process.returncode = 0  # it outlives us, and whoever waits for it is the system


def is_running(machine: Machine) -> bool:
    """Whether the machine's process lives; its id may be another program's by now, so its port is looked for, too."""
    return bool(machine["pid"]) and portable.runs(machine["pid"], _PROGRAM, f"{machine['port']}")


def ask_to_end(machine: Machine) -> None:
    """Send what Fly sends at a stop."""
    if is_running(machine):
        os.kill(machine["pid"], signal.SIGINT)


def force_to_end(machine: Machine) -> None:
    """End the process, and wait until it is gone: what Fly does at the end of kill_timeout, or when it destroys."""
    deadline = time.monotonic() + 5.0
    hard = getattr(signal, "SIGKILL", signal.SIGTERM)
    while is_running(machine) and time.monotonic() < deadline:
        os.kill(machine["pid"], hard)
        time.sleep(0.02)
    machine["pid"] = 0


def force_all_to_end(folder: Path) -> None:
    """End each process that was started in this folder and runs still, as the notes beside the logs tell."""
    for note in folder.glob(f"*{_NOTE}"):
        with contextlib.suppress(OSError, ValueError):
            force_to_end({"pid": 0, "port": 0, **json.loads(note.read_text(encoding="utf-8"))})


def answers(machine: Machine, *, timeout_s: float = 0.5) -> bool:
    """Whether somebody listens on the machine's port."""
    try:
        socket.create_connection((HOST, machine["port"]), timeout=timeout_s).close()
    except OSError:
        return False
    return True
