"""What a page shows of a scene: closed forms of each mode, and pictures that are given up."""

import math
import threading
from dataclasses import replace
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from lumigraph.app.viewer.picture import (
    C0,
    HAZE,
    Picture,
    SceneUncertainty,
    color_table,
    picture,
)
from lumigraph.app.viewer.protocol import ColorMap, DisplayOptions, Mode
from lumigraph.kernels import Parameters, SplatBackend, Stopped
from lumigraph.kernels.splats import cpu, reference
from lumigraph.kernels.splats.composed import REFERENCE
from lumigraph.render import Camera, Splats, render, render_color, to_bytes
from lumigraph.uncertainty import exact_color

WIDTH, HEIGHT, FOCAL = 33, 17, 50.0
CAMERA = Camera(torch.eye(4, dtype=torch.float64), (FOCAL, FOCAL), (16.5, 8.5), WIDTH, HEIGHT)
"""At zero, looking along z; the axis goes through the middle of pixel (row 8, column 16)."""

MODES: tuple[Mode, ...] = get_args(Mode)
MAPS: tuple[ColorMap, ...] = ("turbo", "viridis", "gray")


def scene_of(count: int) -> Splats:
    """Splats of all sizes and colours in front of CAMERA."""
    generator = torch.Generator().manual_seed(count)

    def numbers(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3) * torch.tensor([1.0, 0.5, 1.0]) + torch.tensor([0, 0, 5.0]),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) * 0.5 - 2,
        opacity_logits=numbers(count),
        base=numbers(count, 3).abs(),
        rest=0.05 * numbers(count, 8, 3),
    )


def wall(depth: float, *, normal: tuple[float, float, float] = (0, 0, 1)) -> Splats:
    """A large, flat, opaque white splat across the axis, its shortest axis along `normal`."""
    n = torch.tensor(normal, dtype=torch.float32)
    n = n / n.norm()
    # The rotation that takes z to the normal: half way between the two, about their cross product.
    turn = torch.cat([(1 + n[2]).view(1), torch.stack([-n[1], n[0], torch.tensor(0.0)])])
    return Splats(
        means=torch.tensor([[0.0, 0.0, depth]]),
        quaternions=turn[None],
        log_scales=torch.tensor([[3.0, 3.0, 0.01]]).log(),
        opacity_logits=torch.tensor([8.0]),
        base=torch.full((1, 3), 0.5 / 0.28209479177387814),
        rest=torch.zeros(1, 0, 3),
    )


def joined(*scenes: Splats) -> Splats:
    names = scenes[0].tensors
    return Splats(**{n: torch.cat([s.tensors[n] for s in scenes]) for n in names}, filter="classic")


def nothing() -> Splats:
    return scene_of(3)[:0]


def looked(scene: Splats, mode: Mode, *, rate: float = 0.05, **display: Any) -> Tensor:
    known = SceneUncertainty(rate, confidence=trusted(scene))
    return picture(scene, CAMERA, DisplayOptions(mode, **display), uncertainty=known).pixels


