"""Training on PyTorch Lightning."""

from umedpt_lightning.training.module import MultiTaskModule
from umedpt_lightning.training.optimization import Optimization

__all__ = ["MultiTaskModule", "Optimization"]
