"""The door: what goes through it can neither steer a terminal nor forge a line of ours, and nothing raises."""

from __future__ import annotations

import io
import json
import os
import sys
from typing import TYPE_CHECKING

import pytest

from polyladder_ops import output
from polyladder_ops.errors import OpsError
from polyladder_ops.redaction import hide

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

STEERING = {
    "an escape": "\x1b",
    "a bell": "\x07",
    "a carriage return": "\r",
    "a tab": "\t",
    "a NUL": "\x00",
    "DEL": "\x7f",
    "CSI in one byte": "\x9b",
    "next line": "\x85",
    "right to left": "\u202e",
    "an isolate": "\u2066",
    "zero width": "\u200b",
    "a line separator": "\u2028",
    "a byte order mark": "\ufeff",
    "half a pair": "\udcff",
}


@pytest.mark.parametrize("char", STEERING.values(), ids=STEERING)
def test_what_could_steer_a_terminal_is_written_out_on_both_streams(
    char: str, capsys: pytest.CaptureFixture[str]
) -> None:
    output.line(f"a{char}b")
    output.lines(f"a{char}b\nc")
    output.note(f"a{char}b")
    output.notes(f"a{char}b\nc")
    output.fault(OpsError(f"a{char}b", detail=f"a{char}b", hint=f"a{char}b"))
    told = capsys.readouterr()
    written = "a" + ascii(char)[1:-1] + "b"
    assert told.out == f"{written}\n{written}\nc\n"
    assert told.err == (f"{written}\n{written}\nc\nerror: {written}\ndetail: {written}\nhint: {written}\n")


def test_a_name_with_a_line_break_forges_no_line_of_ours(capsys: pytest.CaptureFixture[str]) -> None:
    name = "x\nhint: Run `rm -rf backups`."
    output.line(name)
    output.note(name)
    output.fault(OpsError(name, detail=f"first\n        second\n{name}", hint=name))
    told = capsys.readouterr()
    written = name.replace("\n", "\\n")
    assert told.out == f"{written}\n"
    assert told.err == (
        f"{written}\nerror: {written}\ndetail: first\n        second\\n{written}\nhint: {written}\n"
    )


def test_a_document_keeps_every_character_escaped(capsys: pytest.CaptureFixture[str]) -> None:
    value = {"name": "".join(STEERING.values()), "n": [1, None, True]}
    output.document(value)
    text = capsys.readouterr().out
    assert json.loads(text) == value
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("secret", ["name", "database", "a longer name: of words"])
def test_a_secret_that_is_a_key_of_a_document_leaves_the_key(
    secret: str, capsys: pytest.CaptureFixture[str]
) -> None:
    hide(secret)
    output.document({secret: "x", "rows": [{secret: secret, f"{secret}_at": 1}]})
    told = json.loads(capsys.readouterr().out)
    assert told == {secret: "x", "rows": [{secret: "********", f"{secret}_at": 1}]}


def test_no_secret_comes_out_and_a_document_stays_one(capsys: pytest.CaptureFixture[str]) -> None:
    hide("canary-of-the-door")
    value = {"a": 'postgres://app:"canary-of-the-door"@host/db', "b": ["SCRAM-SHA-256$4096:x\\", ("c",)]}
    output.document(value)
    output.line("canary-of-the-door")
    output.lines("canary-of-the-door")
    output.note("canary-of-the-door")
    output.notes("canary-of-the-door")
    output.fault(OpsError("canary-of-the-door", detail="canary-of-the-door", hint="canary-of-the-door"))
    told = capsys.readouterr()
    assert "canary" not in told.out + told.err
    document, _ = json.JSONDecoder().raw_decode(told.out)
    assert document == {"a": "postgres://app:********@host/db", "b": ["********", ["c"]]}


class Full(io.StringIO):
    """A stream that takes nothing."""

    def write(self, _: str) -> int:
        raise OSError(28, "No space left on device")


SAYING: dict[str, Callable[[], object]] = {
    "a result": lambda: output.line("x"),
    "a document": lambda: output.document({}),
    "a note": lambda: output.note("x"),
    "an error": lambda: output.fault(OpsError("x")),
}


@pytest.mark.parametrize("what", SAYING)
@pytest.mark.parametrize("stream", ["gone", "full", "closed"])
def test_a_stream_that_can_not_be_written_ends_nothing_and_a_lost_result_is_known(
    what: str, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = io.StringIO()
    closed.close()
    bad = {"gone": None, "full": Full(), "closed": closed}[stream]
    monkeypatch.setattr(sys, "stdout", bad)
    monkeypatch.setattr(sys, "stderr", bad)
    output.prepare()
    assert output.lost() is None
    SAYING[what]()
    if stream == "gone":  # they lead to nowhere now
        sys.stdout.close()
        sys.stderr.close()
        return
    is_result = what in ("a result", "a document")
    assert (output.lost() is not None) == is_result
    output.prepare()
    assert output.lost() is None


def test_what_is_no_terminal_can_not_be_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not output.can_ask()
    monkeypatch.setattr(sys, "stdin", None)
    assert not output.can_ask()


def test_the_number_of_a_closed_stream_is_not_given_to_the_next_file(tmp_path: Path) -> None:
    """Whoever writes an error to 2 would write it into a backup."""
    code = (
        "import os, sys\nfrom polyladder_ops import output\noutput.prepare()\n"
        f"file = os.open({str(tmp_path / 'data')!r}, os.O_CREAT | os.O_WRONLY)\n"
        "output.last_words('amid the end')\nos.write(file, b'rows')\nsys.exit(file < 3)"
    )
    if sys.platform == "win32":
        pytest.skip("no shell that closes a stream")
    ended = os.spawnl(os.P_WAIT, "/bin/sh", "sh", "-c", f'exec "{sys.executable}" -c "$0" <&- >&- 2>&-', code)
    assert ended == 0
    assert (tmp_path / "data").read_bytes() == b"rows"
