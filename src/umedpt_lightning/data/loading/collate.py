"""Samples to a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from umedpt_lightning.io.arrays import as_tensor
from umedpt_lightning.types import BatchTargets, BoxArrays, Boxes, PackedArray, Sample, TaskBatch, map_leaves


def collate(task: str, samples: Sequence[Sample]) -> TaskBatch:
    """Stacks at least one sample of one task, with images ``(H, W, C)`` of one shape and dtype.

    Returns:
        Images ``(B, C, H, W)`` in the dtype they were stored in. Targets are ``(B,)`` int64 for integers, ``(B,)``
        float32 for other numbers, ``(B, ...)`` for arrays of one shape and dtype, a list of `Boxes` for boxes, and for
        anything else a list of what it is, with tensors for arrays.

    Raises:
        ValueError: There are no samples, or images differ in shape or dtype.
    """
    if not samples:
        raise ValueError(f"Task {task!r}: a batch needs at least one sample, but there is none.")
    first = samples[0]
    for sample in samples:
        shape, dtype = sample.image.shape, sample.image.dtype
        if (shape, dtype) != (first.image.shape, first.image.dtype):
            raise ValueError(
                f"Task {task!r}: the images (H, W, C) of a batch must have one size and dtype, but that of "
                f"{first.name} is {first.image.shape} {first.image.dtype} and that of {sample.name} {shape} {dtype}. "
                "Give the task's transform a `size: [H, W]`, or use batches of one."
            )
    stored = None
    if any(sample.stored_target is not None for sample in samples):  # those that were not resized are as they are
        stored = [sample.stored_target or PackedArray.of(sample.target) for sample in samples]
    return TaskBatch(
        task,
        as_tensor([sample.image for sample in samples]),
        _targets([sample.target for sample in samples]),
        [sample.name for sample in samples],
        [sample.stored_size for sample in samples],
        stored_targets=stored,
    )


def _targets(targets: Sequence[Any]) -> BatchTargets:
    if all(isinstance(target, BoxArrays) for target in targets):
        return [Boxes(*(torch.from_numpy(np.ascontiguousarray(array)) for array in boxes)) for boxes in targets]
    if all(isinstance(target, int | np.integer) for target in targets):
        return torch.tensor(targets, dtype=torch.int64)
    if all(isinstance(target, int | float | np.number) for target in targets):
        return torch.tensor(targets, dtype=torch.float32)
    arrays = [target for target in targets if isinstance(target, np.ndarray)]
    if len(arrays) == len(targets) and len({(array.shape, array.dtype) for array in arrays}) == 1:
        return torch.from_numpy(np.stack(arrays))
    return [map_leaves(target, torch.from_numpy, np.ndarray) for target in targets]
