"""Weights that let all losses fall at the same pace."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from umedpt_lightning.training.weighting.base import LossWeighting


class FastAdaptiveWeights(LossWeighting):
    """FAMO: more weight for tasks whose logarithm of the loss falls more slowly than that of others.

    Liu et al., FAMO: Fast adaptive multitask optimization, NeurIPS 2023, algorithm 1 and section 3.2: a loss L is
    weighed by ``z / L``, where z is the softmax of a logit a task, and the logits go down by the improvement
    ``log L - log L'`` through the softmax; they decay. As in the authors' program Adam takes these steps. There L' is
    measured on the samples of the round after its step, at the cost of further passes; here it is the loss of the
    task's next round, and what is weighed in a round is weighed by the loss of the task's last one.

    Args:
        weights: What ``model.weights`` says; handed in by the program.
        rate: Of the logits.
        decay: Of the logits.

    Raises:
        ValueError: `rate` is not positive, or `decay` negative.
    """

    def __init__(self, weights: Mapping[str, float], rate: float = 0.025, decay: float = 1e-3) -> None:
        super().__init__(weights)
        if rate <= 0 or decay < 0:
            raise ValueError(
                "model.weighting: rate of FastAdaptiveWeights must be positive and decay not negative, but they are "
                f"{rate} and {decay}. Write 0.025 and 0.001."
            )
        self.rate, self.decay = rate, decay
        self.state = {name: torch.zeros(len(weights)) for name in ("logits", "last", "mean", "square", "steps")}

    def forward(self, number: int) -> Tensor:
        """``z / L``, times those of ``model.weights``; of a task that has not been seen yet L is 1."""
        last = self.state["last"]
        z = torch.softmax(self.state["logits"], 0)
        return self.weights.to(z) * z / torch.where(last > 0, last, 1.0)

    def update(self, losses: Tensor, present: Tensor) -> None:
        """Takes a step of Adam for those logits whose tasks were in this round and in an earlier one."""
        logits, last, mean, square, steps = self.state.values()
        losses = losses.to(last).clamp(min=1e-8)
        moves = present & (last > 0)
        fall = torch.where(moves, last.clamp(min=1e-8).log() - losses.log(), 0.0)
        z = torch.softmax(logits, 0)
        gradient = z * (fall - (z * fall).sum()) + self.decay * logits
        steps += moves
        mean += moves * 0.1 * (gradient - mean)
        square += moves * 0.001 * (gradient.square() - square)
        taken = steps.clamp(min=1)
        change = (mean / (1 - 0.9**taken)) / ((square / (1 - 0.999**taken)).sqrt() + 1e-8)
        logits -= moves * self.rate * change
        last.copy_(torch.where(present, losses, last))
