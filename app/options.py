"""The options and arguments that several commands share."""

from pathlib import Path
from typing import Annotated, Literal

import typer

Device = Literal["auto", "cpu", "cuda"]

CaptureAt = Annotated[Path, typer.Argument(metavar="CAPTURE", help="Folder or file of a capture.")]
RunAt = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, as `train` writes it.")]
SceneAt = Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a PLY of splats.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="RUN", help="Run folder. [default: a new one in runs/]"),
]
Steps = Annotated[
    int | None, typer.Option(min=1, help="Training steps. [default: those of the preset]")
]
Seed = Annotated[int | None, typer.Option(min=0, help="Seed of every random choice. [default: 0]")]
DeviceAt = Annotated[Device | None, typer.Option(help="Device to compute on. [default: auto]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")]
Downscale = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Divide the width and height of the photos by this. [default: as needed for at most "
        "1600 pixels]",
    ),
]
TestEvery = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Hold out every Nth photo if no test list is given; 0 holds out none. [default: 8]",
    ),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        min=0,
        help="Number of training photos to set aside, to calibrate intervals. [default: 0]",
    ),
]
Test = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="File with the names of the photos to hold out, one a line."),
]
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Folder of new runs.")]
Host = Annotated[
    str,
    typer.Option(help="Address to listen on; 0.0.0.0 lets in other machines, with the token."),
]
Port = Annotated[
    int, typer.Option(min=0, max=65535, help="The first port to try; 0 takes any free one.")
]
Open = Annotated[bool, typer.Option("--open/--no-open", help="Open a browser on this machine.")]
NoToken = Annotated[
    bool,
    typer.Option("--no-token", help="Let in everybody on this machine; only with a local address."),
]
