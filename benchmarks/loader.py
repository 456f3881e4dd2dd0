"""What one pool of workers for all tasks costs: with few tasks, with many, and against a loader a task."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import cpu, in_fresh_process, memory, workers
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.loading.loaders import WorkerPool
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.types import TaskBatch

BATCH = 8


class Cost(NamedTuple):
    """What a loader costs.

    Attributes:
        workers: Processes.
        memory: MiB (PSS) of all processes, less what this one used before.
        first_batch: Seconds of CPU time of all processes until the first micro-batch is there.
        first_batch_clock: The same by the clock.
        batch: Seconds of CPU time of all processes a micro-batch.
    """

    workers: float
    memory: float
    first_batch: float
    first_batch_clock: float
    batch: float


def many_tasks(quick: bool = False) -> dict[str, float]:
    """64 tasks against 2, both with two workers."""
    many, few = _interleaved([("pool", 64), ("pool", 2)], quick)
    return {
        "loader.workers_64_over_2_tasks": round(many.workers / few.workers, 3),
        "loader.memory_64_over_2_tasks": round(many.memory / few.memory, 3),
        "loader.first_batch_64_over_2_tasks": round(many.first_batch / few.first_batch, 3),
        "loader.first_batch_64_over_2_tasks_clock": round(many.first_batch_clock / few.first_batch_clock, 3),
    }


def loader_a_task(quick: bool = False) -> dict[str, float]:
    """One pool of two workers for 20 tasks against 20 loaders of one worker."""
    pool, each = _interleaved([("pool", 20), ("each", 20)], quick)
    return {
        "loader.memory_pool_over_loader_a_task": round(pool.memory / each.memory, 3),
        "loader.first_batch_pool_over_loader_a_task": round(pool.first_batch / each.first_batch, 3),
        "loader.first_batch_pool_over_loader_a_task_clock": round(pool.first_batch_clock / each.first_batch_clock, 3),
        "loader.throughput_pool_over_loader_a_task": round(each.batch / pool.batch, 3),
    }


def _interleaved(sides: list[tuple[str, int]], quick: bool) -> list[Cost]:
    """The medians of each side."""
    runs, batches = (1, 64) if quick else (3, 640)
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 320)
        found = [[in_fresh_process(measure, folder, *side, batches) for side in sides] for _ in range(runs)]
    columns = zip(*found, strict=True)
    return [Cost(*(statistics.median(values) for values in zip(*costs, strict=True))) for costs in columns]


def measure(folder: str, kind: str, tasks: int, batches: int) -> Cost:
    """What a loader costs that reads so many micro-batches of 8 JPEGs of 224 pixels."""
    torch.set_num_threads(1)
    data = {f"task{i}": TaskData(train=ClassFolders(folder), batch_size=BATCH, size=224) for i in range(tasks)}
    modules = [MultiTaskDataModule(data)] if kind == "pool" else [MultiTaskDataModule({k: v}) for k, v in data.items()]
    # the first process starts helpers of its own with the first worker; they belong to no loader
    _warm_up(modules[0])
    before, started, clock = memory(), cpu(), time.perf_counter()
    stream = _all(modules, 2 if kind == "pool" else 1)
    next(stream)
    first, first_clock = cpu() - started, time.perf_counter() - clock
    for _ in itertools.islice(stream, 2 * tasks):  # everything has been used once
        pass
    since = cpu()
    for _ in itertools.islice(stream, batches):
        pass
    batch = (cpu() - since) / batches
    return Cost(len(workers()), memory() - before, first, first_clock, batch)


def _all(modules: list[MultiTaskDataModule], workers_each: int) -> Iterator[TaskBatch]:
    loaders = []
    for module in modules:
        module.num_workers, module.steps_per_epoch = workers_each, 10**6
        # all workers start before the first batch is asked for, as Lightning's CombinedLoader does
        loaders.append(_started(module))
    while True:
        for loader in loaders:
            yield next(loader)


def _started(module: MultiTaskDataModule) -> Iterator[TaskBatch]:
    loader = module.train_dataloader()
    return loader.pool.stream(loader.pool.load(loader.dataset, loader.sampler))


def _warm_up(module: MultiTaskDataModule) -> None:
    loader = module.train_dataloader()
    next(iter(WorkerPool(0).load(loader.dataset, loader.sampler)))
