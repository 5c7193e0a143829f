"""What flyctl has no command for, asked of Fly's API as flyctl asks it: a certificate for SSH to the machines of one app.

`fly ssh console` gets such a one for itself; `fly ssh issue` asks for all apps of the organisation, which an app's own token
must not have (contract 1.14, 1.15, 1.22; fly-go, resource_ssh.go).
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any

from polyladder_ops import http
from polyladder_ops.fly import failures
from polyladder_ops.fly.rights import Action
from polyladder_ops.http import Unanswered
from polyladder_ops.redaction import redact

__all__ = ["Api", "app_certificate"]

_ORGANISATION = "query($name: String!) { app(name: $name) { organization { id } } }"
_CERTIFICATE = "mutation($input: IssueCertificateInput!) { issueCertificate(input: $input) { certificate } }"
_REFUSED = (401, 403)


@dataclass(frozen=True)
class Api:
    """Fly's API, for one token."""

    token: str = field(repr=False)
    base: str = "https://api.fly.io"
    timeout_s: float = 30.0

    def ask(self, query: str, *, about: str, **variables: Any) -> dict[str, Any]:
        """Return the data of a GraphQL question about an app. Raise FlyError, explained, if Fly refuses it or can't be reached."""
        document = {"query": query, "variables": variables}
        reply = http.post(
            f"{self.base}/graphql", document, authorization=self._authorization, timeout_s=self.timeout_s
        )
        if isinstance(reply, Unanswered):
            raise _failed(f"dial tcp: {reply.stage}: {reply.detail}", about)
        if reply.status in _REFUSED:
            raise _failed(f"unauthorized (status code: {reply.status})", about)
        try:
            answer = json.loads(reply.body)
            errors = [str(each["message"]) for each in answer.get("errors") or []]
            data = answer.get("data")
        except (ValueError, TypeError, KeyError, AttributeError):
            raise _failed(f"non-200 status code: {reply.status}", about) from None
        if errors or not isinstance(data, dict):
            raise _failed("; ".join(errors) or f"status code: {reply.status}, without data", about)
        return data

    @property
    def _authorization(self) -> str:
        """The token as Fly takes it: the newer kinds under a name of their own (fly-go, tokens.go)."""
        token = self.token.strip()
        if token.startswith(("FlyV1 ", "Bearer ")):
            return token
        return f"FlyV1 {token}" if token.startswith(("fm1", "fm2")) else f"Bearer {token}"


def app_certificate(api: Api, app: str, public: str, *, principals: tuple[str, ...], hours: int) -> str:
    """Return a certificate for this public key and the machines of this app. Raise FlyError, explained, if the token gets none."""
    found = api.ask(_ORGANISATION, about=app, name=app).get("app") or {}
    organisation = (found.get("organization") or {}).get("id")
    if not organisation:
        raise _failed(f"Could not find App {app}", app)
    wanted = {
        "organizationId": organisation,
        "principals": list(principals),
        "appNames": [app],
        "publicKey": public,
        "validHours": hours,
    }
    issued = api.ask(_CERTIFICATE, about=app, input=wanted).get("issueCertificate") or {}
    return str(issued.get("certificate") or "").strip()


def _failed(said: str, app: str) -> failures.FlyError:
    known = failures.named(said)
    said = " ".join(redact(said).split())[:400]
    return failures.FlyError(
        "Fly's API gave no certificate for SSH",
        detail=f"{known.meaning} It says: {said}." if known else f"It says: {said}.",
        hint=failures.cure(known, Action.CERTIFICATE, app)
        if known
        else "Look at https://status.flyio.net, then run it again.",
        name=known.name if known else "",
        passes=bool(known and known.passes),
    )
