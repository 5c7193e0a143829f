"""Properties of a database, read as values, applied to another one and read again, on real servers."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from psycopg import sql

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import properties
from polyladder_ops.postgres.properties import Extension, Membership
from polyladder_ops.postgres.session import connect

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import DatabaseProperties
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox import server as servers

ROLES = ("prop_owner", "prop_app", 'prop "Ünder=/" x')
SOURCE = """
ALTER DATABASE prop_from OWNER TO prop_owner;
ALTER DATABASE prop_from CONNECTION LIMIT 7;
COMMENT ON DATABASE prop_from IS 'it''s "quoted" \\ and ünïcode';
REVOKE ALL ON DATABASE prop_from FROM PUBLIC;
REVOKE CREATE ON DATABASE prop_from FROM prop_owner;
GRANT CONNECT ON DATABASE prop_from TO prop_app WITH GRANT OPTION;
GRANT TEMPORARY ON DATABASE prop_from TO prop_app;
SET ROLE prop_app;
GRANT CONNECT ON DATABASE prop_from TO "prop ""Ünder=/"" x";
RESET ROLE;
ALTER DATABASE prop_from SET search_path = app, "$user", "we, ird", public;
ALTER DATABASE prop_from SET "app.Key" = 'a, ''b'' \\ "c"';
ALTER DATABASE prop_from SET work_mem = '65536';
ALTER DATABASE prop_from SET DateStyle = 'ISO', 'DMY';
ALTER DATABASE prop_from SET session_preload_libraries = auto_explain, "a b";
ALTER DATABASE prop_from SET statement_timeout = 1;
ALTER DATABASE prop_from SET role = 'prop_app';
ALTER ROLE prop_app IN DATABASE prop_from SET search_path = '';
ALTER ROLE prop_app IN DATABASE prop_from SET temp_tablespaces = 'x,y', z;
ALTER DATABASE prop_to SET search_path = gone;
ALTER DATABASE prop_to SET log_statement = 'all';
ALTER DATABASE prop_to SET default_transaction_read_only = on;
GRANT CREATE ON DATABASE prop_to TO prop_app;
"""


@pytest.fixture
def admin(server: servers.Server) -> Iterator[Connection]:
    """A connection to a server with two databases: one has every property, the other has others."""
    with closing(connect(server.target())) as connection:
        for role in ROLES:
            connection.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role)))
        for database in ("prop_from", "prop_to"):
            connection.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(database))
            )
        connection.execute(SOURCE.encode())
        yield connection
        for database in ("prop_from", "prop_to"):
            connection.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(database)))
        for role in ROLES:
            connection.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


@pytest.fixture
def wanted(admin: Connection) -> DatabaseProperties:
    return properties.read(admin, "prop_from")


def test_every_property_is_read_as_a_value(wanted: DatabaseProperties) -> None:
    assert wanted.owner == "prop_owner"
    assert (wanted.encoding, wanted.tablespace, wanted.is_template) == ("UTF8", "pg_default", False)
    assert wanted.connection_limit == 7
    assert wanted.comment == 'it\'s "quoted" \\ and ünïcode'
    assert wanted.grants == (
        '"prop ""Ünder=/"" x"=CONNECT/prop_app',
        "prop_app=CONNECT*,TEMPORARY/prop_owner",
        "prop_owner=CONNECT,TEMPORARY/prop_owner",
    )
    assert wanted.settings == (
        ("", "DateStyle", "ISO, DMY"),
        ("", "app.Key", "a, 'b' \\ \"c\""),
        ("", "role", "prop_app"),
        ("", "search_path", 'app, "$user", "we, ird", public'),
        ("", "session_preload_libraries", 'auto_explain, "a b"'),
        ("", "statement_timeout", "1"),
        ("", "work_mem", "65536"),
        ("prop_app", "search_path", '""'),
        ("prop_app", "temp_tablespaces", '"x,y", z'),
    )


def test_properties_applied_to_another_database_are_exactly_the_same(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    assert properties.apply(admin, "prop_to", wanted) == []
    found = properties.read(admin, "prop_to")
    assert properties.compare(wanted, found) == []
    read_only = ("", "default_transaction_read_only", "on")
    assert replace(found, settings=tuple(s for s in found.settings if s != read_only)) == wanted
    assert read_only in found.settings  # neither carried over nor taken away


def test_a_new_session_sees_both_schemas_of_the_search_path(
    admin: Connection, wanted: DatabaseProperties, server: servers.Server
) -> None:
    plain = replace(
        wanted, settings=tuple(s for s in wanted.settings if s[1] == "search_path"), connection_limit=-1
    )
    properties.apply(admin, "prop_to", plain)
    with closing(connect(server.target("prop_to"))) as connection:
        connection.execute("CREATE SCHEMA app; RESET search_path")
        row = connection.execute("SELECT current_schemas(false)").fetchone()
    assert row == (["app", "public"],)


def test_applying_changes_nothing_in_the_session_that_does_it(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    question = "SELECT name, setting FROM pg_settings ORDER BY name"
    before = admin.execute(question).fetchall()
    properties.apply(admin, "prop_to", wanted)
    assert admin.execute(question).fetchall() == before


def test_a_read_only_default_is_never_carried_over_and_said_so(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    fenced = replace(wanted, settings=(("", "default_transaction_read_only", "on"),))
    admin.execute("ALTER DATABASE prop_to RESET default_transaction_read_only")
    (left,) = properties.apply(admin, "prop_to", fenced)
    assert str(left).startswith("the setting default_transaction_read_only: it is never carried over")
    assert properties.read(admin, "prop_to").settings == ()
    assert properties.compare(fenced, properties.read(admin, "prop_to")) == []


def test_what_the_server_refuses_is_told_and_costs_nothing_else(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    impossible = replace(
        wanted,
        owner="nobody",
        encoding="LATIN1",
        is_template=True,
        grants=tuple(grant.replace("prop_owner", "nobody") for grant in wanted.grants),
        settings=(*wanted.settings, ("nobody", "work_mem", "1MB"), ("", "max_connections", "5")),
        security_labels=(("nobody", "x"),),
    )
    told = {left.what: left.reason for left in properties.apply(admin, "prop_to", impossible)}
    assert told == {
        "the owner": 'role "nobody" does not exist',
        "the grants": "they are not all as they were",
        "the setting work_mem of role nobody": 'role "nobody" does not exist',
        "the setting max_connections": 'parameter "max_connections" cannot be changed without restarting the server',
        "the security label of nobody": 'security label provider "nobody" is not loaded',
        "the encoding": "it is 'UTF8', not 'LATIN1', and is chosen when a database is made",
        "the mark as a template": "it would let everybody copy the database",
    }
    found = properties.read(admin, "prop_to")
    assert found.comment == wanted.comment
    assert "prop_app=CONNECT*,TEMPORARY/postgres" in found.grants
    assert '"prop ""Ünder=/"" x"=CONNECT/prop_app' in found.grants
    assert ("", "search_path", 'app, "$user", "we, ird", public') in found.settings


def test_a_value_that_no_statement_stores_is_told_and_leaves_what_was_there(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    admin.execute("ALTER DATABASE prop_to SET temp_tablespaces = gone")
    odd = replace(wanted, settings=(("", "temp_tablespaces", "a,b"), ("", "work_mem", "65536")))
    (left,) = properties.apply(admin, "prop_to", odd)
    assert left.what == "the setting temp_tablespaces"
    found = properties.read(admin, "prop_to").settings
    assert ("", "temp_tablespaces", "gone") in found
    assert ("", "work_mem", "65536") in found


def test_a_refused_statement_does_not_bring_the_other_values_into_the_log_of_the_server(
    admin: Connection, wanted: DatabaseProperties, server: servers.Server
) -> None:
    impossible = replace(
        wanted,
        settings=(("", "app.secret", "never" + "-logged"), ("nobody", "work_mem", "1MB")),
        comment="said",
    )
    (left,) = properties.apply(admin, "prop_to", impossible)
    assert left.what == "the setting work_mem of role nobody"
    log = server.log.read_text(encoding="utf-8", errors="replace")
    assert 'ALTER ROLE "nobody" IN DATABASE "prop_to"' in log
    assert "never-logged" not in log


def test_the_owner_without_superuser_applies_what_is_its_own(
    admin: Connection, wanted: DatabaseProperties
) -> None:
    admin.execute("ALTER DATABASE prop_to OWNER TO prop_owner")
    own = replace(
        wanted,
        grants=("prop_app=CONNECT/prop_owner", "prop_owner=CREATE,CONNECT/prop_owner"),
        settings=(
            ("", "search_path", "a, b"),
            ("", "work_mem", "1MB"),
            ("", "session_preload_libraries", "x"),
        ),
    )
    admin.execute("ALTER DATABASE prop_to RESET ALL; SET ROLE prop_owner")
    told = [str(left) for left in properties.apply(admin, "prop_to", own)]
    admin.execute("RESET ROLE")
    assert told == [
        'the setting session_preload_libraries: permission denied to set parameter "session_preload_libraries"'
    ]
    assert properties.compare(own, properties.read(admin, "prop_to")) == [
        "the setting session_preload_libraries is missing"
    ]


def test_each_difference_is_a_sentence_that_names_it(wanted: DatabaseProperties) -> None:
    other = replace(
        wanted,
        owner="x",
        locale="y",
        comment="",
        grants=(*wanted.grants[1:], "PUBLIC=CONNECT/prop_owner"),
        settings=(*wanted.settings[2:], ("", "app.Key", "canary"), ("x", "more", "1")),
        security_labels=(("a", "b"),),
        collation_version="2.99",
        is_template=True,
    )
    sentences = properties.compare(wanted, other)
    assert sentences == [
        "the owner is 'x', not 'prop_owner'",
        f"the locale is 'y', not {wanted.locale!r}",
        f"the comment is '', not {wanted.comment!r}",
        'the grant "prop ""Ünder=/"" x"=CONNECT/prop_app is missing',
        "the grant PUBLIC=CONNECT/prop_owner is too much",
        "the setting DateStyle is missing",
        "the setting app.Key has another value",
        "the setting more of role x is too much",
        "the security labels differ",
    ]


def test_a_database_that_is_not_there_is_an_error(admin: Connection, wanted: DatabaseProperties) -> None:
    with pytest.raises(OpsError, match="there is no database 'prop_none'"):
        properties.apply(admin, "prop_none", wanted)


def test_roles_come_with_attributes_settings_and_memberships_but_no_password(admin: Connection) -> None:
    admin.execute(
        "ALTER ROLE prop_app LOGIN CREATEDB NOINHERIT PASSWORD 'canary' VALID UNTIL '2031-05-06 07:08:09+02'"
        " CONNECTION LIMIT 3;"
        "ALTER ROLE prop_app SET search_path = q, r;"
        "COMMENT ON ROLE prop_app IS 'the app';"
        "GRANT prop_owner TO prop_app WITH ADMIN OPTION;"
        "GRANT pg_monitor TO prop_app WITH INHERIT FALSE, SET FALSE"
    )
    roles = {role.name: role for role in properties.roles(admin)}
    app = roles["prop_app"]
    assert (app.login, app.createdb, app.inherit, app.superuser, app.connection_limit) == (
        True,
        True,
        False,
        False,
        3,
    )
    assert app.valid_until == "2031-05-06 05:08:09+00"
    assert app.settings == (("search_path", "q, r"),)
    assert app.comment == "the app"
    assert app.memberships == (
        Membership("pg_monitor", admin=False, inherit=False, set=False, grantor="postgres"),
        Membership("prop_owner", admin=True, inherit=False, set=True, grantor="postgres"),
    )
    assert roles["postgres"].superuser
    assert not [name for name in roles if name.startswith("pg_")]
    assert "canary" not in repr(roles)


def test_extensions_come_with_version_and_schema(server: servers.Server, admin: Connection) -> None:
    with closing(connect(server.target("prop_to"), settings={"default_transaction_read_only": "off"})) as own:
        own.execute("CREATE SCHEMA ext; CREATE EXTENSION citext SCHEMA ext VERSION '1.4'")
        assert properties.extensions(own) == (
            Extension("citext", "1.4", "ext"),
            Extension("plpgsql", "1.0", "pg_catalog"),
        )


def test_an_older_server_has_the_same_properties_as_far_as_it_knows_them(older_server: Target) -> None:
    with closing(connect(older_server)) as connection:
        own = properties.read(connection)
        roles = properties.roles(connection)
    assert (own.owner, own.encoding, own.icu_rules) == ("postgres", "UTF8", "")
    assert own.grants == (
        "PUBLIC=CONNECT,TEMPORARY/postgres",
        "postgres=CREATE,CONNECT,TEMPORARY/postgres",
    )
    assert "postgres" in {role.name for role in roles}
