"""The `lumigraph` command: what can be asked of it, and how it fails.

Nothing heavy is imported before a command runs: `lumigraph --help` is there at once.
"""

import os

# Threads of OpenMP that wait for work sleep instead of spinning, which costs three to six times
# as soon as two programs share the cores. It is read once, when torch is loaded.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import signal
import warnings
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from lumigraph.app.commands import page as page_commands
from lumigraph.app.commands import uncertainty_command as trust_commands
from lumigraph.app.endings import (
    fail,
    interruptible,
    on_interrupt,
    report,
    report_run,
    show_warning,
)

app = typer.Typer(
    help="Photos in; a 3D scene out that you fly through, export, and know how far to trust.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


class Preset(StrEnum):
    """Named plans of a fit."""

    quick = "quick"
    standard = "standard"
    high = "high"


class Optimizer(StrEnum):
    """What moves the splats in the last part of a fit."""

    adam = "adam"
    lm = "lm"
    lm_published = "lm-published"


class Size(StrEnum):
    """Sizes of the built-in scene."""

    tiny = "tiny"
    small = "small"
    full = "full"


class Split(StrEnum):
    """Which frames of a capture."""

    test = "test"
    train = "train"


class Views(StrEnum):
    """What `render` looks from."""

    orbit = "orbit"
    path = "path"
    test = "test"
    train = "train"


class FrameOf(StrEnum):
    """Whose coordinates an exported scene has."""

    capture = "capture"
    fit = "fit"


class Device(StrEnum):
    """Where the work is done."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


CaptureAt = Annotated[Path, typer.Argument(metavar="CAPTURE", help="Folder or file of a capture.")]
RunAt = Annotated[Path, typer.Argument(metavar="RUN", help="Folder that `train` wrote.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Output = Annotated[
    Path | None,
    typer.Option("-o", "--output", metavar="RUN", help="Run folder. [default: a new one in runs/]"),
]
Steps = Annotated[int | None, typer.Option(min=1, help="Training steps. [default: the preset's]")]
Seed = Annotated[int | None, typer.Option(min=0, help="Of every random choice. [default: 0]")]
DeviceAt = Annotated[Device | None, typer.Option(help="Where to compute. [default: auto]")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace the run in that folder.")]
Downscale = Annotated[
    int | None,
    typer.Option(
        min=1, help="Make photos so many times smaller. [default: as needed for 1600 pixels]"
    ),
]
TestEvery = Annotated[
    int | None,
    typer.Option(
        min=0, help="Hold out one of so many, if none are named; 0 for none. [default: 8]"
    ),
]
Calibration = Annotated[
    int | None,
    typer.Option(
        min=0, help="Set so many photos aside from training to calibrate intervals. [default: 0]"
    ),
]
Test = Annotated[
    Path | None, typer.Option(metavar="FILE", help="Names of the photos to hold out, one a line.")
]


@app.command()
def demo(
    output: Output = None,
    size: Annotated[Size, typer.Option(help="Of the built-in scene.")] = Size.full,
    steps: Steps = None,
    seed: Seed = None,
    calibration: Calibration = None,
    device: DeviceAt = None,
    overwrite: Overwrite = False,
    as_json: Json = False,
) -> None:
    """Make the built-in scene and reconstruct it."""
    from lumigraph.app.commands import demo as demos
    from lumigraph.app.training.start import conduct, start

    interruptible()
    capture = demos.demo_capture(size.value)
    order = demos.demo_order(size.value, steps=steps, seed=seed, device=device and device.value)
    order = replace(order, calibration=calibration)
    run, code = conduct(start(capture, order, output, overwrite=overwrite), capture)
    report_run(run, capture, as_json, code)


@app.command()
def inspect(
    capture: CaptureAt,
    downscale: Downscale = 1,
    test: Test = None,
    test_every: TestEvery = 8,
    as_json: Json = False,
) -> None:
    """Say what a capture holds and what it will take."""
    from lumigraph.app.commands.inspect import inspect_capture, inspection_rows
    from lumigraph.app.training.inputs import Selection

    loaded = Selection(downscale, test, 8 if test_every is None else test_every).load(capture)
    facts = inspect_capture(loaded)
    report(as_json, facts, f"Capture {loaded.name}", inspection_rows(facts))


@app.command()
def train(
    capture: CaptureAt,
    output: Output = None,
    preset: Annotated[Preset | None, typer.Option(help="[default: standard]")] = None,
    steps: Steps = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, max=10_000, help="Take about so long, in place of --steps."),
    ] = None,
    seed: Seed = None,
    downscale: Downscale = None,
    resume: Annotated[
        Path | None, typer.Option(metavar="RUN", help="Go on with a run that was stopped.")
    ] = None,
    overwrite: Overwrite = False,
    test: Test = None,
    test_every: TestEvery = None,
    calibration: Calibration = None,
    degree: Annotated[
        int | None, typer.Option(min=0, max=3, help="Of the colour harmonics. [default: 3]")
    ] = None,
    splat_limit: Annotated[
        int | None, typer.Option(min=1, help="Most splats. [default: 1,000,000]")
    ] = None,
    antialiased: Annotated[
        bool, typer.Option("--antialiased", help="Draw sub-pixel splats without aliasing.")
    ] = False,
    optimizer: Annotated[
        Optimizer | None,
        typer.Option(
            help="lm: after density control photo by photo with each splat's curvature, in 0.85 "
            "of the steps that were left. lm-published: after two thirds of the steps 5 "
            "iterations of 3DGS-LM. [default: adam]"
        ),
    ] = None,
    device: DeviceAt = None,
    viewed: Annotated[
        bool, typer.Option("--view", help="Watch and steer it in a browser, in a new run in runs/.")
    ] = False,
    host: page_commands.Host = "127.0.0.1",
    port: page_commands.Port = 8080,
    open_browser: page_commands.Open = True,
    as_json: Json = False,
) -> None:
    """Reconstruct a scene of splats from a capture."""
    if viewed:
        page_commands.check_address(host, port)
    from lumigraph.app.training.start import Order, conduct, go_on, start

    interruptible()
    if minutes is not None and steps is not None:
        raise typer.BadParameter("--minutes decides on the steps: leave out --steps")
    if minutes is not None and optimizer not in (None, Optimizer.adam):
        raise typer.BadParameter("--minutes counts steps of Adam: give --steps instead")
    changes: dict[str, Any] = {"steps": steps, "degree": degree, "splat_limit": splat_limit}
    order = Order(
        preset=None if preset is None else preset.value,
        seed=seed,
        downscale=downscale,
        test=test,
        test_every=test_every,
        calibration=calibration,
        device=device and device.value,
        minutes=minutes,
        changes={
            **changes,
            "filter": "antialiased" if antialiased else None,
            "optimizer": optimizer and optimizer.value,
        },
    )
    if viewed:
        if output is not None or overwrite:
            raise typer.BadParameter("--view begins a new run in runs/: leave out -o, --overwrite")
        from lumigraph.app.viewer.serve import Serving, train_viewed

        serving = Serving(host, port, open_browser)
        seen = train_viewed(capture, order, Path("runs"), resume, serving)
        if seen is None:
            raise typer.Exit(1)
        report_run(seen.run, capture, as_json, seen.code)
    if resume is not None:
        if output is not None or overwrite:
            raise typer.BadParameter(
                "--resume goes on in its own folder: leave out -o, --overwrite"
            )
        session = go_on(capture, order, resume)
    else:
        session = start(capture, order, output, overwrite=overwrite)
    run, code = conduct(session, capture)
    report_run(run, capture, as_json, code)


app.command(name="app")(page_commands.open_app)
app.command()(page_commands.view)
app.command()(trust_commands.uncertainty)


@app.command(name="eval")
def evaluate(
    run: RunAt,
    split: Annotated[Split, typer.Option(help="Which frames to compare with.")] = Split.test,
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Take the photos from here; train frames need it."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Compare a scene with the photos that were held out."""
    from lumigraph.app.commands.looking import evaluate_run
    from lumigraph.app.run.folder import open_run

    metrics = evaluate_run(open_run(run), split=split.value, data=data)
    mean = metrics["psnr"] is not None
    rows = [
        ("PSNR", f"{metrics['psnr']:.2f} dB" if mean else "no views to evaluate"),
        ("SSIM", f"{metrics['ssim']:.4f}" if mean else None),
        ("views", metrics["images"]),
        ("splats", f"{metrics['splats']:,}"),
        ("pictures and numbers", run / "eval"),
    ]
    report(as_json, metrics, f"{run}: {split.value} views", rows)


@app.command()
def render(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Run folder, or a .ply of splats.")],
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Folder. [default: RUN/renders]")
    ] = None,
    views: Annotated[Views, typer.Option(help="Where to look from.")] = Views.orbit,
    frames: Annotated[int, typer.Option(min=2, max=100_000, help="Of orbit and path.")] = 120,
    scale: Annotated[
        float, typer.Option(min=0.01, max=8, help="Size of the pictures over the photos'.")
    ] = 1.0,
    depth: Annotated[bool, typer.Option("--depth", help="Show depth, near is bright.")] = False,
    film: Annotated[bool, typer.Option(help="Make an mp4 of it, where ffmpeg is found.")] = True,
    fps: Annotated[float, typer.Option(min=0.1, max=240, help="Of the film.")] = 30.0,
    as_json: Json = False,
) -> None:
    """Make pictures and a film of a scene."""
    from lumigraph.app.commands.looking import Filming, film_run

    filming = Filming(views.value, frames, scale, depth, fps if film else None)
    made = film_run(run, filming, output)
    rows = [("pictures", f"{made['images']} in {made['folder']}"), ("film", made["film"])]
    report(as_json, made, f"{run}: {views.value}", rows)


