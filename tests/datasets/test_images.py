"""Image files: which are accepted, exact downscaling, and both caches within their limits."""

import io
import os
import pickle
import re
import shutil
import struct
import subprocess
import sys
import threading
import time
import zlib
from ast import literal_eval
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageFile

from lumigraph.datasets import ImageCache, available_memory, cache, files, images, photos
from lumigraph.datasets.cache import prune
from lumigraph.datasets.images import (
    decode_mask,
    decode_rgb,
    exif_turned,
    image_header,
    save_png,
    shrunk,
)
from lumigraph.datasets.lens import Lens
from lumigraph.datasets.photos import Photo, disk_cache, load_photo, photo_from

OPENCV = Lens("OPENCV", 40, 30, (30.0, 31, 20, 15, 0.1, -0.02, 0.001, 0.002))
PINHOLE = Lens("PINHOLE", 40, 30, (30.0, 31, 20, 15))


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LUMIGRAPH_CACHE", str(tmp_path / "cache"))


def noise(height: int = 30, width: int = 40, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    Image.fromarray(noise()).save(tmp_path / "a.png")
    return tmp_path / "a.png"


def zeros(count: int) -> torch.Tensor:
    return torch.zeros(count, dtype=torch.uint8)


def test_shrinking_takes_the_mean_of_whole_squares():
    pixels = noise(23, 31)
    expected = pixels[:21, :30].reshape(7, 3, 10, 3, 3).astype(float).mean((1, 3))
    assert abs(shrunk(pixels, 3) - expected).max() <= 0.6  # Pillow rounds in fixed point.


def test_shrinking_twice_is_shrinking_by_the_product():
    twice = shrunk(shrunk(noise(24, 36), 2), 3).astype(int)
    assert abs(twice - shrunk(noise(24, 36), 6)).max() <= 1


def test_a_photo_without_distortion_is_returned_unchanged_and_not_kept(file):
    photo, alpha = photo_from(file, PINHOLE)
    assert not alpha
    assert np.array_equal(load_photo(ImageCache(), photo), noise())
    assert not disk_cache().exists()


def test_a_developed_photo_is_read_from_disk_the_second_time(file, monkeypatch):
    photo, _ = photo_from(file, OPENCV, 2)
    first = load_photo(ImageCache(), photo)
    monkeypatch.setattr(photos, "undistort", lambda *_: pytest.fail("it was developed again"))
    assert torch.equal(load_photo(ImageCache(), photo), first)
    assert first.shape == (photo.pinhole.height, photo.pinhole.width, 3)


def test_a_changed_photo_lens_or_size_is_developed_again(file):
    first = load_photo(ImageCache(), photo_from(file, OPENCV)[0])
    load_photo(ImageCache(), photo_from(file, OPENCV, 2)[0])
    other = Lens("OPENCV", 40, 30, (*OPENCV.params[:4], 0.1, -0.03, 0.001, 0.002))
    load_photo(ImageCache(), photo_from(file, other)[0])
    Image.fromarray(255 - noise()).save(file)
    last = load_photo(ImageCache(), photo_from(file, OPENCV)[0])
    assert (last.int() + first.int() - 255).abs().max() <= 1
    assert len(list(disk_cache().iterdir())) == 4


def test_a_replaced_photo_of_the_same_size_and_time_is_developed_again(file):
    """The cache returned the old pixels of such a photo."""
    facts = file.stat()
    first = load_photo(ImageCache(), photo_from(file, OPENCV)[0])
    data = bytearray(file.read_bytes())
    Image.fromarray(255 - noise()).save(file, compress_level=0)
    other = file.read_bytes()
    size = max(len(data), len(other))
    for content in (other, data):  # Bytes behind a PNG's end are ignored.
        file.write_bytes(bytes(content).ljust(size, b"\0"))
        os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
        pixels = load_photo(ImageCache(), photo_from(file, OPENCV)[0])
        expected = first if content is data else 255 - first
        assert (pixels.int() - expected.int()).abs().max() <= 1


def test_copies_of_a_photo_share_an_entry(file, tmp_path):
    first = load_photo(ImageCache(), photo_from(file, OPENCV)[0])
    copy = tmp_path / "copy" / "b.png"
    copy.parent.mkdir()
    shutil.copy(file, copy)
    assert torch.equal(load_photo(ImageCache(), photo_from(copy, OPENCV)[0]), first)
    assert len(list(disk_cache().iterdir())) == 1


def test_a_photo_that_is_its_own_mask_has_two_entries(file):
    photo = Photo(file, OPENCV, mask=file)
    assert load_photo(ImageCache(), photo).ndim == 3
    assert photos.load_mask(ImageCache(), photo).ndim == 2
    assert len(list(disk_cache().iterdir())) == 2


def entry(folder: Path, name: str, size: int, age: float) -> Path:
    """A file that was used last `age` seconds ago."""
    path = folder / name
    path.write_bytes(bytes(size))
    used = time.time() - age
    os.utime(path, (used, used))
    return path


def test_the_least_recently_used_entries_are_pruned(tmp_path):
    for age in range(10):
        entry(tmp_path, f"{age}.png", 100, 1000 * age)
    prune(tmp_path, 1000)
    assert len(list(tmp_path.iterdir())) == 10
    os.utime(tmp_path / "9.png")
    prune(tmp_path, 450)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "2.png", "9.png"]
    prune(tmp_path / "absent", 0)