def trusted(scene: Splats) -> Tensor:
    """A confidence for each splat, the same every time."""
    return torch.rand(len(scene), generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("count", [0, 1, 200])
def test_every_mode_makes_a_picture_of_the_camera(mode: Mode, count: int):
    scene = scene_of(200)[:count]
    pixels = looked(scene, mode)
    assert pixels.shape == (HEIGHT, WIDTH, 3)
    assert pixels.dtype == torch.uint8
    assert bool(pixels.any()) == (count > 0 or mode in ("opacity", "uncertainty"))


@pytest.mark.parametrize("mode", MODES)
def test_a_picture_leaves_its_scene_alone(mode: Mode):
    scene = scene_of(40)
    before = {name: value.clone() for name, value in scene.tensors.items()}
    first = looked(scene, mode)
    assert torch.equal(first, looked(scene, mode))
    for name, value in scene.tensors.items():
        assert torch.equal(value, before[name])


def test_uncertainty_is_the_exact_spread_of_what_is_left_out():
    scene = scene_of(200)
    mean, std = exact_color(scene, CAMERA, 0.2)
    spread, dropped = std.mean(-1), SceneUncertainty(0.2)
    made = picture(scene, CAMERA, DisplayOptions("uncertainty", "gray", 0.0, 0.4), None, dropped)
    expected = 255 * (254 * spread / 0.4).clamp(0, 254).round() / 254
    assert (made.pixels[..., 0].float() - expected).abs().max() <= 1
    assert (made.low, made.high) == (0.0, 0.4)
    # The range that is not given is that of most of it.
    found = picture(scene, CAMERA, DisplayOptions("uncertainty"), None, dropped)
    assert found.low == 0
    assert found.high is not None
    assert spread.median() < found.high <= spread.max()
    # Colours over it, and alone where it is more certain than asked.
    only = looked(scene, "uncertainty", over=1.0, rate=0.2)
    assert torch.equal(only, to_bytes(mean))
    limit = float(spread.median())
    some = looked(scene, "uncertainty", threshold=limit, rate=0.2)
    certain = spread < limit
    assert torch.equal(some[certain], to_bytes(mean)[certain])
    assert torch.equal(some[~certain], found.pixels[~certain])


def test_confidence_is_that_of_the_splats_blended_as_depth_is():
    scene = scene_of(8)
    # A splat's colour may stand for any number: what is blended is its part of what is seen.
    as_color = replace(
        scene, base=((trusted(scene) - 0.5) / C0)[:, None].expand(-1, 3).contiguous()
    )
    seen = render(replace(as_color, rest=scene.rest[:, :0]), CAMERA)
    expected = seen.color[..., 0] / seen.opacity.clamp_min(1e-6)
    known = SceneUncertainty(confidence=trusted(scene))
    made = picture(scene, CAMERA, DisplayOptions("confidence", "gray"), uncertainty=known)
    assert (made.low, made.high) == (0.0, 1.0)
    there = seen.opacity >= HAZE
    assert there.any()
    assert not there.all()
    shown = made.pixels[..., 0].float() / 255
    assert (shown[there] - expected[there]).abs().max() <= 2 / 254
    assert not made.pixels[~there].any()
    # All alike is that number wherever anything is, and the range may be another.
    half = SceneUncertainty(confidence=torch.full((len(scene),), 0.5))
    made = picture(scene, CAMERA, DisplayOptions("confidence", "gray", 0.25, 0.5), None, half)
    assert (made.pixels[..., 0][there] >= 253).all()


def test_confidence_that_is_not_known_shows_nothing():
    made = picture(scene_of(200), CAMERA, DisplayOptions("confidence"))
    assert made.pixels.shape == (HEIGHT, WIDTH, 3)
    assert made.pixels.max() == 0
    assert (made.low, made.high) == (None, None)


def test_at_a_rate_of_zero_nothing_is_uncertain():
    display, known = DisplayOptions("uncertainty", "gray"), SceneUncertainty(0.0)
    made = picture(scene_of(200), CAMERA, display, uncertainty=known)
    assert made.pixels.max() == 0


def test_colours_are_those_of_the_rendering_in_bytes():
    scene = scene_of(200)
    scene = replace(scene, base=2 * scene.base)  # some brighter than white
    background = (0.2, 0.4, 0.6)
    expected = to_bytes(render_color(scene, CAMERA, background=background))
    assert torch.equal(looked(scene, "color", background=background), expected)
    assert expected.amax() == 255


def test_the_range_of_depths_is_that_of_most_visible_surfaces():
    camera = CAMERA.resized(330, 170)
    scene = scene_of(300)
    shown = picture(scene, camera, DisplayOptions("depth"))
    whole = render(scene, camera)
    depths = whole.depth[whole.opacity >= HAZE]
    low, high = torch.quantile(depths, torch.tensor([0.02, 0.98])).tolist()
    assert shown.low == pytest.approx(low, rel=0.05)
    assert shown.high == pytest.approx(high, rel=0.05)


def test_a_range_stays_as_it_is_while_a_view_moves_on_a_little():
    scene = scene_of(300)
    for mode in ("depth", "uncertainty"):
        seen = set()
        for step in range(8):
            moved = CAMERA.world_to_camera.clone()
            moved[0, 3] += 1e-3 * step
            made = picture(scene, replace(CAMERA, world_to_camera=moved), DisplayOptions(mode))
            seen.add((made.low, made.high))
        assert len(seen) <= 2


@pytest.mark.parametrize("color_map", MAPS)
def test_depth_is_where_it_lies_between_the_ends_of_the_range(color_map: ColorMap):
    table = torch.from_numpy(color_table(color_map).astype("int64"))
    for depth, place in ((2.0, 1), (3.0, 128), (4.0, 255), (1.0, 1), (9.0, 255)):
        shown = picture(wall(depth), CAMERA, DisplayOptions("depth", color_map, 2.0, 4.0))
        assert shown.pixels[8, 16].tolist() == table[place].tolist()
        assert (shown.low, shown.high) == (2.0, 4.0)


def test_a_range_with_one_given_end_finds_the_other():
    shown = picture(wall(3.0), CAMERA, DisplayOptions("depth", low=1.0))
    assert shown.low == 1.0
    assert shown.high == pytest.approx(3.0)


def test_depth_is_black_where_nothing_is():
    far = replace(wall(5.0), log_scales=torch.tensor([[0.05, 0.05, 0.01]]).log())
    pixels = looked(far, "depth", low=0.0, high=5.0)
    assert pixels[8, 16].any()
    assert not pixels[0].any()
    assert not pixels[:, 0].any()


def test_opacity_is_what_the_rendering_says():
    scene = scene_of(60)
    opacity = render(scene, CAMERA).opacity
    grays = looked(scene, "opacity", color_map="gray")[..., 0].float() / 255
    assert (grays - opacity).abs().max() <= 1.01 / 254  # rounded twice
    shown = picture(scene, CAMERA, DisplayOptions("opacity"))
    assert (shown.low, shown.high) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("normal", "color"),
    [
        ((0, 0, 1), (0.5, 0.5, 1.0)),
        ((1, 0, -1), (0.854, 0.5, 0.854)),
        ((0, 1, -1), (0.5, 0.146, 0.854)),
        ((0, -2, -1), (0.5, 0.947, 0.724)),
    ],
)
def test_a_normal_points_to_the_camera_and_is_red_green_and_blue(normal, color):
    """As if x went to the right, y up and z to the camera; either sign of it is the same plane."""
    for sign in (1, -1):
        n = tuple(sign * v for v in normal)
        if n == (0, 0, -1):
            continue
        pixels = looked(wall(4.0, normal=n), "normals")
        assert pixels[8, 16].tolist() == pytest.approx([255 * c for c in color], abs=1.6)


