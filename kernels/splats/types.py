"""The arguments and results of the operations on splats: tuples of numbers and tensors."""

from typing import Literal, NamedTuple

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
"""A pixel is finished when its transmittance falls to this."""


Lens = Literal["pinhole"]
"""How a camera maps points in its frame to the image.

A lens is one function from points to the image plane, with its Jacobian and the limits within which
the Jacobian is used. To add a lens:

1. name it here;
2. write its function beside `pinhole` in `reference.py`, and add it to `LENSES`;
3. write it as a struct like `Pinhole` in `native/splats/lens.h`: the function, its Jacobian times
   the axes of splats, and the derivatives of both;
4. add a camera with it to the tests of `tests/kernels`.

Footprints, gradients by splats and by the view, and the blocks of curvature all go through these.
"""


class View(NamedTuple):
    """A camera as the kernels see it: plain numbers in the scene's frame."""

    world_to_camera: tuple[float, ...]
    """The upper three rows of the matrix, row by row: 12 numbers, OpenCV axes."""
    focal: tuple[float, float]
    center: tuple[float, float]
    """The principal point in pixels; the centre of the first pixel is (0.5, 0.5)."""
    width: int
    height: int
    near: float
    """Splats nearer than this along the axis are not in view. At least 0."""
    lens: Lens = "pinhole"


class Look(NamedTuple):
    """How a view looks at splats."""

    view: View
    degree: int
    """The highest degree of the harmonics in use, 0 to 3."""
    filter: Filter = "classic"


class Window(NamedTuple):
    """A part of an image, in pixels."""

    left: int
    top: int
    width: int
    height: int


ROW = 12
"""Numbers of a row that holds what blending reads of a splat, or a gradient by that."""


class Seen(NamedTuple):
    """What blending reads of each splat in view: plain tensors, which can go to another process.

    A row holds the centre (2), the conic (3), the opacity (1), the colour (3), the depth (1) and
    half the size of the box around all pixels where alpha >= ALPHA_MIN (2).
    """

    index: Tensor
    """The splat of each row. int32 [seen]"""
    rows: Tensor
    """[seen, ROW]"""

    @staticmethod
    def of(
        index: Tensor,
        *,
        means: Tensor,
        conics: Tensor,
        opacities: Tensor,
        colors: Tensor,
        depths: Tensor,
        extents: Tensor,
    ) -> "Seen":
        """The rows made of their columns, with the shapes of the properties below."""
        columns = [means, conics, opacities[:, None], colors, depths[:, None], extents]
        return Seen(index, torch.cat(columns, 1))

    @property
    def means(self) -> Tensor:
        """Centres in pixels. [seen, 2]"""
        return self.rows[:, :2]

    @property
    def conics(self) -> Tensor:
        """Inverse covariances as (xx, xy, yy), in 1 / square pixels. [seen, 3]"""
        return self.rows[:, 2:5]

    @property
    def opacities(self) -> Tensor:
        """Alpha at the centre, after the filter. [seen]"""
        return self.rows[:, 5]

    @property
    def colors(self) -> Tensor:
        """What the camera sees of the harmonics, at least 0. [seen, 3]"""
        return self.rows[:, 6:9]

    @property
    def depths(self) -> Tensor:
        """Distance along the camera's axis. [seen]"""
        return self.rows[:, 9]

    @property
    def extents(self) -> Tensor:
        """Half the size of the box. [seen, 2]"""
        return self.rows[:, 10:12]


class ByRecords(NamedTuple):
    """The gradient of a loss by what blending reads of each splat in view, a row each.

    The last two numbers of a row are not a gradient by the box, which has none, but the sums over
    pixels of the absolute gradient of the centre (AbsGS, arXiv 2404.10484, eq. 8), where they were
    asked for. Gradients of windows of one picture, and of pictures of the same records, are added
    row by row.
    """

    index: Tensor
    """The splat of each row; each splat at most once. int32 [seen]"""
    rows: Tensor
    """Like those of `Seen`. [seen, ROW]"""
    look: Look
    """Of the picture."""
    features: Tensor | None = None
    """The gradient by features that were blended in place of the colours. [seen, channels]"""

    @property
    def absolute(self) -> Tensor:
        """Sums of absolute gradients of the centres. [seen, 2]"""
        return self.rows[:, 10:12]

    def with_channels(self, colors: slice | None, depths: int | None) -> "ByRecords":
        """The same, where some of the features were the records' own colours and depths.

        Args:
            colors: The channels that were the colours.
            depths: The channel that was the depth.
        """
        assert self.features is not None
        rows = self.rows.clone()
        if colors is not None:
            rows[:, 6:9] += self.features[:, colors]
        if depths is not None:
            rows[:, 9] += self.features[:, depths]
        return self._replace(rows=rows, features=None)

    def share(self, first: int, end: int) -> "ByRecords":
        """The rows of splats `first` to `end`, counted from `first`: one owner's share."""
        own = (self.index >= first) & (self.index < end)
        features = None if self.features is None else self.features[own]
        return ByRecords(self.index[own] - first, self.rows[own], self.look, features)


