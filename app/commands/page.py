"""The commands that open the page, and the options that `train` shares with them.

Nothing heavy is imported before a command runs.
"""

from pathlib import Path
from typing import Annotated

import typer

from lumigraph.app.endings import interruptible

Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where new runs go.")]
Host = Annotated[
    str, typer.Option(help="Address to listen on; 0.0.0.0 lets others in, who need the token.")
]
Port = Annotated[int, typer.Option(min=0, max=65535, help="The first to try; 0 for any.")]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open a browser here.")]
NoToken = Annotated[
    bool, typer.Option("--no-token", help="Let everybody on this machine in, on loopback only.")
]


def open_app(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FOLDER]...", help="Captures and runs that may be opened."),
    ] = None,
    runs: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = 8080,
    open_browser: Open = True,
    no_token: NoToken = False,
) -> None:
    """Open the page: choose a capture, watch it grow, fly through it."""
    check_address(host, port)
    from lumigraph.app.viewer.serve import Serving, run_app

    interruptible()
    run_app(folders or [], runs, Serving(host, port, open_browser, not no_token))


def view(
    scene: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a .ply of splats.")],
    runs: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = 8080,
    open_browser: Open = True,
    no_token: NoToken = False,
) -> None:
    """Fly through a scene in a browser."""
    check_address(host, port)
    from lumigraph.app.viewer.serve import Serving
    from lumigraph.app.viewer.serve import view as view_scene

    interruptible()
    view_scene(scene, runs, Serving(host, port, open_browser, not no_token))


def check_address(host: str, port: int) -> None:
    """Raises at once, before anything heavy is loaded, if the page cannot be served there."""
    from lumigraph.app.viewer.ports import address_of, listen

    listen(address_of(host), port).close()
