"""Checkpoints: the whole state of a fit in a file, so that it continues bit for bit."""

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumigraph.datasets.files import atomic
from lumigraph.kernels import Blocks, Parameters, Pull
from lumigraph.kernels.splats.types import GEOMETRY
from lumigraph.recon.files.scene import SHAPES
from lumigraph.recon.optimizers.lm import BlockState
from lumigraph.recon.optimizers.lm_published import LmState
from lumigraph.recon.splats.plan import Plan, plan_from_json, plan_to_json
from lumigraph.recon.splats.state import SplatFit
from lumigraph.render import Similarity, Splats

VERSION = "5"
"""The version of the file's layout; `load_checkpoint` refuses others."""

_NAMES = [*SHAPES, "rest"]
_GROUPS = ("splats", "first", "second")
_LM = {"number": int, "radius": float, "factor": float, "shrunk": bool, "ended": bool}
_BLOCKS = {"number": int, "step": int} | dict.fromkeys(
    ("cost", "last", "damping", "losses", "fall", "foretold", "length", "seconds"), float
)


def save_checkpoint(fit: SplatFit, path: Path) -> None:
    """Writes the fit to a safetensors file, atomically.

    Raises:
        FileNotFoundError: The folder does not exist.
    """
    groups = {"splats": fit.splats.tensors, "first": fit.first, "second": fit.second}
    tensors = {f"{group}.{name}": groups[group][name] for group in _GROUPS for name in _NAMES}
    tensors |= {
        "last": fit.last,
        "pull.gradient": fit.pull.gradient,
        "pull.views": fit.pull.views,
        "order": fit.order,
        "levels": fit.levels,
        "random": fit.random,
        "similarity.origin": fit.similarity.origin,
    }
    state = {"plan": plan_to_json(fit.plan), "step": fit.step, "scale": fit.similarity.scale}
    if isinstance(fit.lm, LmState):
        tensors |= {"lm.order": fit.lm.order, "lm.random": fit.lm.random}
        state["lm"] = {name: getattr(fit.lm, name) for name in _LM}
    elif fit.lm:
        for group in ("curvature", "best"):
            values = getattr(fit.lm, group)._asdict()
            tensors |= {f"lm.{group}.{name}": value for name, value in values.items()}
        state["blocks"] = {name: getattr(fit.lm, name) for name in _BLOCKS}
    metadata = {"lumigraph": VERSION, "kind": "splat fit", "state": json.dumps(state)}
    with atomic(path) as partial:
        whole = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
        save_file(whole, partial, metadata)


