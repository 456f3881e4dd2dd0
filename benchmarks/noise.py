"""How much of a task's gradient in the shared blocks is the draw of its images, and how tasks stand without that.

Goes into a run as its aggregator, see docs/results/together.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import torch
from torch import Tensor

from umedpt_lightning.training.aggregation import GradientAggregator
from umedpt_lightning.training.aggregation.sketch import Sketch
from umedpt_lightning.training.aggregation.task_rows import shared_parts
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RoundPlan


class GradientNoise(GradientAggregator):
    """Tells of every round what micro-batches of a task have in common; changes nothing.

    With the gradients g of N micro-batches of a task, the mean of ``g_i · g_j`` over the pairs is the squared length of
    the gradient of all its images, without a share of the draw; the mean of ``g_i · g_i`` has the draw in it.
    """

    def plan_round(self, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
        """Takes note of how many micro-batches share a task's loss."""
        self._unit = {task: count * len(plan.micro_batches) for task, count in plan.micro_batches.items()}
        return {}

    def start_round(self, buffer: GradientBuffer) -> None:
        """Prepares the sketches."""
        self._sketch = Sketch(shared_parts(buffer), 65536)
        self._before = torch.zeros(65536)
        self._found: dict[str, list[Tensor]] = {}

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        """Keeps a sketch of what was added."""
        now = self._sketch()
        self._found.setdefault(task, []).append((now - self._before) * self._unit[task])
        self._before = now

    def end_round(self) -> None:
        """Prints two tables."""
        rows = {task: torch.stack(found).double() for task, found in self._found.items()}
        signal = {task: _between(g @ g.T) for task, g in rows.items()}
        shares = {task: float((g @ g.T).diagonal().mean()) for task, g in rows.items()}
        total, common = (sum(max(v, 0) ** 0.5 for v in of.values()) for of in (shares, signal))
        print("| task | one micro-batch | in common | share of one | share of what is in common |")
        print("| --- | --- | --- | --- | --- |")
        for task in rows:
            one, both = shares[task] ** 0.5, max(signal[task], 0) ** 0.5
            print(f"| {task} | {one:.3g} | {both:.3g} | {one / total:.0%} | {both / common:.0%} |")
        for one, other in combinations(rows, 2):
            product = float((rows[one] @ rows[other].T).mean())
            of_one, lengths = (shares[one] * shares[other]) ** 0.5, max(signal[one], 0) * max(signal[other], 0)
            common_cosine = f"{product / lengths**0.5:+.2f}" if lengths else "unknown"
            print(f"{one} and {other}: cosine {product / of_one:+.3f}, of what is in common {common_cosine}")


def _between(products: Tensor) -> float:
    """The mean outside the diagonal."""
    number = len(products)
    return float((products.sum() - products.diagonal().sum()) / (number * (number - 1)))
