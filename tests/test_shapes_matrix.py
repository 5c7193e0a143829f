"""Every pg_dump of every server that it may dump, into every server that may take it: proved, and looked at once more.

The second look does not use our own reading: what pg_dump 18 writes of the rows must be the same lines, in any order.
In CI a newer client's dump goes back into its own server, and the server's own client's into every newer server;
`invoke dev.shapes` (TEST_SWEEP) runs all combinations, each shape by itself, and what is big.
"""

from __future__ import annotations

import gzip
import itertools
import os
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from psycopg import sql

from polyladder_ops import backups, loading, oldfiles, portable, restoring
from polyladder_ops.postgres import session
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.loader import Loader, LoadError
from tests import majors, shapes
from tests.dumps import listen
from tests.majors import CLIENTS, SERVERS
from tests.test_memory import FLOOR, MB, peaks

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the packages of other majors are Linux's")

SWEEP = os.environ.get("TEST_SWEEP") == "1"
OWN = {server: min(client for client in CLIENTS if client >= server) for server in SERVERS}
PAIRS = [(server, client) for server in SERVERS for client in CLIENTS if client >= server]
ALL = [(*pair, target) for pair in PAIRS for target in SERVERS if target >= pair[0]]
SOME = [case for case in ALL if case[0] == case[2] or case[1] == OWN[case[0]]]
SINGLE = SERVERS if SWEEP else (15,)  # 18 is in test_shapes.py
FEW = SERVERS if SWEEP else (13, 15, 18)
# Here a row's fields may come back in another order: inherited columns go to the end, rows to another leaf.
REORDERED = (
    "inheritance with another order of columns",
    "inheritance with indexes and statistics of columns that move",
    "partitions, hashed by an enum and attached in another order",
)

DATABASES = {
    "all shapes": ("", tuple(shapes.SHAPES)),
    shapes.EVERYTHING: ("", (shapes.EVERYTHING,)),
    "backslashes that count": (
        "ALTER DATABASE %I SET standard_conforming_strings = off",
        tuple(shapes.SHAPES),
    ),
    "nothing": ("", ()),
    # pg_dump --inserts names no columns: rows that go to another leaf then fill others (PostgreSQL docs, pg_dump).
    "what INSERT can bring back": (
        "",
        tuple(name for name in shapes.SHAPES if not name.startswith("partitions")),
    ),
}
numbers = itertools.count(1)


def named(case: tuple[int, ...]) -> str:
    return " ".join(f"{word} {major}" for word, major in zip(("of", "by", "into"), case, strict=False))


@dataclass
class Fleet:
    """Servers of all majors, started when they are asked for, with the databases that were filled there."""

    need: Callable[[object, str], None]
    folder: Path
    stack: ExitStack
    _servers: dict[int, Target] = field(default_factory=dict)
    _sources: dict[tuple[int, str], Target] = field(default_factory=dict)
    _backups: dict[tuple[int, int, str], Backup] = field(default_factory=dict)

    def server(self, major: int) -> Target:
        self.need(majors.programs(major), f"no PostgreSQL {major} (python -m tests.majors fetches it)")
        if major not in self._servers:
            self._servers[major] = self.stack.enter_context(majors.running(major))
            shapes.make_roles(self._servers[major])
        return self._servers[major]

    def source(self, major: int, name: str) -> Target:
        """Return the database of this name in `DATABASES`, or with this one shape."""
        if (major, name) not in self._sources:
            statement, filling = DATABASES.get(name, ("", (name,)))
            made = self.make(major, "ENCODING UTF8", statement)
            shapes.fill(made, filling)
            self._sources[major, name] = made
        return self._sources[major, name]

    def make(self, major: int, options: str, *statements: str) -> Target:
        """Return a new database on this server, with names in the statements as `%I`."""
        target = self.server(major).with_database(f"source_{next(numbers)}")
        with closing(session.connect(self.server(major))) as connection:
            for statement in filter(None, (f"CREATE DATABASE %I TEMPLATE template0 {options}", *statements)):
                name = sql.Identifier(target.database).as_string(None)
                connection.execute(statement.replace("%I", name).encode())
        return target

    def backup(self, major: int, client: int, name: str) -> Backup:
        key = major, client, name
        if key not in self._backups:
            self._backups[key] = self.take(self.source(major, name), client)
        return self._backups[key]

    def take(self, source: Target, client: int) -> Backup:
        self.need(majors.client(client), f"no pg_dump {client} (python -m tests.majors fetches it)")
        place = self.folder / str(next(numbers))
        options = backups.Options(clients=[c for c in [majors.client(client)] if c])
        return backups.take(
            source, place / "backups", site="test", private=place / "private", options=options
        )

    def differences(self, backup: Backup, major: int, *, source: Target | None = None) -> list[str]:
        """Load the backup into this server; return what the proof and, if the source is given, pg_dump 18 say of it."""
        server = self.server(major)
        with restoring.temporary_database(server, backup.manifest, purpose="shape") as target:
            loaded = loading.load(target, backup, [], jobs=3)
            found = [str(d) for d in restoring.prove(server, target.database, backup, [], loaded=loaded)]
            if source is not None:
                now, before = rows(target), rows(source)
                found += [f"row too few: {line!r}" for line in (before - now)]
                found += [f"row too many: {line!r}" for line in (now - before)]
        return found


