"""A set-aside database is dropped only after a backup of this very state of it that comes back."""

from __future__ import annotations

import errno
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pyrage
import pytest

from polyladder_ops import backups, records, setaside, verification
from polyladder_ops.errors import Mismatch, OpsError, Refused
from polyladder_ops.postgres import databases, marks, session, switch
from polyladder_ops.restore import discard
from polyladder_ops.sandbox import installations
from polyladder_ops.sandbox.installations import Installation
from polyladder_ops.site import Site
from tests import majors
from tests.conftest import run
from tests.test_setaside import place, restored, taken  # noqa: F401 - fixtures
from tests.test_tasks import url
from tests.test_tasks_restore import shop  # noqa: F401 - fixtures
from tests.test_whose import set_aside

if TYPE_CHECKING:
    from collections.abc import Callable

    from polyladder_ops.catalog import Backup
    from polyladder_ops.sandbox.server import Server
    from tests.test_setaside import Place
    from tests.test_tasks_restore import Shop


def first_backup(stage: Place, aside: str) -> Backup:
    """Take a verified backup of a closed database, as a discard does that ends before the drop."""
    with closing(session.connect(stage.live.with_database("postgres"))) as connection:
        (found,) = [m for m in marks.find(connection) if m.name == aside]
        switch.open_to_dump(connection, found)
        made = setaside.take(stage.live.with_database(aside), stage.site, backups.Options(new_source=True))
        switch.close_again(connection, found)
    assert verification.verify_stored(made, []).passed
    return made


