"""Checks of arguments, for all backends."""

from typing import TypeVar

import torch
from torch import Tensor

from lumigraph.kernels.splats.types import (
    GEOMETRY,
    ROW,
    Blocks,
    Parameters,
    Seen,
    View,
    Window,
)

Kind = TypeVar("Kind")


def check_moments(
    channels: int,
    rate: float,
    size: tuple[int, int],
    background: tuple[float, ...] | None,
    origin: Tensor | None,
    shares: Tensor | None,
    splats: int | None,
    like: Tensor | None = None,
) -> None:
    """Raises ValueError unless moments can be found of these.

    Args:
        channels: To be blended.
        rate: Probability that a splat is missing.
        size: Width and height of the image.
        background: One value for each channel, or None.
        origin: [height, width, channels], or None
        shares: [splats], or None
        splats: How many there are, if that is known.
        like: Of the type and the device of the splats; None: float32 on the CPU.
    """
    like = torch.empty(0) if like is None else like
    check_rate(rate)
    if channels < 1:
        raise ValueError("features must have at least one channel, but there is none")
    if background is not None and len(background) != channels:
        raise ValueError(
            f"background must have one value for each of {channels} channels but has "
            f"{len(background)}"
        )
    if origin is not None:
        _check_like("origin", origin, (size[1], size[0], channels), like)
    if shares is not None:
        check_shares(shares, len(shares) if splats is None else splats, like)


def check_rate(rate: float) -> None:
    """Raises ValueError unless a splat can be missing with this probability."""
    if not 0 <= rate < 1:
        raise ValueError(
            f"rate must be at least 0 and below 1 but is {rate}: it is the probability that a "
            "splat is missing"
        )


def check_shares(shares: Tensor, splats: int, like: Tensor) -> None:
    """Raises ValueError unless one number for each splat can be added to it in place."""
    _check_like("shares", shares, (splats,), like)
    if not shares.is_contiguous() or shares.requires_grad:
        raise ValueError(
            "shares must be contiguous and need no gradient, for it is added to in place: pass "
            "torch.zeros(splats)"
        )


def check_splats(splats: Parameters, degree: int) -> None:
    """Raises ValueError unless these are parameters of some splats, with harmonics up to degree."""
    means, rest = splats.means, splats.rest
    count, columns = len(means), rest.shape[1] if rest.ndim == 3 else 0
    if not 0 <= degree <= 3 or (degree + 1) ** 2 - 1 > columns:
        raise ValueError(
            f"degree must be 0 to 3 with (degree + 1)^2 - 1 rows in rest, but it is {degree} and "
            f"rest is {list(rest.shape)}"
        )
    shapes = ((count, 3), (count, 4), (count, 3), (count,), (count, 3), (count, columns, 3))
    for name, value, shape in zip(splats._fields, splats, shapes, strict=True):
        _check_like(name, value, shape, means)


def check_direction(direction: Parameters, splats: Parameters) -> None:
    """Raises ValueError unless there is a number for each of the splats' numbers."""
    for name, value, like in zip(splats._fields, direction, splats, strict=True):
        _check_like(f"{name} of the direction", value, tuple(like.shape), like)


def check_weights(weights: Tensor, color: Tensor) -> None:
    """Raises ValueError unless there is a weight for each number of the picture."""
    _check_like("weights", weights, tuple(color.shape), color)


def check_gradient(out: Parameters, splats: Parameters) -> None:
    """Raises ValueError unless a gradient by the splats can be added to it in place."""
    for name, value, like in zip(splats._fields, out, splats, strict=True):
        _check_target(f"{name} of out", value, tuple(like.shape), like)


def check_blocks(out: Blocks, splats: Parameters) -> None:
    """Raises ValueError unless blocks of the splats can be added to it in place."""
    count, (*_, base, rest) = len(splats.means), splats
    size = GEOMETRY * (GEOMETRY + 1) // 2
    shapes = ((count, size), tuple(base.shape), tuple(rest.shape))
    for name, value, shape in zip(out._fields, out, shapes, strict=True):
        _check_target(f"{name} of out", value, shape, base)


def versions_of(splats: Parameters) -> tuple[int, ...]:
    """How often each tensor has been changed in place, where PyTorch counts that."""
    return tuple(0 if x.is_inference() else x._version for x in splats)