def test_normals_turn_with_the_camera():
    scene = wall(4.0)
    angle = math.radians(30)
    turned = torch.eye(4, dtype=torch.float64)
    turned[0, 0] = turned[2, 2] = math.cos(angle)
    turned[0, 2], turned[2, 0] = math.sin(angle), -math.sin(angle)
    camera = replace(CAMERA, world_to_camera=turned, focal=(20.0, 20.0))
    seen = picture(scene, camera, DisplayOptions("normals")).pixels.reshape(-1, 3)
    seen = seen[(seen > 0).any(1)].float().median(0).values / 255
    expected = torch.tensor([0.5 - math.sin(angle) / 2, 0.5, 0.5 + math.cos(angle) / 2])
    torch.testing.assert_close(seen, expected, atol=0.006, rtol=0)


@pytest.mark.parametrize("axis", range(3))
def test_the_normal_is_the_column_of_the_rotation_of_the_shortest_axis(axis: int):
    """Held to the reference's matrices through what is seen of one large splat, rotated anyhow."""
    generator = torch.Generator().manual_seed(axis)
    for _ in range(5):
        quaternion = torch.randn(1, 4, generator=generator)
        sizes = torch.full((1, 3), 3.0)
        sizes[0, axis] = 0.5
        scene = replace(wall(6.0), quaternions=quaternion, log_scales=sizes.log())
        normal = reference.rotation_matrices(quaternion)[0, :, axis]
        normal = -normal * torch.sign(normal[2])
        expected = (normal * torch.tensor([1.0, -1.0, -1.0]) + 1) / 2 * 255
        seen = looked(scene, "normals")[8, 16]
        assert seen.tolist() == pytest.approx(expected.tolist(), abs=1.6)


