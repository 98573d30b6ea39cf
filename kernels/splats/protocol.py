"""The operations that a backend for splats must offer."""

from typing import Protocol

from torch import Tensor

from lumigraph.kernels.splats.types import (
    ALPHA_MAX,
    Adam,
    Blocks,
    ByRecords,
    ByView,
    Filter,
    Look,
    Moments,
    Parameters,
    Penalty,
    Pull,
    Seen,
    View,
    Window,
)


class Records(Protocol):
    """The splats in view, prepared for blending, in the order of their index."""

    @property
    def look(self) -> Look:
        """How they are looked at."""
        ...

    @property
    def bytes(self) -> int:
        """Memory that the object holds beside the splats, about."""
        ...

    def tensors(self) -> Seen:
        """What blending reads of them, as plain tensors; `SplatBackend.records` undoes this."""
        ...


class Picture(Protocol):
    """Records blended front to back, and products with the derivative of the picture.

    The derivative is that of the picture as it is: an alpha held at `alpha_max` and a colour held
    at 0 do not move, and neither do the places where splats are culled, cut off at `ALPHA_MIN` or
    hidden behind a finished pixel. No product is NaN where a root vanishes: the root of the
    antialiased filter is held at 1e-4, lengths of quaternions and of directions to the camera at
    1e-12, and what is held does not move.

    Two threads must not ask for products of one object at once, and the splats must not be changed
    before the last of them.
    """

    @property
    def features(self) -> Tensor:
        """The colours, or the features that were given. [height, width, channels]"""
        ...

    @property
    def transmittance(self) -> Tensor:
        """The light that comes through from behind the last splat. [height, width]"""
        ...

    @property
    def median(self) -> Tensor:
        """Index of the splat at which transmittance falls to one half, or -1. int32 [height, width]

        It is empty unless it was asked for.
        """
        ...

    @property
    def bytes(self) -> int:
        """Memory that the object holds beside the splats, about."""
        ...

    def vjp(
        self, gradient: Tensor, transmittance: Tensor | None = None, *, absolute: bool = False
    ) -> ByRecords:
        """The gradient by records of a loss, from its gradient by the picture.

        Args:
            gradient: By the features. [height, width, channels]
            transmittance: By the transmittance. [height, width]
            absolute: Whether to sum the absolute gradients of the centres, for density control. The
                channels are summed before the absolute value, so there may be at most 4.

        Raises:
            ValueError: An argument has another shape or type than said.
            RuntimeError: The splats have been changed in place.
        """
        ...

    def jvp(self, direction: Parameters) -> Tensor:
        """G v: how the colours change along a direction of the parameters. [height, width, 3]

        G has a row for each colour of each pixel and a column for each parameter.

        Args:
            direction: Shaped like the splats; rows of splats that are not in view are not read.

        Raises:
            ValueError: The direction has another shape or type than the splats, the records were
                made without splats, or features were blended in place of the colours.
            RuntimeError: The splats have been changed in place.
        """
        ...

    def blocks(self, weights: Tensor, out: Blocks | None = None) -> Blocks:
        """The blocks of G^T diag(w) G of each splat, positive semidefinite but for rounding.

        A splat acts on the picture through nine numbers: its centre, conic, opacity and colour.
        Sums over pixels of products of the derivatives by those are found first, and carried over
        to the parameters once for each splat.

        Args:
            weights: w, not negative. [height, width, 3]
            out: If given, the blocks are added to it and it is returned.

        Raises:
            ValueError: As for `jvp`.
            RuntimeError: The splats have been changed in place.
        """
        ...


class MomentsPicture(Protocol):
    """Mean and variance of a picture over all ways to leave splats out by chance."""

    @property
    def mean(self) -> Tensor:
        """Expectation of the blended features. [height, width, channels]"""
        ...

    @property
    def variance(self) -> Tensor:
        """Never negative. [height, width, channels]"""
        ...

    @property
    def transmittance(self) -> Tensor:
        """Expectation of the light from behind the last splat. [height, width]"""
        ...

    def vjp(self, mean: Tensor, variance: Tensor, transmittance: Tensor) -> ByRecords:
        """The gradient by records of a loss, from its gradients by these three tensors."""
        ...