def test_files_that_are_being_written_are_not_pruned(tmp_path):
    entry(tmp_path, ".a.png.1.2.part", 100, 60)
    entry(tmp_path, ".b.png.1.2.part", 100, cache.DAY + 60)
    entry(tmp_path, "c.png", 100, 0)
    prune(tmp_path, 0)
    assert [path.name for path in tmp_path.iterdir()] == [".a.png.1.2.part"]


def test_the_cache_takes_at_most_half_of_the_free_disk(tmp_path, monkeypatch):
    for age in range(10):
        entry(tmp_path, f"{age}.png", 100, 1000 * age)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=200))
    prune(tmp_path)
    assert len(list(tmp_path.iterdir())) == 6


def test_reading_an_entry_updates_its_time_of_use(file):
    photo, _ = photo_from(file, OPENCV)
    load_photo(ImageCache(), photo)
    (made,) = disk_cache().iterdir()
    os.utime(made, (1000, 1000))
    load_photo(ImageCache(), photo)
    assert time.time() - made.stat().st_mtime < 1000


DEVELOPING = """
import sys
from pathlib import Path
from lumigraph.datasets import ImageCache, cache, photos
from lumigraph.datasets.lens import Lens
photos.PRUNED_AT = ""
photos.prune = lambda folder: cache.prune(folder, 12_000)
lens = Lens("OPENCV", 40, 30, (30.0, 31, 20, 15, 0.1, -0.02, 0.001, 0.002))
sums = set()
for turn in range(3):
    for path in sorted(Path(sys.argv[1]).glob("*.png")):
        pixels = photos.load_photo(ImageCache(0), photos.photo_from(path, lens)[0])
        sums.add((path.name, int(pixels.sum())))
print(sorted(sums))
"""


