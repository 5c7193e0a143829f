"""What our calls need of a token, which kinds of tokens have it, and what each task needs: one table (contract 1.22).

None of it was tried on the real Fly: it is read from flyctl's source and documentation. `UNSURE` is what public reports say
otherwise of, too: a token of one app that was refused the app's network, so that neither tunnel nor SSH came up.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["KINDS", "TASKS", "UNSURE", "Action", "Kind", "Need", "action_of", "explained", "having"]


class Action(StrEnum):
    """What a call does, as a sentence about an app ends."""

    LOOK = "look at machines and volumes"
    CHANGE = "stop, start and scale machines"
    EXTEND = "enlarge a volume"
    CERTIFICATE = "get a certificate for SSH to one app"
    TUNNEL = "open a tunnel"
    CONSOLE = "run a command by flyctl's console"
    ISSUE = "get a certificate for SSH to all apps"
    CLUSTERS = "list Managed Postgres"


@dataclass(frozen=True)
class Kind:
    """One kind of token: how one is made, what it may do, and whether of one app only."""

    name: str
    made_by: str
    may: frozenset[Action]
    of_one_app: bool = False


@dataclass(frozen=True)
class Need:
    """One thing that a task does, and whether to the database's app; else it is to the web app."""

    action: Action
    of_database: bool


_SSH = frozenset({Action.LOOK, Action.CERTIFICATE, Action.TUNNEL, Action.CONSOLE})
KINDS = (
    Kind("personal", "fly auth login", frozenset(Action)),
    Kind("org", "fly tokens create org ORG", frozenset(Action)),
    Kind("readonly", "fly tokens create readonly ORG", frozenset({Action.LOOK, Action.CLUSTERS})),
    Kind("wireguard", "fly tokens create wireguard", frozenset()),
    Kind("machine-exec", "fly tokens create machine-exec -a {app}", frozenset({Action.LOOK}), of_one_app=True),
    Kind("deploy", "fly tokens create deploy -a {app}", _SSH | {Action.CHANGE, Action.EXTEND}, of_one_app=True),
    Kind("ssh", "fly tokens create ssh -a {app}", _SSH, of_one_app=True),
)  # fmt: skip
"""The mightiest first; of those for one app the last that suffices is the one to take."""
UNSURE = frozenset({Action.CERTIFICATE, Action.TUNNEL, Action.CONSOLE})
"""What a token of one app may do by flyctl's source, and was refused by reports of 2026-09."""

_LOOKS, _CHANGES = Need(Action.LOOK, of_database=False), Need(Action.CHANGE, of_database=False)
_ROAD = tuple(Need(action, of_database=True) for action in (Action.LOOK, Action.CERTIFICATE, Action.TUNNEL))
TASKS: dict[tuple[str, ...], tuple[Need, ...]] = {
    ("fly.status", "health"): (_LOOKS,),
    ("fly.stop", "fly.start", "fly.scale"): (_LOOKS, _CHANGES),
    ("doctor",): (_LOOKS, Need(Action.LOOK, of_database=True)),
    ("backup", "restore", "migrate"): _ROAD,
    ("restore --extend-volume",): (*_ROAD, Need(Action.EXTEND, of_database=True)),
}
"""By tasks what they need; what goes by DATABASE_URL needs no token. `backup` and so on stand for all that ask the database."""

_OF_WORDS = {
    "status": Action.LOOK,
    "machine list": Action.LOOK,
    "scale show": Action.LOOK,
    "releases": Action.LOOK,
    "secrets list": Action.LOOK,
    "checks list": Action.LOOK,
    "config show": Action.LOOK,
    "volumes list": Action.LOOK,
    "machine stop": Action.CHANGE,
    "machine start": Action.CHANGE,
    "machine update": Action.CHANGE,
    "scale count": Action.CHANGE,
    "volumes extend": Action.EXTEND,
    "proxy": Action.TUNNEL,
    "ssh issue": Action.ISSUE,
    "ssh console": Action.CONSOLE,
    "mpg list": Action.CLUSTERS,
}


def action_of(words: str) -> Action | None:
    """Return what a command of flyctl does, None if it is none of ours."""
    return _OF_WORDS.get(words)


def having(action: Action) -> tuple[Kind, ...]:
    """Return the kinds of tokens that have a right, the weakest first."""
    return tuple(kind for kind in reversed(KINDS) if action in kind.may)


def explained(action: Action, app: str) -> str:
    """Return in a sentence which right a refused call needs, and how the least token that has it is made, or a mightier one."""
    kinds = having(action)
    org = next(kind for kind in kinds if kind.name == "org")
    ways = [
        f"`{kind.made_by.format(app=app)}`{_doubt(kind, action)}" for kind in dict.fromkeys((kinds[0], org))
    ]
    return f"It takes the right to {action.value}, which {' or '.join(ways)} gives."


def _doubt(kind: Kind, action: Action) -> str:
    return (
        " (by flyctl's source; reports say that it may not suffice)"
        if kind.of_one_app and action in UNSURE
        else ""
    )
