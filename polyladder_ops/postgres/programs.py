"""A pg_dump that runs somewhere, and whose stdout is read here: what it is told, and what is heard of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping
    from contextlib import AbstractContextManager
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

__all__ = ["Call", "End", "Program", "Running"]


@dataclass(frozen=True)
class Call:
    """What a pg_dump is told: arguments and variables, none of them secret and none that says where the server is.

    `target` is the database as it is reached from here, `need_tls` whether only in secret, and `private` a folder for what
    must not lie about. `compress` is for one far away: whether its output is compressed on its way.
    """

    target: Target
    arguments: tuple[str, ...]
    variables: Mapping[str, str]
    private: Path
    need_tls: bool = False
    compress: bool = True


@dataclass(frozen=True)
class End:
    """How it ended: its exit code, or the number of the signal that killed it below zero; and its last words."""

    code: int
    words: bytes


class Running(Protocol):
    """One that runs."""

    def read(self) -> bytes:
        """Return the next bytes of the dump, none at its end. Raise OpsError if they can't be had."""

    def packed(self) -> list[bytes]:
        """Return what came compressed since this was last asked, of which `read` gave what is inside; nothing where it came as it is."""

    def ended(self) -> End:
        """Return how it ended, once its last byte was read; it is waited for."""

    def end(self, *, grace_s: float) -> None:
        """End it, from any thread; whoever reads finds the end of the dump then."""


class Program(Protocol):
    """One that can be run; as a text it is its version and where it is."""

    @property
    def version(self) -> str:
        """Its version, as it says it."""

    @property
    def major(self) -> int:
        """The part of the version that must match the server's."""

    @property
    def packs(self) -> bool:
        """Whether its output comes compressed, if that is wanted."""

    def running(self, call: Call) -> AbstractContextManager[Running]:
        """Within the block it runs; after it, it is ended. Raise OpsError if it can't be started."""
