"""Memory is flat: no task of ours holds a file, a table or a large object whole, only the row that it is at.

The peak is that of the whole `invoke` process, as the system saw it.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from polyladder_ops import portable, usage
from polyladder_ops.postgres import session

if TYPE_CHECKING:
    from pathlib import Path

    from polyladder_ops.postgres.conninfo import Target

MB = 1_000_000
FLOOR = 150 * MB
ROW = 40 * MB
# Noise of the allocator; far below everything that the large database has more: text, bytes on disk, a large object.
SLACK = 24 * MB

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="Windows does not tell a program's peak")

# Rows that gzip can halve at best, rows that it makes nothing of, one large object.
BULK = """
CREATE TABLE public.bulk AS
SELECT n, encode(sha512(n::text::bytea), 'hex') || encode(sha512((-n)::text::bytea), 'hex') AS noise
FROM generate_series(1, {rows}) AS n;
CREATE TABLE public.even AS SELECT repeat('x', 1000) AS same FROM generate_series(1, {rows} / 6);
SELECT lo_from_bytea(0, string_agg(sha512(n::text::bytea), ''))
FROM generate_series(1, {pieces}) AS n;
"""

# Text of COPY: two digits a byte. The second table's rows are loaded by its root, and so digested one by one.
ONE_ROW = f"""
CREATE TABLE public.plain AS
SELECT string_agg(sha512(n::text::bytea), '') AS bytes FROM generate_series(1, {ROW // 2 // 64}) AS n;
CREATE TYPE public.mood AS ENUM ('low', 'high');
CREATE TABLE public.spread (mood public.mood, bytes bytea) PARTITION BY HASH (mood);
CREATE TABLE public.spread_0 PARTITION OF public.spread FOR VALUES WITH (MODULUS 2, REMAINDER 0);
CREATE TABLE public.spread_1 PARTITION OF public.spread FOR VALUES WITH (MODULUS 2, REMAINDER 1);
INSERT INTO public.spread SELECT 'high', bytes FROM public.plain;
"""


def peaks(
    database: Target, folder: Path, statements: str, keys: dict[str, str] | None = None, jobs: int = 2
) -> dict[str, int]:
    """Fill the database, back it up, verify it, restore and prove it; return the peak of each in bytes."""
    with closing(session.connect(database)) as connection:
        connection.execute(statements.encode())
    login = f"{database.user}:{quote(database.password, safe='')}@{database.host}:{database.port}"
    folder.mkdir()
    (folder / "tasks.py").write_text("from polyladder_ops.tasks import ns\n")
    env = portable.clean_environment(
        {
            "POLYLADDER_SITE": "memory",
            "POLYLADDER_STATE_DIR": str(folder / "state"),
            "BACKUP_DIR": str(folder / "backups"),
            "DATABASE_URL": f"postgresql://{login}/{database.database}",
            "POLYLADDER_SCRATCH_URL": f"postgresql://{login}/postgres",
            **(keys or {}),
        }
    )
    tasks = {
        "backup": ["backup"],
        "verify": ["verify", "--backup=latest"],
        "restore and proof": ["verify", "--backup=latest", "--level=restore", f"--jobs={jobs}"],
    }
    found = {}
    for name, words in tasks.items():
        took = usage.measured([sys.executable, "-m", "invoke", *words], env=env, cwd=folder)
        assert took.returncode == 0
        assert took.peak_bytes is not None
        found[name] = took.peak_bytes
    return found


@pytest.fixture
def key(tmp_path: Path) -> dict[str, str]:
    """Settings that encrypt backups and open them again."""
    pyrage = pytest.importorskip("pyrage", reason="there is no age on this system")
    identity = pyrage.x25519.Identity.generate()
    file = tmp_path / "identity.txt"
    file.write_text(f"{identity}\n")
    return {
        "BACKUP_AGE_RECIPIENTS": str(identity.to_public()),
        "BACKUP_AGE_IDENTITY_FILE": str(file),
    }


@pytest.mark.parametrize("encrypted", [False, True], ids=["plain", "encrypted"])
def test_memory_does_not_grow_with_the_database(
    encrypted: bool, database: Target, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    keys = request.getfixturevalue("key") if encrypted else None
    little = peaks(database, tmp_path / "little", BULK.format(rows=1000, pieces=1000), keys)
    with closing(session.connect(database)) as connection:
        connection.execute("DROP TABLE public.bulk, public.even")
    much = peaks(database, tmp_path / "much", BULK.format(rows=250_000, pieces=500_000), keys)
    for task, peak in much.items():
        assert peak <= FLOOR, task
        assert peak - little[task] <= SLACK, task


def test_a_huge_row_is_held_at_most_two_and_a_half_times(database: Target, tmp_path: Path) -> None:
    little = peaks(database, tmp_path / "little", BULK.format(rows=1000, pieces=1000))
    for task, peak in peaks(database, tmp_path / "row", ONE_ROW).items():
        assert peak <= FLOOR + 2.5 * ROW, task
        # The floor has room for a row of this size held four times; for a row of a gigabyte it has none.
        assert peak - little[task] <= 2.5 * ROW + SLACK, task


HUGE_AMONG_SMALL = f"""
CREATE TABLE public.t AS
SELECT '\\x61'::bytea AS bytes FROM generate_series(1, 20000)
UNION ALL SELECT string_agg(sha512(n::text::bytea), '') FROM generate_series(1, {ROW // 2 // 64}) AS n;
CREATE TABLE public.u AS TABLE public.t;
CREATE TABLE public.v AS TABLE public.t;
CREATE TABLE public.w AS TABLE public.t;
"""

# Rows on both sides of where they count as huge, which are sent in blocks of a quarter and of half a megabyte.
LARGE_ROW = 4 * MB
LARGE_ROWS = f"""
CREATE TABLE public.t AS
SELECT size, string_agg(sha512((size + n)::text::bytea), '') AS bytes
FROM generate_series(500000, {LARGE_ROW}, 500000) AS size, generate_series(1, size / 2 / 64) AS n GROUP BY size;
CREATE TABLE public.u AS TABLE public.t;
CREATE TABLE public.v AS TABLE public.t;
CREATE TABLE public.w AS SELECT * FROM public.t WHERE size < 1000000;
CREATE TABLE public.x AS TABLE public.w;
CREATE TABLE public.y AS TABLE public.w;
CREATE TABLE public.z AS TABLE public.w;
"""


@pytest.mark.parametrize(
    ("statements", "largest"), [(HUGE_AMONG_SMALL, ROW), (LARGE_ROWS, LARGE_ROW)], ids=["huge", "large"]
)
def test_huge_rows_of_several_tables_are_held_by_one_connection(
    statements: str, largest: int, database: Target, tmp_path: Path
) -> None:
    little = peaks(database, tmp_path / "little", BULK.format(rows=1000, pieces=1000))
    for task, peak in peaks(database, tmp_path / "rows", statements, jobs=4).items():
        assert peak - little[task] <= 2.5 * largest + SLACK, task


MANY = """
SELECT format('CREATE TABLE public.t%s AS SELECT n AS id FROM generate_series(1, 9) AS n', n)
FROM generate_series(1, {tables}) AS n
"""
A_TABLE = 20_000  # bytes: its name, its columns, its digest, its definition


def test_memory_grows_by_little_for_each_table(database: Target, tmp_path: Path) -> None:
    few, many = 50, 1000
    found = []
    for tables in (few, many):
        with closing(session.connect(database)) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")
            statements = [
                row[0] for row in connection.execute(MANY.format(tables=tables).encode()).fetchall()
            ]
        found.append(peaks(database, tmp_path / str(tables), ";".join(statements)))
    for task, peak in found[1].items():
        assert peak <= FLOOR, task
        assert peak - found[0][task] <= (many - few) * A_TABLE, task
