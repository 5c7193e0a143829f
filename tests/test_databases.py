"""Databases and roles that are made for a proof: like the source's, refused by name if that can't be, and gone again."""

from __future__ import annotations

import dataclasses
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, proof_roles, properties, session, switch
from polyladder_ops.postgres.databases import LocaleMissing
from polyladder_ops.sandbox import place
from tests.conftest import numbers, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import DatabaseProperties, Role
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.sandbox.server import Server


@contextmanager
def connected(target: Target) -> Iterator[Connection]:
    with closing(session.connect(target)) as connection:
        yield connection


def names(target: Target) -> set[str]:
    return set(session.database_sizes(target))


def like(target: Target, **changes: object) -> DatabaseProperties:
    with connected(target) as connection:
        return dataclasses.replace(properties.read(connection), **changes)  # type: ignore[arg-type]


def roles(target: Target) -> dict[str, Role]:
    with connected(target) as connection:
        return {role.name: role for role in properties.roles(connection)}


ENCODINGS = {
    "latin1": {"encoding": "LATIN1", "locale_provider": "libc", "locale": "", "collate": "C", "ctype": "C"},
    "libc": {"locale_provider": "libc", "locale": "", "collate": "C.UTF-8", "ctype": "C.UTF-8"},
    "builtin": {"locale_provider": "builtin", "locale": "C", "collate": "C", "ctype": "C"},
}


@pytest.mark.parametrize("kind", ENCODINGS)
def test_a_database_is_made_with_encoding_and_locale_of_its_source(kind: str, server: Server) -> None:
    wanted = like(server.target(), **ENCODINGS[kind])
    name = databases.temporary_name("test")
    with connected(server.target()) as connection:
        databases.create(connection, name, wanted)
        switch.let_in(connection, name)
    with connected(server.target(name)) as connection:
        made = properties.read(connection)
    databases.drop(server.target(), name)
    assert [getattr(made, field) for field in ENCODINGS[kind]] == list(ENCODINGS[kind].values())
    assert name not in names(server.target())


MISSING = {
    "a locale": ({"locale_provider": "libc", "collate": "xx_XX.utf8", "ctype": "xx_XX.utf8", "locale": ""}, "xx_XX"),
    "ICU": ({"locale_provider": "icu", "locale": "de-DE"}, "ICU is not supported in this build"),
    "an encoding of that locale": ({"encoding": "LATIN1"}, "LATIN1"),
}  # fmt: skip


@pytest.mark.parametrize("what", MISSING)
def test_what_the_server_lacks_is_named(what: str, server: Server) -> None:
    changes, said = MISSING[what]
    before = names(server.target())
    with connected(server.target()) as connection, pytest.raises(LocaleMissing) as caught:
        databases.create(connection, "never", like(server.target(), **changes))
    assert said in caught.value.detail
    assert names(server.target()) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"locale_provider": "builtin", "locale": "C"}, "the locale provider builtin came with 17"),
        ({"locale_provider": "icu", "locale": "de", "icu_rules": "&a < b"}, "the locale provider icu with rules came with 16"),
    ],
)  # fmt: skip
def test_an_older_server_is_told_what_came_later(
    changes: dict[str, str], said: str, older_server: Target
) -> None:
    with connected(older_server) as connection:
        if connection.info.server_version >= 160000:
            pytest.skip("this older server knows ICU rules")
        with pytest.raises(LocaleMissing) as caught:
            databases.create(connection, "never", like(older_server, **changes))
    assert caught.value.detail == f"It is PostgreSQL 15, and {said}."


def test_a_database_goes_into_the_tablespace_of_its_source_if_that_is_there(server: Server) -> None:
    name = databases.temporary_name("test")
    with connected(server.target()) as connection:
        connection.execute(b"SET allow_in_place_tablespaces = on")
        connection.execute(b"CREATE TABLESPACE fast LOCATION ''")
        databases.create(connection, name, like(server.target(), tablespace="fast"))
        switch.let_in(connection, name)
        assert "fast" in databases.tablespaces(connection)
    with connected(server.target(name)) as connection:
        made = properties.read(connection).tablespace
    databases.drop(server.target(), name)
    with connected(server.target()) as connection:
        connection.execute(b"DROP TABLESPACE fast")
        databases.create(connection, name, like(server.target(), tablespace="fast"))
    databases.drop(server.target(), name)
    assert made == "fast"


