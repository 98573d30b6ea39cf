"""The command line: each command with its options.

Nothing heavy is imported before a command runs: `lumigraph --help` answers at once.
"""

import io
import os
import sys

# Threads of OpenMP that wait for work must sleep: spinning takes three to six times as long as
# soon as two programs share the cores. OpenMP reads this once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import signal
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lumigraph.app.commands.uncertainty_command import uncertainty
from lumigraph.app.console import (
    fail,
    interruptible,
    is_memory_error,
    on_interrupt,
    report,
    show_warning,
)

app = typer.Typer(
    help="Photos in; a 3D scene out that you fly through, export, and know how far to trust.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)

Preset = Literal["quick", "standard", "high"]
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
DeviceAt = Annotated[Device | None, typer.Option(help="Where to compute. [default: auto]")]
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
Runs = Annotated[Path, typer.Option("--runs", metavar="FOLDER", help="Where new runs go.")]
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


@app.command()
def demo(
    output: Output = None,
    size: Annotated[
        Literal["tiny", "small", "full"], typer.Option(help="Size of the built-in scene.")
    ] = "full",
    steps: Steps = None,
    seed: Seed = None,
    calibration: Calibration = None,
    device: DeviceAt = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make the built-in scene and reconstruct it."""
    from lumigraph.app.commands.demo import demo_capture, demo_options
    from lumigraph.app.commands.train import run_training
    from lumigraph.app.training.start import start

    interruptible()
    capture = demo_capture(size)
    options = demo_options(size, steps=steps, seed=seed, device=device)
    options = replace(options, calibration=calibration)
    run_training(start(capture, options, output, overwrite=overwrite), capture, as_json=as_json)


@app.command()
def inspect(
    capture: CaptureAt,
    downscale: Downscale = 1,
    test: Test = None,
    test_every: TestEvery = 8,
    as_json: Json = False,
) -> None:
    """Tell what a capture holds and what its reconstruction needs."""
    from lumigraph.app.commands.inspect import inspect_capture, inspection_rows
    from lumigraph.app.run.record import Selection

    loaded = Selection(downscale, test, 8 if test_every is None else test_every).load(capture)
    facts = inspect_capture(loaded)
    report(as_json, facts, f"Capture {loaded.name}", inspection_rows(facts))


@app.command()
def train(
    capture: CaptureAt,
    output: Output = None,
    preset: Annotated[
        Preset | None, typer.Option(help="Plan of the training. [default: standard]")
    ] = None,
    steps: Steps = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, max=10_000, help="Train for about this time, in place of --steps."),
    ] = None,
    seed: Seed = None,
    downscale: Downscale = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Resume a run that was stopped.")
    ] = None,
    overwrite: Overwrite = False,
    test: Test = None,
    test_every: TestEvery = None,
    calibration: Calibration = None,
    degree: Annotated[
        int | None,
        typer.Option(min=0, max=3, help="Degree of the spherical harmonics. [default: 3]"),
    ] = None,
    splat_limit: Annotated[
        int | None, typer.Option(min=1, help="Largest number of splats. [default: 1,000,000]")
    ] = None,
    antialiased: Annotated[
        bool, typer.Option("--antialiased", help="Draw sub-pixel splats without aliasing.")
    ] = False,
    optimizer: Annotated[
        Literal["adam", "lm", "lm-published"] | None,
        typer.Option(
            help="lm: after density control, use the curvature of each splat, photo by photo, for "
            "0.85 of the remaining steps. lm-published: after two thirds of the steps, 5 "
            "iterations of 3DGS-LM. [default: adam]"
        ),
    ] = None,
    device: DeviceAt = None,
    viewed: Annotated[
        bool,
        typer.Option("--view", help="Control the training in a browser, as a new run in runs/."),
    ] = False,
    host: Host = "127.0.0.1",
    port: Port = 8080,
    open_browser: Open = True,
    as_json: Json = False,
) -> None:
    """Reconstruct a scene of splats from a capture."""
    if viewed:
        _check_address(host, port)
    from lumigraph.app.commands.train import report_run, run_training
    from lumigraph.app.training import start as starting
    from lumigraph.app.training.inputs import TrainOptions

    interruptible()
    if minutes is not None and steps is not None:
        raise typer.BadParameter("--minutes decides on the steps: leave out --steps")
    if minutes is not None and optimizer not in (None, "adam"):
        raise typer.BadParameter("--minutes counts steps of Adam: give --steps instead")
    elsewhere = output is not None or overwrite
    if viewed and elsewhere:
        raise typer.BadParameter("--view begins a new run in runs/: leave out -o, --overwrite")
    if resume is not None and elsewhere:
        raise typer.BadParameter("--resume continues in the same folder: leave out -o, --overwrite")
    changes: dict[str, Any] = {
        "steps": steps,
        "degree": degree,
        "splat_limit": splat_limit,
        "filter": "antialiased" if antialiased else None,
        "optimizer": optimizer,
    }
    options = TrainOptions(
        preset=preset,
        seed=seed,
        downscale=downscale,
        test=test,
        test_every=test_every,
        calibration=calibration,
        device=device,
        minutes=minutes,
        changes=changes,
    )
    if viewed:
        from lumigraph.app.viewer.serve import ServeOptions, train_viewed

        serving = ServeOptions(host, port, open_browser)
        seen = train_viewed(capture, options, Path("runs"), resume, serving)
        if seen is None:
            raise typer.Exit(1)
        report_run(seen.run, capture, as_json, seen.code)
    if resume is not None:
        session = starting.resume(capture, options, resume)
    else:
        session = starting.start(capture, options, output, overwrite=overwrite)
    run_training(session, capture, as_json=as_json)


@app.command(name="app")
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
    """Open the page: choose a capture, watch its reconstruction, fly through the scene."""
    _check_address(host, port)
    from lumigraph.app.viewer.serve import ServeOptions, run_app

    interruptible()
    run_app(folders or [], runs, ServeOptions(host, port, open_browser, not no_token))


@app.command()
def view(
    scene: SceneAt,
    runs: Runs = Path("runs"),
    host: Host = "127.0.0.1",
    port: Port = 8080,
    open_browser: Open = True,
    no_token: NoToken = False,
) -> None:
    """Fly through a scene in a browser."""
    _check_address(host, port)
    from lumigraph.app.viewer import serve

    interruptible()
    serve.view(scene, runs, serve.ServeOptions(host, port, open_browser, not no_token))


app.command()(uncertainty)


@app.command(name="eval")
def evaluate(
    run: RunAt,
    split: Annotated[
        Literal["test", "train"], typer.Option(help="Which frames to compare with.")
    ] = "test",
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Take the photos from here; train frames need it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a scene with the photos that were held out."""
    from lumigraph.app.commands.evaluate import evaluate_run, evaluation_rows
    from lumigraph.app.run.folder import open_run

    opened = open_run(run)
    metrics = evaluate_run(opened, split=split, data=data)
    report(as_json, metrics, f"{run}: {split} views", evaluation_rows(opened, metrics))


@app.command()
def render(
    run: SceneAt,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder. [default: RUN/renders]")
    ] = None,
    views: Annotated[
        Literal["orbit", "path", "test", "train"], typer.Option(help="Which views to render.")
    ] = "orbit",
    frames: Annotated[
        int, typer.Option(min=2, max=100_000, help="Number of views of an orbit or path.")
    ] = 120,
    scale: Annotated[
        float, typer.Option(min=0.01, max=8, help="Size of the pictures over that of the photos.")
    ] = 1.0,
    depth: Annotated[
        bool, typer.Option("--depth", help="Show depth in place of colour; near is bright.")
    ] = False,
    film: Annotated[bool, typer.Option(help="Make an mp4 film, if ffmpeg is installed.")] = True,
    fps: Annotated[
        float, typer.Option(min=0.1, max=240, help="Pictures per second of the film.")
    ] = 30.0,
    as_json: Json = False,
) -> None:
    """Make pictures and a film of a scene."""
    from lumigraph.app.commands.render import Filming, render_rows, render_scene

    filming = Filming(views, frames, scale, depth, fps if film else None)
    made = render_scene(run, filming, output)
    report(as_json, made, f"{run}: {views}", render_rows(made))


@app.command()
def export(
    run: RunAt,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File. [default: RUN/scene.ply]")
    ] = None,
    frame: Annotated[
        Literal["capture", "fit"],
        typer.Option(
            help="Frame of the coordinates: that of the capture, or that of the fit, in which the "
            "scene lies around zero and has size one."
        ),
    ] = "capture",
    as_json: Json = False,
) -> None:
    """Write the scene as a PLY file and check that file."""
    from lumigraph.app.commands.export import export_rows, export_run

    made = export_run(run, output, frame)
    report(as_json, made, str(run), export_rows(made))


