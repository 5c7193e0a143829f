"""Whether the app is well: each thing that was looked at is a `Part`, and the reason why one is not is one line.

What `/health` says is only that the app reaches *a* database: it does not say which one, and stays 200 over a dropped table.
So the answer is one part among others: Fly's machines, the link (`postgres/link.py`), the questions of POLYLADDER_CHECKS.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from polyladder_ops import http
from polyladder_ops.http import Reply, Stage, Unanswered

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TRY_S", "Answer", "Kind", "Machine", "Part", "judge", "of_answer", "of_machines", "wait"]

_WELL = ("healthy", "ok", "up", "pass")
TRY_S = 10.0  # longer than the app waits for its database (5 s), so that its 503 is heard
_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 30.0


class Kind(StrEnum):
    """What an answer, or its absence, is."""

    HEALTHY = "healthy"
    UNHEALTHY = "unhealthy"
    ANOTHER_BODY = "another body"
    LIMITED = "too many requests"
    REDIRECT = "redirect"
    REFUSED = "refused"
    FAILED = "server error"
    NO_NAME = "no such name"
    NO_CONNECTION = "no connection"
    NO_TLS = "no TLS"
    SILENT = "silent"


# With time these may pass: a machine wakes, a deploy ends, a limit of requests runs out.
_MAY_PASS = {Kind.UNHEALTHY, Kind.LIMITED, Kind.FAILED, Kind.NO_CONNECTION, Kind.SILENT, Kind.NO_NAME}


@dataclass(frozen=True)
class Answer:
    """What one request came to: its kind, what was seen in words, what to do, and seconds until it may be asked again."""

    kind: Kind
    seen: str
    hint: str = ""
    after_s: float = _PAUSE_S

    @property
    def is_well(self) -> bool:
        """Whether the app says that it is well."""
        return self.kind is Kind.HEALTHY

    @property
    def may_pass(self) -> bool:
        """Whether waiting can help."""
        return self.kind in _MAY_PASS


@dataclass(frozen=True)
class Machine:
    """One of the app's machines as Fly tells of it: its id and state, and its checks by name (`passing`, `critical`, …).

    `is_served` if requests reach it: a worker has no services.
    """

    id: str
    state: str
    checks: tuple[tuple[str, str], ...] = ()
    is_served: bool = False


@dataclass(frozen=True)
class Part:
    """One thing that was looked at: whether it is as it must be, what was seen, and what to do if it is not."""

    name: str
    ok: bool
    seen: str
    hint: str = ""


def judge(heard: Reply | Unanswered) -> Answer:
    """Return what a reply, or its absence, says of the app."""
    if isinstance(heard, Unanswered):
        return _unanswered(heard)
    status = heard.status
    if status == 429:
        pause = min(heard.retry_after_s or _PAUSE_S, _LONGEST_PAUSE_S)
        return Answer(
            Kind.LIMITED,
            "429: the app limits how often one address may ask it",
            "Wait a minute and ask again; other programs of this network ask it too.",
            pause,
        )
    if 300 <= status < 400:
        return Answer(
            Kind.REDIRECT,
            f"{status}: sent on to {heard.location or 'nowhere'}",
            "Set POLYLADDER_HEALTH_URL to the address that answers itself, with https.",
        )
    if status >= 500:
        return _failing(heard)
    if not 200 <= status < 300:
        hint = "Check POLYLADDER_HEALTH_URL: the app's own page is /health, without a login."
        return Answer(Kind.REFUSED, f"{status}: this page is not there, or not for everybody", hint)
    return _body(heard)


def _unanswered(heard: Unanswered) -> Answer:
    where = f"waiting for {heard.stage}" if heard.timed_out else str(heard.stage)
    kind, hint = {
        Stage.NAME: (Kind.NO_NAME, "Check the host in the address, and this machine's name servers."),
        Stage.CONNECTION: (Kind.NO_CONNECTION, "Look at `fly status`: is a machine of the app started?"),
        Stage.TLS: (Kind.NO_TLS, "Look at the certificate: `fly certs list`; and at this machine's clock."),
        Stage.REPLY: (Kind.SILENT, "Look at `fly logs`: the app, or its database, does not answer."),
    }[heard.stage]
    return Answer(kind, f"no answer ({where}): {heard.detail}", hint)


def _failing(heard: Reply) -> Answer:
    found = _object(heard.body)
    if heard.status == 503 and found.get("status") == "unhealthy":
        return Answer(
            Kind.UNHEALTHY,
            "503: the app says that it does not reach its database",
            "Compare the app's DATABASE_URL with the database that should answer, and look at `fly logs`.",
        )
    return Answer(Kind.FAILED, f"{heard.status}: the app, or Fly's proxy, failed", "Look at `fly logs`.")


def _body(heard: Reply) -> Answer:
    found = _object(heard.body)
    status = str(found.get("status", "")).lower()
    if status in _WELL and _is_connected(found.get("database", True)):
        return Answer(Kind.HEALTHY, f"{heard.status} {status}")
    return Answer(
        Kind.ANOTHER_BODY,
        f"{heard.status}, but its body does not say that the app and its database are well",
        "Check POLYLADDER_HEALTH_URL: something else than the app may answer there.",
    )


def _is_connected(database: Any) -> bool:
    """Whether what the app says of its database is that it reaches it; what is not known counts as no."""
    if isinstance(database, dict):
        return database.get("connected") is True
    return database is True or (isinstance(database, str) and database.lower() in (*_WELL, "connected"))


def _object(body: bytes) -> dict[str, Any]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def wait(
    url: str,
    *,
    seconds: float,
    say: Callable[[str], object] = lambda _sentence: None,
    ask: Callable[..., Reply | Unanswered] = http.get,
) -> Answer:
    """Return the app's answer once it is well, or the last one when waiting can't help or these seconds are over.

    `say` hears what is waited for, after each answer. An answer that can't come any more is not waited for.
    """
    deadline = time.monotonic() + seconds
    while True:
        answer = judge(ask(url, timeout_s=max(0.5, min(TRY_S, deadline - time.monotonic()))))
        left = deadline - time.monotonic()
        if answer.is_well or not answer.may_pass or left <= 0:
            return answer
        say(f"waiting up to {seconds:g} s for {url}: {answer.seen} …")
        time.sleep(min(answer.after_s, left))


def of_answer(answer: Answer) -> Part:
    """Return the part that tells of the app's own answer."""
    return Part("answer", answer.is_well, answer.seen, answer.hint)


def of_machines(machines: Sequence[Machine]) -> Part:
    """Return the part that tells of Fly's states and checks: one machine has to be started, and what is started well.

    A stopped machine beside it is one that Fly stopped for want of requests.
    """
    started = [machine for machine in machines if machine.state == "started"]
    states = ", ".join(f"{machine.id} {machine.state}" for machine in machines) or "no machine"
    failing = [
        f"{m.id}: {name} is {status}" for m in started for name, status in m.checks if status != "passing"
    ]
    if not started:
        return Part("machines", False, states, "Run `invoke fly.start`, or `invoke fly.scale --count=1`.")
    if failing:
        return Part("machines", False, "; ".join(failing), "Look at `fly logs`, and at `fly checks list`.")
    return Part("machines", True, states)
