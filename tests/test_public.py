"""The schema public becomes what the client of a dump expects, as far as the server lets us, in a transaction and without."""

from __future__ import annotations

import contextlib
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.postgres import public, session
from tests.conftest import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection

OWNER = "public_owner"


@pytest.fixture(autouse=True)
def owner(database: Target) -> Iterator[None]:
    run(database, "CREATE ROLE %I", OWNER)
    yield
    run(database, "DROP OWNED BY %I", OWNER)
    run(database, "DROP ROLE %I", OWNER)


@pytest.fixture(params=["alone", "in a transaction"])
def connection(database: Target, request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A connection to an empty database, with or without a transaction around it."""
    alone = request.param == "alone"
    with (
        closing(session.connect(database)) as connection,
        contextlib.nullcontext() if alone else connection.transaction(),
    ):
        yield connection
        assert session.is_usable(connection) is alone


def state(connection: Connection) -> tuple[str, bool] | None:
    """Return who owns public, and whether everybody may create in it; None if there is none."""
    found = connection.execute(
        "SELECT pg_get_userbyid(nspowner), EXISTS (SELECT FROM aclexplode(nspacl) a"
        " WHERE a.grantee = 0 AND a.privilege_type = 'CREATE') FROM pg_namespace WHERE nspname = 'public'"
    ).fetchone()
    return found and (found[0], found[1])


OWNED = "pg_database_owner"


@pytest.mark.parametrize(
    ("client", "owner_of_source", "becomes"),
    [
        (14, OWNER, (OWNER, True)),
        (14, "nobody", (OWNED, True)),
        (15, OWNER, (OWNED, False)),
        (18, None, None),
    ],
)
def test_public_is_as_the_client_expects_it(
    connection: Connection, client: int, owner_of_source: str | None, becomes: tuple[str, bool] | None
) -> None:
    public.expect(connection, client_major=client, owner=owner_of_source)
    assert state(connection) == becomes


@pytest.mark.parametrize("owner_of_source", [OWNER, None])
def test_a_database_without_public_stays_without(connection: Connection, owner_of_source: str | None) -> None:
    connection.execute("DROP SCHEMA public")
    public.expect(connection, client_major=14, owner=owner_of_source)
    assert state(connection) is None


def test_what_something_depends_on_stays(connection: Connection) -> None:
    connection.execute("CREATE TABLE public.t ()")
    public.expect(connection, client_major=14, owner=None)
    assert state(connection) == (OWNED, False)
