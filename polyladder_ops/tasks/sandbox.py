"""Tasks of the sandbox: a real PostgreSQL that is ours alone, to practise on."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from invoke.collection import Collection

from polyladder_ops import output
from polyladder_ops.errors import Mismatch, OpsError, Refused, UsageError, working_in
from polyladder_ops.tasks.backup import JSON
from polyladder_ops.tasks.boundary import cleaning_in_sight, confirm, open_settings, refuse_dry, task

if TYPE_CHECKING:
    from invoke.context import Context

    from polyladder_ops.sandbox.server import Server
    from polyladder_ops.settings import Settings

__all__ = ["collection"]

SCALE = "Size of the data where there is none yet: 1 is 50 MB of plain SQL (default: 1)."


@task(help={"scale": SCALE})
def up(c: Context, scale: str = "1") -> None:
    """Start a PostgreSQL of our own, with data, and an app.

    The app runs on a stand-in for Fly, so that every step of an emergency can be practised. Needs no settings and touches
    nothing but its own folder. Started again, it has the data that it had.

    Examples:
        invoke sandbox.up
        invoke sandbox.up --scale=0.1
    """
    refuse_dry(c)
    from polyladder_ops.sandbox import practice

    settings = open_settings(c, site="sandbox")
    started = bring_up(settings, _number(scale))
    output.line(f"the sandbox runs on {started.target('polyladder')}; use it with POLYLADDER_SITE=sandbox")
    with working_in(settings.state_dir):
        output.line(f"its app answers at {practice.bring_up(settings, started)}/health")
    output.note(
        f"site rehearsal has settings as production has: link {practice.rehearsal_of(settings)} to .env.rehearsal"
    )


@task(help={"force": "Do not ask."})
def down(c: Context, force: bool = False) -> None:
    """Stop the sandbox and delete its data.

    Its backups stay where they are. Asks first, or needs --force.

    Examples:
        invoke sandbox.down --force
    """
    refuse_dry(c)
    import shutil

    from polyladder_ops.sandbox import practice, server

    settings = open_settings(c, site="sandbox")
    if server.is_half_made(settings.sandbox_server):
        confirm("This deletes a sandbox that was never made to its end.", "sandbox", force=force)
        server.Server(settings.sandbox_server).remove()
        output.line("the half-made sandbox is gone")
        return
    if not server.exists(settings.sandbox_server):
        output.line("there is no sandbox")
        return
    found = server.open_server(settings.sandbox_server)
    if found.is_running():
        _refuse_another(found, silence_is_fine=True)  # what is broken must be possible to delete
    confirm("This deletes the sandbox's databases.", "sandbox", force=force)
    practice.take_down(settings)
    found.remove()
    shutil.rmtree(settings.state_dir / "sandbox" / "checkout", ignore_errors=True)
    output.line("the sandbox is gone")


@task(help={"json": JSON})
def status(c: Context, json: bool = False) -> None:
    """Show whether the sandbox runs, and with what.

    Exits 3 if it does not run.

    Examples:
        invoke sandbox.status --json
    """
    from polyladder_ops import terminal
    from polyladder_ops.postgres import session
    from polyladder_ops.sandbox import practice, server
    from polyladder_ops.sandbox.fly.cloud import Cloud

    settings = open_settings(c, site="sandbox")
    found = server.open_server(settings.sandbox_server) if server.exists(settings.sandbox_server) else None
    running = found is not None and found.is_running()
    facts: dict[str, Any] = {
        "exists": found is not None,
        "running": running,
        "folder": str(settings.sandbox_server),
    }
    if found is not None and running:
        opened = own_server(settings)
        sizes = session.database_sizes(opened.target())
        facts |= {
            "pid": opened.pid,
            "address": str(opened.target()),
            "psql": _psql(opened),
            "databases": sizes,
        }
    cloud = Cloud(settings.sandbox_cloud)
    if cloud.is_running():
        facts |= {"app": f"{cloud.url}/health", "rehearsal": str(practice.rehearsal_of(settings))}
    if json:
        output.document(facts)
    else:
        texts = {k: v for k, v in facts.items() if k != "databases"}
        sizes = facts.get("databases", {})
        output.lines(
            terminal.table(
                [*texts.items(), *((f"database {n}", terminal.size(b)) for n, b in sizes.items())], ("", "")
            )
        )
    if not running:
        raise Mismatch("the sandbox does not run", hint="Start it with `invoke sandbox.up`.")


def _psql(opened: Server) -> str:
    """Return what a shell takes to open the sandbox's database in psql; the password is in its file, not in here."""
    from polyladder_ops.sandbox import seed, server

    where = opened.target(seed.DATABASE).parameters
    program, password = server.programs() / "psql", opened.folder / "password"
    arguments = f"-h {where['host']} -p {where['port']} -U {where['user']} {where['dbname']}"
    return f"PGPASSWORD=$(cat {shlex.quote(str(password))}) {shlex.quote(str(program))} {arguments}"


@task(name="break", help={"force": "Do not ask."})
def break_(c: Context, force: bool = False) -> None:
    """Drop a table and corrupt rows, by accident.

    Only ever in the sandbox's own server. Asks first, or needs --force.

    Examples:
        invoke sandbox.break --force
    """
    refuse_dry(c)
    from polyladder_ops.sandbox import checkout, damage, seed

    settings = open_settings(c, site="sandbox")
    opened = own_server(settings)
    confirm("This damages the sandbox's database.", "break", force=force)
    assert settings.app_dir is not None
    checkout.make(settings.app_dir, opened.target(seed.DATABASE))
    checkout.pull_bad_migration(settings.app_dir)
    for sentence in damage.break_database(opened.target(seed.DATABASE)):
        output.line(sentence)


