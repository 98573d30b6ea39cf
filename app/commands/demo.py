"""The command `demo`: the built-in scene is made once, then reconstructed."""

from pathlib import Path

from lumigraph.app.console import notice
from lumigraph.app.training.inputs import TrainOptions
from lumigraph.datasets.demo import DemoSize, demo_folder

DEMO_STEPS: dict[DemoSize, int] = {"tiny": 300, "small": 1000, "full": 2600}
"""Training steps for each size: enough for a good scene, and few enough to wait for."""


def demo_capture(size: DemoSize) -> Path:
    """The folder of the built-in scene, which is made the first time."""

    def told(done: int, pictures: int) -> None:
        if done == 1:
            notice(f"Making the built-in scene ({pictures} pictures); this is done only once")

    return demo_folder(size, progress=told)


def demo_options(
    size: DemoSize, *, steps: int | None = None, seed: int | None = None, device: str | None = None
) -> TrainOptions:
    """The options that the demo trains with."""
    changes = {"steps": steps or DEMO_STEPS[size]}
    return TrainOptions(
        preset="quick", seed=seed, downscale=1, device=device, changes=changes, name=f"demo_{size}"
    )
