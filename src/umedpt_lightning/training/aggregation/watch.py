"""Looks on at a round's gradients by sketches, and changes nothing."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from umedpt_lightning.training.aggregation.base import GradientAggregator
from umedpt_lightning.training.aggregation.gram import Gram
from umedpt_lightning.training.aggregation.task_rows import SketchedRows
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RoundPlan


class GradientWatch(GradientAggregator):
    """Measures the inner products of the gradients that the tasks of a round give the shared blocks.

    Args:
        buckets: Numbers a sketch, see `Sketch`.

    Raises:
        ValueError: `buckets` is not positive.
    """

    def __init__(self, buckets: int = 65536) -> None:
        self._rows = SketchedRows(buckets)
        self._products = torch.empty(0, 0)

    def plan_round(self, number: int, plan: RoundPlan, loss_scale: float) -> Mapping[str, float]:
        """Takes note of the tasks; what is left out whole has no `gram`."""
        self.gram = None
        self._rows.plan_round(plan, loss_scale)
        return {}

    def start_round(self, buffer: GradientBuffer) -> None:
        """Prepares the sketches."""
        self._rows.start_round(buffer)

    def after_micro_batch(self, task: str, buffer: GradientBuffer) -> None:
        """Takes a sketch."""
        self._rows.after_micro_batch(task)

    def before_exchange(self, buffer: GradientBuffer) -> None:
        """Multiplies the sketches of all ranks."""
        self._products = self._rows.products()

    def end_round(self) -> None:
        """Sets `gram`, unless a scaler's overflow has spoilt it."""
        tasks, matrix = self._rows.gram(self._products)
        self.gram = Gram(tasks, matrix) if matrix.isfinite().all() else None
