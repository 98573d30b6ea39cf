"""Pictures that PyTorch differentiates, for every backend."""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from lumigraph.kernels.splats.protocol import SplatBackend
from lumigraph.kernels.splats.types import Look, Parameters

Color = tuple[float, float, float]


def draw(
    backend: SplatBackend, splats: Parameters, look: Look, background: Color
) -> tuple[Tensor, Tensor, Tensor]:
    """The picture of splats in a view: colours and depths, transmittance, and median depth.

    The first two are differentiable to all parameters.

    Args:
        backend: For tensors like the splats'.
        splats: The scene.
        look: The view, the degree of the harmonics and the filter.
        background: Colour behind all splats; of depth 0.

    Returns:
        Colours and depths, blended [height, width, 4]; the light from behind the last splat
        [height, width]; and the depth at which half of the light is stopped, 0 where it never is
        [height, width].
    """
    return _Draw.apply(backend, look, background, *splats)  # type: ignore[no-any-return]


class _Draw(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, backend: SplatBackend, look: Look, background: Color, *splats: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        view, degree, filter = look
        records = backend.project(Parameters(*splats), view=view, degree=degree, filter=filter)
        seen = records.tensors()
        picture = backend.blend(
            records,
            features=torch.cat([seen.colors, seen.depths[:, None]], 1),
            background=(*background, 0.0),
            median=True,
        )
        # One more for pixels without a median splat.
        depths = seen.depths.new_zeros(len(splats[0]) + 1)
        depths[seen.index.long()] = seen.depths
        ctx.backend, ctx.picture = backend, picture
        ctx.save_for_backward(*splats)
        halfway = depths[picture.median.long()]
        ctx.mark_non_differentiable(halfway)
        return picture.features, picture.transmittance, halfway

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, features: Tensor, light: Tensor, _: Tensor) -> tuple[Any, ...]:
        by_records = ctx.picture.vjp(features, light).with_channels(slice(0, 3), 3)
        found = ctx.backend.gradients(Parameters(*ctx.saved_tensors), by_records)
        return None, None, None, *found
