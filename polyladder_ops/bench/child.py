"""A restore by our library in a process of its own, so that its processor time and its memory can be measured.

Run as ``python -m polyladder_ops.bench.child`` with a job in JSON on stdin, since in argv everybody would see the password.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import catalog, loading, restoring
from polyladder_ops.errors import Mismatch
from polyladder_ops.postgres.conninfo import Target
from polyladder_ops.postgres.script import Script

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["job", "main"]


def job(server: Target, name: str, backup: Path, *, analyze: bool = False, proof: bool = False) -> str:
    """Return what `main` is told: restore this backup into a new database, and what to do with it then."""
    told = {
        "server": dict(server.parameters),
        "name": name,
        "backup": str(backup),
        "analyze": analyze,
        "proof": proof,
    }
    return json.dumps(told) + "\n"


def main() -> None:
    """Do the job on stdin. Raise OpsError if it can't be done, Mismatch if the proof finds a difference."""
    told = json.loads(sys.stdin.readline())
    server, backup = Target.of(**told["server"]), catalog.open_backup(Path(told["backup"]))
    _restore(server, told["name"], backup, told)


def _restore(server: Target, name: str, backup: catalog.Backup, told: Mapping[str, object]) -> None:
    restoring.make_database(server, name, backup.manifest)
    target = server.with_database(name)
    script = Script()
    loaded = loading.load(target, backup, [], script=script)
    if told["analyze"]:
        restoring.analyze(target)
    if not told["proof"]:
        return
    if differences := restoring.prove(server, name, backup, [], script=script, loaded=loaded):
        raise Mismatch(f"{len(differences)} differences", detail="; ".join(map(str, differences[:5])))


if __name__ == "__main__":
    main()
