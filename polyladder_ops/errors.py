"""What can go wrong, said the way PostgreSQL says it: a message, a detail, a hint.

The message is lower-case, without a full stop, and names the thing; detail and hint are sentences, the hint with the
next command. An error is raised where it is known and printed in one place (``tasks/boundary.py``).
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Interrupted",
    "Mismatch",
    "OpsError",
    "Refused",
    "SettingsError",
    "UsageError",
    "unusable",
    "working_in",
]


BELOW = "\n        "
"""Between the lines of a detail that has several: they are told below each other, under the word ``detail: ``."""


class OpsError(Exception):
    """The work could not be done; exit code 1."""

    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, detail: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.hint = hint

    @property
    def in_a_line(self) -> str:
        """Message and detail in one line: what stands below each other in a detail stands one behind the other."""
        return f"{self.message}. {'; '.join(self.detail.split(BELOW))}".strip()

    @property
    def with_hint(self) -> str:
        """Message, detail and hint as sentences of one line."""
        texts = [text.strip() for text in (self.message, "; ".join(self.detail.split(BELOW)), self.hint)]
        return " ".join(text if text.endswith((".", "…", "?", "!")) else f"{text}." for text in texts if text)

    def __str__(self) -> str:
        lines = [f"error: {self.message}"]
        lines += [f"detail: {self.detail}"] if self.detail else []
        lines += [f"hint: {self.hint}"] if self.hint else []
        return "\n".join(lines)


class UsageError(OpsError):
    """The command was written wrongly; exit code 2."""

    exit_code = 2


class SettingsError(OpsError):
    """A setting is missing or unusable; exit code 2."""

    exit_code = 2


class Mismatch(OpsError):  # noqa: N818 - an answer, not an accident
    """Done, and the answer is no: unhealthy, unequal, not proved; exit code 3."""

    exit_code = 3


class Refused(OpsError):  # noqa: N818 - a decision, not an accident
    """Refused for safety, or because another run is at work; the hint says what helps; exit code 4."""

    exit_code = 4


class Interrupted(OpsError):  # noqa: N818 - somebody asked for it
    """Stopped by Ctrl-C or SIGTERM; exit code 130."""

    exit_code = 130


def unusable(folder: Path, error: OSError) -> OpsError:
    """Return what to tell where the file system refuses work in a folder that a setting names."""
    return OpsError(
        f"could not work in {folder}",
        detail=f"The file system says: {error.strerror or error}.",
        hint="Check the folder's rights and space, or name another one.",
    )


@contextlib.contextmanager
def working_in(folder: Path) -> Iterator[None]:
    """Within the block what the file system refuses becomes an OpsError that names the folder."""
    try:
        yield
    except (TimeoutError, ConnectionError):  # no file's: a lock that is held, a server that is gone
        raise
    except OSError as error:
        raise unusable(folder, error) from error
