"""What `uncertainty` does with a run: how far to trust it, as maps, numbers, curves and a page.

It fills the folder uncertainty/ of the run: estimate.json with the rate, where it comes from, the
numbers of each test view and how wide intervals are; maps/, means/ and pictures/ with the standard
deviation of each as colours, its mean over masks, and it with all splats; confidence.safetensors
with how far each splat can be trusted; report.html.

Errors are those of the picture that people see, with all splats. As published, they are those of
the mean over masks, whose colours fade the more is left out: that is an error of its own, which the
deviations know all about, and makes any map look better at higher rates. Both are told.
"""

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from lumigraph.app.commands.demo import demo_capture
from lumigraph.app.run.curves import Curves, curves_of, mean_curves
from lumigraph.app.run.files import explained, is_number, read_json, shown, write_json
from lumigraph.app.run.folder import Run
from lumigraph.app.run.intervals import (
    Held,
    Intervals,
    Promise,
    Told,
    intervals_json,
    make_intervals,
    note_of,
)
from lumigraph.app.run.pictures import colored, picture_name, write_picture
from lumigraph.app.run.uncertainty_report import write_uncertainty_report
from lumigraph.app.training.inputs import inputs_of
from lumigraph.datasets import Capture, Frame
from lumigraph.datasets.demo import SIZES, DemoSize
from lumigraph.datasets.files import atomic
from lumigraph.render import Camera, Splats, quantize, render_color, to_bytes
from lumigraph.uncertainty import (
    MARGIN,
    PASSES,
    Calibration,
    check_rate,
    confidence,
    exact_color,
    find_rate,
    sampled,
    view_metrics,
)

FOLDER = "uncertainty"
ESTIMATE = f"{FOLDER}/estimate.json"
CONFIDENCE = "confidence.safetensors"

Origin = Literal["searched", "given", "stored"]


@dataclass(frozen=True)
class Asked:
    """What `uncertainty` is asked for.

    Attributes:
        data: The capture of the run, whose training photos tell the rate. The built-in scene
            need not be named.
        rate: Share of the splats that is left out; None has it searched for.
        margin: How much of the training views' SSIM may be lost.
        trials: Sampled masks; None takes the exact moments.
        seed: Of the masks.
        promise: What intervals are to hold.
    """

    data: Path | None = None
    rate: float | None = None
    margin: float = MARGIN
    trials: int | None = None
    seed: int = 0
    promise: Promise = field(default_factory=Promise)


@dataclass(frozen=True)
class Rate:
    """A drop rate and where it comes from.

    Attributes:
        value: Share of the splats that is left out.
        origin: Whether it was searched for now, given now, or searched for before.
        margin: Of the search, if there was one.
        base: Mean SSIM of the training views with all splats, if there was a search.
    """

    value: float
    origin: Origin
    margin: float | None = None
    base: float | None = None

    @property
    def calibrated(self) -> bool:
        """Whether the training photos say that the scene allows it."""
        return self.base is not None


class Maps(NamedTuple):
    """What is known of a view. [height, width, 3] each, on the CPU

    Attributes:
        picture: With all splats, as people see it.
        mean: Over masks.
        std: Over masks.
    """

    picture: Tensor
    mean: Tensor
    std: Tensor


@dataclass(frozen=True)
class Seen:
    """What was found of a test view, for the report.

    Attributes:
        name: Of the frame.
        file: Of its map, and of its mean picture.
        metrics: With the errors of the picture.
        published: The same with those of the mean, as published.
        interval: How the intervals do, if there are any.
    """

    name: str
    file: str
    metrics: dict[str, float]
    published: dict[str, float]
    interval: Held | None


