"""What each task of a round adds to the shared blocks' gradient, kept apart: as a sketch, or as it is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from itertools import groupby

import torch
from torch import Tensor

from umedpt_lightning.training.aggregation.gram import Gram, inner_products
from umedpt_lightning.training.aggregation.sketch import Sketch
from umedpt_lightning.training.gradient_buffer import GradientBuffer
from umedpt_lightning.types import RoundPlan

#: So begin the names of parameters that one task has for itself.
HEADS = "tasks."


class TaskRows(ABC):
    """A row a task of the round.

    Attributes:
        rows: ``(T, N)`` of this rank.
    """

    rows: Tensor

    def __init__(self) -> None:
        self._gradients: object = None
        self._shared: list[Tensor] = []
        self._is_part = False
        self._tasks: list[str] = []
        self._left: list[str] = []  # the tasks of the micro-batches that are to come, the next one last
        self._unit = 1.0

    def plan_round(self, plan: RoundPlan, loss_scale: float) -> None:
        """Takes note of what the round consists of."""
        self._tasks = list(plan.micro_batches)
        self._left = [task for task, _ in reversed(plan.mine)]
        # a gradient of a loss, and not of its share of the round's
        self._unit = sum(rate.turns for rate in plan.rates.values()) / loss_scale

    def start_round(self, buffer: GradientBuffer) -> None:
        """Makes room where the buffer is another, or has another form."""
        if buffer.gradients is not self._gradients:
            self._gradients, self._shared, self._is_part = buffer.gradients, shared_parts(buffer), buffer.is_part
            self.rows = torch.empty(0, 0)
            self._lay_out(self._shared)
        if len(self.rows) < len(self._tasks):
            self.rows = self._new_rows(len(self._tasks))
        self.rows.zero_()

    def after_micro_batch(self, task: str) -> None:
        """Takes what has been added since the last call, if the next micro-batch is not of the same task."""
        self._left.pop()
        if not self._left or self._left[-1] != task:
            self._take(self._tasks.index(task))

    def products(self) -> Tensor:
        """``(T, T)`` float64 on the device: inner products of the gradients of the tasks' losses, over all ranks.

        Each loss is times its weight over the mean weight. Every rank must call it.
        """
        rows = self.rows[: len(self._tasks)]
        return inner_products(rows, self._shared[0].device, self._is_part) * self._unit**2

    def gram(self, products: Tensor) -> Gram:
        """Those on the CPU, which waits for the device."""
        return Gram(self._tasks, products.cpu())

    @abstractmethod
    def _lay_out(self, shared: Sequence[Tensor]) -> None:
        """Prepares for gradients in these flat tensors."""

    @abstractmethod
    def _new_rows(self, count: int) -> Tensor:
        """Memory for so many tasks."""

    @abstractmethod
    def _take(self, row: int) -> None:
        """Adds what the buffer has got since the last call to a row."""


class SketchedRows(TaskRows):
    """Keeps a sketch of each task's gradient, in half precision where gradients are in single.

    Args:
        buckets: See `Sketch`.
    """

    def __init__(self, buckets: int) -> None:
        super().__init__()
        if buckets < 1:
            raise ValueError(f"buckets must be positive, but it is {buckets}. 65536 is right to 0.01 in cosines.")
        self.buckets = buckets
        self._sketch: Sketch
        self._before = torch.empty(0)

    def start_round(self, buffer: GradientBuffer) -> None:
        """As above; of zeros a sketch is zero."""
        super().start_round(buffer)
        self._before = torch.zeros(self._sketch.buckets, dtype=self._sketch.dtype, device=self._sketch.device)

    def _lay_out(self, shared: Sequence[Tensor]) -> None:
        self._sketch = Sketch(shared, min(self.buckets, max(1, sum(map(len, shared)))))

    def _new_rows(self, count: int) -> Tensor:
        half = self._sketch.dtype == torch.float32
        dtype = torch.bfloat16 if half else self._sketch.dtype
        return torch.zeros(count, self._sketch.buckets, dtype=dtype, device=self._sketch.device)

    def _take(self, row: int) -> None:
        now = self._sketch()
        self.rows[row] += now - self._before
        self._before = now


class WholeRows(TaskRows):
    """Moves each task's gradient out of the buffer.

    Args:
        on_cpu: Whether the rows are in main memory, wherever the model is.
    """

    def __init__(self, on_cpu: bool) -> None:
        super().__init__()
        self.on_cpu = on_cpu

    def write(self, factors: Tensor) -> None:
        """Puts the sum of all rows, each times its factor, into the buffer."""
        start = 0
        factors = factors.to(self.rows)
        for part in self._shared:
            part.copy_(factors @ self.rows[: len(factors), start : start + len(part)])
            start += len(part)

    def _lay_out(self, shared: Sequence[Tensor]) -> None:
        pass

    def _new_rows(self, count: int) -> Tensor:
        first = self._shared[0]
        device = torch.device("cpu") if self.on_cpu else first.device
        dtype = torch.promote_types(first.dtype, torch.float32)
        return torch.zeros(count, sum(map(len, self._shared)), dtype=dtype, device=device)

    def _take(self, row: int) -> None:
        start = 0
        for part in self._shared:
            self.rows[row, start : start + len(part)] += part.to(self.rows.device)
            start += len(part)
            part.zero_()


def shared_parts(buffer: GradientBuffer) -> list[Tensor]:
    """The flat gradients of what several tasks may share: all but those of the heads; gaps of zeros included."""
    parts = []
    for flat in buffer.flats:
        of_flat = ((name, g) for name, g in buffer.gradients.items() if g.dtype == flat.dtype)
        views = sorted((g.storage_offset(), name.startswith(HEADS)) for name, g in of_flat if g.device == flat.device)
        ends = [offset for offset, _ in views[1:]] + [len(flat)]
        for is_head, run in groupby(zip(views, ends, strict=True), key=lambda view: view[0][1]):
            first, *others = run
            if not is_head:
                parts.append(flat[first[0][0] : (others or [first])[-1][1]])
    return parts or [buffer.flats[0][:0]]
