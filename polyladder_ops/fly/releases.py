"""Which image new machines get: `fly scale count` takes the newest release's, though that one failed (contract 1.12)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from polyladder_ops.errors import Mismatch, OpsError, Refused
from polyladder_ops.fly import machines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from polyladder_ops.fly.fleet import Fleet
    from polyladder_ops.fly.machines import Machine

__all__ = ["CALL", "look_at_images", "promised", "same_image"]

CALL = ("releases", "--json", "--image")


def promised(fleet: Fleet) -> str:
    """Return the image that new machines get, that of the last release that succeeded; empty if there is no release.

    Raise Refused if they would get another one: the newest release failed, or is under way.
    """
    rows = _rows(fleet)
    if not rows:
        return ""  # flyctl's own words for that are known
    newest, good = _image(rows[0]), _good(rows)
    if good and same_image(newest, good):
        return good
    raise Refused(
        f"new machines of {fleet.app} would be of a release that did not succeed",
        detail=f"The newest release, {_number(rows[0])} ({newest or 'image unknown'}), is {rows[0].get('Status')}; `fly scale` makes"
        f" machines of it all the same. No machine was made.",
        hint=_cure(fleet, good),
    )


def look_at_images(fleet: Fleet, found: Iterable[Machine], image: str = "") -> None:
    """Return if all of these machines run the last release that succeeded. Raise Mismatch if not.

    `image` is what that was a moment ago, empty if it was not asked; a deploy may have changed it.
    """
    found = tuple(found)
    if not _others(found, image):
        return
    good = _good(_rows(fleet))
    if others := _others(found, good):
        raise Mismatch(
            f"machine {others[0].id} of {fleet.app} does not run the last release that succeeded",
            detail=f"That is {good or 'unknown'}; {', '.join(f'{each.id} runs {each.image}' for each in others)}.",
            hint=_cure(fleet, good),
        )


def same_image(one: str, other: str) -> bool:
    """Whether two references name one image, told by the last part of its name and its tag, as both sides always have them."""
    return bool(one) and _name(one) == _name(other)


def _name(reference: str) -> str:
    return reference.partition("@")[0].rpartition("/")[2].removesuffix(":").removesuffix(":latest")


def _others(found: Iterable[Machine], good: str) -> list[Machine]:
    return [each for each in machines.managed(tuple(found)) if not same_image(each.image, good)]


def _rows(fleet: Fleet) -> list[dict[str, Any]]:
    """Return the releases, newest first. Raise OpsError if Fly's answer is no list of them."""
    rows = fleet.trying(fleet.deadline(), lambda: fleet.flyctl.json(list, *CALL, app=fleet.app))
    if not all(isinstance(row, dict) for row in rows):
        raise OpsError(
            "Fly's list of releases is of another shape than we know",
            detail="It says which image new machines get.",
            hint="Run `fly version upgrade`, then again; report it if this stays.",
        )
    return list(rows)


def _good(rows: list[dict[str, Any]]) -> str:
    return next((_image(row) for row in rows if row.get("Status") == "complete" and _image(row)), "")


def _image(row: dict[str, Any]) -> str:
    return str(row.get("ImageRef") or "")


def _number(row: dict[str, Any]) -> str:
    return f"v{row.get('Version', '?')}"


def _cure(fleet: Fleet, good: str) -> str:
    if not good:
        return f"Wait for a deploy that is under way, or run `fly deploy -a {fleet.app}`."
    return f"Wait for a deploy that is under way; else run `fly deploy -a {fleet.app} --image {good} --ha=false`, then this again."
