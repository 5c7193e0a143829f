"""A materialized view over a foreign server that is down: the statement is at fault, and not the server that restores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from polyladder_ops import replacement
from polyladder_ops.errors import Mismatch
from polyladder_ops.postgres.load.loader import LoadError
from tests.faults.places import Place, ask, database, say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.session import Connection


def far(connection: Connection) -> None:
    """Make a view that was filled while the other server was there."""
    connection.execute(
        b"""
        CREATE TABLE public.here (a integer); INSERT INTO public.here VALUES (1), (2);
        CREATE EXTENSION postgres_fdw SCHEMA public;
        CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host '127.0.0.1', port '1', dbname 'far');
        CREATE USER MAPPING FOR CURRENT_USER SERVER far OPTIONS (user 'far', password 'far');
        CREATE FOREIGN TABLE public.far (a integer) SERVER far;
        CREATE MATERIALIZED VIEW public.seen AS SELECT count(*) FROM public.far WITH NO DATA;
        UPDATE pg_catalog.pg_class SET relispopulated = true WHERE relname = 'seen'
        """
    )


@pytest.fixture
def place(role: Target, tmp_path: Path) -> Iterator[Place]:
    with database(role, far) as target:
        yield Place(target, tmp_path / "backups", tmp_path / "state" / "runs")


def restored(place: Place, backup: Backup, *accept: str) -> replacement.Result:
    """Restore the backup beside its source."""
    options = replacement.Options(name="far_copy", replaces=False, accept=frozenset(accept))
    return replacement.replace(
        place.target, backup, [], options, say=lambda _sentence: None, confirm=lambda _plan: None
    )


def test_a_view_of_a_server_that_is_down_is_named_and_let_through(place: Place) -> None:
    backup = place.take()
    with pytest.raises(LoadError, match="the server refused a part of the dump") as caught:
        restored(place, backup)
    error = caught.value
    assert "could not connect to server" in error.detail
    assert "REFRESH MATERIALIZED VIEW public.seen" in error.detail
    assert f"--accept={error.item}" in error.hint
    try:
        with pytest.raises(
            Mismatch, match="is not what was dumped"
        ):  # it is not filled, and the proof sees that
            restored(place, backup, error.item)
        result = restored(place, backup, error.item, "materialized view:public.seen")
        assert any(said.startswith(error.item) for said in result.accepted)
        assert ask(place.target.with_database("far_copy"), "SELECT count(*) FROM public.here") == 2
    finally:
        say(place.target, "DROP DATABASE IF EXISTS {} WITH (FORCE)", "far_copy")
