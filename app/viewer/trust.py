"""How far the scene that is shown is known to be trusted: what was estimated of it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from torch import Tensor

from lumigraph.app.run.estimate import (
    CONFIDENCE,
    ESTIMATE,
    FOLDER,
    stored_calibration,
    stored_confidence,
    stored_rate,
)
from lumigraph.app.run.folder import Run
from lumigraph.app.viewer.errors import sentence_of
from lumigraph.app.viewer.library import is_inside
from lumigraph.app.viewer.picture import RATE
from lumigraph.render import Splats
from lumigraph.uncertainty import Calibration

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Trust:
    """What is known of a scene's uncertainty.

    Attributes:
        rate: Share of the splats that is left out to see what the picture rests on.
        searched: Whether the training photos say that the scene can spare so many.
        calibration: How wide intervals are; None if that is not known of this very scene.
        confidence: How far each splat can be trusted, from 0 to 1, if that is. float32 [splats]
    """

    rate: float = RATE
    searched: bool = False
    calibration: Calibration | None = None
    confidence: Tensor | None = None


def trust_of(
    run: Run, scene: Splats | None, allowed: Sequence[Path], told: Callable[[str], None]
) -> Trust:
    """What was estimated of a run's scene, and of its rate alone where there is no scene yet.

    Args:
        run: Whose.
        scene: As it is shown; what was estimated of another one does not count.
        allowed: Nothing outside these folders is read.
        told: Is told, in a sentence, what cannot be read: the scene can be seen without.
    """
    for name in (ESTIMATE, f"{FOLDER}/{CONFIDENCE}"):
        if not is_inside(run.folder / name, allowed):
            told(f"{run.folder / name} leads out of the folders that may be opened here")
            return Trust()

    def read(reads: Callable[[], T]) -> T | None:
        try:
            return reads()
        except (ValueError, OSError) as error:
            told(sentence_of(error))
            return None

    rate = read(lambda: stored_rate(run, scene))
    trust = Trust() if rate is None else Trust(rate.value, rate.calibrated)
    if scene is None or rate is None:
        return trust
    calibration = read(lambda: stored_calibration(run, scene))
    confidence = read(lambda: stored_confidence(run, scene))
    return Trust(trust.rate, trust.searched, calibration, confidence)
