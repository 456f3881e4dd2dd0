"""What computes, the processes that read ahead of it, and the thread that writes behind it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Literal, Self, TypeVar

import torch
from torch.utils.data import DataLoader, Dataset

from umedpt_lightning.data.loading.worker import outlive_signals, prepare_worker, shut_down_with, shut_down_workers

T = TypeVar("T")
#: What torch says where a worker died, or has no memory left to hand over what it has read.
_SIGNS = ("DataLoader worker", "Bus error", "shared memory", "No space left")

#: So much may be left to write before what computes waits all the same: it is kept in memory.
_MOST_WAITING = 4


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

    Keys are taken as late as may be: a few for each worker ahead of what is asked for.

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


class BackgroundWriter:
    """Calls functions in another thread, one after the other; leaving the block waits for all of them.

    Whatever a function raises is raised by a later call, or at the end of the block. If the block is left by an
    exception, what has not begun is not done.
    """

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="write")
        self._waiting: deque[Future[Any]] = deque()

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> None:
        """Calls the function with the arguments, soon."""
        while self._waiting and (self._waiting[0].done() or len(self._waiting) >= _MOST_WAITING):
            self._waiting.popleft().result()
        self._waiting.append(self._thread.submit(function, *arguments))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._thread.shutdown(cancel_futures=error is not None)
        if error is None:
            for future in self._waiting:
                future.result()
