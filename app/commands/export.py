"""The command `export`: a run's scene as a PLY file, checked after it is written."""

from pathlib import Path
from typing import Any

from lumigraph.app.run.estimate import stored_confidence
from lumigraph.app.run.export import FrameOf, write_ply
from lumigraph.app.run.folder import open_run


def export_run(path: Path, output: Path | None, frame: FrameOf = "capture") -> dict[str, Any]:
    """Writes the run's scene as a PLY that is shown to look the same, and says how near it comes.

    Raises ValueError if it does not look the same; the file that was there before stays then.
    """
    run = open_run(path)
    file = output or run.folder / "scene.ply"
    if file.suffix.lower() != ".ply":
        raise ValueError(f"{file} does not end in .ply, which is the only format of `export`")
    views = run.views()
    while True:  # a training may save another scene meanwhile
        stamp, scene = run.scene_stamp(), run.scene()
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
        if run.scene_stamp() == stamp:
            break
    return {
        "file": str(file),
        "confidence": trusted is not None,
        "splats": check.splats,
        "bytes": file.stat().st_size,
        "views": check.views,
        "psnr": check.psnr,
        "bounds_error": check.bounds_error,
    }


def export_rows(made: dict[str, Any]) -> list[tuple[str, Any]]:
    """The same as a person reads it."""
    return [
        ("file", made["file"]),
        ("splats", f"{made['splats']:,}"),
        ("size", f"{made['bytes'] / 1e6:.1f} MB"),
        ("confidence", "as a property of each splat" if made["confidence"] else None),
        ("read back", f"looks the same in {made['views']} views ({made['psnr']:.0f} dB or more)"),
    ]
