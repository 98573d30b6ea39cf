"""What moves the splats in a step.

`adam.py` has the learning rates of Adam, and two forms of Levenberg-Marquardt can finish a fit:
`lm.py`, photo by photo, and `lm_published.py`, 3DGS-LM over batches of photos.
"""

from lumigraph.recon.optimizers.adam import learning_rates
from lumigraph.recon.optimizers.levenberg import Try
from lumigraph.recon.optimizers.lm import BlockState, Descent
from lumigraph.recon.optimizers.lm_published import LmState, lm_step, start_lm
from lumigraph.recon.optimizers.residuals import photo_loss

__all__ = [
    "BlockState",
    "Descent",
    "LmState",
    "Try",
    "learning_rates",
    "lm_step",
    "photo_loss",
    "start_lm",
]
