"""Who calls, with which rights: the token's way (contract 0.3) and what a missing right looks like (0.2)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from polyladder_ops.sandbox.fly.arguments import Call, FlyError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from polyladder_ops.sandbox.fly.world import App, World

__all__ = ["Session", "token_of"]

NO_TOKEN = "no access token available. Please login with 'flyctl auth login'"  # noqa: S105 - a sentence
_CHANGING = {
    *(("machine", word) for word in ("stop", "start", "update", "destroy")),
    *(("secrets", word) for word in ("set", "import", "unset", "deploy")),
    ("scale", "count"),
    ("volumes", "extend"),
}
_PREFIX = {
    (
        "status",
    ): "failed to get app: failed to run query ($appName: String!) { appcompact:app(name: $appName) {…} }: ",
    ("machine", "list"): "failed to list VMs: ",
    ("scale", "count"): "failed to list VMs even after retries: ",
}


@dataclass(frozen=True)
class Session:
    """One call by somebody whose token is known."""

    call: Call
    environ: Mapping[str, str]
    stdin: str = ""

    def app(self, world: World) -> tuple[str, App]:
        """Return the app that is meant. Raise FlyError if none is named, or the token has no right on it."""
        name = self.call.text("app") or self.environ.get("FLY_APP", "")
        if not name:
            raise FlyError(
                "the config for your app is missing an app name, add an app field to the fly.toml file"
                " or specify with the -a flag"
            )
        scopes = self.scopes(world)
        if world.has_fault("wrong-scope") or name not in world.apps or not _covers(scopes, name):
            raise FlyError(f'{_PREFIX.get(self.call.command, "get app: ")}Could not find App "{name}"')
        if self.call.command == ("proxy",) and not _may_enter(scopes, name):
            raise FlyError(
                "ssh: can't build tunnel for personal: Not authorized to access this addWireGuardPeer"
            )
        if self.call.command in _CHANGING and not _may_change(scopes, name):
            raise FlyError(f"failed to {' '.join(self.call.command)}: unauthorized")
        return name, world.apps[name]

    @property
    def is_of_new_kind(self) -> bool:
        """Whether all tokens are macaroons (contract 0.3)."""
        return all(token.startswith(("fm1", "fm2")) for token in self._tokens)

    @property
    def _tokens(self) -> list[str]:
        given = token_of(self.call, self.environ)
        return (
            [re.sub(r"^(FlyV1|Bearer)\s+", "", token.strip()) for token in given.split(",")] if given else []
        )

    def scopes(self, world: World) -> set[str]:
        """Return what the tokens are for. Raise FlyError if there is none, or one that Fly does not know."""
        tokens = self._tokens
        if not tokens or world.has_fault("no-token"):
            raise FlyError(NO_TOKEN)
        if world.has_fault("expired-token") or not all(token in world.data["tokens"] for token in tokens):
            raise FlyError(
                "failed to list VMs: failed to do request: unauthorized"
                if self.call.command[0] == "machine"
                else "server returned a non-200 status code: 401"
            )
        return {world.data["tokens"][token] for token in tokens}


def token_of(call: Call, environ: Mapping[str, str]) -> str:
    """Return the token: -t beats FLY_ACCESS_TOKEN, which beats FLY_API_TOKEN, which beats the login in config.yml."""
    named = call.text("access-token") or environ.get("FLY_ACCESS_TOKEN") or environ.get("FLY_API_TOKEN")
    if named:
        return named
    folder = environ.get("FLY_CONFIG_DIR") or str(Path(environ.get("HOME", "/nonexistent"), ".fly"))
    file = Path(folder, "config.yml")
    found = (
        re.search(r"^access_token:\s*(.+)$", file.read_text("utf-8"), re.MULTILINE)
        if file.is_file()
        else None
    )
    return found[1].strip() if found else ""


_ALL_APPS = ("personal", "org")
_OF_ONE_APP = ("deploy", "ssh", "machine-exec")
_OF_NO_APP = ("wireguard",)  # a peer of the network, without a look at any app


def _may_change(scopes: set[str], app: str) -> bool:
    """Whether a token may stop, start and scale, set secrets and enlarge volumes; others only look (contract 1.22)."""
    return bool(scopes & {*_ALL_APPS, f"deploy:{app}"})


def _may_enter(scopes: set[str], app: str) -> bool:
    """Whether a token may make a peer of the organisation's network for this app (contract 1.22)."""
    return bool(scopes & {*_ALL_APPS, f"deploy:{app}", f"ssh:{app}"})


def _covers(scopes: set[str], app: str) -> bool:
    return bool(scopes & {*_ALL_APPS, "readonly", *(f"{kind}:{app}" for kind in _OF_ONE_APP)})
