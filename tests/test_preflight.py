"""What stands in the way of a restore, each with its name, its cure and whether a person may let it through; pure."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from polyladder_ops import preflight
from polyladder_ops.postgres.described import CatalogEntry
from polyladder_ops.postgres.facts import Live, Server, Session
from polyladder_ops.postgres.properties import Extension
from polyladder_ops.postgres.session import Identity
from polyladder_ops.postgres.standbys import Standby
from polyladder_ops.postgres.volume import Volume
from polyladder_ops.restore import room
from tests.factories import manifest, properties, role, source

if TYPE_CHECKING:
    from polyladder_ops.preflight import Obstacle

GIB = 1 << 30
IDENTITY = Identity("7400000000000000001", "postgres", 5, "18.6", 18, is_standby=False, encoding="UTF8")
SERVER = Server(
    identity=IDENTITY,
    role="admin",
    is_superuser=True,
    can_create=True,
    can_make_roles=True,
    through_pooler=False,
    extensions={"pg_trgm": "1.6", "citext": "1.7"},
    roles=frozenset({"app", "admin", "readers"}),
    tablespaces=frozenset({"pg_default", "pg_global"}),
    volume=Volume(100 * GIB, 80 * GIB),
    standbys=(),
    out_of_reach=(),
    live_oid=16384,
    live_bytes=GIB,
    is_owner=True,
    sessions=(Session(11, "app", "node", can_be_ended=True),),
    prepared=(),
    slots=(),
    subscriptions=(),
    gives_to=frozenset({"app", "admin", "readers"}),
    for_superusers=frozenset(),
)
LIVE = Live()
MANIFEST = manifest(plain_bytes=GIB)


def found(
    server: Server = SERVER, live: Live | None = LIVE, create_roles: bool = False, **changes: Any
) -> tuple[Obstacle, ...]:
    return preflight.obstacles(
        server, live, MANIFEST.model_copy(update=changes), name="shop", create_roles=create_roles
    )


def test_where_all_is_well_nothing_stands_in_the_way() -> None:
    assert found() == ()
    assert preflight.unknowns(SERVER, LIVE) == ()


def test_a_pooler_that_keeps_our_session_stands_not_in_the_way_and_is_said() -> None:
    pooled = replace(SERVER, through_pooler=True)
    assert found(pooled) == ()
    assert preflight.unknowns(pooled, LIVE) == (
        "a pooler or proxy stands between us and the server; it gives each connection a session of its own",
    )


NEW: dict[str, Any] = {"live_oid": None, "live_bytes": None, "is_owner": False, "sessions": ()}
# What is there, what it is called, a word of its cure, and whether a person may let it through.
ONE_EACH: dict[str, tuple[dict[str, Any], str, str, bool]] = {
    "a standby": ({"identity": replace(IDENTITY, is_standby=True)}, "standby", "Point DATABASE_URL at the primary", False),
    "no right to make databases": ({"can_create": False}, "createdb", "ALTER ROLE admin CREATEDB", False),
    "an older server": ({"identity": replace(IDENTITY, major=17)}, "major", "PostgreSQL 18 or newer", False),
    "a full disk": ({"volume": Volume(100 * GIB, 11 * GIB)}, "space", "Enlarge", True),
    "a standby out of reach": ({"out_of_reach": (Standby("replica", "10.0.0.7"),)}, "standby:replica", "restart that standby", True),
    "no such extension": ({"extensions": {}}, "extension:pg_trgm", "Install", False),
    "another version of an extension": ({"extensions": {"pg_trgm": "1.7"}}, "extension:pg_trgm", "accept", True),
    "a missing role": ({"roles": frozenset({"admin"})}, "role:app", "--create-roles", False),
    "an extension that only superusers make": ({"for_superusers": frozenset({"pg_trgm"})}, "making:pg_trgm", "superuser's login", True),
    "an owner that we can't be": ({"is_superuser": False, "gives_to": frozenset({"admin"})}, "owner:app", "GRANT app TO admin", True),
    "somebody else's database": ({"is_owner": False}, "owner", "the owner's login", False),
    "one that is half dropped": ({"is_half_dropped": True}, "half-dropped", 'DROP DATABASE "shop";', False),
    "a prepared transaction": ({"prepared": ("x1",)}, "prepared:x1", "ROLLBACK PREPARED 'x1'", False),
    "a backup that runs": ({"sessions": (Session(7, "app", "pg_dump", can_be_ended=True),)}, "session:7", "Wait", True),
    "a proof of ours that runs": ({"sessions": (Session(7, "app", "polyladder-ops", can_be_ended=True),)}, "session:7", "Wait", True),
    "a session that can't be ended": ({"sessions": (Session(7, "postgres", "psql", can_be_ended=False),)}, "session:7", "superuser", False),
    "a slot": ({"slots": ("reporting",)}, "slot:reporting", "subscriber", True),
    "a subscription": ({"subscriptions": ("copied",)}, "subscription:copied", "after the switch", True),
}  # fmt: skip


@pytest.mark.parametrize("what", ONE_EACH)
def test_each_thing_in_the_way_is_named_with_its_cure(what: str) -> None:
    changes, item, cure, acceptable = ONE_EACH[what]
    (one,) = found(replace(SERVER, **changes))
    assert (one.item, one.acceptable) == (item, acceptable)
    assert cure in one.cure
    assert str(one).startswith(f"{item}: ")


@pytest.mark.parametrize(
    ("live", "item"),
    [
        (Live(publications=("news",)), "publication:news"),
        (Live(naming_extensions=("pg_cron",)), "naming:pg_cron"),
    ],
)
def test_what_is_inside_the_live_database_and_knows_its_name_can_be_accepted(live: Live, item: str) -> None:
    (one,) = found(live=live)
    assert (one.item, one.acceptable) == (item, True)


def test_a_missing_tablespace_can_be_accepted() -> None:
    (one,) = found(properties=properties(tablespace="fast"))
    assert (one.item, one.acceptable) == ("tablespace:fast", True)


def test_everything_is_told_at_once() -> None:
    server = replace(SERVER, can_create=False, roles=frozenset(), prepared=("a", "b"))
    extensions = (Extension("postgis", "3.5", "public"), Extension("citext", "1.6", "public"))
    items = [
        one.item
        for one in found(
            server, Live(publications=("news",)), extensions=extensions, roles=(role("app"), role("boss"))
        )
    ]
    assert items == [
        *("createdb", "extension:postgis", "extension:citext", "role:app", "role:boss"),
        *("prepared:a", "prepared:b", "publication:news"),
    ]


def test_missing_roles_that_will_be_made_are_not_in_the_way() -> None:
    server = replace(SERVER, roles=frozenset())
    assert found(server, create_roles=True) == ()


def test_a_missing_role_that_nothing_is_of_or_granted_to_is_not_in_the_way() -> None:
    roles = (role("app"), role("gone", needed=False))
    assert found(replace(SERVER, roles=frozenset({"app"})), roles=roles) == ()


def test_what_only_a_superuser_makes_is_named_to_others() -> None:
    plain = replace(SERVER, is_superuser=False)
    objects = (CatalogEntry("event trigger", "quiet", "", (), ""),)
    (one,) = found(plain, objects=objects)
    assert (str(one), one.acceptable) == ("making:quiet: only a superuser may make the event trigger", True)
    assert found(objects=objects) == ()


def test_nobody_is_told_to_make_a_role_a_member_of_a_superuser() -> None:
    server = replace(SERVER, is_superuser=False, gives_to=frozenset({"app"}))
    boss = CatalogEntry("schema", "s", "boss", (), "")
    (one,) = found(
        server, objects=(boss,), roles=(role("app"), role("boss", superuser=True)), create_roles=True
    )
    assert (one.item, "GRANT" in one.cure) == ("owner:boss", False)


def test_a_role_that_makes_no_login_is_told_before_whose_rights_rows_have() -> None:
    (said,) = preflight.unknowns(replace(SERVER, can_make_roles=False), LIVE)
    assert said.startswith("the role admin may make no login, so it loads the backup itself")


def test_public_and_what_is_the_database_owner_s_need_nobody_s_consent() -> None:
    server = replace(SERVER, is_superuser=False, gives_to=frozenset())
    entries = (
        ("schema", "public", "postgres"),
        ("schema", "s", "pg_database_owner"),
        ("schema", "t", "readers"),
    )
    objects = tuple(CatalogEntry(kind, name, owner, (), "") for kind, name, owner in entries)
    assert [one.item for one in found(server, objects=objects)] == ["owner:readers"]


def test_for_a_new_database_nothing_of_a_live_one_matters() -> None:
    server = replace(SERVER, **NEW, prepared=("x",), slots=("y",), subscriptions=("z",))
    assert found(server, None) == ()


def test_an_ended_session_of_the_app_is_not_in_the_way() -> None:
    many = tuple(Session(pid, "app", "node", can_be_ended=True) for pid in range(20))
    assert found(replace(SERVER, sessions=many)) == ()


def test_a_newer_server_is_fine() -> None:
    assert found(source=source(server_major=13)) == ()


# Space ---------------------------------------------------------------------------------------------------------------


@given(
    total=st.integers(1, 1 << 45), free_share=st.floats(0, 1), live=st.integers(0, 1 << 44), plain=st.integers(0, 1 << 44)
)  # fmt: skip
def test_space_is_enough_only_if_a_second_copy_leaves_a_tenth_free(
    total: int, free_share: float, live: int, plain: int
) -> None:
    volume = Volume(total, round(total * free_share))
    server = replace(SERVER, volume=volume, live_bytes=live)
    needed = room.needed_bytes(live, MANIFEST.model_copy(update={"plain_bytes": plain}))
    assert needed >= live * 1.3 - 1
    assert needed >= plain * 1.5 - 1
    left = volume.free_bytes - needed
    assert [one.item for one in found(server, plain_bytes=plain)] == (
        ["space"] if left < round(total / 10) else []
    )
    if left >= round(total / 10):
        full = 1 - left / total
        assert full <= 0.9 + 1 / total


def test_a_small_backup_needs_no_more_than_the_live_database_does() -> None:
    assert room.needed_bytes(100, manifest(plain_bytes=10)) == 130
    assert room.needed_bytes(10, manifest(plain_bytes=100)) == 150


def test_a_volume_of_a_gigabyte_with_370_mb_in_it_is_too_small() -> None:
    """In a trial it went to 94 %, at which Fly turns the live database read-only."""
    volume = Volume(10**9, 10**9 - 450 * 10**6)
    (one,) = found(replace(SERVER, volume=volume, live_bytes=370 * 10**6), plain_bytes=100 * 10**6)
    assert one.item == "space"
    assert one.detail == (
        "a second copy needs up to 458.7 MiB and 95.4 MiB should stay free, but only 524.5 MiB of 953.7 MiB are"
    )


def test_a_disk_that_can_not_be_seen_is_not_taken_for_an_empty_one() -> None:
    unseen = replace(SERVER, volume=None)
    assert found(unseen) == ()
    assert preflight.unknowns(unseen, LIVE) == (
        "not checked: the space on the server's disk can't be seen from here",
    )


def test_what_could_not_be_read_of_the_live_database_is_told_and_not_in_the_way() -> None:
    live = Live(unread=("its newest row: invalid page",))
    assert found(live=live) == ()
    assert preflight.unknowns(SERVER, live) == (
        "not read from the live database: its newest row: invalid page",
    )
    assert preflight.unknowns(SERVER, None) == ()
