"""What the commands say: results on standard output, everything else on standard error."""

import json
import sys
from collections.abc import Iterable
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from lumigraph.app.run.files import finite, printable


def notice(sentence: str) -> None:
    """Says something by the way, on standard error."""
    Console(stderr=True, soft_wrap=True).print(printable(sentence), style="dim", markup=False)


def warn(sentence: str) -> None:
    """Says what may go wrong, on standard error."""
    text = f"Warning: {printable(sentence)}"
    Console(stderr=True, soft_wrap=True).print(text, style="yellow", markup=False)


def result_json(value: dict[str, Any]) -> None:
    """Prints the result as one line of JSON."""
    print(json.dumps(finite(value), allow_nan=False), flush=True)


def result_table(title: str, rows: Iterable[tuple[str, Any]]) -> None:
    """Prints the result as names and values; rows whose value is None are left out."""
    table = Table(title=escape(printable(title)), show_header=False, title_justify="left")
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for name, value in rows:
        if value is not None:
            table.add_row(name, escape(printable(str(value))))
    # Where the output is no terminal its lines belong to a file or a program: never wrap those.
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)
