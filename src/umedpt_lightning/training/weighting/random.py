"""Weights that are drawn anew for each round."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umedpt_lightning.training.weighting.base import LossWeighting


class RandomWeights(LossWeighting):
    """The softmax of a standard normal number a task and round.

    Lin et al., Reasonable effectiveness of random weighting, TMLR 2022, section 3: a baseline that others must beat.

    Args:
        weights: What ``model.weights`` says; handed in by the program.
        seed: Seeds the draws, which depend on nothing else but the round.
    """

    def __init__(self, weights: Mapping[str, float], seed: int = 0) -> None:
        super().__init__(weights)
        self.seed = seed

    def forward(self, number: int) -> Tensor:
        """Drawn, times those of ``model.weights``."""
        generator = torch.Generator().manual_seed(self.seed * 1_000_003 + number)
        drawn = torch.randn(len(self.tasks), generator=generator, dtype=torch.float64)
        return self.weights * torch.softmax(drawn, 0)
