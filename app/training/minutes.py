"""How many steps fit into a time: measured on the capture itself, on this machine."""

import time
from dataclasses import replace
from statistics import median

from lumigraph.app.console import notice
from lumigraph.datasets import Capture
from lumigraph.recon import Plan, Preset, fit_splats, start_fit
from lumigraph.recon.splats.plan import stretched

TRIAL = 30
"""Steps of the trial: the first few are slower, as they fill caches."""

GROWTH: dict[Preset, float] = {"quick": 1.4, "standard": 2.5, "high": 2.7}
"""A step of the whole fit takes about so many times one of the trial, whose splats have not grown
yet and whose photos are at full size: `quick` 1.1 and 1.7 on the built-in scene and on phone
photos, `standard` 2.0 and 3.3."""

LEAST, MOST = 300, 200_000
"""Steps of a fit: fewer show nothing yet, and more do not make it better."""


def fitted_to(plan: Plan, preset: Preset, capture: Capture, minutes: float, device: str) -> Plan:
    """The preset's plan stretched or shortened so that its fit takes about so many minutes here.

    A few steps are tried, and forgotten; the number of steps therefore differs from run to run,
    and is written down with the run.
    """
    for frame in capture.train:  # their decoding is to be over before a step is timed
        frame.image()
    trial = replace(plan, coarse_steps=0, steps=max(plan.steps, TRIAL))
    steps = fit_splats(capture, start_fit(capture, trial, device=device))
    seconds = []
    for _ in range(TRIAL):
        began = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - began)
    count = round(60 * minutes / (GROWTH[preset] * median(seconds[TRIAL // 3 :])))
    count = min(MOST, max(LEAST, count))
    notice(f"In {minutes:g} minutes about {count:,} steps can be taken here")
    return stretched(plan, count)
