"""How much each task's loss counts: one weighting a file."""

from umedpt_lightning.training.weighting.base import LossWeighting, LossWeightingFactory
from umedpt_lightning.training.weighting.dynamic_average import DynamicWeightAverage
from umedpt_lightning.training.weighting.fast_adaptive import FastAdaptiveWeights
from umedpt_lightning.training.weighting.fixed import FixedWeights
from umedpt_lightning.training.weighting.impartial import ImpartialWeights
from umedpt_lightning.training.weighting.random import RandomWeights
from umedpt_lightning.training.weighting.uncertainty import UncertaintyWeights

__all__ = [
    "DynamicWeightAverage",
    "FastAdaptiveWeights",
    "FixedWeights",
    "ImpartialWeights",
    "LossWeighting",
    "LossWeightingFactory",
    "RandomWeights",
    "UncertaintyWeights",
]
