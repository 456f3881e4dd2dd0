"""Training on PyTorch Lightning."""

from umedpt_lightning.training.module import MultiTaskModule
from umedpt_lightning.training.optimization import Optimization
from umedpt_lightning.training.parameter_groups import ParameterGroup, ParameterGroups

__all__ = ["MultiTaskModule", "Optimization", "ParameterGroup", "ParameterGroups"]
