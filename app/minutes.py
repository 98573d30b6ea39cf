"""How many steps fit into a time: measured on the capture itself, on this machine."""

import time
from dataclasses import replace
from statistics import median

from lumigraph.app.terminal import notice
from lumigraph.datasets import Capture
from lumigraph.recon import Plan, fit_splats, start_fit
from lumigraph.recon.plan import stretched

TRIAL = 30
"""Steps of the trial: the first few are slower, as they fill caches."""

GROWTH = 1.4
"""A step of the whole fit takes about so many times one of the trial, whose splats have not grown
yet and whose photos are at full size: 1.2 to 1.6 on phone photos and on the built-in scene."""

LEAST, MOST = 300, 200_000
"""Steps of a fit: fewer show nothing yet, and more do not make it better."""


def fitted_to(plan: Plan, capture: Capture, minutes: float, device: str) -> Plan:
    """The plan stretched or shortened so that its fit takes about so many minutes here.

    A few steps are tried, and forgotten; the number of steps therefore differs from run to run,
    and is written down with the run.
    """
    trial = replace(plan, coarse_steps=0, steps=max(plan.steps, TRIAL))
    steps = fit_splats(capture, start_fit(capture, trial, device=device))
    seconds = []
    for _ in range(TRIAL):
        began = time.perf_counter()
        next(steps)
        seconds.append(time.perf_counter() - began)
    count = round(60 * minutes / (GROWTH * median(seconds[TRIAL // 3 :])))
    count = min(MOST, max(LEAST, count))
    notice(f"In {minutes:g} minutes about {count:,} steps can be taken here")
    return stretched(plan, count)