@pytest.fixture(scope="session")
def fleet(need: Callable[[object, str], None], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    majors.sweep()
    with ExitStack() as stack:
        yield Fleet(need, tmp_path_factory.mktemp("fleet"), stack)


def dumped(client: int, source: Target, *options: str) -> bytes:
    """Return what pg_dump itself says, without anything of ours around it."""
    program = majors.client(client)
    assert program is not None
    words = ["-h", source.host, "-p", str(source.port), "-U", source.user, "-d", source.database, *options]
    env = portable.clean_environment({"PGPASSWORD": source.password, "PGTZ": "UTC"})
    return subprocess.run([program.program, *words], env=env, check=True, capture_output=True).stdout


def rows(source: Target) -> Counter[bytes]:
    """Return the lines by which pg_dump 18 fills tables, sequences and large objects."""
    unlike = [f"shape_{list(shapes.SHAPES).index(name)}.*" for name in REORDERED]
    excluded = [f"--exclude-table-data={pattern}" for pattern in (*unlike, "inv.grown")]
    text = dumped(18, source, "--data-only", *excluded)
    return Counter(line for line in text.splitlines() if not line.startswith((b"--", b"\\")))


def undoubted(differences: list[str], doubts: tuple[str, ...]) -> list[str]:
    """Return them without the versions of extensions that were named as doubts before anything was loaded."""
    doubted = tuple(
        f"extension {doubt.split()[2]}: it is version " for doubt in doubts if " would be " in doubt
    )
    return [said for said in differences if not said.startswith(doubted)] if doubted else differences


def refused_for(backup: Backup, server: Target) -> str:
    """Return the word in the dump for which this server must refuse it; none if it must take it."""
    text = gzip.decompress(backup.path.read_bytes())
    with closing(session.connect(server)) as connection:
        major = connection.info.server_version // 10000
        if b"pg_attver=" in text and not knows_attver(connection):
            return "pg_attver"
    client = int(backup.manifest.source.client_version.split(".")[0])
    return "subscription parameter" if b"CREATE SUBSCRIPTION" in text and major < 16 <= client else ""


def knows_attver(connection: session.Connection) -> bool:
    """Whether this server marks columns so (15.20 does), and takes such a mark from a dump of a client that shows it."""
    return (
        connection.execute("SELECT FROM pg_attribute WHERE attoptions::text ~ 'pg_attver' LIMIT 1").fetchone()
        is not None
    )


@pytest.mark.parametrize("case", ALL if SWEEP else SOME, ids=named)
@pytest.mark.parametrize("name", ["all shapes", shapes.EVERYTHING] if SWEEP else ["all shapes"])
def test_all_majors(name: str, case: tuple[int, int, int], fleet: Fleet) -> None:
    of, by, into = case
    backup, server = fleet.backup(of, by, name), fleet.server(into)
    if word := refused_for(backup, server):
        with pytest.raises(LoadError) as refusal:
            fleet.differences(backup, into)
        assert word in refusal.value.detail
        return
    doubts = restoring.obstacles(server, backup.manifest).doubts
    assert any("major version" in doubt for doubt in doubts) == (of != into)
    assert undoubted(fleet.differences(backup, into, source=fleet.source(of, name)), doubts) == []


@pytest.mark.parametrize("shape", shapes.SHAPES)
@pytest.mark.parametrize("major", SINGLE)
def test_each_shape_by_itself(major: int, shape: str, fleet: Fleet) -> None:
    assert fleet.differences(fleet.backup(major, OWN[major], shape), major) == []


@pytest.mark.parametrize("name", ["backslashes that count", "nothing"])
@pytest.mark.parametrize("major", FEW)
def test_other_databases(major: int, name: str, fleet: Fleet) -> None:
    backup = fleet.backup(major, OWN[major], name)
    text = gzip.decompress(backup.path.read_bytes())
    assert (b"SET standard_conforming_strings = off" in text) == (name == "backslashes that count")
    assert fleet.differences(backup, major, source=fleet.source(major, name)) == []


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
@pytest.mark.parametrize("major", FEW)
def test_other_encodings(major: int, encoding: str, fleet: Fleet) -> None:
    source = fleet.make(major, f"ENCODING {encoding} LC_COLLATE 'C' LC_CTYPE 'C'")
    with closing(session.connect(source)) as connection:
        connection.execute(f"SET client_encoding = {encoding}".encode())
        # Rows may be any bytes; a name that is no UTF-8 in a database of no encoding is refused when it is backed up.
        name = '"té \\"'.encode("utf-8" if encoding == "SQL_ASCII" else "latin1")
        connection.execute(b"CREATE TABLE public.%b (a text)" % name)
        connection.execute(b"INSERT INTO public.%b VALUES ('\xe4\\'), (E'\\n\\\\.\\r\xa0')" % name)
    shapes.fill(source, ["names that need care", "text that looks like a dump"])
    backup = fleet.take(source, OWN[major])
    assert fleet.differences(backup, major, source=source) == []
    assert (backup.manifest.encoding, backup.manifest.properties.encoding) == (encoding, encoding)


PUBLIC = {
    "an owner of its own": "ALTER SCHEMA public OWNER TO inv_owner",
    "no grants": "REVOKE ALL ON SCHEMA public FROM PUBLIC",
    "all grants": "GRANT ALL ON SCHEMA public TO PUBLIC",
    "not there": "DROP SCHEMA public",
}


@pytest.mark.parametrize("state", PUBLIC)
@pytest.mark.parametrize(
    ("of", "by", "into"),
    SOME if SWEEP else [(13, 13, 13), (13, 15, 13), (13, 13, 18), (14, 18, 14), (18, 18, 18)],
)
def test_the_schema_public(state: str, of: int, by: int, into: int, fleet: Fleet) -> None:
    """What a client takes for given about it changed with 15, both ways."""
    source = fleet.make(of, "")
    with closing(session.connect(source)) as connection:
        connection.execute(PUBLIC[state].encode())
    assert fleet.differences(fleet.take(source, by), into) == []


INSERTS = {
    "--inserts": "what INSERT can bring back",
    "--column-inserts": "all shapes",
    "--column-inserts --rows-per-insert=100": "all shapes",
}


@pytest.mark.parametrize("options", INSERTS)
@pytest.mark.parametrize("major", FEW)
def test_an_old_file_of_inserts_is_loaded_and_its_rows_are_said_to_be_not_compared(
    major: int, options: str, fleet: Fleet, tmp_path: Path
) -> None:
    source = fleet.source(major, INSERTS[options])
    like = fleet.backup(major, OWN[major], INSERTS[options]).manifest
    path = tmp_path / "polyladder_20260105_020000.sql.gz"
    path.write_bytes(gzip.compress(dumped(OWN[major], source, *options.split()), 1))
    old = oldfiles.describe(path, [], site="test", like=like.properties, session=like.session)
    assert old.manifest.tables == ()
    assert any("INSERT statements" in limit for limit in oldfiles.limits(old))
    assert fleet.differences(old, major, source=source) == []


def test_exactly_one_line_is_left_out_for_an_older_server(fleet: Fleet) -> None:
    text = dumped(18, fleet.source(16, "all shapes"))
    assert left_out(fleet.server(16), text) == [b"SET transaction_timeout = 0"]
    assert left_out(fleet.server(17), text) == []


def left_out(server: Target, text: bytes) -> list[bytes]:
    """Return the statements that the lexer tells of and the loader does not send, in a database that is thrown away."""
    sent, heard = bytearray(), listen(text).of(b"statement")
    target = server.with_database(f"target_{next(numbers)}")
    with closing(session.connect(server)) as connection:
        connection.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0").format(sql.Identifier(target.database))
        )
    with closing(session.connect(target)) as connection:
        loader = Loader(connection)
        loader._pgconn = cast("Any", Spy(connection.pgconn, sent))
        lexer = Lexer(loader)
        lexer.feed(text)
        lexer.close()
        loader.finish()
    return [statement for statement in heard if statement not in sent]


