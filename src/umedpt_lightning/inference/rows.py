"""All images of some files, one after the other, as the rows of a table of embeddings."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.inference.dataset import InputDataset, Wanted
from umedpt_lightning.inference.input_files import InputFile
from umedpt_lightning.inference.opening import OpenFile, Opening


class InputRows:
    """The images of files in their order: an image is one row, a volume has a row a slice, a slide one a tile.

    With `skip_bad` volumes and slides that cannot be opened are left out.

    Attributes:
        dataset: Reads the images.
        skipped: What was wrong with what was left out.

    Raises:
        ImportError: A library that reads them is missing.
        ValueError: A volume or a slide cannot be used, and `skip_bad` is off; or nothing is left.
    """

    def __init__(self, files: Sequence[InputFile], opening: Opening, skip_bad: bool = False) -> None:
        self.skipped: list[str] = []
        faults: list[str] = []
        taken: list[InputFile] = []
        opened: dict[tuple[int, int], OpenFile] = {}
        for file in files:
            try:
                if not opening.is_single(file):
                    opened[len(taken), 0] = opening.open(file)
                taken.append(file)
            except (ValueError, OSError) as error:
                (self.skipped if skip_bad else faults).append(str(error))
        if faults or not taken:
            raise ValueError("\n".join(faults or ["Nothing is left that can be read:", *self.skipped]))
        self.dataset = InputDataset(taken, [opening], opened)
        counts = [len(opened[number, 0]) if (number, 0) in opened else 1 for number in range(len(taken))]
        self._first = np.concatenate([[0], np.cumsum(counts)])  # the rows of file i are first[i] to first[i + 1]

    def __len__(self) -> int:
        return int(self._first[-1])

    def id(self, row: int) -> str:
        """What an image is called: its file, and for one of several its place in it."""
        number, index = self.place(row)
        file = self.dataset.file(number)
        single = self.dataset.openings[0].is_single(file)
        return file.id if single else file.id + self.dataset.open(number, 0).place(index)

    def group(self, row: int) -> str:
        """The group of its file."""
        return self.dataset.file(self.place(row)[0]).group

    def digest(self, start: int, stop: int) -> str:
        """A text that changes when a file of these rows does, or another one takes its place."""
        result = hashlib.sha256()
        for number in range(self.place(start)[0], self.place(stop - 1)[0] + 1 if stop > start else 0):
            names = self.dataset.ids[number], self.dataset.groups[number], self._first[number].item()
            result.update(repr(names).encode() + self.dataset.file(number).state)
        return result.hexdigest()[:32]

    def of_file(self, number: int) -> NDArray[np.int64]:
        """The rows of a file."""
        return np.arange(self._first[number], self._first[number + 1])

    def batches(self, start: int, size: int) -> Iterator[list[Wanted]]:
        """The images from one row on, some at a time."""
        for first in range(start, len(self), size):
            yield [Wanted(*self.place(row)) for row in range(first, min(first + size, len(self)))]

    def place(self, row: int) -> tuple[int, int]:
        """The file of a row, and which of its images it is."""
        number = int(np.searchsorted(self._first, row, side="right")) - 1
        return number, row - int(self._first[number])
