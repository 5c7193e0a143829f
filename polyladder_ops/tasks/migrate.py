"""Tasks that bring a database to the migrations of the app's checkout, and show how it stands against them."""

from __future__ import annotations

import contextlib
import shlex
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError, Refused
from polyladder_ops.tasks.backup import JSON, SITE, open_site, print_json
from polyladder_ops.tasks.boundary import cleaning_in_sight, confirm, is_dry, task, would_ask
from polyladder_ops.tasks.hints import followed

if TYPE_CHECKING:
    from collections.abc import Iterator

    from invoke.context import Context

    from polyladder_ops.app.checkout import Checkout
    from polyladder_ops.app.migration_files import File
    from polyladder_ops.app.migrations import Level
    from polyladder_ops.postgres.conninfo import Target
    from polyladder_ops.postgres.definitions_seen import Seen
    from polyladder_ops.postgres.session import Connection
    from polyladder_ops.site import Site

__all__ = ["collection"]

DATABASE = "Act on this database beside the live one, a copy that nobody uses (default: the live one)."
FORCE = "Do not ask."


@dataclass(frozen=True)
class _Shown:
    """Names of the files that reach beyond their database, that may lose what is in it, of which half may stay if they fail."""

    beyond: list[str]
    losing: list[str]
    halving: list[str]


_A_COPY = "Name a copy that nobody uses, or leave --database away for the live database."
_FINISH = "The next `invoke migrate` drops what is left."


@task(help={"database": DATABASE, "force": FORCE, "site": SITE, "json": JSON})
def up(c: Context, database: str = "", force: bool = False, site: str = "", json: bool = False) -> None:
    """Run the checkout's migrations that the database lacks.

    As `pnpm --filter @polyladder/db migrate:up` in POLYLADDER_APP_DIR, with NODE_ENV=production, as the database's owner and
    never as a superuser for one who is none. What each file does beyond its database, or drops, is shown before; what drops, deletes
    or writes over what is there on the live database asks first, or needs --force: after a restore it may be what did the damage.
    Afterwards exactly those files must be noted, what they made must be the owner's, and no index may be invalid; exits 3 if not.

    Examples:
        invoke migrate
        invoke migrate --database=yesterday
    """
    place, checkout, target = _opened(c, site, database)
    with followed(database), _alone(place, checkout, target, "migrate", dry=is_dry(c)) as server:
        before, level = _stands(target, checkout)
        _say_gone(level)
        shown = _show(level.pending, place, target)
        from polyladder_ops.app import migrations
        from polyladder_ops.terminal import many

        migrations.expect_to_go(level)
        zero = migrations.from_zero(before, level, checkout.options)
        question = _question(shown, target, zero, is_live=target.database == place.target().database)
        if is_dry(c):
            output.line(f"would run {many(len(level.pending), 'migration')} on {target}")
            if question:
                would_ask(question, force=force)
            return
        if level.pending:
            if question:
                confirm(question, target.database, force=force)
            names = [*before.names, *(f.name for f in level.pending)]
            _run(server, target, checkout, "up", before, names, shown)
    _told(target, [file.name for file in level.pending], checkout, json=json)


