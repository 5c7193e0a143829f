"""Loads one plain dump over several connections at the same time: whole tables side by side, then the index builds.

Each connection has a reader of its own that unpacks and lexes the whole dump, sends what is its own and passes by the
rest: unpacking is cheap beside what the server does with a row, memory stays flat whatever table comes first, and all
readers see the same sections (`sections`) without asking each other. The first one, the leader, does every statement
that is no row and no index build; the others wait for it where a section begins, and it for them where one ends.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

from polyladder_ops.postgres import sections
from polyladder_ops.postgres.builds import Builds
from polyladder_ops.postgres.contents import decode
from polyladder_ops.postgres.judges import Judges
from polyladder_ops.postgres.lexer import Lexer
from polyladder_ops.postgres.load.loader import Loader
from polyladder_ops.postgres.sections import Kind
from polyladder_ops.postgres.team import Team

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Mapping, Sequence

    from polyladder_ops.postgres.builds import Unit
    from polyladder_ops.postgres.contents import Contents
    from polyladder_ops.postgres.lexer import Handler
    from polyladder_ops.postgres.load.handover import Handover
    from polyladder_ops.postgres.sections import Build
    from polyladder_ops.postgres.session import Connection

__all__ = ["A_TABLE", "Crew", "shares"]

A_TABLE = 20_000
"""Bytes of rows that take as long as what every table costs."""

_BEAT_S = 0.5  # between two looks up from a wait


def shares(contents: Contents, jobs: int, judged: Container[str] = ()) -> dict[str, int]:
    """Return for each table the connection that loads it, the largest first to whoever has least.

    Judged tables are the first connection's, one by one: no other rows come meanwhile, so those before and those behind
    one are shared out by themselves. The first connection has the large objects besides.
    """
    owners: dict[str, int] = {}
    large_objects = sum(thing.size_bytes for thing in contents.large_objects)
    for is_judged, run in groupby(contents.tables, lambda table: table.name in judged):
        weights = [large_objects, *[0] * (jobs - 1)]
        for table in sorted(run, key=lambda table: -table.size_bytes):
            owner = 0 if is_judged else weights.index(min(weights))
            owners[table.name] = owner
            weights[owner] += table.size_bytes + A_TABLE
    return owners


class Crew:
    """The readers of one dump and what they share; `run` loads it, `contents` is what has passed then.

    `wrap` puts something before the reader of this number. `progress` is told of bytes, by the calling thread only, and
    now and then of none. `owner` as in `Loader`, for the leader.
    """

    def __init__(
        self,
        connections: Sequence[Connection],
        contents: Contents,
        *,
        wrap: Callable[[Handler, int], Handler],
        progress: Callable[[int], None] | None = None,
        owner: Handover | None = None,
    ) -> None:
        self.team = Team(connections)
        self.rows = {table.name: table.rows for table in contents.tables}
        self.sizes = {table.name: table.size_bytes for table in contents.tables}
        self.owners: Mapping[str, int] = {}
        self.judged: Container[str] = ()
        self.leader_alone = False
        self._expected = contents
        self._judges: Judges | None = Judges()
        self.sections: list[_Section] = []
        self.loaded: Counter[str] = Counter()  # blocks of rows that are in, by table
        self._wrap = wrap
        self._progress = progress
        self._sent = [0] * len(connections)
        self._told = 0
        self._readers = [
            _Reader(self, number, each, None if number else owner) for number, each in enumerate(connections)
        ]

    @property
    def size(self) -> int:
        """How many they are."""
        return len(self._readers)

    @property
    def contents(self) -> Contents:
        """What has passed so far, whoever sent it."""
        led, *others = [reader.loader.ledger.contents for reader in self._readers]
        return replace(led, tables=led.tables + tuple(t for other in others for t in other.tables))

    def run(self, read: Callable[[Callable[[bytes], None], int], None]) -> None:
        """Load what `read(sink, number)` hands to the sink, once for each connection's number.

        Raise whatever failed first; all others have stopped then.
        """

        def work(number: int) -> None:
            reader = self._readers[number]
            lexer = Lexer(self._wrap(reader, number))

            def sink(block: bytes) -> None:
                lexer.feed(block)
                if number:
                    self.team.check()
                else:
                    self._sent[0] += len(block)
                    self.beat()

            read(sink, number)
            lexer.close()
            reader.close()

        self.team.run(work)
        self.tell()

    def notice(self, statement: bytes) -> None:
        """Learn what the dump makes; the leader's only."""
        if self._judges:
            self._judges.notice(statement)

    def plan(self) -> None:
        """Share the tables out, as soon as all that is said before the first rows is known; the leader's only."""
        if self._judges is None:
            return
        judged, self._judges = self._judges.judged(), None
        names = frozenset(table.name for table in self._expected.tables)
        self.judged = names if judged is None else {self.decode(name) for name in judged}
        self.owners = shares(self._expected, self.size, self.judged)

    def decode(self, name: bytes) -> str:
        """Return a table's name as the manifest has it."""
        return decode(name, self._expected.encoding)

    def count(self, number: int, size: int) -> None:
        """Add bytes of rows that this one sent; those that the leader passed by were counted as its own."""
        self._sent[number] += size

    def tell(self) -> None:
        """Report progress; the leader's only."""
        if self._progress:
            new = max(0, sum(self._sent) - self._told)
            self._told += new
            self._progress(new)

    def beat(self) -> None:
        """Give way to stopping, and report progress; what the leader does while it waits."""
        self.team.check()
        self.tell()

    def section(self, number: int) -> _Section:
        """Return what is known of a section, which begins with the first who asks for it."""
        with self.team.changed():
            while len(self.sections) <= number:
                self.sections.append(_Section())
            return self.sections[number]


