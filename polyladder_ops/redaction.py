"""Secrets are told to this module once, and nothing we print or raise shows them afterwards.

GitHub's masking knows exact strings only, and libpq quotes parts of a URL in its errors; so every form in which a
secret can turn up is hidden: as it is, percent-encoded and -decoded, and as JSON, Python, SQL and a passfile write it.
What has the shape of a secret (a URL's password, an age key, a token) is hidden even if nobody told us about it.

A password may be a word that stands in what we print for reasons of its own. Stars in the midst of a longer name, of a
command of ours or where everybody knows which name must stand would hide nothing, and tell it. So one that is a plain word is
hidden where it stands by itself only, and one that is its own user's, database's or host's name only where a password stands.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote, quote_plus, unquote, unquote_plus

if TYPE_CHECKING:
    from collections.abc import Container, Iterator

__all__ = ["MASK", "hide", "hide_password", "hide_url", "redact"]

MASK = "********"
_SHORTEST = 4  # hiding "a" everywhere would tell more than it hides
_LONG_WORD = 12  # of a secret of several words; a shorter one may be a word of the language
_WORD = re.compile(rf"[A-Za-z_]{{{_SHORTEST},{_LONG_WORD - 1}}}")
_BEGIN = r"(?:(?<!\w)(?<!\w[.-])(?<!--)(?<!`invoke )|(?<=%[0-9A-Fa-f]{2})|(?<=\\[abfnrtv]))"
_END = r"(?!\w|[.-]\w)"
_hidden: dict[str, re.Pattern[str]] = {}

_QUOTED = r"'(?:[^'\\]|\\.|'')*'"
# A text can be a megabyte without a blank, so none of them may begin at each letter of a word, or look on without a bound.
_SHAPES = (
    # Where a shell reads it from a file (`PGPASSWORD=$(cat …)`) none stands there.
    (
        re.compile(rf"((?:ssl|PG)?password\s*=\s*)(?!\$\()(?:{_QUOTED}|[^\s&'\"]+)", re.IGNORECASE),
        rf"\1{MASK}",
    ),
    (re.compile(rf"(\bpassword\s+){_QUOTED}", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"(authorization['\"]?\s*[:=]\s*['\"]?\w+\s+)[^\s'\"]+", re.IGNORECASE), rf"\1{MASK}"),
    (re.compile(r"AGE-SECRET-KEY-[A-Z0-9-]+", re.IGNORECASE), MASK),
    (
        re.compile(
            r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL
        ),
        MASK,
    ),
    (re.compile(r"\b(?:fm\d[a-z]?|fo1|gh[pousr]|github_pat)_[\w+/=-]{8,}"), MASK),
    (re.compile(r"SCRAM-SHA-256\$[^\s'\"]+"), MASK),
    # Of a web address all that stands before the host: the user alone may be a token.
    (re.compile(r"(\b(?:https?|wss?|rediss?)://)[^\s/?#@'\"<>]+@", re.IGNORECASE), rf"\1{MASK}@"),
    (re.compile(r"([?&#](?:key|sig|pwd|jwt)=)[^\s&'\"#]+", re.IGNORECASE), rf"\1{MASK}"),
    # In the query of a web address, and among a command's options.
    (
        re.compile(
            r"((?:[?&#]|(?<!\S)--(?!with-passwords\b))[\w.-]{0,40}?(?:token|secret|api_?key|passw|auth|signature)[\w.-]{0,40}[=\s]\s*)"
            r"[^\s&'\"#]+",
            re.IGNORECASE,
        ),
        rf"\1{MASK}",
    ),
    # As an environment is listed: a program may print its own.
    (
        re.compile(
            r"(\b[A-Z][A-Z0-9_]{0,40}?(?:SECRET|TOKEN|PASSWORD|PASSWD|_KEY)[A-Z0-9_]{0,40}['\"]?(?:=(?!\$\()|:\s{0,4}(?=[^\s,;]{12}))['\"]?)"
            r"[^\s'\",;]+"
        ),
        rf"\1{MASK}",
    ),
)


def hide(secret: str | None) -> None:
    """Remember a secret in all the forms it can be printed in; short or empty ones are passed over.

    Of several words, or several tokens behind commas, each long one counts by itself: Fly's are a list, and named one by one.
    """
    for one in {
        secret or "",
        *(word for word in re.split(r"[\s,]+", secret or "") if len(word) >= _LONG_WORD),
    }:
        if len(one) >= _SHORTEST:
            _hidden.update((form, _pattern(form)) for form in _forms(one) if len(form) >= _SHORTEST)


def _pattern(form: str) -> re.Pattern[str]:
    found = re.escape(form)
    return re.compile(f"{_BEGIN}{found}{_END}" if _WORD.fullmatch(form) else found)


def hide_password(password: str | None, names: Container[str | None]) -> None:
    """Remember the password of a login, unless it is one of the names beside it, which are printed as what they are."""
    if password not in names:
        hide(password)


def hide_url(url: str | None) -> None:
    """Remember a connection string whole, and whatever in it could be taken for its password.

    Where the password ends is a matter of the reader (``@``, ``/``, ``#`` or ``?`` may stand in it unencoded), so each
    reading is hidden. Keyword strings and ``?password=`` count too.
    """
    hide(url)
    names = _names(url or "")
    for password in _passwords(url or ""):
        hide_password(password, names)
        hide_password(unquote(password), names)


def redact(text: str) -> str:
    """Return the text with every remembered secret, and what has the shape of one, replaced by stars."""
    for secret in sorted(_hidden, key=len, reverse=True):
        if secret in text:
            text = _hidden[secret].sub(MASK, text)
    if "://" in text and "@" in text:
        text = re.sub(r"\S+", _without_password, text)
    for shape, masked in _SHAPES:
        text = shape.sub(masked, text)
    return text


def _without_password(run: re.Match[str]) -> str:
    """Hide from a URL's user up to the last @ of the run: an unencoded password may hold @, /, quotes; a second URL may follow.

    Our own hints show an example, which is nobody's.
    """
    end = run[0].rfind("@")
    found = re.search(r"://[^:@]*:(?!password@host\b)", run[0][: end + 6])
    if end < 0 or found is None or found.end() > end:
        return run[0]
    return f"{run[0][: found.end()]}{MASK}{run[0][end:]}"


def _forms(secret: str) -> set[str]:
    encoded = {quote(text, safe=safe) for text in (secret, unquote(secret)) for safe in ("", "/")}
    lower_case = {re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), text) for text in encoded}
    written = {json.dumps(secret)[1:-1], json.dumps(secret, ensure_ascii=False)[1:-1], repr(secret)[1:-1]}
    sql = secret.replace("'", "''")
    passfile = secret.replace("\\", "\\\\")
    other = {sql, passfile, passfile.replace(":", "\\:"), passfile.replace("'", "\\'"), quote_plus(secret)}
    return {secret, unquote(secret), unquote_plus(secret)} | encoded | lower_case | written | other


def _names(url: str) -> set[str]:
    """Return the user, the database and the host that a connection string names, as far as that can be read without doubt."""
    found = re.fullmatch(
        r"\w+://([^:/?#@]+):[^:/?#@]*@([^:/?#@,]+)(?::\d+)?(?:/([^/?#@]*))?(?:\?[^@]*)?", url
    )
    if found:
        return {unquote(name) for name in found.groups() if name}
    words = [] if "://" in url else re.findall(r"\b(?:user|dbname|host)\s*=\s*'?([^\s']+)", url)
    return set(words)


def _passwords(url: str) -> Iterator[str]:
    login = url.partition("://")[2]
    for end in (found.start() for found in re.finditer("@", login)):
        yield login[:end].partition(":")[2]
    for found in re.finditer(rf"(?:ssl)?password\s*=\s*({_QUOTED}|[^\s&]+)", url, re.IGNORECASE):
        yield found[1].strip("'")
