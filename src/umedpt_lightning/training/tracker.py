"""Sums of losses that stay on the device until somebody wants to see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from umedpt_lightning.training.gradients import several_ranks


class LossTracker:
    """Mean loss of each task since the last reading, and how many samples there were.

    Adding neither waits for the device nor calls a logger, so that the cost a task and step is microseconds.

    Args:
        tasks: All tasks, the same on every rank.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._tasks = list(tasks)
        self._sums: dict[str, Tensor] = {}
        self._counts: Counter[str] = Counter()
        self._samples = 0

    def add(self, task: str, loss: Tensor, samples: int) -> None:
        """Adds the scalar loss of a micro-batch."""
        loss = loss.detach().float()
        self._sums[task] = self._sums[task] + loss if task in self._sums else loss
        self._counts[task] += 1
        self._samples += samples

    def read(self, device: torch.device) -> tuple[dict[str, float], int]:
        """Reads off all ranks, and starts anew. Every rank must call it; waits for the device once.

        Args:
            device: Where the losses are.

        Returns:
            The mean loss of every task that any rank had, and the number of samples on all ranks.
        """
        nothing = torch.zeros((), device=device)
        counts = torch.tensor([*(self._counts[task] for task in self._tasks), self._samples], device=device)
        totals = torch.cat([torch.stack([self._sums.get(task, nothing) for task in self._tasks]), counts])
        if several_ranks():
            dist.all_reduce(totals)
        values = totals.tolist()
        self._sums, self._counts, self._samples = {}, Counter(), 0
        of_tasks = zip(self._tasks, values, values[len(self._tasks) :], strict=False)
        return {task: total / count for task, total, count in of_tasks if count}, round(values[-1])

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last reading, of this rank."""
        sums = {task: total.cpu() for task, total in self._sums.items()}
        return {"sums": sums, "counts": dict(self._counts), "samples": self._samples}

    def load_state_dicts(self, states: Iterable[dict[str, Any]]) -> None:
        """Goes on from the sums of the ranks whose part this one takes over."""
        self._sums, self._counts, self._samples = {}, Counter(), 0
        for state in states:
            for task, total in state["sums"].items():
                self._sums[task] = self._sums[task] + total if task in self._sums else total
            self._counts.update(state["counts"])
            self._samples += state["samples"]