@pytest.mark.parametrize(
    ("rights", "hint"), [("NOCREATEDB", "The role needs CREATEDB"), ("CREATEDB", "Run `invoke doctor`.")]
)
def test_createdb_is_named_only_where_that_is_what_the_role_lacks(
    rights: str, hint: str, server: Server
) -> None:
    """The server refuses a tablespace of somebody else's by the same SQLSTATE."""
    admin, name = server.target(), databases.temporary_name("test")
    run(admin, f"CREATE ROLE tester LOGIN PASSWORD 'x' {rights}")
    with connected(admin) as connection:
        connection.execute(b"SET allow_in_place_tablespaces = on")
        connection.execute(b"CREATE TABLESPACE fast LOCATION ''")
    tester = type(admin).of(**{**admin.parameters, "user": "tester", "password": "x"})
    with connected(tester) as connection, pytest.raises(OpsError) as caught:
        databases.create(connection, name, like(admin, tablespace="fast"))
    for statement in ("DROP TABLESPACE fast", "DROP ROLE tester"):
        run(admin, statement)
    assert "permission denied" in caught.value.detail
    assert caught.value.hint.startswith(hint)


def test_one_question_tells_the_same_of_event_triggers_and_a_locale_as_trying_them(
    server: Server, older_server: Target
) -> None:
    admin = server.target()
    for role in ("plain", "quiet"):
        run(admin, "CREATE ROLE %I LOGIN PASSWORD 'x'", role)
    run(admin, "GRANT SET ON PARAMETER event_triggers TO %I", "quiet")
    poor = [type(admin).of(**{**admin.parameters, "user": r, "password": "x"}) for r in ("plain", "quiet")]
    told = []
    for target in (admin, *poor, older_server):
        for locale in ("C", "xx_XX.utf8"):
            with connected(target) as connection:
                told.append(databases.can_read_as(connection, locale))
            with connected(target) as connection:
                tried = {"event_triggers": "off", "lc_monetary": locale}
                assert told[-1] == tuple(databases.takes_setting(connection, *one) for one in tried.items())
    run(admin, "DROP OWNED BY plain, quiet")
    run(admin, "DROP ROLE plain, quiet")
    assert told[:6] == [(quiet, known) for quiet in (True, False, True) for known in (True, False)]


def test_a_name_that_is_taken_is_refused(server: Server, database: Target) -> None:
    with connected(server.target()) as connection, pytest.raises(OpsError, match="there is a database"):
        databases.create(connection, database.database, like(server.target()))


def test_a_new_database_is_closed_and_when_it_is_opened_ours_alone(server: Server) -> None:
    name, stranger = databases.temporary_name("test"), f"stranger_{next(numbers)}"
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", stranger)
    theirs = server.target(name).of(**{**server.target(name).parameters, "user": stranger, "password": "x"})
    with connected(server.target()) as connection:
        databases.create(connection, name, like(server.target(), owner="postgres"))
        with pytest.raises(OpsError, match="could not connect") as caught:
            session.connect(server.target(name))
        assert "not currently accepting connections" in caught.value.detail
        switch.let_in(connection, name)
        assert properties.read(connection, name).grants == ("postgres=CREATE,CONNECT,TEMPORARY/postgres",)
    with pytest.raises(OpsError, match="could not connect") as caught:
        session.connect(theirs)
    assert f'permission denied for database "{name}"' in caught.value.detail
    databases.drop(server.target(), name)
    run(server.target(), "DROP ROLE %I", stranger)


def test_who_may_not_make_databases_hears_what_is_missing(server: Server) -> None:
    run(server.target(), "CREATE ROLE %I LOGIN PASSWORD 'x'", "poor")
    poor = type(server.target()).of(**{**server.target().parameters, "user": "poor", "password": "x"})
    with connected(poor) as connection, pytest.raises(OpsError, match="could not create") as caught:
        databases.create(connection, "never", like(server.target()))
    run(server.target(), "DROP ROLE %I", "poor")
    assert caught.value.hint == "The role needs CREATEDB (or superuser) on that server."


def test_a_database_is_dropped_under_its_users_and_twice(server: Server, database: Target) -> None:
    with connected(database):
        databases.drop(server.target(), database.database)
        databases.drop(server.target(), database.database)
    assert database.database not in names(server.target())


def test_a_subscription_goes_with_its_database_without_a_word_to_its_publisher(
    server: Server, database: Target
) -> None:
    """The slot there belongs to the database that was dumped. Dropped the usual way, ours would ask to drop that too."""
    with connected(database) as connection:
        connection.execute(
            f"CREATE SUBSCRIPTION copied CONNECTION 'host=127.0.0.1 port={place.free_port()} dbname=x' PUBLICATION p"
            " WITH (connect = false, slot_name = 'live')".encode()
        )
    databases.drop(server.target(), database.database)
    assert database.database not in names(server.target())


# What killed runs leave ----------------------------------------------------------------------------------------------


