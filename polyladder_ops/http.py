"""One request, by urllib3, and how far it came if there was no answer; the only place that speaks HTTP.

It is made in a thread: whoever waits for a name server hears no signal, and none of urllib3's time limits counts there.
"""

from __future__ import annotations

import json
import queue
import re
import socket
import threading
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

__all__ = ["Reply", "Stage", "Unanswered", "get", "post"]

_MOST_BYTES = 1 << 16
_TICK_S = 0.2  # Windows: a wait hears a Ctrl-C only when it ends


class Stage(StrEnum):
    """What was waited for when it failed."""

    NAME = "the name"
    CONNECTION = "a connection"
    TLS = "TLS"
    REPLY = "the reply"


@dataclass(frozen=True)
class Reply:
    """A status, where it sends us (empty: nowhere), seconds after which to come again, the first 64 KiB of the body."""

    status: int
    body: bytes = b""
    location: str = ""
    retry_after_s: float | None = None


@dataclass(frozen=True)
class Unanswered:
    """Nothing came back: at which stage, and what the system says of it; `timed_out` if it was still going on."""

    stage: Stage
    detail: str
    timed_out: bool = False


def get(url: str, *, timeout_s: float, machine: str = "") -> Reply | Unanswered:
    """Return what a web address answers, redirects not followed, or at which stage nothing came within these seconds.

    Fly's proxy lets that very machine answer, if one is said.
    """
    return _Call(url, timeout_s, {"fly-force-instance-id": machine} if machine else {}).made()


def post(url: str, document: object, *, authorization: str, timeout_s: float) -> Reply | Unanswered:
    """Return what a web address answers to a JSON document, redirects not followed, or at which stage nothing came."""
    body = json.dumps(document).encode()
    return _Call(
        url, timeout_s, {"Content-Type": "application/json", "Authorization": authorization}, body
    ).made()


class _Call:
    def __init__(
        self, url: str, timeout_s: float, headers: dict[str, str], body: bytes | None = None
    ) -> None:
        self._url = url
        self._body = body
        self._headers = {"Accept": "application/json", "Cache-Control": "no-cache", **headers}
        self._timeout_s = timeout_s
        self._stage = Stage.NAME
        self._done: queue.SimpleQueue[Reply | Unanswered] = queue.SimpleQueue()

    def made(self) -> Reply | Unanswered:
        threading.Thread(target=self._run, daemon=True, name="request").start()
        return self._result()

    def _run(self) -> None:
        try:
            self._done.put(self._ask())
        except Exception as error:  # a thread's error reaches nobody else
            self._done.put(Unanswered(_stage_of(error, self._stage), _said(error), _is_timeout(error)))

    def _result(self) -> Reply | Unanswered:
        for _ in range(max(1, round(self._timeout_s / _TICK_S))):
            try:
                return self._done.get(timeout=_TICK_S)
            except queue.Empty:
                continue
        return Unanswered(self._stage, f"nothing came within {self._timeout_s:g} s", timed_out=True)

    def _ask(self) -> Reply:
        import urllib3

        parts = urlsplit(self._url)
        socket.getaddrinfo(parts.hostname, parts.port, type=socket.SOCK_STREAM)
        self._stage = Stage.CONNECTION
        timeout = urllib3.Timeout(connect=self._timeout_s, read=self._timeout_s)
        with urllib3.PoolManager(retries=False, timeout=timeout) as pool:
            answer = pool.request(
                "GET" if self._body is None else "POST",
                self._url,
                body=self._body,
                headers=self._headers,
                redirect=False,
                preload_content=False,
            )
            self._stage = Stage.REPLY
            try:
                body = answer.read(_MOST_BYTES)
            finally:
                answer.close()
        return Reply(
            answer.status,
            body,
            answer.headers.get("Location", ""),
            _seconds(answer.headers.get("Retry-After")),
        )


def _seconds(text: str | None) -> float | None:
    return float(text) if text and re.fullmatch(r"[0-9]{1,6}", text) else None


def _stage_of(error: Exception, reached: Stage) -> Stage:
    from urllib3 import exceptions

    if isinstance(error, (socket.gaierror, exceptions.NameResolutionError, UnicodeError)):
        return Stage.NAME
    if isinstance(error, exceptions.SSLError):
        return Stage.TLS
    if isinstance(error, (exceptions.ReadTimeoutError, exceptions.ProtocolError)):
        return Stage.REPLY
    return reached


def _is_timeout(error: Exception) -> bool:
    from urllib3 import exceptions

    is_one = isinstance(error, exceptions.TimeoutError)
    return is_one and not isinstance(error, exceptions.NewConnectionError)


def _said(error: Exception) -> str:
    """Return what the system said, without the objects that urllib3 prints before it."""
    text = " ".join(str(error).split())
    text = re.sub(r"^[^<>]*<[^<>]*>[^:]*: ", "", text)
    return re.sub(r"^\w+\(.*?\): ", "", text) or type(error).__name__
