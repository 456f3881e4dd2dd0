"""What the worker pool says when it fails, and what the rounds' loader hands out and remembers."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import cv2
import pytest
import torch
from builders import MemoryReader

from umedpt_lightning.data.datamodule import _warn_of_idle_ranks
from umedpt_lightning.data.loading.dataset import MultiTaskDataset
from umedpt_lightning.data.loading.loaders import RoundLoader, WorkerPool
from umedpt_lightning.data.loading.sampling import RoundSampler, SampleKey, TaskSamples, TaskStream
from umedpt_lightning.data.loading.schedule import RoundRobin, TaskSize
from umedpt_lightning.data.transforms import Transform
from umedpt_lightning.types import MicroBatchId, TaskBatch

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

    def ahead(self, keys: Any) -> None: ...

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
    others = set(multiprocessing.active_children())
    stream = iter(WorkerPool(1, prefetch=1).load(Threads(), keys))  # type: ignore[arg-type]
    next(stream)
    (worker,) = set(multiprocessing.active_children()) - others
    os.kill(worker.pid or 0, number)
    assert len(list(stream)) == 19


def test_workers_end_when_the_garbage_collector_finds_what_they_read_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("umedpt_lightning.data.loading.loaders.collate_micro_batch", lambda items: items)
    others = set(multiprocessing.active_children())
    pool = WorkerPool(2)
    cycle: dict[str, Any] = {"stream": pool.stream(pool.load(Threads(), [[SampleKey("t", 0, 0)]] * 20))}  # type: ignore[arg-type]
    cycle["cycle"] = cycle
    next(cycle["stream"])
    assert len(set(multiprocessing.active_children()) - others) == 2
    del cycle
    gc.collect()
    # torch's own way leaves them alive, after ten seconds for each
    assert set(multiprocessing.active_children()) <= others


# --- rounds ---------------------------------------------------------------------------------------------------------


def loader_of(tasks: Sequence[str], **ranks: Any) -> RoundLoader:
    shares = {task: TaskSamples(TaskStream(task, 5, 0), 2) for task in tasks}
    schedule = RoundRobin({task: TaskSize(5) for task in tasks})
    readers = {task: MemoryReader("class", size=5) for task in tasks}
    dataset = MultiTaskDataset(readers, dict.fromkeys(tasks, Transform()))
    return RoundLoader(dataset, RoundSampler(shares, schedule, **ranks), WorkerPool(), 3)


def test_a_task_that_is_new_starts_at_its_beginning_and_one_that_is_gone_is_forgotten() -> None:
    loader = loader_of("ab")
    loader.load_state_dict({"rounds": 9, "consumed": {"a": 18, "gone": 4}, "costs": {"gone": 1.0}})
    assert loader.state_dict() == {"rounds": 9, "consumed": {"a": 18, "b": 0}, "costs": {}}


def test_a_round_has_the_micro_batches_of_its_plan() -> None:
    rounds = [(round_.plan.mine, [batch.task for batch in round_]) for round_ in loader_of("ab")]
    assert rounds == [([MicroBatchId("a", 0), MicroBatchId("b", 0)], ["a", "b"])] * 3


@pytest.mark.parametrize("workers", [0, 1])
def test_reading_draws_no_random_number_of_the_models(workers: int) -> None:
    loader = loader_of("ab")
    loader.pool = WorkerPool(workers)
    before = torch.get_rng_state()
    assert [batch.task for round_ in loader for batch in round_] == ["a", "b"] * 3
    loader.close()
    assert torch.equal(torch.get_rng_state(), before)


def test_costs_are_wanted_only_where_several_ranks_share_out_tasks_and_do_not_know_them() -> None:
    shared = {"world_size": 2, "distribute": "tasks"}
    assert not loader_of("ab").wants_costs
    assert not loader_of("ab", world_size=2).wants_costs
    assert not loader_of("ab", distribute="tasks").wants_costs
    loader = loader_of("ab", **shared)
    assert loader.wants_costs
    loader.load_state_dict({"rounds": 1, "consumed": {"a": 2}, "costs": {"a": 1.0}})
    assert loader.wants_costs, "of b nothing is known"
    loader.set_costs({"a": 1.0, "b": 2.0})
    assert not loader.wants_costs
    resumed = loader_of("ab", **shared)
    resumed.load_state_dict(loader.state_dict())
    assert not resumed.wants_costs


def test_examples_are_the_samples_that_come_next_on_every_rank() -> None:
    found = []
    for rank in range(2):
        loader = loader_of("ab", rank=rank, world_size=2, distribute="tasks")
        loader.load_state_dict({"rounds": 2, "consumed": {"a": 4, "b": 4}, "costs": {}})
        found.append([(batch.task, batch.names) for batch in loader.examples()])
        assert loader.state_dict()["consumed"] == {"a": 4, "b": 4}
    expected = [(t, [f"sample {TaskStream(t, 5, 0)[i].item}" for i in (4, 5)]) for t in "ab"]
    assert found == [expected, expected]


def test_ranks_without_anything_to_do_are_told() -> None:
    with pytest.warns(UserWarning, match=r"data\.distribute is tasks.*only 2 micro-batches for 3 ranks.*micro_batches"):
        _warn_of_idle_ranks(loader_of("ab", world_size=3, distribute="tasks").sampler)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _warn_of_idle_ranks(loader_of("ab", world_size=2, distribute="tasks").sampler)
        _warn_of_idle_ranks(loader_of("ab", world_size=3).sampler)
