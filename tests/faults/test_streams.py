"""A run whose standard streams are closed, full or read by nobody does its work to the end, and writes into no file of ours."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import catalog, portable, verification
from tests.test_tasks import ROOT, Ended
from tests.test_tasks_restore import shop, taken  # noqa: F401

if TYPE_CHECKING:
    from polyladder_ops.catalog import Backup
    from tests.test_tasks_restore import Shop

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no shell that closes a stream")

# What becomes of the streams by their numbers, and the code of a run that is fine; one whose result did not get out is not.
WAYS: dict[str, tuple[dict[int, str], int]] = {
    "no stdout": ({1: "closed"}, 0),
    "no stderr": ({2: "closed"}, 0),
    "no stdin": ({0: "closed"}, 0),
    "none of them": ({0: "closed", 1: "closed", 2: "closed"}, 0),
    "a full stdout": ({1: "full"}, 1),
    "a full stderr": ({2: "full"}, 0),
    "both are full": ({1: "full", 2: "full"}, 1),
    "nobody reads stdout": ({1: "gone"}, 1),
    "nobody reads stderr": ({2: "gone"}, 0),
    "nobody reads either": ({1: "gone", 2: "gone"}, 1),
}


def run(place: Shop, way: str, *words: str) -> Ended:
    """Run a command whose streams lead elsewhere; what is left of them is captured. Its code is as it should be."""
    streams, code = WAYS[way]
    reader, gone = os.pipe()
    os.close(reader)
    full = os.open("/dev/full", os.O_WRONLY)

    def lead() -> None:
        for number, how in streams.items():
            if how == "closed":
                os.close(number)
            else:
                os.dup2({"full": full, "gone": gone}[how], number)

    paths = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-m", "invoke", *words],
        cwd=place.project.root,
        env={**portable.clean_environment(), "PYTHONPATH": paths, **place.project.variables},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        preexec_fn=lead,
    )
    os.close(gone)
    os.close(full)
    assert place.live.password not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.returncode == code, done
    if streams.get(1) == "full" and 2 not in streams:
        assert done.stderr.endswith("error: could not write the output\ndetail: No space left on device.\n")
    return Ended(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("way", WAYS)
def test_a_backup_is_taken_whole(way: str, shop: Shop) -> None:  # noqa: F811
    before = {backup.id for backup in catalog.scan(shop.folder, "production").backups}
    run(shop, way, "backup", "--new-source")
    (made,) = (b for b in catalog.scan(shop.folder, "production").backups if b.id not in before)
    assert verification.verify_stored(made, ()).passed


@pytest.mark.parametrize("way", WAYS)
def test_a_restore_is_done_to_its_end(way: str, shop: Shop) -> None:  # noqa: F811
    run(shop, way, "restore", "--backup=latest", "--force")
    assert (shop.decks(), len(shop.asides())) == (500, 1)


@pytest.mark.parametrize("way", WAYS)
def test_what_only_looks_answers_by_its_code(way: str, shop: Shop, taken: tuple[object, Backup]) -> None:  # noqa: F811
    done = run(shop, way, "backup.list", "--json")
    assert (taken[1].id in done.out) == (1 not in WAYS[way][0])