class SplatBackend(Protocol):
    """The operations on splats, each one function. No operation builds a graph for autograd.

    A step of training is `project`, `blend`, a loss and its gradient by the picture, `Picture.vjp`
    and `update`; `step.py` has it. `autograd.draw` makes the same differentiable.
    """

    def project(
        self,
        splats: Parameters,
        *,
        view: View,
        degree: int,
        filter: Filter = "classic",
        stop: Tensor | None = None,
    ) -> Records:
        """The splats in view as Gaussians on the image plane, with the colours they show.

        The covariance is projected by the affine approximation of EWA splatting (Zwicker 2001,
        eq. 31; 3DGS, arXiv 2308.04079, eq. 5) at the mean; its direction is first clamped to
        1.3 times the field of view. A colour is max(0, 0.5 + basis . coefficients), seen along the
        direction from the camera's centre to the splat's. Splats with a centre, a shape, an opacity
        or a colour that is not finite are not in view.

        Args:
            splats: The scene. It is kept, not copied.
            view: The camera.
            degree: The highest degree of the harmonics to use.
            filter: How splats smaller than a pixel are drawn.
            stop: One byte on the CPU, which another thread may set to 1 to have the work given up:
                `Stopped` is raised then, unless the work is done anyway. uint8 [1]

        Raises:
            ValueError: A parameter has another shape or type than said, or the near plane is
                below 0.
        """
        ...

    def records(self, seen: Seen, look: Look) -> Records:
        """Records made of plain tensors, on a process that may not have the splats.

        Args:
            seen: From `Records.tensors`, perhaps of several processes or changed. Splats of equal
                depth are blended in the order of their rows.
            look: How the splats are looked at; gives the size of the image.

        Raises:
            ValueError: A tensor has another shape or type than said, or a depth is negative.
        """
        ...

    def blend(
        self,
        records: Records,
        *,
        features: Tensor | None = None,
        background: tuple[float, ...] | None = None,
        window: Window | None = None,
        alpha_max: float = ALPHA_MAX,
        median: bool = False,
        stop: Tensor | None = None,
    ) -> Picture:
        """The records blended front to back (3DGS, eq. 3).

        Args:
            records: From `project` or `records`.
            features: What to blend in place of the colours, any number of channels.
                [seen, channels]
            background: One value for each channel, or None for zeros.
            window: The part of the image to draw, or None for all of it. Windows that begin at
                multiples of 16 pixels have the bits of the whole picture.
            alpha_max: Where alpha is held. No splat hides all that is behind it.
            median: Whether to find the median splats.
            stop: As for `project`.

        Raises:
            ValueError: An argument has another shape or type than said.
        """
        ...

    def moments(
        self,
        records: Records,
        *,
        rate: float,
        features: Tensor | None = None,
        background: tuple[float, ...] | None = None,
        origin: Tensor | None = None,
        shares: Tensor | None = None,
        window: Window | None = None,
        stop: Tensor | None = None,
    ) -> MomentsPicture:
        """Mean and variance of a picture where chance drops splats (PH-Dropout).

        Each splat is missing with probability `rate`, independently of the others, and the others
        do not make up for it (arXiv 2410.05468). The moments are exact: with p = 1 - rate and alpha
        as `blend` has it, from the last splat to the first,

            d = feature - mean
            variance = (1 - 2 p alpha + p alpha^2) variance + p (1 - p) alpha^2 d^2
            mean = mean + p alpha d

        A pixel is finished when the expected transmittance falls to `TRANSMITTANCE_MIN`. Rate 0
        gives the features of `blend` and a variance of exactly zero.

        Args:
            records: From `project` or `records`.
            rate: Probability that a splat is missing, at least 0 and below 1.
            features: As for `blend`.
            background: One value for each channel. None stands for zeros, with an origin too: then
                the sum of weight (feature - origin) over the splats is measured.
            origin: If given, features, background and mean are measured from it: so the variance of
                a small difference is found without subtracting large numbers. It gets no gradient.
                [height, width, channels]
            shares: If given, the part of the variance that each splat causes is added to it, summed
                over pixels and channels: its term p (1 - p) alpha^2 d^2 times the factors of the
                variance of all splats in front of it. Parts are not negative and sum to the
                variance. Not written to where the work is given up. [splats]
            window: As for `blend`.
            stop: As for `project`.

        Raises:
            ValueError: The rate is not in [0, 1), or a tensor has another shape or type than said.
        """
        ...

    def gradients(
        self, splats: Parameters, by_records: ByRecords, out: Parameters | None = None
    ) -> Parameters:
        """The gradient by the parameters, back through projection and harmonics.

        Args:
            splats: Those that were projected.
            by_records: From `Picture.vjp`.
            out: If given, the gradient is added to it and it is returned.

        Raises:
            ValueError: A tensor has another shape or type than the splats.
        """
        ...

    def view_gradient(self, splats: Parameters, by_records: ByRecords) -> ByView:
        """The gradient by the view: its matrix, focal lengths and principal point.

        All twelve numbers of the matrix are free. The colours depend on them too, through the
        centre of the camera, -R^T t.
        """
        ...

    def update(
        self,
        splats: Parameters,
        moments: Moments,
        by_records: ByRecords,
        adam: Adam,
        *,
        pull: Pull | None = None,
        curvature: Blocks | None = None,
        penalty: Penalty | None = None,
    ) -> None:
        """One step of Adam, in place, for the splats in view.

        Splats that are not in view keep their values and moments (Taming 3DGS, arXiv 2406.15643),
        and make up for it when they are seen again if it is known when each was last moved. The
        gradient of a splat counts as zero where it is not finite.

        Args:
            splats: The scene, or a share of it.
            moments: Of as many splats.
            by_records: From `Picture.vjp`, with indices of these splats.
            adam: The step.
            pull: If given, this view is added to it.
            curvature: If given, second derivatives C of the loss, about, positive semidefinite.
                With m the running mean of the gradient, and r the rate over the factor that
                corrects its bias, a step is (C + diag(root / r))^-1 m in place of r m / root: that
                of Newton's method for each splat, with Adam's root over its rate for
                Levenberg-Marquardt damping. C counts with `BLOCK_DAMPING` more of its diagonal over
                the geometry, of which no number goes farther than `FARTHEST_STEP` rates r.
            penalty: What splats in view cost by themselves.
        """
        ...
