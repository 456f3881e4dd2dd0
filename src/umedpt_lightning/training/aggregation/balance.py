"""Weights of the tasks' gradients in the shared blocks, from the inner products of the gradients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from umedpt_lightning.training.aggregation.base import GradientAggregator
from umedpt_lightning.training.aggregation.gram import Gram
from umedpt_lightning.training.aggregation.gram_weights import GramianWeighting, GramWeights
from umedpt_lightning.training.aggregation.task_rows import WholeRows
from umedpt_lightning.training.aggregation.watch import GradientWatch
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RoundPlan

#: The least weight at which a task's gradient can still be told from what others have added.
_LEAST = 1e-3


class SketchBalance(GradientWatch):
    """Weighs tasks in the shared blocks by sketches of their gradients, at the memory of one gradient.

    From each round a sketch a task is kept until its end, see `Sketch`. A moving average of their inner products gives
    the weights of the next round, which a task's gradient is multiplied with where it enters the shared blocks. A head
    keeps its own gradient. No weight is nearer to zero than a thousandth, else a task would be lost from sight.

    Args:
        weighting: From the ``(T, T)`` inner products of T gradients to their ``(T,)`` weights: any Gramian weighting of
            TorchJD, such as ``torchjd.aggregation.MGDAWeighting``.
        memory: Share of the average that a round takes over from those before it, from 0 to below 1.
        buckets: Numbers a sketch; cosines are right to about ``1 / sqrt(buckets)``.
        clip: A task's gradient that is longer is shortened to this before it is weighed; null for none.

    Raises:
        ValueError: A number is out of its range, or the weighting cannot be used.
    """

    def __init__(
        self, weighting: GramianWeighting, memory: float = 0.9, buckets: int = 65536, clip: float | None = None
    ) -> None:
        super().__init__(buckets)
        if not 0 <= memory < 1:
            raise ValueError(f"model.aggregator: memory must be from 0 to below 1, but it is {memory}. Write 0.9.")
        self.memory, self._weights = memory, GramWeights(weighting, clip)
        self._average: dict[tuple[str, str], tuple[float, int]] = {}  # of two tasks, and in how many rounds they met

    def plan_round(self, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
        """The weights of the round, of what was seen before."""
        super().plan_round(number, plan, loss_scale)
        known = [task for task in plan.micro_batches if (task, task) in self._average]
        matrix = torch.zeros(len(known), len(known), dtype=torch.float64)
        for i, one in enumerate(known):
            for j, other in enumerate(known):
                matrix[i, j] = self._average.get(_pair(one, other), (0.0, 0))[0]
        if len(known) > 2:  # pairs that have met in different rounds: what comes of them may be of no real vectors
            values, vectors = torch.linalg.eigh(matrix)
            matrix = (vectors * values.clamp(min=0)) @ vectors.T
        self.factors = {
            task: max(abs(factor), _LEAST) * (-1 if factor < 0 else 1)
            for task, factor in self._weights(Gram(known, matrix), number).items()
        }
        return self.factors

    def end_round(self) -> None:
        """Adds the inner products to the average."""
        super().end_round()
        if self.gram is None:
            return
        tasks, matrix = self.gram
        factors = torch.tensor([self.factors.get(task, 1.0) for task in tasks], dtype=torch.float64)
        matrix = matrix / factors / factors[:, None]
        self.gram = Gram(tasks, matrix)
        for i, one in enumerate(tasks):
            for j, other in enumerate(tasks[: i + 1]):
                average, rounds = self._average.get(_pair(one, other), (0.0, 0))
                rounds += 1
                step = max(1 / rounds, 1 - self.memory)  # the mean at first, then a moving one
                self._average[_pair(one, other)] = average + step * (float(matrix[i, j]) - average), rounds

    def state_dict(self) -> dict[str, Any]:
        """The average, by tasks."""
        return {"average": [[*pair, *value] for pair, value in self._average.items()]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on with the average; of tasks that are gone nothing is asked any more."""
        self._average = {(one, other): (average, rounds) for one, other, average, rounds in state.get("average", [])}


class ExactBalance(GradientAggregator):
    """Weighs tasks in the shared blocks by their gradients of the same round, which takes a gradient's memory a task.

    What comes out is what TorchJD's aggregator makes of the Jacobian of the tasks' losses, each times its weight over
    the mean weight. A head keeps its own gradient.

    Args:
        weighting: See `SketchBalance`.
        on_cpu: Whether the gradients are kept in main memory, wherever the model is.
        clip: See `SketchBalance`.

    Raises:
        ValueError: `clip` is not positive, or the weighting cannot be used.
    """

    _found: Gram  # of the round that is under way

    def __init__(self, weighting: GramianWeighting, on_cpu: bool = False, clip: float | None = None) -> None:
        self._weights, self._rows, self._number = GramWeights(weighting, clip), WholeRows(on_cpu), 0

    def plan_round(self, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
        """Nothing is known of the round yet."""
        self.gram, self._number = None, number
        self._rows.plan_round(plan, loss_scale)
        return {}

    def start_round(self, buffer: GradientBuffer) -> None:
        """Makes room for the gradients."""
        self._rows.start_round(buffer)

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        """Takes the task's gradient out of the buffer."""
        self._rows.after_micro_batch(task)

    def before_exchange(self, buffer: GradientBuffer) -> None:
        """Puts the weighted sum into the buffer."""
        self._found = self._rows.gram(self._rows.products())
        self.factors = self._weights(self._found, self._number)
        self._rows.write(torch.tensor([*self.factors.values()], dtype=torch.float64))

    def end_round(self) -> None:
        """Sets `gram`, unless a scaler's overflow has spoilt it."""
        self.gram = self._found if self._found.matrix.isfinite().all() else None


def _pair(one: str, other: str) -> tuple[str, str]:
    return (one, other) if one <= other else (other, one)
