"""Scenes in safetensors files: round trips, and errors for damaged or foreign files."""

import os

import pytest
import torch
from safetensors.torch import save_file

from lumigraph.recon.files import load_scene, save_scene
from lumigraph.render import Splats

METADATA = {"lumigraph": "1", "kind": "splats", "filter": "classic"}


def tensors_of(count: int, degree: int = 2) -> dict[str, torch.Tensor]:
    shapes = {
        "means": (count, 3),
        "quaternions": (count, 4),
        "log_scales": (count, 3),
        "opacity_logits": (count,),
        "base": (count, 3),
        "rest": (count, (degree + 1) ** 2 - 1, 3),
    }
    generator = torch.Generator().manual_seed(count)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 30])
def test_scenes_come_back_bit_for_bit(tmp_path, count, degree, filter):
    scene = Splats(**tensors_of(count, degree), filter=filter)
    save_scene(scene, tmp_path / "a.safetensors")
    again = load_scene(tmp_path / "a.safetensors")
    assert again.filter == filter
    for name, value in scene.tensors.items():
        assert torch.equal(again.tensors[name], value), name
    assert os.listdir(tmp_path) == ["a.safetensors"]


def test_scenes_of_other_layouts_in_memory_are_written(tmp_path):
    tensors = tensors_of(5)
    wide = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
    scene = Splats(**{**tensors, "means": wide[:, ::2].double().requires_grad_()}, filter="classic")
    save_scene(scene, tmp_path / "a.safetensors")
    assert torch.equal(load_scene(tmp_path / "a.safetensors").means, wide[:, ::2])


def test_a_scene_file_has_the_permissions_of_other_files(tmp_path):
    save_scene(Splats(**tensors_of(5), filter="classic"), tmp_path / "a.safetensors")
    (tmp_path / "usual").touch()
    assert (tmp_path / "a.safetensors").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_a_loaded_scene_outlives_its_file(tmp_path):
    path = tmp_path / "a.safetensors"
    save_scene(Splats(**tensors_of(5), filter="classic"), path)
    scene = load_scene(path)
    path.write_bytes(b"")
    assert torch.equal(scene.means, tensors_of(5)["means"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rest": None}, "should hold .*, rest, but holds"),
        ({"extra": torch.zeros(1)}, "should hold"),
        ({"means": torch.zeros(7, 2)}, r"means has the shape \[7, 2\]"),
        ({"means": torch.tensor(1.0)}, r"has the shape"),
        ({"base": torch.zeros(6, 3)}, r"base has the shape \[6, 3\], but 7 splats"),
        ({"rest": torch.zeros(7, 9, 3)}, r"rest has the shape \[7, 9, 3\]"),
        ({"rest": torch.zeros(7, 24, 3)}, r"rest has the shape"),
        ({"means": torch.zeros(7, 3, dtype=torch.float64)}, "means is F64"),
        ({"base": torch.full((7, 3), torch.nan)}, "base has values that are not finite"),
    ],
)
def test_wrong_tensors_are_refused(tmp_path, changes, message):
    tensors = {name: t for name, t in {**tensors_of(7), **changes}.items() if t is not None}
    save_file(tensors, tmp_path / "bad.safetensors", METADATA)
    with pytest.raises(ValueError, match=message) as error:
        load_scene(tmp_path / "bad.safetensors")
    assert "bad.safetensors" in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lumigraph": None}, "not written by lumigraph"),
        ({"lumigraph": "2"}, "layout version '2'"),
        ({"kind": "field"}, "kind 'field'"),
        ({"kind": None}, "kind ''"),
        ({"filter": "sharp"}, "filter 'sharp'"),
    ],
)
def test_metadata_of_other_programs_and_versions(tmp_path, changes, message):
    metadata = {key: v for key, v in {**METADATA, **changes}.items() if v is not None}
    save_file(tensors_of(7), tmp_path / "bad.safetensors", metadata)
    with pytest.raises(ValueError, match=message):
        load_scene(tmp_path / "bad.safetensors")


def test_damaged_files_are_refused(tmp_path):
    path = tmp_path / "bad.safetensors"
    save_scene(Splats(**tensors_of(7), filter="classic"), path)
    content = path.read_bytes()
    hostile = [b"", b"\xff" * 8, b"\xff" * 64, b"PK\x03\x04 a pickle in a zip"]
    for damaged in [*hostile, *(content[:n] for n in range(0, len(content), 41))]:
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"bad\.safetensors"):
            load_scene(path)


def test_absent_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="is not there"):
        load_scene(tmp_path / "absent.safetensors")
    with pytest.raises(FileNotFoundError, match="make the folder"):
        save_scene(Splats(**tensors_of(1), filter="classic"), tmp_path / "absent" / "a.safetensors")


def test_splats_that_are_not_finite_are_left_out_and_counted(tmp_path):
    scene = Splats(**tensors_of(7), filter="classic")
    scene.means[1, 2] = torch.nan
    scene.rest[4, 0, 0] = torch.inf
    with pytest.warns(UserWarning, match="2 of 7 splats have values that are not finite"):
        save_scene(scene, tmp_path / "a.safetensors")
    assert torch.equal(load_scene(tmp_path / "a.safetensors").means, scene.means[[0, 2, 3, 5, 6]])
