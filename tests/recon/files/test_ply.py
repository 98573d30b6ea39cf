"""Splats in PLY files: layout, round trips, and errors for damaged files."""

import os
import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lumigraph.recon.files import load_ply, load_trusted_ply, save_ply, verify_export
from lumigraph.render import Camera, Splats, look_at

LAYOUT = [
    *("x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"),
    *(f"f_rest_{i}" for i in range(45)),
    *("opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"),
]
"""The order in which 3DGS writes its columns."""


def splats_of(count: int, degree: int = 3, filter: str = "classic") -> Splats:
    generator = torch.Generator().manual_seed(count + degree)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator)

    return Splats(
        means=numbers(count, 3),
        quaternions=numbers(count, 4),
        log_scales=numbers(count, 3) * 0.3 - 2,
        opacity_logits=numbers(count),
        base=numbers(count, 3),
        rest=0.1 * numbers(count, (degree + 1) ** 2 - 1, 3),
        filter=filter,  # type: ignore[arg-type]
    )


def assert_same(one: Splats, other: Splats) -> None:
    assert one.filter == other.filter
    for name, value in one.tensors.items():
        assert torch.equal(value, other.tensors[name]), name


def table_of(names: list[str], count: int = 3) -> np.ndarray:
    """Rows with k + row / 8 in the k-th column of the layout."""
    columns = [LAYOUT.index(name) if name in LAYOUT else 99 for name in names]
    return np.array(columns)[None, :] + np.arange(count)[:, None] / 8


def write_ply(
    path: Path,
    names: list[str],
    table: np.ndarray,
    *,
    kind: str = "float",
    encoding: str = "binary_little_endian",
    before: str = "",
    count: int | None = None,
) -> Path:
    """A PLY file as another program might write it."""
    header = [
        *("ply", f"format {encoding} 1.0", *before.splitlines()),
        f"element vertex {len(table) if count is None else count}",
        *(f"property {kind} {name}" for name in names),
        "end_header\n",
    ]
    if encoding == "ascii":
        body = "".join(" ".join(map(str, row)) + "\n" for row in table).encode()
    else:
        order = "<" if encoding == "binary_little_endian" else ">"
        body = table.astype(order + {"float": "f4", "double": "f8", "uchar": "u1"}[kind]).tobytes()
    path.write_bytes("\n".join(header).encode() + body)
    return path


@pytest.mark.parametrize("degree", range(4))
@pytest.mark.parametrize("count", [0, 1, 40])
def test_splats_come_back_bit_for_bit(tmp_path, count, degree):
    splats = splats_of(count, degree)
    save_ply(splats, tmp_path / "a.ply")
    again = load_ply(tmp_path / "a.ply")
    assert_same(again, splats)
    assert again.degree == degree
    assert all(value.is_contiguous() for value in again.tensors.values())


def test_more_splats_than_are_read_at_a_time(tmp_path):
    splats = splats_of(100_003, 0)
    save_ply(splats, tmp_path / "a.ply")
    assert_same(load_ply(tmp_path / "a.ply"), splats)


def test_layout_is_that_of_3dgs(tmp_path):
    splats = splats_of(2)
    save_ply(splats, tmp_path / "a.ply", comments=["made by hand"])
    header, body = (tmp_path / "a.ply").read_bytes().split(b"end_header\n")
    lines = header.decode().splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert "comment SplatRenderMode: default" in lines
    assert "comment made by hand" in lines
    assert [line.split()[2] for line in lines if line.startswith("property float")] == LAYOUT
    rows = np.frombuffer(body, "<f4").reshape(2, 62)
    assert (rows[:, 3:6] == 0).all()
    # Channel by channel: 15 values of red, then green, then blue.
    np.testing.assert_array_equal(rows[:, 9:24], splats.rest[:, :, 0])
    np.testing.assert_array_equal(rows[:, 24:39], splats.rest[:, :, 1])
    np.testing.assert_array_equal(rows[:, 54], splats.opacity_logits)
    np.testing.assert_array_equal(rows[:, 58:62], splats.quaternions)


@pytest.mark.parametrize("filter", ["classic", "antialiased"])
def test_filter_is_kept(tmp_path, filter):
    save_ply(splats_of(3, filter=filter), tmp_path / "a.ply")
    assert load_ply(tmp_path / "a.ply").filter == filter


