"""What node-pg-migrate is told of folder, table and schema: by the flags of a command, and by its file of settings, which counts more.

Whoever looks into another table than the program sees everything pending, or nothing.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops.app import reading
from polyladder_ops.errors import OpsError
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Options", "directory", "options"]

_SHORT = {
    "m": "migrations-dir",
    "t": "migrations-table",
    "d": "database-url-var",
    "s": "schema",
    "f": "config-file",
}
_DIRECTORY, _TABLE, _URL, _SCHEMA, _NOTES = _SETTINGS = (
    "migrations-dir",
    "migrations-table",
    "database-url-var",
    "schema",
    "migrations-schema",
)
_EXPECTED = {_URL: "DATABASE_URL", _TABLE: "pgmigrations"}


@dataclass(frozen=True)
class Options:
    """The folder of migrations (empty: not told), the schema of the table `pgmigrations`, and whether that schema is sure."""

    directory: str = ""
    schema: str = "public"
    is_sure: bool = True


def options(command: str, package: Path, described: Mapping[str, Any]) -> Options:
    """Return what a command that is run in the package's folder tells. `described` is its package.json.

    Raise OpsError if it takes its database, or its table, elsewhere than we say, or if its file of settings can't be read.
    """
    words, flags, told = _told(command, package)
    if any(told.get(name, expected) != expected for name, expected in _EXPECTED.items()):
        raise OpsError(
            "what runs the migrations does not use DATABASE_URL and the table pgmigrations",
            detail=f"It is: {redact(command)}",
            hint="Then where it migrates can't be told from here; set POLYLADDER_MIGRATE_COMMAND to what does.",
        )
    folder = told.get(_DIRECTORY, "")
    schema = told.get(_NOTES) or told.get(_SCHEMA) or "public"
    is_sure = _NOTES in flags or (any(map(_is_it, words)) and not _has_more_settings(package, described))
    if "$" in schema:  # the shell knows it
        return Options(folder, is_sure=False)
    return Options(folder, schema, is_sure)


def directory(command: str, package: Path) -> str:
    """Return the folder of migrations that a command tells, empty if it tells none."""
    return _told(command, package)[2].get(_DIRECTORY, "")


def _told(command: str, package: Path) -> tuple[list[str], dict[str, str], dict[str, str]]:
    """Return the command's words, what its flags say, and what that and its file of settings say."""
    words = _words(command)
    flags = _flags(words)
    return words, flags, {**flags, **_in_file(flags, package)}


def _words(command: str) -> list[str]:
    try:
        return shlex.split(command)
    except ValueError:
        return command.split()


def _flags(words: Sequence[str]) -> dict[str, str]:
    """Return what its flags say by their long names, which may be written with hyphens or in camel case.

    Short ones only behind its own name: before it, or without it, they are another program's (`python -m`).
    """
    ours = next((at for at, word in enumerate(words) if _is_it(word)), len(words))
    short = _SHORT if words[ours:] else {}
    rest = iter(words[ours:] or words)
    found: dict[str, str] = {}
    for word in rest:
        flag, is_joined, value = word.partition("=")
        bare = flag.lstrip("-")
        name = short.get(bare, "") if flag == f"-{bare}" else re.sub(r"[A-Z]", _hyphened, bare)
        if flag.startswith("-") and name in (*_SETTINGS, "config-file", "config-value"):
            given = value if is_joined else next(rest, "")
            found[name] = found.get(name, given) if name == _SCHEMA else given  # of several the first one's
    return found


def _is_it(word: str) -> bool:
    return Path(word).name.startswith("node-pg-migrate")


def _hyphened(capital: re.Match[str]) -> str:
    return f"-{capital[0].lower()}"


def _in_file(flags: Mapping[str, str], package: Path) -> dict[str, str]:
    """Return what the file of settings says that a flag names. One that is not there the program will complain of."""
    if not (name := flags.get("config-file")):
        return {}
    found = reading.json_object(package / name)
    section = found.get(flags.get("config-value", "db"), found)
    given = section if isinstance(section, dict) else {}
    first = {key: each[0] if isinstance(each, list) and each else each for key, each in given.items()}
    return {key: str(first[key]) for key in _SETTINGS if first.get(key)}


def _has_more_settings(package: Path, described: Mapping[str, Any]) -> bool:
    """Whether the module `config` may have a say, whose files are programs, too."""
    needed = [described.get(kind) for kind in ("dependencies", "devDependencies")]
    return (package / "config").is_dir() and any(
        isinstance(each, dict) and "config" in each for each in needed
    )
