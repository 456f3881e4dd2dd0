"""An allocation that failed, told with the micro-batch that it was for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import lightning.pytorch as pl
import torch

from umedpt_lightning.types import TaskBatch

#: What torch's allocators on the CPU say; that of a GPU has a class of its own.
_CPU_ALLOCATOR = ("can't allocate memory", "not enough memory")


@contextmanager
def explained_memory(batches: Sequence[TaskBatch], trainer: pl.Trainer) -> Iterator[None]:
    """As `explain_memory`, for what is computed inside."""
    try:
        yield
    except RuntimeError as error:
        explain_memory(error, batches, trainer)
        raise


def explain_memory(error: RuntimeError, batches: Sequence[TaskBatch], trainer: pl.Trainer) -> None:
    """Names task, size and mends if an error says that memory ran out; else it does nothing.

    Args:
        error: What was raised.
        batches: What was computed, together.
        trainer: Knows the precision.

    Raises:
        MemoryError: Memory ran out.
    """
    ran_out = isinstance(error, torch.OutOfMemoryError) or any(sign in str(error) for sign in _CPU_ALLOCATOR)
    if not ran_out:
        return
    each = [
        f"{b.images.shape[0]} images of {'x'.join(map(str, b.images.shape[1:]))} "
        f"{str(b.images.dtype).removeprefix('torch.')}"
        for b in batches
    ]
    tasks = ", ".join(repr(b.task) for b in batches)
    raise MemoryError(
        f"Task {tasks}: memory ran out with {' and '.join(each)} at precision {trainer.precision}. Lower "
        f"data.tasks.{batches[0].task}.batch_size (with micro_batches raised by the same factor a step sees as "
        "many images), its size, or model.pack_pixels; set trainer.precision to bf16-mixed, or "
        "model.encoder.init_args.checkpointing to true."
    ) from error