@task(
    help={
        "scale": SCALE,
        "spoil": "Change one thing in the restored copy before the proof: row, sequence, grant, index, large-object.",
        "json": JSON,
    }
)
def drill(c: Context, scale: str = "1", spoil: str = "", json: bool = False) -> None:
    """Back up, verify, restore and prove, once.

    A backup is taken while a writer changes rows, verified, restored into a second database, proved equal to what was
    dumped, and asked POLYLADDER_CHECKS. Exits 0 only if all of it holds; with --spoil it must exit 3 and name what was
    changed.

    Examples:
        invoke sandbox.drill
        invoke sandbox.drill --spoil=row
        invoke sandbox.drill --scale=0.1 --json
    """
    refuse_dry(c)
    from polyladder_ops import checks, terminal, usage
    from polyladder_ops.sandbox import damage, seed
    from polyladder_ops.sandbox import drill as drills
    from polyladder_ops.site import Site

    if spoil and spoil not in damage.SPOILS:
        raise UsageError(f"there is no --spoil={spoil}", hint=f"Write one of {', '.join(damage.SPOILS)}.")
    settings = open_settings(c, site="sandbox")
    questions = checks.read(settings.checks) if settings.checks else ()
    place = Site(settings)
    opened = bring_up(settings, _number(scale))
    with cleaning_in_sight(finish="The next `invoke sandbox.drill` removes it."):
        result = drills.run(
            opened.target(seed.DATABASE),
            place.folder,
            place.private,
            site=place.name,
            say=lambda text: _say(f"{text} …"),
            questions=questions,
            before_proof=(lambda restored: damage.spoil(restored, spoil)) if spoil else None,
        )
    steps: list[tuple[object, ...]] = [
        (s.name, s.ok, terminal.duration(s.seconds), s.seen) for s in result.steps
    ]
    if peak := usage.peak_bytes():
        steps.append(("memory", None, None, f"{terminal.size(peak)} at most"))
    if json:
        said = [
            {"step": s.name, "ok": s.ok, "seconds": round(s.seconds, 3), "seen": s.seen} for s in result.steps
        ]
        backup = result.backup.id if result.backup else None
        output.document({"passed": result.passed, "backup": backup, "steps": said, "peak_bytes": peak})
    else:
        output.lines(terminal.table(steps, ("step", "ok", "time", "seen")))
    if not result.passed:
        details = [f"{step.name}: {step.seen}" for step in result.steps if not step.ok]
        raise Mismatch("the drill failed", detail=" ".join(details), hint=_SPOILED if spoil else _UNSPOILED)
    if result.backup and not json:
        output.line(f"proved: {result.backup.id} restores to exactly what was dumped")


_SPOILED = "The copy was spoiled on purpose, so this is how it must end."
_UNSPOILED = "Keep the sandbox as it is and report this."


def bring_up(settings: Settings, scale: float) -> Server:
    """Return the running sandbox, made and filled if it is not there. Raise Refused if the server is not our own."""
    from polyladder_ops.postgres import session
    from polyladder_ops.sandbox import checkout, seed, server

    folder = settings.sandbox_server
    if not server.exists(folder):
        _say("making a PostgreSQL of our own …")
        server.create(folder, trusts_socket=True)
    opened = own_server(settings, start=True)
    if seed.DATABASE not in session.database_sizes(opened.target()) or seed.is_empty(
        opened.target(seed.DATABASE)
    ):
        _say(f"filling it at scale {scale:g} …")
        seed.fill(opened.target(seed.DATABASE), scale=scale)
    assert settings.app_dir is not None
    with working_in(settings.state_dir):
        checkout.make(settings.app_dir, opened.target(seed.DATABASE))
    return opened


def own_server(settings: Settings, *, start: bool = False) -> Server:
    """Return the sandbox's server, running. Raise Refused unless the one that answers is the one that we made."""
    from polyladder_ops.sandbox import server

    opened = server.open_server(settings.sandbox_server)
    if start:
        opened.start()
    if not opened.is_running():
        raise OpsError("the sandbox does not run", hint="Start it with `invoke sandbox.up`.")
    _refuse_another(opened)
    return opened


def _refuse_another(opened: Server, *, silence_is_fine: bool = False) -> None:
    recorded = opened.recorded_identifier
    try:
        answers = opened.system_identifier()
    except OpsError:
        if not silence_is_fine:
            raise
        return
    if answers != recorded:
        raise Refused(
            "the server that answers is not the sandbox",
            detail=f"It is system {answers}, the sandbox was made as {recorded}.",
            hint=f"Somebody changed {opened.folder}; look what runs there, and stop it yourself.",
        )


def _say(text: str) -> None:
    output.note(text)


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1000:
        raise UsageError(f"--scale={text} is no size", hint="Write a number such as 0.1, 1 or 12.")
    return value


collection = Collection("sandbox")
collection.add_task(up, name="up")
collection.add_task(down, name="down")
collection.add_task(status, name="status", default=True)
collection.add_task(break_, name="break")
collection.add_task(drill, name="drill")
