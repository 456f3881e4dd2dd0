"""Tiles of whole slides, with the regions that were drawn on them in QuPath."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.labels import check_names
from umedpt_lightning.data.formats.table import Table, read_rows
from umedpt_lightning.data.readers.base import ImageReader, TargetReader
from umedpt_lightning.data.slide.annotations import TileLabels
from umedpt_lightning.data.slide.tiles import TileImages, Tiles
from umedpt_lightning.types import IGNORE_INDEX, BoxSpec, ClassSpec, MaskSpec, SampleTarget


class SlideRegions(TargetReader[TileImages]):
    """One class a tile, that of the annotations which cover most of it, from GeoJSON files.

    Args:
        table: As for `SlideClasses`, with a column of GeoJSON files, as QuPath exports them.
        split: As for `SlideClasses`.
        classes: Names of the annotations' classes in the order of the indices.
        share: The class must cover this share of a tile (above 0, up to 1); annotated tiles with less are left out.
        rest: The class of tiles that no annotation touches, one of `classes`; None leaves them out.
        without: Classes of annotations that are left out, ``""`` for annotations without one.
        annotations: Column of GeoJSON files, relative as the slides.
        tiles: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.

    Raises:
        FileNotFoundError: The table, slides or annotations are missing.
        ImportError: tiffslide is missing.
        ValueError: The table, a slide or an annotation cannot be used, or no tile has a class.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str | int],
        share: float = 0.5,
        rest: str | int | None = None,
        without: list[str] | None = None,
        annotations: str = "annotations",
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [annotations])
        names = check_names(classes, "classes", rows.file)
        _check_share("share", share, rows.file)
        if rest is not None and str(rest) not in names:
            raise ValueError(f"{rows.file}: rest is {rest!r}, but it must be one of the classes {list(names)}. Add it.")
        self._of_rows = rows.groups()
        self._images = TileImages(rows.paths(), tiles, channels, value_range, rows.file)
        labels = TileLabels(self._images, rows.paths(annotations), names, without)
        self.targets = np.full(len(self._images), -1 if rest is None else names.index(str(rest)), np.int64)
        for index in range(len(self._images)):
            if labels.touched(index):
                shares = labels.shares(index, len(names))
                self.targets[index] = shares.argmax() if shares.max() >= share else -1
        chosen = self.targets >= 0
        self._images.keep(
            chosen,
            f"{rows.file}: a class covers a share of {share} of none of the {len(chosen)} tiles. Lower `share` or the "
            "`size` of the `tiles`, or name the class of the `rest`.",
        )
        self.targets = self.targets[chosen]
        self.spec = ClassSpec(**self._images.facts, classes=names).with_statistics(self.targets)


class SlideMasks(ImageReader[TileImages]):
    """One class a pixel: the annotations are drawn at the tiles' resolution, later ones over earlier ones.

    Args:
        table: As for `SlideRegions`.
        split: As for `SlideClasses`.
        classes: Class names, first that of pixels without annotation, then those of the annotations.
        ignore: Classes of annotations whose pixels count as unlabelled.
        without: As for `SlideRegions`.
        foreground_only: Leave out tiles with background only.
        annotations: As for `SlideRegions`.
        tiles: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.

    Raises what `SlideRegions` does.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str | int],
        ignore: list[str] | None = None,
        without: list[str] | None = None,
        foreground_only: bool = False,
        annotations: str = "annotations",
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [annotations])
        names = check_names(classes, "classes", rows.file)
        drawn = check_names([*names, *(ignore or [])], "classes and ignore", rows.file)
        self._of_rows = rows.groups()
        self._images = TileImages(rows.paths(), tiles, channels, value_range, rows.file)
        self._labels = TileLabels(self._images, rows.paths(annotations), drawn, without)
        self._values = np.arange(len(drawn), dtype=np.int16)
        self._values[len(names) :] = IGNORE_INDEX
        if foreground_only:
            chosen = np.array([(self._labels.mask(i, self._values) > 0).any() for i in range(len(self._images))])
            mend = "Correct the pairs, or `foreground_only: false`."
            self._images.keep(chosen, f"{rows.file}: no tile has foreground. {mend}")
        self.spec = MaskSpec(**self._images.facts, classes=names)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._labels.mask(index, self._values)


class SlideBoxes(ImageReader[TileImages]):
    """Any number of boxes a tile: those around the annotations, cut at the tile's border.

    Args:
        table: As for `SlideRegions`.
        split: As for `SlideClasses`.
        classes: As for `SlideRegions`.
        visible: Annotations are dropped of which a smaller share (up to 1) lies in the tile, and boxes below a pixel.
        without: As for `SlideRegions`.
        foreground_only: Leave out tiles without boxes.
        annotations: As for `SlideRegions`.
        tiles: As for `SlideClasses`.
        channels: As for `SlideClasses`.
        value_range: As for `SlideClasses`.

    Raises what `SlideRegions` does.
    """

    def __init__(
        self,
        table: Table | Path | str,
        split: str | None,
        classes: list[str | int],
        visible: float = 0.3,
        without: list[str] | None = None,
        foreground_only: bool = False,
        annotations: str = "annotations",
        tiles: Tiles | None = None,
        channels: int | None = None,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        rows = read_rows(table, split, [annotations])
        names = check_names(classes, "classes", rows.file)
        _check_share("visible", visible, rows.file)
        self._of_rows = rows.groups()
        self._images = TileImages(rows.paths(), tiles, channels, value_range, rows.file)
        self._labels = TileLabels(self._images, rows.paths(annotations), names, without)
        self._visible = visible
        if foreground_only:
            chosen = np.array([len(self._labels.boxes(i, visible).labels) > 0 for i in range(len(self._images))])
            mend = "Correct the pairs, or write `foreground_only: false`."
            self._images.keep(chosen, f"{rows.file}: no tile has a box. {mend}")
        self.spec = BoxSpec(**self._images.facts, classes=names)

    def _target(self, index: int, image: NDArray[Any], name: str) -> SampleTarget:
        return self._labels.boxes(index, self._visible)


def _check_share(name: str, share: float, file: Path) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"{file}: {name} is {share}, but it is a share above 0, up to 1.")
