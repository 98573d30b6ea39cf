"""Sizes of photos: the step at which each begins, and cameras that match their photos."""

import dataclasses
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.images import averaged
from lumigraph.recon import Plan
from lumigraph.recon.splats.resolution import Photos, downscale_at, size_levels
from lumigraph.recon.splats.start import splats_from_points
from lumigraph.render import Camera, Similarity, psnr, render, to_bytes

PLAN = Plan(steps=1000, coarse_steps=600, coarse_downscale=8.0)
SIDE = 128


def waves(period: float) -> Tensor:
    """A grey photo with waves in both directions. period: in pixels"""
    across = torch.arange(SIDE) * (2 * math.pi / period)
    grey = 128 + 60 * (across.sin() + across.sin()[:, None])
    return grey.clamp(0, 255).to(torch.uint8)[..., None].repeat(1, 1, 3)


def capture_of(*photos: Tensor) -> Capture:
    one = torch.eye(4, dtype=torch.float64)
    frames = []
    for k, photo in enumerate(photos):
        height, width = photo.shape[:2]
        view = Camera(one, (1.5 * width, 1.5 * width), (width / 2, height / 2), width, height)
        frames.append(Frame(f"{k}.png", view, lambda photo=photo: photo))
    empty = torch.empty(0, 3)
    return Capture(
        "photos", tuple(frames), (), empty.double(), empty.to(torch.uint8), Similarity.identity()
    )


def test_photos_are_full_size_from_the_first_step_unless_asked():
    def refuse() -> Tensor:
        raise AssertionError("a photo was read")

    capture = capture_of(waves(8))
    frame = dataclasses.replace(capture.train[0], image=refuse)
    levels = size_levels(dataclasses.replace(capture, train=(frame,)), Plan(steps=10))
    assert levels.tolist() == [[0, 1]]


@pytest.mark.parametrize("make", [lambda: waves(3), lambda: waves(20), lambda: noise()])
def test_photos_grow_from_the_first_step_to_full_size_when_the_plan_says(make: Callable):
    levels = size_levels(capture_of(make(), make()), PLAN)
    steps, downscales = levels.T.tolist()
    assert steps[0] == 0
    assert steps[-1] <= PLAN.coarse_steps
    assert downscales[-1] == 1
    assert steps == sorted(set(steps))
    assert downscales == sorted(set(downscales), reverse=True)
    assert max(downscales) <= 8


def noise() -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (SIDE, SIDE, 3), generator=generator).to(torch.uint8)


def test_the_share_of_white_noise_is_that_of_its_frequencies():
    # A photo n times smaller keeps 1 / n^2 of a flat spectrum: a quarter at half the side, step 0.
    levels = size_levels(capture_of(noise()), PLAN)
    assert levels[0].tolist() == [0, pytest.approx(2, rel=0.2)]
    for step, downscale in levels.tolist()[1:]:
        share = 0.25 ** (1 - step / PLAN.coarse_steps)
        assert share == pytest.approx(downscale**-2, rel=0.06)


def test_coarse_photos_stay_as_small_as_their_detail_and_fine_ones_do_not():
    coarse, fine = (size_levels(capture_of(waves(period)), PLAN) for period in (24, 2.5))
    assert downscale_at(coarse, 0) > downscale_at(fine, 0)


def test_photos_are_not_made_smaller_than_the_plan_says():
    plan = dataclasses.replace(PLAN, coarse_downscale=1.5)
    assert size_levels(capture_of(waves(24)), plan)[0].tolist() == [0, pytest.approx(2**0.5)]


def test_a_photo_without_detail_is_used_at_full_size():
    grey = torch.full((SIDE, SIDE, 3), 90, dtype=torch.uint8)
    assert size_levels(capture_of(grey), PLAN).tolist() == [[0, 1]]


def test_the_level_in_use_is_the_last_that_began():
    levels = torch.tensor([[0, 4.0], [10, 2.0], [30, 1.0]])
    assert [downscale_at(levels, step) for step in (0, 9, 10, 29, 30, 99)] == [4, 4, 2, 2, 1, 1]


def test_smaller_photos_are_means_of_what_they_cover():
    photo = noise()
    half = torch.from_numpy(averaged(photo.numpy(), SIDE // 2, SIDE // 2))
    means = photo.float().view(SIDE // 2, 2, SIDE // 2, 2, 3).mean((1, 3))
    assert (half.float() - means).abs().max() <= 1  # Rounded once in each direction.
    ramp = torch.arange(90).to(torch.uint8)[None, :, None].repeat(6, 1, 3)
    # Pixels of 1.5: the mean over [1.5 k, 1.5 (k + 1)], and the ramp's value at x is x - 0.5.
    expected = (torch.arange(60) + 0.5) * 1.5 - 0.5
    smaller = torch.from_numpy(averaged(ramp.numpy(), 60, 4))
    assert (smaller[2, :, 0].float() - expected).abs().max() <= 0.75


def test_a_smaller_camera_sees_the_smaller_photo():
    points = torch.rand(200, 3) * 2 - torch.tensor([1.0, 1.0, -3.0])
    splats = splats_from_points(points, torch.rand(200, 3), Plan(steps=1, start_opacity=0.9))
    splats.log_scales[:] = math.log(0.15)
    whole = capture_of(torch.zeros(96, 130, 3, dtype=torch.uint8))
    photo = to_bytes(render(splats, whole.train[0].camera).color)
    photos = Photos(capture_of(photo).train, Similarity.identity())
    camera, smaller = photos.at(0, 2**0.75)
    assert (camera.height, camera.width) == smaller.shape[:2] == (57, 77)
    assert psnr(render(splats, camera).color.clamp(0, 1), smaller.float() / 255) > 35


def test_only_photos_of_the_size_in_use_are_kept():
    reads = []
    frames = capture_of(waves(9), waves(5)).train
    frames = tuple(
        dataclasses.replace(f, image=lambda f=f: reads.append(f.name) or f.image()) for f in frames
    )
    photos = Photos(frames, Similarity.identity())
    for downscale in (4.0, 4.0, 2.0, 2.0, 4.0):
        photos.at(0, downscale)
        photos.at(1, downscale)
    assert len(reads) == 6
    assert photos.smaller is not None
    assert photos.smaller.used_bytes == 2 * 32 * 32 * 3
    assert photos.at(1, 1.0)[1].shape == (SIDE, SIDE, 3)
    assert photos.smaller is None