@app.command()
def doctor(as_json: Json = False) -> None:
    """Tell what works on this machine and what does not."""
    from lumigraph.app.commands.doctor import advice, doctor_rows, examine

    facts = examine()
    report(as_json, {**facts, "advice": advice(facts)}, "This machine", doctor_rows(facts))


@app.command()
def bench(as_json: Json = False) -> None:
    """Measure how fast this machine renders and trains, on a scene made on the spot."""
    from lumigraph.app.commands.bench import bench_json, bench_rows, measured
    from lumigraph.app.console import counting

    interruptible()
    with counting() as told:
        work = "Measuring, which takes less than a minute"
        found = measured(progress=lambda done, of: told(work, done, of))
    report(as_json, bench_json(found), "Speed of this machine", bench_rows(found))


@app.callback(invoke_without_command=True)
def options(
    debug: Annotated[
        bool,
        typer.Option("--debug", envvar="LUMIGRAPH_DEBUG", help="Show the traceback of an error."),
    ] = False,
    version: Annotated[bool, typer.Option("--version", help="Show the version.")] = False,
) -> None:
    """Options of every command."""
    if debug:
        os.environ["LUMIGRAPH_DEBUG"] = "1"
    if version:
        from importlib.metadata import version as version_of

        typer.echo(f"lumigraph {version_of('lumigraph')}")
        raise typer.Exit


def main() -> None:
    """Runs the command line; errors meant for the user become one line and exit code 1."""
    warnings.showwarning = show_warning
    if isinstance(sys.stdout, io.TextIOWrapper):  # a name that it cannot encode loses no result
        sys.stdout.reconfigure(errors="backslashreplace")
    # While libraries load, Ctrl-C just ends the process: as an exception it could come out of the
    # middle of one of them as another error.
    before = on_interrupt(signal.SIG_DFL)
    try:
        app()
    except (ValueError, OSError, MemoryError, RuntimeError) as error:
        ours = not isinstance(error, RuntimeError) or is_memory_error(error)
        if os.environ.get("LUMIGRAPH_DEBUG") or not ours:
            raise
        fail(error)
    finally:
        on_interrupt(before)


def _check_address(host: str, port: int) -> None:
    """Raises at once, before anything heavy is loaded, if the page cannot be served there."""
    from lumigraph.app.viewer.gate import address_of, listen

    listen(address_of(host), port).close()


if __name__ == "__main__":
    main()
