"""The task that looks whether the app is well: its answer, the link to this database, the questions on live data."""

from __future__ import annotations

import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.tasks.backup import JSON, SITE, open_site, print_json
from polyladder_ops.tasks.boundary import allowed_s, is_dry, number_of, task

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from polyladder_ops.app.health import Machine, Part
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.site import Site

__all__ = ["health"]

_WAIT_S = 30
_MOST_S = 3600


@task(
    help={
        "wait": f"Seconds that the app may take to become well (default: {_WAIT_S}).",
        "site": SITE,
        "json": JSON,
    }
)
def health(c: Context, wait: str = "", site: str = "", json: bool = False) -> None:
    """Look whether the app is well, on this very database.

    Asks POLYLADDER_HEALTH_URL (else /health at the host name that Fly tells) until it answers that all is well; looks whether a session on the database of DATABASE_URL was
    asked something at each of three requests, by the server's clock, of each machine where several are started; and asks POLYLADDER_CHECKS of the live database: the
    app's own answer stays good over a dropped table. A request wakes a machine that Fly has stopped. Exits 3 if one
    of these is not as it must be, with the reason in the first line.

    Examples:
        invoke health
        invoke health --wait=120 --json
    """
    place = open_site(c, site)
    url = place.health_url()
    seconds = min(number_of(wait, "wait", most=_MOST_S) or _WAIT_S, allowed_s(c) or _MOST_S)
    target = place.target()
    if is_dry(c):
        output.line(f"would ask {url}, and {target} whether it is what the app asks")
        return
    parts = list(_looked(place, url, target, seconds))
    _tell(parts, json=json)
    wrong = [part for part in parts if not part.ok]
    if wrong:
        raise _unwell(wrong)


def _unwell(wrong: list[Part]) -> Mismatch:
    return Mismatch(
        f"the app is not well: {wrong[0].name}: {wrong[0].seen}",
        detail=" ".join(f"{part.name}: {part.seen.rstrip('.')}." for part in wrong[1:]),
        hint=next((part.hint for part in wrong if part.hint), ""),
    )


def _looked(place: Site, url: str, target: Target, seconds: float) -> Iterator[Part]:
    from polyladder_ops.app import health as app

    if (found := _machines(place)) is not None and not any(can_answer for _, can_answer in found):
        yield app.of_machines([each for each, _ in found])
        return  # nothing can answer, so there is nothing to wait for
    answer = app.wait(url, seconds=seconds, say=_say)
    yield app.of_answer(answer)
    if found is not None and answer.is_well:
        yield from _of_machines(place, seconds)
    try:
        if answer.is_well:
            yield _links(url, target, _several(place) if found is not None else [])
        yield from _answers(place, target)
    except OpsError as error:
        yield app.Part("database", False, f"{error.message}: {error.detail}".rstrip(".: "), error.hint)


def _machines(place: Site) -> list[tuple[Machine, bool]] | None:
    """Return the app's machines as Fly tells of them, and whether each can answer a request or be woken by one.

    None where no flyctl is set up, and where Fly does not tell: the app may be well all the same, so that is said, no more.
    """
    from polyladder_ops.app.health import Machine
    from polyladder_ops.fly import machines

    if not place.has_fly:
        return None
    try:
        found = machines.managed(place.fleet(say=output.step).look())
    except OpsError as error:
        _say(f"note: Fly's own checks are not looked at: {error.with_hint}")
        return None
    return [
        (
            Machine(
                each.id,
                each.state if each.is_known else "on a lost host",
                each.checks,
                each.autostart is not None,
            ),
            each.is_known and (each.state not in ("stopped", "suspended") or each.autostart is True),
        )
        for each in found
    ]


def _of_machines(place: Site, seconds: float) -> Iterator[Part]:
    """Yield what Fly says of the machines, if it tells; its checks come every 15 s: they may need a moment after a start."""
    from polyladder_ops.app import health as app

    deadline = time.monotonic() + seconds
    while True:
        if (found := _machines(place)) is None:
            return  # a note says so
        part = app.of_machines([each for each, _ in found])
        if part.ok or time.monotonic() > deadline:
            yield part
            return
        _say(f"waiting up to {seconds:g} s for Fly's checks: {part.seen} …")
        time.sleep(1.0)


def _several(place: Site) -> list[str]:
    """Return the machines that answer requests, if there are several: Fly's proxy lets any of them answer."""
    found = [each for each, _ in _machines(place) or ()]
    started = [each.id for each in found if each.state == "started" and each.is_served]
    return started if len(started) > 1 else []


def _links(url: str, target: Target, machines: list[str]) -> Part:
    """Return the link of the app, or of each of these machines: the first that is not as it must be."""
    from polyladder_ops.app.health import Part

    if not machines:
        return _link(url, target)
    for each in machines:
        part = _link(url, target, each)
        if not part.ok:
            return Part(part.name, False, f"machine {each}: {part.seen}", part.hint)
    return Part(part.name, True, f"{part.seen}, of each of {len(machines)} machines")


def _link(url: str, target: Target, machine: str = "") -> Part:
    from contextlib import closing

    from polyladder_ops import http
    from polyladder_ops.app import health as app
    from polyladder_ops.postgres import link, session

    with closing(session.connect(target)) as connection:
        where = session.identify(connection)
        windows = []
        for _ in range(link.REQUESTS):
            window, heard = link.during(
                connection,
                where.database_oid,
                lambda: http.get(url, timeout_s=app.TRY_S, machine=machine),
            )
            if not (answer := app.judge(heard)).is_well:
                return app.Part("link", False, f"the app was well, and then: {answer.seen}", answer.hint)
            windows.append(window)
        quiet, _ = link.during(connection, where.database_oid, lambda: None)
    found = link.decide(windows, quiet, where)
    return app.Part("link", found.ok, found.seen, found.hint)


def _answers(place: Site, target: Target) -> Iterator[Part]:
    from polyladder_ops import checks
    from polyladder_ops.app.health import Part

    if place.settings.checks is None:
        _say("note: no question was asked of the data: POLYLADDER_CHECKS is not set")
        return
    answers = checks.run(target, checks.read(place.settings.checks))
    for answer in answers:
        if not answer.ok:
            yield Part(
                f"check {answer.check.name}",
                False,
                answer.said,
                "Look at what changed: `invoke backup.list --changes`.",
            )
    if all(answer.ok for answer in answers):
        yield Part("checks", True, f"{len(answers)} answers as expected")


def _tell(parts: list[Part], *, json: bool) -> None:
    from polyladder_ops import terminal

    if json:
        rows: list[dict[str, Any]] = [asdict(part) for part in parts]
        print_json({"ok": all(part.ok for part in parts), "parts": rows})
    else:
        output.lines(
            terminal.table([(part.name, part.ok, part.seen) for part in parts], ("what", "ok", "seen"))
        )


def _say(sentence: str) -> None:
    output.step(sentence)
