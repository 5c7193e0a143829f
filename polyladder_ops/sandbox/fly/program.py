"""The executable: `program.py FOLDER WORDS…` is `fly WORDS…` in the world of that folder.

It shares no code with our own caller of fly: what is wrong in one must not be wrong in the other in the same way.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.sandbox.fly import acting, disks, looking, scaling, tunnels, vault
from polyladder_ops.sandbox.fly.arguments import FlyError, parse
from polyladder_ops.sandbox.fly.session import Session
from polyladder_ops.sandbox.fly.world import World, changing, log_call

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["main"]

_LOOKING: dict[tuple[str, ...], Callable[[Session, World], str]] = {
    ("version",): looking.version,
    ("auth", "whoami"): looking.whoami,
    ("status",): looking.status,
    ("machine", "list"): looking.vms,
    ("scale", "show"): looking.scale_show,
    ("releases",): looking.releases,
    ("checks", "list"): looking.checks,
    ("config", "show"): looking.config,
    ("volumes", "list"): looking.volumes,
    ("mpg", "list"): looking.clusters,
    ("secrets", "list"): vault.listed,
    ("secrets", "set"): vault.change,
    ("secrets", "import"): vault.change,
    ("secrets", "unset"): vault.change,
    ("secrets", "deploy"): vault.deploy,
    ("secrets", "sync"): vault.sync,
}
_ACTING: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {
    **acting.COMMANDS,
    **disks.COMMANDS,
    **tunnels.COMMANDS,
    ("scale", "count"): scaling.count,
}
_API_DOWN = 'Post "https://api.fly.io/graphql": dial tcp: lookup api.fly.io: no such host'


def main(argv: list[str]) -> int:
    """Run the command, and return flyctl's exit code; an interrupt is 127 without a word (contract 0.1)."""
    signal.signal(signal.SIGTERM, _interrupted)
    folder, words = Path(argv[0]), argv[1:]
    try:
        log_call(folder, words)
        for text in _run(folder, words):
            sys.stdout.write(text)
            sys.stdout.flush()
    except FlyError as error:
        sys.stdout.write(error.stdout)
        sys.stderr.write(f"Error: {error}\n" if error.code != 3 else f"{error}\n")
        return error.code
    except OpsError as error:  # our own: the world is damaged
        sys.stderr.write(f"Error: {error.message}. {error.hint}\n")
        return 1
    except KeyboardInterrupt:
        return 127
    return 0


def _interrupted(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def _run(folder: Path, words: list[str]) -> Iterator[str]:
    call = parse(words)
    session = Session(call, dict(os.environ), _stdin(words))
    if call.command != ("version",):
        _suffer(folder)
        with changing(folder) as world:
            session.scopes(world)
            if world.has_fault("noise") and os.environ.get("LOG_LEVEL") != "silent":
                yield "\x1b[33mWARN\x1b[0m The running flyctl agent is of another version\n"
    if call.command[0] == "ssh":
        from polyladder_ops.sandbox.fly import console, credentials  # cryptography takes a moment to load

        yield from {**credentials.COMMANDS, **console.COMMANDS}[call.command](session, folder)
        return
    if call.command in _ACTING:
        yield from _ACTING[call.command](session, folder)
        return
    if call.command not in _LOOKING:
        raise looking.missing(call.command)
    with changing(folder) as world:
        text = _LOOKING[call.command](session, world)
        yield text[: len(text) // 2] if call.is_set("json") and world.has_fault("cut") else text


def _suffer(folder: Path) -> None:
    """Meet the faults that any call may meet before it does anything."""
    with changing(folder) as world:
        slow, hangs = world.has_fault("slow"), world.has_fault("hang")
        if world.has_fault("api-down"):
            raise FlyError(_API_DOWN)
        if world.has_fault("rate-limited"):
            raise FlyError("failed to list VMs: server returned a non-200 status code: 429")
        if world.has_fault("panic"):
            raise FlyError("panic: runtime error: invalid memory address or nil pointer dereference", 3)
    time.sleep(1.0 if slow else 0)
    while hangs:
        time.sleep(0.05)


def _stdin(words: list[str]) -> str:
    is_read = words[:1] == ["secrets"] and (
        words[1:2] == ["import"] or any(word.endswith("=-") for word in words)
    )
    return sys.stdin.read() if is_read else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
