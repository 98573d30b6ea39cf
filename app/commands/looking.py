"""What `eval`, `render` and `export` do with a scene that is there already."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lumigraph.app.console import notice
from lumigraph.app.run.estimate import stored_confidence
from lumigraph.app.run.evaluation import evaluate
from lumigraph.app.run.export import FrameOf, write_ply
from lumigraph.app.run.film import (
    Shots,
    Views,
    ffmpeg,
    is_ours,
    make_film,
    render_sequence,
    views_around,
    views_of,
)
from lumigraph.app.run.folder import Run, open_run
from lumigraph.app.run.report import write_report
from lumigraph.recon.files import load_ply
from lumigraph.render import Camera


@dataclass(frozen=True)
class Filming:
    """What `render` is asked for.

    Attributes:
        views: Where to look from.
        count: Of views on an orbit or path.
        scale: Size of the pictures over the photos'.
        depth: Whether to show depth in place of colour.
        fps: Pictures per second of the film; None makes none.
    """

    views: Views
    count: int
    scale: float
    depth: bool
    fps: float | None


def evaluate_run(run: Run, *, split: str, data: Path | None) -> dict[str, Any]:
    """The metrics of a run's scene, whose eval/ and report.html are written anew.

    Args:
        run: An open run.
        split: "test" or "train".
        data: The capture whose photos to compare with; None takes those kept in the run.

    Raises:
        ValueError: The capture has no photo for one of the frames of the run, or of another size.
    """
    views = run.views()
    frames = getattr(views, split)
    if data is not None:
        capture = run.selection().load(data)
        images = {frame.name: frame.image for frame in (*capture.train, *capture.test)}
        missing = [frame.name for frame in frames if frame.name not in images]
        if missing:
            raise ValueError(f"{data} has no {missing[0]}, which {run.folder} was trained with")
        frames = tuple(replace(frame, image=images[frame.name]) for frame in frames)
    if not frames:
        notice(f"{run.folder} has no {split} views: nothing to evaluate")
    metrics = evaluate(run, run.scene(), frames, background=views.background, split=split)
    if split == "test":
        means = {key: metrics[key] for key in ("psnr", "ssim", "images")}
        write_report(run.with_record(metrics=means))
    return metrics


def film_run(path: Path, filming: Filming, output: Path | None) -> dict[str, Any]:
    """Pictures, and a film, of the scene in a run folder or a PLY file; says where they are."""
    name = filming.views + ("_depth" if filming.depth else "")
    if path.suffix.lower() == ".ply":
        scene = load_ply(path)
        if filming.views != "orbit":
            raise ValueError(f"{path} has no cameras: only --views orbit can be made of it")
        shots, background = views_around(scene, filming.count), (0.0, 0.0, 0.0)
        folder = (output or path.with_name(f"{path.stem}_renders")) / name
    else:
        run = open_run(path)
        scene = run.scene()
        shots = views_of(run, filming.views, filming.count)
        background = run.capture().background
        folder = run.part(f"renders/{name}") if output is None else output / name
    shots = Shots([_scaled(camera, filming.scale) for camera in shots.cameras], shots.names)
    film = folder.with_name(f"{name}.mp4")
    if filming.fps and film.exists() and not is_ours(folder):
        raise FileExistsError(f"{film} is there already and not ours: choose another -o")
    paths = render_sequence(scene, shots, folder, depth=filming.depth, background=background)
    film = _film(folder, film, filming)
    return {
        "folder": str(folder),
        "images": len(paths),
        "film": None if film is None else str(film),
    }


def export_run(path: Path, output: Path | None, frame: FrameOf = "capture") -> dict[str, Any]:
    """Writes the run's scene as a PLY that is proven to show the same, and says how near it comes.

    Raises ValueError if it does not show the same; what lay there before stays then.
    """
    run = open_run(path)
    file = output or run.folder / "scene.ply"
    if file.suffix.lower() != ".ply":
        raise ValueError(f"{file} does not end in .ply, the one format there is so far")
    scene, views = run.scene(), run.views()
    trusted = stored_confidence(run, scene)
    check = write_ply(
        scene,
        file,
        cameras=[each.camera for each in (*views.test, *views.train)],
        similarity=run.capture().similarity,
        frame=frame,
        background=views.background,
        extra=None if trusted is None else {"confidence": trusted},
    )
    return {
        "file": str(file),
        "confidence": trusted is not None,
        "splats": check.splats,
        "bytes": file.stat().st_size,
        "views": check.views,
        "psnr": check.psnr,
        "bounds_error": check.bounds_error,
    }


def _scaled(camera: Camera, scale: float) -> Camera:
    width, height = round(camera.width * scale), round(camera.height * scale)
    return camera.resized(max(1, width), max(1, height))


def _film(folder: Path, film: Path, filming: Filming) -> Path | None:
    """The film of a numbered sequence; None where there is no ffmpeg or no order to film."""
    if filming.views not in ("orbit", "path") or filming.fps is None:
        return None
    program = ffmpeg()
    if program is None:
        notice('No film: ffmpeg was not found (install it, or "lumigraph[video]")')
        return None
    make_film(program, folder, film, fps=filming.fps)
    return film
