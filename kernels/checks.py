"""What arguments must be that some backend would not refuse by itself."""

from torch import Tensor


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


def _check_like(name: str, tensor: Tensor, shape: tuple[int, ...], like: Tensor) -> None:
    if tensor.shape != shape or tensor.dtype != like.dtype or tensor.device != like.device:
        raise ValueError(
            f"{name} must be {like.dtype} {list(shape)} on {like.device} but is {tensor.dtype} "
            f"{list(tensor.shape)} on {tensor.device}"
        )