def test_several_processes_share_a_full_cache(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(6):
        pixels = np.random.default_rng(i).integers(0, 256, (30, 40, 3), np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    command = [sys.executable, "-Pc", DEVELOPING, folder]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert said[0] == said[1]
    assert len(literal_eval(said[0].decode())) == 6
    left = list(disk_cache().iterdir())
    assert not [path for path in left if path.suffix == ".part"]
    assert sum(path.stat().st_size for path in left) <= 12_000


def test_a_damaged_entry_is_replaced(file):
    photo, _ = photo_from(file, OPENCV)
    first = load_photo(ImageCache(), photo)
    (entry,) = disk_cache().iterdir()
    entry.write_bytes(entry.read_bytes()[:300])
    assert torch.equal(load_photo(ImageCache(), photo), first)
    entry.write_bytes(b"")
    assert torch.equal(load_photo(ImageCache(), photo), first)


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG file with its length and its checksum."""
    check = struct.pack(">I", zlib.crc32(kind + content))
    return struct.pack(">I", len(content)) + kind + content + check


HEADER_END = 33
"""Bytes of the signature of a PNG and its first chunk, which contains the size."""


@pytest.mark.parametrize(
    "damaged",
    [
        lambda png: (
            png[:8] + chunk(b"IHDR", struct.pack(">IIBBBBB", 1 << 20, 1 << 20, 8, 2, 0, 0, 0))
        ),
        lambda png: png[:HEADER_END] + chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 23))),
        lambda png: png[:HEADER_END] + chunk(b"PLTE", b"abcd") + png[HEADER_END:],
        lambda png: png[:8] + chunk(b"IHDR", b"short") + png[HEADER_END:],
        lambda png: png[:HEADER_END] + chunk(b"pHYs", b"") + png[HEADER_END:],
        lambda png: png[:HEADER_END] + chunk(b"IDAT", b"no deflate stream") + png[-12:],
    ],
    ids=["a bomb", "much text", "a palette", "no header", "no resolution", "no pixels"],
)
def test_an_entry_that_is_no_sound_png_is_replaced(file, damaged):
    photo, _ = photo_from(file, OPENCV)
    first = load_photo(ImageCache(), photo)
    (entry,) = disk_cache().iterdir()
    entry.write_bytes(damaged(entry.read_bytes()))
    assert torch.equal(load_photo(ImageCache(), photo), first)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "1"])
def test_an_entry_with_another_mode_is_replaced(file, mode):
    photo, _ = photo_from(file, OPENCV)
    first = load_photo(ImageCache(), photo)
    (entry,) = disk_cache().iterdir()
    Image.fromarray(first.numpy()).convert(mode).save(entry)
    assert torch.equal(load_photo(ImageCache(), photo), first)


def test_a_photo_with_too_much_text_is_named(file):
    png = file.read_bytes()
    text = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 23)))
    file.write_bytes(png[:HEADER_END] + text + png[HEADER_END:])
    with pytest.raises(ValueError, match=r"a\.png is not an image that can be read"):
        decode_rgb(file)


def test_a_cache_folder_that_cannot_be_written_is_named(file, tmp_path):
    (tmp_path / "cache").write_text("in the way")
    with pytest.raises(OSError, match="set LUMIGRAPH_CACHE"):
        load_photo(ImageCache(), photo_from(file, OPENCV)[0])


def test_saving_that_fails_leaves_no_file(tmp_path, monkeypatch):
    save_png(noise(), tmp_path / "new" / "a.png")
    assert np.array_equal(decode_rgb(tmp_path / "new" / "a.png"), noise())

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(files.os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        save_png(noise(), tmp_path / "new" / "b.png")
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["a.png"]


@pytest.mark.parametrize("name", ["a.zip/b.png", "http:/b.png", "~b.png", "%41.png", "b.PNG", "b"])
def test_a_png_goes_where_its_path_says(tmp_path: Path, name: str):
    save_png(noise(), tmp_path / name)
    with Image.open(tmp_path / name, formats=["PNG"]) as image:
        assert np.array_equal(np.array(image), noise())


def test_many_threads_write_one_file_without_mixing(tmp_path):
    path, start = tmp_path / "a.png", threading.Barrier(8)

    def write(value: int) -> None:
        start.wait(10)
        save_png(np.full((30, 40, 3), value, np.uint8), path)

    threads = [threading.Thread(target=write, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(np.unique(decode_rgb(path))) == 1
    assert os.listdir(tmp_path) == ["a.png"]


def test_environment_variables_choose_the_cache_folder(monkeypatch):
    monkeypatch.setenv("LUMIGRAPH_CACHE", "/own")
    assert disk_cache() == Path("/own/photos")
    monkeypatch.delenv("LUMIGRAPH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "/xdg")
    assert disk_cache() == Path("/xdg/lumigraph/photos")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/me")
    assert disk_cache() == Path("/home/me/.cache/lumigraph/photos")


def test_the_least_recently_used_image_is_dropped():
    cache, made = ImageCache(250), []

    def get(key: str) -> None:
        cache.get(key, lambda: made.append(key) or zeros(100))

    for key in "abacbab":
        get(key)
    # c drops b, b drops a (c was used later), a drops c; b is still there.
    assert made == ["a", "b", "c", "b", "a"]
    assert cache.used_bytes == 200


def test_an_image_larger_than_the_cache_is_returned_and_not_kept():
    cache = ImageCache(50)
    assert len(cache.get("a", lambda: zeros(100))) == 100
    assert cache.used_bytes == 0


def test_many_threads_make_an_image_once():
    cache, made, results = ImageCache(1000), [], []
    inside, start = threading.Event(), threading.Barrier(8)

    def make() -> torch.Tensor:
        made.append(1)
        inside.wait(10)
        return zeros(10)

    def ask() -> None:
        start.wait(10)
        results.append(cache.get("a", make))

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    inside.set()
    for thread in threads:
        thread.join(10)
    assert len(made) == 1
    assert all(result is results[0] for result in results)
    assert len(results) == 8


def test_after_a_failure_the_image_is_made_again():
    cache = ImageCache(1000)
    with pytest.raises(ZeroDivisionError):
        cache.get("a", lambda: zeros(1 // 0))
    assert len(cache.get("a", lambda: zeros(3))) == 3


def test_another_process_gets_an_empty_cache_of_the_same_limit():
    cache = ImageCache(1000)
    cache.get("a", lambda: zeros(3))
    copy = pickle.loads(pickle.dumps(cache))
    assert (copy.limit_bytes, copy.used_bytes) == (1000, 0)


def test_the_cache_takes_a_quarter_of_the_free_memory(monkeypatch):
    assert available_memory() > 1 << 20
    monkeypatch.setattr(images, "available_memory", lambda: 4000)
    assert ImageCache().limit_bytes == 1000


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1"])
def test_every_kind_of_image_becomes_rgb(tmp_path, mode):
    image = Image.fromarray(noise()).convert(mode)
    suffix = "jpg" if mode == "CMYK" else "png"
    image.save(tmp_path / f"a.{suffix}")
    pixels = decode_rgb(tmp_path / f"a.{suffix}")
    assert pixels.shape == (30, 40, 3)
    assert pixels.dtype == np.uint8


def test_a_transparent_color_of_a_palette_is_white(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    image.save(tmp_path / "a.png", transparency=1)
    assert (decode_rgb(tmp_path / "a.png") == 255).all()


@pytest.mark.parametrize("decode", [decode_rgb, decode_mask])
def test_sixteen_bits_of_grey_are_refused(tmp_path, decode):
    Image.fromarray(np.zeros((4, 4), np.uint16)).save(tmp_path / "a.png")
    with pytest.raises(ValueError, match="more than 8 bits"):
        decode(tmp_path / "a.png")


def test_a_tall_photo_is_converted_band_by_band(tmp_path):
    pixels = noise(2 * images.BAND + 7, 5, 4)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    alpha = pixels[..., 3:] / 255
    expected = pixels[..., :3] * alpha + 255 * (1 - alpha)
    assert abs(decode_rgb(tmp_path / "a.png") - expected).max() <= 1
    Image.fromarray(pixels[..., :3]).save(tmp_path / "a.png")
    assert np.array_equal(decode_rgb(tmp_path / "a.png"), pixels[..., :3])


def saved(format: str) -> bytes:
    """A small image in a format."""
    file = io.BytesIO()
    Image.fromarray(noise(12, 16)).save(file, format)
    return file.getvalue()


@pytest.mark.parametrize("format", [*images.FORMATS, "MPO"])
def test_every_accepted_format_is_read(tmp_path, format):
    (tmp_path / "a.jpg").write_bytes(saved(format))
    assert image_header(tmp_path / "a.jpg") == (16, 12, False)
    assert decode_rgb(tmp_path / "a.jpg").shape == (12, 16, 3)
    assert decode_mask(tmp_path / "a.jpg").shape == (12, 16)


OTHERS = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 16 12\n%%EndComments\nshowpage\n%%EOF\n",
    "WMF": b"\xd7\xcd\xc6\x9a\0\0" + struct.pack("<4hH", 0, 0, 16, 12, 72) + bytes(4) + b"\1\0\t\0",
    "PSD": b"8BPS\0\1" + bytes(6) + struct.pack(">HLLHH", 3, 12, 16, 8, 3) + bytes(14),
    "FLI": struct.pack("<LHHHH", 128, 0xAF11, 1, 16, 12) + bytes(116),
    "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="16" height="12"/>',
    "ZIP": b"PK\3\4" + bytes(100),
    **{kind: None for kind in ("PDF", "GIF", "ICO", "ICNS", "TGA", "PCX", "SGI", "PALM", "XBM")},
    **{kind: None for kind in ("JPEG2000", "AVIF", "DDS", "SPIDER", "MSP", "BLP", "DIB")},
}


@pytest.mark.parametrize("kind", OTHERS)
def test_every_other_format_is_refused_whatever_its_name(tmp_path, monkeypatch, kind):
    """EPS bytes named photo.jpg started Ghostscript, and its error escaped."""
    Image.init()
    content = OTHERS[kind]
    if content is None:
        if kind not in Image.SAVE:
            pytest.skip(f"this Pillow does not write {kind}")
        mode = {"PALM": "P", "XBM": "1", "MSP": "1", "SPIDER": "F", "BLP": "P"}.get(kind, "RGB")
        file = io.BytesIO()
        Image.fromarray(noise(32, 32)).convert(mode).save(file, kind)
        content = file.getvalue()
    monkeypatch.setattr(subprocess, "Popen", lambda *_, **__: pytest.fail("a program was started"))
    path = tmp_path / "photo.jpg"
    path.write_bytes(content)
    for read in (image_header, exif_turned, decode_rgb, decode_mask):
        with pytest.raises(ValueError, match=r"photo\.jpg is not an image .* one of JPEG"):
            read(path)


def tiff(width: int, height: int, tile: int | None = None) -> bytes:
    """The header of a TIFF whose pixels are packed by LZW, and a few bytes of pixels."""
    tags = [(256, width), (257, height), (258, 8), (259, 5), (262, 1), (277, 1)]
    if tile is None:
        tags += [(273, 200), (278, height), (279, 100)]
    else:
        tags += [(322, tile), (323, tile), (324, 200), (325, 100)]
    entries = b"".join(struct.pack("<HHLL", tag, 4, 1, value) for tag, value in tags)
    head = b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries
    return head.ljust(200, b"\0") + bytes(100)


def bmp(width: int, height: int) -> bytes:
    size = struct.pack("<LllHHLLllLL", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<LLL", 54, 0, 54) + size + bytes(100)


LARGE = {
    "PNG": lambda width, height: (
        png_header(width, height) + chunk(b"IDAT", b"") + chunk(b"IEND", b"")
    ),
    "TIFF": tiff,
    "BMP": bmp,
    "PPM": lambda width, height: f"P6 {width} {height} 255\n".encode() + bytes(100),
    "JPEG": lambda width, height: resized_jpeg(
        *(min(max(side, 3_000), 65_535) for side in (width, height))
    ),
}


def png_header(width: int, height: int) -> bytes:
    facts = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", facts)


def resized_jpeg(width: int, height: int) -> bytes:
    """A JPEG whose header claims another size."""
    data = saved("JPEG")
    start = data.index(b"\xff\xc0") + 5
    return data[:start] + struct.pack(">HH", height, width) + data[start + 4 :]


@pytest.mark.parametrize("format", LARGE)
@pytest.mark.parametrize("size", [(12_000, 12_000), (65_535, 65_535), (65_537, 1), (1, 65_537)])
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(
    tmp_path, monkeypatch, format, size
):
    """A PNG of 177 megapixels took 2.6 GB."""
    path = tmp_path / "a.jpg"
    path.write_bytes(LARGE[format](*size))
    monkeypatch.setattr(ImageFile.ImageFile, "load", lambda _: pytest.fail("it was decoded"))
    for read in (image_header, decode_rgb, decode_mask):
        with pytest.raises(ValueError, match=r"a\.jpg is too large: expected at most 134 million"):
            read(path)


def test_a_tile_larger_than_its_image_is_refused(tmp_path):
    """A TIFF of 100x100 pixels with one tile took 1.5 GB."""
    (tmp_path / "a.tif").write_bytes(tiff(100, 100, tile=40_000))
    with pytest.raises(ValueError, match=r"a\.tif is too large"):
        decode_rgb(tmp_path / "a.tif")


def test_a_file_that_is_larger_than_any_image_is_refused(tmp_path):
    path = tmp_path / "a.jpg"
    path.write_bytes(saved("JPEG"))
    os.truncate(path, images.FILE_LIMIT + 1)
    with pytest.raises(ValueError, match=rf"a\.jpg has {images.FILE_LIMIT + 1} bytes"):
        image_header(path)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("format", [*images.FORMATS, "MPO"])
def test_an_image_with_any_byte_changed_or_cut_anywhere_is_read_or_named(tmp_path, format):
    whole, path, refused = saved(format), tmp_path / "a.jpg", []
    for place in range(0, len(whole), 1 + len(whole) // 400):
        changed = bytearray(whole)
        changed[place] ^= 0xFF
        for data in (bytes(changed), whole[:place]):
            path.write_bytes(data)
            try:
                exif_turned(path)
                assert decode_rgb(path, turned=True).dtype == np.uint8
            except ValueError as error:
                refused.append(str(error))
    assert len(refused) > 10
    assert all(str(path) in sentence for sentence in refused)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_metadata_that_is_damaged_does_not_change_the_pixels(tmp_path):
    image = Image.fromarray(noise())
    image.save(tmp_path / "plain.jpg")
    exif = b"Exif\0\0II*\0\x08\0\0\0\1\0\x12\1\3\0\xff\xff\xff\xff\0\0\0\0"
    image.save(tmp_path / "a.jpg", exif=exif, icc_profile=b"no profile" * 10_000)
    assert image_header(tmp_path / "a.jpg") == (40, 30, False)
    assert np.array_equal(decode_rgb(tmp_path / "a.jpg"), decode_rgb(tmp_path / "plain.jpg"))


def test_a_file_that_cannot_be_opened_is_not_called_damaged(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.jpg"):
        image_header(tmp_path / "none.jpg")
    with pytest.raises(IsADirectoryError):
        image_header(tmp_path)


def test_only_one_function_opens_image_files():
    root = Path(__file__).parents[2]
    rooms = ("kernels", "render", "datasets", "recon", "uncertainty", "app")
    found = [
        path.relative_to(root)
        for room in rooms
        for path in sorted((root / room).rglob("*.py"))
        if re.search(r"\bImage\.open\(|\bimread\(", path.read_text())
    ]
    assert found == [Path("datasets/images.py")]


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA"])
def test_masks_are_white_where_lighter_than_grey(tmp_path, mode):
    grey = np.array([[0, 100, 127, 128, 255]], np.uint8)
    if mode == "1":
        grey = np.where(grey < 128, 0, 255).astype(np.uint8)
    Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
    assert decode_mask(tmp_path / "a.png").tolist() == [[0, 0, 0, 255, 255]]


def test_masks_are_kept_apart_from_photos(file, tmp_path):
    mask = np.zeros((15, 20), np.uint8)  # Half the size of the photo: brought to it.
    mask[:, 10:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    photo = Photo(file, OPENCV, 2, mask=tmp_path / "mask.png")
    cache = ImageCache()
    image, kept = load_photo(cache, photo), photos.load_mask(cache, photo)
    assert kept.shape == image.shape[:2]
    middle = kept[kept.shape[0] // 2].int()
    assert (middle.diff().nonzero().flatten() - kept.shape[1] // 2).abs().max() <= 1
    assert middle[-1] == 1
