"""Restores on a server with a standby: it is no target, and nobody goes on reading the old database there."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

import psycopg
import pytest

from polyladder_ops.errors import Refused
from polyladder_ops.postgres import standbys, switch
from polyladder_ops.postgres.session import connect
from polyladder_ops.restore import undo
from tests.faults.places import Place, ask, with_other
from tests.faults.restores import Stage, stage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target


@pytest.fixture
def on_stage(role: Target, tmp_path: Path) -> Iterator[Stage]:
    """A live database, and a backup of what it was."""
    place = Place(role, tmp_path / "backups", tmp_path / "state" / "runs")
    with stage(place, name=f"live_standby_{os.getpid()}") as made:
        made.set_up()
        yield made


def test_a_standby_is_no_target(on_stage: Stage, standby: Target) -> None:
    on_stage.place.wait_for(lambda: on_stage.target.database in databases_of(standby))
    error = on_stage.fails(Refused, with_other(on_stage.target, port=standby.port))
    assert "standby: the server is a standby" in error.detail


def databases_of(target: Target) -> frozenset[str]:
    with closing(connect(target)) as connection:
        return switch.names(connection)


def test_a_standby_out_of_reach_stands_in_the_way_until_it_is_accepted(
    on_stage: Stage, standby: Target
) -> None:
    connection = on_stage.asking
    (there,) = standbys.find(connection)
    error = on_stage.fails(Refused)
    assert f"standby:{there.name}: sessions on" in error.detail
    result = on_stage.replace(accept=(f"standby:{there.name}",))
    assert [item for item in result.accepted if "may go on reading" in item]
    on_stage.is_restored()


def test_sessions_on_a_standby_end_when_it_has_replayed_the_switch(
    on_stage: Stage, standby: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standbys, "_DIRECT_PORT", standby.port)
    there = standby.with_database(on_stage.target.database)
    on_stage.place.wait_for(lambda: there.database in databases_of(standby))
    with closing(connect(there)) as reading:
        assert reading.execute("SELECT answer FROM public.which").fetchone() == ("live",)
        on_stage.replace()
        with pytest.raises(psycopg.OperationalError):
            reading.execute("SELECT answer FROM public.which")
    assert ask(there, "SELECT answer FROM public.which") == "backup"
    assert [sentence for sentence in on_stage.said if sentence.startswith("ended 1 sessions on the standby")]
    on_stage.is_restored()


def test_sessions_on_a_standby_end_after_an_undo_too(
    on_stage: Stage, standby: Target, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standbys, "_DIRECT_PORT", standby.port)
    there, said = standby.with_database(on_stage.target.database), list[str]()
    on_stage.replace()
    with closing(connect(there)) as reading:
        assert reading.execute("SELECT answer FROM public.which").fetchone() == ("backup",)
        _, left = undo.undo(
            on_stage.target,
            "",
            site=on_stage.site,
            accept=frozenset(),
            say=said.append,
            confirm=lambda _: None,
        )
        with pytest.raises(psycopg.OperationalError):
            reading.execute("SELECT answer FROM public.which")
    assert ask(there, "SELECT answer FROM public.which") == "live"
    assert (left, [s for s in said if s.startswith("ended 1 sessions on the standby")]) == ((), said)
    monkeypatch.setattr(standbys, "_DIRECT_PORT", 1)
    _, left = undo.undo(
        on_stage.target, "", site=on_stage.site, accept=frozenset(), say=said.append, confirm=lambda _: None
    )
    assert [s for s in left if "may go on reading" in s] == list(left) != []