@pytest.mark.parametrize(
    ("comment", "filter"),
    [
        ("comment SplatRenderMode: mip", "antialiased"),
        ("comment SplatRenderMode: default", "classic"),
        ("comment antialiased 1", "antialiased"),
        ("comment antialiased 0", "classic"),
        ("comment Vertical Axis: z", "classic"),
    ],
)
def test_tags_of_other_programs(tmp_path, comment, filter):
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), before=comment)
    assert load_ply(path).filter == filter


def test_an_unknown_mode_is_reported(tmp_path):
    before = "comment SplatRenderMode: 2dgs"
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), before=before)
    with pytest.warns(UserWarning, match="2dgs"):
        assert load_ply(path).filter == "classic"


@pytest.mark.parametrize("encoding", ["binary_little_endian", "binary_big_endian", "ascii"])
@pytest.mark.parametrize("kind", ["float", "double", "uchar"])
def test_columns_are_found_by_name_in_any_order_and_type(tmp_path, encoding, kind):
    names = [*(n for n in reversed(LAYOUT) if n not in ("nx", "ny", "nz")), "segment"]
    table = table_of(names) if kind != "uchar" else np.floor(table_of(names, count=1))
    path = write_ply(tmp_path / "a.ply", names, table, kind=kind, encoding=encoding)
    splats = load_ply(path)
    rows = torch.arange(len(table)) / 8
    torch.testing.assert_close(splats.means, rows[:, None] + torch.arange(3.0))
    torch.testing.assert_close(splats.rest[:, 4, 1], rows + LAYOUT.index("f_rest_19"))
    torch.testing.assert_close(splats.quaternions[:, 0], rows + LAYOUT.index("rot_0"))


def test_windows_line_ends(tmp_path):
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), encoding="ascii")
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert len(load_ply(path)) == 3


def test_tables_before_the_splats_are_passed_over(tmp_path):
    for encoding, extra in [("ascii", b"7\n8\n"), ("binary_little_endian", b"ab")]:
        before = "element camera 2\nproperty uchar id"
        path = write_ply(
            tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), encoding=encoding, before=before
        )
        content = path.read_bytes()
        end = content.index(b"end_header\n") + 11
        path.write_bytes(content[:end] + extra + content[end:])
        assert load_ply(path).means[0].tolist() == [0, 1, 2]


def test_splats_that_cannot_be_drawn_are_left_out_and_counted(tmp_path):
    splats = splats_of(9)
    splats.means[1, 0] = torch.nan
    splats.rest[4, 3, 2] = torch.inf
    splats.log_scales[5, 1] = torch.inf
    splats.quaternions[7] = 0
    save_ply(splats, tmp_path / "a.ply")
    with pytest.warns(UserWarning, match="4 of 9 splats"):
        again = load_ply(tmp_path / "a.ply")
    assert_same(again, splats[torch.tensor([0, 2, 3, 6, 8])])


def test_infinities_with_a_meaning_are_kept(tmp_path):
    splats = splats_of(3)
    splats.opacity_logits[0] = torch.inf
    splats.opacity_logits[1] = -torch.inf
    splats.log_scales[2, 2] = -torch.inf
    save_ply(splats, tmp_path / "a.ply")
    again = load_ply(tmp_path / "a.ply")
    assert again.opacity_logits.sigmoid()[:2].tolist() == pytest.approx([1, 0], abs=1e-8)
    assert again.log_scales[2, 2].exp() == pytest.approx(0, abs=1e-8)


def test_doubles_beyond_float_are_left_out(tmp_path):
    table = table_of(LAYOUT)
    table[1, 0] = 1e300
    path = write_ply(tmp_path / "a.ply", LAYOUT, table, kind="double")
    with pytest.warns(UserWarning, match="1 of 3 splats"):
        assert len(load_ply(path)) == 2


