"""The app's machines as one thing: looked at, and with a shape that is remembered before anything is touched."""

from __future__ import annotations

import contextlib
import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from filelock import FileLock, Timeout

from polyladder_ops import portable
from polyladder_ops.errors import Interrupted, OpsError, Refused, working_in
from polyladder_ops.fly import machines, releases, shape
from polyladder_ops.fly.failures import FlyError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.machines import Machine
    from polyladder_ops.fly.shape import Shape

__all__ = ["Fleet", "Pace", "Remembered"]

_T = TypeVar("_T")


@dataclass(frozen=True)
class Pace:
    """Seconds: between what was done and the look at it, between two looks that must agree, and at most for all of it."""

    settle_s: float = 1.0
    apart_s: float = 5.0
    limit_s: float = 180.0  # a lease of a killed command lasts 120


@dataclass(frozen=True)
class Remembered:
    """A shape, and what to say of where it came from if that is worth a word."""

    shape: Shape
    said: str = ""


@dataclass(frozen=True)
class Fleet:
    """The machines of one app, through one flyctl; `folder` keeps the shape, `flags` are what each hint's command needs."""

    flyctl: Flyctl
    app: str
    folder: Path
    flags: str = ""
    say: Callable[[str], None] = lambda _sentence: None
    pace: Pace = field(default_factory=Pace)

    @property
    def path(self) -> Path:
        """Where the shape that must come back lies."""
        return self.folder / f"{self.app}.json"

    def hint(self, *tasks: str) -> str:
        """Return the commands that help, for this site."""
        return " or ".join(f"`invoke {task}{self.flags}`" for task in tasks)

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Within the block no other run on this machine changes the app. Raise Refused if one does."""
        with working_in(self.folder):
            portable.make_private_directory(self.folder)
        lock = FileLock(self.folder / f"{self.app}.lock", timeout=0)
        try:
            with working_in(self.folder):
                lock.acquire()
        except Timeout:
            raise Refused(
                f"another run changes the machines of {self.app}",
                detail=f"It is of {self._holder()}.",
                hint="Wait until it has ended: it says itself what it waits for, and gives up in time. Then run this again.",
            ) from None
        try:
            with working_in(self.folder):
                since = time.strftime("%H:%M:%S UTC", time.gmtime())
                told = f"{portable.by_whom()}, process {os.getpid()}, since {since}"
                self._note.write_text(told, encoding="utf-8")
            yield
        finally:
            lock.release()

    @property
    def _note(self) -> Path:
        return self.folder / f"{self.app}.run"

    def _holder(self) -> str:
        with contextlib.suppress(OSError, ValueError):
            return self._note.read_text(encoding="utf-8")[:200] or "somebody"
        return "somebody"

    def held_by(self) -> str:
        """Return who changes the machines now, from this machine; empty if nobody does."""
        path = self.folder / f"{self.app}.lock"
        if not path.is_file():
            return ""
        try:
            FileLock(path, timeout=0).acquire().lock.release()
        except Timeout:
            return self._holder()
        except OSError:
            return ""
        return ""

    def look(self) -> tuple[Machine, ...]:
        """Return all machines of the app, one call. Raise OpsError if Fly does not tell, Refused if it is a database's app."""
        found = machines.read(self.flyctl.json(list, "machine", "list", "--json", app=self.app))
        databases = [each.id for each in found if each.is_database]
        if databases:
            raise Refused(
                f"{self.app} is a database's app",
                detail=f"Machine {databases[0]} runs PostgreSQL. A database is never stopped or scaled by these tasks.",
                hint="Name the web app in POLYLADDER_APP.",
            )
        return found

    def remember(self, found: tuple[Machine, ...]) -> Shape:
        """Return the shape that must come back, on disk from now on: the one that waits, what the machines tell, or how they are.

        What waits is never written over: after a crash the machines are not as they were. A group that it lacks is added.
        """
        self.forget_what_is_over(found)
        kept = shape.load(self.path)
        if kept is not None:
            more = shape.with_others(kept, shape.of(self.app, found))
            if more != kept:
                shape.save(self.path, more, over=True)
            return more
        made = shape.from_marks(self.app, found) or shape.of(self.app, found)
        shape.save(self.path, made)
        return made

    def forget_what_is_over(self, found: tuple[Machine, ...]) -> None:
        """Forget a shape on disk that was brought back from another machine: a later run would take it for what was."""
        with contextlib.suppress(
            OpsError
        ):  # one that can't be read is not over, nor one of a release that failed
            kept = shape.load(self.path)
            if kept is not None and shape.is_over(kept, found):
                releases.look_at_images(self, shape.of_new_image(kept, found))
                self.say(f"all of the shape that waited here is there ({kept}); it is forgotten")
                shape.forget(self.path)

    def missing(self, found: tuple[Machine, ...]) -> tuple[str, ...]:
        """Return the groups of the app's own settings at Fly that have no machine."""
        told = shape.from_config(self.app, self.flyctl.json(dict, "config", "show", app=self.app), found)
        return tuple(sorted(set(told.counts) - {each.group for each in machines.managed(found)}))

    def remembered(self, found: tuple[Machine, ...]) -> Remembered | None:
        """Return the shape that waits on disk, else in the machines' metadata; None if there is none."""
        with contextlib.suppress(OpsError):
            if (kept := shape.load(self.path)) is not None:
                return Remembered(kept)
        told = shape.from_marks(self.app, found)
        if told is not None:
            return Remembered(told, "The shape comes from the machines' metadata: this machine has none.")
        shape.load(self.path)  # damaged, and there is nothing else: say so
        return None

    def from_config(self, found: tuple[Machine, ...]) -> Remembered:
        """Return what Fly's own settings of the app say, where everything else is lost: groups and autostart, no more."""
        config = self.flyctl.json(dict, "config", "show", app=self.app)
        said = "The shape is lost, so groups and autostart come from `fly config show`; counts are what is there, one at least."
        return Remembered(shape.from_config(self.app, config, found), said)

    @contextlib.contextmanager
    def telling(self, kept: str, hint: str = "") -> Iterator[None]:
        """Within the block whatever ends it early says what is kept, too: an error, or a Ctrl-C with this hint."""
        try:
            yield
        except OpsError as error:
            error.detail = f"{error.detail} {kept}".strip()
            raise
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted by {str(error) or 'Ctrl-C'}", detail=kept, hint=hint) from error

    def trying(self, until: float, act: Callable[[], _T]) -> _T:
        """Return what it returns, tried again and again while what hinders it passes by itself, and the time is not over."""
        while True:
            try:
                return act()
            except FlyError as error:
                if not error.passes or error.name == "gone" or time.monotonic() > until:
                    raise
                why = error.detail.partition(" It says:")[0].rstrip(
                    "."
                )  # flyctl's own words change with the time
                self.say(f"{error.message}: {why}; trying again …")
                time.sleep(min(self.pace.apart_s, 2.0))

    def deadline(self) -> float:
        """Return the moment at which to give up what begins now."""
        return time.monotonic() + self.pace.limit_s
