"""A part of another reader."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.readers.base import Reader
from umedpt_lightning.types import Sample


class Selection(Reader):
    """Some samples of another reader, with statistics of their own; subclasses say which.

    Args:
        reader: The whole.
        rows: ``(N,)`` indices into it.
    """

    @abstractmethod
    def __init__(self, reader: Reader, rows: NDArray[np.int64]) -> None:
        self._reader, self._rows = reader, rows
        if reader.targets is None:
            self.spec = reader.spec
        else:
            self.targets = reader.targets[rows]
            self.spec = reader.spec.with_statistics(self.targets)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Sample:
        """The sample at `index` of this part."""
        return self._reader[int(self._rows[self._at(index)])]

    def draw(self, index: int, seed: int) -> Sample:
        """As that of the whole."""
        return self._reader.draw(int(self._rows[self._at(index)]), seed)

    def cached(self, keep: Callable[[Reader], Reader]) -> Reader:
        """Of bags, the images of the whole."""
        if not self.spec.bag:
            return keep(self)
        part = copy.copy(self)
        part._reader = self._reader.cached(keep)
        return part

    @property
    def without_images(self) -> frozenset[str]:
        """As those of the whole."""
        return self._reader.without_images

    def name(self, index: int) -> str:
        """As that of the whole."""
        return self._reader.name(int(self._rows[self._at(index)]))

    def found(self) -> Iterable[Path]:
        """As that of the whole."""
        return self._reader.found()

    def mask_files(self) -> Sequence[str]:
        """As those of the whole."""
        return self._reader.mask_files()

    @property
    def groups(self) -> NDArray[np.str_] | None:
        """As those of the whole."""
        groups = self._reader.groups
        return None if groups is None else groups[self._rows]


class Subset(Selection):
    """A contiguous range of another reader's samples.

    Where neighbours belong together (slices of a patient, fields of a slide), ranges split them without leakage as
    random choices cannot. Put the borders between the groups.

    Args:
        reader: The whole.
        start: First sample: an index, or a float from 0 to 1 as a fraction of the samples; None the first.
        stop: One past the last sample, likewise; None the end. A part that stops at 0.8 and one that starts there meet.

    Raises:
        ValueError: A border lies outside, or the range is empty.
    """

    def __init__(self, reader: Reader, start: int | float | None = None, stop: int | float | None = None) -> None:
        total = len(reader)
        first = 0 if start is None else _border("start", start, total)
        end = total if stop is None else _border("stop", stop, total)
        if first >= end:
            raise ValueError(
                f"The range from start={start} to stop={stop} holds none of the {total} samples. "
                "Put stop behind start; floats are fractions, integers indices."
            )
        super().__init__(reader, np.arange(first, end))


def _border(name: str, value: int | float, total: int) -> int:
    if isinstance(value, float) and value > 1 and value.is_integer():
        value = int(value)  # parsers of configs may take an integer for a float, where a union allows both
    most = 1.0 if isinstance(value, float) else total
    if not 0 <= value <= most:
        raise ValueError(
            f"{name} is {value!r}, but it must be an index from 0 to {total} (the number of samples) "
            "or a fraction, written as a float from 0.0 to 1.0."
        )
    return round(value * total) if isinstance(value, float) else value
