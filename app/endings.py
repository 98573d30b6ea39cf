"""How commands end: with a result, with one line that says what went wrong, or by Ctrl-C.

Nothing heavy is imported before it is needed.
"""

import errno
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

if TYPE_CHECKING:
    from lumigraph.app.run.folder import Run


def report(as_json: bool, value: dict[str, Any], title: str, rows: list[tuple[str, Any]]) -> None:
    """Prints a result for programs or for people."""
    from lumigraph.app.console import result_json, result_table

    if as_json:
        result_json(value)
    else:
        result_table(title, rows)


def report_run(run: "Run", capture: Path, as_json: bool, code: int) -> NoReturn:
    """Prints what came of a training, and leaves with its exit code."""
    from lumigraph.app.console import notice
    from lumigraph.app.training.start import next_command, summary, summary_rows

    command = next_command(run, capture)
    if as_json or command is None:
        report(as_json, summary(run, capture), str(run.folder), summary_rows(run, capture))
    else:
        notice(f"Stopped at step {run.record['step']} of {run.record['steps']}. To go on:")
        typer.echo(command)
    raise typer.Exit(code)


def fail(error: BaseException) -> NoReturn:
    """Says in one red line what went wrong and leaves."""
    if isinstance(error, MemoryError):
        sentence = "Out of memory: use a larger --downscale or a smaller --splat-limit"
    elif isinstance(error, OSError) and error.errno == errno.ENOSPC:
        sentence = f"The disk is full ({error.filename}): free some space"
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        sentence = f"{error.filename}: {error.strerror}"
    else:
        sentence = str(error) or type(error).__name__
    line = " ".join("".join(c if c.isprintable() else " " for c in sentence).split())
    typer.secho(f"Error: {line}", fg=typer.colors.RED, err=True)
    sys.exit(1)


def show_warning(message: Warning | str, *_: object) -> None:
    """A warning as one line, without the place in the source."""
    typer.secho(f"Warning: {message}", fg=typer.colors.YELLOW, err=True)


def interruptible() -> None:
    """From here on Ctrl-C is an exception, so that what it interrupts can tidy up."""
    on_interrupt(signal.default_int_handler)


def on_interrupt(handler: Any) -> Any:
    """Sets what Ctrl-C does and returns what it did; where it is ignored it stays so.

    Shells start background jobs like that. None is a handler that Python knows nothing of.
    """
    before = signal.getsignal(signal.SIGINT)
    if before not in (signal.SIG_IGN, None):
        signal.signal(signal.SIGINT, handler)
    return before
