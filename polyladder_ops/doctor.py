"""What would stop a backup or a restore here: each thing looked at once, said as a value, whatever the others say.

Looking and judging are apart, and the `judge_*` functions are pure. Nothing is changed: a folder is tried with files that
are gone at once, and a server is only asked.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeVar

from polyladder_ops import ailments, catalog, checks, clocks, encryption, kept, replacement, setaside
from polyladder_ops.clocks import Present
from polyladder_ops.errors import Interrupted, OpsError
from polyladder_ops.fly import shape
from polyladder_ops.fly.answers import Answer as FlyAnswer
from polyladder_ops.fly.answers import ask_each
from polyladder_ops.folders import is_there, room_for_a_copy, space, try_folder
from polyladder_ops.kept import Check, Stops
from polyladder_ops.postgres import login_triggers, poolers
from polyladder_ops.postgres.clients import Client, choose, find_clients
from polyladder_ops.postgres.conninfo import Target, parse
from polyladder_ops.postgres.session import Identity, connect, identify, is_relayed, translated
from polyladder_ops.sandbox import installations
from polyladder_ops.site import Site
from polyladder_ops.terminal import age, size

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from polyladder_ops.preflight import Obstacle
    from polyladder_ops.settings import Settings

__all__ = ["Answer", "Check", "examine", "stopping"]

T = TypeVar("T")
_LOCAL = ("", "localhost", "127.0.0.1", "::1")


@dataclass(frozen=True)
class Answer:
    """What a server said of itself, and how the connection to it is made."""

    identity: Identity
    size_bytes: int
    uses_tls: bool
    is_local: bool
    is_relayed: bool = False
    by_ssh: bool = False
    login_triggers: tuple[str, ...] = ()
    ahead_by: timedelta = timedelta(0)
    """Its clock, of ours."""

    @property
    def present(self) -> Present:
        """The instant, by its clock and by ours."""
        now = clocks.ours()
        return Present(now, now + self.ahead_by)


def stopping(checks: Sequence[Check]) -> tuple[Check, ...]:
    """Return the checks that would stop a backup or a restore."""
    return tuple(check for check in checks if check.ok is False and check.blocks)


def examine(settings: Settings, say: Callable[[str], None] = lambda _sentence: None) -> list[Check]:
    """Return every check of this site, in the order in which a person would look; `say` hears which way is opened."""

    def steps(sentence: str) -> None:
        if not sentence.startswith("note: "):  # which way it is stands in the table
            say(sentence)

    target = _attempt("database", "backup", lambda: Site(settings, steps).target())
    answer = _attempt("server", "backup", lambda: _ask(target)) if isinstance(target, Target) else None
    known = answer if isinstance(answer, Answer) else None
    clients = find_clients()
    return [
        *_unknown_names(settings),
        *_way(settings),
        target if isinstance(target, Check) else Check("database", True, f"{target}."),
        *([answer] if isinstance(answer, Check) else _judge(answer)),
        _attempt("pg_dump", "backup", lambda: _dumps(settings, clients, known)),
        try_folder("BACKUP_DIR", settings.backup_dir, "backup"),
        try_folder("POLYLADDER_STATE_DIR", settings.state_dir, "restore"),
        *(space(settings.backup_dir, settings.state_dir, known.size_bytes) if known else ()),
        try_recipients(settings),
        try_identity(settings),
        try_checks(settings),
        _attempt("proof by restore", "", lambda: _proof(settings, known)),
        *(
            _room(target, Site(settings, say), known.size_bytes)
            if isinstance(target, Target) and known
            else ()
        ),
        *(_ailments(target) if isinstance(target, Target) and known else ()),
        *_restores(target, is_known=known is not None),
        *(kept.judge_clocks(known.present) if known else ()),
        *_backups(settings, known.present if known else Present(clocks.ours())),
        *(_restore_now(target, settings, known.present) if isinstance(target, Target) and known else ()),
        *look_at_fly(settings),
    ]


def _attempt(name: str, blocks: Stops, look: Callable[[], T]) -> T | Check:
    """Return what was looked at, or the check that says why it can't be."""
    try:
        return look()
    except Interrupted:
        raise
    except OpsError as error:
        said = error.in_a_line
        return Check(name, False, said[:1].upper() + said[1:], error.hint, blocks)


