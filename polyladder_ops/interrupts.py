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
# Of a terminal that was closed both the system and the shell send one.
_HANGUP = getattr(signal, "SIGHUP", None)
_OURS = [getattr(signal, name) for name in _NAMES if hasattr(signal, name)]
_LEAVE, _LOOK, _END = 0, 254, 255  # no signals have these numbers
_UNHEARD_S = 0.1


class _Watch:
    """Which signal came, whether a clean-up is under way, and the thread that ends the run."""

    def __init__(self, leave: Callable[[str], None]) -> None:
        import socket  # nobody waits for it who lists the tasks

        self.came = ""
        self.is_held = False
        self.depth = 0
        self.until: float | None = None
        self._leave = leave
        self._leave_at: float | None = None
        self._count = 0
        self._last = ""
        self._is_repeated = False
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

        while True:
            if select.select([self.near], [], [], self._wait_s())[0]:
                numbers = self.near.recv(64)
                if _END in numbers:
                    return
                for number in numbers:
                    self._hear(number)
            elif self._is_past(self._leave_at) or self._is_past(self.until):
                self._leave(self._last if self._is_past(self._leave_at) else "")
                return
            elif self._is_unheard():
                self._repeat()

    def _wait_s(self) -> float | None:
        waits = [max(0.0, at - time.monotonic()) for at in (self._leave_at, self.until) if at is not None]
        return min(waits + [_UNHEARD_S] * self._is_unheard(), default=None)

    @staticmethod
    def _is_past(moment: float | None) -> bool:
        return moment is not None and moment <= time.monotonic()

    def _hear(self, number: int) -> None:
        if number in _OURS and self._is_repeated:
            self._is_repeated = False
        elif number in _OURS and not (self._count and number == _HANGUP):
            self._count += 1
            self._last = signal.Signals(number).name
        if number == _LEAVE or self._count > 1:
            self._leave_at = self._leave_at or time.monotonic() + GRACE_S

    def _is_unheard(self) -> bool:
        """Whether a signal came and the main thread goes on as if none had.

        It does so if the signal came between Python's last look for one and the call in which it waits now, a read of
        a pipe, or if the kernel gave it to another thread: once in some thousand times, and for as long as the call takes.
        """
        return bool(self._last) and not self.came

    def _repeat(self) -> None:
        """Send the signal again, to the main thread itself, whose call it ends; one at a time, or they can't be counted."""
        send = getattr(signal, "pthread_kill", None)  # Windows has none, nor calls that a signal ends
        if send is not None and not self._is_repeated:
            self._is_repeated = True
            send(threading.main_thread().ident, signal.Signals[self._last])


_watches: list[_Watch] = []  # the last one hears the signals


@contextlib.contextmanager
def stop_on_signals(leave: Callable[[str], None] | None = None) -> Iterator[None]:
    """Within the block SIGTERM and a closed terminal raise KeyboardInterrupt, as Ctrl-C does, so every `finally` runs.

    Its text is the signal's name. Without it SIGTERM ends Python at once: temporary files and a pg_dump that holds
    locks stay behind. What is ignored stays ignored (`nohup invoke backup`). `leave` has to end the process: it is
    called in a thread with the name of the signal by which a clean-up is left, or with nothing if that took `LIMIT_S`
    seconds. With it the signals stay unheard after the block, once one came: the process is about to end.
    """
    before = {number: signal.getsignal(number) for number in _OURS}
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
