"""Calibrated lenses with their distortion, and the pinhole cameras that replace them."""

from dataclasses import dataclass
from functools import lru_cache
from types import ModuleType
from typing import Any

import numpy as np

LARGEST = 1e9
"""Largest intrinsic: real ones are far below, and squares of larger ones may not be finite."""


@dataclass(frozen=True)
class Lens:
    """A camera's intrinsics in COLMAP's terms: the centre of the first pixel is (0.5, 0.5).

    Attributes:
        model: COLMAP's name of the camera model, such as "OPENCV".
        width: Width of the photo, in pixels.
        height: Height of the photo, in pixels.
        params: Focal lengths, centre and distortion, in COLMAP's order for the model.
    """

    model: str
    width: int
    height: int
    params: tuple[float, ...]


def colmap() -> ModuleType:
    """The module pycolmap, imported after Pillow.

    pycolmap 4.2 exports a zlib of its own. If it is imported first, calls inside the system's zlib
    end in that other one, and saving a PNG aborts the process. Pillow loads the system's zlib.
    """
    from PIL import Image

    Image.core  # noqa: B018  # The extension module, which links the system's zlib.
    import pycolmap

    return pycolmap


def checked_lens(lens: Lens, label: str) -> Lens:
    """The same lens, after its model, its size and its numbers were checked.

    Raises:
        ValueError: The model is unknown or a panorama, or a number is impossible; names `label`.
    """
    models = colmap().CameraModelId.__members__
    if lens.model not in models or lens.model == "INVALID":
        known = ", ".join(sorted(set(models) - {"INVALID", "EQUIRECTANGULAR"}))
        raise ValueError(f"{label} has the camera model {lens.model}, expected one of {known}")
    if lens.width < 1 or lens.height < 1 or max(lens.width, lens.height) > 1 << 16:
        raise ValueError(
            f"{label} is {lens.width}x{lens.height} pixels, expected 1 to 65536 on a side"
        )
    camera = _camera(lens, label)
    if camera.is_spherical():
        raise ValueError(
            f"{label} is a panorama ({lens.model}), expected a perspective or fisheye camera: "
            "cut it into perspective views first"
        )
    if not all(abs(value) <= LARGEST for value in lens.params):
        raise ValueError(
            f"{label} has intrinsics that are not finite or beyond {LARGEST:g}: {list(lens.params)}"
        )
    focal = [lens.params[i] for i in camera.focal_length_idxs()]
    if min(focal) <= 0:
        raise ValueError(f"{label} has the focal length {min(focal):g}, expected more than 0")
    return lens


def is_pinhole(lens: Lens) -> bool:
    """Whether the lens has no distortion."""
    camera = _camera(lens, lens.model)
    return camera.is_perspective_pinhole() and camera.is_undistorted()


@lru_cache(maxsize=4096)
def pinhole_of(lens: Lens) -> Lens:
    """The PINHOLE lens for the undistorted photos of `lens`, which have no blank borders."""
    if is_pinhole(lens):
        camera = _camera(lens, lens.model)
        focal = (camera.focal_length_x, camera.focal_length_y)
        center = (camera.principal_point_x, camera.principal_point_y)
        return Lens("PINHOLE", lens.width, lens.height, (*focal, *center))
    return _lens(colmap().undistort_camera(_options(), _camera(lens, lens.model)))


def rescaled(lens: Lens, width: int, height: int) -> Lens:
    """The same lens for photos of another size."""
    camera = _camera(lens, lens.model)
    camera.rescale(width, height)
    return _lens(camera)


def undistort(pixels: np.ndarray, lens: Lens) -> np.ndarray:
    """The photo without its distortion, as `pinhole_of(lens)` takes it; interpolation is bilinear.

    Args:
        pixels: The photo or mask. uint8 [height, width, 3] or [height, width]
        lens: The lens that took the photo.
    """
    library = colmap()
    bitmap = library.Bitmap.from_array(np.ascontiguousarray(pixels))
    bitmap, _ = library.undistort_image(_options(), bitmap, _camera(lens, lens.model))
    straight = bitmap.to_array()
    return straight[..., 0] if pixels.ndim == 2 and straight.ndim == 3 else straight


def _options() -> Any:
    # All pixels of the result must come from the photo: a fit would learn black borders.
    return colmap().UndistortCameraOptions(blank_pixels=0.0)


def _camera(lens: Lens, label: str) -> Any:
    library = colmap()
    camera = library.Camera.create_from_model_name(0, lens.model, 1.0, lens.width, lens.height)
    if len(lens.params) != len(camera.params):
        raise ValueError(
            f"{label} has {len(lens.params)} intrinsics, expected {len(camera.params)} for "
            f"{lens.model}: {camera.params_info}"
        )
    camera.params = list(lens.params)
    return camera


def _lens(camera: Any) -> Lens:
    return Lens(camera.model_name, camera.width, camera.height, tuple(map(float, camera.params)))