def _ailments(target: Target) -> list[Check]:
    found = _attempt("server's condition", "", lambda: ailments.look(target))
    return [found] if isinstance(found, Check) else found


def _restores(target: Target | Check, *, is_known: bool) -> list[Check]:
    """Return what restores have left on the server, even if the database itself takes no session: one may have closed it."""
    if not isinstance(target, Target):
        return []
    found = _attempt("restores", "", lambda: setaside.status(target))
    if isinstance(found, Check):
        return [found] if is_known else []  # else the server's own check says the same
    return judge_restores(found, datetime.now(UTC))


def judge_restores(found: setaside.Status, now: datetime) -> list[Check]:
    """Return a check that fails on what a dead run left, and a note on each set-aside database: it takes space.

    It stops a restore only if it is the live database that was left half-way.
    """
    left = "; ".join(f"{one.name}: {one.detail}" for one in found.leftovers)
    said = found.holder or "Nothing is left over."
    asides = [
        Check(
            "set aside",
            None,
            f"{m.name}, {age(m.mark.at, now)}, {size(m.size_bytes) if m.size_bytes is not None else 'of unknown size'}.",
        )
        for m in found.asides
    ]
    if left:
        hint = setaside.to_settle(found.leftovers, found.live)
        # What is left beside the live database the next restore cleans up after by itself.
        is_live = any(one.database == found.live for one in found.leftovers)
        return [Check("restores", False, f"{left}.", hint, "restore" if is_live else ""), *asides]
    return [Check("restores", True, f"{said.rstrip('.')}."), *asides]


def _backups(settings: Settings, present: Present) -> Sequence[Check]:
    known = Site(settings).known
    found = _attempt(
        "backups", "restore", lambda: kept.look(settings.backup_dir, settings.site, known, present)
    )
    return [found] if isinstance(found, Check) else found


def _restore_now(target: Target, settings: Settings, present: Present) -> list[Check]:
    """Return whether the newest backup could replace the database now; none if there is no backup."""
    latest = catalog.scan(settings.backup_dir, settings.site).newest(present.until)
    if latest is None:
        return []
    known = _attempt("restore", "", lambda: Site(settings).known(latest))
    if isinstance(known, Check):
        return [known]
    if known.manifest.is_sealed:
        return [Check("restore", None, f"Not looked at: no key for {known.id} is here.", _KEY)]
    options = replacement.Options(name=target.database)
    plan = _attempt("restore", "", lambda: replacement.preview(target, known, options))
    return [plan if isinstance(plan, Check) else judge_restore(latest.id, plan.obstacles)]


_KEY = "Set BACKUP_AGE_IDENTITY_FILE where restores are to be made."


def judge_restore(backup: str, obstacles: Sequence[Obstacle]) -> Check:
    """Return what stands in the way of a restore; a warning, since it may be gone then, accepted, or not matter in place."""
    if not obstacles:
        return Check("restore", True, f"Nothing stands in the way of {backup}.")
    detail = "; ".join(map(str, obstacles))
    return Check("restore", False, f"{backup} would be refused: {detail}.", obstacles[0].cure)


def _room(target: Target, site: Site, size_bytes: int) -> list[Check]:
    """Return whether a restore would find room, as the server itself sees its disk."""
    return [_attempt("space for a copy", "", lambda: room_for_a_copy(target, site, size_bytes))]


def look_at_fly(settings: Settings) -> list[Check]:
    """Return whether machines wait to come back, and whether each call that only looks is answered as we expect.

    Fly that does not answer is a warning: a restore needs none of it.
    """
    shapes = _attempt("machines", "the app", lambda: judge_shape(settings))
    waiting = [shapes] if isinstance(shapes, Check) else shapes
    if not Site(settings).has_fly:
        said = (
            "Not asked: FLY_API_TOKEN and POLYLADDER_FLYCTL are unset, and nobody ran `fly auth login` here."
        )
        return [*waiting, Check("Fly", None, said)]
    if settings.is_sandbox and not is_there(settings.sandbox_cloud):
        return [*waiting, Check("Fly", None, "The sandbox has none; `invoke sandbox.up` brings it.")]
    found = _attempt("Fly", "", lambda: ask_each(Site(settings).flyctl(), settings.app, settings.db_app))
    return [*waiting, found if isinstance(found, Check) else judge_fly(found)]


