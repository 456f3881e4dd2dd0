"""What the worker pool says when it fails."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Iterator
from typing import Any

import cv2
import pytest
import torch

from umedpt_lightning.data.loading.loaders import WorkerPool
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.types import TaskBatch

BATCH = TaskBatch("t", torch.zeros(1, 1, 2, 2), torch.zeros(1), ["x"], [(2, 2)])


class Failing:
    """Gives a batch, then fails as the DataLoader does."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __iter__(self) -> Iterator[TaskBatch]:
        yield BATCH
        raise RuntimeError(self.message)


@pytest.mark.parametrize(
    "message",
    [
        "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that dataloader's workers are out of",
        "unable to allocate shared memory(shm) for file </torch_7_1>: No space left on device (28)",
        "unable to write to file </torch_7_1>: No space left on device (28)",
    ],
)
def test_too_little_shared_memory_is_told_with_its_mend(message: str) -> None:
    stream = WorkerPool(3, 5).stream(Failing(message))  # type: ignore[arg-type]
    assert next(stream) is BATCH
    with pytest.raises(
        RuntimeError, match=r"/dev/shm.*is full.*--shm-size.*num_workers is 3, data.prefetch 5"
    ) as raised:
        next(stream)
    assert message in str(raised.value.__cause__)


def test_other_failures_are_left_as_they_are() -> None:
    stream = WorkerPool(1).stream(Failing("Caught ValueError in DataLoader worker process 0."))  # type: ignore[arg-type]
    next(stream)
    with pytest.raises(RuntimeError, match=r"^Caught ValueError in DataLoader worker process 0\.$"):
        next(stream)


class Threads:
    """Says how many threads OpenCV has where it is read."""

    readers = ("t",)

    def __getitem__(self, key: Any) -> Any:
        return cv2.getNumThreads()


def test_workers_have_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umedpt_lightning.data.loading.loaders.collate_micro_batch", lambda items: items)
    assert list(WorkerPool(1).load(Threads(), [[SampleKey("t", 0, 0)] * 2])) == [[1, 1]]  # type: ignore[arg-type]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_workers_read_on_when_all_processes_are_told_to_stop(
    monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr("umedpt_lightning.data.loading.loaders.collate_micro_batch", lambda items: items)
    keys = [[SampleKey("t", 0, 0)]] * 20
    stream = iter(WorkerPool(1, prefetch=1).load(Threads(), keys))  # type: ignore[arg-type]
    next(stream)
    (worker,) = multiprocessing.active_children()
    os.kill(worker.pid or 0, number)
    assert len(list(stream)) == 19
