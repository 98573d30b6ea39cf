"""The command line: each command with its options.

Nothing heavy is imported before a command runs: `lumigraph --help` answers at once.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from lumigraph.app.console import interruptible, report, run_program
from lumigraph.app.options import (
    Calibration,
    CaptureAt,
    DeviceAt,
    Downscale,
    Host,
    Json,
    NoToken,
    Open,
    Output,
    Overwrite,
    Port,
    RunAt,
    Runs,
    SceneAt,
    Seed,
    Steps,
    Test,
    TestEvery,
)

app = typer.Typer(
    help="Photos in; a 3D scene out that you fly through, export, and know how far to trust.",
    rich_markup_mode=None,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


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
    downscale: Annotated[
        int, typer.Option(min=1, help="Divide the width and height of the photos by this.")
    ] = 1,
    test: Test = None,
    test_every: TestEvery = None,
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
        Literal["quick", "standard", "high"] | None,
        typer.Option(help="Plan of the training. [default: standard]"),
    ] = None,
    steps: Steps = None,
    minutes: Annotated[
        float | None,
        typer.Option(min=0.1, max=10_000, help="Train for about this time; replaces --steps."),
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
        raise typer.BadParameter("--minutes sets the number of steps: leave out --steps")
    if minutes is not None and optimizer not in (None, "adam"):
        raise typer.BadParameter("--minutes works with Adam alone: give --steps for this optimizer")
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
    """Train and view scenes in a browser."""
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


@app.command()
def uncertainty(
    run: RunAt,
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Find the drop rate on the photos of this capture."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="Drop rate. [default: the result of a search]")
    ] = None,
    margin: Annotated[
        float, typer.Option(help="Share of the training photos' SSIM that dropout may lose.")
    ] = 0.05,
    trials: Annotated[
        int | None, typer.Option(min=2, help="Masks to sample. [default: exact over all masks]")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the sampled masks.")] = 0,
    level: Annotated[float, typer.Option(help="Share of views that intervals must cover.")] = 0.9,
    within: Annotated[
        float,
        typer.Option(help="Share of a view's colour values that must lie in their intervals."),
    ] = 0.9,
    as_json: Json = False,
) -> None:
    """Tell how far to trust a scene (PH-Dropout).

    It makes maps, metrics, curves, intervals and a report.
    """
    from lumigraph.app.commands.uncertainty import Asked, estimated
    from lumigraph.app.run.intervals import Promise

    interruptible()
    asked = Asked(data, rate, margin, trials, seed, Promise(level, within))
    found, rows = estimated(run, asked)
    report(as_json, found, f"{run}: how far to trust it", rows)


@app.command(name="eval")
def evaluate(
    run: RunAt,
    split: Annotated[
        Literal["test", "train"], typer.Option(help="Which photos to compare with.")
    ] = "test",
    data: Annotated[
        Path | None,
        typer.Option(metavar="CAPTURE", help="Capture with the photos; --split train needs it."),
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
        Path | None,
        typer.Option("-o", "--output", help="Folder to write to. [default: RUN/renders]"),
    ] = None,
    views: Annotated[
        Literal["orbit", "path", "test", "train"], typer.Option(help="Which views to render.")
    ] = "orbit",
    frames: Annotated[
        int, typer.Option(min=2, max=100_000, help="Number of views of an orbit or path.")
    ] = 120,
    scale: Annotated[
        float, typer.Option(min=0.01, max=8, help="Size of the pictures relative to the photos.")
    ] = 1.0,
    depth: Annotated[
        bool, typer.Option("--depth", help="Show depth in place of colour; near points are bright.")
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
        Path | None, typer.Option("-o", "--output", help="File to write. [default: RUN/scene.ply]")
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
    """Measure how fast this machine renders and trains.

    It generates its own test scene.
    """
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
    """Runs the command line."""
    run_program(app)


def _check_address(host: str, port: int) -> None:
    """Raises at once, before anything heavy is loaded, if the page cannot be served there."""
    from lumigraph.app.viewer.gate import address_of, listen

    listen(address_of(host), port).close()


if __name__ == "__main__":
    main()
