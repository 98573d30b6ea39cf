"""What arguments must be that some backend would not refuse by itself."""

from torch import Tensor

from lumigraph.kernels.splats.types import GEOMETRY, Blocks, Parameters


def check_moments(
    features: Tensor,
    rate: float,
    size: tuple[int, int],
    background: tuple[float, ...] | None,
    origin: Tensor | None,
    shares: Tensor | None,
) -> None:
    """Raises ValueError unless `Backend.rasterize_moments` can work on these; size is (w, h)."""
    splats, channels = features.shape
    check_rate(rate)
    if channels < 1:
        raise ValueError("features must have at least one channel, but there is none")
    if background is not None and len(background) != channels:
        raise ValueError(
            f"background must have one value for each of {channels} channels but has "
            f"{len(background)}"
        )
    if origin is not None:
        _check_like("origin", origin, (size[1], size[0], channels), features)
    if shares is not None:
        check_shares(shares, splats, features)


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


def check_unchanged(splats: Parameters, versions: tuple[int, ...]) -> None:
    """Raises RuntimeError unless the splats are as they were."""
    if versions_of(splats) != versions:
        raise RuntimeError(
            "the splats have been changed in place since they were linearized: linearize anew"
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
