"""Micro-batches and models that need no files."""

from __future__ import annotations

import torch

from umedpt_lightning.types import ClassSpec, MaskSpec, MicroBatchId, Round, RoundPlan, TaskBatch, TaskRate, TaskSpec

CLASSES = ("a", "b", "c")


def specs_of(tasks: int, masks: bool = False) -> dict[str, TaskSpec]:
    """Classification tasks; every second one has masks where asked for."""
    return {
        f"task{i}": MaskSpec(channels=3, classes=CLASSES) if masks and i % 2 else ClassSpec(channels=3, classes=CLASSES)
        for i in range(tasks)
    }


def batches_of(specs: dict[str, TaskSpec], images: int, side: int) -> list[TaskBatch]:
    """A micro-batch of random images a task."""
    torch.manual_seed(0)
    batches = []
    for task, spec in specs.items():
        shape = (images, side, side) if isinstance(spec, MaskSpec) else (images,)
        pixels = torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8)
        names, sizes = [f"{task} {i}" for i in range(images)], [(side, side)] * images
        batches.append(TaskBatch(task, pixels, torch.randint(0, len(CLASSES), shape), names, sizes))
    return batches


def plan_of(batches: list[TaskBatch]) -> RoundPlan:
    """One micro-batch a task."""
    ids = [MicroBatchId(batch.task, 0) for batch in batches]
    tasks = [place.task for place in ids]
    return RoundPlan(dict.fromkeys(tasks, 1), ids, parts=1, rates=dict.fromkeys(tasks, TaskRate(1.0, 1)))


def round_of(batches: list[TaskBatch], plan: RoundPlan | None = None) -> Round:
    """A round of them, by default by `plan_of`."""
    return Round(plan or plan_of(batches), iter(batches), lambda: iter(batches))
