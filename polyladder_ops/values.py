"""What the text of a setting means: each function returns the value, or raises ValueError with what to write instead.

The error's text continues a sentence that begins with the variable's name, and never repeats the value, which may be a
secret in the wrong place.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, ValidationInfo

from polyladder_ops.route import Route

__all__ = [
    "AbsolutePath",
    "Bucket",
    "Count",
    "DatabaseName",
    "Days",
    "ExistingFile",
    "FlyName",
    "Recipients",
    "RouteName",
    "SiteName",
    "WebUrl",
    "is_site",
]

_NAME_BYTES = 63


def is_site(text: str) -> bool:
    """Whether the text can name a site, which becomes part of file and folder names."""
    return re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", text) is not None


def _site(text: str) -> str:
    if not is_site(text):
        raise ValueError("is not a site's name; use a-z, 0-9 and -, such as production.")
    return text


def _fly_name(text: str) -> str:
    # Never a text that a program could take for a flag.
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", text):
        raise ValueError("is not a name of Fly's; use letters, digits and -, such as polyladder-db.")
    return text


def _bucket(text: str) -> str:
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text):
        raise ValueError("is not a bucket's name; write the bare name, without s3:// and folders.")
    return text


def _days(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not int(text):
        raise ValueError("is not a positive whole number; write days, such as 30.")
    return int(text)


def _count(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text) or not int(text):
        raise ValueError("is not a positive whole number; write a count, such as 3.")
    return int(text)


def _web_url(text: str) -> str:
    try:
        parts = urlsplit(text)
        usable = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or re.search(r"[\s\x00-\x1f\x7f]", text):
        raise ValueError("is not a web address; write it as https://host/health.")
    return text


def _path(text: str, info: ValidationInfo) -> Path:
    """Return the absolute path; a relative one starts at the folder of tasks.py, wherever the command was given."""
    if "\0" in text:
        raise ValueError("is not a path; it holds a zero byte.")
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~, but no such home folder is known; write the whole path.") from None
    return Path((info.context or {})["root"], path)


def _existing_file(path: Path) -> Path:
    if not path.is_file():
        raise ValueError("names no file; write the path of the file with the private key, or leave it unset.")
    return path


def _recipients(text: str) -> tuple[str, ...]:
    """Return the public keys, each once; an SSH key is two words and may be followed by a comment with an @."""
    words = re.split(r"[,\s]+", text)
    found: list[str] = []
    while words:
        word = words.pop(0)
        if re.fullmatch(r"ssh-(?:ed25519|rsa)", word) and words and re.fullmatch(r"AAAA[\w+/]+=*", words[0]):
            found.append(f"{word} {words.pop(0)}")
            if words and "@" in words[0]:  # no key holds one, so this is no key with a typo
                words.pop(0)
        elif re.fullmatch(r"age1[a-z0-9]{50,}", word):
            found.append(word)
        elif word.upper().startswith("AGE-SECRET-KEY-"):
            raise ValueError("holds a private key; write public keys only (age1…), and make a new pair.")
        elif word:
            raise ValueError(
                f"is wrong at key {len(found) + 1}; write age1…, ssh-ed25519 … or ssh-rsa … keys."
            )
    return tuple(dict.fromkeys(found))


def _route(text: str) -> Route:
    try:
        return Route(text)
    except ValueError:
        raise ValueError("is no way to a database; write direct or fly.") from None


def _database(text: str) -> str:
    if len(text.encode()) > _NAME_BYTES or re.search(r"[\x00-\x1f\x7f=/#]", text):
        raise ValueError(
            f"is no database's name that we take: at most {_NAME_BYTES} bytes, without =, / and #, which programs read as more."
        )
    return text


SiteName = Annotated[str, AfterValidator(_site)]
RouteName = Annotated[Route, BeforeValidator(_route)]
DatabaseName = Annotated[str, AfterValidator(_database)]
FlyName = Annotated[str, AfterValidator(_fly_name)]
Bucket = Annotated[str, AfterValidator(_bucket)]
Count = Annotated[int, BeforeValidator(_count)]
Days = Annotated[int, BeforeValidator(_days)]
WebUrl = Annotated[str, AfterValidator(_web_url)]
AbsolutePath = Annotated[Path, BeforeValidator(_path)]
ExistingFile = Annotated[AbsolutePath, AfterValidator(_existing_file)]
Recipients = Annotated[tuple[str, ...], BeforeValidator(_recipients)]