def check_has_splats(splats: Parameters | None, features: Tensor | None) -> Parameters:
    """The splats; raises ValueError unless there are some, and colours were blended of them."""
    if splats is None or features is not None:
        raise ValueError(
            "products with the derivative by parameters need colours, and records that were "
            "projected here: these have features of their own or were made from tensors"
        )
    return splats


def check_unchanged(splats: Parameters | None, versions: tuple[int, ...]) -> None:
    """Raises RuntimeError if splats are given and were changed since these versions."""
    if splats is not None and versions_of(splats) != versions:
        raise RuntimeError(
            "the splats have been changed in place since they were projected: project them anew"
        )


def _check_target(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    _check_like(name, tensor, shape, like)
    if not tensor.is_contiguous() or tensor.requires_grad:
        raise ValueError(
            f"{name} must be contiguous and need no gradient, for it is added to in place: pass "
            f"torch.zeros({', '.join(map(str, shape))})"
        )


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor.shape != shape or tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} {list(shape)} on {like.device} but is {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}"
        )


def check_own(records: object, kind: type[Kind]) -> Kind:
    """The records; raises TypeError unless they are of this backend's kind."""
    if not isinstance(records, kind):
        raise TypeError(
            f"records must be {kind.__name__} but are {type(records).__name__}: pass what "
            "`project` or `records` of the same backend gave"
        )
    return records


def check_view(view: View) -> None:
    """Raises ValueError unless depths in this view are at least 0, so that they sort."""
    if not view.near >= 0:
        raise ValueError(
            f"the near plane is at {view.near}: it must be at 0 or before the camera, for what is "
            "behind the camera is not seen"
        )


def check_window(window: Window, view: View) -> None:
    """Raises ValueError unless the window has pixels and lies in the image."""
    left, top, width, height = window
    inside = 0 <= left <= left + width <= view.width and 0 <= top <= top + height <= view.height
    if not inside or width < 1 or height < 1:
        raise ValueError(
            f"the window has {width}x{height} pixels from ({left}, {top}) on: it must have pixels "
            f"and lie in the image of {view.width}x{view.height}"
        )


def check_seen(seen: Seen) -> None:
    """Raises ValueError unless these are rows of records with depths that sort."""
    shape = (len(seen.index), ROW)
    if seen.rows.shape != shape or seen.index.ndim != 1 or seen.index.dtype != torch.int32:
        raise ValueError(
            f"records need int32 indices and rows of {ROW} numbers, one each, but these are "
            f"{seen.index.dtype} {list(seen.index.shape)} and {list(seen.rows.shape)}"
        )
    if not bool((seen.depths >= 0).all()):
        raise ValueError("records must have depths of at least 0: leave the others out")


def check_features(
    features: Tensor | None, background: tuple[float, ...] | None, seen: Seen
) -> None:
    """Raises ValueError unless there is a row of features for each splat in view."""
    if features is None:
        channels = 3
    else:
        channels = features.shape[1] if features.ndim == 2 else 0
        if channels < 1:
            raise ValueError("features must have at least one channel: [seen, channels]")
        _check_like("features", features, (len(seen.index), channels), seen.rows)
    if background is not None and len(background) != channels:
        raise ValueError(
            f"background must have one value for each of {channels} channels but has "
            f"{len(background)}"
        )


def check_picture_gradient(
    gradient: Tensor, transmittance: Tensor | None, features: Tensor, absolute: bool
) -> None:
    """Raises ValueError unless there is a number for each number of the picture."""
    _check_like("the gradient", gradient, tuple(features.shape), features)
    if transmittance is not None:
        _check_like(
            "the gradient of the transmittance", transmittance, tuple(features.shape[:2]), features
        )
    if absolute and features.shape[2] > 4:
        raise ValueError(
            f"absolute gradients need features of at most 4 channels, not {features.shape[2]}: "
            "blend the others by themselves"
        )


def check_in_place(groups: dict[str, Parameters]) -> None:
    """Raises ValueError unless all can be changed in place: a copy of the right kind is no use."""
    for group, values in groups.items():
        for name, value in zip(values._fields, values, strict=True):
            if value.dtype != torch.float32 or not value.is_contiguous():
                raise ValueError(
                    f"{name} of {group} must be contiguous float32 but is {value.dtype} with "
                    f"strides {value.stride()}: make it so before, it is changed in place"
                )