def test_an_ellipse_ends_at_one_standard_deviation():
    sizes = (0.6, 0.3, 0.01)
    scene = replace(wall(5.0), log_scales=torch.tensor([sizes]).log())
    for opacity in (0.2, 0.999):
        faint = replace(scene, opacity_logits=torch.tensor([opacity]).logit())
        seen = looked(faint, "ellipses")[..., 0] > 90
        # Of widths 6 and 3 pixels, and the blur that every footprint has.
        columns, rows = (math.sqrt((FOCAL * s / 5) ** 2 + 0.3) for s in sizes[:2])
        assert seen[8].sum().item() == pytest.approx(2 * columns, abs=1.01)
        assert seen[:, 16].sum().item() == pytest.approx(2 * rows, abs=1.01)
        assert seen.sum().item() == pytest.approx(math.pi * columns * rows, rel=0.1)


def test_ellipses_are_opaque_and_the_nearest_is_in_front():
    near, far = wall(2.0), replace(wall(4.0), base=torch.tensor([[2.0, -2.0, -2.0]]))
    for scene in (joined(near, far), joined(far, near)):
        red, green, blue = looked(scene, "ellipses")[8, 16].int().tolist()
        assert abs(red - green) <= 3
        assert abs(red - blue) <= 3
        assert red >= 170


def test_neighbours_among_ellipses_differ_in_brightness():
    places = torch.linspace(-1.4, 1.4, 8)[:, None] * torch.tensor([[1.0, 0.0, 0.0]])
    splat = replace(wall(5.0), log_scales=torch.full((1, 3), 0.12).log())
    row = joined(*(replace(splat, means=splat.means + place) for place in places))
    seen = looked(row, "ellipses")[8, :, 0]
    columns = (places[:, 0] / 5 * FOCAL + 16.5).long()
    shades = seen[columns].tolist()
    assert len({round(shade / 4) for shade in shades}) >= 6
    assert min(shades) >= 0.69 * 250


def test_a_centre_is_a_dot_of_the_same_size_at_any_depth():
    for depth in (2.0, 5.0, 40.0):
        pixels = looked(wall(depth), "centers")
        seen = pixels[..., 0] > 127
        assert seen[7:10, 15:18].sum() == seen.sum()
        assert 5 <= seen.sum() <= 9
        assert pixels[8, 16].tolist() == pytest.approx([255] * 3, abs=4)


def test_dots_and_ellipses_of_nearly_transparent_splats_are_left_out():
    faint = replace(wall(3.0), opacity_logits=torch.tensor([0.05]).logit())
    assert not looked(faint, "centers").any()
    assert not looked(faint, "ellipses").any()
    assert looked(faint, "color").any()


def test_dots_and_ellipses_lie_on_the_background():
    background = (0.2, 0.4, 0.6)
    for mode in ("centers", "ellipses"):
        assert looked(nothing(), mode, background=background)[0, 0].tolist() == [51, 102, 153]


