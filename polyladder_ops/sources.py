"""Where settings come from: one layer of texts a place, the strongest first, and what is wrong with each place.

Faults are sentences that a person can act on; they are gathered, never raised, so that all are said at once, and they
never repeat a value, which may be a secret.
"""

from __future__ import annotations

import difflib
import io
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dotenv.parser import parse_stream

from polyladder_ops import plainfile
from polyladder_ops.redaction import hide_url

if TYPE_CHECKING:
    import re
    from pathlib import Path

__all__ = ["Layer", "Variable", "dotenv", "first", "invoke_yaml", "unknown"]

# Nobody else uses these names, so an unknown one is a typo; BACKUP_* may be somebody else's.
_MOST_BYTES = 1 << 20
_OURS = ("POLYLADDER_", "BACKUP_AGE_")


@dataclass(frozen=True)
class Variable:
    """One knob as a person meets it; `default` is a text, empty for none."""

    name: str
    help: str
    default: str = ""
    needed_by: str = ""
    is_secret: bool = False

    @property
    def attribute(self) -> str:
        """Name of the field in `Settings`, and of the flag that sets it."""
        return self.name.removeprefix("POLYLADDER_").lower()


@dataclass(frozen=True)
class Layer:
    """One place that settings come from: text by variable, never an empty one."""

    source: str
    values: Mapping[str, str]

    @classmethod
    def of(cls, source: str, values: Mapping[str, str | None]) -> Layer:
        """Return the layer of these texts; an empty one counts as unset, and space around it is cut off.

        A secret that was pasted into a form often ends in a line break.
        """
        stripped = {name: (text or "").strip() for name, text in values.items()}
        return cls(source, {name: text for name, text in stripped.items() if text})

    def without(self, names: re.Pattern[str]) -> Layer:
        """Return the layer without the variables that the pattern matches whole."""
        return Layer(
            self.source, {name: text for name, text in self.values.items() if not names.fullmatch(name)}
        )


def first(name: str, layers: Iterable[Layer]) -> tuple[str, str]:
    """Return the text and its source from the first layer that has it; empty and ``unset`` if none has."""
    return next(
        ((layer.values[name], layer.source) for layer in layers if name in layer.values), ("", "unset")
    )


def dotenv(path: Path, faults: list[str]) -> Layer:
    """Return what a ``.env`` file says, nothing interpolated; empty if there is none."""
    if path.is_symlink() and not path.exists():  # passed over, another site's values would hold in its place
        faults.append(
            f"{path.name} is a link to a file that is not there; remove it, or bring the file back."
        )
    if not path.exists() or path.is_dir():  # some people's virtual environment is a folder .env
        return Layer(path.name, {})
    if not path.is_file():
        if not path.samefile(os.devnull):  # which is how a container hides one
            faults.append(f"{path.name} can't be read: it is {plainfile.oddity(path.resolve())}, not a file.")
        return Layer(path.name, {})
    try:
        lines = list(parse_stream(io.StringIO(plainfile.written(path, _MOST_BYTES))))
    except (OSError, UnicodeDecodeError) as error:
        faults.append(f"{path.name} can't be read: {getattr(error, 'strerror', None) or 'it is not UTF-8'}.")
        return Layer(path.name, {})
    faults += [
        f"{path.name} can't be understood at line {line.original.line}; write NAME=value, with matching quotes."
        for line in lines
        if line.error
    ]
    return Layer.of(path.name, {line.key: line.value for line in lines if line.key is not None})


def invoke_yaml(section: object, known: Mapping[str, Variable], faults: list[str]) -> Layer:
    """Return what the section ``polyladder`` of ``invoke.yaml`` says; its keys are the variables in lower case."""
    if section is not None and not isinstance(section, Mapping):
        faults.append("polyladder (invoke.yaml) is not a section; write keys such as backup_dir below it.")
    keys = {name.lower(): variable for name, variable in known.items()}
    values: dict[str, str | None] = {}
    for key, value in section.items() if isinstance(section, Mapping) else ():
        if str(key) not in keys:
            faults.append(f"polyladder.{key} (invoke.yaml) is not a setting; {_meant(str(key), keys)}")
        elif keys[key].is_secret:
            hide_url(str(value))
            faults.append(
                f"{keys[key].name} (invoke.yaml) is a secret; move it to the environment or a .env file."
            )
        elif isinstance(value, bool | float | Mapping):
            faults.append(f"{keys[key].name} (invoke.yaml) is not a text; write it in quotes.")
        else:
            texts = value if isinstance(value, list) else [value]
            values[keys[key].name] = ", ".join(str(text) for text in texts if text is not None)
    return Layer.of("invoke.yaml", values)


def unknown(layers: Iterable[Layer], known: Mapping[str, Variable], faults: list[str]) -> tuple[str, ...]:
    """Return the unknown BACKUP_* names, which may be somebody else's; a name that can only be ours is a fault."""
    doubtful: list[str] = []
    for layer in layers:
        for name in sorted(set(layer.values) - set(known)):
            if name.startswith("INVOKE_POLYLADDER_"):
                faults.append(f"{name} ({layer.source}) is not read; use the setting's own name.")
            elif name.startswith(_OURS) or _is_typo(name, known):
                faults.append(f"{name} ({layer.source}) is not a setting; {_meant(name, known)}")
            elif name.startswith("BACKUP_"):
                doubtful.append(name)
    return tuple(dict.fromkeys(doubtful))


def _is_typo(name: str, known: Iterable[str]) -> bool:
    """BACKUP_RETENTON is one; BACKUP_RETENTION_DAYS or BACKUP_DIRECTORY may belong to another program."""
    ours = [each for each in known if each.startswith("BACKUP_")]
    return name.startswith("BACKUP_") and bool(difflib.get_close_matches(name, ours, 1, 0.9))


def _meant(name: str, known: Iterable[str]) -> str:
    names = list(known)
    close = [each for each in names if each == f"polyladder_{name}"] or difflib.get_close_matches(
        name, names, 2
    )
    return f"did you mean {close[0]}?" if close else "the README lists them all."
