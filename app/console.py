"""What a terminal sees: results, notices, progress and errors; and how a command ends.

Results go to standard output, everything else to standard error. rich and our other rooms are
imported inside the functions, so that `lumigraph --help` answers at once.
"""

import errno
import io
import json
import os
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.progress import TaskID

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""The signals that end a program: Ctrl-C, a machine that shuts down, and a lost connection."""

SENTENCE_LIMIT = 1000
"""Characters of an error message: paths are long, and a damaged file can add much more."""


def run_program(command: Callable[[], object]) -> None:
    """Runs the command line; errors meant for the user become one line and exit code 1."""
    warnings.showwarning = show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot encode loses no result
        sys.stdout.reconfigure(errors="backslashreplace")
    # While libraries load, Ctrl-C just ends the process: as an exception it could come out of the
    # middle of one of them as another error.
    before = on_interrupt(signal.SIG_DFL)
    try:
        command()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        ours = not isinstance(error, RuntimeError) or is_memory_error(error)
        if os.environ.get("LUMIGRAPH_DEBUG") or not ours:
            raise
        fail(error)
    finally:
        on_interrupt(before)


def report(as_json: bool, value: dict[str, Any], title: str, rows: list[tuple[str, Any]]) -> None:
    """Prints a result: one line of JSON for programs, or a table for people."""
    if as_json:
        # JSON has no infinity and no NaN: those become null.
        finite = json.loads(json.dumps(value), parse_constant=lambda _: None)
        print(json.dumps(finite), flush=True)
    else:
        _print_table(title, rows)


def notice(sentence: str) -> None:
    """Tells the user a fact, on standard error."""
    say(sentence, style="dim")


def warn(sentence: str) -> None:
    """Tells the user what may go wrong, on standard error."""
    say(f"Warning: {sentence}", style="yellow")


def say(sentence: str, style: str = "") -> None:
    """Prints a line on standard error; control characters in it become question marks."""
    from rich.console import Console

    from lumigraph.datasets.files import printable

    console = Console(stderr=True, soft_wrap=True, highlight=False)
    console.print(printable(sentence), style=style, markup=False, emoji=False)


def show_warning(message: Warning | str, *_: object) -> None:
    """Prints a warning of a library as one line, without its place in the source."""
    warn(str(message))


def fail(error: BaseException) -> NoReturn:
    """Prints in one red line what went wrong, and ends the program with exit code 1."""
    say(f"Error: {sentence_of(error)}", style="red")
    sys.exit(1)


def sentence_of(error: BaseException) -> str:
    """The error as one line for the user."""
    from lumigraph.datasets.files import printable

    if isinstance(error, MemoryError) or is_memory_error(error):
        sentence = "Out of memory: use a larger downscale or a smaller splat limit"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        sentence = f"The disk is full ({error.filename}): free some space"
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        sentence = f"{error.filename}: {error.strerror}"
    elif isinstance(error, ValueError | OSError):
        sentence = str(error) or type(error).__name__
    else:
        sentence = f"This is an error in Lumigraph itself; please report it: {error!r}"
    return printable(" ".join(sentence.split()))[:SENTENCE_LIMIT]


def is_memory_error(error: BaseException) -> bool:
    """Whether torch ran out of memory: it raises a plain RuntimeError then."""
    return isinstance(error, RuntimeError) and "allocate memory" in str(error)


def duration(seconds: float) -> str:
    """Seconds as text: 4.5 s, 45 s, 3 min 20 s, 2 h 05 min."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


@contextmanager
def counting() -> Iterator[Callable[[str, int, int], None]]:
    """Draws how much of some work is done, with the time left, on standard error.

    Yields a function of three arguments: the kind of work, how much of it is done, and how much
    there is. Where the output is no terminal, each kind of work is printed once.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.progress import TimeRemainingColumn as TimeLeft

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeLeft())
    quiet = not console.is_terminal
    tasks: dict[str, TaskID] = {}
    # No thread of the bar's own: it would draw while `bench` times something.
    with Progress(*columns, console=console, disable=quiet, auto_refresh=False) as bar:

        def told(what: str, done: int, of: int) -> None:
            if what not in tasks:
                tasks[what] = bar.add_task(what, total=of)
                if quiet:
                    say(what)
            bar.update(tasks[what], completed=done, refresh=True)

        yield told


def interruptible() -> None:
    """Makes Ctrl-C an exception from here on, so that the interrupted work can clean up."""
    on_interrupt(signal.default_int_handler)


def on_interrupt(handler: Any) -> Any:
    """Sets the handler of Ctrl-C and returns the one before; an ignored Ctrl-C stays ignored.

    Shells start background jobs with Ctrl-C ignored. None is a handler that Python does not know.
    """
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, handler)
    return before


@contextmanager
def handled_signals(handle: Callable[[int], None]) -> Iterator[Callable[[], None]]:
    """Calls `handle` with the number of each of `SIGNALS` that arrives inside.

    Yields a function that gives the signals their default action back: the next one ends the
    process. Ignored signals stay ignored: `nohup` and background jobs of shells rely on that.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    # None is a handler that Python does not know and could not put back.
    before = {n: h for n, h in handlers.items() if h not in (signal.SIG_IGN, None)}

    def reset() -> None:
        for number in before:
            signal.signal(number, signal.SIG_DFL)

    try:
        for number in before:
            signal.signal(number, lambda number, frame: handle(number))
        yield reset
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def program() -> list[str]:
    """The words that call Lumigraph again as it was called, in the same folder and shell."""
    called = Path(sys.argv[0])
    if called.name != "lumigraph" or not called.is_file():  # Python itself runs the module
        return [sys.executable, "-Pm", "lumigraph.app.cli"]
    found = shutil.which("lumigraph")
    if found is not None and os.path.samefile(found, called):
        return ["lumigraph"]
    return [str(called.absolute())]


def command_line(*words: str | Path) -> str:
    """The command that calls Lumigraph with these words, to be pasted into a shell."""
    return " ".join(quoted(word) for word in (*program(), *words))


def resume_command(path: Path, folder: Path) -> str:
    """The command that resumes the run in `folder`, which learns from the capture at `path`."""
    return command_line("train", path, "--resume", folder)


def quoted(word: str | Path) -> str:
    """The word as a shell takes it, with nothing in it that controls a terminal.

    A path that begins with a dash gets ./ before it, so that it is not taken for an option. Control
    characters and bytes that are not UTF-8 are written in the $'...' of bash, zsh and ksh.
    """
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    if text.isprintable():
        return shlex.quote(text)
    escaped = "".join(
        each if each.isprintable() else "".join(f"\\x{byte:02x}" for byte in os.fsencode(each))
        for each in text.replace("\\", r"\\").replace("'", r"\'")
    )
    return f"$'{escaped}'"


def _print_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Prints names and values; a row with the value None is left out."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from lumigraph.datasets.files import printable

    # Rich changes brackets and colons in plain strings, but not in a Text.
    table = Table(title=Text(printable(title)), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(Text(printable(name)), Text(printable(str(value))))
    # Where the output is a file or a program, its lines must not wrap.
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)
