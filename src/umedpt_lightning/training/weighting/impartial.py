"""Weights that are learned so that all weighted losses become alike."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from umedpt_lightning.training.weighting.base import LossWeighting


class ImpartialWeights(LossWeighting):
    """IMTL-L: learns a scale s a task, which weighs its loss L by ``exp(s)``, so that ``exp(s) L`` becomes 1 for all.

    Liu et al., Towards impartial multi-task learning, ICLR 2021, section 3.2: the least of ``exp(s) L - s`` over s. The
    optimizer of the run learns s.

    Args:
        weights: What ``model.weights`` says; handed in by the program.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.scales = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in self.tasks})

    def forward(self, number: int) -> Tensor:
        """``exp(s)``, times those of ``model.weights``."""
        s = torch.stack([*self.scales.values()]).detach()
        return self.weights.to(s) * torch.exp(s)

    def update(self, losses: Tensor, present: Tensor) -> None:
        """Gives each s its gradient."""
        s = torch.stack([*self.scales.values()])
        torch.autograd.backward((present * (torch.exp(s) * losses.to(s) - s)).sum())