@task(help={"database": DATABASE, "force": FORCE, "site": SITE, "json": JSON})
def down(c: Context, database: str = "", force: bool = False, site: str = "", json: bool = False) -> None:
    """Take the database's last migration back.

    Asks first, or needs --force: what a migration added goes with what people wrote into it, and what it dropped does not
    come back. After a bad migration a restore is what you want.

    Examples:
        invoke migrate.down
        invoke migrate.down --database=yesterday --force
    """
    from polyladder_ops.app import migrations
    from polyladder_ops.app.migration_files import is_reversible
    from polyladder_ops.terminal import plain

    place, checkout, target = _opened(c, site, database)
    with followed(database), _alone(place, checkout, target, "migrate.down", dry=is_dry(c)) as server:
        before, level = _stands(target, checkout)
        if not level.head:
            raise OpsError(
                f"{target} notes no migration in {plain(checkout.options.schema)}.pgmigrations",
                hint="There is nothing to take back; `invoke migrate.status` tells what is there.",
            )
        migrations.expect_to_go(level, down=True)
        file = next(file for file in checkout.files if file.name == level.head)
        shown = _show([file], place, target, down=True)
        if not is_reversible(file):
            raise Refused(
                f"{plain(file.name)} has no way back",
                detail="Its file has no down part, or an empty one.",
                hint="Restore a backup from before it: `invoke restore --list`.",
            )
        question = f"This takes {plain(file.name)} back on {target}."
        if is_dry(c):
            output.line(f"would take {plain(file.name)} back on {target}")
            would_ask(question, force=force)
            return
        confirm(question, target.database, force=force)
        names = list(before.names)
        names.remove(level.head)
        _run(server, target, checkout, "down", before, names, shown)
    _told(target, [file.name], checkout, json=json, down=True)


@task(help={"database": DATABASE, "site": SITE, "json": JSON})
def status(c: Context, database: str = "", site: str = "", json: bool = False) -> None:
    """Show which migrations the database lacks.

    Compares its table pgmigrations with the files of POLYLADDER_APP_DIR; changes nothing. Exits 3 unless they are the same.

    Examples:
        invoke migrate.status
        invoke migrate.status --json
    """
    from polyladder_ops.terminal import table

    place, checkout, target = _opened(c, site, database)
    _expect_beside(place, target)
    _say_at_work(target)
    seen, level = _stands(target, checkout)
    when = {noted.name: noted.run_on for noted in seen.noted or ()}
    rows = [
        (name, "has no file here" if name in level.gone else "done", run_on) for name, run_on in when.items()
    ]
    rows += [(f.name, "misplaced" if f.name in level.misplaced else "pending", "") for f in level.pending]
    if json:
        print_json({
            "level": level.is_level, "head": level.head or None, "files": len(checkout.files), "noted": len(seen.names),
            "pending": [f.name for f in level.pending], "gone": level.gone, "doubled": level.doubled,
        })  # fmt: skip
    else:
        output.lines(table(rows, ("migration", "state", "ran at")))
    shown = _show(level.pending, place, target)
    if not level.is_level:
        with followed(database):
            raise _differs(seen, level, checkout, target, shown)


def _differs(seen: Seen, level: Level, checkout: Checkout, target: Target, shown: _Shown) -> Mismatch:
    from polyladder_ops.app import migrations
    from polyladder_ops.terminal import plain

    what = {
        "pending": len(level.pending),
        "without a file here": len(level.gone),
        "there twice": len(level.doubled),
    }
    named = ", ".join(f"{number} {kind}" for kind, number in what.items() if number)
    behind = "Run `invoke migrate`."
    if shown.losing:
        # After a restore the pending file is the one that did the damage: to run it would do it again.
        behind = (
            f"Do not run what did the damage again: {', '.join(shown.losing)} may drop, delete or write over what is there. After a restore"
            " check out what the app ran before the damage. If it is meant to run: `invoke migrate`."
        )
    if zero := migrations.from_zero(seen, level, checkout.options):
        behind = (
            "Look whether DATABASE_URL names the app's database, and the checkout's script the schema of its notes. If every"
            " migration is meant to run: `invoke migrate`."
        )
    another = "Check out the release of this database, or restore another backup: `invoke restore --list`."
    return Mismatch(
        f"{target.database} and the checkout differ: {named}",
        detail=f"The database's head is {plain(level.head) or 'none'}; the checkout is {checkout.root}. {zero}".strip(),
        hint=another if level.gone else behind,
    )


# Opening --------------------------------------------------------------------------------------------------------------


