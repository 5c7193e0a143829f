"""A certificate to log in to machines of the organisation over SSH, for an hour: issued, read, judged before it is used.

The far end says no more than "denied" of a certificate that it does not take, and flyctl writes an empty key with exit code 0
(contract 1.15, trap c). So what is wrong with one is found here.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from polyladder_ops.errors import BELOW
from polyladder_ops.fly.api import Api, app_certificate
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.redaction import hide
from polyladder_ops.workspace import workspace

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.fly.flyctl import Flyctl

__all__ = ["USER", "Certificate", "issued", "judged", "obtained", "of_app", "organisation"]

USER = "root"
"""Who we log in as; Fly's own server knows no shell, and every program is there for it."""
_ALL = "fly"  # as flyctl asks: the user, and this
_HOURS = 1
_SKEW_S = 60.0


@dataclass(frozen=True)
class Certificate:
    """A key with the certificate for it, each as text; `until` is when it ends, in seconds since 1970."""

    key: str = field(repr=False)
    text: str
    until: float


def organisation(flyctl: Flyctl, app: str) -> str:
    """Return the slug of the app's organisation. Raise FlyError if Fly does not tell it."""
    found = flyctl.json(dict, "status", "--json", app=app).get("Organization")
    slug = found.get("Slug") if isinstance(found, dict) else None
    if not isinstance(slug, str) or not slug:
        raise FlyError(
            f"Fly does not tell the organisation of {app}",
            detail="A certificate for SSH is of one organisation.",
            hint=f"Look with `fly status -a {app}`.",
            name="no-organisation",
        )
    return slug


def obtained(flyctl: Flyctl, api: Api | None, app: str, folder: Path) -> Certificate:
    """Return a certificate for the machines of an app: one of this app's from Fly's API, else the organisation's from flyctl.

    The first is all that an app's own token gets, and no file is written for it; the second a person's login gets, too.
    Raise FlyError with what each way said if none leads to one.
    """
    refused: list[FlyError] = []
    if api:
        try:
            return of_app(api, app)
        except FlyError as error:
            refused.append(error)
    try:
        return issued(flyctl, organisation(flyctl, app), folder)
    except FlyError as error:
        refused.append(error)
        raise FlyError(
            f"no certificate for SSH to {app} could be had",
            detail=BELOW.join(f"{each.message}: {each.detail}" for each in refused),
            hint=refused[0].hint,
            name=error.name,
            passes=error.passes,
        ) from error


def of_app(api: Api, app: str) -> Certificate:
    """Return a certificate for the machines of this app alone, for an hour. Raise FlyError if it is refused, or useless."""
    from cryptography.hazmat.primitives import serialization  # nobody waits for it who lists the tasks
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    private = Ed25519PrivateKey.generate()
    form = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    key = private.private_bytes(*form).decode().strip()
    public = _bytes(
        private.public_key(), serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    ).decode()
    text = app_certificate(api, app, public, principals=(USER, _ALL), hours=_HOURS)
    return judged(key, text, now=time.time())


def issued(flyctl: Flyctl, slug: str, folder: Path) -> Certificate:
    """Return a certificate for all machines of the organisation, for an hour; its files are gone again.

    An app's own token gets none. Raise FlyError if it is refused, or is one that no machine would take.
    """
    with workspace(folder) as place:
        path = place / "id"
        flyctl.run("ssh", "issue", slug, str(path), "--hours", str(_HOURS))
        key, text = (_read(file) for file in (path, path.with_name("id-cert.pub")))
    return judged(key, text, now=time.time())


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        return ""


def judged(key: str, text: str, *, now: float) -> Certificate:
    """Return the certificate if a machine would take it now. Raise FlyError with what is wrong with it if not.

    Whether the organisation's authority has signed it only the machine knows.
    """
    hide(key)
    if not key or not text:
        raise _useless(f"{'The key' if not key else 'The certificate'} is empty.")
    from cryptography.hazmat.primitives import serialization  # nobody waits for it who lists the tasks

    try:
        private = serialization.load_ssh_private_key(f"{key}\n".encode(), None)
        found = serialization.load_ssh_public_identity(text.encode())
    except ValueError as error:
        raise _useless(f"It can't be read: {error}.") from error
    if not isinstance(found, serialization.SSHCertificate):
        raise _useless("What stands in its place is a key without a certificate.")
    form = serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
    if _bytes(found.public_key(), *form) != _bytes(private.public_key(), *form):
        raise _useless("It is for another key.")
    if found.valid_principals and USER.encode() not in found.valid_principals:
        raise _useless(f"It is not for the user {USER}.")
    if found.valid_before <= now:
        raise _useless("It has expired already: this machine's clock may be wrong.")
    if found.valid_after > now + _SKEW_S:
        raise _useless("It is valid only later: this machine's clock may be wrong.")
    return Certificate(key, text, float(found.valid_before))


def _bytes(public: object, *form: object) -> bytes:
    return public.public_bytes(*form)  # type: ignore[attr-defined,no-any-return]


def _useless(detail: str) -> FlyError:
    return FlyError(
        "the certificate for SSH is useless",
        detail=detail,
        hint="Run it again; if this stays, compare `date` with the right time, and run `fly version upgrade`.",
        name="useless-certificate",
    )
