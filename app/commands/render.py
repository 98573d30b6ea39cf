"""The command `render`: pictures and a film of a scene."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lumigraph.app.console import notice
from lumigraph.app.run.film import (
    Shots,
    ViewSet,
    ffmpeg,
    is_ours,
    make_film,
    render_sequence,
    views_around,
    views_of,
)
from lumigraph.app.run.folder import open_run
from lumigraph.recon.files import load_ply
from lumigraph.render import Camera


@dataclass(frozen=True)
class Filming:
    """What `render` is asked for.

    Attributes:
        views: The cameras to render.
        count: The number of views on an orbit or path.
        scale: Size of the pictures over that of the photos.
        depth: Whether to show depth in place of colour.
        fps: Pictures per second of the film; None makes none.
    """

    views: ViewSet
    count: int
    scale: float
    depth: bool
    fps: float | None


def render_scene(path: Path, filming: Filming, output: Path | None) -> dict[str, Any]:
    """Makes pictures and a film of the scene in a run folder or a PLY file; says where they are."""
    name = filming.views + ("_depth" if filming.depth else "")
    if path.suffix.lower() == ".ply":
        scene = load_ply(path)
        if filming.views != "orbit":
            raise ValueError(f"{path} has no cameras, so only --views orbit can be made of it")
        shots, background = views_around(scene, filming.count), (0.0, 0.0, 0.0)
        folder = (output or path.with_name(f"{path.stem}_renders")) / name
    else:
        run = open_run(path)
        scene, views = run.scene(), run.views()
        shots, background = views_of(views, filming.views, filming.count), views.background
        folder = run.part(f"renders/{name}") if output is None else output / name
    cameras = [_scaled(camera, filming.scale) for camera in shots.cameras]
    film = folder.with_name(f"{name}.mp4")
    if filming.fps and film.exists() and not is_ours(folder):
        raise FileExistsError(
            f"{film} exists and `lumigraph render` did not make it: choose another folder with -o"
        )
    shots = Shots(cameras, shots.names)
    paths = render_sequence(scene, shots, folder, depth=filming.depth, background=background)
    made = _film(folder, film, filming)
    return {
        "folder": str(folder),
        "images": len(paths),
        "film": None if made is None else str(made),
    }


def render_rows(made: dict[str, Any]) -> list[tuple[str, Any]]:
    """The same as a person reads it."""
    return [("pictures", f"{made['images']} in {made['folder']}"), ("film", made["film"])]


def _scaled(camera: Camera, scale: float) -> Camera:
    width, height = round(camera.width * scale), round(camera.height * scale)
    return camera.resized(max(1, width), max(1, height))


def _film(folder: Path, film: Path, filming: Filming) -> Path | None:
    """The film of a numbered sequence; None without ffmpeg, or if the views have no order."""
    if filming.views not in ("orbit", "path") or filming.fps is None:
        return None
    program = ffmpeg()
    if program is None:
        notice('There is no film: install ffmpeg, or "lumigraph[video]"')
        return None
    make_film(program, folder, film, fps=filming.fps)
    return film