def test_a_database_that_nobody_holds_any_more_is_dropped_by_the_next_proof(server: Server) -> None:
    dead, alive = databases.temporary_name("verify"), databases.temporary_name("verify")
    similar = databases.temporary_name("verify")[:-1] + "g"
    unsealed = "polyladder_verify_0123456789abcdef"
    for name in (dead, alive, similar, unsealed):
        run(server.target(), "CREATE DATABASE %I TEMPLATE template0", name)
    with databases.locked(server.target(), alive):
        assert databases.drop_abandoned(server.target()) == [dead]
        assert names(server.target()) >= {alive, similar, unsealed}
    assert databases.drop_abandoned(server.target()) == [alive]
    for name in (similar, unsealed):
        databases.drop(server.target(), name)


def test_names_for_proofs_differ_and_fit(server: Server) -> None:
    made = {databases.temporary_name("verify") for _ in range(100)}
    assert len(made) == 100
    assert all(len(name) < 63 for name in made)


def test_missing_roles_are_made_without_login_and_only_those_are_dropped(server: Server) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    run(target, "CREATE ROLE %I LOGIN CREATEDB", f"{name}_there")
    there = roles(target)[f"{name}_there"]
    wanted = [
        there,
        dataclasses.replace(there, name=f"{name} Ü", superuser=True, bypassrls=True, replication=True),
        dataclasses.replace(there, name=f"{name}_plain"),
    ]
    with connected(target) as connection:
        made = proof_roles.make(connection, wanted, superusers=False)
        assert made == (f"{name} Ü", f"{name}_plain")
        found = roles(target)
        assert {
            (found[n].login, found[n].superuser, found[n].createdb, found[n].bypassrls) for n in made
        } == {(False, False, False, False)}
        proof_roles.drop(connection, made)
    assert {n for n in roles(target) if n.startswith(name)} == {f"{name}_there"}
    assert roles(target)[f"{name}_there"] == there
    run(target, "DROP ROLE %I", f"{name}_there")


def test_on_our_own_server_missing_superusers_become_superusers_without_login(server: Server) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    wanted = dataclasses.replace(roles(target)["postgres"], name=name)
    with connected(target) as connection:
        made = proof_roles.make(connection, [wanted], superusers=True)
        found = roles(target)[name]
        proof_roles.drop(connection, made)
    assert (found.superuser, found.login) == (True, False)


def test_roles_are_made_all_or_none(server: Server) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    one = dataclasses.replace(roles(target)["postgres"], name=name)
    with connected(target) as connection, pytest.raises(OpsError, match="could not make the roles"):
        proof_roles.make(connection, [one, dataclasses.replace(one, name="pg_reserved")], superusers=False)
    assert name not in roles(target)


def test_a_role_of_a_killed_proof_is_dropped_by_the_next(server: Server) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    wanted = dataclasses.replace(roles(target)["postgres"], name=name)
    with connected(target) as connection:
        proof_roles.make(connection, [wanted], superusers=False)
        again = proof_roles.make(connection, [wanted], superusers=False)
        assert again == (name,)
        proof_roles.drop(connection, again)
    assert name not in roles(target)


def test_a_role_that_proofs_share_is_dropped_by_the_last_of_them(server: Server) -> None:
    """The first one to end dropped it while the other had nothing yet that belonged to it."""
    target, names = server.target(), [f"r{next(numbers)}", f"r{next(numbers)}"]
    wanted = [dataclasses.replace(roles(target)["postgres"], name=name) for name in names]
    with connected(target) as first, connected(target) as second, connected(target) as cleaning:
        for connection, its in ((first, wanted), (second, wanted[1:])):
            proof_roles.share(connection)
            proof_roles.make(connection, its, superusers=False)
        first.close()
        proof_roles.drop(cleaning, names)
        assert set(names) <= set(roles(target))
        second.close()
        proof_roles.drop(cleaning, names[1:])
    assert not set(names) & set(roles(target))


def test_what_a_killed_proof_left_is_dropped_by_one_that_needs_other_roles(server: Server) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    with connected(target) as connection:
        wanted = dataclasses.replace(roles(target)["postgres"], name=name)
        proof_roles.make(connection, [wanted], superusers=False)  # and is killed
        proof_roles.drop(connection, [])
    assert name not in roles(target)


def test_a_role_that_another_proof_uses_is_left_for_that_to_drop(server: Server, database: Target) -> None:
    target, name = server.target(), f"r{next(numbers)}"
    wanted = dataclasses.replace(roles(target)["postgres"], name=name)
    with connected(target) as connection:
        made = proof_roles.make(connection, [wanted], superusers=False)
        run(database, "CREATE SCHEMA theirs AUTHORIZATION %I", name)
        proof_roles.drop(connection, made)
        assert name in roles(target)
        databases.drop(target, database.database)
        proof_roles.drop(connection, made)
    assert name not in roles(target)
