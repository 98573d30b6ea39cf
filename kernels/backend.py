"""The one interface every device implements."""

from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor

Filter = Literal["classic", "antialiased"]
"""How a splat smaller than a pixel is drawn.

Both widen every splat's footprint by `BLUR`; "antialiased" also lowers its opacity so that the
light it sends stays the same (Mip-Splatting, arXiv 2311.16493, eq. 9).
"""

BLUR = 0.3
"""Added to both variances of a footprint, in square pixels: what every PLY viewer assumes."""

ALPHA_MIN = 1 / 255
"""A splat is not seen where it is fainter than one step of an 8-bit image."""

ALPHA_MAX = 0.99
"""No splat hides all that is behind it, so that the one behind still gets a gradient."""

TRANSMITTANCE_MIN = 1e-4
"""A pixel is finished when less light than this comes through to it."""


class View(NamedTuple):
    """A pinhole camera as the kernels see it: plain numbers in the scene's frame."""

    world_to_camera: tuple[float, ...]
    """The upper three rows of the matrix, row by row: 12 numbers, OpenCV axes."""
    focal: tuple[float, float]
    center: tuple[float, float]
    """The principal point in pixels; the centre of the first pixel is (0.5, 0.5)."""
    width: int
    height: int
    near: float


class Footprints(NamedTuple):
    """Splats as one view sees them: Gaussians on the image plane.

    A splat that the view does not see has extents of zero, and zeros everywhere else.
    """

    means: Tensor
    """Centres in pixels. [splats, 2]"""
    conics: Tensor
    """Inverse covariance as (xx, xy, yy), in 1 / square pixels. [splats, 3]"""
    opacities: Tensor
    """Alpha at the centre, after the filter. [splats]"""
    depths: Tensor
    """Distance along the camera's axis. [splats]"""
    extents: Tensor
    """Half size of the box around all pixels where alpha >= ALPHA_MIN; no gradient. [splats, 2]"""


class Raster(NamedTuple):
    """Footprints blended front to back."""

    features: Tensor
    """[height, width, channels]"""
    transmittance: Tensor
    """What comes through from behind the last splat. [height, width]"""
    median: Tensor
    """Index of the splat at which transmittance falls to one half, or -1; empty where it was not
    asked for. int32 [height, width]"""


class RasterMoments(NamedTuple):
    """Expectation and spread of blended footprints of which each may be missing."""

    mean: Tensor
    """Expectation of the blended features over all masks. [height, width, channels]"""
    variance: Tensor
    """Never negative. [height, width, channels]"""
    transmittance: Tensor
    """Expectation of what comes through from behind the last splat. [height, width]"""


class Parameters(NamedTuple):
    """One tensor for each parameter of the splats, or of what belongs to it."""

    means: Tensor
    """[splats, 3]"""
    quaternions: Tensor
    """[splats, 4]"""
    log_scales: Tensor
    """[splats, 3]"""
    opacity_logits: Tensor
    """[splats]"""
    base: Tensor
    """[splats, 3]"""
    rest: Tensor
    """[splats, (degree + 1)^2 - 1, 3]"""


class Rates(NamedTuple):
    """Adam's learning rate for each parameter. Of 0 leaves it, and its moments, as they are."""

    means: float
    quaternions: float
    log_scales: float
    opacity_logits: float
    base: float
    rest: float


class Moments(NamedTuple):
    """What Adam remembers of each parameter of each splat."""

    first: Parameters
    """Running means of the gradients."""
    second: Parameters
    """Running means of their squares."""
    last: Tensor | None = None
    """The step that last moved each splat. If given, a splat that is seen again makes up for the
    steps since then, in which it had no gradient: its moments have decayed, and the first carries
    it on about as far as it would have, in one move that is divided by the root of the second as
    it is now. int32 [splats]"""


class Adam(NamedTuple):
    """What one step of Adam is told (arXiv 1412.6980, algorithm 1)."""

    rates: Rates
    step: int
    """1 for the first step; corrects the bias of both running means."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the two."""
    epsilon: float = 1e-15
    """Added to the root of the second."""


class Target(NamedTuple):
    """A photo, and what it says of the splats in its view."""

    view: View
    photo: Tensor
    """uint8, or float32 in [0, 1]: [height, width, 3]"""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind all splats."""
    ssim_weight: float = 0.2
    """Part of the loss that is structural similarity."""


class Pull(NamedTuple):
    """What density control wants to know of each splat, summed over views."""

    gradient: Tensor
    """Length of the absolute gradient of the centre (AbsGS, arXiv 2404.10484, eq. 8) in units of
    half the image's size. [splats]"""
    views: Tensor
    """How many saw it. [splats]"""


