"""What computes, and the processes that read ahead of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from umedpt_lightning.data.loading.worker import outlive_signals, prepare_worker, shut_down_with, shut_down_workers

T = TypeVar("T")
#: What torch says where a worker died, or has no memory left to hand over what it has read.
_SIGNS = ("DataLoader worker", "Bus error", "shared memory", "No space left")


@dataclass(frozen=True)
class ComputeOptions:
    """What computes, and how much at a time.

    Attributes:
        device: As torch names it: ``cpu``, ``cuda``, ``cuda:1``.
        precision: ``bf16`` computes the encoder in bfloat16 where torch holds that safe.
        batch_size: Images at a time.
        num_workers: Processes that read images; 0 reads in the main process.
    """

    device: str = "cpu"
    precision: Literal["32", "bf16"] = "32"
    batch_size: int = 32
    num_workers: int = 0

    def autocast(self) -> AbstractContextManager[Any]:
        """Where the network computes."""
        half = self.precision == "bf16"
        return torch.autocast(torch.device(self.device).type, torch.bfloat16) if half else nullcontext()

    @contextmanager
    def enough_memory(self) -> Iterator[None]:
        """Tells what helps where the device has too little.

        Raises:
            MemoryError: It has.
        """
        try:
            yield
        except torch.OutOfMemoryError as error:
            raise MemoryError(
                f"{self.device} has no room for {self.batch_size} images at a time. What was done is kept: give a "
                "smaller --batch_size, and the same command again."
            ) from error


def read_ahead(dataset: Dataset[T], keys: Iterable[Any], options: ComputeOptions) -> Iterator[T]:
    """What a dataset gives for each key, in their order, read by workers that end with the iterator.

    Args:
        dataset: Gives a batch for a key.
        keys: Are taken as late as may be: a few for each worker ahead of what is asked for.
        options: How many workers, and for which device.

    Raises:
        ChildProcessError: A worker died.
    """
    loader = DataLoader(
        dataset,
        batch_size=None,
        collate_fn=_as_it_is,
        sampler=keys,
        num_workers=options.num_workers,
        pin_memory=options.device.startswith("cuda"),
        worker_init_fn=_prepare,
        generator=torch.Generator(),  # the seed that it draws for its workers must not move anybody's random numbers
    )
    batches = iter(loader)
    stream = _read(batches)
    shut_down_with(stream, batches)
    return stream


def _read(batches: Iterator[T]) -> Iterator[T]:
    try:
        yield from batches
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS):
            raise
        raise ChildProcessError(
            f"A process that reads images died ({error}). What was done is kept. Memory, or that in /dev/shm, may have "
            "run out: give fewer --num_workers or a smaller --batch_size, and the same command again."
        ) from error
    finally:
        shut_down_workers(batches)


def _as_it_is(batch: T) -> T:
    return batch


def _prepare(number: int) -> None:
    outlive_signals()
    prepare_worker()
