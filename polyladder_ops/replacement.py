"""Replacing a live database by a backup: look, decide, show, build a proved copy beside it, switch, look again.

Until the switch the live database is not touched, and the switch is one transaction (`postgres/switch.py`). The database that
was live stays, closed, under another name (`setaside.py`). Whatever dies when: `leftovers.settle`, which every run begins
with, asks the server what is true and puts it right.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from polyladder_ops import loading, preflight, restoring
from polyladder_ops.errors import Mismatch, OpsError
from polyladder_ops.portable import by_whom
from polyladder_ops.postgres import (
    alone,
    databases,
    leftovers,
    locks,
    marks,
    reader,
    roles,
    session,
    since,
    standbys,
    switch,
)
from polyladder_ops.postgres.script import Script
from polyladder_ops.restore import lock_again, new_roles, room
from polyladder_ops.restore.enlarging import enlarged
from polyladder_ops.restore.plan import Options, Plan, look, maintenance, preview, refuse
from polyladder_ops.restore.watch import Watch
from polyladder_ops.settling import after_switch, settled
from polyladder_ops.terminal import plain
from polyladder_ops.undoing import undone_if_failing

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.proof.differences import Difference
    from polyladder_ops.postgres.properties import NotApplied, Role
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.postgres.switch import Switched

__all__ = ["Options", "Plan", "Result", "preview", "replace"]


@dataclass
class Result:
    """What was done: the switch, what was let through, seconds a phase, roles that were made, SQL that would undo it.

    `not_given` are the source's properties that the database did not get, each with why; `failed` the checks that failed
    on a database that replaces none.
    """

    switched: Switched
    accepted: tuple[str, ...] = ()
    seconds: dict[str, float] = field(default_factory=dict)
    roles: tuple[str, ...] = ()
    undo: tuple[str, ...] = ()
    not_given: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()


Say = Callable[[str], None]


def replace(
    target: Target,
    backup: Backup,
    keys: Sequence[Any],
    options: Options,
    *,
    say: Say,
    confirm: Callable[[Plan], None],
) -> Result:
    """Make the database `options.name` on the target's server be what the backup holds, proved before it goes live.

    `say` gets sentences as things happen, `confirm` the plan, and raises what stops it. Raise Refused if something
    stands in the way, Mismatch if the copy is not what was dumped, OpsError if the server fails: each time the live
    database is as it was, and the copy is gone.
    """
    server = maintenance(target, options.name)
    with locks.exclusive(server, options.name, doing="restore", say=say) as connection:
        for sentence in leftovers.settle(connection, server, options.name):
            say(sentence)
        plan = look(connection, server, target.with_database(options.name), backup, options)
        if enlarged(connection, plan, options):
            plan = look(connection, server, target.with_database(options.name), backup, options)
        refuse(plan, options)
        confirm(plan)
        return _Run(connection, server, plan, keys, options, say).run()


@dataclass
class _Run:
    """One restore, after its plan was confirmed; everything goes through the session that holds the lock."""

    connection: Connection
    server: Target
    plan: Plan
    keys: Sequence[Any]
    options: Options
    say: Say
    accepted: list[str] = field(default_factory=list)
    not_given: list[NotApplied] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)
    baseline: since.Baseline | None = None
    copy: int | None = None  # the new database's oid, from its birth on
    seconds: dict[str, float] = field(default_factory=dict)
    ready: str = ""  # the copy's name
    stack: ExitStack = field(default_factory=ExitStack)

    def run(self) -> Result:
        with self.stack:
            return self._done()

    def _done(self) -> Result:
        self.accepted += self.plan.accepted
        with self._roles() as made, self._beside() as ready:
            self._build(ready)
            with session.translated(f"the server failed, so {self.name} was left as it was"):
                self._held()
                undo = self._announce()
                switched, oid = self._switch(ready, made)
        self._look_again(switched, oid)
        not_given = tuple(map(str, self.not_given))
        for sentence in not_given:
            self.say(f"not given to {self.name}: {plain(sentence)}")
        return Result(switched, tuple(self.accepted), self.seconds, made, undo, not_given, tuple(self.failed))

    @property
    def name(self) -> str:
        return self.plan.target.database

    def _held(self) -> Connection:
        """Return the session that holds the lock; one that was lost (a laptop slept) is followed by another one."""
        try:
            locks.check(self.connection, self.name)
        except OpsError as lost:
            again = lock_again.taken(self.server, self.name, self.ready, self.copy, lost)
            self.connection = self.stack.enter_context(again)
            self.say(f"the lock of {self.name} was lost, and taken again: the copy is as it was")
        return self.connection

    @property
    def _wanted(self) -> tuple[Role, ...]:
        return self.plan.backup.manifest.roles if self.options.create_roles else ()

    def _roles(self) -> AbstractContextManager[tuple[str, ...]]:
        return new_roles.made(
            self.connection, self.server, self._wanted, self.name, say=self.say, is_live=self._is_live
        )

    def _is_live(self, connection: Connection) -> bool:
        return self.copy is not None and switch.oid_of(connection, self.name) == self.copy

    @contextmanager
    def _beside(self) -> Iterator[str]:
        """Within the block the name of a new empty database; if the block fails before it got another name, it is dropped."""
        ready = databases.temporary_name("beside")
        with session.translated("could not lock the copy"):
            databases.hold(self.connection, ready)
        with undone_if_failing(f"the database {ready}", partial(databases.drop, self.server, ready)):
            restoring.make_database_by(self.connection, self.server, ready, self.plan.backup.manifest)
            self.ready, self.copy = ready, switch.oid_of(self.connection, ready)
            yield ready

    def _build(self, ready: str) -> None:
        backup, accept = self.plan.backup, self.options.accept
        copy, script = self.server.with_database(ready), Script()
        with ExitStack() as stack:
            with self._phase("load") as progress:
                begun = stack.enter_context(
                    loading.begun(
                        copy,
                        backup,
                        self.keys,
                        accept=accept,
                        jobs=self.options.jobs,
                        script=script,
                        progress=progress,
                    )
                )
            with self._phase("analyze"):
                # While all belongs to the login: an index over a function of somebody's runs it as the table's owner.
                restoring.analyze(copy, jobs=self.options.jobs, views=False)
                loaded = begun.finish()
                restoring.analyze(copy, jobs=self.options.jobs, views=True)
            self.accepted += [
                *(f"{a.item}: {a.why}" for a in loaded.accepted),
                *restoring.limits(backup.manifest),
            ]
        for sentence in loaded.said:
            self.say(f"WARNING: {plain(sentence)}")
        with self._reader(copy) as asked:
            with self._phase("proof") as progress:
                found = restoring.prove(
                    self.server,
                    ready,
                    backup,
                    self.keys,
                    accept=accept,
                    jobs=self.options.jobs,
                    script=script,
                    progress=progress,
                    loaded=loaded,
                    # From here on nobody gets in: what is proved is what goes live.
                    shut=lambda ours: self._shut(ready, [*ours, *asked]),
                )
                self._judge(found, "the copy is not what was dumped, so it did not replace anything")
            for connection in asked:
                with self._phase("checks"):
                    self._ask(connection)

    def _shut(self, ready: str, ours: Sequence[Connection]) -> None:
        alone.shut(self._held(), ready, ours)
        self.baseline = since.baseline(ours[0])

    @contextmanager
    def _reader(self, copy: Target) -> Iterator[tuple[Connection, ...]]:
        """Within the block the session for checks, if there are any: it must be in the copy before that is shut."""
        if not self.options.checks:
            yield ()
            return
        with reader.opened(self.connection, copy) as made:
            for sentence in made.said:
                self.say(sentence)
            yield (made.connection,)

    def _judge(self, found: Sequence[Difference], verdict: str) -> None:
        wrong = [d for d in found if d.item not in self.options.accept]
        through = [f"{d.item}: {d.detail}" for d in found if d not in wrong]
        self.accepted += [item for item in through if item not in self.accepted]  # the switch looks again
        if wrong:
            more = f"\n        and {len(wrong) - 10} more" if len(wrong) > 10 else ""
            raise Mismatch(
                verdict,
                detail="\n        ".join(f"{d.item}: {d.detail}" for d in wrong[:10]) + more,
                hint=f"{self.name} was not touched, the copy is dropped. To let one through: `{preflight.flag(wrong[0].item)}`.",
            )

    def _ask(self, connection: Connection) -> None:
        from polyladder_ops import checks, verification

        asked = checks.run(connection, self.options.checks)
        wrong = [a for a in asked if not a.ok]
        passed = [a.check.name for a in asked if a.ok]
        if unkept := verification.keep_checks(self.plan.backup, [a.check.name for a in wrong], passed):
            self.say(f"WARNING: {unkept}")
        self.accepted += [
            f"check:{a.check.name}: {a.said}" for a in wrong if f"check:{a.check.name}" in self.options.accept
        ]
        wrong = [a for a in wrong if f"check:{a.check.name}" not in self.options.accept]
        told = [f"check:{a.check.name}: {a.said}" for a in wrong]
        if not self.options.replaces:  # somebody wants to look, and may look for just this
            self.failed += told
        elif wrong:
            flags = [preflight.flag(f"check:{a.check.name}") for a in wrong]
            raise Mismatch(
                f"{len(wrong)} of your checks failed on the copy, so it did not replace anything",
                detail="\n        ".join(told),
                hint=f"{self.name} was not touched. Perhaps the backup holds the damage, and an older one does not:"
                f" `invoke restore --list`. To let them through: `{' '.join(flags)}`.",
            )

    def _announce(self) -> tuple[str, ...]:
        """Say how the switch can be undone by hand, before it is made: who needs it may not get this far again."""
        if self.plan.server.live_oid is None:
            return ()
        self.aside = marks.name_aside(self.name, datetime.now(UTC), switch.names(self.connection))
        own = switch.own_setting(self.connection, self.name)
        lines = switch.by_hand(self.name, self.aside, self.plan.server.role, own)
        self.say(f"if it must be undone without this program, run in psql -d {self.server.database}:")
        for line in lines:
            self.say(f"  {line}")
        return lines

    def _switch(self, ready: str, made: Sequence[str]) -> tuple[Switched, int | None]:
        connection, oid = self.connection, self.copy
        source = restoring.as_source(
            ready,
            oid,
            self.plan.backup.manifest,
            partial(
                self._judge,
                verdict="the copy can't be given what the source is, so it did not replace anything",
            ),
            self.not_given,
            also=lambda connection: roles.finish(connection, self._wanted, made),
        )
        with self._phase("switch"), settled(connection, self.server, self.name, oid):
            if self.plan.server.live_oid is None:
                return switch.publish(connection, self.name, source), oid
            head = self.plan.live.migration_head if self.plan.live else None
            note = switch.note_of(connection, self.name, by_whom(), self.plan.backup.id, head)
            was = note.model_copy(update={"oid": self.plan.server.live_oid, "baseline": self.baseline})
            return switch.exchange(connection, self.server, source, was, self.aside), oid

    def _look_again(self, switched: Switched, oid: int | None) -> None:
        """Raise OpsError unless the live name leads to the copy and the old database stands aside."""
        with (
            after_switch(self.name, switched),
            closing(session.connect(self.server.with_database(self.name))) as live,
        ):
            found = session.identify(live)
            aside = switch.oid_of(self.connection, switched.aside) if switched.aside else None
            if found.database_oid != oid or aside != self.plan.server.live_oid:
                raise OpsError(
                    f"{self.name} is not what was switched to",
                    detail="Somebody renamed databases at the same time.",
                    hint="Look with `psql -l` and `invoke restore.status`.",
                )
            done, left = standbys.follow(self.connection, self.server, switched.aside)
            for sentence in (*done, *left):
                self.say(sentence)
            self.accepted += left

    @contextmanager
    def _phase(self, name: str) -> Iterator[Callable[[int], None]]:
        began = time.monotonic()
        report = self.options.progress(name) if self.options.progress else lambda _size: None
        is_watched = self.plan.server.volume is not None and "space" not in self.options.accept
        is_far = self.server.way is not None
        yield Watch(self._held, report, room.FULL_SHARE if is_watched else None, is_far)
        self.seconds[name] = time.monotonic() - began