def estimate_run(
    run: Run, asked: Asked, told: Told = lambda what, done, of: None
) -> dict[str, Any]:
    """The uncertainty of a run's test views; writes all of `uncertainty/`.

    Args:
        run: An open run.
        asked: How.
        told: Called with what is being done, how much of it is done, and of how much.

    Raises:
        ValueError: The rate is none, or there is no way to one; or the capture is another.
    """
    scene, views = run.scene(), run.views()
    rate = rate_of(run, scene, views, asked, told)
    estimator = _estimator(scene, views.background, rate.value, asked)
    folders = [run.part(f"{FOLDER}/{name}") for name in ("maps", "means", "pictures")]

    def seen_by(camera: Camera) -> tuple[Tensor, Tensor]:
        maps = estimator(camera)
        return maps.picture, maps.std

    made = make_intervals(views.calibration, seen_by, rate.value, asked.promise, told)
    found, curves = [], []
    for index, frame in enumerate(views.test):
        seen, each = _assess(frame, index, estimator(frame.camera), made, folders)
        found.append(seen)
        curves.append(each)
        told("Comparing with the test photos", index + 1, len(views.test))
    if rate.value > 0:
        told("Splats", 0, 1)
        cameras = [frame.camera for frame in views.train]
        trusted = confidence(scene, cameras, rate.value, background=views.background)
        _keep_confidence(run, scene, trusted)
        told("Splats", 1, 1)
    held = [seen.interval for seen in found if seen.interval is not None]
    estimate = {
        "rate": rate.value,
        "origin": rate.origin,
        "calibrated": rate.calibrated,
        "margin": rate.margin,
        "base_ssim": rate.base,
        "trials": asked.trials,
        "splats": len(scene),
        "scene": _digest(scene),
        "mean": _means([seen.metrics for seen in found]),
        "published": _means([seen.published for seen in found]),
        "per_image": [asdict(seen) for seen in found],
        "curves": mean_curves(curves),
        "intervals": intervals_json(made, held),
        "intervals_note": note_of(made, held),
    }
    run.part(FOLDER)
    write_json(run.folder / ESTIMATE, estimate)
    write_uncertainty_report(run, estimate)
    return estimate


def rate_of(
    run: Run,
    scene: Splats,
    views: Capture,
    asked: Asked,
    told: Told = lambda what, done, of: None,
) -> Rate:
    """The drop rate to use: as given, or searched for on the training photos, or stored before."""
    if asked.rate is not None:
        check_rate(asked.rate)
        return Rate(asked.rate, "given")
    data = asked.data
    if data is None:
        if stored := stored_rate(run):
            return stored
        data = _built_in(run)
    if data is None:
        raise ValueError(
            f"The drop rate of {run.folder} is found on its training photos, which are not in "
            "it: give their capture with --data, or a rate with --rate"
        )
    frames = _with_photos(run, views.train, data)
    search = find_rate(
        scene,
        frames,
        margin=asked.margin,
        seed=asked.seed,
        background=views.background,
        told=lambda done: told("Searching for the drop rate", done, PASSES),
    )
    return Rate(search.rate, "searched", search.margin, search.base)


def stored_rate(run: Run) -> Rate | None:
    """The rate that was found before, if any; ValueError if what is stored is malformed."""
    path = run.folder / ESTIMATE
    if not path.exists():
        return None
    estimate = read_json(path)
    value = estimate.get("rate") if isinstance(estimate, dict) else None
    if not is_number(value) or not 0 <= value < 1:
        raise ValueError(f"{path} has {shown(value)} as its rate: run `lumigraph uncertainty` anew")
    numbers = [estimate.get(name) for name in ("margin", "base_ssim")]
    margin, base = (float(n) if is_number(n) else None for n in numbers)
    return Rate(float(value), "stored", margin, base)


def _keep_confidence(run: Run, scene: Splats, trusted: Tensor) -> None:
    path = run.part(FOLDER) / CONFIDENCE
    with explained(path), atomic(path) as partial:
        save_file({"confidence": trusted.cpu()}, partial, {"scene": _digest(scene)})


