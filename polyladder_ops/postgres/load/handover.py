"""What the owner of a database does for the login that loads it: some statements in their place, some when all else is done."""

from __future__ import annotations

import re
from collections import deque
from typing import TYPE_CHECKING

from polyladder_ops.postgres.load import hands, login
from polyladder_ops.postgres.load.hands import REFUSED, Hand, Moment, hand
from polyladder_ops.postgres.load.loader import Loader
from polyladder_ops.postgres.proof.differences import Difference

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from polyladder_ops.postgres.load.loader import Accepted
    from polyladder_ops.postgres.load.login import Login
    from polyladder_ops.postgres.session import Connection

__all__ = ["Handover"]


_INSERT = b"INSERT INTO "
_TABLESPACE = re.compile(rb"SET default_tablespace (?:=|TO) (?!''\Z)")


class Handover:
    """The owner's side of a load: `takes` and `does` are asked by the login's `Loader`; `annotate`, then `give`, end it.

    `open_to_others` names the functions that others than their owners may call in the source, None if nobody knows. `accept` and `tick` as in
    `Loader`. Raise what a Loader raises.
    """

    def __init__(
        self,
        owner: Connection,
        role: Login,
        *,
        open_to_others: frozenset[str] | None = None,
        accept: Collection[str] = (),
        tick: Callable[[], None] | None = None,
    ) -> None:
        self._owner = owner
        self._login = role
        self._open_to_others = open_to_others
        self._loader = Loader(owner, accept=accept, tick=tick)
        self._last: list[tuple[bytes, int]] = []
        self._code: frozenset[tuple[int, int, int]] | None = None
        self._settings: deque[tuple[bytes, int]] = deque()  # that the owner's session has not heard yet
        self._owes_use = False  # of what extensions brought
        self._tablespaces_are_given = False

    @property
    def accepted(self) -> tuple[Accepted, ...]:
        """What the server refused the owner and was let through."""
        return self._loader.accepted

    def takes(self, text: bytes, place: int, *, before: Callable[[], None]) -> bool:
        """Whether a statement is the owner's alone; what is done in its place is done after `before`, which sends the login's."""
        whose = hand(text)
        if whose in (Hand.LOADER, Hand.BOTH):
            self._give_use()
        if text.startswith(_INSERT):
            before()
            self.rows_come()
        if whose in (Hand.LAST, Hand.BOTH):
            self._last.append((text, place))
        if whose is Hand.BOTH:
            self._settings.append((text, place))
            self._give_tablespaces(text)
        if whose is Hand.OWNER:
            before()
            self._hear(place)
            self._loader.do(text, place)
            self._owes_use = True
        return whose in (Hand.LAST, Hand.OWNER)

    def does(self, text: bytes, place: int, state: str) -> bool:
        """Whether what the server refused the login is one of the things that only a superuser may, and is done now."""
        if state not in REFUSED:
            return False
        self._give_use()
        form = hands.for_a_superuser(text, backslash_escapes=self._loader.escapes)
        if form is None or (form.validated and login.made_validator(self._owner, self._login)):
            return False
        self._hear(place)
        self._loader.finish()
        login.own_rules(self._owner)
        self._loader.do(text, place)
        self._loader.finish()
        if form.name in ("create function", "create foreign table"):
            login.take(self._owner, self._login)
        if form.name == "create function" and self._open_to_others is not None:
            login.restrict(self._owner, self._login, self._open_to_others)
        if form.name == "create server":
            login.give_use(self._owner, self._login)
        return True

    def _hear(self, place: int) -> None:
        """Take the settings that stand before a statement: those behind it may name what it makes."""
        while self._settings and self._settings[0][1] < place:
            self._loader.do(*self._settings.popleft())

    def _give_use(self) -> None:
        """Send what is the owner's, and let the login use what that brought: once for extensions that stand in a row."""
        if self._owes_use:
            self._owes_use = False
            self._loader.finish()
            login.give_use(self._owner, self._login)

    def _give_tablespaces(self, setting: bytes) -> None:
        """Give them only if the dump names one: before 15 rows' code may make anybody a member of the login."""
        if self._tablespaces_are_given or not _TABLESPACE.match(setting):
            return
        self._tablespaces_are_given = True
        login.give_tablespaces(self._owner, self._login)

    def rows_come(self) -> None:
        """Keep in mind what code there is: from now on rows run it, and nothing of it changes in an honest dump."""
        self._give_use()
        if self._code is None:
            self._code = login.code(self._owner)

    def changed(self) -> tuple[str, ...]:
        """Return what rows have changed of the code, by name: what they put back was in use meanwhile, too."""
        if self._code is None:
            return ()
        # A dump makes functions behind the rows, too: those that need a table's key.
        gone = self._code - login.code(self._owner)
        return login.named(self._owner, gone) if gone else ()

    @property
    def refreshed(self) -> tuple[bytes, ...]:
        """The materialized views that are to be filled, as the dump spells them."""
        return tuple(hands.refreshed(t) for t, _ in self._last if _moment(t) is Moment.REFRESH)

    def annotate(self) -> None:
        """Say what is only said about things: comments, labels."""
        self._give_use()
        self._say(self._of(Moment.NOTES))

    def refresh(self, connection: Connection) -> None:
        """Have the materialized views filled by another session: of a dump whose definitions nobody can judge by the login's."""
        loader = Loader(connection)
        for text, place in self._of(Moment.REFRESH):
            loader.do(text, place)
        loader.finish()
        self._last = [said for said in self._last if _moment(said[0]) is not Moment.REFRESH]

    def settle(self) -> None:
        """Read strings again as the dump has them read; the owner's session had something else to do."""
        if self._loader.escapes:
            self._owner.execute("SET standard_conforming_strings = off")

    def give(self) -> None:
        """Give everything to whom it belongs, and drop the login, whose sessions have ended; `fill` comes after it."""
        login.return_public(self._owner, self._login)
        self._say(self._of(Moment.RIGHTS))
        login.end(self._owner, self._login)

    def rewritten_rows(self) -> list[Difference]:
        """Return the tables whose rows were changed or deleted since they were loaded: a dump only adds some."""
        if not self._code:
            return []
        return [
            Difference("table", name, "rows of it were changed while others were loaded")
            for name in login.rewritten(self._owner)
        ]

    def fill(self) -> None:
        """Fill the views and arm the event triggers, once it is known what they run."""
        self._say(self._of(Moment.REFRESH))
        # They answer whatever is changed, with the rights of who changes it: nothing comes after them.
        self._say(self._of(Moment.VERY_LAST))

    def shut_out(self) -> None:
        """Let the login in no more than it is: what it runs may have told somebody its password, or given it another one."""
        login.shut_out(self._owner, self._login)

    def _of(self, moment: Moment) -> Iterator[tuple[bytes, int]]:
        """Yield the statements of one moment, with the settings that stand among them; nothing if there are none."""
        with_settings = [said for said in self._last if _moment(said[0]) in (moment, None)]
        has_any = any(_moment(text) for text, _ in with_settings)
        return iter(with_settings if has_any else ())

    def _say(self, statements: Iterable[tuple[bytes, int]]) -> None:
        for text, place in statements:
            self._loader.do(text, place)
        self._loader.finish()


def _moment(statement: bytes) -> Moment | None:
    """Return when a statement is said; None for a setting, which is said whenever others are."""
    return None if hand(statement) is Hand.BOTH else hands.moment(statement)
