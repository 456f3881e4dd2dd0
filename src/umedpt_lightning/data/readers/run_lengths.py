"""Tables of masks as run lengths."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import Collector, raise_all
from umedpt_lightning.data.formats.files import ImageFiles
from umedpt_lightning.data.formats.labels import check_names, class_indices
from umedpt_lightning.data.formats.table import Table, is_unknown, read_rows
from umedpt_lightning.data.readers.base import ListedReader
from umedpt_lightning.data.readers.per_image import PerImage
from umedpt_lightning.types import MaskSpec, SampleTarget


class RunLengthMasks(ListedReader):
    """One class a pixel, from a table with a row an object: its pixels as pairs of a start and a length.

    An image may have several rows, the later on top, or one that says that it has no object.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        classes: Names of the classes, the background first.
        runs: Column of run lengths, such as ``3 2 10 1``.
        label: Column of class names; None where there is one class beside the background.
        nothing: What the column says of an image without an object, besides an empty cell.
        start: How starts are counted: in the whole image from 1 or from 0, or from the end of the run before
            (``after_run``), the first from 0.
        along: Whether pixels follow each other down the ``columns`` or along the ``rows``.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.

    Raises:
        FileNotFoundError: The table or images are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str],
        runs: str = "EncodedPixels",
        label: str | None = None,
        nothing: str = "-1",
        start: Literal["from_1", "from_0", "after_run"] = "from_1",
        along: Literal["columns", "rows"] = "columns",
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [runs, *([] if label is None else [label])])
        names = check_names(classes, "classes", rows.file)
        if label is None and len(names) != 2:
            raise ValueError(f"{rows.file}: without a column `label` there are two classes, but not {list(names)}.")
        faults = Collector()
        with faults:
            of_images = PerImage(rows)
            self._images = ImageFiles(of_images.paths, channels, value_range, rows.file)
        cells = rows.columns[runs]
        filled = [i for i, cell in enumerate(cells) if not (is_unknown(cell) or cell == nothing)]
        self._names = np.array([rows.names[i] for i in filled] or [""])
        with faults:
            found = [_pairs(cells[i], rows.names[i], start == "from_1") for i in filled]
            raise_all([pairs for pairs in found if isinstance(pairs, ValueError)])
        with faults:
            kinds = [names[1]] * len(filled) if label is None else [rows.columns[label][i] for i in filled]
            self._labels = 1 + class_indices(kinds, names[1:], self._names.tolist(), rows.file)
        faults.raise_found()
        pairs = [one for one in found if not isinstance(one, ValueError)]
        self._of_rows, self._start, self._along = of_images.groups, start, along
        self._pairs = np.concatenate([np.empty((0, 2), np.int64), *pairs])  # of all rows
        self._ends = np.cumsum([len(one) for one in pairs])
        self._rows_of = of_images.rows_of(filled)
        self.spec = MaskSpec(**self._images.facts, classes=names)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        height, width = image.shape[:2]
        flat = np.zeros(height * width, np.int16)
        for row in self._rows_of(index).tolist():
            starts, lengths = self._pairs[self._ends[row - 1] if row else 0 : self._ends[row]].T
            if self._start == "after_run":
                starts = np.cumsum(starts) + np.cumsum(lengths) - lengths
            ends = starts + lengths - (self._start == "from_1")
            if (ends > len(flat)).any():
                raise ValueError(
                    f"{self._names[row]}: a run ends at pixel {ends.max()}, but its image {name} has {height}x{width} "
                    "(HxW). Correct the run lengths or `start`, or take the image of the size that they were made for."
                )
            for end, length in zip(ends.tolist(), lengths.tolist(), strict=True):
                flat[end - length : end] = self._labels[row]
        mask = flat.reshape(height, width) if self._along == "rows" else flat.reshape(width, height).T
        return np.ascontiguousarray(mask)


def _pairs(cell: str, row: str, from_one: bool) -> NDArray[np.int64] | ValueError:
    """``(N, 2)`` starts and lengths; the fault where they are none."""
    what = f"{cell:.40}{' …' * (len(cell) > 40)}"
    try:
        numbers = np.array(cell.split(), np.int64)
    except (ValueError, OverflowError):
        numbers = np.empty(1, np.int64)
    if len(numbers) % 2 or (numbers[1::2] < 1).any() or (numbers < 0).any():
        return ValueError(f"{row}: run lengths are pairs of a start and a length, but it has {what!r}. Correct it.")
    if from_one and (numbers[::2] < 1).any():
        return ValueError(
            f"{row}: starts are counted from 1, but it has {what!r}. Write `start: from_0`, or correct it."
        )
    return numbers.reshape(-1, 2)
