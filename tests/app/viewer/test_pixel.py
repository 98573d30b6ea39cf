"""The numbers under a cursor: those of that pixel of the exact picture."""

from dataclasses import replace

import pytest
import torch

from lumigraph.app.viewer.picture import HAZE
from lumigraph.app.viewer.pixel import PixelMoments, pixel_message, read_pixel
from lumigraph.render import Camera, Splats, render_color
from lumigraph.uncertainty import Calibration, exact
from lumigraph.uncertainty.conformal import STD_FLOOR

WIDTH, HEIGHT = 40, 24
CAMERA = Camera(torch.eye(4, dtype=torch.float64), (30.0, 33.0), (17.0, 13.5), WIDTH, HEIGHT)
BACKGROUND = (0.2, 0.4, 0.6)
CALIBRATION = Calibration(alpha=0.1, beta=0.2, q=3.0, views=9)


def scene_of(count: int, filter: str = "classic") -> Splats:
    """Splats of all sizes, many of them larger than the picture or beside it."""
    generator = torch.Generator().manual_seed(count)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3) * torch.tensor([3.0, 2.0, 1.5]) + torch.tensor([0, 0, 4.0]),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) - 1.5,
        opacity_logits=numbers(count),
        base=numbers(count, 3),
        rest=0.2 * numbers(count, 8, 3),
        filter=filter,  # type: ignore[arg-type]
    )


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_a_reading_is_that_pixel_of_the_exact_picture(filter: str):
    scene = scene_of(300, filter)
    spread = exact(scene, CAMERA, 0.2, background=BACKGROUND)
    picture = render_color(scene, CAMERA, background=BACKGROUND)
    for column, row in ((0, 0), (WIDTH - 1, HEIGHT - 1), (17, 13), (5, 20), (33, 2)):
        read = read_pixel(scene, CAMERA, column, row, rate=0.2, background=BACKGROUND)
        assert torch.allclose(read.color, picture[row, column], atol=1e-5)
        assert torch.allclose(read.std, spread.std[row, column], atol=1e-5)
        assert read.opacity == pytest.approx(float(spread.opacity[row, column]), abs=1e-5)
        assert read.depth is not None
        assert read.depth == pytest.approx(float(spread.depth[row, column]), rel=1e-4)
        assert read.depth_std == pytest.approx(float(spread.depth_std[row, column]), rel=1e-3)


def test_where_nothing_is_there_is_the_background_and_no_depth():
    scene = scene_of(300)
    for empty in (scene[:0], replace(scene, means=scene.means - torch.tensor([0, 0, 99.0]))):
        read = read_pixel(empty, CAMERA, 3, 4, rate=0.2, background=BACKGROUND)
        assert read.color.tolist() == pytest.approx(BACKGROUND)
        assert read.std.tolist() == [0, 0, 0]
        assert (read.opacity, read.depth, read.depth_std) == (0.0, None, None)
    faint = replace(
        scene[:1], opacity_logits=torch.tensor([-4.0]), means=torch.tensor([[0, 0, 4.0]])
    )
    read = read_pixel(faint, CAMERA, 16, 13, rate=0.2, background=BACKGROUND)
    assert 0 < read.opacity < HAZE
    assert read.depth is None


def test_a_page_gets_intervals_cut_to_visible_colours():
    std = torch.tensor([0.01, 0.2, 0.0])
    reading = PixelMoments(torch.tensor([0.5, 0.9, 1.2]), std, 0.8, 3.0, 0.25)
    message = pixel_message(reading, (0.25, 0.75), CALIBRATION)
    assert message["color"] == pytest.approx([0.5, 0.9, 1.0])
    assert message["std"] == pytest.approx([0.01, 0.2, 0.0])
    assert message["low"] == pytest.approx([0.47, 0.3, 1.0], abs=1e-5)
    assert message["high"] == pytest.approx([0.53, 1.0, 1.0], abs=1e-5)
    assert (message["level"], message["within"]) == pytest.approx((0.9, 0.8))
    kept = {key: message[key] for key in ("t", "x", "y", "calibrated", "opacity", "depth_std")}
    assert kept == {
        "t": "pixel",
        "x": 0.25,
        "y": 0.75,
        "calibrated": True,
        "opacity": 0.8,
        "depth_std": 0.25,
    }
    # No standard deviation that is believed is below the floor.
    reading = replace(reading, color=torch.full((3,), 0.5))
    low = pixel_message(reading, (0, 0), CALIBRATION)["low"][2]
    assert low == pytest.approx(0.5 - 3 * STD_FLOOR, abs=1e-5)


def test_without_a_calibration_there_are_no_intervals():
    reading = PixelMoments(torch.rand(3), torch.rand(3), 1.0, None, None)
    message = pixel_message(reading, (0, 0), None)
    assert message["calibrated"] is False
    names = ("low", "high", "level", "within", "depth", "depth_std")
    assert all(message[name] is None for name in names)
