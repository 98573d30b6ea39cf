"""The CUDA backend: what can be held without a GPU.

What it computes is compared with the reference in test_kernels.py, by the tests marked `cuda`, and
in test_triton.py.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from lumigraph.kernels import (
    Footprints,
    Parameters,
    Raster,
    RasterMoments,
    View,
    splats_for,
)
from lumigraph.kernels.splats import cuda, reference, triton
from lumigraph.kernels.splats import gsplat as cuda_gsplat


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
def neither_works(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As on a machine where neither gsplat nor Triton works, with no warning given yet."""
    monkeypatch.setattr(cuda, "probe", lambda: "gsplat fails with ImportError: gone")
    monkeypatch.setattr(cuda, "probe_triton", lambda: "Triton fails with ImportError: lost")
    cuda._warn_once.cache_clear()
    yield
    cuda._warn_once.cache_clear()


def test_tensors_on_a_gpu_get_this_backend():
    assert splats_for("cuda:0") is cuda.BACKEND
    assert splats_for(torch.device("cuda")) is cuda.BACKEND


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_the_probes_say_that_there_is_no_gpu():
    assert cuda.probe() == "torch finds no NVIDIA GPU"
    assert cuda.probe_triton() == "torch finds no NVIDIA GPU"


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
    def fail(_: str) -> bool:
        raise error

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda_gsplat, "_draws_one_splat", fail)
    assert cuda.probe.__wrapped__() == f"gsplat fails with {type(error).__name__}: {error}"


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_whoever_only_paints_may_be_the_first_to_probe(
    monkeypatch: pytest.MonkeyPatch, mode: Callable[[], Any]
):
    with_gsplat(monkeypatch)
    with mode():
        assert cuda_gsplat._draws_one_splat("cpu")


def test_the_probe_of_triton_tells_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    probe = cuda.probe_triton.__wrapped__
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(triton, "blend", SimpleNamespace(probe=lambda: "no"), raising=False)
    assert probe() == "no"
    monkeypatch.delattr(triton, "blend")
    # So that the import fails, as where there is no Triton.
    monkeypatch.setitem(sys.modules, "lumigraph.kernels.splats.triton.blend", None)
    assert str(probe()).startswith("Triton fails with ")


