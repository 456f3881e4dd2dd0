"""What Lightning iterates over: lazy rounds in training, micro-batches in evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.data import DataLoader

from umedpt_lightning.data.dataset import MultiTaskDataset, collate_micro_batch
from umedpt_lightning.data.sampling import EvaluationSampler, RoundSampler
from umedpt_lightning.types import Round, TaskBatch


@dataclass(frozen=True)
class WorkerPool:
    """How samples are read.

    Attributes:
        workers: Processes for all tasks together; 0 reads in the main process.
        prefetch: Micro-batches each worker prepares ahead.
        pin_memory: Whether batches go through page-locked memory, for a quicker way to a GPU.
    """

    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = False

    def load(self, dataset: MultiTaskDataset, sampler: Any) -> DataLoader[TaskBatch]:
        """A loader of the micro-batches that `sampler` names."""
        return DataLoader(
            dataset,  # type: ignore[arg-type]  # samples go in, batches come out
            batch_sampler=sampler,
            collate_fn=collate_micro_batch,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            # its own generator: the seed a loader draws for its workers must not move the model's random numbers
            generator=torch.Generator(),
        )


class RoundLoader:
    """Rounds for one epoch after the other; its state is the sampler's counters.

    The workers read on over the end of an epoch. Lightning resumes a loader on the right batch only if it has a
    length, a `state_dict` and a `load_state_dict`.

    Args:
        dataset: The training data.
        sampler: Says what a round reads.
        pool: How it is read.
        rounds: Rounds in an epoch.
    """

    def __init__(self, dataset: MultiTaskDataset, sampler: RoundSampler, pool: WorkerPool, rounds: int) -> None:
        self.dataset, self.sampler, self.pool, self.rounds = dataset, sampler, pool, rounds
        self._stream: Iterator[TaskBatch] | None = None

    def __len__(self) -> int:
        return self.rounds

    def __iter__(self) -> Iterator[Round]:
        if self._stream is None:
            self._stream = iter(self.pool.load(self.dataset, self.sampler))
        for _ in range(self.rounds):
            # counted when it is handed out: a checkpoint is written after the step that used it
            self.sampler.advance()
            yield Round(self.sampler.tasks, self._stream)

    def state_dict(self) -> dict[str, Any]:
        """The samples each task has consumed, over all ranks."""
        return {"consumed": dict(self.sampler.consumed)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; a task that is new since starts at its beginning."""
        self.sampler.consumed |= {t: n for t, n in state["consumed"].items() if t in self.sampler.consumed}
        self._stream = None


class EvaluationLoader:
    """Every sample of a part once, as micro-batches.

    Not a DataLoader itself, so that Lightning does not put a distributed sampler into it: the ranks already share the
    samples out, none twice.

    Args:
        dataset: The data of the part.
        sampler: Names its micro-batches.
        pool: How they are read.

    Attributes:
        tasks: The tasks that have data in this part.
    """

    def __init__(self, dataset: MultiTaskDataset, sampler: EvaluationSampler, pool: WorkerPool) -> None:
        self.tasks = list(dataset.readers)
        self._loader = pool.load(dataset, sampler)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[TaskBatch]:
        return iter(self._loader)
