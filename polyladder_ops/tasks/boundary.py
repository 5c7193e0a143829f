"""Where the library meets Invoke: errors become text and exit codes, signals become Interrupted, flags are looked at.

Every task is made with `task` from here. What the library raises on purpose ends as its three lines on stderr and its
exit code; anything else is a bug and keeps its traceback. Either way no secret and no control character comes out.
"""

from __future__ import annotations

import atexit
import contextlib
import errno
import functools
import gc
import inspect
import math
import os
import re
import sys
import threading
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from invoke.exceptions import Exit, UnexpectedExit
from invoke.tasks import Task
from invoke.tasks import task as invoke_task

from polyladder_ops import output, runs, undoing
from polyladder_ops.errors import Interrupted, OpsError, Refused, UsageError
from polyladder_ops.interrupts import stop_on_signals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from invoke.context import Context
    from invoke.parser.argument import Argument

    from polyladder_ops.settings import Settings

__all__ = [
    "OpsTask",
    "allowed_s",
    "as_exit",
    "cleaning_in_sight",
    "confirm",
    "is_dry",
    "number_of",
    "open_settings",
    "project_root",
    "refuse_dry",
    "refuse_flags_as_values",
    "split_items",
    "task",
    "would_ask",
]

# At its end Python looks for garbage among all that was imported, for 60 ms: a sixth of a short task.
atexit.register(gc.freeze)

# What a write to stdout fails with when its reader is gone; Windows says EINVAL.
_READER_GONE = {errno.EPIPE, errno.EINVAL}
_UNWRITABLE = {errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EFBIG}
# So a library fails to load, and a thread to start, where a process may have no more memory or threads.
_TOO_LITTLE = re.compile(r"failed to map segment|[Cc]annot allocate memory|can't start new thread")
# Each job unpacks the whole file for itself: at 64, rows just below 1 MB took 199 MB of memory, at 32 they take 135.
_MOST_JOBS = 32


class OpsTask(Task[Any]):
    """A task that ends with a promised exit code and text, whatever its body does."""

    def get_arguments(self, ignore_unknown_help: bool | None = None) -> list[Argument]:
        """Return the flags, each time with their help; Invoke takes a flag's help away when it has read it."""
        kept = dict(self.help)
        try:
            return super().get_arguments(ignore_unknown_help)
        finally:
            self.help = kept

    def arg_opts(self, name: str, default: Any, taken_names: set[str]) -> dict[str, Any]:
        """Return what Invoke makes a flag of; a text that was not given is None, so that an empty one can be told from it."""
        options = super().arg_opts(name, default, taken_names)
        return {**options, "default": None, "kind": str} if default == "" else options

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the body; raise Exit with the code and the text that a person reads."""
        from polyladder_ops.postgres import silence  # late: a list of tasks needs it not

        output.prepare()
        site = str(kwargs.get("site") or "")
        with output.followed(site), _ending_as_exit(inspect.getfile(self.body)), _interruptible():
            kwargs = {name: value for name, value in kwargs.items() if value is not None}
            refuse_flags_as_values(kwargs)
            with silence.allow(allowed_s(args[0]) if args else None), runs.scope():
                result = super().__call__(*args, **kwargs)
            output.flush()  # here a lost reader can still be told apart; at Python's end it is noise and code 120
            _refuse_lost()
            return result


def allowed_s(c: Context) -> float | None:
    """Return how many seconds `-T` allows for each wait, None if it was not said. Raise UsageError if it is no such number.

    From INVOKE_TIMEOUTS_COMMAND Invoke takes it as text; the tasks find a number.
    """
    given = c.config.timeouts.command
    if given is None:
        return None
    try:
        seconds = float(given)
    except (TypeError, ValueError):
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise UsageError(
            f"-T got {given!r}, which is no number of seconds above 0",
            detail="It says how long each wait may take; INVOKE_TIMEOUTS_COMMAND means the same.",
            hint="Write -T 60, or leave it out.",
        )
    c.config.timeouts.command = seconds
    return seconds


# Short flags are dealt in the order of the parameters: a new parameter would move an old one's letter.
task = functools.partial(invoke_task, klass=OpsTask, auto_shortflags=False)


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """Like `stop_on_signals`, which only the main thread may do."""
    if threading.current_thread() is threading.main_thread():
        with stop_on_signals(_leave), undoing.in_sight(output.note):
            yield
    else:
        yield


def cleaning_in_sight(
    *, finish: str, before: Callable[[], object] = lambda: None
) -> AbstractContextManager[None]:
    """Within the block people see each clean-up before it runs, and `before` is called then, which ends a bar.

    `finish` is the sentence that says which command finishes it, for whoever leaves it by another Ctrl-C.
    """

    def say(sentence: str) -> None:
        before()
        output.note(sentence)

    return undoing.in_sight(say, finish=finish)


def _leave(signal: str) -> None:
    """End the process amid its clean-up, in a thread: the main one may hold what a print or a proper end would wait for."""
    code = Interrupted.exit_code
    try:
        error = undoing.left(signal)
        code = error.exit_code
        output.last_words(output.told(error))
    finally:
        os._exit(code)


class Told(Exit):
    """The end of a task of which everything was told; Invoke, which prints an Exit's message, has nothing to add."""

    def __init__(self, text: str, code: int) -> None:
        super().__init__(None, code)
        self.told = text


