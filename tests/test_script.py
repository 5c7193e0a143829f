"""The statements that a load keeps do what the dump's own do, and hold nothing of its data."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import backups, loading, restoring
from polyladder_ops.postgres import inventory, script, session
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.script import Script
from tests.dumps import dump

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.inventory import CatalogEntry
    from polyladder_ops.sandbox.server import Server


class Nothing:
    """A handler that notes what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[bytes, ...]] = []

    def statement(self, *words: bytes) -> None:
        self.told.append((b"statement", *words))

    def comment(self, *words: bytes) -> None:
        self.told.append((b"comment", *words))

    def copy_begin(self, *words: bytes) -> None:
        self.told.append((b"begin", *words))

    def copy_data(self, *words: bytes) -> None:
        self.told.append((b"data", *words))

    def copy_end(self) -> None:
        self.told.append((b"end",))


TEXT = dump(
    b"CREATE TABLE public.t (\n    n integer\n);\n",
    b"-- a word\n",
    b"COPY public.t (n) FROM stdin;\n1\n2\n\\.\n",
    b"SELECT pg_catalog.setval('public.s', 4, true);\n",
    b"INSERT INTO public.t VALUES (3);\n",
    b"SELECT pg_catalog.lowrite(0, '\\x00');\n",
    b"CREATE INDEX i ON public.t USING btree (n);\n",
)


def fed(handler: Nothing, kept: Script | None) -> Nothing:
    lexer = Lexer(kept.before(handler) if kept else handler)
    lexer.feed(TEXT)
    lexer.close()
    return handler


def test_statements_are_kept_with_their_places_and_data_is_not() -> None:
    kept = Script()
    fed(Nothing(), kept)
    assert kept.statements is not None
    places = {text.split(b" ")[1]: place for text, place in kept.statements if text.startswith(b"CREATE")}
    assert places[b"INDEX"] - places[b"TABLE"] == 5  # COPY counts, and what brings data
    words = {text.split(b" ")[0] for text, _ in kept.statements}
    assert words <= {b"SET", b"CREATE", b"SELECT"}
    assert not any(b"setval" in text or b"lowrite" in text for text, _ in kept.statements)


def test_who_comes_behind_is_told_all_the_same() -> None:
    assert fed(Nothing(), Script()).told == fed(Nothing(), None).told


def test_a_schema_that_is_too_large_is_not_kept_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "_MOST", 400)
    kept = Script()
    fed(Nothing(), kept)
    assert kept.statements is None


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_a_load_kept_makes_the_objects_of_the_file_without_it(
    server: Server, sample: Target, tmp_path: Path, jobs: int
) -> None:
    backup = backups.take(sample, tmp_path / "b", site="test", private=tmp_path / "private")
    kept = Script()

    def made(script: Script | None) -> Sequence[CatalogEntry]:
        with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as empty:
            loading.replay(empty, backup, [], script=script)
            with closing(session.connect(empty)) as connection:
                counted = connection.execute("SELECT count(*) FROM public.users").fetchone()
                assert counted == (0,)
                return inventory.entries(connection)

    with restoring.temporary_database(server.target(), backup.manifest, purpose="test") as target:
        loading.load(target, backup, [], jobs=jobs, script=kept)
        from_the_file = made(None)
        backup.path.unlink()
        assert made(kept) == from_the_file
        assert restoring.prove(server.target(), target.database, backup, [], script=kept) == []
