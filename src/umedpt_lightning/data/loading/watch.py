"""Which sample every worker is at, in memory that outlives the worker."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import re
from collections.abc import Sequence

from torch.utils.data import Dataset, get_worker_info

from umedpt_lightning.data.loading.dataset import Item, MultiTaskDataset
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers.base import Reader

_IDLE = -1


class _Line(ctypes.Structure):
    """What is known of a worker: its process, and the task and sample that it reads."""

    _fields_ = (("process", ctypes.c_int64), ("task", ctypes.c_int64), ("item", ctypes.c_int64))
    process: int
    task: int
    item: int


class WatchedDataset(Dataset[Item]):
    """A data set that writes down what a worker reads, for a fraction of a microsecond a sample.

    Args:
        dataset: Reads the samples.
        workers: Number of workers.
    """

    def __init__(self, dataset: MultiTaskDataset, workers: int) -> None:
        self.dataset = dataset
        self._numbers = {task: number for number, task in enumerate(dataset.readers)}
        # without a lock: each worker has a line of its own, which nobody reads while it lives
        self._lines = multiprocessing.RawArray(_Line, [_Line(0, _IDLE, _IDLE)] * workers)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Item]:
        """The samples of a micro-batch; the DataLoader asks for them so where a data set can do that."""
        worker = get_worker_info()
        if worker is None:
            return [self.dataset[key] for key in keys]
        line = self._lines[worker.id]
        line.process = os.getpid()
        items = []
        for key in keys:
            line.task, line.item = self._numbers[key.task], key.item
            items.append(self.dataset[key])
        line.task = _IDLE
        return items

    def died(self, error: BaseException) -> list[str]:
        """What the workers were reading whose death the DataLoader reports in `error`."""
        named = re.search(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\)", str(error))
        dead = {int(process) for process in named[1].split(",")} if named else set()
        return [self._reading(line) for line in self._lines if line.process in dead]

    def busy(self) -> list[str]:
        """What the workers are reading now, likewise."""
        return [self._reading(line) for line in self._lines if line.process and line.task != _IDLE]

    def _reading(self, line: _Line) -> str:
        if line.task == _IDLE:
            return "no sample"
        task = list(self._numbers)[line.task]
        reader = self.dataset.readers[task]
        # not to be asked of a reader that reads for it: what killed a worker would kill this process
        name = (
            f"{reader.name(line.item)} (sample {line.item})"
            if _names_without_reading(reader)
            else f"sample {line.item}"
        )
        return f"{name} of task {task!r}"


def _names_without_reading(reader: Reader) -> bool:
    while isinstance(whole := getattr(reader, "_reader", None), Reader):  # a part of it, or its cache
        reader = whole
    return type(reader).name is not Reader.name
