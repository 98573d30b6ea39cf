"""The CUDA backend: what can be held without a GPU.

What it computes is compared with the reference in test_kernels.py, by the tests marked `cuda`.
"""

import warnings
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import Backend, Footprints, Raster, View, backend_for, cuda, reference


def scene(count: int, size: int) -> tuple[View, tuple[Tensor, Tensor, Tensor, Tensor]]:
    """Splats before a camera, and the camera."""
    chance = torch.Generator().manual_seed(0)
    means = torch.rand(count, 3, generator=chance) * 2 - 1 + torch.tensor([0.0, 0, 2.5])
    quaternions = torch.randn(count, 4, generator=chance)
    log_scales = torch.randn(count, 3, generator=chance) * 0.3 - 1.5
    logits = torch.randn(count, generator=chance) + 2
    identity = (1.0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0)
    view = View(identity, (size, size), (size / 2, size / 2), size, size, 0.1)
    return view, (means, quaternions, log_scales, logits)


@pytest.fixture
def no_gsplat(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where gsplat does not work, with no warning given yet."""
    monkeypatch.setattr(cuda, "probe", lambda: "gsplat fails with ImportError: gone")
    cuda._warn_once.cache_clear()
    yield
    cuda._warn_once.cache_clear()


def test_tensors_on_a_gpu_get_this_backend():
    assert backend_for("cuda:0") is cuda
    assert backend_for(torch.device("cuda")) is cuda


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_probe_says_that_there_is_no_gpu():
    assert cuda.probe() == "torch finds no NVIDIA GPU"


@pytest.mark.parametrize(
    "error",
    [
        ModuleNotFoundError("No module named 'gsplat'"),
        RuntimeError("Error building extension 'gsplat_cuda'"),
        OSError("libcudart.so.12: cannot open shared object file"),
        AttributeError("'NoneType' object has no attribute 'CameraModelType'"),
        TypeError("fully_fused_projection() got an unexpected keyword argument 'opacities'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_the_probe_gives_the_reason_why_gsplat_fails(
    monkeypatch: pytest.MonkeyPatch, error: Exception
):
    def fail() -> bool:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "_draws_one_splat", fail)
    assert cuda.probe.__wrapped__() == f"gsplat fails with {type(error).__name__}: {error}"


def run(count: int, size: int, operation: str) -> Footprints | Tensor | Raster:
    view, splats = scene(count, size)
    if operation == "project":
        return cuda.project(*splats, view=view)
    if operation == "harmonics":
        return cuda.harmonics(splats[0], splats[0], torch.zeros(count, 0, 3), view=view, degree=0)
    footprints = reference.project(*splats, view=view)
    return cuda.rasterize(footprints, splats[0], width=size, height=size)


OPERATIONS = ["project", "harmonics", "rasterize"]


@pytest.mark.usefixtures("no_gsplat")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_small_work_falls_back_to_the_reference_with_one_warning(operation: str):
    with pytest.warns(UserWarning, match=f"^{operation} is done slowly.*ImportError: gone"):
        actual = run(20, 16, operation)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = run(20, 16, operation)
    view, splats = scene(20, 16)
    footprints = reference.project(*splats, view=view)
    rest = torch.zeros(20, 0, 3)
    expected = {
        "project": lambda: footprints,
        "harmonics": lambda: reference.harmonics(splats[0], splats[0], rest, view=view, degree=0),
        "rasterize": lambda: reference.rasterize(footprints, splats[0], width=16, height=16),
    }[operation]()
    for one, two, other in zip(actual, again, expected, strict=True):
        assert torch.equal(one, other)
        assert torch.equal(two, other)


@pytest.mark.usefixtures("no_gsplat")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("count", "size"), [(2001, 16), (20, 257)])
def test_large_work_is_an_error_that_says_what_to_install(operation: str, count: int, size: int):
    said = rf"^{operation} of {count} splats on {size**2} pixels.*gone.*lumigraph\[cuda\].*nvcc"
    with pytest.raises(RuntimeError, match=said):
        run(count, size, operation)


@pytest.mark.usefixtures("no_gsplat")
def test_what_is_plain_torch_needs_no_gsplat():
    image, target = torch.rand(2, 12, 19, 3, generator=torch.Generator().manual_seed(0))
    image.requires_grad_()
    losses: list[Callable[[Tensor, Tensor], Tensor]]
    for losses in ([cuda.ssim, reference.ssim], [cuda.l1, reference.l1]):
        one, other = (loss(image, target) for loss in losses)
        torch.testing.assert_close(one, other)
        derived = [torch.autograd.grad(3 * loss, image)[0] for loss in (one, other)]
        torch.testing.assert_close(*derived)
    assert cuda.adam is reference.adam


@pytest.mark.parametrize(("width", "height"), [(33, 17), (16, 16), (5, 40), (1, 1)])
def test_the_median_is_that_of_the_reference(width: int, height: int):
    _, splats = scene(100, 33)
    view = scene(1, 33)[0]._replace(width=width, height=height)
    footprints = reference.project(*splats, view=view)
    expected = reference.rasterize(footprints, splats[0], width=width, height=height)
    # Lists as gsplat makes them, but that every tile holds all splats.
    order = footprints.depths.argsort(stable=True)
    order = order[footprints.extents[order, 0] > 0]
    rows, columns = -(-height // 16), -(-width // 16)
    starts = (torch.arange(rows * columns) * len(order)).view(rows, columns).int()
    lists = order.repeat(rows * columns).int()
    median = cuda._median(footprints, expected.transmittance, starts, lists)
    assert torch.equal(median, expected.median)
    assert (median >= 0).any()
    # Without splats no light is stopped.
    none = torch.zeros(0, dtype=torch.int32)
    empty = cuda._median(footprints, torch.ones(height, width), torch.zeros_like(starts), none)
    assert (empty == -1).all()


@pytest.mark.parametrize(
    "device",
    [
        "cpu",
        pytest.param(
            "cuda",
            marks=[
                pytest.mark.cuda,
                pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
            ],
        ),
    ],
)
@pytest.mark.parametrize(("width", "height"), [(130, 70), (64, 64), (5, 40)])
def test_moments_by_patches_are_those_of_the_reference(device: str, width: int, height: int):
    view, splats = scene(100, 64)
    view = view._replace(width=width, height=height)
    fixed = reference.project(*(t.double() for t in splats), view=view)
    chance = torch.Generator().manual_seed(3)
    origin = torch.rand(height, width, 2, generator=chance, dtype=torch.float64)
    weights = torch.rand(2, height, width, 2, generator=chance, dtype=torch.float64)

    def run(kernels: Backend, where: str) -> list[Tensor]:
        inputs = [t.detach().to(where) for t in (*fixed[:3], splats[0][:, :2].double())]
        leaves = [t.requires_grad_() for t in inputs]
        footprints = Footprints(*leaves[:3], *(t.to(where) for t in fixed[3:]))
        shares = torch.zeros(100, dtype=torch.float64, device=where)
        moments = kernels.rasterize_moments(
            footprints,
            leaves[3],
            rate=0.1,
            width=width,
            height=height,
            background=(0.3, 0.6),
            origin=origin.to(where),
            shares=shares,
        )
        mean, variance = (t * w.to(where) for t, w in zip(moments[:2], weights, strict=True))
        loss = mean.sum() + variance.sum() + moments.transmittance.square().sum()
        values = [*moments, shares, *torch.autograd.grad(loss, leaves)]
        return [tensor.detach().cpu() for tensor in values]

    for one, other in zip(run(cuda, device), run(reference, "cpu"), strict=True):
        torch.testing.assert_close(one, other)
        assert other.any()
