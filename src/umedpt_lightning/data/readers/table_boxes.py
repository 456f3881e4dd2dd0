"""Tables of boxes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.box_table import clip_boxes
from umedpt_lightning.data.formats.faults import Collector, raise_all
from umedpt_lightning.data.formats.files import ImageFiles
from umedpt_lightning.data.formats.labels import check_names, class_indices
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import ListedReader
from umedpt_lightning.data.readers.per_image import PerImage
from umedpt_lightning.types import BoxArrays, BoxSpec, SampleTarget

_CORNERS = ("x_min", "y_min", "x_max", "y_max")


class TableBoxes(ListedReader):
    """Any number of boxes an image, from a table with a row a box.

    A row whose four numbers are empty says that its image is there, and has no box by that row.

    Args:
        table: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        classes: Class names in the order of the indices.
        label: Column of class names; None where there is one class.
        box: Columns of the left, upper, right and lower border of a box, pixels counted from 0.
        sized: The last two of these are width and height instead.
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
        classes: list[str | int],
        label: str | None = None,
        box: tuple[str, str, str, str] = _CORNERS,
        sized: bool = False,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [*box, *([] if label is None else [label])])
        names = check_names(classes, "classes", rows.file)
        if label is None and len(names) != 1:
            raise ValueError(f"{rows.file}: without a column `label` there is one class, but {list(names)} are given.")
        faults = Collector()
        with faults:
            of_images = PerImage(rows)
            self._images = ImageFiles(of_images.paths, channels, value_range, rows.file)
        with faults:
            numbers = rows.numbers(box, "a number, or nothing in all four").astype(np.float64)  # (N, 4)
            known = ~np.isnan(numbers)
            filled = np.flatnonzero(known.all(axis=1))
            broken = np.flatnonzero(known.any(axis=1) & ~known.all(axis=1)).tolist()
            what = f"only some of {', '.join(box)} are numbers. Fill in all four, or none"
            raise_all([ValueError(f"{rows.names[i]}: {what}.") for i in broken])
            where = [rows.names[i] for i in filled.tolist()]
            kinds = [names[0]] * len(where) if label is None else [rows.columns[label][i] for i in filled.tolist()]
            self._labels = class_indices(kinds, names, where, rows.file)
        faults.raise_found()
        self._boxes = numbers[filled]
        if sized:
            self._boxes[:, 2:] += self._boxes[:, :2]
        self._names = np.array(where or [""])
        self._of_rows, self._rows_of = of_images.groups, of_images.rows_of(filled.tolist())
        self.spec = BoxSpec(**self._images.facts, classes=names)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        rows = self._rows_of(index)
        size = np.array([image.shape[1::-1]], np.int64)  # (1, 2) W, H
        boxes = self._boxes[rows]

        def tell(i: int) -> tuple[str, str]:
            return f"{self._names[rows[i]]}: the box {boxes[i].tolist()}", name

        clipped = clip_boxes(boxes, np.zeros(len(rows), np.int64), size, tell)
        return BoxArrays(clipped, self._labels[rows])
