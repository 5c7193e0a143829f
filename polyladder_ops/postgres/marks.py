"""What a restore notes in the cluster itself, so that whoever comes next can ask the server what is true.

A mark is a setting of our own role in the database that is set aside. Who owns that database can't write, change or take
it off; it keeps to the database whatever that is called, changes in the same transaction as names do, and goes with it. So it
is believed, but only on our own role or on a superuser's: any role may mark any database for itself.

Older versions wrote a note into the database's comment, which its owner can write too. What only such a note says is a
claim: shown, and acted on only for a database that a person has named.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

import pydantic
from psycopg import sql
from pydantic import AwareDatetime, BaseModel, ConfigDict

from polyladder_ops.postgres import application
from polyladder_ops.postgres.session import translated
from polyladder_ops.postgres.since import Baseline  # noqa: TC001 - pydantic asks for it

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from polyladder_ops.postgres.session import Connection

__all__ = [
    "NAME_BYTES",
    "Mark",
    "Marked",
    "claims",
    "comment",
    "find",
    "inner",
    "is_mark",
    "name_aside",
    "newest_first",
    "of",
    "of_others",
    "own_setting",
    "parse",
    "put",
    "take_off",
]

_PREFIX = "polyladder-ops "
_SETTING = "application_name"
_VALUE = application.MARK
NAME_BYTES = 63
"""NAMEDATALEN - 1: the server cuts a longer name in silence, perhaps to that of another database."""


class Mark(BaseModel):
    """Why a database is closed: it is `aside` since a switch; or `fenced` for one, as older versions of this program did.

    `live` is the name that it answered to, `name` the one that it was given then; `backup` what took its place; `migration_head`
    its newest migration then; `was_open` whether it took sessions before; `is_dumped` that we have opened it, to dump it. `own`
    is what our role had set in its place; `baseline` what took its place was then; `serial` the number of the server's next
    transaction then, of 64 bits: it orders marks whatever clocks said; `xid` that of the switch's own. `oid` is the database;
    `comment` is older versions': its own.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    kind: Literal["fenced", "aside"]
    live: str
    at: AwareDatetime
    by: str
    backup: str
    migration_head: str | None = None
    comment: str = ""
    was_open: bool = True
    oid: int | None = None
    name: str = ""
    is_dumped: bool = False
    own: str | None = None
    baseline: Baseline | None = None
    serial: int | None = None
    xid: int | None = None

    @property
    def text(self) -> str:
        """The comment in which older versions said so."""
        return _PREFIX + self.model_dump_json()

    @property
    def setting(self) -> str:
        """The value of the setting that says so; ASCII alone, as the server keeps no other in it for sure."""
        return _VALUE + json.dumps(self.model_dump(mode="json"))


class Marked(BaseModel):
    """A database with a mark of ours on this role, or with an older version's note (`role` is empty then).

    Sizes that we may not ask for are None; `others` are those who are in it, our own sessions left out, and a dump of ours.
    """

    model_config = ConfigDict(frozen=True)

    name: str
    oid: int
    is_open: bool
    size_bytes: int | None
    mark: Mark
    role: str = ""
    xid: str = (
        ""  # the transaction that wrote the row which has the mark, perhaps for another setting of the role
    )
    owner: str = ""
    others: int = 0
    is_half_dropped: bool = False

    @property
    def serial(self) -> int | None:
        """The mark's, unless it was written of another database: it came from another server then, with a count of its own."""
        return self.mark.serial if self.mark.oid == self.oid else None

    @property
    def switched_in(self) -> str:
        """The transaction of the switch, by the 32 bits that a catalog's row keeps; empty if it was not noted, or elsewhere."""
        known = self.mark.xid is not None and self.mark.oid == self.oid
        return str((self.mark.xid or 0) % 2**32) if known else ""

    @property
    def is_claim(self) -> bool:
        """Whether only a comment says so, which the database's owner can write."""
        return not self.role

    @property
    def use(self) -> str:
        """What somebody has done to it since, who has taken it into use; empty if it is as we left it, or live again."""
        if self.is_claim or self.is_half_dropped or self.name == self.mark.live:
            return ""
        if self.name != self.mark.name:
            return "renamed"
        if self.is_open and not self.mark.is_dumped:
            return "opened"
        return "entered" if self.others and self.is_open else ""


