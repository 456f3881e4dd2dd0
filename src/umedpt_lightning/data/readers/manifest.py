"""Tables of samples: CSV or Parquet with a column of image paths and one that says the part."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.files import ImageFiles, MaskFiles
from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key, with_statistics
from umedpt_lightning.data.formats.table import read_table
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.types import ClassSpec, MaskSpec, MultilabelSpec, RegressionSpec, Sample


class ManifestClasses(ImageReader[ImageFiles]):
    """One class an image, from a column of class names.

    Args:
        file: The table, CSV with a header or Parquet (``.parquet``, with the extra ``parquet``).
        split: Which part: the rows with this text in the column `split_column`; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices; None for those of the whole file in natural order, so that
            all parts agree.
        path: Column of image paths.
        split_column: Column that says the part.
        root: Folder that relative paths start from; None the file's own.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first image has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.
        group: Column of patients, centres or whatever else must not be parted by a split; None if there is none.

    Raises:
        FileNotFoundError: The table or images are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str] | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        table = read_table(file, split, [label], path, split_column, root, group)
        self._groups = table.groups(group)
        names = check_names(
            sorted(table.everywhere[label] - {""}, key=natural_key) if classes is None else classes, "classes", file
        )
        self.targets = class_indices(table.columns[label], names, table.rows, file)
        self._images = ImageFiles(table.paths(path), channels, value_range, file)
        spec = ClassSpec(channels=self._images.channels, value_range=self._images.value_range, classes=names)
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its class index."""
        index = self._at(index)
        image, name = self._images.read(index)
        return Sample(image, int(self.targets[index]), name)


class ManifestLabels(ImageReader[ImageFiles]):
    """Any number of labels an image, from one column a label: 1, 0, or empty where unknown.

    Args:
        file: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        labels: Columns, one a label.
        path: As for `ManifestClasses`.
        split_column: As for `ManifestClasses`.
        root: As for `ManifestClasses`.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.
        group: As for `ManifestClasses`.

    Raises:
        FileNotFoundError: The table or images are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        labels: list[str],
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        names = check_names(labels, "labels", file, most=None)
        table = read_table(file, split, list(names), path, split_column, root, group)
        self._groups = table.groups(group)
        self.targets = table.numbers(names, "0, 1, or nothing where it is unknown")
        wrong = np.argwhere(~(np.isnan(self.targets) | (self.targets == 0) | (self.targets == 1)))
        if len(wrong):
            row, column = wrong[0]
            raise ValueError(
                f"{table.rows[row]}: {names[column]} is {table.columns[names[column]][row]!r}, one of {len(wrong)} "
                "such cells. Write 0, 1, or nothing where it is unknown."
            )
        self._images = ImageFiles(table.paths(path), channels, value_range, file)
        spec = MultilabelSpec(channels=self._images.channels, value_range=self._images.value_range, labels=names)
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with ``(L,)`` float32 of 0, 1 and NaN."""
        index = self._at(index)
        image, name = self._images.read(index)
        return Sample(image, self.targets[index].copy(), name)


class ManifestNumbers(ImageReader[ImageFiles]):
    """One or several numbers an image, from one column a quantity: empty where unknown.

    Args:
        file: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``.
        path: As for `ManifestClasses`.
        split_column: As for `ManifestClasses`.
        root: As for `ManifestClasses`.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.
        group: As for `ManifestClasses`.

    Raises:
        FileNotFoundError: The table or images are missing.
        ValueError: The table cannot be used (the message names the row), or a quantity is known of no sample.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        quantities: dict[str, str],
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        names = check_names(quantities, "quantities", file, most=None)
        table = read_table(file, split, list(names), path, split_column, root, group)
        self._groups = table.groups(group)
        self.targets = table.numbers(names, "a number, or nothing where it is unknown")
        self._images = ImageFiles(table.paths(path), channels, value_range, file)
        spec = RegressionSpec(
            channels=self._images.channels,
            value_range=self._images.value_range,
            quantities=names,
            units=tuple(quantities.values()),
        )
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with ``(Q,)`` float32, NaN where unknown."""
        index = self._at(index)
        image, name = self._images.read(index)
        return Sample(image, self.targets[index].copy(), name)


class ManifestMasks(ImageReader[ImageFiles]):
    """One class a pixel, from a column of mask paths.

    Args:
        file: As for `ManifestClasses`.
        split: As for `ManifestClasses`.
        classes: Names of the classes stored as 0, 1, ..., the background first; or a stored value for each name, such
            as ``{background: 0, nodule: 255}``.
        mask: Column of mask paths, relative as those of the images.
        ignore: The stored value of unlabelled pixels; None if every pixel is labelled.
        path: As for `ManifestClasses`.
        split_column: As for `ManifestClasses`.
        root: As for `ManifestClasses`.
        channels: As for `ManifestClasses`.
        value_range: As for `ManifestClasses`.
        group: As for `ManifestClasses`.

    Raises:
        FileNotFoundError: The table, images or masks are missing.
        ValueError: The table cannot be used; the message names the row.
    """

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        classes: list[str] | dict[str, int],
        mask: str = "mask",
        ignore: int | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        table = read_table(file, split, [mask], path, split_column, root, group)
        self._groups = table.groups(group)
        self._images = ImageFiles(table.paths(path), channels, value_range, file)
        self._masks = MaskFiles(table.paths(mask), classes, ignore, file)
        self.spec = MaskSpec(
            channels=self._images.channels, value_range=self._images.value_range, classes=self._masks.classes
        )

    def __getitem__(self, index: int) -> Sample:
        """The image ``(H, W, C)`` with its mask ``(H, W)`` uint8."""
        index = self._at(index)
        image, name = self._images.read(index)
        return Sample(image, self._masks.read(index, image, name), name)
