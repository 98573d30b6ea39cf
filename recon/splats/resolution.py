"""The size of the photos at each step, and the photos at that size.

After DashGaussian (arXiv 2503.18402): a fit begins with small photos, which cost little time, and
takes larger ones when it comes to the detail that only they show.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from lumigraph.datasets import Capture, Frame, ImageCache
from lumigraph.datasets.images import averaged
from lumigraph.recon.splats.plan import Plan
from lumigraph.render import Camera, Similarity

SIDE_MIN = 16
"""No side of a photo is made smaller than this many pixels: a window of SSIM is 11 wide."""

LEVELS_PER_OCTAVE = 4
"""Sizes in a factor of two: each has 1.4 times the pixels of the one before. More sizes would save
no more time, and these are few enough that resizing the photos takes no time beside the fit."""

PHOTOS, SIDE = 8, 512
"""The spectrum is that of the middle of 8 photos: it takes 0.1 s and hardly differs from all."""


def size_levels(capture: Capture, plan: Plan) -> Tensor:
    """The schedule of photo sizes: rows of (step, downscale), each valid from its step on.

    At a step the fit can learn a share of the spectrum's amplitude, which grows exponentially from
    `coarse_share` at the first step to 1 at `coarse_steps`. The size at a step is the smallest that
    keeps this share.

    Args:
        capture: The spectrum is that of its training photos.
        plan: Has `coarse_steps`, `coarse_share` and `coarse_downscale`.

    Returns:
        The first step is 0, the last downscale 1. float64 [levels, 2]
    """
    levels = [(0, 1.0)]
    if plan.coarse_steps:
        spectra = [_spectrum(frame.image()) for frame in _spread(capture.train, PHOTOS)]
        smallest = min(min(frame.camera.width, frame.camera.height) for frame in capture.train)
        most = min(plan.coarse_downscale, max(1.0, smallest / SIDE_MIN))
        downscales = [
            2 ** (k / LEVELS_PER_OCTAVE)
            for k in range(int(math.log2(most) * LEVELS_PER_OCTAVE + 1e-9), -1, -1)
        ]
        shares = [
            float(np.mean([_share(s, downscale) for s in spectra])) for downscale in downscales
        ]
        levels = _timed(downscales, shares, plan)
    return torch.tensor(levels, dtype=torch.float64)


def _timed(
    downscales: Sequence[float], shares: Sequence[float], plan: Plan
) -> list[tuple[int, float]]:
    """The step at which each size begins; sizes too small even for the first step are left out."""
    levels: list[tuple[int, float]] = []
    for downscale, share in zip(downscales, shares, strict=True):
        time = 1 - math.log(max(share, 1e-9)) / math.log(plan.coarse_share)
        step = max(0, round(time * plan.coarse_steps)) if downscale > 1 else plan.coarse_steps
        while levels and levels[-1][0] >= step:
            levels.pop()
        levels.append((step, downscale))
    # If even the smallest size keeps more than the plan asks for, it is the first.
    levels[0] = (0, levels[0][1])
    return levels


def downscale_at(levels: Tensor, step: int) -> float:
    """The downscale of photos at a step. levels: [levels, 2]"""
    return next(downscale for begin, downscale in reversed(levels.tolist()) if begin <= step)


def _spread(frames: Sequence[Frame], count: int) -> list[Frame]:
    """At most `count` frames, evenly spread over all."""
    count = min(count, len(frames))
    return [frames[i * len(frames) // count] for i in range(count)]


def _spectrum(photo: Tensor) -> np.ndarray:
    """Amplitudes of the middle of a photo, in the order of `np.fft.fftfreq`. [height, width]

    A Hann window keeps the edges at the photo's borders out of the spectrum. NumPy's transform runs
    in one thread, so the result does not depend on the number of threads.
    """
    height, width = (min(side, SIDE) for side in photo.shape[:2])
    top, left = (photo.shape[0] - height) // 2, (photo.shape[1] - width) // 2
    grey = photo[top : top + height, left : left + width].numpy().mean(2)
    window = np.hanning(height)[:, None] * np.hanning(width)
    return np.abs(np.fft.fft2((grey - grey.mean()) * window))


def _share(spectrum: np.ndarray, downscale: float) -> float:
    """The share of the amplitude that a downscaled photo keeps; 1 if there is none."""
    rows, columns = (np.abs(np.fft.fftfreq(side)) <= 0.5 / downscale for side in spectrum.shape)
    total = spectrum.sum()
    return float(spectrum[rows][:, columns].sum() / total) if total > 0 else 1.0


@dataclass
class Photos:
    """The training photos and their cameras at the size of a step.

    Attributes:
        frames: The training frames of the capture.
        similarity: Maps the capture's frame to the fit's.
        downscale: The downscale of the cameras and photos that are kept.
        cameras: Cameras of this size, by the index of their frame.
        smaller: Photos of this size, in bounded memory.
    """

    frames: Sequence[Frame]
    similarity: Similarity
    downscale: float = 1.0
    cameras: dict[int, Camera] = field(default_factory=dict)
    smaller: ImageCache | None = None

    def at(self, index: int, downscale: float) -> tuple[Camera, Tensor]:
        """A camera and its photo, `downscale` times smaller. uint8 [height, width, 3]"""
        if downscale != self.downscale:  # Drops everything of the old size.
            self.downscale, self.smaller = downscale, None
            self.cameras.clear()
        frame = self.frames[index]
        if index not in self.cameras:
            self.cameras[index] = _resized(self.similarity.camera(frame.camera), downscale)
        camera = self.cameras[index]
        if downscale == 1:
            return camera, frame.image()
        if self.smaller is None:
            self.smaller = ImageCache()
        photo = self.smaller.get(
            index,
            lambda: torch.from_numpy(averaged(frame.image().numpy(), camera.width, camera.height)),
        )
        return camera, photo


def _resized(camera: Camera, downscale: float) -> Camera:
    """The camera of a downscaled photo; each side keeps at least one pixel."""
    if downscale == 1:
        return camera
    width, height = (max(1, round(side / downscale)) for side in (camera.width, camera.height))
    return camera.resized(width, height)