def judge_shape(settings: Settings) -> list[Check]:
    """Return a check that fails while what fly.stop or fly.scale took away has not come back; none if nothing waits."""
    path = settings.shapes / f"{settings.app}.json"
    if not shape.waits(path):
        return []
    hint = f"Run `invoke fly.start --site={settings.site}`."
    return [
        Check(
            "machines", False, f"The machines of {settings.app} wait to come back ({path}).", hint, "the app"
        )
    ]


def judge_fly(answers: Sequence[FlyAnswer]) -> Check:
    """Return which of Fly's answers are as we expect: none of this was ever run against the real Fly."""
    wrong = [answer for answer in answers if not answer.ok]
    if not wrong:
        return Check("Fly", True, f"flyctl {answers[0].detail}; {len(answers)} answers are as expected.")
    detail = "; ".join(f"{answer.call}: {answer.detail}" for answer in wrong)
    return Check(
        "Fly", False, f"{len(answers) - len(wrong)} answers are as expected; {detail}", wrong[0].hint
    )


def _way(settings: Settings) -> Iterator[Check]:
    if choice := Site(settings).choice():
        yield Check("way", None, f"{choice.why}{f' {choice.said}.' if choice.said else ''}")


def _unknown_names(settings: Settings) -> Iterator[Check]:
    if settings.unknown:
        yield Check(
            "names",
            False,
            f"{', '.join(settings.unknown)}: not settings of ours, perhaps another program's.",
            "Compare them with the table in the README.",
        )


def _ask(target: Target) -> Answer:
    with connect(target) as connection, translated(f"could not ask {target}"):
        asked_at = clocks.ours()
        row = connection.execute(
            "SELECT pg_catalog.pg_database_size(pg_catalog.current_database()), pg_catalog.clock_timestamp()"
        ).fetchone()
        assert row is not None
        is_local = target.host in _LOCAL or target.host.startswith("/")
        tls, relayed = bool(connection.pgconn.ssl_in_use), is_relayed(connection)
        fired = login_triggers.that_run(connection)
        ahead, by_ssh = row[1] - asked_at, target.way is not None
        return Answer(identify(connection), int(row[0]), tls, is_local, relayed, by_ssh, fired, ahead)


def _judge(answer: Answer | None) -> Iterator[Check]:
    if answer:
        yield Check("server", True, f"PostgreSQL {answer.identity.server_version} answers.")
        yield judge_identity(answer)
        yield judge_tls(answer)
        if answer.is_relayed:
            yield Check("pooler", None, f"{poolers.SAID[:1].upper()}{poolers.SAID[1:]}.")
        if answer.login_triggers:
            yield Check(
                "login triggers",
                None,
                f"{', '.join(answer.login_triggers)}: runs each time that one of our sessions begins, and may write.",
                "Only a superuser's sessions can leave it out.",
            )


def judge_identity(answer: Answer) -> Check:
    """Return whether the server is the one to write to; its identifier is what backups are compared by."""
    who = answer.identity
    named = f"{who.database} (oid {who.database_oid}, {size(answer.size_bytes)}) on system {who.system_identifier}"
    if who.is_standby:
        return Check("identity", False, f"{named}, a standby.", "Name the primary in DATABASE_URL.", "backup")
    return Check("identity", True, f"{named}, the primary.")


def judge_tls(answer: Answer) -> Check:
    """Return whether somebody on the way could read along; a warning, since a tunnel can do TLS's work."""
    if answer.uses_tls:
        return Check("TLS", True, "The connection is encrypted.")
    if answer.by_ssh:
        return Check("TLS", True, "Not needed: SSH encrypts the way to the machine.")
    if answer.is_local:
        return Check(
            "TLS", None, "Not encrypted, and the server is on this machine or behind a tunnel to it."
        )
    return Check(
        "TLS",
        False,
        "The connection is not encrypted, and the server is on another machine.",
        "Add sslmode=verify-full (at least require) to the URL, or go through `fly proxy`.",
    )


def _dumps(settings: Settings, clients: Sequence[Client], known: Answer | None) -> Check:
    far = Site(settings).dumper() if known and known.by_ssh else None
    return Check("pg_dump", True, f"{far}.") if far else judge_clients(clients, known)