@app.command()
def export(
    run: RunAt,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="File. [default: RUN/scene.ply]")
    ] = None,
    frame: Annotated[
        FrameOf,
        typer.Option(help="Coordinates: the capture's own, or the fit's about zero, of size one."),
    ] = FrameOf.capture,
    as_json: Json = False,
) -> None:
    """Write the scene as a PLY file and check that file."""
    from lumigraph.app.commands.looking import export_run

    made = export_run(run, output, frame.value)
    rows = [
        ("file", made["file"]),
        ("splats", f"{made['splats']:,}"),
        ("size", f"{made['bytes'] / 1e6:.1f} MB"),
        ("confidence", "as a property of each splat" if made["confidence"] else None),
        ("read back", f"looks the same in {made['views']} views ({made['psnr']:.0f} dB or more)"),
    ]
    report(as_json, made, str(run), rows)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Say what works on this machine and what does not."""
    from lumigraph.app.commands.doctor import advice, doctor_rows, examine

    facts = examine()
    report(as_json, {**facts, "advice": advice(facts)}, "This machine", doctor_rows(facts))


@app.command()
def bench(as_json: Json = False) -> None:
    """Measure how fast this machine renders and trains, on a scene made on the spot."""
    from lumigraph.app.commands.bench import bench_json, bench_rows, measured, showing

    interruptible()
    with showing() as progress:
        found = measured(progress=progress)
    report(as_json, bench_json(found), "Speed here", bench_rows(found))


@app.callback(invoke_without_command=True)
def options(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="LUMIGRAPH_DEBUG", help="Show where errors come from.")
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
    # While libraries load, Ctrl-C just ends the process: as an exception it would come out of the
    # middle of one of them, as something else.
    before = on_interrupt(signal.SIG_DFL)
    try:
        app()
    except (ValueError, OSError, MemoryError) as error:
        if os.environ.get("LUMIGRAPH_DEBUG"):
            raise
        fail(error)
    except RuntimeError as error:
        # What torch raises when memory is short has no type of its own.
        if os.environ.get("LUMIGRAPH_DEBUG") or "allocate memory" not in str(error):
            raise
        fail(MemoryError())
    finally:
        on_interrupt(before)


if __name__ == "__main__":
    main()
