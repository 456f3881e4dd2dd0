"""How near training with the real loader comes to training on data that are in memory already."""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch

from benchmarks.jpegs import make_jpegs
from benchmarks.processes import cpu_of_workers, in_fresh_process
from umedpt_lightning.blocks import Encoder
from umedpt_lightning.data.datamodule import MultiTaskDataModule
from umedpt_lightning.data.readers import ClassFolders
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.model import MultiTaskModel
from umedpt_lightning.types import TaskBatch

TASKS, BATCH = 20, 8


def small(quick: bool = False) -> dict[str, float]:
    """Of a convolutional encoder that takes about 10 ms an image, forward and backward on one core."""
    return _both("small", "mobilenetv3_small_050", runs=2 if quick else 4, micro_batches=20 if quick else 30)


def swin(quick: bool = False) -> dict[str, float]:
    """Of Swin-T."""
    return _both("swin", "swin_tiny_patch4_window7_224", runs=1 if quick else 2, micro_batches=1 if quick else 3)


def _both(key: str, encoder: str, runs: int, micro_batches: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        make_jpegs(Path(folder), 320)
        by_cpu, by_clock, image = in_fresh_process(share, folder, encoder, runs, micro_batches)
    return {
        f"loader.encoder_bound_share_{key}": round(by_cpu, 4),
        f"loader.encoder_bound_share_{key}_clock": round(by_clock, 4),
        f"loader.encoder_bound_ms_an_image_{key}": round(image * 1e3, 1),
    }


def share(folder: str, encoder: str, runs: int, micro_batches: int) -> tuple[float, float, float]:
    """Throughput with the loader over throughput from memory, 20 tasks, micro-batches of 8, one worker.

    By CPU time, a micro-batch with the loader takes what the training process uses for it, or what the worker uses
    where that is more: as on a machine where each has a core of its own, whatever else runs on this one.

    Returns:
        By CPU time and by the clock, the median of interleaved runs, and the seconds that an image in memory takes.
    """
    torch.set_num_threads(1)
    tasks = {f"task{i}": TaskData(train=ClassFolders(folder), batch_size=BATCH, size=224) for i in range(TASKS)}
    data = MultiTaskDataModule(tasks, num_workers=1, steps_per_epoch=10**6)
    model = MultiTaskModel(Encoder(encoder), data.specs)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    stream = itertools.chain.from_iterable(data.train_dataloader())
    memory = list(itertools.islice(stream, TASKS))
    first = cpu_of_workers()
    received = 0
    seconds: dict[str, list[tuple[float, float]]] = {"memory": [], "loader": []}
    for run in range(runs + 1):
        sides: dict[str, Iterable[TaskBatch]] = {"memory": itertools.cycle(memory), "loader": stream}
        for side, batches in sides.items():
            took = _train(model, optimizer, itertools.islice(batches, micro_batches))
            received += micro_batches * (side == "loader")
            if run:  # the first warms up
                seconds[side].append(took)
    worker = (cpu_of_workers() - first) / received * micro_batches
    ratios = [
        (mine[0] / max(theirs[0], worker), mine[1] / theirs[1])
        for mine, theirs in zip(seconds["memory"], seconds["loader"], strict=True)
    ]
    by_cpu, by_clock = (statistics.median(column) for column in zip(*ratios, strict=True))
    image = statistics.median(took[0] for took in seconds["memory"]) / micro_batches / BATCH
    return by_cpu, by_clock, image


def _train(
    model: MultiTaskModel, optimizer: torch.optim.Optimizer, batches: Iterator[TaskBatch]
) -> tuple[float, float]:
    """Seconds of CPU time of this process, and by the clock, for a round of these micro-batches."""
    cpu, clock = time.process_time(), time.perf_counter()
    optimizer.zero_grad()
    for batch in batches:
        model.task(batch.task).loss(model(batch.images, batch.task), batch.targets).backward()
    optimizer.step()
    return time.process_time() - cpu, time.perf_counter() - clock