def judge_clients(clients: Sequence[Client], answer: Answer | None) -> Check:
    """Return which pg_dump a backup of this server would use; without an answer, only which there are."""
    there = "; ".join(str(client) for client in clients)
    if answer is None:
        return Check(
            "pg_dump",
            None if clients else False,
            f"Found {there or 'none'}.",
            "",
            "" if clients else "backup",
        )
    chosen = _attempt(
        "pg_dump", "backup", lambda: choose(clients, answer.identity.major, need_tls=answer.uses_tls)
    )
    if isinstance(chosen, Check):
        return chosen
    tls = "speaks TLS" if chosen.speaks_tls else "without TLS"
    newer = "" if chosen.major == answer.identity.major else f"; the server is {answer.identity.major}"
    return Check("pg_dump", True, f"{chosen.version} at {chosen.program}, {tls}{newer}.")


def try_recipients(settings: Settings) -> Check:
    """Return whether backups are encrypted, and whether age takes the keys."""
    name, keys = "BACKUP_AGE_RECIPIENTS", settings.backup_age_recipients
    if not keys:
        return Check(
            name, None, "Unset, so backups are not encrypted.", "Set it before a backup leaves this machine."
        )
    taken = _attempt(name, "backup", lambda: encryption.recipients(keys))
    return (
        taken
        if isinstance(taken, Check)
        else Check(name, True, f"Backups are encrypted; public keys: {len(keys)}.")
    )


def try_identity(settings: Settings) -> Check:
    """Return whether the private key here opens what is encrypted to the recipients, by doing it once."""
    name, path, keys = (
        "BACKUP_AGE_IDENTITY_FILE",
        settings.backup_age_identity_file,
        settings.backup_age_recipients,
    )
    if path is None:
        return Check(name, None, "Unset, so encrypted backups can't be read here." if keys else "Unset.")
    opened = _attempt(name, "restore", lambda: _open_once(path, keys))
    if isinstance(opened, Check):
        return opened
    return Check(
        name, True, "The key opens what is encrypted to the recipients." if keys else "It holds a key."
    )


def try_checks(settings: Settings) -> Check:
    """Return whether the file with the questions can be read and understood; a restore reads it before it does anything."""
    name, path = "POLYLADDER_CHECKS", settings.checks
    if path is None:
        return Check(name, None, "Unset, so a restored database is asked nothing.")
    found = _attempt(name, "restore", lambda: checks.read(path))
    return (
        found
        if isinstance(found, Check)
        else Check(
            name, True, f"{path} {'has a question' if len(found) == 1 else f'has {len(found)} questions'}."
        )
    )


def _open_once(path: Path, keys: Sequence[str]) -> None:
    ours = encryption.identities(path)
    if keys:
        sealed = io.BytesIO()
        encryption.encrypt(io.BytesIO(b"doctor"), sealed, encryption.recipients(keys))
        sealed.seek(0)
        encryption.decrypt(sealed, io.BytesIO(), ours)


def _proof(settings: Settings, answer: Answer | None) -> Check:
    if settings.scratch_url:
        scratch = _ask(parse(settings.scratch_url, variable="POLYLADDER_SCRATCH_URL"))
        same = answer is not None and scratch.identity.system_identifier == answer.identity.system_identifier
        return judge_proof("POLYLADDER_SCRATCH_URL", scratch.identity.major, answer, is_same_server=same)
    found = installations.find()
    major = answer.identity.major if answer else max((one.major for one in found), default=0)
    chosen = installations.choose(found, major)
    return judge_proof(str(chosen), chosen.major, answer, is_same_server=False)


def judge_proof(where: str, major: int, answer: Answer | None, *, is_same_server: bool) -> Check:
    """Return whether a restore there could prove a backup of this server; another major proves nothing."""
    name, detail = "proof by restore", f"{where[:1].upper()}{where[1:]} has version {major}"
    if is_same_server:
        return Check(name, False, f"{detail} and is the live server.", "Name a server apart from it.")
    if answer is not None and major != answer.identity.major:
        hint = installations.how_to_install(answer.identity.major)
        return Check(name, False, f"{detail}, the server has {answer.identity.major}.", hint)
    return Check(name, True, f"{detail}.")
