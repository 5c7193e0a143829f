"""What signals do to a run: the first one stops it; one that comes while it cleans up makes it leave that, a second later.

Only the first one is raised, as KeyboardInterrupt, and never amid a clean-up: that is short, and half done it is worth
little. A thread counts them, since the main one may wait where no signal gets through (for a name server, say), and ends a
clean-up that takes too long too: a server that does not answer must not keep a person waiting for ever.
"""

from __future__ import annotations

import contextlib
import signal
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

__all__ = ["GRACE_S", "LIMIT_S", "cleaning", "held", "stop_on_signals"]

GRACE_S = 1.0
"""How long a clean-up goes on that somebody wants to leave."""
LIMIT_S = 60.0
"""How long clean-ups may take when nobody presses anything."""
_NAMES = ("SIGINT", "SIGTERM", "SIGHUP")
_LEAVE, _LOOK, _END = 0, 254, 255  # no signals have these numbers


class _Watch:
    """Which signal came, whether a clean-up is under way, and the thread that ends the run."""

    def __init__(self, leave: Callable[[str], None]) -> None:
        import socket  # nobody waits for it who lists the tasks

        self.came = ""
        self.is_held = False
        self.depth = 0
        self.until: float | None = None
        self._leave = leave
        self.near, self.far = socket.socketpair()
        for end in (self.near, self.far):
            end.setblocking(False)
        self._thread = threading.Thread(target=self._look, daemon=True, name="signals")

    def start(self) -> None:
        self._thread.start()

    def end(self) -> None:
        self.tell(_END)
        self._thread.join()
        self.near.close()
        self.far.close()

    def tell(self, number: int) -> None:
        """Wake the thread; safe in a signal's handler."""
        with contextlib.suppress(OSError):
            self.far.send(bytes([number]))

    def signalled(self, number: int, _frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt for the first signal, unless a clean-up is under way."""
        if self.came:
            return  # the thread has counted it
        self.came = signal.Signals(number).name
        if self.depth:
            self.is_held = True
            self.tell(_LEAVE)
            return
        raise KeyboardInterrupt(self.came)

    def _look(self) -> None:
        import select

        ours = {getattr(signal, name) for name in _NAMES if hasattr(signal, name)}
        came, leave_at = "", float("inf")
        count = 0
        while True:
            end = min(leave_at, self.until or float("inf"))
            wait = None if end == float("inf") else max(0.0, end - time.monotonic())
            if not select.select([self.near], [], [], wait)[0]:
                if min(leave_at, self.until or float("inf")) <= time.monotonic():
                    self._leave(came if leave_at <= time.monotonic() else "")
                    return
                continue
            for number in self.near.recv(64):
                if number == _END:
                    return
                if number in ours:
                    count += 1
                    came = signal.Signals(number).name
                if number == _LEAVE or (number in ours and count > 1):
                    leave_at = min(leave_at, time.monotonic() + GRACE_S)


_watches: list[_Watch] = []  # the last one hears the signals


@contextlib.contextmanager
def stop_on_signals(leave: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within the block SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does, so every `finally` runs.

    Its text is the signal's name. Without it SIGTERM ends Python at once: temporary files and a pg_dump that holds
    locks stay behind. What is ignored stays ignored (`nohup invoke backup`). `leave` has to end the process: it is
    called in a thread with the name of the signal by which a clean-up is left, or with nothing if that took `LIMIT_S`
    seconds. With it the signals stay unheard after the block, once one came: the process is about to end.
    """
    numbers = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    ours = [number for number, handler in before.items() if handler not in (signal.SIG_IGN, None)]
    watch = _Watch(leave or (lambda _name: None))
    watch.start()
    wakes = signal.set_wakeup_fd(watch.far.fileno(), warn_on_full_buffer=False)
    _watches.append(watch)
    for number in ours:
        signal.signal(number, watch.signalled)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_IGN if leave and watch.came else before[number])
        _watches.remove(watch)
        signal.set_wakeup_fd(wakes)
        watch.end()


@contextlib.contextmanager
def cleaning(*, limited: bool = True) -> Iterator[None]:
    """Within the block no signal is raised; one that comes ends the whole process if the block goes on for a second.

    So does the clock, if it is `limited`, `LIMIT_S` after the first of such blocks began. Only the main thread hears signals.
    """
    if not _watches or threading.current_thread() is not threading.main_thread():
        yield
        return
    watch = _watches[-1]
    watch.depth += 1
    if limited and watch.until is None:
        watch.until = time.monotonic() + LIMIT_S
        watch.tell(_LOOK)
    try:
        yield
    finally:
        watch.depth -= 1
        if not watch.depth and not watch.came:
            watch.until = None


def held() -> None:
    """Raise the KeyboardInterrupt that a clean-up held back, for a run that would go on after it."""
    if _watches and _watches[-1].is_held and not _watches[-1].depth:
        _watches[-1].is_held = False
        raise KeyboardInterrupt(_watches[-1].came)
