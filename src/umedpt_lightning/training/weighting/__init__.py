"""How much each task's loss counts: one weighting a file."""

from umedpt_lightning.training.weighting.base import LossWeighting, LossWeightingFactory
from umedpt_lightning.training.weighting.fixed import FixedWeights

__all__ = ["FixedWeights", "LossWeighting", "LossWeightingFactory"]
