"""Measures how time and memory grow with splats, pixels and threads, as JSON and as plots.

    .venv/bin/python benchmarks/scaling.py --trained runs/demo -o build/scaling.json
    .venv/bin/python benchmarks/scaling.py --plot build/scaling.json

Each point is measured in a process of its own, so that memory can be told apart. The process loads
the scene, renders it, and takes training steps with and without their loss. Larger scenes are made
by splitting splats, smaller ones by choosing some at random. The default scene is that of
`lumigraph bench`. The plots in docs/images show the built-in scene: --trained is then the run
folder of `lumigraph demo`.
"""

import argparse
import json
import resource
import sys
import tempfile
from itertools import product
from pathlib import Path
from typing import Any

import measuring
import torch
from measuring import number

from lumigraph.app.commands.bench import (
    Size,
    Subject,
    interleaved,
    machine,
    rendering,
    resampled,
    training,
    training_steps,
)
from lumigraph.app.run.cameras import camera_json
from lumigraph.datasets.files import atomic
from lumigraph.recon.files import load_ply, save_ply
from lumigraph.render import Camera, Splats

COUNTS = (10_000, 100_000, 1_000_000, 2_000_000)
SIZES: tuple[Size, ...] = ((320, 180), (640, 360), (1280, 720), (1920, 1080))
THREADS = (1, 2)

WORK = ("forward", "step without loss", "training step")
"""The work of each process, in the order of its memory, because the peak only grows."""

IMAGES = Path(__file__).parents[1] / "docs" / "images"


