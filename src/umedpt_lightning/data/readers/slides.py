"""Tiles of whole slides, with what is known of the whole slide."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.labels import check_names, class_indices, natural_key, with_statistics
from umedpt_lightning.data.formats.table import read_table
from umedpt_lightning.data.readers.base import ImageReader
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.types import ClassSpec, RegressionSpec, Sample


class SlideReader(ImageReader[TileImages]):
    """What the readers of slides share: all tiles of a slide belong together."""

    _of_slides: NDArray[np.str_] | None = None

    @property
    def groups(self) -> NDArray[np.str_]:
        """As `Reader.groups`: of each tile that of its slide, else the slide itself."""
        of_slides = self._of_slides
        if of_slides is None:
            of_slides = np.array([str(slide.path) for slide in self._images.slides])
        result: NDArray[np.str_] = of_slides[self._images.owners]  # made anew: as many long texts would fill memory
        return result


class SlideClasses(SlideReader):
    """One class a slide, which is that of all its tiles, from a column of class names.

    Args:
        file: The table, CSV with a header or Parquet (``.parquet``, with the extra ``parquet``); one row a slide.
        split: Which part: the rows with this text in the column `split_column`; None for all rows, see `Split`.
        label: Column of class names.
        classes: Class names in the order of the indices; None for those of the whole file in natural order, so that
            all parts agree.
        tiles: How slides are cut; None 256 pixels of 0.5 µm where at least half is tissue.
        path: Column of whole-slide images (pyramidal TIFF, SVS and their relatives).
        split_column: Column that says the part.
        root: Folder that relative paths start from; None the file's own.
        channels: 1 or 3 to turn colour to grey or grey to colour; None as the first slide has.
        value_range: The stored intensities that become 0 and 1; None the full range of uint8 or uint16.
        group: Column of patients, centres or whatever else must not be parted by a split; None where every slide is of
            its own.

    Raises:
        FileNotFoundError: The table or slides are missing.
        ImportError: tiffslide is missing.
        ValueError: The table or a slide cannot be used, or there are no tiles.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        label: str = "label",
        classes: list[str] | None = None,
        tiles: Tiles | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        table = read_table(file, split, [label], path, split_column, root, group)
        self._of_slides = table.groups(group)
        names = check_names(
            sorted(table.everywhere[label] - {""}, key=natural_key) if classes is None else classes, "classes", file
        )
        of_slides = class_indices(table.columns[label], names, table.rows, file)
        self._images = TileImages(table.paths(path), tiles, channels, value_range, file)
        self.targets = of_slides[self._images.owners]
        spec = ClassSpec(channels=self._images.channels, value_range=self._images.value_range, classes=names)
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The tile ``(H, W, C)`` with the class index of its slide."""
        index = self._at(index)
        return Sample(self._images.read(index), int(self.targets[index]), self._images.name(index))


class SlideNumbers(SlideReader):
    """One or several numbers a slide, which are those of all its tiles, from one column a quantity.

    Args:
        file: As for `SlideClasses`.
        split: As for `SlideClasses`.
        quantities: Columns and their units, such as ``{age: years, ratio: ""}``; cells are empty where unknown.
        tiles: As for `SlideClasses`.
        path: As for `SlideClasses`.
        split_column: As for `SlideClasses`.
        root: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.
        group: As for `SlideClasses`.

    Raises:
        FileNotFoundError: The table or slides are missing.
        ImportError: tiffslide is missing.
        ValueError: The table or a slide cannot be used, or there are no tiles.
    """

    targets: NDArray[Any]

    def __init__(
        self,
        file: Path | str,
        split: str | None,
        quantities: dict[str, str],
        tiles: Tiles | None = None,
        path: str = "path",
        split_column: str = "split",
        root: Path | str | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
        group: str | None = None,
    ) -> None:
        names = check_names(quantities, "quantities", file, most=None)
        table = read_table(file, split, list(names), path, split_column, root, group)
        self._of_slides = table.groups(group)
        of_slides = table.numbers(names, "a number, or nothing where it is unknown")
        self._images = TileImages(table.paths(path), tiles, channels, value_range, file)
        self.targets = of_slides[self._images.owners]
        spec = RegressionSpec(
            channels=self._images.channels,
            value_range=self._images.value_range,
            quantities=names,
            units=tuple(quantities.values()),
        )
        self.spec = with_statistics(spec, self.targets)

    def __getitem__(self, index: int) -> Sample:
        """The tile ``(H, W, C)`` with ``(Q,)`` float32 of its slide, NaN where unknown."""
        index = self._at(index)
        return Sample(self._images.read(index), self.targets[index].copy(), self._images.name(index))
