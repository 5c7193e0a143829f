"""Keys and certificates for SSH, as the organisation's authority signs them; `fly ssh issue` with its traps (contract 1.15)."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import SSHCertificateBuilder, SSHCertificateType

from polyladder_ops.sandbox.fly.arguments import FlyError
from polyladder_ops.sandbox.fly.world import changing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.sandbox.fly.session import Session
    from polyladder_ops.sandbox.fly.world import World

__all__ = ["COMMANDS", "issue", "new_key", "public_of", "signed"]

_BANNER = """!!!! WARNING: We're now prompting you to save an SSH Private Key and Certificate  !!!!
!!!! (the private key in "id_whatever" and the certificate in "id_whatever-cert.pub"). !!!!
!!!! These SSH credentials are *time-limited* and *unencrypted*.                       !!!!
!!!! Be careful where you put them.                                                    !!!!

"""
_LONGEST_H = 72


def new_key() -> str:
    """Return a new ed25519 key in OpenSSH's form, without a passphrase."""
    kind = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH, serialization.NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(*kind).decode()


def public_of(key: str) -> str:
    """Return a key's public part, one line."""
    public = serialization.load_ssh_private_key(key.encode(), None).public_key()
    return public.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH).decode()


def signed(
    authority: str, public: str, principals: Sequence[str], *, seconds: float, begins: float | None = None
) -> str:
    """Return a certificate of the authority (its private key) for a public key, one line."""
    begins = time.time() - 60 if begins is None else begins
    made = (
        SSHCertificateBuilder()
        .public_key(_public(public))
        .serial(int(time.time()))
        .type(SSHCertificateType.USER)
        .key_id(b"stand-in")
        .valid_principals([name.encode() for name in principals])
        .valid_after(int(begins))
        .valid_before(int(begins + seconds))
        .sign(_private(authority))
    )
    return made.public_bytes().decode()


def _public(text: str) -> Any:
    return serialization.load_ssh_public_key(text.encode())


def _private(text: str) -> Any:
    return serialization.load_ssh_private_key(text.encode(), None)


def issue(session: Session, folder: Path) -> Iterator[str]:
    """`fly ssh issue ORG [EMAIL] PATH`: an organisation's certificate, for 24 hours unless said otherwise."""
    organisation, path, hours = _asked(session)
    with changing(folder) as world:
        authority = _authority(session, world, organisation)
    yield _BANNER
    key = new_key()
    certificate = signed(authority, public_of(key), _principals(session), seconds=hours * 3600)
    yield from _write(path, key, certificate, hours, overwrite=session.call.is_set("overwrite"))


def _asked(session: Session) -> tuple[str, Path, int]:
    hours = session.call.text("hours", "24")
    if not re.fullmatch(r"\d+", hours) or not 1 <= int(hours) <= _LONGEST_H:
        raise FlyError("Invalid expiration time (1-72 hours)")
    words = [word for word in session.call.arguments if "@" not in word]
    # What the environment says beats what stands there, silently: trap (d).
    organisation = session.environ.get("FLY_ORG") or session.call.text("org") or (words[0] if words else "")
    if not organisation:
        raise FlyError("slug argument must be specified when not running interactively")
    if len(words) < 2:
        raise FlyError("prompt: non interactive")
    return organisation, Path(words[1]), int(hours)


def _authority(session: Session, world: World, organisation: str) -> str:
    refused = world.has_fault("no-certificate") or world.has_fault("no-own-certificate")
    if refused or not session.scopes(world) & {"personal", "org"}:
        raise FlyError("failed to issue SSH credentials: unauthorized")
    if organisation == world.data["organisation"]:
        return str(world.data["authority"]["private"])
    if organisation in world.data["other_authorities"]:
        return str(world.data["other_authorities"][organisation])
    raise FlyError(f"failed retrieving organization with slug {organisation}: Could not find Organization")


def _principals(session: Session) -> list[str]:
    return session.call.text("username", "root,fly").split(",")


def _write(path: Path, key: str, certificate: str, hours: int, *, overwrite: bool) -> Iterator[str]:
    """Write both files as flyctl does: with what is there already it goes wrong in three ways (contract 1.15, a to c)."""
    beside = path.with_name(f"{path.name}-cert.pub")
    while path.exists() and overwrite:
        yield "File exists, but isn't a fly.io ed25519 private key\n"
    if path.exists():
        yield f"Can't open private key file: open {path}: file exists\n"
        raise FlyError("prompt: non interactive")
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        if not beside.exists():
            file.write(key)
            _put(beside, f"{certificate} \n")
    yield f"Wrote {hours}-hour SSH credential to {path}, {beside}\n"


def _put(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(text)


COMMANDS: dict[tuple[str, ...], Callable[[Session, Path], Iterator[str]]] = {("ssh", "issue"): issue}
"""By words what runs."""