class Spy:
    """A connection that keeps what is sent by it."""

    def __init__(self, pgconn: Any, sent: bytearray) -> None:
        self._pgconn = pgconn
        self._sent = sent

    def __getattr__(self, name: str) -> Any:
        return getattr(self._pgconn, name)

    def send_query(self, text: bytes) -> None:
        self._sent += text
        self._pgconn.send_query(text)


@pytest.mark.parametrize("major", SERVERS if SWEEP else (18,))
def test_thousands_of_tables(major: int, fleet: Fleet) -> None:
    """9,000 is what fits beside pg_dump's locks; more are dumped without ours."""
    source, count = fleet.make(major, ""), 9000 if SWEEP else 1500
    with closing(session.connect(source)) as connection:
        for first in range(0, count, 500):
            made = "EXECUTE format('CREATE TABLE public.t_%s (id int); INSERT INTO public.t_%s VALUES (%s)', i, i, i)"
            connection.execute(
                f"DO $$ BEGIN FOR i IN {first}..{first + 499} LOOP {made}; END LOOP; END $$".encode()
            )
    backup = fleet.take(source, OWN[major])
    assert (len(backup.manifest.tables), backup.manifest.rows) == (count, count)
    assert fleet.differences(backup, major) == []


def test_a_huge_row_is_held_at_most_two_and_a_half_times(database: Target, tmp_path: Path) -> None:
    row = (200 if SWEEP else 20) * MB
    text = f"CREATE TABLE public.t AS SELECT repeat(md5('x') || E'\\n', {row // 34}) AS body, 1 AS last"
    for task, peak in peaks(database, tmp_path / "row", text).items():
        assert peak <= FLOOR + 2.5 * row, task
