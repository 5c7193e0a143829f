"""Over a far link each question costs a round trip: what a restore asks before its data may not grow again in silence."""

from __future__ import annotations

import contextlib
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.postgres import databases, properties, public, session
from polyladder_ops.postgres.conninfo import Target
from tests.faults.tunnel import HOST, tunnel

if TYPE_CHECKING:
    from collections.abc import Iterator

    from polyladder_ops.manifest import Manifest
    from polyladder_ops.sandbox.server import Server
    from tests.faults.tunnel import Tunnel

_CONNECTING = 6  # TCP, whether TLS, who we are, two for the password, what the session is pinned to


@pytest.fixture
def far(server: Server) -> Iterator[tuple[Target, Tunnel]]:
    """The server at the other end of a tunnel that counts."""
    near = server.target()
    with tunnel(int(near.parameters["port"])) as made:
        yield Target.of(**{**near.parameters, "host": HOST, "port": str(made.port)}), made


@contextlib.contextmanager
def at_most(round_trips: int, way: Tunnel) -> Iterator[None]:
    """Within the block no more than these; if there are, what was said each time is told."""
    turns, connections = len(way.turns), way.connections
    yield
    said = way.turns[turns:]
    assert len(said) + way.connections - connections <= round_trips, said


@pytest.fixture(scope="module")
def manifest(sample: Target, tmp_path_factory: pytest.TempPathFactory) -> Manifest:
    folder = tmp_path_factory.mktemp("trips")
    return backups.take(sample, folder / "backups", site="test", private=folder / "private").manifest


def test_a_database_is_made_and_gets_all_its_properties_in_few_round_trips(
    far: tuple[Target, Tunnel], manifest: Manifest
) -> None:
    target, way = far
    less = tuple(given.replace("CREATE,", "") for given in manifest.properties.grants)
    assert less != manifest.properties.grants  # an owner's default has to be taken away
    wanted = replace(manifest.properties, grants=less)
    assert len(wanted.settings) > 4
    assert wanted.comment
    name = databases.temporary_name("trips")
    with at_most(_CONNECTING + 6, way):
        restoring.make_database(target, name, manifest.model_copy(update={"properties": wanted}))
    with closing(session.connect(target)) as connection:
        with at_most(9, way):
            assert properties.give(connection, name, wanted) == []
        with at_most(6, way):  # while the app waits
            assert properties.hand_over(connection, name, wanted) == []
        found = properties.read(connection, name)
    databases.drop(target, name)
    assert properties.compare(wanted, found) == []


def test_what_the_circumstances_of_a_load_are_is_one_question(
    far: tuple[Target, Tunnel], manifest: Manifest
) -> None:
    target, way = far
    with at_most(_CONNECTING + 1, way):
        quiet, settings = loading.circumstances(target, manifest)
    assert quiet.parameters["options"].endswith("-c event_triggers=off")
    assert settings == {"lc_monetary": loading.money(manifest)}


@pytest.mark.parametrize(("client_major", "round_trips"), [(14, 1), (18, 0)])
def test_the_schema_public_costs_a_round_trip_only_where_it_has_to_change(
    far: tuple[Target, Tunnel], database: Target, client_major: int, round_trips: int
) -> None:
    target, way = far
    here = target.with_database(database.database)
    with closing(session.connect(here)) as connection, at_most(round_trips, way):
        public.expect(connection, client_major=client_major, owner="postgres")
