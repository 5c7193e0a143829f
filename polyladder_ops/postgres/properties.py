"""What a database is besides its objects, and what its server must offer: properties, roles, extensions, as values.

A dump without `CREATE DATABASE` has none of this, and a database that is renamed leaves it behind with its old oid. So it
is kept as values and applied to the new database as values. Three things are never carried over:
`default_transaction_read_only` of the database itself (a fence of the old one, or a habit that would stop the restored
one from being written; that of a role in it is carried), whether the database is a template, and whether it takes
connections.
"""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import alterations, grants, marks, queries
from polyladder_ops.postgres.alterations import NotApplied, is_carried, named
from polyladder_ops.postgres.described import DatabaseProperties, Extension, Membership, Role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    import psycopg

__all__ = [
    "DatabaseProperties",
    "Extension",
    "Membership",
    "NotApplied",
    "Role",
    "apply",
    "as_given",
    "compare",
    "differences",
    "extensions",
    "give",
    "give_settings",
    "hand_over",
    "read",
    "roles",
]

# What is chosen when a database is made and can't be changed later, as sentences name it.
_AT_BIRTH = {
    "encoding": "the encoding",
    "collate": "the collation",
    "ctype": "the character classification",
    "locale_provider": "the locale provider",
    "locale": "the locale",
    "icu_rules": "the ICU rules",
    "tablespace": "the tablespace",
}
_CHOSEN_AT_BIRTH = {word.removeprefix("the ") for word in _AT_BIRTH.values()}
_EXTENSIONS = """
SELECT e.extname, e.extversion, s.nspname
FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_namespace s ON s.oid = e.extnamespace
"""


def read(connection: psycopg.Connection[Any], database: str | None = None) -> DatabaseProperties:
    """Return the properties of a database of this server; without a name, of the connection's own.

    Raise OpsError if there is none of that name.
    """
    for name, is_current, *row in queries.rows(connection, queries.load("properties.sql")):
        if name == database or (database is None and is_current):
            *plain, acl, comment, settings, labels = row
            own = tuple(_without_mark(_pairs(settings)))
            fields = [*plain, grants.canonical(acl), marks.inner(comment), own, _pairs(labels)]
            return DatabaseProperties(*fields)
    raise OpsError(f"there is no database {database!r} on this server", hint="List them with `psql -l`.")


def _without_mark(settings: tuple[Any, ...]) -> Iterator[tuple[str, str, str]]:
    """Yield the settings (role, name, value) without a mark of ours, which belongs to one database only."""
    for role, name, value in settings:
        own = marks.own_setting(value) if marks.is_mark(name, value) else value
        if own is not None:
            yield role, name, own


def roles(connection: psycopg.Connection[Any]) -> tuple[Role, ...]:
    """Return the roles of the server, ordered by name, without its own `pg_…` ones; memberships in those count."""
    found = []
    for *plain, settings, comment, memberships, needed in queries.rows(connection, queries.load("roles.sql")):
        groups = tuple(Membership(*group) for group in _pairs(memberships))
        fields = [*plain, _pairs(settings), comment, groups, needed]
        found.append(Role(*fields))
    return tuple(sorted(found, key=lambda role: role.name))


def extensions(connection: psycopg.Connection[Any]) -> tuple[Extension, ...]:
    """Return the extensions of the connection's database, ordered by name."""
    return tuple(
        sorted((Extension(*row) for row in queries.rows(connection, _EXTENSIONS)), key=lambda e: e.name)
    )


def _pairs(text: str | None) -> tuple[Any, ...]:
    """Return the rows of a JSON array of arrays, sorted; None sorts before everything."""
    return tuple(
        sorted(map(tuple, json.loads(text or "[]")), key=lambda row: [(v is not None, v) for v in row])
    )


def compare(wanted: DatabaseProperties, found: DatabaseProperties) -> list[str]:
    """Return a sentence for each of the `differences`."""
    return [sentence for _, sentence in differences(wanted, found)]