def _opened(c: Context, site: str, database: str) -> tuple[Site, Checkout, Target]:
    from pathlib import Path

    from polyladder_ops.app import checkout

    place: Site = open_site(c, site)
    target = place.target()
    folder = Path(place.settings.needed("POLYLADDER_APP_DIR"))
    found = checkout.find(folder, place.settings.migrate_command)
    if database == target.database:
        raise Refused(
            f"{database} is the live database",
            hint="Leave --database away to act on it; it names a copy beside.",
        )
    return place, found, target.with_database(database) if database else target


@contextlib.contextmanager
def _alone(place: Site, checkout: Checkout, target: Target, doing: str, *, dry: bool) -> Iterator[Connection]:
    """Within the block nobody else changes this database by our tasks; what killed runs left is dropped before."""
    from polyladder_ops.postgres import databases, locks, session

    server = locks.maintenance(target)
    _expect_beside(place, target)
    if target.database != place.target().database:
        _expect_notes(place, target, checkout.options.schema)
    _expect_nobody_at_work(server, target)
    if dry:
        with closing(session.connect(server)) as connection:
            yield connection
        return
    databases.drop_abandoned(server)
    with (
        cleaning_in_sight(finish=_FINISH),
        locks.exclusive(server, target.database, doing=doing, say=_say) as connection,
    ):
        yield connection


def _expect_nobody_at_work(server: Target, target: Target) -> None:
    """Return if no migration of a dead run is at work on the target; a living run holds the lock. Raise Refused otherwise."""
    from polyladder_ops.postgres import locks, migration_login, session
    from polyladder_ops.terminal import plain

    with closing(session.connect(server)) as connection:
        found = migration_login.at_work(connection, target.database)
        if found and not locks.holder(connection, target.database):
            raise Refused(
                f"a migration is still at work on {target.database}, and its run is dead",
                detail=f"It is {'; '.join(plain(str(each)) for each in found)}.",
                hint=f"Let it come to its end, or end it: {'; '.join(each.ending for each in found)}",
            )


def _say_at_work(target: Target) -> None:
    from polyladder_ops.postgres import migration_login, session
    from polyladder_ops.terminal import plain

    with closing(session.connect(target)) as connection:
        for each in migration_login.at_work(connection, target.database):
            _say(
                f"WARNING: a migration is at work: {plain(str(each))}. If its run was killed, end it: {each.ending}"
            )


def _expect_beside(place: Site, target: Target) -> None:
    """Return if the target is the live database, or a copy that nobody uses. Raise Refused if it is another one."""
    from polyladder_ops.postgres import databases, locks, marks, session
    from polyladder_ops.terminal import plain

    if target.database == place.target().database:
        return
    with closing(session.connect(locks.maintenance(target))) as connection:
        found = [marked.mark.live for marked in marks.find(connection) if marked.name == target.database]
        if found:
            into = "" if found[0] == place.target().database else f" --into={shlex.quote(found[0])}"
            undo = f"invoke restore.undo --database={shlex.quote(target.database)}{into}"
            raise Refused(
                f"{target.database} is what a restore set aside",
                hint=f"It is kept as it was; `{undo}` makes it {found[0]} again.",
            )
        if users := session.users_of(connection, target.database):
            raise Refused(
                f"somebody uses {target.database}, so it is no copy beside",
                detail=f"Connected: {', '.join(map(plain, users))}.",
                hint=_A_COPY,
            )
        if databases.is_servers_own(connection, target.database):
            raise Refused(
                f"{target.database} is the server's own, so it is no copy beside",
                detail="What a template holds, every new database of that server would have.",
                hint=_A_COPY,
            )


def _expect_notes(place: Site, target: Target, schema: str) -> None:
    """Return if a copy notes its migrations, as the live database does. Raise Refused if not: then it is a copy of something else."""
    from polyladder_ops.app import migrations

    if migrations.look(target, schema).noted is not None:
        return
    with contextlib.suppress(OpsError):
        if migrations.look(place.target(), schema).noted is None:
            return
    raise Refused(
        f"{target.database} has no table pgmigrations, so it is no copy of {place.target().database}",
        hint=_A_COPY,
    )


