"""What a validation costs, from a part of it."""

from __future__ import annotations

import time
from collections.abc import Mapping
from statistics import median
from typing import Any

import lightning.pytorch as pl

from umedpt_lightning.types import TaskBatch


class ValidationTimer(pl.Callback):
    """Measures the micro-batches of a validation, and what comes after the last.

    Attributes:
        times: Seconds of each micro-batch, reading included, by task.
    """

    def __init__(self) -> None:
        self.times: dict[str, list[float]] = {}
        self._first = ("", 0.0)
        self._since = time.perf_counter()
        self._closing = 0.0

    def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Starts the clock."""
        self._since = time.perf_counter()

    def on_validation_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: TaskBatch, *_: Any
    ) -> None:
        """All that happened since the last one counts for this one; before the first one workers start."""
        seconds = self._lap()
        if not self.times:
            self._first = (batch.task, seconds)
            self.times[batch.task] = []
        else:
            self.times.setdefault(batch.task, []).append(seconds)

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """The metrics are there."""
        self._closing = self._lap()

    def seconds(self, micro_batches: Mapping[str, float]) -> float:
        """How long a validation of so many micro-batches of each task takes.

        Args:
            micro_batches: By task name; all of them came up in what was measured.
        """
        task, first = self._first
        typical = {name: median(times) if times else first for name, times in self.times.items()}
        measured = 1 + sum(map(len, self.times.values()))
        start = max(0.0, first - typical[task])
        work = sum(number * typical[name] for name, number in micro_batches.items())
        # metrics are computed from all samples
        return start + work + self._closing * sum(micro_batches.values()) / measured

    def _lap(self) -> float:
        now = time.perf_counter()
        seconds, self._since = now - self._since, now
        return seconds
