"""The GPU where there is one, else the CPU: what both are asked in the same way."""

from __future__ import annotations

import gc
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import lightning.pytorch as pl
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode

from umedpt_lightning.training.profiling.saved_bytes import SavedBytes

#: Operators that read from the device what the program then goes by.
_WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "is_nonzero", "equal", "_unique2", "unique_dim"}


def has_gpu() -> bool:
    return torch.cuda.is_available()


def device() -> torch.device:
    return torch.device("cuda" if has_gpu() else "cpu")


def synchronise() -> None:
    """Waits until all that was asked of the device is done."""
    if has_gpu():
        torch.cuda.synchronize()


def seconds(function: Callable[[], object], runs: int = 1) -> float:
    """Of one of several calls by the clock, until the device is done; one before them warms up."""
    function()
    synchronise()
    start = time.perf_counter()
    for _ in range(runs):
        function()
    synchronise()
    return (time.perf_counter() - start) / runs


def ratio(mine: Callable[[], object], theirs: Callable[[], object], runs: int) -> float:
    """Median of the first side's time over the second's, in turn."""
    return statistics.median(seconds(mine) / seconds(theirs) for _ in range(runs))


def peak_bytes(function: Callable[[], object], module: nn.Module) -> int:
    """The most memory of the GPU at any time of a call; on a CPU what autograd keeps."""
    gc.collect()  # a Trainer and its module hold each other
    if has_gpu():
        torch.cuda.reset_peak_memory_stats()
        function()
        return torch.cuda.max_memory_allocated()
    with SavedBytes() as saved:
        function()
    return saved.peak


class Waits(TorchDispatchMode):
    """Counts how often the program waits for the device.

    On a CPU the operators are counted that would make it wait for a GPU, but not what only reads numbers, as `tolist`.

    Attributes:
        count: So many times.
    """

    def __init__(self) -> None:
        super().__init__()
        self.count = 0
        self._caught: Any = warnings.catch_warnings(record=True)

    def __enter__(self) -> Waits:
        if has_gpu():
            self._messages = self._caught.__enter__()
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
        else:
            super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        if has_gpu():
            torch.cuda.set_sync_debug_mode("default")
            self.count = sum("synchronizing" in str(one.message) for one in self._messages)
            self._caught.__exit__(*error)
        else:
            super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        by_mask = func._opname in ("index", "index_put", "index_put_") and any(
            one is not None and one.dtype == torch.bool for one in args[1]
        )
        self.count += func._opname in _WAITING or by_mask
        return func(*args, **(kwargs or {}))


@contextmanager
def busy_share(found: list[float]) -> Iterator[None]:
    """Adds the share of time in which the device computes to a list."""
    synchronise()
    start = time.perf_counter()
    with profile(activities=[ProfilerActivity.CUDA if has_gpu() else ProfilerActivity.CPU]) as profiler:
        yield
        synchronise()
        took = time.perf_counter() - start
    name = "self_device_time_total" if has_gpu() else "self_cpu_time_total"
    found.append(min(1.0, sum(getattr(event, name) for event in profiler.key_averages()) * 1e-6 / took))


class Watch(pl.Callback):
    """Measures a training after its first rounds.

    Args:
        warm_up: So many rounds before.
        context: What is open around those after them.

    Attributes:
        seconds: A round.
    """

    def __init__(self, warm_up: int, context: Any = None) -> None:
        self.warm_up, self.context, self.seconds = warm_up, context, 0.0
        self._start, self._done = 0.0, 0

    def on_train_batch_end(self, *_: Any) -> None:
        self._done += 1
        if self._done == self.warm_up:
            synchronise()
            if self.context is not None:
                self.context.__enter__()
            self._start = time.perf_counter()

    def on_train_end(self, *_: Any) -> None:
        synchronise()
        self.seconds = (time.perf_counter() - self._start) / (self._done - self.warm_up)
        if self.context is not None:
            self.context.__exit__(None, None, None)
