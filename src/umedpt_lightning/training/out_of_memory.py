"""An allocation that failed, told with the micro-batch that it was for."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from umedpt_lightning.types import TaskBatch

#: What torch's allocators on the CPU say; that of a GPU has a class of its own.
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


@contextmanager
def explained_memory(batch: TaskBatch, precision: str) -> Iterator[None]:
    """Names task, size and mends where memory runs out inside.

    Args:
        batch: What is computed inside.
        precision: The trainer's.

    Raises:
        MemoryError: Memory ran out.
    """
    try:
        yield
    except RuntimeError as error:
        ran_out = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _CPU_ALLOCATOR)
        if not ran_out:
            raise
        count, channels, height, width = batch.images.shape
        raise MemoryError(
            f"Task {batch.task!r}: memory ran out with a micro-batch of {count} images of {channels}x{height}x{width} "
            f"{str(batch.images.dtype).removeprefix('torch.')} at precision {precision}. Lower "
            f"data.tasks.{batch.task}.batch_size (with micro_batches raised by the same factor a step sees as many "
            "images) or its size, set trainer.precision to bf16-mixed, or checkpoint the encoder's activations."
        ) from error
