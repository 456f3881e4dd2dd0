"""More weight for tasks whose loss falls slowly."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umedpt_lightning.training.weighting.base import LossWeighting


class DynamicWeightAverage(LossWeighting):
    """DWA: the softmax over tasks of the ratio of a loss to what it was before, divided by a temperature.

    Liu, Johns & Davison, End-to-end multi-task learning with attention, CVPR 2019, equation 7. The losses are means
    over the last stretch of rounds that had the task, and over the one before, where the paper has epochs. Until a task
    has two stretches behind it, its ratio is 1.

    Args:
        weights: What ``model.weights`` says; handed in by the program.
        temperature: Above 0. The higher, the more alike the weights.
        stretch: Rounds that had the task.

    Raises:
        ValueError: A number is not positive.
    """

    def __init__(self, weights: Mapping[str, float], temperature: float = 2.0, stretch: int = 100) -> None:
        super().__init__(weights)
        if temperature <= 0 or stretch < 1:
            raise ValueError(
                "model.weighting: temperature and stretch of DynamicWeightAverage must be positive, but they are "
                f"{temperature} and {stretch}. Write 2 and 100."
            )
        self.temperature, self.stretch = temperature, stretch
        self.state = {name: torch.zeros(len(weights)) for name in ("sum", "rounds", "last", "before")}

    def forward(self, number: int) -> Tensor:
        """The softmax, times those of ``model.weights``."""
        last, before = self.state["last"], self.state["before"]
        ratio = torch.where(before > 0, last / before.clamp(min=1e-12), 1.0)
        return self.weights.to(ratio) * torch.softmax(ratio / self.temperature, 0)

    def update(self, losses: Tensor, present: Tensor) -> None:
        """Adds to the stretches, and ends those that are complete."""
        total, rounds = self.state["sum"], self.state["rounds"]
        total += losses * present
        rounds += present
        done = rounds >= self.stretch
        self.state["before"].copy_(torch.where(done, self.state["last"], self.state["before"]))
        self.state["last"].copy_(torch.where(done, total / rounds.clamp(min=1), self.state["last"]))
        total.masked_fill_(done, 0.0)
        rounds.masked_fill_(done, 0.0)
