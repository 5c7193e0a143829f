"""The order in which columns come back: computed from the source, held exactly, and said where it is another."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

from polyladder_ops import backups, loading, restoring
from polyladder_ops.postgres import column_order, session
from polyladder_ops.postgres.column_order import Heir

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.sandbox.server import Server

# Columns that the parent got later, gaps, two parents that share a name, a grandchild, a partition with its own order.
SOURCE = """
CREATE TABLE one (x int, y int); CREATE TABLE two (u int, gone int, y int); ALTER TABLE two DROP gone;
CREATE TABLE child (z int, y int, lost int, x int); ALTER TABLE child DROP lost; ALTER TABLE child INHERIT one;
ALTER TABLE one ADD w int;
CREATE TABLE of_both (own int) INHERITS (two, one); ALTER TABLE two ADD late int;
CREATE TABLE grandchild (a int, last int) INHERITS (child); ALTER TABLE child ADD b int; ALTER TABLE one ADD "Ü;" int;
CREATE TABLE in_order (a int) INHERITS (one);
CREATE TABLE root (a int, b int) PARTITION BY LIST (a);
CREATE TABLE leaf (b int, gap int, a int); ALTER TABLE leaf DROP gap; ALTER TABLE root ATTACH PARTITION leaf FOR VALUES IN (1);
"""
ORDER = """
SELECT attrelid::regclass::text, pg_catalog.array_agg(attname::text ORDER BY attnum) FROM pg_catalog.pg_attribute
WHERE attrelid IN (SELECT oid FROM pg_catalog.pg_class WHERE relnamespace = 'public'::regnamespace) AND attnum > 0 AND NOT attisdropped
GROUP BY 1 ORDER BY 1
"""


def test_what_is_inherited_comes_first_parent_by_parent_and_merged_by_name() -> None:
    heirs = (
        Heir(3, "child", ("z", "y", "x", "w"), (1,)),
        Heir(1, "one", ("x", "y", "w"), ()),
        Heir(2, "two", ("u", "y"), ()),
        Heir(4, "both", ("u", "y", "own", "x", "w"), (2, 1)),
        Heir(5, "grandchild", ("z", "y", "x", "a", "w"), (3,)),
    )
    found = column_order.expected(heirs)
    assert found[3] == ("x", "y", "w", "z")
    assert found[4] == ("u", "y", "x", "w", "own")
    assert found[5] == ("x", "y", "w", "z", "a")
    assert (found[1], found[2]) == (("x", "y", "w"), ("u", "y"))
    assert column_order.moved(heirs) == ["child", "both", "grandchild"]


def test_columns_come_back_as_computed_and_those_that_move_are_said(
    server: Server, database: Target, tmp_path: Path
) -> None:
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        connection.execute(SOURCE.encode())
        expected = {h.oid: h for h in column_order.read(connection)}
        order = column_order.expected(expected.values())
        wanted = {h.name.removeprefix("public."): order[h.oid] for h in expected.values()}
    backup = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    assert [w.partition(" come back")[0] for w in backup.manifest.warnings] == [
        f"the columns of public.{name}" for name in ("child", "grandchild", "of_both")
    ]
    with restoring.temporary_database(server.target(), backup.manifest, purpose="order") as target:
        loading.load(target, backup, [])
        assert restoring.prove(server.target(), target.database, backup, []) == []
        with closing(session.connect(target)) as connection:
            there = {name.removeprefix("public."): names for name, names in connection.execute(ORDER)}
    assert {name: tuple(n.replace("Ü;", '"Ü;"') for n in there[name]) for name in wanted} == wanted
    assert there["leaf"] == ["b", "a"]


def test_another_order_than_computed_is_a_difference(
    server: Server, database: Target, tmp_path: Path
) -> None:
    with closing(session.connect(database, settings={"search_path": "public"})) as connection:
        connection.execute("CREATE TABLE base (a int); CREATE TABLE child (b int, c int) INHERITS (base)")
    backup = backups.take(database, tmp_path / "backups", site="test", private=tmp_path / "private")
    assert backup.manifest.warnings == ()
    with restoring.temporary_database(server.target(), backup.manifest, purpose="order") as target:
        loading.load(target, backup, [])
        with closing(session.connect(target, settings={"search_path": "public"})) as connection:
            connection.execute("DROP TABLE child; CREATE TABLE child (c int, b int) INHERITS (base)")
        found = restoring.prove(server.target(), target.database, backup, [])
    assert [d.item for d in found] == ["table:public.child"]
