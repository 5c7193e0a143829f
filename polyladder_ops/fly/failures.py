"""What flyctl says when it fails, what that means, and what helps; the texts are Fly's own (contract 0.2 and 6)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError
from polyladder_ops.fly import rights
from polyladder_ops.redaction import redact

if TYPE_CHECKING:
    from polyladder_ops.fly.rights import Action

__all__ = ["FAILURES", "Failure", "FlyError", "cure", "explain", "named"]

_LONGEST = 400


@dataclass(frozen=True)
class Failure:
    """A failure that is known: how its text is recognised, what it means, the next command; `passes` if time alone helps."""

    name: str
    text: str
    meaning: str
    cure: str
    passes: bool = False


class FlyError(OpsError):
    """flyctl ended with an error; `name` is the known failure's, empty if we don't know the text."""

    def __init__(
        self, message: str, *, detail: str = "", hint: str = "", name: str = "", passes: bool = False
    ) -> None:
        super().__init__(message, detail=detail, hint=hint)
        self.name = name
        self.passes = passes


_LOGIN = (
    "Set FLY_API_TOKEN to a token of this organisation (`fly tokens create org`), or run `fly auth login`."
)

# The first one whose pattern is found counts, so what is special stands first.
FAILURES: tuple[Failure, ...] = (
    Failure("no-token", r"no access token available", "Nobody is logged in: FLY_API_TOKEN is unset or empty.", _LOGIN),
    Failure(
        "broken-token",
        r'invalid header field value for "Authorization"',
        "The token holds a line break or another character that no token has.",
        "Store FLY_API_TOKEN again, as one line, with its `FlyV1 ` prefix in quotes.",
    ),
    Failure(
        "old-token",
        r"MPG commands require updated tokens",
        "Managed Postgres takes no tokens of the old kind.",
        "Make a new one with `fly tokens create org`.",
    ),
    Failure(
        "unknown-app",
        r"Could not find App|app not found",
        "The app does not exist, or the token has no right on it: Fly says the same of both.",
        "Compare POLYLADDER_APP and POLYLADDER_DB_APP with `fly apps list`; a deploy token knows one app only, an org token knows both.",
    ),
    Failure(
        "ssh-denied",
        r"ssh: unable to authenticate",
        "The machine does not take flyctl's own key for SSH.",
        "Run `fly agent restart`, then `fly ssh console -a {app}`, and see what that says.",
    ),
    Failure(
        "ssh-silent",
        r"error connecting to SSH server|ssh: handshake failed|session forcibly closed|without exit status",
        "The machine's SSH does not answer, or not to the end; after a start it needs half a minute.",
        "Look with `fly status -a {app}`, then run it again.",
        passes=True,
    ),
    Failure(
        "token-refused",
        r"unauthorized|status code: 401|Not authorized to access|failed retrieving (?:current user|organization)",
        "Fly does not accept the token: it is expired, revoked, of another organisation, or may only look.",
        _LOGIN,
    ),
    Failure(
        "network-refused",
        r"non-200 status code: 500",
        "Fly's API failed; it does so for a deploy token that asks for the app's network.",
        "Try again; if it stays, another token is needed.",
    ),
    Failure(
        "no-room",
        r"lack of capacity|insufficient resources available",
        "A stopped machine is bound to its host, and that has no room to start it.",
        "Run `fly machine clone ID -a {app}`, or scale in another region, then look again.",
    ),
    Failure(
        "replacing",
        r"unable to start machine from current state|failed_precondition",
        "Fly is still replacing the machine.",
        "Wait a minute and run it again.",
        passes=True,
    ),
    Failure(
        "leased",
        r"failed to obtain lease|lease currently held|status code: 409",
        "Somebody else changes the machine, such as a deploy; the lease of a killed command lasts two minutes.",
        "Wait for two minutes and run it again; stop a deploy that is under way.",
        passes=True,
    ),
    Failure(
        "busy",
        r"status code: 429|rate limit",
        "Fly's API takes no more calls for a moment.",
        "Wait a minute and run it again.",
        passes=True,
    ),
    Failure(
        "unreachable-host",
        r"unreachable host",
        "The machine's host can't be reached.",
        "See `fly status -a {app}` and https://status.flyio.net; scale in another region if it lasts.",
    ),
    Failure(
        "gone",
        r"not found/started|machine \S+ was not found in app",
        "The machine is not there any more: a deploy put another one in its place.",
        "Run it again; it looks anew.",
        passes=True,
    ),
    Failure(
        "still-running",
        r"did not stop within the wait timeout|currently started, either stop first",
        "The machine did not stop in time.",
        "Run it again; `fly machine kill ID -a {app}` ends one that does not hear.",
        passes=True,
    ),
    Failure(
        "none-started",
        r"has no started VMs",
        "No machine of the app runs.",
        "Run `invoke fly.status`, then `invoke fly.start`.",
    ),
    Failure(
        "no-release",
        r"has no complete releases",
        "The app was never deployed, so there is no image to make machines of.",
        "Run `fly deploy -a {app}` first.",
    ),
    Failure(
        "unknown-group",
        r"Attempting to scale unknown process groups",
        "The app has no such process group.",
        "Run `fly config show -a {app}` to see its groups.",
    ),
    Failure(
        "tunnel",
        r"tunnel unavailable|failed probing|can't establish agent|agent: failed to start",
        "No tunnel into the organisation's network could be made.",
        "Run `fly agent restart`, then `fly doctor`.",
    ),
    Failure(
        "no-name",
        r"host was not found in DNS",
        "No machine of that name is started.",
        "Run `invoke fly.status` first.",
    ),
    Failure("port-taken", r"bind: address already in use", "Another program has the port.", "End it, or name another port."),
    Failure(
        "asked",
        r"prompt: non interactive|when not running interactively|must specify",
        "flyctl wanted to ask something, and nobody is there.",
        "Report this: polyladder-ops should have answered.",
    ),
    Failure(
        "old-flyctl",
        r"unknown flag|unknown command|unknown shorthand",
        "This flyctl does not know the command: it is too old, or too new for us.",
        "Run `fly version upgrade`.",
    ),
    Failure(
        "no-api",
        r"Error contacting Fly\.io API|dial tcp|no such host|connection refused|TLS handshake|i/o timeout|context deadline",
        "Fly's API can't be reached from here.",
        "Look at https://status.flyio.net and at your own network. With a DATABASE_URL a restore needs no Fly; without one `invoke verify`"
        " and `invoke restore.extract --to-file` work all the same.",
        passes=True,
    ),
)  # fmt: skip


def named(text: str) -> Failure | None:
    """Return the known failure whose text this is, None if there is none."""
    return next((each for each in FAILURES if re.search(each.text, text)), None)


_OF_RIGHTS = ("unknown-app", "token-refused", "network-refused")


def cure(known: Failure, action: Action | None, app: str) -> str:
    """Return the next command for a failure; where a right may be missing, which one, and which token has it."""
    text = known.cure.format(app=app)
    return f"{text} {rights.explained(action, app)}" if action and known.name in _OF_RIGHTS else text


def explain(words: str, stderr: str, code: int, *, app: str = "APP") -> FlyError:
    """Return the error for a call that ended with this exit code and stderr (contract 0.1); secrets are taken out first."""
    said = " ".join(redact(stderr).replace("Error: ", "", 1).split())
    shown = f"It says: {said[:_LONGEST]}{'…' if len(said) > _LONGEST else ''}" if said else ""
    message = f"`fly {words}` failed"
    if known := named(stderr):
        detail = f"{known.meaning} {shown}".strip()
        hint = cure(known, rights.action_of(words), app)
        return FlyError(message, detail=detail, hint=hint, name=known.name, passes=known.passes)
    if code == 127 and not said:
        return FlyError(message, detail="It was interrupted.", hint="Run it again.", name="interrupted")
    if code == 3:
        return FlyError(
            message, detail="flyctl crashed.", hint="Run `fly version upgrade`, then again.", name="crashed"
        )
    ended = f"was killed (signal {-code})" if code < 0 else f"ended with exit code {code}"
    detail = shown or f"It said nothing and {ended}."
    return FlyError(message, detail=detail, hint=f"Run `fly status -a {app}` and see what Fly says.")
