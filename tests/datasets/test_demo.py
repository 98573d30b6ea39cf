"""The built-in scene: its depth and normals are exact, and its pictures are hard to fit."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from lumigraph.datasets.demo import (
    SIZES,
    demo_cameras,
    demo_depth,
    demo_surfaces,
    load_demo,
    make_demo,
)
from lumigraph.datasets.demo_mesh import demo_mesh
from lumigraph.datasets.demo_scene import LATTICE_RADIUS, NAMES, demo_scene
from lumigraph.datasets.lens import colmap
from lumigraph.kernels import _native
from lumigraph.kernels.tracer import KINDS, TracedScene, trace_picture, trace_surfaces
from lumigraph.render import Camera, look_at

LATTICE = NAMES.index("lattice")


def camera_at(position: list[float], target: list[float], width: int, height: int) -> Camera:
    up = torch.tensor([0.0, 0.0, 1.0])
    matrix = look_at(torch.tensor(position), torch.tensor(target), up)
    center = (width / 2 + 0.3, height / 2 - 0.7)
    return Camera(matrix, (1.1 * width, 1.2 * width), center, width, height)


def scene_of(*shapes: list[float]) -> TracedScene:
    return replace(demo_scene(), shapes=torch.tensor(shapes))


def directions(camera: Camera) -> Tensor:
    """World directions through pixel centres, of length one along the axis. [height, width, 3]"""
    rows, columns = torch.meshgrid(
        torch.arange(camera.height) + 0.5, torch.arange(camera.width) + 0.5, indexing="ij"
    )
    pixels = torch.stack([columns, rows], dim=-1).double()
    far = camera.unproject(pixels, torch.ones(camera.height, camera.width, dtype=torch.float64))
    return far - camera.position


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_demo(tmp_path_factory.mktemp("demo") / "tiny", "tiny")


def test_a_ball_is_met_where_the_quadratic_formula_says():
    center, radius = torch.tensor([0.3, -0.2, 1.0], dtype=torch.float64), 0.8
    row = [KINDS.index("ellipsoid"), 0, *center.tolist(), *[radius] * 3, 0, 0, 1, 0]
    camera = camera_at([4.0, 1.0, 2.0], [0.2, 0.0, 1.1], 33, 17)
    seen = trace_surfaces(scene_of(row), camera.view)
    rays, offset = directions(camera), camera.position - center
    a, b = rays.square().sum(-1), (rays @ offset)
    root = b.square() - a * (offset.square().sum() - radius**2)
    expected = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, 0)
    certain = root.abs() > 1e-3
    torch.testing.assert_close(seen.depth.double()[certain], expected[certain], atol=1e-4, rtol=0)
    normals = (camera.position + rays * expected[..., None] - center) / radius
    inside = root > 1e-3
    torch.testing.assert_close(seen.normals.double()[inside], normals[inside], atol=5e-4, rtol=0)
    assert (seen.shapes[~inside & certain] == -1).all()
    assert not seen.normals[~inside & certain].any()


def test_a_plane_is_met_where_its_equation_says():
    row = [KINDS.index("ground"), 0, 0, 0, 0.25, 0, 0, 0, 3.0, 0, 1, 0]
    camera = camera_at([1.0, 2.0, 2.5], [0.0, 0.0, 0.0], 33, 17)
    seen = trace_surfaces(scene_of(row), camera.view)
    rays = directions(camera)
    t = (0.25 - camera.position[2]) / rays[..., 2]
    reach = (camera.position + rays * t[..., None])[..., :2].norm(dim=-1)
    inside, outside = (t > 0) & (reach < 2.999), (t <= 0) | (reach > 3.001)
    torch.testing.assert_close(seen.depth.double()[inside], t[inside], atol=1e-5, rtol=1e-5)
    assert (seen.depth[outside] == 0).all()
    assert (seen.normals[inside] == torch.tensor([0.0, 0.0, 1.0])).all()


def test_normals_are_of_length_one_towards_the_camera_and_across_the_surface():
    camera = demo_cameras("small")[0][3]
    seen = demo_surfaces(camera)
    met = seen.shapes >= 0
    assert met.float().mean() > 0.5
    torch.testing.assert_close(seen.normals[met].norm(dim=-1), torch.ones(int(met.sum())))
    rays = directions(camera)
    facing = (seen.normals.double() * rays).sum(-1)
    assert (facing[met] <= 1e-4).all()
    points = camera.position + rays * seen.depth.double()[..., None]
    across, down = points[1:-1, 2:] - points[1:-1, :-2], points[2:, 1:-1] - points[:-2, 1:-1]
    normals = torch.nn.functional.normalize(torch.linalg.cross(down, across), dim=-1)
    ids = seen.shapes[1:-1, 1:-1]
    flat = met[1:-1, 1:-1]
    for other in (
        seen.shapes[1:-1, 2:],
        seen.shapes[1:-1, :-2],
        seen.shapes[2:, 1:-1],
        seen.shapes[:-2, 1:-1],
    ):
        flat = flat & (ids == other)
    agreement = (normals * seen.normals[1:-1, 1:-1].double()).sum(-1)[flat]
    assert (agreement > 0.98).double().mean() > 0.9


def test_depth_is_where_rays_meet_the_mesh():
    vertices, faces = demo_mesh(tolerance=0.01)
    camera = camera_at([4.4, 1.5, 2.2], [0.0, 0.0, 0.8], 14, 11)
    depth = demo_depth(camera).double()
    rays = directions(camera).reshape(-1, 3)
    hits = torch.stack([first_hit(camera.position, ray, vertices, faces) for ray in rays])
    error = (hits.reshape(depth.shape) - depth).abs()
    # A ray that grazes a round surface may miss the polygon that stands for it.
    assert (error < 0.04).double().mean() > 0.97
    assert error.median() < 1e-4


def first_hit(origin: Tensor, ray: Tensor, vertices: Tensor, faces: Tensor) -> Tensor:
    """Where a ray first meets a triangle (Moeller and Trumbore 1997), or 0."""
    a, b, c = vertices[faces].unbind(1)
    normal = torch.linalg.cross(b - a, c - a)
    scale = normal @ ray
    offset = origin - a
    t = -(normal * offset).sum(-1) / scale
    turned = torch.linalg.cross(offset, ray.expand_as(offset))
    u = -(turned * (c - a)).sum(-1) / scale
    v = (turned * (b - a)).sum(-1) / scale
    inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 1e-6)
    return t[inside].min() if inside.any() else torch.zeros((), dtype=torch.float64)


def test_the_mesh_lies_on_the_surfaces_and_faces_outwards():
    vertices, faces = demo_mesh(tolerance=0.02)
    assert int(faces.max()) == len(vertices) - 1
    a, b, c = vertices[faces].unbind(1)
    area = torch.linalg.cross(b - a, c - a)
    assert (area.norm(dim=1) > 0).all()
    assert (area[a[:, 2] > 3][:, 2].sum()) > 0  # At the top, most of the area faces upwards.


def test_the_model_is_read_by_colmap_as_it_was_written(tiny: Path):
    model = colmap().Reconstruction(str(tiny / "sparse" / "0"))
    train, test = demo_cameras("tiny")
    assert (model.num_images(), model.num_points3D()) == (len(train) + len(test), 500)
    images = {image.name: image for image in model.images.values()}
    for name, camera in [("train_005.png", train[5]), ("test_002.png", test[2])]:
        pose = torch.from_numpy(images[name].cam_from_world().matrix())
        torch.testing.assert_close(pose, camera.world_to_camera[:3])
        with Image.open(tiny / "images" / name) as picture:
            assert picture.size == (camera.width, camera.height)


def test_it_loads_like_any_capture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LUMIGRAPH_CACHE", str(tmp_path))
    calls: list[tuple[int, int]] = []
    capture = load_demo("tiny", progress=lambda done, total: calls.append((done, total)))
    extent = SIZES["tiny"]
    assert calls == [(i + 1, extent.train + extent.test) for i in range(len(calls))]
    assert len(calls) == extent.train + extent.test
    assert (len(capture.train), len(capture.test)) == (extent.train, extent.test)
    assert capture.points.shape == (extent.points, 3)
    assert not {frame.name for frame in capture.train} & {frame.name for frame in capture.test}
    frame, camera = capture.test[4], demo_cameras("tiny")[1][4]
    torch.testing.assert_close(frame.camera.world_to_camera, camera.world_to_camera)
    assert (frame.camera.focal, frame.camera.center) == (camera.focal, camera.center)
    assert torch.equal(frame.image(), trace_picture(demo_scene(), camera.view))
    calls.clear()
    load_demo("tiny", progress=lambda done, total: calls.append((done, total)))
    assert not calls  # It was in the cache.
    assert load_demo("tiny", seed=1).test[4].camera.position.tolist() != camera.position.tolist()


def test_every_known_point_is_seen_where_it_is(tiny: Path):
    rows = np.loadtxt(tiny / "sparse" / "0" / "points3D.txt")
    points = torch.from_numpy(rows[:, 1:4])
    seen = torch.zeros(len(points), dtype=torch.bool)
    for camera in demo_cameras("tiny")[0]:
        (columns, lines), away = camera.project(points)[0].unbind(-1), camera.project(points)[1]
        inside = (away > 0) & (columns >= 0) & (columns < camera.width)
        inside &= (lines >= 0) & (lines < camera.height)
        depth = demo_depth(camera)
        exact = depth[
            lines.long().clamp(0, camera.height - 1), columns.long().clamp(0, camera.width - 1)
        ]
        # Noise of 0.3 pixels of this small camera is 2 cm, along slanting ground more.
        seen |= inside & ((exact - away).abs() < 0.03 * away)
    assert seen.double().mean() > 0.97


def test_held_out_pictures_are_named_and_disjoint(tiny: Path):
    held = (tiny / "test_list.txt").read_text().split()
    images = {path.name for path in (tiny / "images").iterdir()}
    assert len(held) == SIZES["tiny"].test
    assert set(held) < images
    assert len(images) == SIZES["tiny"].train + SIZES["tiny"].test
    train, test = demo_cameras("full")
    assert (len(train), len(test)) == (80, 200)
    near = torch.cdist(positions(test), positions(train)).amin(1)
    assert near.min() > 0.01
    assert near.max() < 0.75  # Between the training cameras, not beyond them.


def positions(cameras: list[Camera]) -> Tensor:
    return torch.stack([camera.position for camera in cameras])


def test_pictures_are_the_same_for_any_number_of_threads_and_again(tiny: Path, tmp_path: Path):
    view = demo_cameras("small")[1][7].view
    first = trace_picture(demo_scene(), view, threads=1)
    for threads in (2, 8, 1):
        assert torch.equal(trace_picture(demo_scene(), view, threads=threads), first)
    again = make_demo(tmp_path / "again", "tiny")
    for path in sorted(tiny.rglob("*.*")):
        assert path.read_bytes() == (again / path.relative_to(tiny)).read_bytes(), path


@pytest.mark.parametrize("level", _native.available_levels())
def test_every_instruction_set_draws_the_same_picture(level: str):
    view, active = demo_cameras("small")[0][11].view, _native.active_level()
    expected = trace_picture(demo_scene(), view).int()
    try:
        _native.select_level(level)
        difference = (trace_picture(demo_scene(), view).int() - expected).abs()
    finally:
        _native.select_level(active)
    assert (difference > 1).double().mean() < 2e-3


def test_blurred_pictures_are_far_from_themselves():
    train = demo_cameras("full")[0]
    scores = [blurred_psnr(trace_picture(demo_scene(), c.view)) for c in train[::16]]
    assert sum(scores) / len(scores) < 22


def blurred_psnr(image: Tensor) -> float:
    """PSNR of a picture at an eighth of its resolution against the picture itself, in dB."""
    exact = image.permute(2, 0, 1)[None].float() / 255
    small = torch.nn.functional.avg_pool2d(exact, 8)
    blurred = torch.nn.functional.interpolate(small, size=exact.shape[2:], mode="bicubic")
    return -10 * math.log10((blurred.clamp(0, 1) - exact).square().mean().item())


def test_the_lattice_is_thinner_than_two_pixels():
    rods = demo_scene().shapes[:, 1] == LATTICE
    assert int(rods.sum()) >= 30
    thin = []
    for camera in demo_cameras("full")[0][::8]:
        seen = demo_surfaces(camera)
        on_rod = (seen.shapes >= 0) & rods[seen.shapes.clamp_min(0).long()]
        assert on_rod.any()
        width = 2 * LATTICE_RADIUS * camera.focal[0] / seen.depth[on_rod]
        thin.append(width.median().item())
    assert max(thin) < 2


def test_the_sun_casts_shadows_and_gloss_mirrors():
    row = [KINDS.index("ground"), NAMES.index("lattice"), 0, 0, 0, 0, 0, 0, 9.0, 0, 1, 0]
    ball = [KINDS.index("ellipsoid"), NAMES.index("ball"), 0, 0, 1, 0.5, 0.5, 0.5, 0, 0, 1, 0]
    camera = camera_at([0.3, 0.2, 6.0], [0.0, 0.0, 0.0], 64, 64)
    bare = trace_picture(scene_of(row), camera.view).float().mean(-1)
    shaded = trace_picture(scene_of(row, ball), camera.view).float().mean(-1)
    on_ground = trace_surfaces(scene_of(row, ball), camera.view).shapes == 0
    darker = (shaded < 0.8 * bare) & on_ground
    assert 20 < int(darker.sum()) < int(on_ground.sum()) / 2
    sun = demo_scene().light[:2]
    rows, columns = torch.nonzero(darker).double().mean(0).tolist()
    pixel = torch.tensor([columns + 0.5, rows + 0.5], dtype=torch.float64)
    place = camera.unproject(pixel, demo_depth_of(camera, row, rows, columns))
    assert place[:2] @ sun.double() < -0.5  # Away from the sun.
    mirror = replace(scene_of(row, ball), materials=demo_scene().materials.clone())
    mirror.materials[:, 8] = 0
    dull = trace_picture(mirror, camera.view).float().mean(-1)
    assert (shaded - dull)[~on_ground].abs().max() > 10


def demo_depth_of(camera: Camera, row: list[float], line: float, column: float) -> Tensor:
    return trace_surfaces(scene_of(row), camera.view).depth[int(line), int(column)].double()


def test_a_folder_appears_only_when_it_is_complete(tiny: Path, tmp_path: Path):
    def interrupt(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        make_demo(tmp_path / "half", "tiny", progress=interrupt)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(FileExistsError, match="name a new folder"):
        make_demo(tiny, "tiny")


def test_a_wrong_table_is_refused():
    view = demo_cameras("tiny")[0][0].view
    with pytest.raises(ValueError, match="the material of a shape must be"):
        trace_picture(scene_of([0, 99.0, 0, 0, 0, 0, 0, 0, 1, 0, 1, 0]), view)
    with pytest.raises(TypeError):
        trace_picture(replace(demo_scene(), light=torch.zeros(3)), view)