def parse(text: str) -> Mark | None:
    """Return the note that a comment is, None if it is somebody else's comment."""
    return _read(text, _PREFIX)


def _read(text: str, prefix: str) -> Mark | None:
    if not text.startswith(prefix):
        return None
    try:
        return Mark.model_validate_json(text.removeprefix(prefix))
    except pydantic.ValidationError:
        return None


def inner(text: str) -> str:
    """Return the database's own comment: what stands inside a note, or the text itself."""
    mark = parse(text)
    return text if mark is None else mark.comment


def is_mark(name: str, value: str) -> bool:
    """Whether a setting of a role in a database is a mark of ours."""
    return name == _SETTING and _read(value, _VALUE) is not None


def own_setting(value: str) -> str | None:
    """Return what a role had set for itself where it now has a mark."""
    mark = _read(value, _VALUE)
    return value if mark is None else mark.own


_DATABASE = f"""
d.datname, d.oid::int8, d.datallowconn,
       CASE WHEN pg_catalog.has_database_privilege(d.oid, 'CONNECT') OR pg_catalog.pg_has_role('pg_read_all_stats', 'USAGE')
            THEN pg_catalog.pg_database_size(d.oid) END,
       pg_catalog.pg_get_userbyid(d.datdba)::text,
       (SELECT pg_catalog.count(*) FROM pg_catalog.pg_stat_activity a WHERE a.datid = d.oid AND a.usesysid IS NOT NULL
        AND NOT (a.usename = current_user AND coalesce(a.application_name, '') ~ '{application.OURS}|^pg_dump$')),
       d.datconnlimit = -2"""
_MARKED = f"""
SELECT {_DATABASE}, r.rolname::text, s.xmin::text, pg_catalog.substr(c.item, pg_catalog.length(%s) + 1)
FROM pg_catalog.pg_db_role_setting s
JOIN pg_catalog.pg_database d ON d.oid = s.setdatabase
JOIN pg_catalog.pg_roles r ON r.oid = s.setrole AND (r.rolsuper OR r.rolname = current_user) = %s
CROSS JOIN pg_catalog.unnest(s.setconfig) c (item)
WHERE pg_catalog.starts_with(c.item, %s)
ORDER BY d.datname, r.rolname = current_user DESC, r.rolname
"""
_CLAIMED = f"""
SELECT {_DATABASE}, ''::text, ''::text, pg_catalog.shobj_description(d.oid, 'pg_database')
FROM pg_catalog.pg_database d
WHERE pg_catalog.starts_with(pg_catalog.shobj_description(d.oid, 'pg_database'), %s)
ORDER BY d.datname
"""


def find(connection: Connection) -> tuple[Marked, ...]:
    """Return the databases of this server that carry a mark of ours, ordered by name. Raise OpsError if the server fails."""
    with translated("could not look for set-aside databases"):
        return _found(connection)


def claims(connection: Connection) -> tuple[Marked, ...]:
    """Return the databases of which only an older version's note says what they are. Raise OpsError if the server fails."""
    with translated("could not look for set-aside databases"):
        return _claimed(connection, {marked.oid for marked in _found(connection)})


def of(connection: Connection, oid: int) -> Marked | None:
    """Return what says of the database with this oid that it was set aside. Raise psycopg.Error if the server fails.

    For those who look in a switch: what a failure there means, they say.
    """
    found = _found(connection)
    each = (*found, *_claimed(connection, {marked.oid for marked in found}))
    return next((marked for marked in each if marked.oid == oid), None)


def of_others(connection: Connection) -> tuple[Marked, ...]:
    """Return the databases of which only another role says that it set them aside, as any role may. Raise OpsError if that fails."""
    with translated("could not look for set-aside databases"):
        return _found(connection, believed=False)


