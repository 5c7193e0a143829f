"""What a manifest keeps of a database besides its rows: objects, properties, roles, extensions; values alone.

They stand apart from what reads them, so that whoever looks at manifests need not load a client library.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = [
    "CatalogEntry",
    "DatabaseProperties",
    "Expressions",
    "Extension",
    "Inventory",
    "Membership",
    "Role",
]

Expressions = Mapping[tuple[str, str, str], str]
"""What a server renders by itself: the text of each expression by the kind and name of its object and its place there."""


@dataclass(frozen=True)
class CatalogEntry:
    """What a manifest keeps of an object: its definition only as a digest.

    `exact` is a digest, too, of all that has one spelling only; empty in a manifest from before there was one. What it
    leaves out are the `Expressions`.
    """

    kind: str
    name: str
    owner: str
    grants: tuple[str, ...]
    definition: str
    exact: str = ""


@dataclass(frozen=True)
class Inventory:
    """The objects of a database with their expressions; `reordered` are the tables of which a dump moves columns."""

    entries: tuple[CatalogEntry, ...]
    expressions: Expressions
    reordered: tuple[str, ...] = ()


@dataclass(frozen=True)
class DatabaseProperties:
    """A database without its contents; what a major does not know yet is empty.

    `grants` are sentences as in `grants.py`; `settings` are (role or "", name, value as the server stores it);
    `security_labels` are (provider, label). All are sorted.
    """

    owner: str
    encoding: str
    collate: str
    ctype: str
    locale_provider: str
    locale: str
    icu_rules: str
    collation_version: str
    tablespace: str
    connection_limit: int
    is_template: bool
    grants: tuple[str, ...]
    comment: str
    settings: tuple[tuple[str, str, str], ...]
    security_labels: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Membership:
    """That a role is a member of `role`; `inherit` and `set` are None before PostgreSQL 16, which made them options."""

    role: str
    admin: bool
    inherit: bool | None
    set: bool | None
    grantor: str


@dataclass(frozen=True)
class Role:
    """A role of the server, without its password; `valid_until` is UTC text, empty if the password never expires.

    `needed` if something in the database is its, or is granted to it: a fact of the database, not of the role.
    """

    name: str
    superuser: bool
    inherit: bool
    createrole: bool
    createdb: bool
    login: bool
    replication: bool
    bypassrls: bool
    connection_limit: int
    valid_until: str
    settings: tuple[tuple[str, str], ...]
    comment: str
    memberships: tuple[Membership, ...]
    needed: bool = field(default=True, compare=False)


@dataclass(frozen=True)
class Extension:
    """An extension that is installed in the database."""

    name: str
    version: str
    schema: str
