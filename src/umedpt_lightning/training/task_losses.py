"""Sums of losses that stay on the device until somebody wants to see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from umedpt_lightning.training.ranks import several_ranks

# So many rounds are kept before their losses are added up: to do that in every round takes ten times as long.
_KEPT = 64


class TaskLosses:
    """Mean loss of each task since the last reading, and how many samples there were.

    Adding neither waits for the device nor calls a logger, so that the cost a task and step is microseconds.

    Args:
        tasks: All tasks, the same on every rank.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self._number = {task: number for number, task in enumerate(tasks)}
        self._sums = torch.zeros(len(tasks))
        self._counts: Counter[str] = Counter()
        self._samples = 0
        self._kept: list[Tensor] = []
        self._kept_tasks: list[str] = []

    def add(self, tasks: Sequence[str], losses: Tensor, samples: Sequence[int]) -> None:
        """Adds micro-batches.

        Args:
            tasks: The task of each of N micro-batches.
            losses: Their losses, ``(N,)``.
            samples: How many samples each has.
        """
        self._kept.append(losses.detach())
        self._kept_tasks += tasks
        self._samples += sum(samples)
        if len(self._kept) == _KEPT:
            self._add_up()

    def read(self, device: torch.device) -> tuple[dict[str, float], int]:
        """Reads off all ranks, and starts anew. Every rank must call it; waits for the device once.

        Args:
            device: Where the losses are.

        Returns:
            The mean loss of every task that any rank had, and the number of samples on all ranks.
        """
        self._add_up()
        counts = torch.tensor([*(self._counts[task] for task in self._number), self._samples], device=device)
        totals = torch.cat([self._sums.to(device), counts])
        if several_ranks():
            dist.all_reduce(totals)
        values = totals.tolist()
        self._clear()
        of_tasks = zip(self._number, values, values[len(self._number) :], strict=False)
        return {task: total / count for task, total, count in of_tasks if count}, round(values[-1])

    def state_dict(self) -> dict[str, Any]:
        """The sums since the last reading, of this rank."""
        self._add_up()
        sums = dict(zip(self._number, self._sums.cpu(), strict=True))
        return {"sums": sums, "counts": dict(self._counts), "samples": self._samples}

    def load_state_dicts(self, states: Iterable[dict[str, Any]]) -> None:
        """Goes on from the sums of the ranks whose part this one takes over; those of tasks that are gone are left."""
        self._clear()
        for state in states:
            for task, total in state["sums"].items():
                if task in self._number:
                    self._sums[self._number[task]] += total
            self._counts.update(state["counts"])
            self._samples += state["samples"]

    def _add_up(self) -> None:
        if not self._kept:
            return
        losses = torch.cat(self._kept).to(self._sums.dtype)  # float64 where Lightning trains in that
        numbers = torch.tensor(
            [self._number[task] for task in self._kept_tasks], dtype=torch.long, device=losses.device
        )
        self._sums = self._sums.to(losses.device).index_add(0, numbers, losses)
        self._counts.update(self._kept_tasks)
        self._kept, self._kept_tasks = [], []

    def _clear(self) -> None:
        self._sums, self._counts, self._samples = torch.zeros(len(self._number)), Counter(), 0
        self._kept, self._kept_tasks = [], []
