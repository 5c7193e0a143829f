"""An encrypted file's bytes on their way to us: small ones are decrypted here, large ones by a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from polyladder_ops import encryption, portable
from polyladder_ops.encryption import Altered
from polyladder_ops.errors import OpsError

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

__all__ = ["SMALL", "by_a_process", "here"]

SMALL = 1 << 20  # age needs less time for it than a process to start
_BLOCK = 1 << 18
_GRACE_S = 1.0  # it has nothing to clean up
_PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from polyladder_ops.decryptor import main; main()"


def here(sealed: bytes, keys: Sequence[Any]) -> bytes:
    """Return what is inside these bytes. Raise as `encryption.decrypt` does."""
    # No function of ours passes through age: a Ctrl-C inside it would come out as damaged bytes.
    opened = io.BytesIO()
    encryption.decrypt(io.BytesIO(sealed), opened, keys)
    return opened.getvalue()


def by_a_process(path: Path, keys: Sequence[Any], *, hashed: bool) -> Generator[bytes, None, tuple[int, str]]:
    """Yield what is inside a file; return the file's size and, if `hashed`, its sha256.

    Raise Altered, at the end or before, if the file is not whole; OSError if it can't be read, NoKey if no key fits, OpsError
    if the process does not end as it should: nothing that was yielded may be believed then.
    """
    argv = [sys.executable, "-I", "-c", _PROGRAM, str(Path(__file__).parents[1])]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    process = portable.start(argv, env=portable.clean_environment(), bufsize=0, **pipes)
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        portable.widen(process.stdout, 4 * _BLOCK)
        order = {"path": str(path.absolute()), "keys": encryption.texts(keys), "hashed": hashed}
        with contextlib.suppress(BrokenPipeError):  # what it died of, it says
            process.stdin.write(json.dumps(order).encode() + b"\n")
        while block := process.stdout.read(_BLOCK):
            yield block
        said = process.stderr.read()
        return _verdict(process.wait(), said)
    finally:
        portable.end(process, grace_s=_GRACE_S)
        for pipe in (process.stdin, process.stdout, process.stderr):
            pipe.close()


def _verdict(returncode: int, said: bytes) -> tuple[int, str]:
    try:
        verdict = json.loads(said) if returncode == 0 else {}
    except ValueError:
        verdict = {}
    if error := verdict.get("altered"):
        raise Altered(error[0], detail=error[1])
    if error := verdict.get("unread"):
        raise OSError(*error)
    if error := verdict.get("shut"):
        raise encryption.NoKey(error[0], detail=error[1], hint=error[2])
    if error := verdict.get("failed"):
        raise OpsError(error[0], detail=error[1], hint=error[2])
    if "sha256" not in verdict:
        raise _died(returncode, said)
    return verdict["size_bytes"], verdict["sha256"]


def _died(returncode: int, said: bytes) -> OpsError:
    """Return what a process that told no verdict ended with; its own words may end in a Python error."""
    how = f"was killed by signal {-returncode}" if returncode < 0 else f"ended with exit code {returncode}"
    last = said.decode("utf-8", "replace").strip().rsplit("\n", 1)[-1][:300]
    return OpsError(
        f"the process that decrypts the backup {how}",
        detail=f"It said: {last}" if last else "It said nothing.",
        hint="That is no verdict on the backup: try again, and look at the machine's memory.",
    )
