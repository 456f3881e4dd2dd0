"""Samples to a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from umedpt_lightning.types import (
    Bag,
    Bags,
    BatchTargets,
    BoxArrays,
    Boxes,
    PackedArray,
    Sample,
    TaskBatch,
    map_leaves,
)


def collate(task: str, samples: Sequence[Sample]) -> TaskBatch:
    """Stacks samples of one task.

    Args:
        task: The task's name.
        samples: At least one, with images ``(H, W, C)`` of one shape and dtype.

    Returns:
        Images ``(B, C, H, W)`` in the dtype they were stored in, those of bags as `Bags`. Targets are ``(B,)`` int64
        for integers, ``(B,)`` float32 for other numbers, ``(B, ...)`` for arrays of one shape and dtype, a list of
        `Boxes` for boxes, and for anything else a list of what it is, with tensors for arrays.

    Raises:
        ValueError: There are no samples, or images differ in shape or dtype.
    """
    if not samples:
        raise ValueError(f"Task {task!r}: a batch needs at least one sample, but there is none.")
    images: Tensor | Bags
    if isinstance(samples[0], Bag):
        bags = [sample.instances for sample in samples if isinstance(sample, Bag)]
        images = Bags(_stack(task, [instance for bag in bags for instance in bag]), [len(bag) for bag in bags])
    else:
        images = _stack(task, samples)
    return TaskBatch(
        task,
        images,
        _targets([sample.target for sample in samples]),
        [sample.name for sample in samples],
        [sample.stored_size for sample in samples],
        stored_targets=_stored_targets(samples),
    )


def _stored_targets(samples: Sequence[Sample]) -> list[PackedArray] | None:
    """Of all, if one was resized; those of others are as they are."""
    if all(sample.stored_target is None for sample in samples):
        return None
    return [sample.stored_target or PackedArray.of(sample.target) for sample in samples]


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


def _stack(task: str, samples: Sequence[Sample]) -> Tensor:
    arrays = [sample.image.transpose(2, 0, 1) for sample in samples]
    first = arrays[0]
    for sample, array in zip(samples, arrays, strict=True):
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"Task {task!r}: the images (C, H, W) of a batch must have one size and dtype, but that of "
                f"{samples[0].name} is {first.shape} {first.dtype} and that of {sample.name} {array.shape} "
                f"{array.dtype}. Give the task's transform a `size: [H, W]`, or use batches of one."
            )
    # the layout is given, since np.stack would keep that of the transposed views
    result = np.empty((len(arrays), *first.shape), first.dtype)
    return torch.from_numpy(np.stack(arrays, out=result))
