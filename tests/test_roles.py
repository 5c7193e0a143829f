"""Roles made from a manifest on a server that lacks them: equal but for passwords, and what could not be given is named."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import properties, roles, session
from polyladder_ops.postgres.properties import Membership
from tests.conftest import numbers, run
from tests.factories import role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.properties import Role
    from polyladder_ops.sandbox.server import Server


def there(target: Target) -> dict[str, Role]:
    with closing(session.connect(target)) as connection:
        return {one.name: one for one in properties.roles(connection)}


def make(target: Target, *wanted: Role) -> tuple[tuple[str, ...], list[str]]:
    with closing(session.connect(target)) as connection:
        made, lacking = roles.create_missing(connection, wanted)
    return made, [str(one) for one in lacking]


@pytest.fixture
def prefix(server: Server) -> Iterator[str]:
    """The beginning of the names of this test's roles, which are gone after it."""
    name = f"Rollen {next(numbers)} "
    yield name
    for made in reversed([one for one in there(server.target()) if one.startswith(name)]):
        run(server.target(), "DROP ROLE %I", made)


@pytest.fixture
def creator(server: Server) -> Iterator[Callable[[str], Target]]:
    """A call that makes a login with these attributes."""
    made = []

    def login(attributes: str) -> Target:
        name = f"roles_{next(numbers)}"
        run(server.target(), f"CREATE ROLE %I LOGIN PASSWORD 'x' {attributes}", name)
        made.append(name)
        return server.target().of(**{**server.target().parameters, "user": name, "password": "x"})

    yield login
    for name in made:
        run(server.target(), "DROP OWNED BY %I", name)
        run(server.target(), "DROP ROLE %I", name)


def member(of: str, *, admin: bool = False, inherit: bool = True, grantor: str = "postgres") -> Membership:
    return Membership(of, admin=admin, inherit=inherit, set=True, grantor=grantor)


def family(prefix: str) -> Sequence[Role]:
    """Return roles with everything that a role can have, the groups not before their members."""
    return (
        role(
            f"{prefix}app",
            connection_limit=7,
            valid_until="2031-01-05 02:00:00+00",
            settings=(("search_path", 'learning, public, "Büro"'), ("statement_timeout", "15s")),
            comment="the app's \"own\"\nrole",
            memberships=(member(f"{prefix}readers", inherit=False), member(f"{prefix}writers", admin=True), member("pg_monitor")),
        ),
        role(f"{prefix}boss", superuser=True, createrole=True, createdb=True, replication=True, bypassrls=True, memberships=()),
        role(f"{prefix}readers", login=False, inherit=False, memberships=()),
        role(f"{prefix}writers", login=False, memberships=()),
    )  # fmt: skip


def test_a_superuser_makes_them_as_they_were(server: Server, prefix: str) -> None:
    wanted = family(prefix)
    made, lacking = make(server.target(), *wanted)
    assert made == tuple(one.name for one in wanted)
    assert lacking == []
    found = there(server.target())
    assert [found[one.name] for one in wanted] == list(wanted)


def test_nobody_can_log_in_as_one_by_a_password(server: Server, prefix: str) -> None:
    made, _ = make(server.target(), *family(prefix))
    with closing(session.connect(server.target())) as connection:
        rows = connection.execute(
            "SELECT rolname FROM pg_authid WHERE rolname = ANY (%s) AND rolpassword IS NOT NULL", [list(made)]
        ).fetchall()
    assert rows == []


def test_the_second_time_there_is_nothing_to_make(server: Server, prefix: str) -> None:
    wanted = family(prefix)
    make(server.target(), *wanted)
    before = there(server.target())
    assert make(server.target(), *wanted) == ((), [])
    assert there(server.target()) == before


def test_a_role_that_is_there_is_left_as_it_is_and_what_it_was_a_member_of_is_named(
    server: Server, prefix: str
) -> None:
    run(server.target(), "CREATE ROLE %I NOLOGIN", f"{prefix}app")
    before = there(server.target())[f"{prefix}app"]
    made, lacking = make(server.target(), *family(prefix))
    assert f"{prefix}app" not in made
    assert there(server.target())[f"{prefix}app"] == before
    assert lacking == [
        f"the membership of {prefix}app in {name}: {prefix}app was there already and is left as it is"
        for name in (f"{prefix}readers", f"{prefix}writers")
    ]


def test_who_is_no_superuser_makes_what_it_may_and_names_what_it_may_not(
    server: Server, prefix: str, creator: Callable[[str], Target]
) -> None:
    wanted = family(prefix)
    made, lacking = make(creator("CREATEROLE CREATEDB"), *wanted)
    assert made == tuple(one.name for one in wanted)
    found = there(server.target())
    boss = found[f"{prefix}boss"]
    assert (boss.superuser, boss.replication, boss.bypassrls) == (False, False, False)
    assert (boss.createrole, boss.createdb) == (True, True)
    app, source = found[f"{prefix}app"], wanted[0]
    for field in ("connection_limit", "valid_until", "settings", "comment", "login", "inherit"):
        assert getattr(app, field) == getattr(source, field), field
    assert {m.role for m in app.memberships} == {f"{prefix}readers", f"{prefix}writers"}
    assert len(lacking) == 4
    for attribute in ("BYPASSRLS", "REPLICATION", "SUPERUSER"):
        assert f"{attribute} of role {prefix}boss: only a superuser can give it" in lacking
    assert any(
        said.startswith(f"a membership of role {prefix}app: ") and "pg_monitor" in said for said in lacking
    )


def test_one_that_can_not_be_made_is_an_error_and_none_is_made(
    server: Server, prefix: str, creator: Callable[[str], Target]
) -> None:
    plain = role(f"{prefix}plain", memberships=())
    with pytest.raises(OpsError, match="could not make the missing roles") as caught:
        make(creator(""), plain)
    assert "permission denied to create role" in caught.value.detail
    with pytest.raises(OpsError, match="could not make the missing roles"):
        make(server.target(), plain, dataclasses.replace(plain, name="pg_reserved"))
    assert plain.name not in there(server.target())


def test_a_setting_that_the_server_does_not_know_is_named_and_the_role_is_made(
    server: Server, prefix: str
) -> None:
    wanted = role(f"{prefix}app", settings=(("nonsense", "on"), ("work_mem", "8MB")), memberships=())
    made, lacking = make(server.target(), wanted)
    assert made == (wanted.name,)
    assert lacking == [
        f'the setting nonsense of role {wanted.name}: unrecognized configuration parameter "nonsense"'
    ]
    assert there(server.target())[wanted.name].settings == (("work_mem", "8MB"),)


def test_a_role_of_another_major_gets_its_memberships(
    older_server: Target, prefix: str, server: Server
) -> None:
    """Before PostgreSQL 16 a membership had no options of its own."""
    wanted = [dataclasses.replace(one, memberships=tuple(
        dataclasses.replace(m, inherit=None, set=None) for m in one.memberships)) for one in family(prefix)]  # fmt: skip
    made, lacking = make(older_server, *wanted)
    found = there(older_server)
    for name in reversed(made):
        run(older_server, "DROP ROLE %I", name)
    assert lacking == []
    assert found[f"{prefix}app"] == wanted[0]
    make(server.target(), *wanted)
    assert {(m.role, m.admin) for m in there(server.target())[f"{prefix}app"].memberships} == {
        (m.role, m.admin) for m in wanted[0].memberships
    }