@contextlib.contextmanager
def _ending_as_exit(tasks_file: str) -> Iterator[None]:
    from polyladder_ops.postgres import silence

    try:
        yield
    except (Exit, UnexpectedExit):
        raise
    except OpsError as error:
        raise as_exit(error) from error
    except KeyboardInterrupt as error:
        raise as_exit(Interrupted(f"interrupted by {str(error) or 'Ctrl-C'}")) from error
    except silence.Unanswered as error:
        hint = "Look at the network or the tunnel in between, then try again."
        raise as_exit(OpsError("the server did not answer", detail=f"{error}.", hint=hint)) from error
    except Exception as error:
        if isinstance(error, OSError) and _was_printing(error, tasks_file):
            raise _unwritten(error) from error
        raise (_of_this_machine(error) or _of_the_server(error) or _bug(error)) from error


def as_exit(error: OpsError) -> Told:
    """Tell an error, after what was printed before it, and return the end of the run."""
    output.flush()
    output.fault(error)
    return Told(output.told(error), error.exit_code)


def _refuse_lost() -> None:
    """Raise the end of a task whose result did not get out."""
    if error := output.lost():
        if error.errno not in _READER_GONE and (text := output.unsaid()):
            output.notes(f"note: the work was done; stdout did not take its result, which is:\n{text}")
        raise _unwritten(error)


def _unwritten(error: OSError) -> Told:
    """Tell that stdout can't be written, unless nobody is left to tell: `invoke backup.list | head -1`."""
    output.flush()
    if error.errno in _READER_GONE:
        return Told("", 1)
    return as_exit(OpsError("could not write the output", detail=f"{error.strerror}."))


def _of_this_machine(error: Exception) -> Told | None:
    """Tell what this machine lacks, if that is why: memory, or the folder that the command was given in."""
    if any(map(_is_too_little, _chain(error))):
        return as_exit(
            OpsError(
                "there is too little memory for this",
                detail=f"Python could get no more ({type(error).__name__}).",
                hint="Look at `ulimit -v`, `ulimit -u` and the limits of the container, and end what else runs here.",
            )
        )
    if isinstance(error, FileNotFoundError) and not _has_folder():
        hint = "Go to the folder that holds tasks.py, `cd FOLDER`, and say it again."
        return as_exit(OpsError("the folder that this was said in is gone", hint=hint))
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it."""
    seen: BaseException | None = error
    for _ in range(100):
        if seen is None:
            return
        yield seen
        seen = seen.__cause__ or seen.__context__


def _is_too_little(error: BaseException) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (
        isinstance(error, ImportError | RuntimeError) and _TOO_LITTLE.search(str(error)) is not None
    )


def _of_the_server(error: Exception) -> Told | None:
    """Tell that the server or the way to it failed, where nobody who knew more has done so."""
    if "psycopg" not in sys.modules:
        return None
    from polyladder_ops.postgres import session

    found = session.failed(error)
    return as_exit(found) if found else None


def _has_folder() -> bool:
    try:
        Path.cwd()
    except OSError:
        return False
    return True


def _bug(error: Exception) -> Told:
    output.flush()
    text = "".join(traceback.format_exception(error))
    text += "error: this is a bug in polyladder-ops; please report it with the lines above"
    output.notes(text)
    return Told(output.clean(text), 1)


def _was_printing(error: OSError, tasks_file: str) -> bool:
    """Whether a task of another repository could not write stdout, and it was no pipe or file of the library's."""
    *_, innermost = traceback.extract_tb(error.__traceback__)
    is_a_tasks = innermost.filename == tasks_file
    return is_a_tasks and error.filename is None and error.errno in _READER_GONE | _UNWRITABLE


