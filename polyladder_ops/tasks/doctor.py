"""`invoke doctor`: the settings and where they come from, then what would stop a backup or a restore."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from polyladder_ops import output
from polyladder_ops.errors import Mismatch
from polyladder_ops.tasks.boundary import open_settings, task

if TYPE_CHECKING:
    from collections.abc import Sequence

    from invoke.context import Context

    from polyladder_ops.doctor import Check
    from polyladder_ops.settings import Settings

__all__ = ["doctor"]


@task(
    help={
        "site": "The place meant (default: POLYLADDER_SITE, else production).",
        "json": "Print one JSON document on stdout instead of tables.",
    }
)
def doctor(c: Context, site: str = "", json: bool = False) -> None:
    """Look whether a backup and a restore can work here.

    Shows every setting with its source, secrets masked, then looks at server, pg_dump, folders, space, keys, backups and Fly.
    Changes nothing, so it runs the same with -R. Exits 3 if something would stop a backup or a restore (no backup at all, or
    a newest one that is damaged or FAILED, does; so does a disk on which no copy of the live database fits), and while the app's
    machines wait to come back.

    Examples:
        invoke doctor
        invoke doctor --site=staging --json
    """
    from polyladder_ops.doctor import examine, stopping

    settings = open_settings(c, site=site)
    checks = examine(settings, output.step)
    stops = stopping(checks)
    if json:
        output.document(_document(settings, checks, is_fine=not stops))
    else:
        output.lines(_tables(settings, checks))
    if stops:
        raise Mismatch(
            f"{stops[0].blocks} would not work here",
            detail=" ".join(f"{check.name}: {check.detail}" for check in stops),
            hint=stops[0].hint,
        )


def _document(settings: Settings, checks: Sequence[Check], *, is_fine: bool) -> dict[str, Any]:
    from polyladder_ops.settings import describe

    return {
        "site": settings.site,
        "ok": is_fine,
        "settings": [asdict(row) for row in describe(settings)],
        "ignored": settings.ignored,
        "checks": [asdict(check) for check in checks],
    }


def _tables(settings: Settings, checks: Sequence[Check]) -> str:
    from polyladder_ops.settings import describe
    from polyladder_ops.terminal import plain, table

    rows = [(row.variable, row.value or "-", row.source) for row in describe(settings)]
    hints = [f"{check.name}: {plain(check.hint)}" for check in checks if check.ok is False and check.hint]
    parts = [
        table(rows, ("setting", "value", "from")),
        table(
            [(check.name, _verdict(check), check.detail) for check in checks], ("check", "verdict", "detail")
        ),
        "\n".join(hints),
    ]
    return "\n\n".join(part for part in parts if part)


def _verdict(check: Check) -> str:
    if check.ok is None:
        return "note"
    if check.ok:
        return "ok"
    return f"stops {check.blocks}" if check.blocks else "warning"