class ByView(NamedTuple):
    """The gradient of a loss by the numbers of a view, in float64."""

    world_to_camera: Tensor
    """[3, 4]"""
    focal: Tensor
    """[2]"""
    center: Tensor
    """[2]"""


class Penalty(NamedTuple):
    """What each splat in view costs by itself, added to the loss (3DGS-MCMC, arXiv 2404.09591)."""

    opacity: float = 0.0
    """Times its opacity."""
    scale: float = 0.0
    """Times the sum of its standard deviations along its axes."""


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
    """Mean and variance of blended footprints, where each may be missing by chance."""

    mean: Tensor
    """Expectation of the blended features over all masks. [height, width, channels]"""
    variance: Tensor
    """Never negative. [height, width, channels]"""
    transmittance: Tensor
    """Expectation of what comes through from behind the last splat. [height, width]"""


class Parameters(NamedTuple):
    """One tensor for each parameter of the splats, or for its gradient or moments."""

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


GEOMETRY = 11
"""Numbers of a splat's shape: mean 3, quaternion 4, log scales 3, opacity logit 1."""

BLOCK_DAMPING = 1e-3
"""The diagonal of a block is increased by this part of itself before the block is inverted. This is
more than rounding takes from it, so that it stays positive definite."""

FARTHEST_STEP = 3.0
"""The longest step of a number of the geometry by a block, in rates. Adam's steps are at most about
one rate; coupled to others, a number with a small second moment could go much farther."""


class Blocks(NamedTuple):
    """The part of G^T diag(w) G within each splat, where G is the derivative of the picture."""

    geometry: Tensor
    """The symmetric block of mean, quaternion, log scales and opacity logit, as the rows of its
    lower triangle, one after the other. [splats, 66]"""
    base: Tensor
    """The diagonal of the harmonics of degree 0. [splats, 3]"""
    rest: Tensor
    """The diagonal of the other harmonics. [splats, (degree + 1)^2 - 1, 3]"""

    def matrices(self) -> Tensor:
        """The full symmetric matrices of the geometry. [splats, 11, 11]"""
        low, across = torch.tril_indices(GEOMETRY, GEOMETRY, device=self.geometry.device)
        matrices = self.geometry.new_empty(len(self.geometry), GEOMETRY, GEOMETRY)
        matrices[:, low, across] = self.geometry
        matrices[:, across, low] = self.geometry
        return matrices

    def diagonal(self) -> "Parameters":
        """The diagonal of G^T diag(w) G; the part of the geometry is a copy."""
        places = torch.arange(1, GEOMETRY + 1, device=self.geometry.device)
        diagonal = self.geometry[:, places * (places + 1) // 2 - 1]
        means, quaternions, log_scales, logits = diagonal.split([3, 4, 3, 1], 1)
        return Parameters(means, quaternions, log_scales, logits[:, 0], self.base, self.rest)


class Rates(NamedTuple):
    """Adam's learning rate for each parameter; a rate of 0 freezes it with its moments."""

    means: float
    quaternions: float
    log_scales: float
    opacity_logits: float
    base: float
    rest: float


class Moments(NamedTuple):
    """Adam's running means for each parameter of each splat."""

    first: Parameters
    """Running means of the gradients."""
    second: Parameters
    """Running means of their squares."""
    last: Tensor | None = None
    """The step that last moved each splat. If given, a splat that is in view again makes up for the
    steps since then, in which its gradient was zero: both means decay once for each of them, and
    one move stands for those that the first mean would have caused, divided by the root of the
    second mean as it is now. int32 [splats]"""


class Adam(NamedTuple):
    """The settings of one step of Adam (arXiv 1412.6980, algorithm 1)."""

    rates: Rates
    step: int
    """1 for the first step; corrects the bias of both running means."""
    betas: tuple[float, float] = (0.9, 0.999)
    """Decay of the first and the second mean."""
    epsilon: float = 1e-15
    """Added to the root of the second mean."""


class Target(NamedTuple):
    """A photo to fit splats to, with its camera and the settings of the loss."""

    view: View
    photo: Tensor
    """uint8, or float32 in [0, 1]: [height, width, 3]"""
    background: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Colour behind all splats."""
    ssim_weight: float = 0.2
    """Weight of 1 - SSIM in the loss; the mean absolute difference has the rest."""


class Pull(NamedTuple):
    """Sums over views that density control needs of each splat."""

    gradient: Tensor
    """Length of the absolute gradient of the centre (AbsGS, arXiv 2404.10484, eq. 8) in units of
    half the image's size. [splats]"""
    views: Tensor
    """The number of views that the splat was in. [splats]"""


class Stopped(Exception):
    """A picture was given up before it was finished, because another thread asked for that."""
