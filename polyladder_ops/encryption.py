"""age encryption to public keys: who can write a backup need not be able to read it. The one place with pyrage."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from polyladder_ops import plainfile
from polyladder_ops.errors import OpsError, SettingsError
from polyladder_ops.redaction import hide

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = [
    "Altered",
    "NoKey",
    "PrivateKey",
    "Reader",
    "Writer",
    "decrypt",
    "encrypt",
    "identities",
    "new_pair",
    "recipients",
    "texts",
]


class Altered(OpsError):  # noqa: N818 - a finding, not an accident
    """The encrypted bytes are not those that were written: changed, cut, or never age's."""


class NoKey(OpsError):  # noqa: N818 - a finding, not an accident
    """None of the private keys belongs to one of the recipients."""


@dataclass(frozen=True)
class PrivateKey:
    """A private key as its file holds it: a line of age's own, or a whole ssh key. It must not be printed."""

    text: str = field(repr=False)


class Reader(Protocol):
    """What age reads from."""

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes, none at the end."""


class Writer(Protocol):
    """What age writes to."""

    def write(self, data: bytes, /) -> int:
        """Take all of these bytes and return how many they are."""


def recipients(keys: Sequence[str]) -> list[Any]:
    """Return the public keys (``age1…`` or ssh) to encrypt to. Raise SettingsError naming the place of a bad one."""
    pyrage = _pyrage()
    parsed = []
    for place, key in enumerate(keys, start=1):
        kind = pyrage.ssh.Recipient if key.startswith("ssh-") else pyrage.x25519.Recipient
        try:
            parsed.append(kind.from_str(key))
        except pyrage.RecipientError:
            raise SettingsError(
                f"BACKUP_AGE_RECIPIENTS is unusable: key {place} is no public key of age",
                hint="Make a pair with `age-keygen -o identity.txt` and name the line that begins with age1.",
            ) from None
    return parsed


def new_pair() -> tuple[str, str]:
    """Return a new public key and its private one, as `BACKUP_AGE_RECIPIENTS` and a file of identities take them."""
    made = _pyrage().x25519.Identity.generate()
    secret = str(made)
    hide(secret)
    return str(made.to_public()), secret


def identities(path: Path | None) -> list[PrivateKey]:
    """Return the private keys in this file: age's own (comment lines allowed) or one ssh key without a passphrase.

    Raise SettingsError if no file is named, or if it can't be read or holds no key that can be used.
    """
    if path is None:
        raise SettingsError(
            "the backup is encrypted and no private key is named",
            hint="Set BACKUP_AGE_IDENTITY_FILE to the file with the AGE-SECRET-KEY line.",
        )
    try:
        _refuse_endless(path)
        text = path.read_bytes().decode("utf-8", "replace")
    except OSError as error:
        raise SettingsError(
            "BACKUP_AGE_IDENTITY_FILE can't be read",
            detail=f"{path}: {error.strerror}.",
            hint="Check its path and rights.",
        ) from error
    return _ssh_key(path, text) if _is_ssh(text) else _age_keys(path, text)


def _refuse_endless(path: Path) -> None:
    """Raise NotOrdinary for a pipe or device, which may be waited for without end; `<(command)` of a shell has one."""
    if (
        path.exists()
        and not path.is_file()
        and not path.as_posix().startswith(("/dev/fd/", "/proc/self/fd/"))
    ):
        raise plainfile.NotOrdinary(plainfile.oddity(path.resolve()), path)


def _is_ssh(text: str) -> bool:
    return "PRIVATE KEY-----" in text


def _parsed(key: Any) -> Any:
    """Return the key as age takes it, or as it is if it already is so. Raise its IdentityError if it can't be used."""
    pyrage = _pyrage()
    if not isinstance(key, PrivateKey):
        return key
    if _is_ssh(key.text):
        return pyrage.ssh.Identity.from_buffer(key.text.encode())
    return pyrage.x25519.Identity.from_str(key.text)


def texts(keys: Sequence[Any]) -> list[str]:
    """Return what another process needs to use these private keys: not for any eye."""
    return [key.text if isinstance(key, PrivateKey) else str(key) for key in keys]


def _age_keys(path: Path, text: str) -> list[PrivateKey]:
    pyrage = _pyrage()
    found = [PrivateKey(key) for key in re.findall(r"^AGE-SECRET-KEY-[A-Z0-9-]+", text, re.MULTILINE)]
    for key in found:
        hide(key.text)
    try:
        for key in found:
            _parsed(key)
    except pyrage.IdentityError:
        found = []
    if not found:
        raise SettingsError(
            "BACKUP_AGE_IDENTITY_FILE holds no private key of age",
            detail=f"{path} has no line that begins with AGE-SECRET-KEY-, or one that is misspelt.",
            hint="Name the file that `age-keygen -o` wrote.",
        )
    return found


def _ssh_key(path: Path, text: str) -> list[PrivateKey]:
    pyrage = _pyrage()
    try:
        _parsed(PrivateKey(text))
    except pyrage.IdentityError as error:
        raise SettingsError(
            "BACKUP_AGE_IDENTITY_FILE holds an ssh key that age can't use",
            detail=f"{path}: {error}.",
            hint="Name an ed25519 or rsa key without a passphrase, or a file that `age-keygen -o` wrote.",
        ) from None
    return [PrivateKey(text)]


def encrypt(reader: Reader, writer: Writer, keys: Sequence[Any]) -> None:
    """Encrypt everything that the reader gives to all of these recipients."""
    _pyrage().encrypt_io(reader, writer, list(keys))


def decrypt(reader: Reader, writer: Writer, keys: Sequence[Any]) -> None:
    """Decrypt everything that the reader gives; the writer may get plain bytes before damage is noticed.

    Raise Altered if the bytes were changed or cut, or if anything stands behind them; NoKey if no key fits.
    """
    pyrage = _pyrage()
    parsed = [_parsed(key) for key in keys]
    try:
        pyrage.decrypt_io(reader, writer, parsed)
    except (pyrage.DecryptError, OSError) as error:
        text = str(error)
        if "matching" in text.lower():
            raise NoKey(
                "none of our keys opens the backup",
                hint="Set BACKUP_AGE_IDENTITY_FILE to a key that belongs to one of its recipients.",
            ) from error
        raise Altered("the encrypted bytes are damaged", detail=f"age says: {text}.") from error
    if reader.read(1):
        raise Altered("something stands behind the encrypted data")


def _pyrage() -> Any:
    try:
        import pyrage
    except ImportError as error:
        raise OpsError(
            "age encryption is not available on this system",
            detail="There is no pyrage wheel for it (Windows on ARM, musl).",
            hint="Run encrypted backups from Linux, macOS or Windows on x64.",
        ) from error
    return pyrage