def test_colour_maps_begin_and_end_as_published():
    table = {name: color_table(name)[1:].astype(int) for name in MAPS}
    for colors in table.values():
        assert colors.shape == (255, 3)
    assert table["gray"][0].tolist() == [0, 0, 0]
    assert table["gray"][-1].tolist() == [255, 255, 255]
    assert table["viridis"][0].tolist() == [68, 1, 84]
    assert table["viridis"][-1].tolist() == [253, 231, 37]
    # Turbo goes from blue over green to red; its ends are dark.
    assert table["turbo"][127].argmax() == 1
    assert table["turbo"][40].argmax() == 2
    assert table["turbo"][220].argmax() == 0
    assert table["turbo"][0].max() < 90
    assert table["turbo"][-1].max() < 170


def test_steps_of_a_colour_map_are_small():
    for name in MAPS:
        steps = abs(color_table(name)[1:].astype(int)[1:] - color_table(name)[1:].astype(int)[:-1])
        assert steps.max() <= 16, name


# Pictures that are given up --------------------------------------------------------------------

BACKENDS: dict[str, SplatBackend] = {"cpu": cpu, "reference": REFERENCE}


def flag(value: int) -> Tensor:
    return torch.full((1,), value, dtype=torch.uint8)


def painted(backend: SplatBackend, scene: Splats, stop: Tensor | None) -> tuple[Tensor, Tensor]:
    splats = Parameters(**scene.tensors)
    records = backend.project(splats, view=CAMERA.view, degree=2, stop=stop)
    picture = backend.blend(records, background=(0.1, 0.2, 0.3), stop=stop)
    return picture.features, picture.transmittance


@pytest.mark.parametrize("name", BACKENDS)
def test_a_flag_that_is_not_set_changes_no_bit(name: str):
    scene = scene_of(300)
    plain = painted(BACKENDS[name], scene, None)
    watched = painted(BACKENDS[name], scene, flag(0))
    for one, other in zip(plain, watched, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", BACKENDS)
@pytest.mark.parametrize("count", [0, 300])
def test_a_flag_that_is_set_gives_up_the_picture(name: str, count: int):
    with pytest.raises(Stopped):
        painted(BACKENDS[name], scene_of(300)[:count], flag(1))


@pytest.mark.parametrize("mode", MODES)
def test_every_mode_can_be_given_up(mode: Mode):
    known = SceneUncertainty(confidence=trusted(scene_of(30)))
    with pytest.raises(Stopped):
        picture(scene_of(30), CAMERA, DisplayOptions(mode), flag(1), known)
    assert isinstance(picture(scene_of(30), CAMERA, DisplayOptions(mode), flag(0)), Picture)


def test_an_aborted_picture_is_never_taken_for_a_complete_one():
    scene, camera = scene_of(20_000), CAMERA.resized(640, 360)
    whole = render_color(scene, camera)
    outcomes = []
    for attempt in range(30):
        stop = flag(0)
        begun = threading.Event()

        def give_up(stop: Tensor = stop, begun: threading.Event = begun, spins: int = attempt):
            begun.wait()
            for _ in range(spins * 300):
                pass
            stop.fill_(1)
            # Whoever takes the wish back does not bring back what was left out.
            stop.fill_(spins % 2)

        thread = threading.Thread(target=give_up)
        thread.start()
        begun.set()
        try:
            outcomes.append(torch.equal(render_color(scene, camera, stop=stop), whole))
        except Stopped:
            outcomes.append(True)
        thread.join()
    assert all(outcomes)
    assert torch.equal(render_color(scene, camera), whole)


@pytest.mark.parametrize(
    "stop", [torch.zeros(2, dtype=torch.uint8), torch.zeros(1), torch.zeros((), dtype=torch.uint8)]
)
def test_a_flag_of_another_kind_is_refused(stop: Tensor):
    with pytest.raises((TypeError, ValueError)):
        render_color(scene_of(3), CAMERA, stop=stop)
