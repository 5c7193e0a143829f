"""The sandbox as a newcomer meets it: real `invoke` processes, with production exported all the while."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from polyladder_ops.sandbox import damage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ROOT = Path(__file__).parents[1]
CANARY = "s3cret-canary"
PRODUCTION = {
    "DATABASE_URL": f"postgres://owner:{CANARY}@production.example:5432/polyladder",
    "FLY_API_TOKEN": f"fly-{CANARY}",
    "AWS_S3_BUCKET": "production-backups",
    "AWS_SECRET_ACCESS_KEY": CANARY,
}


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(scope="module")
def call(
    state: Path, need: Callable[[object, str], None]
) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Run a task in the module's own state folder, production's variables exported, no terminal."""
    environ = {
        name: text for name, text in os.environ.items() if not name.startswith(("POLYLADDER_", "BACKUP_"))
    }
    environ |= {**PRODUCTION, "POLYLADDER_STATE_DIR": str(state)}

    def invoke(*argv: str, **more: str) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "invoke", *argv],
            cwd=ROOT,
            env={**environ, **more},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )
        assert CANARY not in done.stdout + done.stderr
        return done

    first = invoke("sandbox.up", "--scale=0.02")
    need(first.returncode == 0 or "is not installed" not in first.stderr, first.stderr)
    assert first.returncode == 0, first.stderr
    yield invoke
    assert invoke("sandbox.down", "--force").returncode == 0
    assert invoke("sandbox.status").returncode == 3


def document(done: subprocess.CompletedProcess[str]) -> Any:
    return json.loads(done.stdout)


def test_the_drill_passes_and_says_so_for_programs(call: Callable[..., Any]) -> None:
    done = call("sandbox.drill", "--json")
    assert done.returncode == 0, done.stderr
    told = document(done)
    assert told["passed"] is True
    assert told["peak_bytes"] is None or 20_000_000 < told["peak_bytes"] < 150_000_000
    assert [step["step"] for step in told["steps"]] == [
        "backup under a writer",
        "verify",
        "restore",
        "proof",
        "checks",
        "live is told apart",
    ]
    assert all(step["ok"] for step in told["steps"])


SPOILED = {
    "row": "table learning.word: its",
    "sequence": "sequence learning.word_id_seq: it stands at",
    "grant": "table learning.word: its grants differ: missing polyladder_readonly",
    "index": "index learning.word_lemma_trgm_idx: it is missing",
    "large-object": "large object 91003: its",
}


@pytest.mark.parametrize("kind", SPOILED)
def test_a_drill_exits_3_and_names(kind: str, call: Callable[..., Any]) -> None:
    done = call("sandbox.drill", f"--spoil={kind}")
    assert done.returncode == 3
    assert "error: the drill failed" in done.stderr
    assert SPOILED[kind] in done.stderr
    assert "proved:" not in done.stdout


def test_everything_that_can_be_spoiled_is_tried() -> None:
    assert SPOILED.keys() == damage.SPOILS.keys()


@pytest.mark.parametrize(
    ("argv", "code", "said"),
    [
        (("verify",), 2, "no backup is named"),
        (("verify", "--backup=-x"), 2, "looks like a flag"),
        (("verify", "--backup=2026-01-05"), 1, "at or before 2026-01-05"),
        (("verify", "--backup=latest", "--level=full"), 2, "no level"),
        (("verify", "--backup=/nowhere.sql.gz"), 1, "no file"),
        (("backup.show",), 2, "no backup is named"),
        (("sandbox.drill", "--scale=much"), 2, "no size"),
        (("sandbox.drill", "--spoil=everything"), 2, "no --spoil"),
        (("backup", "--site=Pro duction"), 2, "POLYLADDER_SITE"),
        (("bakup",), 1, "bakup"),
    ],
)
def test_wrong_words_are_named(argv: tuple[str, ...], code: int, said: str, call: Callable[..., Any]) -> None:
    done = call(*argv, **({} if "--site=Pro duction" in argv else {"POLYLADDER_SITE": "sandbox"}))
    assert done.returncode == code
    assert said in done.stderr