NO_OPACITY = [name for name in LAYOUT if name != "opacity"]
NO_F_REST_4 = ["f_rest_45" if name == "f_rest_4" else name for name in LAYOUT]
DEGREE_4 = [*LAYOUT, *(f"f_rest_{i}" for i in range(45, 72))]
HEADER = "ply\nformat binary_little_endian 1.0\n"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is not a PLY file"),
        (b"\x89PNG\r\n\x1a\n", "is not a PLY file"),
        (b"ply\nformat binary_little_endian 1.0\nelement ver", "ends within its header"),
        (b"ply\n" + b"comment x\n" * 10_000, "no end of header"),
        (b"ply\nelement vertex 0\nend_header\n", "does not name its format"),
        (b"ply\nformat binary_little_endian 2.0\nend_header\n", "not PLY: 'format"),
        (f"{HEADER}end_header\n".encode(), "no element named vertex"),
        (f"{HEADER}element vertex -5\nend_header\n".encode(), "not PLY: 'element vertex -5'"),
        (f"{HEADER}element vertex 1e9\nend_header\n".encode(), "not PLY: 'element"),
        (f"{HEADER}element vertex {'9' * 5000}\nend_header\n".encode(), "not PLY: 'element"),
        (f"{HEADER}element vertex {'9' * 15}\nend_header\n".encode(), "no property x"),
        (f"{HEADER}property float x\nend_header\n".encode(), "not PLY: 'property"),
        (f"{HEADER}element vertex 1\nproperty int128 x\nend_header\n".encode(), "int128"),
        (
            f"{HEADER}element vertex 1\nproperty float x\nproperty float x\nend_header\n".encode(),
            "'x' twice",
        ),
        (
            f"{HEADER}element vertex 1\nproperty list uchar int i\nend_header\n".encode(),
            "has a list",
        ),
        (
            f"{HEADER}element chunk 1\nproperty float min_x\nelement vertex 1\n"
            "property uint packed_position\nend_header\n".encode(),
            "compressed PLY, which is not readable yet",
        ),
    ],
)
def test_headers_that_are_refused(tmp_path, content, message):
    path = tmp_path / "bad.ply"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        load_ply(path)
    assert "bad.ply" in str(error.value)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (NO_OPACITY, "no property opacity"),
        (NO_F_REST_4, "no property f_rest_4"),
        (DEGREE_4, "72 properties f_rest"),
        (["x", "y", "z"], "no property f_dc_0"),
    ],
)
def test_columns_that_are_missing_or_too_many(tmp_path, names, message):
    path = write_ply(tmp_path / "bad.ply", names, table_of(names))
    with pytest.raises(ValueError, match=message):
        load_ply(path)


@pytest.mark.parametrize("encoding", ["binary_little_endian", "ascii"])
@pytest.mark.parametrize("count", [4, 999_999_999_999_999])
def test_counts_are_checked_before_memory_is_taken(tmp_path, encoding, count):
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), encoding=encoding, count=count)
    with pytest.raises(ValueError, match=r"cut off"):
        load_ply(path)


@pytest.mark.parametrize("encoding", ["binary_little_endian", "ascii"])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, encoding):
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), encoding=encoding)
    content = path.read_bytes()
    for length in range(0, len(content) - 4, 7):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=re.escape("a.ply")):
            load_ply(path)


def test_huge_tables_before_the_splats(tmp_path):
    before = "element camera 999999999999999\nproperty double id"
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), before=before)
    with pytest.raises(ValueError, match="cut off"):
        load_ply(path)
    before = "element face 1\nproperty list uchar int i"
    path = write_ply(tmp_path / "a.ply", LAYOUT, table_of(LAYOUT), before=before)
    with pytest.raises(ValueError, match="lists"):
        load_ply(path)


def test_text_in_place_of_numbers_is_refused(tmp_path):
    table = table_of(LAYOUT).astype(object)
    table[1, 5] = "five"
    path = write_ply(tmp_path / "a.ply", LAYOUT, table, encoding="ascii")
    with pytest.raises(ValueError, match="not numbers"):
        load_ply(path)