def test_a_backup_that_has_rotted_since_is_not_the_one_after_which_it_is_dropped(restored: Place) -> None:  # noqa: F811
    (aside,) = restored.asides()
    first = first_backup(restored, aside)
    rotten = bytearray(first.path.read_bytes())
    rotten[len(rotten) // 2] ^= 1
    first.path.write_bytes(rotten)
    kept = restored.discard().kept
    assert kept is not None
    assert kept.id != first.id
    assert verification.verify_stored(kept, []).passed


def test_a_row_that_was_written_since_the_first_backup_is_in_the_one_after_which_it_is_dropped(
    restored: Place,  # noqa: F811
) -> None:
    (aside,) = restored.asides()
    first = first_backup(restored, aside)
    run(restored.live.with_database("postgres"), "ALTER DATABASE %I ALLOW_CONNECTIONS true", aside)
    restored.tell("INSERT INTO public.deck (title) VALUES ('a payment')", aside)
    run(restored.live.with_database("postgres"), "ALTER DATABASE %I ALLOW_CONNECTIONS false", aside)
    kept = restored.discard().kept
    assert kept is not None
    assert kept.manifest.rows == first.manifest.rows + 1


WRITTEN = {
    "a row": "INSERT INTO public.deck (title) VALUES ('a payment')",
    "a row changed": "UPDATE public.deck SET title = 'paid' WHERE id = 1",
    "a table": "CREATE TABLE public.payment AS SELECT 1 AS a",
    "a sequence": "SELECT nextval('public.deck_id_seq')",
    "a large object": "SELECT lo_from_bytea(0, 'paid')",
    "a view": "CREATE VIEW public.payments AS SELECT 1 AS a",
}


@pytest.mark.parametrize("what", WRITTEN)
def test_what_somebody_writes_while_it_is_dumped_is_not_dropped(what: str, restored: Place) -> None:  # noqa: F811
    (aside,) = restored.asides()
    written: list[str] = []

    def write(_when: object) -> None:
        if not written:
            written.append(what)
            restored.tell(WRITTEN[what], aside)

    with pytest.raises(Refused, match="was changed while it was dumped, so it was not dropped"):
        restored.discard(dumped=write)
    assert written
    assert restored.opened(aside) is False
    assert restored.discard().kept is not None


def test_who_came_in_while_it_was_dumped_and_stays_keeps_it(
    restored: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(discard, "_LEAVING_S", 0.5)
    (aside,) = restored.asides()
    with ExitStack() as stack:

        def enter(_when: object) -> None:
            stack.enter_context(closing(session.connect(restored.live.with_database(aside))))

        with pytest.raises(Refused, match=f"somebody is in {aside}, so it was not dropped"):
            restored.discard(dumped=enter)
    assert restored.opened(aside) is False


def test_who_came_in_without_a_name_is_told_without_the_mark_that_he_bears(
    restored: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mark is a setting application_name, which is every session's that gives itself none."""
    monkeypatch.setattr(discard, "_LEAVING_S", 0.5)
    (aside,) = restored.asides()
    with ExitStack() as stack:

        def enter(_when: object) -> None:
            words = {**restored.live.with_database(aside).parameters}
            words.pop("application_name", None)
            app = stack.enter_context(closing(psycopg.connect(**words)))  # type: ignore[arg-type]
            assert str(app.execute("SHOW application_name").fetchone()).startswith("('polyladder-ops mark: {")

        with pytest.raises(Refused, match=f"somebody is in {aside}, so it was not dropped") as caught:
            restored.discard(dumped=enter)
    assert "of postgres (a session)" in caught.value.detail
    assert "mark" not in caught.value.detail


UNRESTORABLE = """
CREATE FUNCTION public.ok(a int) RETURNS bool LANGUAGE sql AS 'SELECT true';
CREATE TABLE public.judged (a int CHECK (public.ok(a))); INSERT INTO public.judged VALUES (1);
CREATE OR REPLACE FUNCTION public.ok(a int) RETURNS bool LANGUAGE sql AS 'SELECT false'
"""


def test_what_only_comes_back_on_paper_stays(place: Place) -> None:  # noqa: F811
    place.tell(UNRESTORABLE)
    place.restore()
    (aside,) = place.asides()
    for accept in ((), (discard.NOT_RESTORED,)):
        with pytest.raises(Mismatch, match="does not come back as what was dumped, so nothing was dropped"):
            place.discard("", *accept)
        assert place.opened(aside) is False
    (made, _) = place.kept()
    assert verification.verify_stored(made, []).passed


def test_what_does_not_come_back_has_failed_though_that_can_not_be_recorded(
    place: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place.tell(UNRESTORABLE)
    place.restore()
    (aside,) = place.asides()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(records, "append", full)
    for accept in ((), (discard.NOT_RESTORED,)):
        with pytest.raises(Mismatch, match="does not come back as what was dumped, so nothing was dropped"):
            place.discard("", *accept)
        assert place.opened(aside) is False


def test_without_a_server_to_restore_it_on_it_stays_unless_that_is_accepted(restored: Place) -> None:  # noqa: F811
    (aside,) = restored.asides()
    nowhere = "postgresql://postgres@127.0.0.1:1/postgres"
    restored.site = Site(restored.site.settings.model_copy(update={"scratch_url": nowhere}))
    with pytest.raises(
        Refused, match="could not be restored here to prove it, so nothing was dropped"
    ) as caught:
        restored.discard()
    assert "--accept=not-restored" in caught.value.hint
    assert restored.opened(aside) is False
    done = restored.discard("", discard.NOT_RESTORED)
    assert restored.opened(aside) is None
    assert [sentence.partition(":")[0] for sentence in done.accepted] == ["not-restored"]
    assert done.kept is not None
    assert done.kept.id == restored.kept()[0].id


def test_what_no_dump_holds_keeps_it_unless_that_is_accepted(place: Place) -> None:  # noqa: F811
    place.tell("COMMENT ON TYPE public.deck IS 'what pg_dump passes over'")
    place.restore()
    (aside,) = place.asides()
    with pytest.raises(Refused, match=f"1 things of {aside} are in no dump, so it was not dropped"):
        place.discard()
    assert place.opened(aside) is False
    done = place.discard("", discard.NOT_INCLUDED)
    assert [sentence.partition(":")[0] for sentence in done.accepted] == ["not-included"]


@pytest.mark.parametrize("flag", ["--without-backup", "--accept=not-included"])
def test_a_template_that_was_set_aside_is_dropped_too(flag: str, shop: Shop) -> None:  # noqa: F811
    run(shop.live.with_database("postgres"), "ALTER DATABASE %I IS_TEMPLATE true", shop.name)
    set_aside(shop)
    done = shop.ask("restore.discard", "--force", flag)
    assert (done.code, shop.asides()) == (3 if "not-included" in flag else 0, []), done


def test_a_template_that_could_not_be_dropped_is_one_again(
    restored: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (aside,) = restored.asides()
    server = restored.live.with_database("postgres")
    run(server, "ALTER DATABASE %I IS_TEMPLATE true", aside)

    def fail(*_: object) -> None:
        raise OpsError("the server refuses")

    with closing(session.connect(server)) as connection:
        with monkeypatch.context() as broken:
            broken.setattr(databases, "drop", fail)
            with pytest.raises(OpsError, match="the server refuses"):
                restored.discard("", discard.NOT_INCLUDED)
        question = "SELECT datistemplate, datallowconn FROM pg_database WHERE datname = %s"
        assert connection.execute(question, [aside]).fetchone() == (True, False)
    restored.discard("", discard.NOT_INCLUDED)
    assert restored.asides() == []


def test_what_was_accepted_is_told_by_exit_code_3(shop: Shop, server: Server) -> None:  # noqa: F811
    set_aside(shop)
    dead = {"POLYLADDER_SCRATCH_URL": "postgresql://postgres@127.0.0.1:1/postgres"}
    assert shop.ask("restore.discard", "--force", **dead).code == 4
    done = shop.ask("restore.discard", "--force", "--accept=not-restored", **dead)
    assert (done.code, "is dropped, with what was accepted" in done.err) == (3, True), done
    assert shop.asides() == []
    assert shop.ask("restore.discard", "--force", "--accept=nothing").code == 2


def test_a_dry_run_of_a_discard_is_refused_where_the_real_one_is(
    shop: Shop,  # noqa: F811
    tmp_path: Path,
) -> None:
    (aside,) = [set_aside(shop)]
    recipient = str(pyrage.x25519.Identity.generate().to_public())
    for words in (["restore.discard", "--force"], ["-R", "restore.discard"]):
        done = shop.ask(*words, BACKUP_AGE_RECIPIENTS=recipient)
        assert (done.code, "could not be verified here" in done.err) == (4, True), done
    dry = shop.ask("-R", "restore.discard")
    assert (dry.code, dry.out) == (
        0,
        f"would drop {aside} after a backup that is restored on a scratch server\n",
    )
    assert shop.asides() == [aside]


@pytest.mark.parametrize(
    "words", [["restore.discard", "--force"], ["-R", "restore.discard"]], ids=["real", "dry"]
)
def test_where_no_backup_could_be_proved_none_is_taken_and_the_dry_run_says_so(
    words: list[str],
    shop: Shop,  # noqa: F811
    need: Callable[[object, str], None],
) -> None:
    aside = set_aside(shop)
    other = next((major for major in (15, 16, 17, 14, 13) if majors.programs(major)), 0)
    need(other, "no PostgreSQL of another major (python -m tests.majors)")
    before = sorted(shop.folder.iterdir())
    with majors.running(other) as scratch:
        refused = shop.ask(*words, POLYLADDER_SCRATCH_URL=url(scratch))
    assert refused.code == 4, refused
    assert (
        f"a backup of {aside} could not be restored here to prove it, so nothing was dropped" in refused.err
    )
    assert f"POLYLADDER_SCRATCH_URL has version {other}, the backup's server 18" in refused.err
    assert "--accept=not-restored" in refused.err
    assert sorted(shop.folder.iterdir()) == before
    assert shop.ask("-R", "restore.discard", "--accept=not-restored").code == 0


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Installation(Path("/pg15"), 15), "there is no PostgreSQL 18 here to restore into"),
        (Installation(Path("/pg15"), 15, is_embedded=True), "the embedded PostgreSQL has version 15, the backup's server 18"),
    ],
    ids=["none", "another major"],
)  # fmt: skip
def test_where_no_server_of_its_major_is_installed_nothing_is_dumped(
    found: Installation,
    why: str,
    restored: Place,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(installations, "find", lambda _account: (found,))
    restored.site = Site(restored.site.settings.model_copy(update={"scratch_url": ""}))
    before = len(restored.asked)
    with pytest.raises(Refused, match="could not be restored here to prove it") as caught:
        restored.discard()
    assert why in caught.value.detail
    assert (restored.kept(), len(restored.asked)) == ([], before)
    assert restored.discard("", discard.NOT_RESTORED).kept is not None
