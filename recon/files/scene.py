"""Scenes as safetensors files, the format of run folders."""

import warnings
from pathlib import Path
from typing import Any, get_args

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lumigraph.datasets.files import atomic
from lumigraph.kernels import Filter
from lumigraph.recon.splats.sound import finite
from lumigraph.render import Splats

VERSION = "1"
"""The version of the file's layout; `load_scene` refuses others."""

SHAPES: dict[str, tuple[int, ...]] = {
    "means": (3,),
    "quaternions": (4,),
    "log_scales": (3,),
    "opacity_logits": (),
    "base": (3,),
}
"""The shape of each tensor after the number of splats; `rest` is [splats, 0, 3, 8 or 15, 3]."""


def save_scene(scene: Splats, path: Path) -> None:
    """Writes the scene to a safetensors file, atomically; `load_scene` gives it back bit for bit.

    Splats with values that are not finite are left out, and a warning counts them.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    kept = finite(scene)
    if lost := len(scene) - int(kept.sum()):
        warnings.warn(
            f"{path}: {lost} of {len(scene)} splats have values that are not finite, and were left "
            "out",
            stacklevel=2,
        )
        scene = scene[kept]
    tensors = {name: t.detach().float().cpu().contiguous() for name, t in scene.tensors.items()}
    metadata = {"lumigraph": VERSION, "kind": "splats", "filter": scene.filter}
    with atomic(path) as partial:
        save_file(tensors, partial, metadata)


def load_scene(path: Path) -> Splats:
    """The scene in a safetensors file that `save_scene` wrote.

    Raises:
        ValueError: The file is damaged, from another program or a newer version, or holds tensors
            that do not make a scene.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            filter = _filter(file.metadata() or {}, path)
            names = list(file.keys())
            _check_shapes({name: file.get_slice(name) for name in names}, path)
            # The file is mapped into memory: copies do not change when it does.
            tensors = {name: file.get_tensor(name).clone() for name in [*SHAPES, "rest"]}
    except SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file ({error})") from None
    for name, value in tensors.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {name} has values that are not finite: restore a copy of it")
    return Splats(**tensors, filter=filter)


def _filter(metadata: dict[str, str], path: Path) -> Filter:
    """The filter of the scene, once the file's kind and version are known to be right."""
    if "lumigraph" not in metadata:
        raise ValueError(f"{path} was not written by lumigraph: convert it to a splat PLY")
    if metadata["lumigraph"] != VERSION:
        raise ValueError(
            f"{path} has layout version {metadata['lumigraph'][:20]!r}, but this program knows "
            f"{VERSION!r}: update lumigraph"
        )
    if metadata.get("kind") != "splats":
        raise ValueError(
            f"{path} holds a scene of kind {metadata.get('kind', '')[:20]!r}, but this program "
            "knows 'splats': update lumigraph"
        )
    for known in get_args(Filter):
        if metadata.get("filter") == known:
            return known
    raise ValueError(
        f"{path} asks for the filter {metadata.get('filter', '')[:20]!r}, but there are "
        f"{' and '.join(get_args(Filter))}: update lumigraph"
    )


def _check_shapes(slices: dict[str, Any], path: Path) -> None:
    """Refuses tensors that do not make a scene, before any is read."""
    expected = [*SHAPES, "rest"]
    if set(slices) != set(expected):
        raise ValueError(
            f"{path} should hold {', '.join(expected)}, but holds "
            f"{', '.join(sorted(slices))[:200] or 'nothing'}: restore a copy of it"
        )
    shapes = {name: tuple(s.get_shape()) for name, s in slices.items()}
    count = shapes["means"][0] if shapes["means"] else 0
    degrees = [(count, (degree + 1) ** 2 - 1, 3) for degree in range(4)]
    for name, shape in shapes.items():
        allowed = degrees if name == "rest" else [(count, *SHAPES[name])]
        if shape not in allowed:
            raise ValueError(
                f"{path}: {name} has the shape {list(shape)}, but {count} splats need "
                f"{' or '.join(str(list(a)) for a in allowed)}"
            )
        if slices[name].get_dtype() != "F32":
            raise ValueError(f"{path}: {name} is {slices[name].get_dtype()}, but should be F32")
