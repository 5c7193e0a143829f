"""The machine of the database's server as something that can be given more: room by flyctl, once somebody has agreed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import room

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.fly.flyctl import Flyctl
    from polyladder_ops.fly.room import Step

__all__ = ["Host"]

_COSTS = "a volume can't be made smaller again and is billed by its size, and a machine of an older kind must be restarted then"
_WANTS_RESTART = re.compile(r"stop and start your machine", re.IGNORECASE)


@dataclass(frozen=True)
class Host:
    """The machine with the primary. `agree` is asked before its volume is enlarged, with what that costs; `say` hears of it."""

    flyctl: Flyctl
    app: str
    machine: str
    agree: Callable[[str], bool]
    say: Callable[[str], None]

    def more_memory(self) -> str:
        """Return the sentence that says how the machine gets enough memory."""
        return f"`fly scale memory 512 -a {self.app}` gives it enough, and restarts it."

    def more_room(self, total_bytes: int, wanted_bytes: int) -> str:
        """Return the sentence that says how its disk gets large enough, and what that costs."""
        try:
            steps = self._steps(total_bytes, wanted_bytes)
        except OpsError as error:
            return f"{error.with_hint} Or discard what `invoke restore.status` lists."
        commands = ", ".join(f"`{each.command(self.app)}`" for each in steps)
        return f"With --extend-volume `invoke restore` runs {commands}: {_COSTS}. Or discard what `invoke restore.status` lists."

    def enlarge(self, total_bytes: int, wanted_bytes: int) -> bool:
        """Enlarge the volume if somebody agrees, and return whether that was done and Fly says so.

        Raise OpsError if it fails, Refused if the machine must be restarted before the server has any of it.
        """
        steps = self._steps(total_bytes, wanted_bytes)
        commands = ", ".join(f"`{each.command(self.app)}`" for each in steps)
        if not self.agree(f"A second copy does not fit. This runs {commands}: {_COSTS}."):
            return False
        waiting = tuple(each.volume.machine for each in steps if self._extend(each))
        self._expect(steps)
        if waiting:
            raise room.not_seen(waiting, self.app, f"Fly says so of what {commands} did.")
        return True

    def _steps(self, total_bytes: int, wanted_bytes: int) -> tuple[Step, ...]:
        return room.steps(
            self._volumes(), self.machine, self.app, total_bytes=total_bytes, wanted_bytes=wanted_bytes
        )

    def _volumes(self) -> tuple[room.Volume, ...]:
        return room.read(self.flyctl.json(list, "volumes", "list", "--json", app=self.app))

    def _extend(self, step: Step) -> bool:
        """Enlarge one volume, and return whether its machine must be restarted for it."""
        self.say(f"enlarging volume {step.volume.id} of {self.app} to {step.size_gb} GB …")
        return _WANTS_RESTART.search(self.flyctl.run(*step.words, app=self.app)) is not None

    def _expect(self, steps: tuple[Step, ...]) -> None:
        """Return if Fly lists the volumes with their new sizes. Raise OpsError if not: a command's word is no end state."""
        now = {each.id: each.size_gb for each in self._volumes()}
        for step in steps:
            if now.get(step.volume.id, 0) < step.size_gb:
                raise OpsError(
                    f"volume {step.volume.id} of {self.app} has {now.get(step.volume.id, 0)} GB still",
                    detail=f"`fly volumes extend` said that it was done, to {step.size_gb} GB.",
                    hint=f"Look with `fly volumes list -a {self.app}`, then run the same command again.",
                )
