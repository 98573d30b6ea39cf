"""What every backend computes on images."""

from typing import NamedTuple, Protocol

from torch import Tensor

MARGIN = 5
"""Pixels by which the window of SSIM reaches beyond its centre, in each direction."""


class Inner(NamedTuple):
    """The pixels over which a loss is summed, where the picture is a window of a larger image.

    On each side where the image goes on, the picture must go on for `MARGIN` pixels at least.
    """

    left: int
    """Columns of the picture before the first of these pixels."""
    top: int
    """Rows of the picture above the first of these pixels."""
    width: int
    height: int
    pixels: int
    """Pixels of the whole image, by which the sum is divided."""


def with_margin(
    window: tuple[int, int, int, int], size: tuple[int, int]
) -> tuple[tuple[int, int, int, int], Inner]:
    """A window of an image, enlarged by the margin that its share of the image's loss needs.

    Args:
        window: Left, top, width and height, in pixels of the image.
        size: Width and height of the image.

    Returns:
        The window with its margin, as far as the image goes, and where in it `window` lies.
    """
    left, top, width, height = window
    x, y = max(0, left - MARGIN), max(0, top - MARGIN)
    right, bottom = min(size[0], left + width + MARGIN), min(size[1], top + height + MARGIN)
    inner = Inner(left - x, top - y, width, height, size[0] * size[1])
    return (x, y, right - x, bottom - y), inner


class ImageBackend(Protocol):
    """The operations that a backend for images offers. All refuse shapes that do not match."""

    def loss(
        self,
        image: Tensor,
        target: Tensor,
        *,
        ssim_weight: float,
        mask: Tensor | None = None,
        weight: Tensor | None = None,
        inner: Inner | None = None,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The photometric loss of 3DGS (arXiv 2308.04079, eq. 7), and its gradient by the image.

        The mean over pixels and channels of (1 - ssim_weight) |image - target| + ssim_weight
        (1 - SSIM), with SSIM as `ssim` has it. The result is the same for any number of threads.

        Args:
            image: Any number of channels, at least one. [height, width, channels]
            target: The photo: uint8, or floats in [0, 1] of the image's type.
                [height, width, channels]
            ssim_weight: Weight of 1 - SSIM. The absolute difference has 1 - ssim_weight.
            mask: If given, pixels that are False count as if image and target were equal there, and
                get no gradient. They are still among the pixels of the mean. bool [height, width]
            weight: If given, factor of each pixel's term of the mean. [height, width]
            inner: If given, the image is a window of a larger one and the sum is over these pixels.
                The gradient is that by all pixels of the window. Values and gradients of windows
                that divide an image among them add up to those of the whole.
            out: If given, the gradient is written to it. [height, width, channels]

        Returns:
            The loss, a scalar of float64, and its gradient. [height, width, channels]

        Raises:
            ValueError: An argument does not have the shape or type that is named above.
        """
        ...

    def ssim(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean structural similarity over pixels and channels (Wang 2004), differentiable to image.

        An 11x11 Gaussian window of sigma 1.5, zeros beyond the border, values in [0, 1].

        Args:
            image: [height, width, channels]
            target: uint8, or of the image's type. [height, width, channels]

        Returns:
            A scalar.

        Raises:
            ValueError: The target does not have the shape or type that is named above.
        """
        ...

    def l1(self, image: Tensor, target: Tensor) -> Tensor:
        """Mean absolute difference, differentiable to image, the same for any number of threads.

        Args:
            image: [height, width, channels]
            target: uint8, or of the image's type. [height, width, channels]

        Returns:
            A scalar.

        Raises:
            ValueError: The target does not have the shape or type that is named above.
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
            parameter: What is optimised: a tensor of any shape, or a slice of one. [...]
            gradient: Its gradient, of the same shape.
            first: Running mean of the gradient, of the same shape.
            second: Running mean of its square, of the same shape.
            step: 1 for the first step; corrects the bias of both means.
            learning_rate: Largest change of one entry, about.
            betas: Decay of the two means.
            epsilon: Added to the root of the second mean.
            rows: If given, rows that are False keep their values and moments. bool [rows]

        Raises:
            ValueError: A tensor does not have the shape or type that is named above.
        """
        ...
