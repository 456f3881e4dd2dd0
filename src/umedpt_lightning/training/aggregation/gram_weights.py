"""From the inner products of tasks' gradients to what each is multiplied with."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from umedpt_lightning.training.aggregation.gram import Gram

#: From the ``(T, T)`` inner products of T gradients to their ``(T,)`` weights, all ``1 / T`` for the mean. What it
#: returns is left open for jsonargparse, which would look for classes derived from that.
GramianWeighting = Callable[..., Any]


class GramWeights:
    """Asks a weighting for the weights of those tasks of a round that have a gradient.

    Args:
        weighting: From the ``(T, T)`` inner products of T gradients to their ``(T,)`` weights; ``1 / T`` for the mean.
        clip: A task's gradient that is longer is shortened to this before it is weighed; None for none.

    Raises:
        ValueError: `clip` is not positive, or the weighting cannot be used.
    """

    def __init__(self, weighting: GramianWeighting, clip: float | None) -> None:
        self._name = type(weighting).__name__
        if clip is not None and clip <= 0:
            raise ValueError(f"model.aggregator: clip must be positive, or null for none, but it is {clip}.")
        if hasattr(weighting, "reset"):
            raise ValueError(
                f"model.aggregator: {self._name} keeps what it saw in earlier rounds where no checkpoint finds it, so "
                "a run could not go on exactly. Take another one; `memory` of SketchBalance averages over rounds."
            )
        self._weighting, self._clip = weighting, clip

    def __call__(self, gram: Gram, number: int) -> dict[str, float]:
        """What each task's gradient is multiplied with; 1 for all gives their plain sum.

        Tasks whose gradient is zero, as that of a task of weight 0, do not count; where fewer than two are left, they
        are not weighed.

        Args:
            gram: Of the tasks of the round.
            number: Of the round, which seeds what a weighting draws, so that all ranks draw the same.

        Raises:
            ValueError: The weighting gives something else than a weight for each.
            FloatingPointError: A weight is not finite.
        """
        factors = torch.ones(len(gram.tasks), dtype=torch.float64)
        there = gram.matrix.diagonal() > 0
        matrix = gram.matrix[there][:, there]
        if gram.matrix.isfinite().all():  # else the round is left out, and begun anew
            shrink = torch.ones(len(matrix), dtype=torch.float64)
            if self._clip is not None:
                shrink = (self._clip / matrix.diagonal().sqrt()).clamp(max=1.0)
            factors[there] = shrink
            if len(matrix) > 1:
                factors[there] *= self._weights(matrix * shrink * shrink[:, None], number) * len(matrix)
        return dict(zip(gram.tasks, factors.tolist(), strict=True))

    def _weights(self, matrix: Tensor, number: int) -> Tensor:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            torch.manual_seed(number)
            weights: Tensor = self._weighting(matrix)
        if weights.shape != (len(matrix),):
            raise ValueError(
                f"model.aggregator: {self._name} gives weights of shape {tuple(weights.shape)} for {len(matrix)} "
                "gradients. Take one that makes (T,) weights of a (T, T) matrix, as torchjd.aggregation.MGDAWeighting."
            )
        if not weights.isfinite().all():
            raise FloatingPointError(
                f"model.aggregator: {self._name} gives weights that are not finite, {weights.tolist()}, for gradients "
                f"with the inner products {matrix.tolist()}. Take another weighting."
            )
        return weights.double()