def refuse_flags_as_values(values: Mapping[str, object]) -> None:
    """Raise UsageError if the text given for a flag is empty or begins with ``-``, as in ``--backup=--force`` or ``--backup=-x``.

    No value of ours does, but a program that got one would take it for a flag. An empty one is a shell's variable that is
    unset: `--into=$NAME` would replace the live database. Every task is checked.
    """
    for name, value in values.items():
        texts = value if isinstance(value, list) else [value]
        flag = f"--{name.replace('_', '-')}"
        for text in texts:
            if isinstance(text, str) and not text.strip():
                raise UsageError(
                    f"{flag} got nothing",
                    detail="Perhaps a variable of the shell is unset.",
                    hint=f"Write {flag}=VALUE, or leave it out; `invoke --help TASK` shows what fits.",
                )
            if isinstance(text, str) and text.startswith("-"):
                raise UsageError(
                    f"{flag} got {text!r}, which looks like a flag",
                    detail=f"{flag} takes a value, and no value begins with a dash.",
                    hint=f"Write {flag}=VALUE; `invoke --help TASK` shows what fits.",
                )


def split_items(given: Iterable[str] | None) -> frozenset[str]:
    """Return the items of a repeatable flag: commas part them, but not inside parentheses or double quotes.

    Names hold commas too: `function:public.add(integer, integer)`.
    """
    pieces = (
        piece.strip()
        for text in given or ()
        for piece in re.findall(r'(?:"[^"]*"|\([^()]*\)|[^,"()]|["()])+', text)
    )
    return frozenset(piece for piece in pieces if piece)


def number_of(text: str, flag: str, *, most: int = _MOST_JOBS) -> int | None:
    """Return the whole number that a flag was given, None if it was not given. Raise UsageError if it is none."""
    if not text:
        return None
    if not re.fullmatch(r"[0-9]{1,9}", text) or not 1 <= int(text) <= most:
        raise UsageError(
            f"--{flag}={text} is no number from 1 to {most}", hint=f"Write --{flag}=2, or leave it out."
        )
    return int(text)


def project_root(start: Path) -> Path:
    """Return the nearest folder upwards that holds ``tasks.py``, else `start`: relative paths begin there."""
    return next((folder for folder in (start, *start.parents) if (folder / "tasks.py").is_file()), start)


def open_settings(c: Context, **flags: str) -> Settings:
    """Return the settings; the flags are texts by attribute (``site``, ``backup_dir``), empty ones count as unset.

    At site sandbox, what is set but not read is named on stderr. Raise SettingsError with all faults at once.
    """
    from polyladder_ops import settings

    section = c.config.get("polyladder")
    loaded = settings.load(flags, environ=os.environ, root=project_root(Path.cwd()), config=section)
    if loaded.ignored:
        output.note(f"note: site {loaded.site} is closed, so these are ignored: {', '.join(loaded.ignored)}")
    output.flyctl_is(_flyctl_of(loaded))
    _sweep(loaded, look_only=is_dry(c))
    return loaded


def _flyctl_of(loaded: Settings) -> str:
    """Return the program that `fly` means at this site, if it is another one than `fly` on PATH."""
    import shutil

    from polyladder_ops.sandbox.fly.cloud import Cloud

    if loaded.is_sandbox:
        return str(Cloud(loaded.sandbox_cloud).program)
    named = str(loaded.flyctl or "") or next(filter(shutil.which, ("fly", "flyctl")), "")
    return "" if named == "fly" else named


def _sweep(settings: Settings, *, look_only: bool) -> None:
    """Remove what killed runs left on this machine, whichever command comes next, and say so."""
    from polyladder_ops import sweeping

    swept = sweeping.sweep_machine(settings.state_dir, settings.backup_dir, look_only=look_only)
    for path in swept.removed:
        output.note(f"note: removed what a killed run left: {path}")
    for sentence in swept.left:
        output.note(f"note: {sentence}")


def is_dry(c: Context) -> bool:
    """Whether ``-R`` or ``--dry`` was given: a task then says what it would do and does nothing.

    Invoke itself obeys it only in ``c.run``. Any text but 0 in INVOKE_RUN_DRY means yes, "false" too.
    """
    return bool(c.config.run.dry)


def refuse_dry(c: Context) -> None:
    """Raise UsageError if ``-R`` was given, for tasks that can't tell what they would do without doing it."""
    if is_dry(c):
        raise UsageError("this task has no dry run", hint="Leave -R away, or unset INVOKE_RUN_DRY.")


def would_ask(question: str, *, force: bool) -> None:
    """Say in a dry run what the real one asks before it begins; with ``--force`` it asks nothing."""
    if not force:
        output.line(f"would ask first, or need --force: {question}")


def confirm(question: str, expected: str, *, force: bool) -> None:
    """Return if a person typed the expected word, or gave ``--force``. Raise Refused otherwise, never wait in vain."""
    if force:
        return
    if not output.can_ask():
        raise Refused(
            "this needs a yes, and there is no terminal to ask at",
            detail=question,
            hint="Add --force if you mean it.",
        )
    if output.question(question, expected) == expected:
        return
    raise Refused("not confirmed, so nothing was done", detail=f"The answer was not {expected}.", hint="")
