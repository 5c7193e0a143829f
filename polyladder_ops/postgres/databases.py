"""Making and dropping whole databases and the roles that own what is in them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import psycopg
from psycopg import errors, sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres.properties import DatabaseProperties, Role
from polyladder_ops.postgres.session import Connection, translated

__all__ = ["LocaleMissing", "available_extensions", "create", "drop", "drop_roles", "make_roles"]


class LocaleMissing(OpsError):
    """The server has not got the encoding, locale or locale provider of the source."""


def available_extensions(connection: Connection) -> Mapping[str, str]:
    """Return each extension that can be made here with the version that it would get."""
    with translated("could not list the extensions"):
        rows = connection.execute(
            "SELECT name, default_version FROM pg_catalog.pg_available_extensions"
        ).fetchall()
    return dict(rows)


def create(connection: Connection, name: str, like: DatabaseProperties) -> None:
    """Create an empty database from template0 with this encoding, locale and provider.

    Raise LocaleMissing if the server has not got them, OpsError if it refuses otherwise.
    """
    since = _SINCE.get(like.locale_provider, 0)
    if connection.info.server_version // 10000 < since:
        raise LocaleMissing(
            "the server lacks the locale of the source",
            detail=f"The provider {like.locale_provider} exists from PostgreSQL {since} on.",
        )
    options = [
        sql.SQL("{} = {}").format(sql.SQL(word), sql.Literal(value))
        for word, value in _locale_options(like, connection.info.server_version // 10000)
    ]
    statement = sql.SQL("CREATE DATABASE {} TEMPLATE template0 {}").format(
        sql.Identifier(name), sql.SQL(" ").join(options)
    )
    try:
        connection.execute(statement)
    except (
        errors.InvalidParameterValue,
        errors.WrongObjectType,
        errors.FeatureNotSupported,
        errors.UndefinedFile,
    ) as error:
        raise LocaleMissing("the server lacks the locale of the source", detail=f"{_text(error)}.") from error
    except errors.DuplicateDatabase as error:
        raise OpsError(
            f"there is a database {name} already", hint="Choose another name, or drop it first."
        ) from error
    except psycopg.Error as error:
        raise OpsError(
            f"could not create the database {name}", detail=f"{_text(error)}.", hint=_CREATEDB
        ) from error


_SINCE = {"icu": 15, "builtin": 17}  # locale providers that a whole database can have
_CREATEDB = "The role needs CREATEDB (or superuser) on that server."


def _locale_options(like: DatabaseProperties, major: int) -> list[tuple[str, str]]:
    options = [("ENCODING", like.encoding), ("LC_COLLATE", like.collate), ("LC_CTYPE", like.ctype)]
    if major >= 15:
        options.append(("LOCALE_PROVIDER", like.locale_provider))
    if like.locale and like.locale_provider == "icu":
        options.append(("ICU_LOCALE", like.locale))
    if like.locale and like.locale_provider == "builtin":
        options.append(("BUILTIN_LOCALE", like.locale))
    if like.icu_rules:
        options.append(("ICU_RULES", like.icu_rules))
    return options


def drop(connection: Connection, name: str) -> None:
    """Drop a database if it is there, whoever is connected to it."""
    with translated(f"could not drop the database {name}"):
        connection.execute(sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name)))


def make_roles(connection: Connection, wanted: Iterable[Role], *, superusers: bool) -> tuple[str, ...]:
    """Make those of the roles that the server has not got, without login and password; return their names."""
    with translated("could not make the roles"):
        there = {name for (name,) in connection.execute("SELECT rolname FROM pg_catalog.pg_roles").fetchall()}
        missing = [role for role in wanted if role.name not in there]
        for role in missing:
            attributes = sql.SQL("SUPERUSER NOLOGIN" if superusers and role.superuser else "NOLOGIN")
            connection.execute(sql.SQL("CREATE ROLE {} {}").format(sql.Identifier(role.name), attributes))
    return tuple(role.name for role in missing)


def drop_roles(connection: Connection, names: Iterable[str]) -> None:
    """Drop the roles that `make_roles` made."""
    with translated("could not drop the roles that were made for the proof"):
        for name in names:
            connection.execute(sql.SQL("DROP ROLE IF EXISTS {}").format(sql.Identifier(name)))


def _text(error: psycopg.Error) -> str:
    return " ".join(str(error).split()).rstrip(".")