def test_writing_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "a.ply"
    save_ply(splats_of(3), path)
    before = path.read_bytes()
    broken = replace(splats_of(5), base=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="broadcast"):
        save_ply(broken, path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.ply"]


def test_wrong_comments_and_folders_are_refused(tmp_path):
    with pytest.raises(ValueError, match="one line"):
        save_ply(splats_of(1), tmp_path / "a.ply", comments=["a\nelement vertex 9"])
    with pytest.raises(FileNotFoundError, match="make the folder"):
        save_ply(splats_of(1), tmp_path / "absent" / "a.ply")
    save_ply(splats_of(1), tmp_path / "a.ply", comments=["Küche"])
    assert b"comment K?che\n" in (tmp_path / "a.ply").read_bytes()


def camera_at(x: float, y: float, z: float) -> Camera:
    position, up = torch.tensor([x, y, z]), torch.tensor([0.0, -1.0, 0.0])
    return Camera(look_at(position, torch.zeros(3), up), (60.0, 60.0), (32.0, 24.0), 64, 48)


CAMERAS = [camera_at(0, -1, -6), camera_at(5, -2, 1)]


def test_export_is_verified(tmp_path):
    splats = splats_of(50)
    save_ply(splats, tmp_path / "a.ply")
    check = verify_export(splats, tmp_path / "a.ply", CAMERAS)
    assert (check.splats, check.views, check.bounds_error) == (50, 2, 0)
    assert check.psnr > 100


def test_export_that_went_wrong_is_refused(tmp_path):
    splats, path = splats_of(50), tmp_path / "a.ply"

    def saved(**changes: torch.Tensor) -> Path:
        save_ply(replace(splats, **changes), path)  # type: ignore[arg-type]
        return path

    with pytest.raises(ValueError, match="at least one camera"):
        verify_export(splats, saved(), [])
    with pytest.raises(ValueError, match="50 splats when"):
        verify_export(splats[:49], saved(), CAMERAS)
    with pytest.raises(ValueError, match=r"bounds that moved by [01]\.\d+%"):
        verify_export(splats, saved(means=splats.means * 1.01), CAMERAS)
    with pytest.raises(ValueError, match=r"\d+\.\d dB in the worst view"):
        verify_export(splats, saved(base=splats.base + 0.1), CAMERAS)
    swapped = splats.rest.transpose(1, 2).reshape(splats.rest.shape)
    with pytest.raises(ValueError, match="dB in the worst view"):
        verify_export(splats, saved(rest=swapped), CAMERAS)


def test_export_of_nothing_and_of_one_splat(tmp_path):
    for count in (0, 1):
        save_ply(splats_of(count), tmp_path / "a.ply")
        assert verify_export(splats_of(count), tmp_path / "a.ply", CAMERAS).splats == count


@pytest.mark.skipif(
    shutil.which("splat-transform") is None,
    reason="splat-transform is not on PATH: npm install -g @playcanvas/splat-transform",
)
def test_splat_transform_reads_ours_and_we_read_its(tmp_path):
    splats = splats_of(500)
    save_ply(splats, tmp_path / "ours.ply")
    subprocess.run(
        ["splat-transform", "ours.ply", "theirs.ply"],
        cwd=tmp_path,
        check=True,
        timeout=100,
        capture_output=True,
    )
    check = verify_export(splats, tmp_path / "theirs.ply", CAMERAS)
    assert check.bounds_error == 0


def test_confidence_comes_back_with_its_splats(tmp_path: Path):
    scene, trusted = splats_of(40), torch.linspace(0, 1, 40)
    save_ply(scene, tmp_path / "a.ply", extra={"confidence": trusted})
    again, confidence = load_trusted_ply(tmp_path / "a.ply")
    assert confidence is not None
    assert torch.equal(confidence, trusted)
    assert torch.equal(again.means, scene.means)
    # The confidence of a splat that is left out is left out, too.
    scene.means[3] = torch.nan
    save_ply(scene, tmp_path / "a.ply", extra={"confidence": trusted})
    with pytest.warns(UserWarning, match="1 of 40 splats have values that are not finite"):
        again, confidence = load_trusted_ply(tmp_path / "a.ply")
    assert confidence is not None
    assert torch.equal(confidence, torch.cat([trusted[:3], trusted[4:]]))
    save_ply(splats_of(40), tmp_path / "a.ply")
    assert load_trusted_ply(tmp_path / "a.ply")[1] is None


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.1, 1.01])
def test_a_confidence_out_of_range_is_left_out_and_its_splats_are_kept(
    tmp_path: Path, value: float
):
    scene, numbers = splats_of(5), torch.full((5,), 0.5)
    numbers[2] = value
    save_ply(scene, tmp_path / "a.ply", extra={"confidence": numbers})
    with pytest.warns(UserWarning, match="1 of 5 splats have a confidence that is not from 0 to 1"):
        again, confidence = load_trusted_ply(tmp_path / "a.ply")
    assert confidence is None
    assert len(again) == 5
    assert len(load_ply(tmp_path / "a.ply")) == 5