class Stopped(Exception):
    """A picture was given up before it was finished, because another thread asked for that."""


class Backend(Protocol):
    """What a module must define to be a backend.

    Everything but `paint`, `paint_moments`, `descend` and `adam` is differentiable.
    """

    def project(
        self,
        means: Tensor,
        quaternions: Tensor,
        log_scales: Tensor,
        opacity_logits: Tensor,
        *,
        view: View,
        filter: Filter = "classic",
    ) -> Footprints:
        """The splats as Gaussians on the image plane of one view.

        The covariance is projected by the affine approximation of EWA splatting (Zwicker 2001,
        eq. 31; 3DGS, arXiv 2308.04079, eq. 5) at the mean, whose direction is first clamped to
        1.3 times the field of view.

        Args:
            means: Centres in the scene's frame. [splats, 3]
            quaternions: Rotations as (w, x, y, z), of any length but zero. [splats, 4]
            log_scales: Logarithm of the standard deviation along each axis. [splats, 3]
            opacity_logits: Opacity before the sigmoid. [splats]
            view: The camera.
            filter: How sub-pixel splats are drawn.
        """
        ...

    def harmonics(
        self,
        means: Tensor,
        base: Tensor,
        rest: Tensor,
        *,
        view: View,
        degree: int,
        visible: Tensor | None = None,
    ) -> Tensor:
        """The colour each splat shows to the camera: max(0, 0.5 + basis . coefficients).

        Args:
            means: Centres in the scene's frame. [splats, 3]
            base: Coefficients of degree 0. [splats, 3]
            rest: Coefficients of the higher degrees, as many as there are. [splats, (D+1)^2-1, 3]
            view: The camera; the direction is from its centre to the splat's.
            degree: The highest degree to use, 0 to 3, at most D.
            visible: Where False, the colour and all its gradients are zero. bool [splats]

        Returns:
            Colours. [splats, 3]
        """
        ...

    def rasterize(
        self,
        footprints: Footprints,
        features: Tensor,
        *,
        width: int,
        height: int,
        background: tuple[float, ...] | None = None,
        absolute_gradients: Tensor | None = None,
        median: bool = True,
    ) -> Raster:
        """Blend the footprints front to back (3DGS, eq. 3).

        Differentiable to the means, conics and opacities of the footprints and to the features.
        Splats of equal depth are blended in the order of their index.

        Args:
            footprints: From `project`.
            features: What each splat shows; at least one channel. [splats, channels]
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            background: One value for each channel, or None for zeros.
            absolute_gradients: If given, backward adds to it the sum over pixels of the absolute
                gradient of the mean (AbsGS, arXiv 2404.10484, eq. 8). It is summed over the
                channels before the absolute value, so there may be at most 4. [splats, 2]
            median: False spares the time to find the median splats.
        """
        ...

    def rasterize_moments(
        self,
        footprints: Footprints,
        features: Tensor,
        *,
        rate: float,
        width: int,
        height: int,
        background: tuple[float, ...] | None = None,
        origin: Tensor | None = None,
        shares: Tensor | None = None,
    ) -> RasterMoments:
        """Mean and variance of the blended features where chance drops splats (PH-Dropout).

        Each splat is missing with probability `rate`, independently of the others, and is not made
        up for by those that are left (arXiv 2410.05468). The moments are exact: with p = 1 - rate
        and alpha as `rasterize` has it, from the last splat to the first,

            d = feature - mean
            variance = (1 - 2 p alpha + p alpha^2) variance + p (1 - p) alpha^2 d^2
            mean = mean + p alpha d

        Differentiable to the means, conics and opacities of the footprints and to the features.
        A pixel is finished when the expected transmittance falls to `TRANSMITTANCE_MIN`. Rate 0
        gives the mean of `rasterize` and a variance of exactly zero.

        Args:
            footprints: From `project`.
            features: What each splat shows; at least one channel. [splats, channels]
            rate: Probability that a splat is missing, at least 0 and below 1.
            width: Of the image, in pixels.
            height: Of the image, in pixels.
            background: One value for each channel. None stands for zeros, with an origin too: then
                it is the sum of weight (feature - origin) over the splats that is measured.
            origin: If given, what features and background are measured from, and the mean too: so
                the variance of a small difference is found without subtracting large numbers. It
                gets no gradient. [height, width, channels]
            shares: If given, each splat's part of the variance is added to it, summed over pixels
                and channels: its term p (1 - p) alpha^2 d^2 times the factors of the variance of
                all splats in front of it. Parts are not negative and sum to the variance. They
                are not differentiable. [splats]

        Raises:
            ValueError: The rate is not in [0, 1), or a tensor has another shape or type than said.
        """
        ...

    def paint(
        self,
        splats: Parameters,
        *,
        view: View,
        degree: int,
        filter: Filter = "classic",
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
        stop: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The image of one view: `project`, `harmonics` and `rasterize` at once.

        Args:
            splats: The scene.
            view: The camera.
            degree: The highest of the harmonics to use.
            filter: How sub-pixel splats are drawn.
            background: Colour behind all splats.
            stop: One byte on the CPU, which another thread may set to 1 to have the picture given
                up: `Stopped` is raised then, unless it is finished anyway. uint8 [1]

        Returns:
            The colours [height, width, 3] and the transmittance [height, width].
        """
        ...

    def paint_moments(
        self,
        splats: Parameters,
        *,
        view: View,
        degree: int,
        filter: Filter = "classic",
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
        rate: float,
        shares: Tensor | None = None,
        stop: Tensor | None = None,
    ) -> RasterMoments:
        """The moments of the image of one view: as `paint`, but by `rasterize_moments`.

        Args:
            splats: The scene.
            view: The camera.
            degree: The highest of the harmonics to use.
            filter: How sub-pixel splats are drawn.
            background: Colour behind all splats.
            rate: Probability that a splat is missing, at least 0 and below 1.
            shares: If given, each splat's part of the variance is added to it, unless the picture
                is given up. [splats]
            stop: As `paint` has it.

        Returns:
            Of the 3 colours.
        """
        ...

    def descend(
        self,
        splats: Parameters,
        moments: Moments,
        target: Target,
        adam: Adam,
        *,
        degree: int,
        filter: Filter = "classic",
        pull: Pull | None = None,
    ) -> float:
        """One step of Adam towards one photo, in place, for the splats that its view sees.

        The loss is (1 - ssim_weight) L1 + ssim_weight (1 - SSIM) (3DGS, arXiv 2308.04079, eq. 7).
        Splats that are not seen keep their values and moments (Taming 3DGS, arXiv 2406.15643),
        and make up for it when they are seen if it is known when each was last moved.

        Args:
            splats: The scene.
            moments: Of as many splats.
            target: The photo.
            adam: The step.
            degree: The highest of the harmonics to use.
            filter: How sub-pixel splats are drawn.
            pull: If given, this view is added to it.

        Returns:
            The loss before the step.
        """
        ...

    def ssim(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean structural similarity over pixels and channels (Wang 2004), differentiable to image.

        An 11x11 Gaussian window of sigma 1.5, zeros beyond the border, values in [0, 1].

        Args:
            image: [height, width, channels]
            target: [height, width, channels]

        Returns:
            A scalar.
        """
        ...

    def l1(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference, differentiable to image, the same for any number of threads.

        Args:
            image: [height, width, channels]
            target: [height, width, channels]

        Returns:
            A scalar.
        """
        ...

    def adam(
        self,
        parameter: Tensor,
        gradient: Tensor,
        first: Tensor,
        second: Tensor,
        *,
        step: int,
        learning_rate: float,
        betas: tuple[float, float] = (0.9, 0.999),
        epsilon: float = 1e-15,
        rows: Tensor | None = None,
    ) -> None:
        """One step of Adam (arXiv 1412.6980, algorithm 1), in place.

        Args:
            parameter: What is optimised. [splats, ...]
            gradient: Its gradient, of the same shape.
            first: Running mean of the gradient, of the same shape.
            second: Running mean of its square, of the same shape.
            step: 1 for the first step; corrects the bias of both means.
            learning_rate: Largest change of one entry, about.
            betas: Decay of the two means.
            epsilon: Added to the root of the second mean.
            rows: If given, rows that are False keep their values and moments. bool [splats]
        """
        ...


def backend_for(device: torch.device | str) -> Backend:
    """The fastest backend for tensors on `device`."""
    if torch.device(device).type == "cuda":
        from lumigraph.kernels import cuda

        return cuda
    from lumigraph.kernels import cpu

    return cpu
