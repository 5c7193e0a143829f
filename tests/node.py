"""pnpm 8.15.0 and node-pg-migrate 8, as the app has them, in a workspace of our own beside the PostgreSQL majors.

`python -m tests.node` fetches them by npm; the tests only look. Node itself comes with the system.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

from tests import majors

if TYPE_CHECKING:
    from pathlib import Path

PNPM = "8.15.0"
VERSIONS = {"node-pg-migrate": "8.0.4", "pg": "8.23.1"}
SCRIPTS = {way: f"node-pg-migrate {way} -m migrations" for way in ("up", "down")}


def root() -> Path:
    """Return the folder of all that was fetched."""
    return majors.root() / "node"


def path() -> str:
    """Return the PATH on which pnpm is found before any other."""
    return os.pathsep.join([str(root() / "node_modules" / ".bin"), os.environ.get("PATH", "")])


def lacking() -> str:
    """Return in words what is not there, empty if all is."""
    if shutil.which("node") is None:
        return "no Node (apt-get install nodejs npm)"
    installed = root() / "workspace" / "packages" / "db" / "node_modules" / "node-pg-migrate"
    return "" if installed.is_dir() else "no pnpm and node-pg-migrate (python -m tests.node)"


def fetch() -> None:
    """Get what is missing. Raise CalledProcessError or OSError if a package can't be had."""
    if lacking():
        root().mkdir(parents=True, exist_ok=True)
        (root() / "package.json").write_text('{"private": true}')
        _call("npm", "install", "--no-audit", "--no-fund", "--silent", f"pnpm@{PNPM}", cwd=root())
        workspace(root() / "workspace")
        _call("pnpm", "install", "--prod", "--silent", cwd=root() / "workspace")


def workspace(folder: Path) -> Path:
    """Make a workspace like the app's, without modules and migrations; return the folder of its package."""
    package = folder / "packages" / "db"
    package.mkdir(parents=True, exist_ok=True)
    whole = {"name": "polyladder", "private": True, "packageManager": f"pnpm@{PNPM}"}
    scripts = {f"migrate:{way}": script for way, script in SCRIPTS.items()}
    described = {
        "name": "@polyladder/db",
        "private": True,
        "type": "module",
        "scripts": scripts,
        "dependencies": VERSIONS,
    }
    (folder / "package.json").write_text(json.dumps(whole))
    (folder / "pnpm-workspace.yaml").write_text("packages:\n  - 'packages/*'\n")
    (package / "package.json").write_text(json.dumps(described))
    return package


def installed(folder: Path) -> Path:
    """Make a workspace with its modules; return the folder of its package."""
    package = workspace(folder)
    (package / "node_modules").symlink_to(root() / "workspace" / "packages" / "db" / "node_modules")
    return package


def _call(*argv: str, cwd: Path) -> None:
    env = {**os.environ, "PATH": path(), "CI": "true"}
    subprocess.run(argv, cwd=cwd, env=env, check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    fetch()
    missing = lacking()
    print(f"in {root()}: {missing or 'all there'}")
    sys.exit(bool(missing))