def load_checkpoint(path: Path, *, device: torch.device | str = "cpu") -> SplatFit:
    """The fit as `save_checkpoint` wrote it; continuing gives the same scene bit for bit.

    Raises:
        ValueError: The file is damaged, from another program or from another version.
        FileNotFoundError: There is no such file.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there, or is not a file")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
        return _fit_from(metadata, tensors, device)
    except SafetensorError as error:
        raise ValueError(f"{path} is not a sound safetensors file ({error})") from None
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise ValueError(
            f"{path} is not a checkpoint that this version can resume ({error}): start the run "
            "again, or use the version of lumigraph that wrote it"
        ) from None


def _fit_from(
    metadata: dict[str, str], tensors: dict[str, Tensor], device: torch.device | str
) -> SplatFit:
    if metadata.get("lumigraph") != VERSION or metadata.get("kind") != "splat fit":
        raise ValueError(f"its header does not name a splat fit of version {VERSION}")
    state: dict[str, Any] = json.loads(metadata["state"])
    plan: Plan = plan_from_json(state["plan"])
    step, scale = int(state["step"]), float(state["scale"])
    if not 0 <= step <= plan.steps or not 0 < scale < math.inf:
        raise ValueError(f"step {step} of {plan.steps} or scale {scale} is out of range")
    _check_tensors(tensors)
    groups = {
        group: {name: tensors[f"{group}.{name}"].to(device) for name in _NAMES} for group in _GROUPS
    }
    return SplatFit(
        plan=plan,
        step=step,
        splats=Splats(**groups["splats"], filter=plan.filter),
        first=groups["first"],
        second=groups["second"],
        last=tensors["last"].to(device),
        pull=Pull(tensors["pull.gradient"].to(device), tensors["pull.views"].to(device)),
        similarity=Similarity(tensors["similarity.origin"], scale),
        levels=tensors["levels"],
        order=tensors["order"],
        random=tensors["random"],
        lm=_lm_from(state, tensors, device),
    )


def _lm_from(
    state: dict[str, Any], tensors: dict[str, Tensor], device: torch.device | str
) -> BlockState | LmState | None:
    """The state of Levenberg-Marquardt, if the fit has one."""
    if "blocks" in state:
        return _blocks_from(state["blocks"], tensors, device)
    if "lm" not in state:
        return None
    numbers = {name: kind(state["lm"][name]) for name, kind in _LM.items()}
    if not (0 < numbers["radius"] < math.inf and 0 < numbers["factor"] < math.inf):
        raise ValueError(
            f"radius {numbers['radius']} or factor {numbers['factor']} is out of range"
        )
    for name, kind in (("order", torch.int64), ("random", torch.uint8)):
        if (found := tensors[f"lm.{name}"]).dtype != kind or found.ndim != 1:
            raise ValueError(f"lm.{name} is {found.dtype} {list(found.shape)}")
    return LmState(order=tensors["lm.order"], random=tensors["lm.random"], **numbers)


def _blocks_from(
    state: dict[str, Any], tensors: dict[str, Tensor], device: torch.device | str
) -> BlockState:
    numbers: dict[str, Any] = {name: kind(state[name]) for name, kind in _BLOCKS.items()}
    if numbers["step"] < 0 or not 1 <= numbers["damping"] < math.inf:
        raise ValueError(f"step {numbers['step']} or damping {numbers['damping']} is out of range")
    shapes = {name: tuple(tensors[f"splats.{name}"].shape) for name in _NAMES}
    wanted = {f"lm.best.{name}": shape for name, shape in shapes.items()}
    wanted |= {f"lm.curvature.{name}": shapes[name] for name in ("base", "rest")}
    wanted["lm.curvature.geometry"] = (len(tensors["last"]), GEOMETRY * (GEOMETRY + 1) // 2)
    for name, shape in wanted.items():
        if tuple((found := tensors[name]).shape) != shape or found.dtype != torch.float32:
            raise ValueError(f"{name} is {found.dtype} {list(found.shape)}, not {list(shape)}")
    curvature, best = (
        [tensors[f"lm.{group}.{name}"].to(device) for name in kind._fields]
        for group, kind in (("curvature", Blocks), ("best", Parameters))
    )
    return BlockState(Blocks(*curvature), Parameters(*best), **numbers)


def _check_tensors(tensors: dict[str, Tensor]) -> None:
    """Refuses tensors of wrong shapes, types or values."""
    count = tensors["splats.means"].shape[0]
    rest = tensors["splats.rest"].shape[1]
    if rest not in [(degree + 1) ** 2 - 1 for degree in range(4)]:
        raise ValueError(f"splats.rest has {rest} harmonics, but degrees 0 to 3 have 0, 3, 8 or 15")
    expected: dict[str, tuple[tuple[int, ...], torch.dtype]] = {
        f"{group}.{name}": ((count, *shape), torch.float32)
        for group in _GROUPS
        for name, shape in {**SHAPES, "rest": (rest, 3)}.items()
    }
    expected |= {
        "last": ((count,), torch.int32),
        "pull.gradient": ((count,), torch.float32),
        "pull.views": ((count,), torch.float32),
        "similarity.origin": ((3,), torch.float64),
        "order": (tuple(tensors["order"].shape[:1]), torch.int64),
        "levels": ((len(tensors["levels"]), 2), torch.float64),
        "random": (tuple(torch.Generator().get_state().shape), torch.uint8),
    }
    for name, (shape, dtype) in expected.items():
        found = tensors[name]
        if tuple(found.shape) != shape or found.dtype != dtype:
            raise ValueError(
                f"{name} is {found.dtype} {list(found.shape)}, not {dtype} {list(shape)}"
            )
    levels = tensors["levels"].tolist()
    if (
        not levels
        or levels[0][0] != 0
        or not all(1 <= downscale < math.inf for _, downscale in levels)
    ):
        raise ValueError(
            f"levels are {levels}: the first step must be 0 and each downscale at least 1"
        )
