"""Captures of coloured blobs, for fits that take a second."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch

from lumigraph.datasets import Capture, Frame
from lumigraph.recon import Plan
from lumigraph.recon.splats.start import splats_from_points
from lumigraph.render import Camera, Similarity, Splats, render
from lumigraph.render.paths import look_at


def blobs(count: int, seed: int = 0) -> Splats:
    """Coloured blobs in a box of side 16 about (100, 0, 0)."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=generator) * 16 - 8
    splats = splats_from_points(points, torch.rand(count, 3, generator=generator), Plan(steps=1))
    return dataclasses.replace(
        splats,
        means=points + torch.tensor([100.0, 0, 0]),
        log_scales=torch.full((count, 3), math.log(1.5)),
        opacity_logits=torch.full((count,), 2.0),
    )


def capture_of(scene: Splats, views: int = 8, scale: float = 1.0) -> Capture:
    """Photos of a scene from a ring of cameras, in a frame `scale` times as large."""
    frames = []
    for k in range(views):
        angle = 2 * math.pi * k / views
        position = torch.tensor(
            [100 + 30 * math.cos(angle), 5, 30 * math.sin(angle)], dtype=torch.float64
        )
        matrix = look_at(
            position,
            torch.tensor([100.0, 0, 0], dtype=torch.float64),
            torch.tensor([0.0, -1, 0], dtype=torch.float64),
        )
        camera = Camera(matrix, (40.0, 40.0), (20.0, 15.0), 40, 30)
        with torch.no_grad():
            image = render(scene, camera).color.clamp(0, 1).mul(255).round().to(torch.uint8)
        moved = Similarity(torch.zeros(3, dtype=torch.float64), scale).camera(camera)
        frames.append(Frame(f"{k:03}.png", moved, lambda image=image: image))
    points = scene.means.double() * scale
    colors = (scene.base * 0.28209479 + 0.5).mul(255).round().to(torch.uint8)
    origin = torch.tensor([100.0 * scale, 0, 0], dtype=torch.float64)
    return Capture(
        "blobs",
        tuple(frames[1:]),
        tuple(frames[:1]),
        points,
        colors,
        Similarity(origin, 1 / (30 * scale)),
    )


@pytest.fixture(scope="session", name="capture_of")
def _capture_of() -> Callable[..., Capture]:
    """Makes the photos of a scene."""
    return capture_of


@pytest.fixture(scope="session", name="blobs")
def _blobs() -> Callable[..., Splats]:
    """Makes a scene of blobs."""
    return blobs


@pytest.fixture(scope="session")
def capture() -> Capture:
    """Eight views of 150 blobs; the first one is held out."""
    return capture_of(blobs(150))
