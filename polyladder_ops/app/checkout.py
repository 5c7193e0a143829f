"""The checkout of the app: where its migrations lie, and the command that runs them.

The package is found by its name through pnpm, as it may lie in a repository beside the app's. pnpm 8 and 12 end with 0 when a filter
matches no package ("No projects matched the filters"), so `--fail-if-no-match` stands in every call.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops import portable
from polyladder_ops.app import node_pg_migrate, reading
from polyladder_ops.app.migration_files import File, ordered
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from polyladder_ops.app.node_pg_migrate import Options

__all__ = ["PACKAGE", "Checkout", "find"]

PACKAGE = "@polyladder/db"
_PNPM = ("--fail-if-no-match", "--filter", PACKAGE)
_ASKING_S = 60
_DIRECTORIES = ("migrations", "src/migrations")


@dataclass(frozen=True)
class Checkout:
    """The app's folder, the package with the migrations, their files in order, and what runs them from which folder.

    `options` are what that is told. `command` wants `up` or `down` behind its last word: as a word of its own, or as the end of
    a script's name.
    """

    root: Path
    package: Path
    files: tuple[File, ...]
    command: tuple[str, ...]
    by_pnpm: bool
    options: Options

    @property
    def folder(self) -> Path:
        """Where the command is run."""
        return self.root if self.by_pnpm else self.package

    def argv(self, direction: str) -> list[str]:
        """Return the command for `up` or `down`."""
        if self.by_pnpm:
            return [*self.command, f"migrate:{direction}"]
        return [*self.command, direction]


def find(root: Path, command: str | None) -> Checkout:
    """Return the checkout in a folder, run by pnpm or by `command`.

    Raise SettingsError if the folder or the command is unusable, OpsError if Node, pnpm, the package, its modules or its
    migrations are not there.
    """
    if not root.is_dir():
        raise SettingsError(
            "POLYLADDER_APP_DIR names no folder",
            detail=f"{root} is not there.",
            hint="Name the app's checkout.",
        )
    words = _words(command) if command else (_pnpm(root), *_PNPM)
    package = _beside(root) if command else _by_pnpm(root, words)
    described = reading.json_object(package / "package.json")
    scripts = described.get("scripts")
    script = str(scripts.get("migrate:up", "")) if isinstance(scripts, dict) else ""
    if command:
        _expect_program(words[0], package)
    else:
        _expect_installed(root, package, script)
    options = node_pg_migrate.options(command or script, package, described)
    folder = _directory(package, options.directory or node_pg_migrate.directory(script, package))
    return Checkout(root, package, _files(folder), words, by_pnpm=not command, options=options)


def _words(command: str) -> tuple[str, ...]:
    try:
        words = tuple(shlex.split(command))
    except ValueError as error:
        raise SettingsError("POLYLADDER_MIGRATE_COMMAND is unusable", detail=f"{error}.") from None
    if not words:
        raise SettingsError("POLYLADDER_MIGRATE_COMMAND is unusable", detail="There is no word in it.")
    return words


def _expect_program(word: str, package: Path) -> None:
    """Return if there is this program, on the PATH or, with a folder before its name, as seen from the package, where it is run."""
    if shutil.which(package / word if "/" in word or os.sep in word else word) is None:
        raise SettingsError(
            "POLYLADDER_MIGRATE_COMMAND is unusable",
            detail=f"There is no program {word!r}; it is run in {package}.",
            hint="Begin it with a program on the PATH, or leave it unset for pnpm.",
        )


def _pnpm(root: Path) -> str:
    """Return pnpm's path. Raise OpsError with the cure if it, or Node, is not installed."""
    described = reading.json_object(root / "package.json")
    wanted = str(described.get("packageManager", "pnpm@8.15.0")).partition("+")[0]
    if shutil.which("node") is None:
        raise OpsError(
            "Node is not installed, and the app's migrations are run by it",
            hint=f"Install Node 20, then `npm install -g {wanted}` and `pnpm install` in {root}; or set POLYLADDER_MIGRATE_COMMAND.",
        )
    found = shutil.which("pnpm")
    if found is None:
        raise OpsError(
            "pnpm is not installed, and the app's migrations are run by it",
            hint=f"Run `npm install -g {wanted}`, the version that the app names, then `pnpm install` in {root}.",
        )
    return found


