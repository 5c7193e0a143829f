"""Roles made from a manifest on a server that lacks them: equal but for passwords, and what could not be given is named."""

from __future__ import annotations

import dataclasses
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.errors import OpsError
from polyladder_ops.postgres import databases, leftovers, locks, properties, role_marks, roles, session
from polyladder_ops.postgres.properties import Membership
from tests.conftest import numbers, run
from tests.factories import role

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.leftovers import Leftover
    from polyladder_ops.postgres.properties import Role
    from polyladder_ops.sandbox.server import Server


def there(target: Target) -> dict[str, Role]:
    with closing(session.connect(target)) as connection:
        return {one.name: one for one in properties.roles(connection)}


def make(target: Target, *wanted: Role, live: str = "shop") -> tuple[tuple[str, ...], list[str]]:
    """Make them, and finish them as a switch does."""
    with closing(session.connect(target)) as connection:
        made, lacking = roles.create_missing(connection, wanted, live)
        roles.finish(connection, wanted, made)
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


# Of a restore that died ------------------------------------------------------------------------------------------------


def half_made(target: Target, *wanted: Role) -> str:
    """Make roles as a restore does that dies before its switch; return the database that it was for."""
    live = f"shop_{next(numbers)}"
    with closing(session.connect(target)) as connection:
        roles.create_missing(connection, wanted, live)
    return live


def left(target: Target, live: str) -> list[Leftover]:
    with closing(session.connect(target)) as connection:
        return [one for one in leftovers.find(connection, live) if one.role]


def settled(server: Server, live: str) -> tuple[str, ...]:
    with locks.exclusive(server.target(), live, doing="abort") as connection:
        return leftovers.settle(connection, server.target(), live)


def test_those_of_a_restore_that_died_can_not_log_in_are_named_and_go(server: Server, prefix: str) -> None:
    live = half_made(server.target(), *family(prefix))
    names = sorted(one.name for one in family(prefix))
    assert not any(there(server.target())[name].login for name in names)
    found = left(server.target(), "any")
    assert [(one.name, one.live, one.is_used) for one in found] == [
        (f"the role {name}", live, False) for name in names
    ]
    assert settled(server, "any") == ()
    assert settled(server, live) == tuple(f"dropped the role {name}" for name in names)
    assert not there(server.target()).keys() & set(names)


def test_those_of_a_restore_that_lives_are_no_leftover_and_stay(server: Server, prefix: str) -> None:
    live = half_made(server.target(), *family(prefix))
    with locks.exclusive(server.target(), live, doing="restore"):
        assert left(server.target(), live) == []
        assert settled(server, "any") == ()
    assert len(settled(server, live)) == 4


USES = {
    "a login": "ALTER ROLE %I LOGIN",
    "a limit": "ALTER ROLE %I CONNECTION LIMIT 3",
    "a setting": "ALTER ROLE %I SET work_mem = '8MB'",
    "a setting in a database": "ALTER ROLE %I IN DATABASE postgres SET work_mem = '8MB'",
    "a member": "GRANT %I TO pg_monitor",
    "a group": "GRANT pg_monitor TO %I",
    "a password": "ALTER ROLE %I PASSWORD 'x'",
    "a grant": "GRANT CREATE ON DATABASE postgres TO %I",
    "a table": "CREATE TABLE public.theirs AS SELECT 1 AS a; ALTER TABLE public.theirs OWNER TO %I",
}


@pytest.mark.parametrize("use", USES)
def test_one_that_somebody_has_taken_into_use_since_stays_with_its_own_comment(
    use: str, server: Server, prefix: str
) -> None:
    wanted = role(f"{prefix}app", comment="the app's own", memberships=())
    live = half_made(server.target(), wanted)
    for statement in USES[use].split("; "):
        run(server.target(), statement, *([wanted.name] if "%I" in statement else []))
    (found,) = left(server.target(), live)
    assert "somebody has taken it into use, so it stays" in found.detail
    (said,) = settled(server, live)
    assert said.startswith(f"left the role {wanted.name}, made without LOGIN, to who has taken it into use (")
    assert there(server.target())[wanted.name].comment == "the app's own"
    assert (left(server.target(), live), settled(server, live)) == ([], ())
    run(server.target(), "ALTER ROLE %I IN DATABASE postgres RESET ALL", wanted.name)
    run(server.target(), "DROP OWNED BY %I", wanted.name)


def test_the_groups_of_one_in_use_stay_with_it(server: Server, prefix: str) -> None:
    live = half_made(server.target(), *family(prefix))
    run(server.target(), "ALTER ROLE %I LOGIN", f"{prefix}app")
    settled(server, live)
    kept = {name for name in there(server.target()) if name.startswith(prefix)}
    assert kept == {f"{prefix}app", f"{prefix}readers", f"{prefix}writers"}


def test_who_is_no_superuser_finds_and_drops_those_that_it_made(
    server: Server, prefix: str, creator: Callable[[str], Target]
) -> None:
    ours = creator("CREATEROLE CREATEDB")
    live = half_made(ours, *(one for one in family(prefix) if not one.superuser))
    with closing(session.connect(creator("CREATEROLE"))) as other:
        assert (len(role_marks.find(other)), role_marks.drop_unused(other, live)) == (3, ())
    with closing(session.connect(ours)) as connection:
        assert len(role_marks.drop_unused(connection, live)) == 3
    assert left(server.target(), live) == []


def test_a_restore_that_needs_what_a_dead_one_made_takes_it_over(server: Server, prefix: str) -> None:
    wanted = family(prefix)
    half_made(server.target(), *wanted)
    assert make(server.target(), *wanted, live="another") == ((), [])
    assert [there(server.target())[one.name] for one in wanted] == list(wanted)
    assert left(server.target(), "any") == []


def test_one_that_a_living_restore_needs_in_its_copy_stays_and_keeps_its_mark(
    server: Server, prefix: str
) -> None:
    wanted = role(f"{prefix}app", memberships=())
    live, copy = half_made(server.target(), wanted), databases.temporary_name("beside")
    with databases.locked(server.target(), copy):
        run(server.target(), "CREATE DATABASE %I TEMPLATE template0", copy)
        run(server.target(copy), "CREATE TABLE public.deck ()")
        run(server.target(copy), "ALTER TABLE public.deck OWNER TO %I", wanted.name)
        assert settled(server, live) == ()
        assert role_marks.is_mark(there(server.target())[wanted.name].comment)
    databases.drop(server.target(), copy)
    assert settled(server, live) == (f"dropped the role {wanted.name}",)


def test_a_mark_that_a_backup_holds_as_a_comment_is_none(server: Server, prefix: str) -> None:
    plain = role(f"{prefix}plain", memberships=())
    live = half_made(server.target(), plain)
    seen = there(server.target())[plain.name]
    assert role_marks.is_mark(seen.comment)
    settled(server, live)
    make(server.target(), seen)
    assert there(server.target())[plain.name].comment == ""


def test_an_older_server_knows_them_too(older_server: Target, prefix: str) -> None:
    live = half_made(older_server, role(f"{prefix}plain", memberships=()))
    with closing(session.connect(older_server)) as connection:
        assert [(one.live, one.use) for one in role_marks.find(connection)] == [(live, "")]
        assert role_marks.drop_unused(connection, live) == (f"dropped the role {prefix}plain",)