@dataclass
class _Section:
    """How far the crew is with one section; touched only while `Team.changed` or a predicate of `wait_until` runs."""

    is_open: bool = False
    arrived: int = 0  # readers whose rows are in
    builds: Builds | None = None


class _Reader:
    """The handler of one connection; number 0 leads."""

    def __init__(self, crew: Crew, number: int, connection: Connection, owner: Handover | None) -> None:
        self._crew = crew
        self._number = number
        self._leads = number == 0
        tick = crew.beat if self._leads else crew.team.check
        self.loader = Loader(connection, tick=tick, owner=owner, rows=crew.rows)
        self._place = 0
        self._at = 0  # the section that we are in, or before
        self._is_inside = False
        self._has_rows = False  # this section
        self._is_alone = False  # the table whose rows come
        self._knows_operators = True
        self._settings: list[tuple[bytes, int]] = []
        self._blocks: Counter[str] = Counter()
        self._builds: list[tuple[str, Build]] = []
        self._late: list[tuple[bytes, int]] = []
        self._is_mine = False
        self._table = ""

    def comment(self, text: bytes) -> None:
        """Pass it to the ledger."""
        self.loader.comment(text)

    # Statements ---------------------------------------------------------------------------------------------------

    def statement(self, text: bytes) -> None:
        """Take one statement: ours, another's, or everybody's."""
        self._place += 1
        kind = sections.kind(text)
        if kind is Kind.BUILD:
            self._build(text)
        elif kind is Kind.LATE and self._builds:
            self._late.append((text, self._place))
            self.loader.pass_by()
        elif kind is Kind.SETTING:
            self._setting(text)
        elif kind is Kind.VALUE:
            self.loader.statement(text) if self._leads else self.loader.pass_by()
        else:
            self._leave()
            if self._leads:
                self._crew.notice(text)
            self._knows_operators &= not sections.defines_operators(text)
            self.loader.statement(text) if self._leads else self.loader.pass_by(text)

    def _setting(self, text: bytes) -> None:
        """Give it to our session in its place among our rows; before a section it may need what the leader makes."""
        if self._builds:
            self._leave()
        if self._leads:
            self._crew.notice(text)
        if self._leads or self._is_inside:
            self.loader.statement(text)
        else:
            self._settings.append((text, self._place))
            self.loader.pass_by(text)

    def _build(self, text: bytes) -> None:
        self._enter()
        build = sections.build(text, self._place)
        build = replace(build, plain=build.plain and self._knows_operators)
        self._builds.append((self._named(build.table), build))
        self.loader.pass_by()

    def _named(self, table: bytes) -> str:
        return self._crew.decode(self.loader.ledger.qualified(table))

    # Rows ---------------------------------------------------------------------------------------------------------

    def copy_begin(self, statement: bytes, table: bytes, columns: bytes) -> None:
        """Start the rows of a table, ours or another's."""
        self._place += 1
        if self._builds:
            self._leave()
        self._enter()
        self._table = self._named(table)
        self._is_alone = self._table in self._crew.judged
        if self._is_alone and self._has_rows:
            self._leave()
            self._enter()
        self._has_rows = True
        self._blocks[self._table] += 1
        owner = 0 if self._crew.leader_alone else self._crew.owners.get(self._table, 0)
        self._is_mine = owner == self._number
        if self._is_mine:
            self.loader.copy_begin(statement, table, columns)
        else:
            self.loader.pass_by()

    def copy_data(self, data: bytes) -> None:
        """Send rows that are ours."""
        if self._is_mine:
            self.loader.copy_data(data)
        if self._is_mine != self._leads:  # the leader counts the whole file as its own
            self._crew.count(self._number, len(data) if self._is_mine else -len(data))

    def copy_end(self) -> None:
        """End rows that are ours, and let others know that the table has them."""
        if self._is_mine:
            self.loader.copy_end()
            with self._crew.team.changed():
                self._crew.loaded[self._table] += 1
        if self._is_alone:
            self._leave()

    # Sections -----------------------------------------------------------------------------------------------------

    def _enter(self) -> None:
        """Begin a section's rows and builds: what stands before them is done then."""
        if self._is_inside:
            return
        section = self._crew.section(self._at)
        if self._leads:
            self.loader.finish()
            self.loader.rows_come()
            # In a transaction of the dump's own nobody else sees what it makes (pg_restore --single-transaction --file).
            self._crew.leader_alone |= self.loader.is_in_transaction
            self._crew.plan()
            with self._crew.team.changed():
                section.is_open = True
        else:
            self._crew.team.wait_until(lambda: section.is_open)
            if not self._crew.leader_alone:
                for text, place in self._settings:
                    self.loader.do(text, place)
                self.loader.finish()
                self._settings.clear()
        self._is_inside = True

    def _leave(self) -> None:
        """End a section: our rows are in, and no build of it is left that nobody has taken; the leader waits for all."""
        if not self._is_inside:
            return
        self.loader.finish()
        section = self._crew.section(self._at)
        with self._crew.team.changed():
            section.arrived += 1
            section.builds = section.builds or Builds(self._builds, dict(self._blocks), self._size)
        while unit := self._next(section, section.builds):
            for build in unit.builds:
                self.loader.do(build.text, build.place)
            self.loader.finish()
            with self._crew.team.changed():
                section.builds.finished(unit)
        for text, place in self._late if self._leads else ():
            self.loader.do(text, place)
        self._late.clear()
        self._builds.clear()
        self._at, self._is_inside, self._has_rows = self._at + 1, False, False

    def _next(self, section: _Section, builds: Builds) -> Unit | None:
        """Return what to build, as soon as something may be built; None if there is nothing left for us."""
        taken: list[Unit] = []
        late = False

        def is_settled() -> bool:
            nonlocal late
            everything = section.arrived == self._crew.size
            if self._crew.leader_alone and not self._leads:
                return True
            if unit := builds.take(self._crew.loaded, everything=everything):
                taken.append(unit)
            late = self._leads and time.monotonic() > deadline
            done = everything and builds.are_finished if self._leads else builds.are_taken
            return bool(taken) or done or late

        while True:
            deadline = time.monotonic() + _BEAT_S
            self._crew.team.wait_until(is_settled)
            if taken or not late:
                return taken[0] if taken else None
            self._crew.tell()

    def _size(self, table: str) -> int:
        return self._crew.sizes.get(table, 0)

    def close(self) -> None:
        """Finish what the dump's end leaves open."""
        self._leave()
        self.loader.finish()
