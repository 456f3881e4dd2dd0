"""What is kept of every sample of a part, some numbers and no image, and statistics of it for JSON and for a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from umedpt_lightning.data.check.sample import Reading
from umedpt_lightning.data.task_data import TaskData
from umedpt_lightning.labels.wording import spread, statistic
from umedpt_lightning.types import TaskSpec


class Tally:
    """The samples of one part as columns, about 100 bytes a sample.

    Attributes:
        read: ``(N,)`` whether the image could be looked at; only then the next five mean something.
        sizes: ``(N, 2)`` height and width, pixels.
        intensities: ``(N, 3)`` lowest, mean and highest.
        outside: ``(N,)`` share of pixels outside the value_range.
        digests: ``(N,)`` equal for equal pixels.
        objects: ``(N, 3)`` see `Objects`.
        instances: ``(N,)`` images of each sample.
        seconds: ``(N,)`` time to read, 0 where it failed.
        labels: ``(N, columns)``, see `TaskSpec.inspect`; NaN where unknown.
    """

    def __init__(self, spec: TaskSpec, length: int) -> None:
        self.spec = spec
        self.names = [""] * length
        self.read = np.zeros(length, bool)
        self.sizes = np.zeros((length, 2), np.int32)
        self.dtypes = np.zeros(length, "S8")
        self.intensities = np.zeros((length, 3), np.float32)
        self.outside = np.zeros(length, np.float32)
        self.digests = np.zeros(length, np.uint64)
        self.objects = np.zeros((length, 3), np.int32)
        self.instances = np.ones(length, np.int32)
        self.seconds = np.zeros(length, np.float32)
        self.labels = np.full((length, spec.columns), np.nan, np.float32)

    def __len__(self) -> int:
        return len(self.names)

    def add(self, readings: Iterable[Reading]) -> None:
        """Takes up samples."""
        for reading in readings:
            i, look = reading.index, reading.look
            self.names[i] = reading.name
            self.seconds[i] = reading.seconds
            self.objects[i] = reading.objects
            self.instances[i] = reading.instances
            if reading.labels is not None:
                self.labels[i] = reading.labels
            if look is not None:
                self.read[i] = True
                self.sizes[i], self.dtypes[i] = look.size, look.dtype.encode()
                self.intensities[i] = look.low, look.mean, look.high
                self.outside[i], self.digests[i] = look.outside, look.digest


def statistics_of(task: TaskData, tallies: Mapping[str, Tally]) -> dict[str, Any]:
    """The task and each of its parts, of which there is at least one."""
    spec = next(iter(tallies.values())).spec
    return {
        "kind": spec.kind or type(spec).__name__,
        "names": list(spec.names),
        "channels": spec.channels,
        "value_range": list(spec.value_range),
        "size": list(task.size) if isinstance(task.size, tuple) else task.size,
        "batch_size": task.batch_size,
        "parts": {part: _of_part(tally) for part, tally in tallies.items()},
    }


def _of_part(tally: Tally) -> dict[str, Any]:

    sizes, (low, mean, high) = tally.sizes[tally.read], tally.intensities[tally.read].T
    dtypes, counts = np.unique(tally.dtypes[tally.read], return_counts=True)
    seconds = tally.seconds[tally.seconds > 0]
    return {
        "samples": len(tally),
        "readable": int(tally.read.sum()),
        **({f"images_a_{tally.spec.bag}": spread(tally.instances[tally.read])} if tally.spec.bag else {}),
        "height": spread(sizes[:, 0]),
        "width": spread(sizes[:, 1]),
        "dtypes": {name.decode(): int(count) for name, count in zip(dtypes, counts, strict=True)},
        # the median is that of the images' means
        "intensity": {
            "min": statistic(np.min, low),
            "median": statistic(np.median, mean),
            "max": statistic(np.max, high),
        },
        "images_outside_value_range": int((tally.outside[tally.read] > 0).sum()),
        "milliseconds": statistic(np.median, seconds * 1000),
        "labels": tally.spec.statistics(tally.labels),
    }
