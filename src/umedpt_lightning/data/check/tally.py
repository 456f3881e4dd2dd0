"""What is kept of every sample of a part: some numbers, no image."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from umedpt_lightning.data.check.sample import Reading
from umedpt_lightning.types import TaskSpec


class Tally:
    """The samples of one part as columns, about 100 bytes a sample.

    Args:
        spec: What the reader says of itself.
        length: Number of samples.

    Attributes:
        names: What messages call the samples.
        read: ``(N,)`` whether the image could be looked at; only then the next five mean something.
        sizes: ``(N, 2)`` height and width, pixels.
        dtypes: ``(N,)`` names.
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
