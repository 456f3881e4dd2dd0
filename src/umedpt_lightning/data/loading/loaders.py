"""What Lightning iterates over: lazy rounds in training, micro-batches in evaluation."""

from __future__ import annotations

import copy
import itertools
import shutil
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader

from umedpt_lightning.data.loading.dataset import MultiTaskDataset, collate_micro_batch
from umedpt_lightning.data.loading.sampling import EvaluationSampler, RoundSampler
from umedpt_lightning.data.loading.worker import (
    WorkersShutdown,
    how_ended,
    outlive_signals,
    prepare_worker,
    shut_down_with,
    shut_down_workers,
)
from umedpt_lightning.data.loading.worker_monitor import WorkerMonitor
from umedpt_lightning.types import Round, TaskBatch

#: What torch says when shared memory runs out.
_NO_SHARED_MEMORY = (
    "Bus error",
    "unable to allocate shared memory",
    "unable to write to file </torch",
    "No space left",
)


@dataclass(frozen=True)
class WorkerPool:
    """How samples are read.

    Attributes:
        workers: Processes for all tasks together; 0 reads in the main process.
        prefetch: Micro-batches each worker prepares ahead.
        pin_memory: Whether batches go through page-locked memory, for a quicker way to a GPU.
        timeout: Seconds without a micro-batch after which workers are taken to hang; 0 for never.
    """

    workers: int = 0
    prefetch: int = 2
    pin_memory: bool = False
    timeout: float = 0
    _monitor: WorkerMonitor = field(default_factory=WorkerMonitor, init=False, repr=False)
    _ends: list[WorkersShutdown] = field(default_factory=list, init=False, repr=False)

    def load(self, dataset: MultiTaskDataset, sampler: Any) -> DataLoader[TaskBatch]:
        """A loader of the micro-batches that `sampler` names."""
        return DataLoader(
            self._monitor.monitored(dataset, self.workers) if self.workers else dataset,  # type: ignore[arg-type]  # gives batches
            batch_sampler=sampler,
            collate_fn=collate_micro_batch,
            num_workers=self.workers,
            prefetch_factor=self.prefetch if self.workers else None,
            pin_memory=self.pin_memory,
            timeout=self.timeout if self.workers else 0,
            worker_init_fn=_prepare_worker,
            # its own generator: the seed a loader draws for its workers must not move the model's random numbers
            generator=torch.Generator(),
        )

    def stream(self, loader: DataLoader[TaskBatch]) -> Iterator[TaskBatch]:
        """The micro-batches of a loader, whose workers start now.

        Reading them raises RuntimeError where a worker died or hangs, with the sample that it was reading, or where
        there is no memory left to hand over batches in.
        """
        with self._explained():
            batches = iter(loader)
            self._monitor.started(batches)
        stream = self._read(batches)
        self._ends[:] = [*(end for end in self._ends if end.alive), shut_down_with(stream, batches)]
        return stream

    def close(self) -> None:
        """Ends all workers; what is being read with them cannot be read on."""
        for end in self._ends:
            end()

    def _read(self, batches: Iterator[TaskBatch]) -> Iterator[TaskBatch]:
        try:
            with self._explained():
                yield from batches
        finally:
            shut_down_workers(batches)  # the error that ends a run may be kept, and with it all that it went through

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except (RuntimeError, OSError, EOFError) as error:
            explanation = self.explain(error)
            if not explanation:
                raise
            raise RuntimeError(explanation) from error

    def explain(self, error: BaseException) -> str:
        """What a failure of the DataLoader means and what mends it; empty for other errors."""
        # a worker is killed by a bus error where pages promised are not there, or is told that there are none
        if any(sign in str(error) for sign in _NO_SHARED_MEMORY):
            return (
                f"The workers hand over batches in shared memory (/dev/shm), which is full{_shared_memory()}. Give "
                f"more of it (docker run --shm-size=8g, or --ipc=host), use less (data.num_workers is {self.workers}, "
                f"data.prefetch {self.prefetch}; `cache: ram` takes of it too), or read in the main process with "
                "data.num_workers=0."
            )
        # a worker hands over its batches itself: if it dies at that, a connection breaks
        if self.workers and (isinstance(error, OSError | EOFError) or "DataLoader worker (pid" in str(error)):
            deaths = self._monitor.deaths()
            mend = "`umedpt data check` finds all samples that do this: leave them out, or correct the reader."
            if any(code == -signal.SIGKILL for _, code in deaths):
                mend = "Memory may have run out: lower data.num_workers or data.prefetch."
            ends = [f"The worker that was reading {what} ended {how_ended(code)}." for what, code in deaths]
            return " ".join([*ends, mend]) if ends else ""
        if "DataLoader timed out" in str(error):
            return (
                f"No micro-batch came for {self.timeout} s (data.timeout); the workers are reading "
                f"{', '.join(self._monitor.reading().values())}. See whether that disk answers, or raise the limit."
            )
        return ""


