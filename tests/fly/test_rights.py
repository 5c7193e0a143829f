"""What each kind of token may do is tried on the stand-in, call by call: the table and the stand-in agree in both directions."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import pytest

from polyladder_ops.fly import certificates, failures, machines, rights, starting, stopping, tunnel
from polyladder_ops.fly.answers import ask_each
from polyladder_ops.fly.api import Api
from polyladder_ops.fly.console import Console
from polyladder_ops.fly.failures import FlyError
from polyladder_ops.fly.fleet import Fleet
from polyladder_ops.fly.flyctl import Flyctl, hostname
from polyladder_ops.fly.rights import KINDS, TASKS, Action, Kind, Need
from polyladder_ops.sandbox.fly import session, world
from tests.fly.conftest import APP, DB, PACE, shown, until
from tests.test_readme import block, markdown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from polyladder_ops.sandbox.fly.cloud import Cloud

    Try = Callable[[Flyctl, str], object]

ONES = {
    f"{kind.name} of {app}" if kind.of_one_app else kind.name: (kind, app)
    for kind in KINDS
    for app in (APP, DB)
}


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    """Both apps with SSH, the API, a token of each kind for each app, and a cluster of Managed Postgres."""
    from polyladder_ops.sandbox.fly.cloud import Cloud

    made = Cloud(tmp_path_factory.mktemp("sky") / "fly")
    made.make(app=APP, db_app=DB, moment_s=0.05)
    for app in (APP, DB):
        made.open_ssh(app)
        until(partial(is_started, made, app))
    with world.changing(made.folder) as here:
        here.data["clusters"] = [{"id": "gjpkdonn", "name": "pl"}]
        for kind, app in ONES.values():
            here.data["tokens"][token_of(kind, app)] = f"{kind.name}:{app}" if kind.of_one_app else kind.name
    yield made
    made.remove()


@pytest.fixture(scope="module")
def base(sky: Cloud) -> str:
    return sky.start_api()


def is_started(cloud: Cloud, app: str) -> bool:
    return bool(shown(cloud, app)[0]["state"] == "started")


def token_of(kind: Kind, app: str) -> str:
    return f"fm2_{kind.name}_{app if kind.of_one_app else ''}"


def tunnelled(caller: Flyctl, app: str) -> None:
    (machine,) = machines.read(caller.json(list, "machine", "list", "--json", app=app))
    with tunnel.opened(caller, app, machine, 22, answers=tunnel.ssh_answers):
        pass


def enlarged(caller: Flyctl, app: str, sky: Cloud) -> None:
    """On the web app, which has no volume, what is refused is the token or the volume."""
    volumes = world.seen(sky.folder).apps[app]["volumes"]
    name = volumes[0]["id"] if volumes else "vol_none"
    size = volumes[0]["size_gb"] + 1 if volumes else 2
    try:
        caller.run("volumes", "extend", name, "-s", str(size), "-y", app=app)
    except FlyError as error:
        if "vol_none not found" not in error.detail:
            raise


@pytest.fixture
def attempts(sky: Cloud, base: str, tmp_path: Path) -> dict[Action, Try]:
    """By what is done the call that does it."""
    return {
        Action.LOOK: lambda caller, app: caller.json(list, "machine", "list", "--json", app=app),
        Action.CHANGE: lambda caller, app: caller.run(
            "machine", "update", shown(sky, app)[0]["id"], "--autostart=true", "-y", app=app
        ),
        Action.EXTEND: lambda caller, app: enlarged(caller, app, sky),
        Action.CERTIFICATE: lambda caller, app: certificates.of_app(Api(caller.token or "", base), app),
        Action.TUNNEL: tunnelled,
        Action.CONSOLE: lambda caller, app: Console(caller, app, shown(sky, app)[0]["id"]).run("true"),
        Action.ISSUE: lambda caller, _app: certificates.issued(caller, "personal", tmp_path),
        Action.CLUSTERS: lambda caller, _app: caller.json(list, "mpg", "list", "-o", "personal", "--json"),
    }


def may(kind: Kind, of: str, action: Action, app: str) -> bool:
    return action in kind.may and (not kind.of_one_app or of == app)


@pytest.mark.parametrize("action", Action)
@pytest.mark.parametrize("name", ONES)
def test_each_token_may_what_the_table_says_and_nothing_else(
    name: str, action: Action, attempts: dict[Action, Try], caller_of: Callable[[str], Flyctl]
) -> None:
    kind, of = ONES[name]
    caller = caller_of(token_of(kind, of))
    for app in (APP, DB):
        if may(kind, of, action, app):
            attempts[action](caller, app)
            continue
        with pytest.raises(FlyError) as refused:
            attempts[action](caller, app)
        assert refused.value.name in ("unknown-app", "token-refused"), refused.value
        assert action.value in refused.value.hint or rights.Action.LOOK.value in refused.value.hint
        assert "fly tokens create" in refused.value.hint


@pytest.fixture
def caller_of(sky: Cloud, tmp_path: Path) -> Callable[[str], Flyctl]:
    return lambda token: Flyctl(str(sky.program), token, tmp_path / "config", deadline_s=60)


def stopped_and_started(fleet: Fleet) -> None:
    stopping.stop(fleet)
    starting.start(fleet)


DONE: dict[tuple[str, ...], Callable[[Flyctl, Fleet], object]] = {
    ("fly.status", "health"): lambda caller, fleet: (fleet.look(), hostname(caller, APP)),
    ("fly.stop", "fly.start", "fly.scale"): lambda _caller, fleet: stopped_and_started(fleet),
    ("doctor",): lambda caller, _fleet: ask_each(caller, APP, DB),
}


@pytest.mark.parametrize("names", DONE, ids=" ".join)
def test_a_task_does_on_fly_what_the_table_says_and_its_least_token_suffices(
    names: tuple[str, ...], sky: Cloud, caller_of: Callable[[str], Flyctl], tmp_path: Path
) -> None:
    """What goes by the road is tried with a server behind it, in test_restore_room."""
    caller = caller_of(token_of(least(TASKS[names]), next(iter(by_app(TASKS[names])))))
    fleet = Fleet(caller, APP, tmp_path / "state", pace=PACE)
    before = len(sky.calls())
    done = DONE[names](caller, fleet)
    assert seen(sky.calls()[before:]) == {
        (action, app) for app, actions in by_app(TASKS[names]).items() for action in actions
    }
    if names == ("doctor",):
        assert isinstance(done, tuple)
        assert [answer for answer in done if not answer.ok] == []


def seen(calls: list[list[str]]) -> set[tuple[Action | None, str]]:
    """What was done, and to which app; `version` asks nobody."""
    asked = [call for call in calls if call[0] != "version"]
    words = [(" ".join(call[:2]), call[0], call[call.index("-a") + 1]) for call in asked]
    return {(rights.action_of(two) or rights.action_of(one), app) for two, one, app in words}


def test_the_stand_in_knows_the_same_kinds() -> None:
    known = {*session._ALL_APPS, *session._OF_ONE_APP, *session._OF_NO_APP, "readonly"}
    assert {kind.name for kind in KINDS} == known


def test_what_a_refused_call_needs_is_said_with_the_least_token_that_has_it() -> None:
    said = rights.explained(Action.CHANGE, APP)
    assert said == (
        "It takes the right to stop, start and scale machines, which `fly tokens create deploy -a polyladder` or"
        " `fly tokens create org ORG` gives."
    )
    assert "`fly tokens create ssh -a polyladder-db` (by flyctl's source; reports" in rights.explained(
        Action.TUNNEL, DB
    )
    assert rights.explained(Action.ISSUE, DB).endswith("which `fly tokens create org ORG` gives.")
    assert "`fly tokens create readonly ORG`" in rights.explained(Action.CLUSTERS, DB)


def test_a_tunnel_that_fly_s_network_is_refused_to_is_explained_by_the_right_that_lacks() -> None:
    error = failures.explain("proxy", "Error: server returned a non-200 status code: 500", 1, app=DB)
    assert error.name == "network-refused"
    assert "the right to open a tunnel" in error.hint
    assert "`fly tokens create org ORG`" in error.hint


# README ---------------------------------------------------------------------------------------------------------------


def sure(kind: Kind, action: Action) -> str:
    if action not in kind.may:
        return ""
    return "yes?" if kind.of_one_app and action in rights.UNSURE else "yes"


def rights_table() -> str:
    kinds = tuple(reversed(KINDS))
    rows = [(action.value, *(sure(kind, action) for kind in kinds)) for action in Action]
    return markdown(("A token may", *(kind.name for kind in kinds)), rows)


def by_app(needs: tuple[Need, ...]) -> dict[str, list[Action]]:
    """What is done to each app."""
    of = [(DB if need.of_database else APP, need.action) for need in needs]
    return {app: [action for other, action in of if other == app] for app, _ in of}


def least(needs: tuple[Need, ...]) -> Kind:
    """The least token: one of an app for one app, one of the organisation for both."""
    wanted, is_one = {need.action for need in needs}, len(by_app(needs)) == 1
    return next(kind for kind in reversed(KINDS) if wanted <= kind.may and (is_one or not kind.of_one_app))


def made_by(needs: tuple[Need, ...]) -> str:
    return least(needs).made_by.removeprefix("fly tokens create ").format(app=next(iter(by_app(needs))))


def tasks_table() -> str:
    rows = [
        (
            ", ".join(f"`{name}`" for name in names),
            "; ".join(f"{app}: {', '.join(actions)}" for app, actions in by_app(needs).items()),
            f"`{made_by(needs)}`",
        )
        for names, needs in TASKS.items()
    ]
    return markdown(("Task", "What it does on Fly", "Least token: `fly tokens create …`"), rows)


def test_readme_s_tables_of_rights_are_rendered_from_the_one_table() -> None:
    assert block("rights of tokens") == rights_table()
    assert block("rights for tasks") == tasks_table()
