"""Weights that are learned as the noise of each task."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from umedpt_lightning.training.weighting.base import LossWeighting


class UncertaintyWeights(LossWeighting):
    """Learns a log-variance s a task, which weighs its loss by ``exp(-s)``.

    Kendall, Gal & Cipolla, Multi-task learning using uncertainty to weigh losses, CVPR 2018, equation 10: the least of
    ``exp(-s) L + s / 2`` over s, for a loss L that is a cross-entropy; all losses are about 1 for a head that knows
    nothing, and count as such. The optimizer of the run learns s.

    Args:
        weights: What ``model.weights`` says; handed in by the program.
    """

    def __init__(self, weights: Mapping[str, float]) -> None:
        super().__init__(weights)
        self.log_variances = nn.ParameterDict({task: nn.Parameter(torch.zeros(())) for task in self.tasks})

    def forward(self, number: int) -> Tensor:
        """``exp(-s)``, times those of ``model.weights``."""
        s = torch.stack([*self.log_variances.values()]).detach()
        return self.weights.to(s) * torch.exp(-s)

    def update(self, losses: Tensor, present: Tensor) -> None:
        """Gives each s its gradient."""
        s = torch.stack([*self.log_variances.values()])
        torch.autograd.backward((present * (torch.exp(-s) * losses.to(s) + s / 2)).sum())