def _by_pnpm(root: Path, words: tuple[str, ...]) -> Path:
    """Return the package's folder as pnpm tells it. Raise OpsError if no package of the workspace has the name."""
    code, out, said = _ask([*words, "ls", "--depth", "-1", "--json"], root)
    try:
        (found,) = json.loads(out)
        return Path(found["path"])
    except (ValueError, KeyError, TypeError):
        raise OpsError(
            f"pnpm finds no package {PACKAGE} in {root}",
            detail=f"It ended with {code}. {redact(said or out)[-500:]}".strip(),
            hint="The package may lie in a repository beside the app's (see pnpm-workspace.yaml): clone that, too.",
        ) from None


def _ask(argv: list[str], folder: Path) -> tuple[int, str, str]:
    """Return how a short call ends, and what it says on stdout and stderr."""
    process = portable.start(
        argv,
        env=environment(),
        cwd=folder,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        out, said = process.communicate(timeout=_ASKING_S)
    except subprocess.TimeoutExpired:
        raise OpsError(f"{argv[0]} did not answer within {_ASKING_S} s") from None
    finally:
        portable.end_group(process)
    return process.returncode, out.decode(errors="replace"), said.decode(errors="replace").strip()


def environment(more: dict[str, str] | None = None) -> dict[str, str]:
    """Return what a migration's program may see: no PG* and no secret of ours, production's rules, plus `more`.

    One of the old migrations makes accounts with a known password unless NODE_ENV says production.
    """
    ours = {"CI": "true", "NODE_ENV": "production", "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return portable.clean_environment({**ours, **(more or {})})


def _beside(root: Path) -> Path:
    """Return the package's folder as the workspace's file tells it, without pnpm. Raise OpsError if it is nowhere."""
    listed = root / "pnpm-workspace.yaml"
    text = reading.text(listed) if os.path.lexists(listed) else ""
    patterns = re.findall(r"^\s*-\s*['\"]?([^'\"!#\s]+)['\"]?\s*$", text, re.MULTILINE)
    for pattern in (".", *patterns, "packages/*"):
        up = re.match(r"(?:\.\./)*", pattern)
        above = len(up[0]) // 3 if up else 0
        base = root.joinpath(*[".."] * above).resolve()
        below = pattern[3 * above :]
        for folder in _folders(base, below):
            if reading.json_object(folder / "package.json").get("name") == PACKAGE:
                return folder
    raise OpsError(
        f"there is no package {PACKAGE} in {root}",
        hint="The package may lie in a repository beside the app's (see pnpm-workspace.yaml): clone that, too.",
    )


def _folders(base: Path, pattern: str) -> list[Path]:
    """Return the folders that a pattern of the workspace's file names; none for one that Python can't read."""
    if pattern == ".":
        return [base]
    with contextlib.suppress(NotImplementedError, ValueError, OSError):  # it begins with a slash; ***
        return sorted(base.glob(pattern))
    return []


def _expect_installed(root: Path, package: Path, script: str) -> None:
    if not script:
        raise OpsError(
            f"{PACKAGE} has no script migrate:up",
            detail=f"Its folder is {package}.",
            hint="Check out the app's release.",
        )
    if not (package / "node_modules").is_dir():
        raise OpsError(
            f"{PACKAGE} is not installed: it has no node_modules", hint=f"Run `pnpm install` in {root}."
        )


def _directory(package: Path, told: str) -> Path:
    names = [told] if told else list(_DIRECTORIES)
    found = next((package / name for name in names if (package / name).is_dir()), None)
    if found is None:
        raise OpsError(
            f"{PACKAGE} has no folder of migrations", detail=f"Looked for {', '.join(names)} in {package}."
        )
    return found


def _files(directory: Path) -> tuple[File, ...]:
    """Return the migrations in their order: every file that is not hidden is one, as for node-pg-migrate."""
    found = [File(path) for path in directory.iterdir() if path.is_file() and not path.name.startswith(".")]
    if not found:
        raise OpsError(f"there is no migration in {directory}", hint="Check out the app's release.")
    return ordered(found)