def _found(connection: Connection, *, believed: bool = True) -> tuple[Marked, ...]:
    rows = connection.execute(_MARKED.encode(), [f"{_SETTING}=", believed, f"{_SETTING}={_VALUE}"]).fetchall()
    found: dict[int, Marked] = {}
    for marked in _marked(rows, _VALUE):
        found.setdefault(marked.oid, marked)
    return tuple(found.values())


def _claimed(connection: Connection, known: set[int]) -> tuple[Marked, ...]:
    rows = connection.execute(_CLAIMED.encode(), [_PREFIX]).fetchall()
    return tuple(m for m in _marked(rows, _PREFIX) if m.mark.oid in (None, m.oid) and m.oid not in known)


def _marked(rows: list[tuple[object, ...]], prefix: str) -> Iterator[Marked]:
    words = ("name", "oid", "is_open", "size_bytes", "owner", "others", "is_half_dropped", "role", "xid")
    for *fields, text in rows:
        if mark := _read(str(text), prefix):
            yield Marked.model_validate({**dict(zip(words, fields, strict=True)), "mark": mark})


def newest_first(found: Iterable[Marked]) -> tuple[Marked, ...]:
    """Return them in the order in which they were set aside, by the server's own count of transactions.

    A mark of an older version has none: it stands among the others by its time, as far as its row allows.
    """
    known = sorted((m for m in found if m.serial is not None), key=lambda m: m.serial or 0, reverse=True)
    for one in sorted((m for m in found if m.serial is None), key=lambda m: m.mark.at):
        place = next((at for at, other in enumerate(known) if _is_later(one, other)), len(known))
        known.insert(place, one)
    return tuple(known)


def _is_later(one: Marked, other: Marked) -> bool:
    """Whether a mark without a serial is the later one: never if its row was written before, which is told by 32 bits."""
    written_before = (
        other.serial is not None and one.xid and 0 < (other.serial - int(one.xid)) % 2**32 < 2**31
    )
    return not written_before and one.mark.at >= other.mark.at


def put(name: str, mark: Mark, role: str = "") -> sql.Composed:
    """Return the statement that marks a database, on our own role or the one that has the mark already."""
    who = sql.Identifier(role) if role else sql.SQL("CURRENT_USER")
    return _setting(who, name, mark.setting)


def take_off(marked: Marked, name: str) -> sql.Composed:
    """Return the statement that takes mark or note off a database, which has this name by then; what it hid comes back."""
    if marked.is_claim:
        return comment(name, marked.mark.comment)
    return _setting(sql.Identifier(marked.role), name, marked.mark.own)


def _setting(who: sql.Composable, name: str, value: str | None) -> sql.Composed:
    change = sql.SQL("RESET {}") if value is None else sql.SQL("SET {} = {}")
    what = change.format(*(sql.Identifier(_SETTING), sql.Literal(value))[: 1 if value is None else 2])
    return sql.SQL("ALTER ROLE {} IN DATABASE {} {}").format(who, sql.Identifier(name), what)


def comment(name: str, text: str) -> sql.Composed:
    """Return the statement that gives a database this comment; an empty one takes it away."""
    return sql.SQL("COMMENT ON DATABASE {} IS {}").format(sql.Identifier(name), sql.Literal(text or None))


def name_aside(live: str, at: datetime, taken: frozenset[str]) -> str:
    """Return a free name for the database that is set aside: the live one's, and the time (UTC).

    The name is shortened, at a character's boundary, to the 63 bytes that the server keeps.
    """
    stamp = at.astimezone(UTC).strftime("%Y%m%d_%H%M%S")
    for number in range(1, len(taken) + 2):
        ending = f"_aside_{stamp}" + (f"_{number}" if number > 1 else "")
        head = live.encode()[: NAME_BYTES - len(ending)].decode(errors="ignore")
        if (name := head + ending) not in taken:
            return name
    raise AssertionError("more names tried than there are databases")
