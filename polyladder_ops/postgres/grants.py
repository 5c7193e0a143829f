"""Privileges as sorted sentences that mean the same on every server: `app=SELECT,INSERT*/owner`.

PostgreSQL writes `app=ra*/owner`, and nothing at all where the default holds. Here the default is always written out
(the queries ask for it), every privilege has its name, `*` marks the grant option and `PUBLIC` is everybody.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["NAMES", "PUBLIC", "Grant", "as_of", "canonical", "parse", "quoted"]

PUBLIC = "PUBLIC"
# The letters of PostgreSQL's documentation, table 5.1, in its order.
NAMES = {
    "r": "SELECT",
    "a": "INSERT",
    "w": "UPDATE",
    "d": "DELETE",
    "D": "TRUNCATE",
    "x": "REFERENCES",
    "t": "TRIGGER",
    "m": "MAINTAIN",
    "C": "CREATE",
    "c": "CONNECT",
    "T": "TEMPORARY",
    "X": "EXECUTE",
    "U": "USAGE",
    "s": "SET",
    "A": "ALTER SYSTEM",
}
_NEWER = {"MAINTAIN": 17}  # part of a table owner's default, and of GRANT ALL, since that major
_ALL_BEFORE = {"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE", "REFERENCES", "TRIGGER"}
_ITEM = re.compile(r'("(?:[^"]|"")*"|[^"=/]*)=([^/]*)/("(?:[^"]|"")*"|[^"=/]*)', re.DOTALL)
_PLAIN = re.compile(r"[a-z0-9_]+")


@dataclass(frozen=True)
class Grant:
    """What one role gave another; `grantee` is empty for PUBLIC. Privileges are names, `*` behind the grantable ones."""

    grantee: str
    privileges: tuple[str, ...]
    grantor: str

    def __str__(self) -> str:
        return self.sentence()

    def sentence(self, owner: str = "") -> str:
        """Return the grant as one sentence; the role `owner` is written `<owner>`."""
        grantee, grantor = (
            "<owner>" if owner and role == owner else quoted(role) for role in (self.grantee, self.grantor)
        )
        return f"{grantee or PUBLIC}={','.join(self.privileges)}/{grantor}"


def canonical(acl: Iterable[str], *, owner: str = "") -> tuple[str, ...]:
    """Return the sentences for the items of an acl as the server writes them, sorted.

    The role `owner` is written `<owner>`.
    """
    return tuple(sorted(_grant(item).sentence(owner) for item in acl))


def as_of(sentences: Iterable[str], major: int) -> tuple[str, ...]:
    """Return the sentences without the privileges that this major did not have yet, where nobody meant them.

    A dump of an older server gives the new privilege to a table's owner, and to others only with all there were: its
    pg_dump wrote `GRANT ALL` up to 16, one by one since.
    """
    newer = {name for name, since in _NEWER.items() if major < since}
    known = []
    for sentence in sentences:
        if not any(name in sentence for name in newer) or sentence[0] in "(+-":
            known.append(sentence)
            continue
        grant = parse(sentence)
        older = tuple(p for p in grant.privileges if p.removesuffix("*") not in newer)
        if grant.grantee != grant.grantor and not _is_all(grant, older):
            known.append(sentence)
        elif older:
            known.append(str(replace(grant, privileges=older)))
    return tuple(sorted(known))


def _is_all(grant: Grant, older: Iterable[str]) -> bool:
    """Whether one GRANT ALL gives this: everything, and all of it with the option to grant it on or none."""
    is_whole = {p.removesuffix("*") for p in older} >= _ALL_BEFORE
    return is_whole and len({p.endswith("*") for p in grant.privileges}) == 1


def parse(sentence: str) -> Grant:
    """Return the grant that a sentence of ours says. Raise OpsError if it is none."""
    grantee, privileges, grantor = _split(sentence)
    names = tuple(privileges.split(","))
    if not {name.removesuffix("*") for name in names} <= set(NAMES.values()):
        raise OpsError(f"{sentence!r} is not a grant")
    return Grant("" if grantee == PUBLIC else _bare(grantee), names, _bare(grantor))


def _grant(item: str) -> Grant:
    grantee, letters, grantor = _split(item)
    given = {letter: NAMES[letter] + star for letter, star in re.findall(r"(\w)(\*?)", letters)}
    return Grant(_bare(grantee), tuple(given[letter] for letter in NAMES if letter in given), _bare(grantor))


def _split(item: str) -> tuple[str, str, str]:
    match = _ITEM.fullmatch(item)
    if match is None:
        raise OpsError(f"{item!r} is not a grant")
    return match[1], match[2], match[3]


def _bare(role: str) -> str:
    return role[1:-1].replace('""', '"') if role.startswith('"') else role


def quoted(role: str) -> str:
    """Our own rule, since which letters the server quotes depends on its version and locale."""
    return role if not role or _PLAIN.fullmatch(role) else '"' + role.replace('"', '""') + '"'
