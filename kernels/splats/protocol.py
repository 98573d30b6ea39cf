"""The one interface every device implements."""

from typing import Protocol

import torch
from torch import Tensor

from lumigraph.kernels.splats.types import (
    Adam,
    Blocks,
    Filter,
    Footprints,
    Moments,
    Parameters,
    Pull,
    Raster,
    RasterMoments,
    Target,
    View,
)


class Linearization(Protocol):
    """The picture of one view, and products with its derivative G by the splats' parameters.

    G has a row for each colour of each pixel and a column for each parameter, and is that of the
    picture as it is rendered: an alpha held at `ALPHA_MAX` and a colour held at 0 do not move, and
    neither does where splats are culled, cut off at `ALPHA_MIN` or hidden behind a finished pixel.
    Quaternions are not of unit length, so along themselves they do nothing. No product is NaN where
    a root vanishes: the root of the antialiased filter is held at 1e-4, lengths of quaternions and
    of directions to the camera at 1e-12, and what is held does not move.

    The splats must not be changed as long as products are asked for, nor may two threads ask for
    products of one object at once.
    """

    @property
    def color(self) -> Tensor:
        """What `paint` gives. [height, width, 3]"""
        ...

    @property
    def bytes(self) -> int:
        """How much memory the object holds beside the splats, about."""
        ...

    def jvp(self, direction: Parameters) -> Tensor:
        """G v: how the colours change along a direction of the parameters. [height, width, 3]

        Args:
            direction: As the splats; rows of splats that are not seen are not read.

        Raises:
            ValueError: It has another shape or type than the splats.
            RuntimeError: The splats have been changed in place.
        """
        ...

    def vjp(self, weights: Tensor, out: Parameters | None = None) -> Parameters:
        """G^T u: the gradient of sum(u * colors).

        Args:
            weights: u. [height, width, 3]
            out: If given, the product is added to it and it is returned, so that views can be
                summed without a copy.

        Raises:
            ValueError: An argument has another shape or type than said.
            RuntimeError: The splats have been changed in place.
        """
        ...

    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """The blocks of G^T diag(w) G of each splat, positive semidefinite but for rounding.

        A splat acts on the picture through nine numbers, its footprint's 2D mean, conic and
        opacity and its colour: sums over pixels of products of the derivatives by those are found
        first, and carried over to the parameters once for each splat.

        Args:
            weights: w, not negative. [height, width, 3]
            out: If given, the blocks are added to it and it is returned.

        Raises:
            ValueError: An argument has another shape or type than said.
            RuntimeError: The splats have been changed in place.
        """
        ...


class Backend(Protocol):
    """What a module must define to be a backend.

    Everything but `paint`, `paint_moments`, `linearize` and `descend` is differentiable.
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

    def linearize(
        self,
        splats: Parameters,
        *,
        view: View,
        degree: int,
        filter: Filter = "classic",
        background: tuple[float, float, float] = (0.0, 0.0, 0.0),
    ) -> Linearization:
        """The picture of one view, with what second-order optimisers want of its derivative.

        Args:
            splats: The scene. It is kept, not copied.
            view: The camera.
            degree: The highest of the harmonics to use.
            filter: How sub-pixel splats are drawn.
            background: Colour behind all splats.

        Raises:
            ValueError: A parameter has another shape or type than said.
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
        curvature: Blocks | None = None,
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
            curvature: If given, second derivatives C of the loss, about, positive semidefinite.
                With m the running mean of the gradient, and r the rate over what corrects its
                bias, a step is (C + diag(root / r))^-1 m in place of r m / root: that of Newton's
                method for each splat, with Adam's root over its rate for Levenberg-Marquardt
                damping. C counts with `BLOCK_DAMPING` more of its diagonal over the geometry, of
                which no number goes farther than `FARTHEST_STEP` rates r.

        Returns:
            The loss before the step.
        """
        ...


def backend_for(device: torch.device | str) -> Backend:
    """The fastest backend for tensors on `device`."""
    if torch.device(device).type == "cuda":
        from lumigraph.kernels.splats import cuda

        return cuda
    from lumigraph.kernels.splats import cpu

    return cpu