def differences(wanted: DatabaseProperties, found: DatabaseProperties) -> Iterator[tuple[str, str]]:
    """Yield each difference that a restore should not have: what differs (``owner``, ``setting work_mem``), and a sentence.

    Left out are what is never carried over (see above) and the collation version, which belongs to the machine
    (compare the two values where it matters: indexes on text are sorted by it). Values of settings are not told.
    """
    words = {
        "owner": "the owner",
        **_AT_BIRTH,
        "connection_limit": "the connection limit",
        "comment": "the comment",
    }
    for field, word in words.items():
        have, want = getattr(found, field), getattr(wanted, field)
        if have != want:
            yield word.removeprefix("the "), f"{word} is {have!r}, not {want!r}"
    yield from _grants_differ(wanted.grants, found.grants, "is missing")
    yield from _grants_differ(found.grants, wanted.grants, "is too much")
    yield from _settings_differ(wanted, found)
    if wanted.security_labels != found.security_labels:
        yield "security labels", "the security labels differ"


def _grants_differ(some: Sequence[str], others: Sequence[str], verdict: str) -> Iterator[tuple[str, str]]:
    for sentence in some:
        if sentence not in others:
            yield (
                f"grant to {grants.parse(sentence).grantee or grants.PUBLIC}",
                f"the grant {sentence} {verdict}",
            )


def _settings_differ(wanted: DatabaseProperties, found: DatabaseProperties) -> Iterator[tuple[str, str]]:
    want, have = _by_key(wanted), _by_key(found)
    for key in sorted(want.keys() | have.keys()):
        if not is_carried(*key) or want.get(key) == have.get(key):
            continue
        verdict = "is missing" if key not in have else "has another value" if key in want else "is too much"
        yield f"setting {named(*key)}", f"the setting {named(*key)} {verdict}"


def apply(
    connection: psycopg.Connection[Any], database: str, properties: DatabaseProperties
) -> list[NotApplied]:
    """Give a database of this server these properties, in one transaction; return what could not be given.

    Owner, grants, connection limit, comment, labels and settings become the same: what is there too much is taken
    away. Should the server refuse one of the statements, each stands alone, so that a role that is missing costs no
    more than what needs it. Raise OpsError if there is no such database.
    """
    with connection.transaction():
        missing = give(connection, database, properties)
        return missing + hand_over(connection, database, properties)


def as_given(
    connection: psycopg.Connection[Any], database: str, properties: DatabaseProperties
) -> DatabaseProperties:
    """Return what the database would be with these properties; it stays what it is. Raise OpsError if there is none."""
    with connection.transaction(force_rollback=True):
        apply(connection, database, properties)
        return read(connection, database)


def give(
    connection: psycopg.Connection[Any], database: str, properties: DatabaseProperties
) -> list[NotApplied]:
    """Give a database all of these properties but the owner: who is no superuser may give nothing once it is another's.

    Grants are made in the name of the owner that it has; `hand_over` makes them the other's. Return what could not be
    given. Raise OpsError if there is no such database.
    """
    with connection.transaction():
        before = read(connection, database)
        wanted = _while_owned_by(before.owner, properties)

        def as_wanted() -> bool:
            found = read(connection, database)
            return all(what in _CHOSEN_AT_BIRTH for what, _ in differences(wanted, found))

        if alterations.at_once(connection, _changes(database, before, wanted), as_wanted):
            missing = [*alterations.never_carried(_by_key(properties))]
        else:
            missing = [*_one_by_one(connection, database, before, wanted)]
    return [*missing, *_left_out(before, properties)]


def give_settings(connection: psycopg.Connection[Any], database: str, properties: DatabaseProperties) -> None:
    """Give a new database the source's own settings, as far as they can be; not those of single roles."""
    own = {key: value for key, value in _by_key(properties).items() if not key[0]}
    if not own:
        return

    def stored() -> dict[tuple[str, str], str]:
        return _by_key(read(connection, database))

    if not alterations.at_once(connection, alterations.setting(database, {}, own), lambda: True):
        with connection.transaction():
            list(alterations.settings(connection, database, own, stored))  # `as_given` tells what is refused


def hand_over(
    connection: psycopg.Connection[Any], database: str, properties: DatabaseProperties
) -> list[NotApplied]:
    """Give a database, after all else, its owner; return what could not be given. Raise OpsError if there is none."""

    def as_wanted() -> bool:
        return set(read(connection, database).grants) == set(properties.grants)

    found, refused = read(connection, database), list[NotApplied | None]()
    if found.owner == properties.owner and set(found.grants) == set(properties.grants):
        return []  # in one question: the app waits
    if found.owner != properties.owner:
        statement = sql.SQL("ALTER DATABASE {} OWNER TO {}").format(
            sql.Identifier(database), sql.Identifier(properties.owner)
        )
        refused = [alterations.tried(connection, "the owner", statement)]
    if not as_wanted() and (any(refused) or not _granted_again(connection, database, properties, as_wanted)):
        refused.append(NotApplied("the grants", "they are not all as they were"))
    return [*filter(None, refused)]