def _stands(target: Target, checkout: Checkout) -> tuple[Seen, Level]:
    from polyladder_ops.app import migrations
    from polyladder_ops.terminal import plain

    schema = checkout.options.schema
    seen = migrations.look(target, schema)
    migrations.expect_told(seen, checkout.options)
    if seen.elsewhere and seen.noted is not None:
        others = ", ".join(f"{plain(name)}.pgmigrations" for name in seen.elsewhere)
        _say(f"note: {others} is there, too; the checkout notes in {plain(schema)}.pgmigrations")
    return seen, migrations.compare(checkout.files, seen.names)


def _run(
    server: Connection,
    target: Target,
    checkout: Checkout,
    way: str,
    before: Seen,
    wanted: list[str],
    shown: _Shown,
) -> None:
    from polyladder_ops.app import migrations
    from polyladder_ops.terminal import plain

    ended, owner = migrations.run(server, target, checkout, way, say=lambda line: _say(f"  {line}"))
    after = migrations.look(target, checkout.options.schema)
    if others := after.meanwhile(before, owner):
        _say(f"note: made by others meanwhile: {', '.join(map(plain, others[:5]))} ({len(others)} in all)")
    migrations.judge(before, after, wanted, ended, owner, halving=shown.halving)


# Telling --------------------------------------------------------------------------------------------------------------


def _say(sentence: str) -> None:
    output.note(sentence)


def _say_gone(level: Level) -> None:
    from polyladder_ops.terminal import plain

    if level.gone:
        _say(
            f"note: the checkout does not know {plain(level.gone[-1])}, which the database has"
            f" ({len(level.gone)} without a file)"
        )


def _show(files: list[File] | tuple[File, ...], place: Site, target: Target, *, down: bool = False) -> _Shown:
    """Say what in these files is worth a look before they run; return the names of those that must be asked for."""
    from polyladder_ops.app.migration_files import remarks
    from polyladder_ops.terminal import plain

    shown = _Shown([], [], [])
    names = sorted({place.target().database, target.database})
    for file in files:
        found = remarks(file, names, down=down)
        for remark in found:
            _say(f"note: {plain(file.path.name)} line {remark.line}: {plain(remark.said)}")
        if any(remark.beyond for remark in found):
            shown.beyond.append(plain(file.path.name))
        if any(remark.loses for remark in found):
            shown.losing.append(plain(file.path.name))
        if any(remark.halves for remark in found):
            shown.halving.append(plain(file.path.name))
    return shown


def _question(shown: _Shown, target: Target, zero: str, *, is_live: bool) -> str:
    """Return what must be answered with yes before the shown files run; empty if nothing must."""
    asked = [f"{target.database} is perhaps not what was meant. {zero}"] if zero else []
    if is_live and shown.losing:
        asked.append(
            f"On the live {target.database} these may drop, delete or write over what is there: {', '.join(shown.losing)}."
            " After a restore one of them may be what did the damage."
        )
    if shown.beyond and not is_live:
        asked.append(f"These reach beyond the copy, into what is live: {', '.join(shown.beyond)}.")
    return " ".join(asked)


def _told(target: Target, names: list[str], checkout: Checkout, *, json: bool, down: bool = False) -> None:
    from polyladder_ops.terminal import many, plain

    if json:
        print_json({"database": target.database, "direction": "down" if down else "up", "moved": names})
    elif down:
        output.line(f"{target}: {plain(names[0])} is taken back")
    elif names:
        output.line(f"{target} has {many(len(names), 'migration')} more, up to {plain(names[-1])}")
    else:
        output.line(f"{target} has all {len(checkout.files)} migrations of {checkout.root}")


collection = Collection("migrate")
collection.add_task(up, name="up", default=True)
collection.add_task(down, name="down")
collection.add_task(status, name="status")
