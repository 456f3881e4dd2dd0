"""Samples to a micro-batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from umedpt_lightning.types import BatchTargets, BoxArrays, Boxes, Sample, TaskBatch


def collate(task: str, samples: Sequence[Sample]) -> TaskBatch:
    """Stacks samples of one task.

    Args:
        task: The task's name.
        samples: At least one, with images ``(H, W, C)`` of one shape and dtype and targets of one kind.

    Returns:
        Images ``(B, C, H, W)`` in the dtype they were stored in; targets ``(B,)`` int64, ``(B, L)`` float32,
        ``(B, H, W)`` in the masks' dtype, or a list of `Boxes`.

    Raises:
        ValueError: There are no samples, or images or targets differ in shape or dtype.
    """
    if not samples:
        raise ValueError(f"Task {task!r}: a batch needs at least one sample, but there is none.")
    images = _stack(task, samples, [sample.image.transpose(2, 0, 1) for sample in samples], "images (C, H, W)")
    return TaskBatch(
        task,
        images,
        _targets(task, samples),
        [sample.name for sample in samples],
        [sample.stored_size for sample in samples],
    )


def _targets(task: str, samples: Sequence[Sample]) -> BatchTargets:
    targets = [sample.target for sample in samples]
    boxes = [target for target in targets if isinstance(target, BoxArrays)]
    arrays = [target for target in targets if isinstance(target, np.ndarray) and target.ndim in (1, 2)]
    indices = [target for target in targets if isinstance(target, int | np.integer)]
    if len(boxes) == len(targets):
        return [
            Boxes(
                torch.from_numpy(np.ascontiguousarray(b.boxes, np.float32)),
                torch.from_numpy(np.ascontiguousarray(b.labels, np.int64)),
            )
            for b in boxes
        ]
    if len(arrays) == len(targets):
        if arrays[0].ndim == 1:
            arrays = [array.astype(np.float32, copy=False) for array in arrays]
        return _stack(task, samples, arrays, "targets")
    if len(indices) == len(targets):
        return torch.tensor(indices, dtype=torch.int64)
    kinds = sorted({type(target).__name__ for target in targets})
    raise ValueError(
        f"Task {task!r}: the targets of a batch are of one kind (class indices, vectors, masks or boxes), but these "
        f"are {kinds}. Correct the reader."
    )


def _stack(task: str, samples: Sequence[Sample], arrays: Sequence[NDArray[Any]], what: str) -> torch.Tensor:
    first = arrays[0]
    for sample, array in zip(samples, arrays, strict=True):
        if array.shape != first.shape or array.dtype != first.dtype:
            raise ValueError(
                f"Task {task!r}: the {what} of a batch must have one size and dtype, but that of {samples[0].name} is "
                f"{first.shape} {first.dtype} and that of {sample.name} {array.shape} {array.dtype}. Give the task's "
                "transform a `size: [H, W]`, or use batches of one."
            )
    # the layout is given, since np.stack would keep that of the transposed views
    result = np.empty((len(arrays), *first.shape), first.dtype)
    return torch.from_numpy(np.stack(arrays, out=result))