def _granted_again(
    connection: psycopg.Connection[Any],
    database: str,
    wanted: DatabaseProperties,
    as_wanted: Callable[[], bool],
) -> bool:
    """Give the grants of a database that has its owner now; return whether all are as wanted.

    What the last owner was given beside was lost among what an owner has. Who has no rights of the new owner (a member
    without INHERIT, since 16) may perhaps act as it.
    """
    now = read(connection, database).grants
    again = alterations.regranting(database, wanted.owner, now, wanted.grants)
    statements = [statement for _, each in again for statement in each]
    become = sql.SQL("SET LOCAL ROLE {}").format(sql.Identifier(wanted.owner))
    ways = (statements, [become, *statements, sql.SQL("SET LOCAL ROLE NONE").format()])
    return any(alterations.at_once(connection, way, as_wanted) for way in ways)


def _while_owned_by(owner: str, wanted: DatabaseProperties) -> DatabaseProperties:
    """Return the properties as they can be as long as the database has this owner: what the wanted one has and gave is its."""
    if owner == wanted.owner:
        return wanted

    def now(role: str) -> str:
        return owner if role == wanted.owner else role

    given = [grant for grant in map(grants.parse, wanted.grants) if grant.grantee != owner]
    kept = [str(replace(grant, grantee=now(grant.grantee), grantor=now(grant.grantor))) for grant in given]
    return replace(wanted, owner=owner, grants=tuple(sorted(kept)))


def _changes(database: str, before: DatabaseProperties, wanted: DatabaseProperties) -> Iterator[sql.Composed]:
    """Yield the statements of all changes, on the assumption that the server refuses none."""
    yield from (statement for _, statement in _simple(database, before, wanted))
    for _, statements in alterations.regranting(database, wanted.owner, before.grants, wanted.grants):
        yield from statements
    yield from alterations.setting(database, _by_key(before), _by_key(wanted))


def _one_by_one(
    connection: psycopg.Connection[Any],
    database: str,
    before: DatabaseProperties,
    wanted: DatabaseProperties,
) -> Iterator[NotApplied]:
    """Make each change by itself; yield those that can't be made."""

    def stored() -> dict[tuple[str, str], str]:
        return _by_key(read(connection, database))

    tried = [
        alterations.tried(connection, what, statement)
        for what, statement in _simple(database, before, wanted)
    ]
    tried += alterations.grant(connection, database, wanted.owner, before.grants, wanted.grants)
    tried += alterations.settings(connection, database, _by_key(wanted), stored)
    yield from filter(None, tried)


def _left_out(before: DatabaseProperties, wanted: DatabaseProperties) -> Iterator[NotApplied]:
    for field, word in _AT_BIRTH.items():
        have, want = getattr(before, field), getattr(wanted, field)
        if have != want:
            yield NotApplied(word, f"it is {have!r}, not {want!r}, and is chosen when a database is made")
    if wanted.is_template and not before.is_template:
        yield NotApplied("the mark as a template", "it would let everybody copy the database")


def _simple(
    database: str, before: DatabaseProperties, wanted: DatabaseProperties
) -> Iterator[tuple[str, sql.Composed]]:
    """Yield what one statement settles, but for the owner."""
    name = sql.Identifier(database)
    if wanted.connection_limit != before.connection_limit:
        limit = sql.Literal(wanted.connection_limit)
        yield "the connection limit", sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(name, limit)
    if wanted.comment != before.comment:
        comment = sql.Literal(wanted.comment or None)
        yield "the comment", sql.SQL("COMMENT ON DATABASE {} IS {}").format(name, comment)
    labels = {provider: None for provider, _ in before.security_labels} | dict(wanted.security_labels)
    for provider, label in labels.items():
        if (provider, label) not in before.security_labels:
            yield (
                f"the security label of {provider}",
                sql.SQL("SECURITY LABEL FOR {} ON DATABASE {} IS {}").format(
                    sql.Identifier(provider), name, sql.Literal(label)
                ),
            )


def _by_key(properties: DatabaseProperties) -> dict[tuple[str, str], str]:
    return {(role, name): value for role, name, value in properties.settings}