def with_gsplat(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has the reference in gsplat's place; the names of what it did."""
    done: list[str] = []

    def project(*splats: Tensor, **options: Any) -> Footprints:
        done.append("gsplat")
        return reference.project(*splats, **options)

    def draw(
        footprints: Footprints, features: Tensor, width: int, height: int, *_: Any
    ) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor]]:
        done.append("gsplat")
        raster = reference.rasterize(footprints, features, width=width, height=height)
        order = torch.zeros(0, dtype=torch.int32)
        tiles = torch.zeros(-(-height // 16), -(-width // 16), dtype=torch.int32)
        return raster.features, torch.ones_like(raster.transmittance), (tiles, order)

    def harmonics(_: int, directions: Tensor, *__: Any, **___: Any) -> Tensor:
        done.append("gsplat")
        return torch.zeros_like(directions)

    library = SimpleNamespace(spherical_harmonics=harmonics)
    monkeypatch.setattr(cuda_gsplat, "project", project)
    monkeypatch.setattr(cuda_gsplat, "_draw", draw)
    monkeypatch.setattr(cuda_gsplat, "_gsplat", lambda: library)
    return done


def with_triton(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Has nothing drawn in Triton's place; the names of what it did."""
    done: list[str] = []

    def rasterize(_: Footprints, features: Tensor, *, width: int, height: int, **__: Any) -> Raster:
        done.append("Triton")
        picture = features.new_zeros(height, width, features.shape[1])
        return Raster(picture, picture[..., 0], picture[..., 0].int())

    def rasterize_moments(*inputs: Any, rate: float, **options: Any) -> RasterMoments:
        picture, through, _ = rasterize(*inputs, **options)
        return RasterMoments(picture, picture, through)

    def screen_products(_: Footprints, colors: Tensor, *__: Any) -> tuple[Tensor, Tensor, Tensor]:
        done.append("Triton")
        count = len(colors)
        return colors.new_zeros(count, 6, 6), colors.new_zeros(count, 3, 6), 0 * colors

    for name, function in {
        "blend": rasterize,
        "curvature": screen_products,
        "moments": rasterize_moments,
    }.items():
        module = SimpleNamespace(**{function.__name__: function})
        monkeypatch.setattr(triton, name, module, raising=False)
    return done


def works(monkeypatch: pytest.MonkeyPatch, *, gsplat: bool, triton: bool) -> None:
    monkeypatch.setattr(cuda, "probe", lambda: None if gsplat else "gone")
    monkeypatch.setattr(cuda, "probe_triton", lambda: None if triton else "lost")


def run(count: int, size: int, operation: str) -> Footprints | Tensor | Raster:
    view, splats = scene(count, size)
    if operation == "project":
        return cuda.project(*splats, view=view)
    if operation == "harmonics":
        return cuda.harmonics(splats[0], splats[0], torch.zeros(count, 0, 3), view=view, degree=0)
    footprints = reference.project(*splats, view=view)
    return cuda.rasterize(footprints, splats[0], width=size, height=size)


OPERATIONS = ["project", "harmonics", "rasterize"]


@pytest.mark.usefixtures("neither_works")
@pytest.mark.parametrize("operation", OPERATIONS)
def test_small_work_falls_back_to_the_reference_with_one_warning(operation: str):
    with pytest.warns(UserWarning, match=f"^{operation} is done slowly.*: gone; .*: lost$"):
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


@pytest.mark.usefixtures("neither_works")
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize(("count", "size"), [(2001, 16), (20, 257)])
def test_large_work_is_an_error_that_says_what_to_install(operation: str, count: int, size: int):
    said = (
        rf"^{operation} of {count} splats on {size**2} pixels needs gsplat or Triton, .*: gone; "
        r".*: lost\. Install lumigraph\[cuda\].* nvcc .* C compiler"
    )
    with pytest.raises(RuntimeError, match=said):
        run(count, size, operation)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("triton", [True, False])
def test_gsplat_goes_first(monkeypatch: pytest.MonkeyPatch, operation: str, triton: bool):
    works(monkeypatch, gsplat=True, triton=triton)
    by_gsplat, by_triton = with_gsplat(monkeypatch), with_triton(monkeypatch)
    run(2001, 16, operation)
    assert by_gsplat == ["gsplat"]
    assert not by_triton


@pytest.mark.parametrize("operation", OPERATIONS)
def test_where_gsplat_fails_triton_draws_without_limit(
    monkeypatch: pytest.MonkeyPatch, operation: str
):
    works(monkeypatch, gsplat=False, triton=True)
    by_gsplat, by_triton = with_gsplat(monkeypatch), with_triton(monkeypatch)
    run(2001, 16, operation)
    run(20, 257, operation)
    assert not by_gsplat
    assert by_triton == (2 * ["Triton"] if operation == "rasterize" else [])


def test_triton_does_not_draw_float64(monkeypatch: pytest.MonkeyPatch):
    works(monkeypatch, gsplat=False, triton=True)
    by_triton = with_triton(monkeypatch)
    _, splats = scene(2001, 16)
    footprints = reference.project(*(x.double() for x in splats), view=scene(1, 16)[0])
    with pytest.raises(RuntimeError, match=r"but gone; Triton draws float32 only\. Install"):
        cuda.rasterize(footprints, splats[0].double(), width=16, height=16)
    assert not by_triton


@pytest.mark.parametrize("gsplat", [True, False])
@pytest.mark.parametrize(
    ("wanted", "case"),
    [(True, "fixed"), (True, "gradients"), (False, "float64"), (False, "no Triton")],
)
def test_triton_finds_moments(
    monkeypatch: pytest.MonkeyPatch, gsplat: bool, wanted: bool, case: str
):
    works(monkeypatch, gsplat=gsplat, triton=case != "no Triton")
    by_triton = with_triton(monkeypatch)
    view, splats = scene(5, 16)
    dtype = torch.float64 if case == "float64" else torch.float32
    footprints = reference.project(*(x.to(dtype) for x in splats), view=view)
    footprints.means.requires_grad_(case == "gradients")
    moments = cuda.rasterize_moments(footprints, splats[0].to(dtype), rate=0.1, width=16, height=16)
    assert by_triton == (["Triton"] if wanted else [])
    assert moments.mean.any() == (not wanted)


@pytest.mark.parametrize("gsplat", [True, False])
@pytest.mark.parametrize("case", ["Triton", "float64", "no Triton"])
@pytest.mark.filterwarnings("ignore:.* is done slowly")
def test_triton_finds_the_derivative(monkeypatch: pytest.MonkeyPatch, gsplat: bool, case: str):
    works(monkeypatch, gsplat=gsplat, triton=case != "no Triton")
    with_gsplat(monkeypatch)
    by_triton = with_triton(monkeypatch)
    view, splats = scene(5, 16)
    dtype = torch.float64 if case == "float64" else torch.float32
    scene_of = Parameters(*(x.to(dtype) for x in (*splats, splats[0], torch.zeros(5, 0, 3))))
    picture = cuda.BACKEND.blend(cuda.BACKEND.project(scene_of, view=view, degree=0))
    by_triton.clear()
    assert picture.jvp(scene_of).any() == (case != "Triton")
    assert by_triton == (["Triton"] if case == "Triton" else [])
    blocks = picture.blocks(torch.ones_like(picture.features))
    assert by_triton == (["Triton"] * 2 if case == "Triton" else [])
    assert blocks.geometry.any() == (case != "Triton")


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
    median = cuda_gsplat._median(footprints, expected.transmittance, starts, lists)
    assert torch.equal(median, expected.median)
    assert (median >= 0).any()
    # Without splats no light is stopped.
    none = torch.zeros(0, dtype=torch.int32)
    through = torch.ones(height, width)
    empty = cuda_gsplat._median(footprints, through, torch.zeros_like(starts), none)
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
def test_moments_with_gradients_are_those_of_the_reference(device: str, width: int, height: int):
    view, splats = scene(100, 64)
    view = view._replace(width=width, height=height)
    fixed = reference.project(*(t.double() for t in splats), view=view)
    chance = torch.Generator().manual_seed(3)
    origin = torch.rand(height, width, 2, generator=chance, dtype=torch.float64)
    weights = torch.rand(2, height, width, 2, generator=chance, dtype=torch.float64)

    def run(kernels: Any, where: str) -> list[Tensor]:
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
