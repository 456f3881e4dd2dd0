"""Counts samples that could not be read, for which others stood in."""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

import torch
import torch.distributed as dist

from umedpt_lightning.types import TaskBatch


class BadSamples:
    """How many samples of each task could not be read since the start of the run.

    Args:
        tasks: All tasks, the same on every rank.
    """

    def __init__(self, tasks: Collection[str]) -> None:
        self._tasks = list(tasks)
        self._counts: Counter[str] = Counter()
        self._told: set[str] = set()

    def add(self, batch: TaskBatch) -> None:
        """Counts those of a micro-batch, and warns of each file once: on any rank, since no other has read it."""
        self._counts[batch.task] += len(batch.bad_samples)
        for problem in batch.bad_samples:
            if problem not in self._told:
                self._told.add(problem)
                warnings.warn(f"Task {batch.task!r}: a sample is replaced by the next one. {problem}", stacklevel=2)

    def read(self, device: torch.device) -> dict[str, float]:
        """The counts of all ranks, of tasks that have any; every rank must call it."""
        counts = torch.tensor([self._counts[task] for task in self._tasks], device=device)
        if dist.is_available() and dist.is_initialized():
            dist.all_reduce(counts)
        return {task: float(count) for task, count in zip(self._tasks, counts.tolist(), strict=True) if count}

    def state_dict(self) -> dict[str, Any]:
        """The counts of this rank."""
        return {"counts": dict(self._counts)}

    def load_state_dicts(self, states: Iterable[dict[str, Any]]) -> None:
        """Goes on from the counts of the ranks whose part this one takes over."""
        self._counts = Counter()
        for state in states:
            self._counts.update(state["counts"])
