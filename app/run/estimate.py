"""What a run folder keeps of its uncertainty: estimate.json, and the confidence of each splat.

Both name the scene that they were made from by a hash. For any other scene, one that was trained
further for example, the intervals and the confidence do not count, and the rate is not calibrated.
"""

import hashlib
from dataclasses import dataclass
from typing import Any, Literal

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumigraph.app.run.files import is_number, read_json
from lumigraph.app.run.folder import Run
from lumigraph.datasets.files import atomic, shown
from lumigraph.render import Splats
from lumigraph.uncertainty import Calibration

FOLDER = "uncertainty"
ESTIMATE = f"{FOLDER}/estimate.json"
CONFIDENCE = "confidence.safetensors"

Origin = Literal["searched", "given", "stored", "outdated"]
"""Where a drop rate comes from: a search now, the caller, or a file of this or of another scene."""


@dataclass(frozen=True)
class Rate:
    """A drop rate and where it comes from.

    Attributes:
        value: The share of the splats that is left out.
        origin: Where it comes from.
        margin: The share of the SSIM that the search allowed to lose, if there was a search.
        base: Mean SSIM of the training views with all splats, if there was a search.
    """

    value: float
    origin: Origin
    margin: float | None = None
    base: float | None = None

    @property
    def calibrated(self) -> bool:
        """Whether the rate was found by a search on the training photos of this scene."""
        return self.base is not None


def scene_digest(scene: Splats) -> str:
    """A hash of all parameters: equal scenes have the same, others a different one."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in scene.tensors.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def stored_rate(run: Run, scene: Splats | None) -> Rate | None:
    """The rate in estimate.json, or None if there is no such file.

    Args:
        run: An open run.
        scene: The scene that the rate is wanted for. A rate that was found for another scene, and
            any rate if this is None, is "outdated" and not calibrated.

    Raises ValueError if the file is malformed.
    """
    estimate = _read_estimate(run)
    if estimate is None:
        return None
    value = estimate.get("rate")
    if not is_number(value) or not 0 <= value < 1:
        path = run.folder / ESTIMATE
        raise ValueError(
            f"{path} should have a rate of at least 0 and less than 1, but has {shown(value)}: "
            "run `lumigraph uncertainty` again"
        )
    if scene is None or estimate.get("scene") != scene_digest(scene):
        return Rate(float(value), "outdated")
    numbers = [estimate.get(name) for name in ("margin", "base_ssim")]
    margin, base = (float(n) if is_number(n) else None for n in numbers)
    return Rate(float(value), "stored", margin, base)


def stored_calibration(run: Run, scene: Splats) -> Calibration | None:
    """The calibration in estimate.json, if it is of this scene and of exact standard deviations.

    Raises ValueError if the file is malformed.
    """
    estimate = _read_estimate(run)
    if estimate is None or estimate.get("trials") is not None:
        return None
    intervals = estimate.get("intervals")
    if intervals is None or estimate.get("scene") != scene_digest(scene):
        return None
    try:
        return Calibration.from_plain(intervals)
    except ValueError as error:
        raise ValueError(f"{run.folder / ESTIMATE}: {error}") from None


def save_confidence(run: Run, scene: Splats, confidence: Tensor) -> None:
    """Writes the confidence of each splat of this scene. [splats]"""
    path = run.part(FOLDER) / CONFIDENCE
    with atomic(path) as partial:
        save_file({"confidence": confidence.cpu()}, partial, {"scene": scene_digest(scene)})


def stored_confidence(run: Run, scene: Splats) -> Tensor | None:
    """The confidence of each splat, if it was stored for this scene. float32 [splats]

    Raises ValueError if the file is damaged.
    """
    path = run.folder / FOLDER / CONFIDENCE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("scene") != scene_digest(scene):
                return None
            confidence = file.get_tensor("confidence")
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{path} is damaged ({error}): run `lumigraph uncertainty` again"
        ) from None
    if confidence.shape != (len(scene),) or not torch.isfinite(confidence).all():
        raise ValueError(
            f"{path} should have a finite number for each of {len(scene)} splats, but does not: "
            "run `lumigraph uncertainty` again"
        )
    return confidence.float()


def _read_estimate(run: Run) -> dict[str, Any] | None:
    """estimate.json as plain data, or None if there is no such file."""
    path = run.folder / ESTIMATE
    if not path.exists():
        return None
    estimate = read_json(path)
    if not isinstance(estimate, dict):
        raise ValueError(
            f"{path} should hold a JSON object, but holds {shown(estimate)}: "
            "run `lumigraph uncertainty` again"
        )
    return estimate
