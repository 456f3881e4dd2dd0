"""Which sample every worker is at, in memory that outlives the worker."""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import time
from collections.abc import Sequence
from multiprocessing.process import BaseProcess

from torch.utils.data import Dataset, get_worker_info

from umedpt_lightning.data.loading.dataset import Item, MultiTaskDataset
from umedpt_lightning.data.loading.sampling import SampleKey
from umedpt_lightning.data.readers.base import Reader

_IDLE = -1
_UNTIL_THE_EXIT_CODE = 2.0  # seconds


class _WorkerState(ctypes.Structure):
    """What is known of a worker: its process, and the task and sample that it reads."""

    _fields_ = (("process", ctypes.c_int64), ("task", ctypes.c_int64), ("item", ctypes.c_int64))
    process: int
    task: int
    item: int


class MonitoredDataset(Dataset[Item]):
    """A data set that writes down what a worker reads, for a fraction of a microsecond a sample."""

    def __init__(self, dataset: MultiTaskDataset, workers: int) -> None:
        self.dataset = dataset
        self._numbers = {task: number for number, task in enumerate(dataset.readers)}
        # without a lock: each worker has a state of its own, which nobody reads while it lives
        self._states = multiprocessing.RawArray(_WorkerState, [_WorkerState(0, _IDLE, _IDLE)] * workers)

    def __getitems__(self, keys: Sequence[SampleKey]) -> list[Item]:
        """The samples of a micro-batch; the DataLoader asks for them so where a data set can do that."""
        worker = get_worker_info()
        if worker is None:
            return self.dataset.__getitems__(keys)
        state = self._states[worker.id]
        state.process = os.getpid()
        items = []
        state.task, state.item = self._numbers[keys[0].task], keys[0].item
        self.dataset.ahead(keys)
        for key in keys:
            state.task, state.item = self._numbers[key.task], key.item
            items.append(self.dataset[key])
        state.task = _IDLE
        return items

    def reading(self) -> dict[int, str]:
        """What each process was reading last, by process number."""
        return {state.process: self._reading(state) for state in self._states if state.process}

    def _reading(self, state: _WorkerState) -> str:
        if state.task == _IDLE:
            return "no sample"
        task = list(self._numbers)[state.task]
        reader = self.dataset.readers[task]
        # not to be asked of a reader that reads for it: what killed a worker would kill this process
        name = (
            f"{reader.name(state.item)} (sample {state.item})"
            if _names_without_reading(reader)
            else f"sample {state.item}"
        )
        return f"{name} of task {task!r}"


def _names_without_reading(reader: Reader) -> bool:
    while isinstance(whole := getattr(reader, "_reader", None), Reader):  # a part of it, or its cache
        reader = whole
    return type(reader).name is not Reader.name


class WorkerMonitor:
    """Knows of all workers of this process what they read, and how they ended."""

    def __init__(self) -> None:
        self._datasets: list[MonitoredDataset] = []
        self._processes: dict[int, BaseProcess] = {}

    def monitored(self, dataset: MultiTaskDataset, workers: int) -> MonitoredDataset:
        """`dataset` for workers that are to be monitored."""
        self._datasets.append(MonitoredDataset(dataset, workers))
        return self._datasets[-1]

    def started(self, batches: object) -> None:
        """Takes note of the workers of a DataLoader's iterator."""
        workers: list[BaseProcess] = getattr(batches, "_workers", [])  # there is no public way to their exit codes
        living = {number: process for number, process in self._processes.items() if process.is_alive()}
        self._processes = living | {process.pid: process for process in workers if process.pid}

    def deaths(self) -> list[tuple[str, int]]:
        """What the workers were reading that have died, and their exit codes; waits a moment for there to be any."""
        end = time.monotonic() + _UNTIL_THE_EXIT_CODE
        while True:
            found = [
                (reading, process.exitcode)
                for number, reading in self.reading().items()
                if (process := self._processes.get(number)) and process.exitcode
            ]
            if found or time.monotonic() > end:
                return found
            time.sleep(0.01)

    def reading(self) -> dict[int, str]:
        """What each worker was reading last, by process number."""
        return {number: what for dataset in self._datasets for number, what in dataset.reading().items()}