def _prepare_worker(number: int) -> None:
    outlive_signals()
    prepare_worker()


def _shared_memory() -> str:
    try:
        usage = shutil.disk_usage("/dev/shm")
    except OSError:
        return ""
    return f": {usage.free >> 20} of {usage.total >> 20} MiB are free"


class RoundLoader:
    """Rounds for one epoch after the other; its state is the sampler's counters.

    The workers read on over the end of an epoch. Lightning resumes a loader on the right batch only if it has a
    length, a `state_dict` and a `load_state_dict`. With `again` every epoch has the same rounds, those of the first.
    """

    def __init__(
        self, dataset: MultiTaskDataset, sampler: RoundSampler, pool: WorkerPool, rounds: int, again: bool = False
    ) -> None:
        self.dataset, self.sampler, self.pool, self.rounds, self.again = dataset, sampler, pool, rounds, again
        self._stream: Iterator[TaskBatch] | None = None

    def __len__(self) -> int:
        return self.rounds

    def __iter__(self) -> Iterator[Round]:
        if self.again and self.sampler.rounds % self.rounds == 0:  # else in mid-epoch, from a checkpoint
            self.sampler.rounds, self.sampler.consumed = 0, dict.fromkeys(self.sampler.consumed, 0)
            self._stream = None
        for _ in range(self.rounds):
            if self._stream is None:  # at the start, and where what was read ahead is no longer wanted
                self._stream = self.pool.stream(self.pool.load(self.dataset, self.sampler))
            before = copy.copy(self.sampler)
            before.consumed = dict(before.consumed)
            # counted when it is handed out: a checkpoint is written after the step that used it
            plan = self.sampler.advance()
            yield Round(plan, self._stream, partial(self._read_again, before, len(plan.mine)))

    def follow(self, losses: Mapping[str, float]) -> None:
        """Lets the schedule follow the losses of a validation; if it changes, the workers start anew."""
        if self.sampler.schedule.follow(losses, self.sampler.rounds):
            self.close()

    def close(self) -> None:
        """Ends the workers; what is read after that is read by new ones, which go on where the state says."""
        self._stream = None
        self.pool.close()

    def _read_again(self, sampler: RoundSampler, count: int) -> Iterator[TaskBatch]:
        """The micro-batches of the next round of `sampler`, in this process: they are the same in any."""
        for keys in itertools.islice(sampler, count):
            yield collate_micro_batch([self.dataset[key] for key in keys])

    def state_dict(self) -> dict[str, Any]:
        """The rounds handed out, the samples each task has consumed, over all ranks, and what the ranks go by."""
        sampler = self.sampler
        state: dict[str, Any] = {"rounds": sampler.rounds, "consumed": dict(sampler.consumed)}
        state["costs"] = dict(sampler.costs)
        return state | ({"schedule": followed} if (followed := sampler.schedule.state_dict()) else {})

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state` was taken; a task that is new since starts at its beginning."""
        self.sampler.rounds = state["rounds"]
        for ours, theirs in ((self.sampler.consumed, state["consumed"]), (self.sampler.costs, state["costs"])):
            ours.update({task: value for task, value in theirs.items() if task in self.sampler.tasks})
        self.sampler.schedule.load_state_dict(state.get("schedule", {}))  # not in those of the first releases
        self._stream = None

    @property
    def wants_costs(self) -> bool:
        """Whether the ranks share out tasks, and do not know yet how long each takes."""
        several = self.sampler.distribute == "tasks" and self.sampler.world_size > 1
        return several and self.sampler.costs.keys() != self.sampler.tasks.keys()

    def set_costs(self, costs: dict[str, float]) -> None:
        """Takes the seconds that a micro-batch of each task takes, the same on all ranks."""
        self.sampler.costs = costs

    def examples(self) -> Iterator[TaskBatch]:
        """A micro-batch of each task, as training will begin with; the same on all ranks."""
        for task, samples in self.sampler.tasks.items():
            first = self.sampler.consumed[task]
            yield collate_micro_batch([self.dataset[samples.stream[first + i]] for i in range(samples.batch_size)])


class EvaluationLoader:
    """Every sample of a part once, as micro-batches.

    Not a DataLoader itself, so that Lightning does not put a distributed sampler into it: the ranks already share the
    samples out, none twice.

    Attributes:
        tasks: The tasks that have data in this part.
    """

    def __init__(self, dataset: MultiTaskDataset, sampler: EvaluationSampler, pool: WorkerPool) -> None:
        self.tasks = list(dataset.readers)
        self._pool, self._loader = pool, pool.load(dataset, sampler)

    def __len__(self) -> int:
        return len(self._loader)

    def __iter__(self) -> Iterator[TaskBatch]:
        return self._pool.stream(self._loader)
