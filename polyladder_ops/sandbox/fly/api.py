"""Fly's GraphQL API, as far as a certificate for SSH needs it (contract 1.14, 1.22; fly-go, resource_ssh.go).

`python -m polyladder_ops.sandbox.fly.api FOLDER PORT` serves until it is ended, or until its world is gone.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops.sandbox.fly import credentials, machines, world

if TYPE_CHECKING:
    from polyladder_ops.sandbox.fly.world import World

__all__ = ["serve"]

_ORGANISATION = "T3JnYW5pemF0aW9uOjE="


class _Refused(Exception):  # noqa: N818 - an answer
    """What is answered in `errors`, or with a status of its own."""

    def __init__(self, said: str, status: int = 200) -> None:
        super().__init__(said)
        self.status = status


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, folder: Path, port: int) -> None:
        self.folder = folder
        super().__init__((machines.HOST, port), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 60

    def do_POST(self) -> None:
        try:
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with world.changing(self.server.folder) as here:
                answer: dict[str, Any] = {"data": _answer(here, self._scopes(here), asked)}
            status = 200
        except _Refused as refused:
            answer, status = {"data": None, "errors": [{"message": str(refused)}]}, refused.status
        body = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _scopes(self, here: World) -> set[str]:
        kind, _, given = self.headers.get("Authorization", "").partition(" ")
        known: dict[str, str] = here.data["tokens"]
        is_theirs = kind == ("FlyV1" if given.startswith("fm") else "Bearer")
        if (
            here.has_fault("expired-token")
            or not is_theirs
            or not all(each in known for each in given.split(","))
        ):
            raise _Refused("Not authorized to access this resource", 401)
        if here.has_fault("api-500"):
            raise _Refused("Internal Server Error", 500)
        return {known[token] for token in given.split(",")}

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class names it so
        """Say nothing: whoever starts us has no place for it."""


def _answer(here: World, scopes: set[str], asked: dict[str, Any]) -> dict[str, Any]:
    variables = asked["variables"]
    if "issueCertificate" in asked["query"]:
        return {"issueCertificate": {"certificate": _certificate(here, scopes, variables["input"])}}
    name = variables["name"]
    if name not in here.apps or not _may_look(scopes, name):
        raise _Refused(f'Could not find App "{name}"')
    return {"app": {"organization": {"id": _ORGANISATION}}}


def _certificate(here: World, scopes: set[str], wanted: dict[str, Any]) -> str:
    """Sign a key for the apps that are named; none are all, which only a token of the organisation may ask for."""
    names = wanted["appNames"] or [""]
    if _is_refused(here) or not all(_covers(scopes, name) for name in names):
        raise _Refused("Not authorized to access this issueCertificate")
    if wanted["organizationId"] != _ORGANISATION:
        raise _Refused("Could not find Organization")
    text = credentials.signed(
        here.data["authority"]["private"],
        wanted["publicKey"],
        wanted["principals"],
        seconds=3600 * wanted.get("validHours", 1),
    )
    return f"{text}\n"


def _is_refused(here: World) -> bool:
    return here.has_fault("no-certificate") or here.has_fault("no-own-certificate")


def _covers(scopes: set[str], app: str) -> bool:
    return bool(scopes & {"personal", "org", f"deploy:{app}", f"ssh:{app}"})


def _may_look(scopes: set[str], app: str) -> bool:
    return _covers(scopes, app) or bool(scopes & {"readonly", f"machine-exec:{app}"})


def serve(folder: Path, port: int) -> None:
    """Serve while the world is there."""
    server = _Server(folder, port)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    while world.exists(folder):
        time.sleep(0.5)
    server.shutdown()


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
