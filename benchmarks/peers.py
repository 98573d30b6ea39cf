"""Adapters of other programs for `splats.py`, which times them if they are installed.

An adapter is a function that returns a `Peer`: a subject to time, or a note with the reason why
there is none. Open3D runs in a process of its own with this file as its program, because without a
working Vulkan it ends its process in place of raising an error.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

from lumigraph.app.commands.bench import Subject
from lumigraph.app.run.cameras import camera_json
from lumigraph.recon.files import save_ply
from lumigraph.render import Camera, Splats

TIMEOUT = 120
"""Seconds that a peer's process may take; the slowest known needs about 60."""

FRAMES = 5
"""Timed renderings in one process of Open3D; one rendering before them is not timed."""

FEW, MANY = 10, 60
"""Iterations of two runs of OpenSplat. Loading and saving cancel in their difference."""


@dataclass(frozen=True)
class Peer:
    """Another program.

    Attributes:
        name: The program, its version and its work.
        subject: The work to time, or None.
        note: The reason why it is not timed, or a remark on its figure.
    """

    name: str
    subject: Subject | None
    note: str


def installed(distribution: str) -> str | None:
    """The version of an installed distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def opensplat(capture: Path | None, downscale: int) -> Peer:
    """A training iteration of OpenSplat on the capture, by its command line."""
    name = "OpenSplat: training step"
    program = shutil.which("opensplat")
    if program is None:
        return Peer(name, None, "not installed (no `opensplat` on the PATH)")
    if capture is None:
        return Peer(name, None, "needs --capture")

    def run() -> float:
        return (_opensplat_ms(program, capture, MANY) - _opensplat_ms(program, capture, FEW)) / (
            MANY - FEW
        )

    def _opensplat_ms(program: str, capture: Path, iterations: int) -> float:
        options = ["-d", str(downscale), "--num-downscales", "0", "-n", str(iterations)]
        with tempfile.TemporaryDirectory(prefix="opensplat-") as folder:
            started = time.perf_counter()
            _output([program, str(capture.resolve()), *options], cwd=folder)
            return (time.perf_counter() - started) * 1e3

    return Peer(name, Subject(name, run), f"mean of iterations {FEW} to {MANY}")


def gsplat(scene: Splats, camera: Camera) -> Peer:
    """A rendering by gsplat, which has no kernels for processors."""
    known = installed("gsplat")
    name = f"gsplat {known or ''}".strip() + f": forward {camera.width}x{camera.height}"
    if known is None:
        return Peer(name, None, "not installed")
    if not torch.cuda.is_available():
        return Peer(name, None, "needs CUDA, which was not found")
    rasterization = importlib.import_module("gsplat").rasterization
    (fx, fy), (cx, cy) = camera.focal, camera.center
    there = scene.to("cuda")
    arguments = (
        there.means,
        there.quaternions,
        there.log_scales.exp(),
        there.opacity_logits.sigmoid(),
        torch.cat([there.base[:, None], there.rest], dim=1),
        camera.world_to_camera.float()[None].cuda(),
        torch.tensor([[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]]).float().cuda(),
    )

    @torch.no_grad()
    def run() -> None:
        rasterization(*arguments, camera.width, camera.height, sh_degree=scene.degree)
        torch.cuda.synchronize()

    return Peer(name, Subject(name, run), f"on {torch.cuda.get_device_name()}")


def open3d(scene: Splats, camera: Camera, folder: Path) -> Peer:
    """A rendering by Open3D's Gaussian splats through Vulkan; on a processor, Mesa's lavapipe.

    Args:
        scene: The scene to render.
        camera: The camera.
        folder: A folder for the scene's file.
    """
    known = installed("open3d")
    name = f"Open3D {known or ''}".strip() + f": forward {camera.width}x{camera.height}"
    if known is None:
        return Peer(name, None, "not installed")
    if tuple(map(int, known.split(".")[:2])) < (0, 20):
        return Peer(name, None, "needs Open3D 0.20 or newer, which renders splats")
    path = folder / "scene.ply"
    if not path.exists():
        save_ply(scene, path)
    task = json.dumps({"scene": str(path), "camera": camera_json(camera), "frames": FRAMES})

    def run() -> float:
        printed = _output([sys.executable, __file__, task], cwd=str(folder))
        return median(json.loads(printed.splitlines()[-1]))

    return Peer(name, Subject(name, run), "harmonics of degree 2 at most")


def tried(peers: list[Peer]) -> list[Peer]:
    """Runs every peer once; a peer that fails gets a note in place of its subject."""
    return [_tried(peer) for peer in peers]


def _tried(peer: Peer) -> Peer:
    if peer.subject is None:
        return peer
    try:
        peer.subject.run()
    except (RuntimeError, OSError) as error:
        return Peer(peer.name, None, f"does not run here: {error}")
    return peer


def _output(command: list[str], cwd: str) -> str:
    """The output of a program; RuntimeError with its last line if it fails or takes too long."""
    environment = os.environ | {"OMP_WAIT_POLICY": "passive", "GOMP_SPINCOUNT": "1000"}
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"it took more than {TIMEOUT} s") from None
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        last = lines[-1].strip()[:120] if lines else "no message"
        raise RuntimeError(f"exit code {done.returncode}, {last}")
    return done.stdout


def open3d_times(task: dict[str, Any]) -> list[float]:
    """Milliseconds of each rendering by Open3D, in this process."""
    import numpy as np
    import open3d

    camera = task["camera"]
    (fx, fy), (cx, cy) = camera["focal"], camera["center"]
    intrinsics = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]])
    rendering = open3d.visualization.rendering
    width, height = camera["width"], camera["height"]
    renderer = rendering.OffscreenRenderer(width, height)
    material = rendering.MaterialRecord()
    material.shader = "gaussianSplat"
    renderer.scene.add_geometry("scene", open3d.t.io.read_point_cloud(task["scene"]), material)
    matrix = np.array(camera["world_to_camera"])
    renderer.setup_camera(intrinsics, matrix, width, height)
    times = []
    for _ in range(task["frames"] + 1):
        started = time.perf_counter()
        # Reading the picture waits until it is drawn.
        np.asarray(renderer.render_to_image())
        times.append((time.perf_counter() - started) * 1e3)
    return times[1:]


if __name__ == "__main__":
    print(json.dumps(open3d_times(json.loads(sys.argv[1]))))
