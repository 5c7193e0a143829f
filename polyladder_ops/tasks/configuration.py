"""What Invoke reads for itself (`invoke.yaml`, the file of `-f`, INVOKE_*): a fault in it ends as one of our errors.

Invoke reads a project's file when it has loaded the tasks, and the rest before it calls one: no body of a task can catch
what it raises then, and a pipe is waited for. So from the moment the tasks are loaded its readers look first. What it
reads before any code of ours (`/etc/invoke.*`, `~/.invoke.*`) is out of reach: README names it. No value is repeated in
an error, since it may be a secret in the wrong place.
"""

from __future__ import annotations

import copy
import functools
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.config import AmbiguousMergeError, Config, merge_dicts
from invoke.exceptions import AmbiguousEnvVar, Exit, UnknownFileType

from polyladder_ops import plainfile
from polyladder_ops.errors import SettingsError
from polyladder_ops.tasks.boundary import as_exit

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["guard"]

_READERS = ("_load_yaml", "_load_yml", "_load_json", "_load_py")
_MOST_BYTES = 1 << 20
_LESS = "Take out what you don't need, here and in invoke.yaml."


class _Shape(ValueError):  # noqa: N818 - a name for what is wrong
    """What a file holds is no section with names, or not of Invoke's kinds."""


def guard() -> None:
    """Let Invoke's readers look before they read, from now on, and say what is wrong as we do."""
    careful: dict[str, Callable[..., Any]] = {
        name: _of_a_file(getattr(Config, name)) for name in _READERS if hasattr(Config, name)
    }
    careful["load_runtime"] = _of_a_flag(Config.load_runtime)
    careful["load_shell_env"] = _of_variables(Config.load_shell_env)
    for name, reader in careful.items():
        setattr(Config, name, reader)


def _of_a_file(read: Callable[[Config, str], Any]) -> Callable[[Config, str], Any]:
    """Raise FileNotFoundError if nothing has this name, as Invoke expects."""

    @functools.wraps(read)
    def reading(config: Config, path: str) -> Any:
        if not os.path.lexists(path):
            return read(config, path)
        try:
            _refuse_odd(path)
            return _fit(read(config, path))
        except Exit:
            raise
        except Exception as error:
            hint = "Mend it, or move it away: Invoke reads it at every command."
            told = SettingsError(f"{path} can't be used", detail=_why(error), hint=hint)
            raise as_exit(told) from error

    return reading


def _refuse_odd(path: str) -> None:
    """Raise OSError if this is no file that comes to its end, or too large for settings. A link to one will do."""
    named = Path(path)
    if named.exists() and named.samefile(os.devnull):  # which is how a container hides one
        return
    size = plainfile.look(named.resolve() if named.exists() else named).st_size
    if size > _MOST_BYTES:
        raise plainfile.TooLarge(0, f"it has {size:,} bytes, and settings are short", path)


def _fit(data: Any) -> Any:
    """Return what a file said. Raise _Shape if Invoke could not put it beside its own settings."""
    if data is None or data == "":
        return None
    if not isinstance(data, dict) or not _has_names(data):
        raise _Shape("It is not made of sections and keys with names.")
    if "get" in data:  # by which all are asked for their sections
        raise _Shape("It has a section get, which would hide how the others are found.")
    own = copy.deepcopy(Config.global_defaults())
    try:
        merge_dicts(own, data)
    except AmbiguousMergeError:
        sections = ", ".join(sorted(own))
        raise _Shape(
            f"A section of Invoke's own has a value in it, or the reverse; they are {sections}."
        ) from None
    return data


def _has_names(section: dict[Any, Any]) -> bool:
    return all(isinstance(key, str) for key in section) and all(
        _has_names(value) for value in section.values() if isinstance(value, dict)
    )


def _why(error: Exception) -> str:
    """Return a sentence about what is wrong with a file, without a word of what it says."""
    place = getattr(error, "problem_mark", None)
    line = place.line + 1 if place else getattr(error, "lineno", None)
    if isinstance(error, _Shape):
        return str(error)
    if hasattr(error, "encoding"):  # Python's error of decoding, and YAML's of characters that are none
        return "It is no text in UTF-8."
    if isinstance(error, RecursionError):
        return "It is nested too deeply, or holds itself."
    if isinstance(error, OSError):
        reason = error.strerror or type(error).__name__
        return f"{reason[:1].upper()}{reason[1:]}."
    if line is not None:
        return f"Line {line} can't be understood."
    return f"It can't be understood ({type(error).__name__})."


def _of_a_flag(load: Callable[..., None]) -> Callable[..., None]:
    """Invoke passes over a file that is not there, though somebody has named it: other settings would hold."""

    @functools.wraps(load)
    def loading(config: Config, *args: Any, **kwargs: Any) -> None:
        path = getattr(config, "_runtime_path", None)
        hint = "-f and INVOKE_RUNTIME_CONFIG take a file that ends in .yaml, .yml, .json or .py."
        if path and not Path(path).expanduser().exists():
            raise as_exit(SettingsError(f"there is no file {path} to read settings from", hint=hint))
        try:
            load(config, *args, **kwargs)
        except UnknownFileType as error:
            raise as_exit(SettingsError(f"{path} is of no kind that Invoke reads", hint=hint)) from error

    return loading


def _of_variables(load: Callable[[Config], None]) -> Callable[[Config], None]:
    @functools.wraps(load)
    def loading(config: Config) -> None:
        try:
            load(config)
        except AmbiguousEnvVar as error:
            detail = f"{error}: two keys of what Invoke reads would be set by one variable."
            raise as_exit(
                SettingsError("a key of Invoke's settings has two meanings", detail=detail, hint=_LESS)
            ) from error
        except Exception as error:
            names = ", ".join(sorted(name for name in os.environ if name.startswith("INVOKE_")))
            detail = f"One of them is not of its setting's kind, and a list has no variable: {names or 'none is set'}."
            raise as_exit(
                SettingsError("a variable of Invoke's can't be used", detail=detail, hint=_LESS)
            ) from error

    return loading
