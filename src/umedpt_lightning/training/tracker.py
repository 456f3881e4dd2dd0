"""Sums of losses that stay on the device until somebody wants to see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class LossTracker:
    """Mean loss of each task since the last reading.

    Adding neither waits for the device nor calls a logger, so that the cost a task and step is microseconds.
    """

    def __init__(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()

    def add(self, task: str, loss: Tensor) -> None:
        """Adds the scalar loss of a micro-batch."""
        loss = loss.detach()
        self._sums[task] = self._sums[task] + loss if task in self._sums else loss
        self._counts[task] += 1

    def read(self) -> dict[str, float]:
        """The mean loss of every task that had any, and starts anew. Waits for the device once."""
        if not self._sums:
            return {}
        totals = torch.stack(list(self._sums.values())).tolist()
        means = {task: total / self._counts[task] for task, total in zip(self._sums, totals, strict=True)}
        self._sums, self._counts = {}, Counter()
        return means

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last reading, of this rank."""
        return {"sums": {task: total.cpu() for task, total in self._sums.items()}, "counts": dict(self._counts)}

    def load_state_dicts(self, states: Iterable[dict[str, Any]]) -> None:
        """Goes on from the sums of the ranks whose part this one takes over."""
        self._sums, self._counts = {}, Counter()
        for state in states:
            for task, total in state["sums"].items():
                self._sums[task] = self._sums[task] + total if task in self._sums else total
            self._counts.update(state["counts"])
