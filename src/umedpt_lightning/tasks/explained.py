"""How much of what varies between samples is explained."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric


class Explained(Metric):
    """R²: one less the squared error over the squared deviation from the mean, of all channels together.

    NaN where nothing varies.

    Args:
        channels: How many numbers a sample has.
    """

    error: Tensor
    total: Tensor
    squares: Tensor
    count: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        zero = torch.zeros((), dtype=torch.float64)
        for name, state in (("error", zero), ("total", zero.new_zeros(channels)), ("squares", zero), ("count", zero)):
            self.add_state(name, state.clone(), dist_reduce_fx="sum")

    def update(self, found: Tensor, truth: Tensor) -> None:
        """Adds ``(N, channels)`` each."""
        found, truth = found.double(), truth.double()
        self.error += (found - truth).square().sum()
        self.total += truth.sum(0)
        self.squares += truth.square().sum()
        self.count += len(truth)

    def compute(self) -> Tensor:
        """The share that is explained, at most 1."""
        spread = self.squares - self.total.square().sum() / self.count
        return torch.where(spread > 1e-9 * self.squares, 1 - self.error / spread, torch.nan).float()