def stored_confidence(run: Run, scene: Splats) -> Tensor | None:
    """How far each splat can be trusted, if that is known of this very scene. float32 [splats]

    Raises ValueError if what is stored is damaged.
    """
    path = run.folder / FOLDER / CONFIDENCE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            if (file.metadata() or {}).get("scene") != _digest(scene):
                return None  # it has been trained on since
            trusted = file.get_tensor("confidence")
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged ({error}): run `lumigraph uncertainty` anew") from None
    if trusted.shape != (len(scene),) or not torch.isfinite(trusted).all():
        raise ValueError(f"{path} is not of this scene: run `lumigraph uncertainty` anew")
    return trusted.float()


def stored_calibration(run: Run, scene: Splats) -> Calibration | None:
    """How wide intervals are, if that was found of this very scene with its exact deviations.

    Raises ValueError if what is stored is malformed.
    """
    path = run.folder / ESTIMATE
    if not path.exists():
        return None
    estimate = read_json(path)
    if not isinstance(estimate, dict):
        raise ValueError(f"{path} is {shown(estimate)}: run `lumigraph uncertainty` anew")
    intervals = estimate.get("intervals")
    if intervals is None or estimate.get("trials") is not None:
        return None
    if estimate.get("scene") != _digest(scene):
        return None  # it has been trained on since
    try:
        return Calibration.from_plain(intervals)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _digest(scene: Splats) -> str:
    """Tells scenes apart."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in scene.tensors.items():
        digest.update(name.encode() + value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def _built_in(run: Run) -> Path | None:
    """The capture of a run of the built-in scene, which everybody has."""
    size: DemoSize | None
    size = next((size for size in SIZES if run.record["capture"] == f"demo_{size}"), None)
    if size is None:
        return None
    folder = demo_capture(size)
    return folder if inputs_of(run.selection().load(folder)) == run.record["inputs"] else None


def _with_photos(run: Run, frames: Sequence[Frame], data: Path) -> list[Frame]:
    """The frames of the run, with the photos of its capture."""
    capture = run.selection().load(data)
    images = {frame.name: frame.image for frame in capture.frames}
    missing = [frame.name for frame in frames if frame.name not in images]
    if missing:
        raise ValueError(f"{data} has no {missing[0]}, which {run.folder} was trained with")
    return [replace(frame, image=images[frame.name]) for frame in frames]


def _estimator(
    scene: Splats, background: tuple[float, float, float], rate: float, asked: Asked
) -> Callable[[Camera], Maps]:
    """What is known of a camera's view."""
    generator = torch.Generator().manual_seed(asked.seed)

    def estimate(camera: Camera) -> Maps:
        picture = render_color(scene, camera, background=background)
        if asked.trials is None:
            mean, std = exact_color(scene, camera, rate, background=background)
        else:
            spread = sampled(
                scene,
                camera,
                rate,
                trials=asked.trials,
                generator=generator,
                background=background,
            )
            mean, std = spread.mean, spread.std
        return Maps(picture.cpu(), mean.cpu(), std.cpu())

    return estimate


def _assess(
    frame: Frame, index: int, maps: Maps, made: Intervals, folders: Sequence[Path]
) -> tuple[Seen, Curves]:
    """The numbers of one view; its map, mean and picture go to the folders."""
    photo, std = frame.image().float() / 255, maps.std
    held = made.held(maps.picture, std, photo)
    picture, mean = quantize(maps.picture), quantize(maps.mean)
    name = picture_name(index, frame.name)
    pictures = (colored(shade(std)), to_bytes(mean), to_bytes(picture))
    for folder, pixels in zip(folders, pictures, strict=True):
        write_picture(folder / name, pixels)
    metrics, published = (asdict(view_metrics(seen, std, photo)) for seen in (picture, mean))
    return Seen(frame.name, name, metrics, published, held), curves_of(picture, std, photo)


def shade(std: Tensor) -> Tensor:
    """A standard deviation as a share of what the map shows: its root, as most is small. [h, w]"""
    return std.mean(-1).clamp(0, 1).sqrt() * 2


def _means(views: Sequence[dict[str, float]]) -> dict[str, float] | None:
    if not views:
        return None
    return {key: math.fsum(view[key] for view in views) / len(views) for key in views[0]}