def main() -> None:
    """Measures, or plots an earlier measurement."""
    if len(sys.argv) == 3 and sys.argv[1] == "--point":
        print(json.dumps(_point(json.loads(sys.argv[2]))))
        return
    asked = _arguments()
    try:
        if asked.plot is not None:
            _plot(json.loads(asked.plot.read_text(encoding="utf-8")), asked.images)
        else:
            _measure(asked)
    except (ValueError, OSError, RuntimeError) as error:
        sys.exit(f"Error: {error}")


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    measuring.scene_options(parser)
    parser.add_argument("--counts", type=_numbers, default=COUNTS, help="numbers of splats")
    parser.add_argument(
        "--sizes", type=measuring.sizes, default=SIZES, help="sizes of pictures: 320x180,640x360"
    )
    parser.add_argument(
        "--threads", type=_numbers, default=THREADS, help="numbers of threads [1,2]"
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds; a median needs 5 [5]")
    parser.add_argument("-o", "--output", type=Path, help="JSON file to write [standard output]")
    parser.add_argument("--plot", type=Path, metavar="JSON", help="draw the results of this file")
    parser.add_argument("--images", type=Path, default=IMAGES, help="folder of the plots")
    asked = parser.parse_args()
    if asked.rounds < 1 or min((*asked.counts, *asked.threads)) < 1:
        parser.error("--rounds, --counts and --threads should be at least 1")
    return asked


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _measure(asked: argparse.Namespace) -> None:
    """Measures every number of splats, size and number of threads, each in a process."""
    view = measuring.views(asked)[-1]
    grid = list(product(asked.counts, asked.sizes, asked.threads))
    told = measuring.telling("points")
    points = []
    with tempfile.TemporaryDirectory(prefix="lumigraph-scaling-") as folder:
        files = _files(view.scene, asked.counts, Path(folder))
        for count, size, threads in grid:
            task = {
                "scene": str(files[count]),
                "camera": camera_json(measuring.at_size(view.camera, size)),
                "threads": threads,
                "rounds": asked.rounds,
            }
            points.append({"splats": count, "size": size, "threads": threads, **_spawn(task)})
            told(len(points), len(grid))
    result = {
        "machine": machine(),
        "scene": {"name": view.name, "splats": len(view.scene)},
        "rounds": asked.rounds,
        "points": points,
    }
    text = json.dumps(result)
    if asked.output is None:
        print(text)
        return
    with atomic(asked.output) as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    print(_page(result))


def _files(scene: Splats, counts: tuple[int, ...], folder: Path) -> dict[int, Path]:
    """Writes the scene with each number of splats to a file that a process can read."""
    files = {}
    for count in counts:
        files[count] = folder / f"{count}.ply"
        save_ply(resampled(scene, count), files[count])
    return files


def _spawn(task: dict[str, Any]) -> dict[str, Any]:
    """Measures a point in a new process; RuntimeError with its last lines if it fails."""
    command = [sys.executable, __file__, "--point", json.dumps(task)]
    return json.loads(measuring.output_of(command, OMP_NUM_THREADS=str(task["threads"])))


def _point(task: dict[str, Any]) -> dict[str, Any]:
    """Times of all kinds of work in this process, and its peak memory after each."""
    torch.set_num_threads(task["threads"])
    scene = load_ply(Path(task["scene"]))
    told = task["camera"]
    camera = Camera(
        torch.tensor(told["world_to_camera"], dtype=torch.float64),
        tuple(told["focal"]),
        tuple(told["center"]),
        told["width"],
        told["height"],
        told["near"],
    )
    makers = {
        "forward": lambda: rendering("forward", scene, camera),
        "step without loss": lambda: measuring.without_loss("both", scene, camera),
        "training step": lambda: training("training", training_steps(scene, camera)),
    }
    found = {}
    for work in WORK:
        # Each subject is deleted before the next is made, which may then use its memory.
        subject: Subject = makers[work]()
        times = interleaved([subject], rounds=task["rounds"], runs=2)
        found[work] = {**measuring.summary(times[subject.name]), "peak_bytes": peak_bytes()}
        del subject
    return found


def peak_bytes() -> int:
    """The peak memory of this process in bytes.

    On Linux it is read from /proc, because `getrusage` also counts the program that started this
    one.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def per_unit(points: list[dict[str, Any]], work: str) -> dict[str, float]:
    """Bytes per splat and per pixel, with the most threads.

    Per splat: the difference between the most and the fewest splats, in the smallest picture. Per
    pixel: the difference between the largest and the smallest picture, with the fewest splats.
    """
    threads = max(point["threads"] for point in points)
    peaks = {
        (point["splats"], point["size"][0] * point["size"][1]): point[work]["peak_bytes"]
        for point in points
        if point["threads"] == threads
    }
    few, many = min(s for s, _ in peaks), max(s for s, _ in peaks)
    small, large = min(p for _, p in peaks), max(p for _, p in peaks)
    result = {}
    if many > few:
        result["splat"] = (peaks[many, small] - peaks[few, small]) / (many - few)
    if large > small:
        result["pixel"] = (peaks[few, large] - peaks[few, small]) / (large - small)
    return result


def _page(result: dict[str, Any]) -> str:
    """A table of the points, and one of memory per splat and per pixel."""
    rows = [
        (
            f"{point['splats']:,}",
            "x".join(map(str, point["size"])),
            str(point["threads"]),
            *(
                f"{number(point[work]['median'])} ({measuring.spread(point[work])})"
                for work in WORK
            ),
            number(point[WORK[-1]]["peak_bytes"] / 1e6),
        )
        for point in result["points"]
    ]
    head = ("splats", "size", "threads", *(f"{work}, ms" for work in WORK), "peak, MB")
    memory = []
    for work in WORK:
        bytes_ = per_unit(result["points"], work)
        memory.append((work, *(number(bytes_[u]) if u in bytes_ else "-" for u in UNITS)))
    units = ("memory", *(f"bytes per {unit}" for unit in UNITS))
    return measuring.markdown(head, rows) + "\n\n" + measuring.markdown(units, memory)


UNITS = ("splat", "pixel")


def _plot(result: dict[str, Any], folder: Path) -> None:
    """Writes the plots of a result to the folder, as SVG files."""
    from plots import draw

    folder.mkdir(parents=True, exist_ok=True)
    for path in draw(result, WORK, folder):
        print(path)


if __name__ == "__main__":
    main()
