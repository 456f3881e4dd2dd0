"""The regions drawn on slides, seen from their tiles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import for_all, raise_all
from umedpt_lightning.data.slide.geojson import read_geojson
from umedpt_lightning.data.slide.polygons import Polygons
from umedpt_lightning.data.slide.tiles import TileImages
from umedpt_lightning.types import BoxArrays

#: The share that a class covers of a tile is counted on a grid of so many points a side.
_GRID = 64


class TileLabels:
    """The annotations of the slides of some tiles.

    Args:
        images: The tiles.
        paths: One GeoJSON file a slide.
        classes: Names that annotations may have.
        without: Names of annotations that are left out.

    Raises:
        FileNotFoundError: A file is missing.
        ValueError: An annotation cannot be used, or lies outside its slide.
    """

    def __init__(
        self, images: TileImages, paths: Sequence[Path], classes: Sequence[str], without: Sequence[str] | None
    ) -> None:
        self._images = images
        self._slides = for_all(lambda path: read_geojson(path, classes, without or ()), paths)
        faults = []
        for path, regions, slide in zip(paths, self._slides, images.slides, strict=True):
            width, height = slide.size
            outside = len(regions) - len(regions.touching((0, 0, width, height)))
            if outside:
                faults.append(
                    ValueError(
                        f"{path}: {outside} of {len(regions)} annotations lie outside {slide.path}, which has "
                        f"{width}x{height} pixels (WxH). Export them in pixels of the finest level, or correct the "
                        "pair."
                    )
                )
        raise_all(faults)

    def touched(self, index: int) -> bool:
        """Whether a part of an annotation lies in a tile."""
        return bool(len(self._regions(index).touching(self._images.box(index))))

    def mask(self, index: int, values: NDArray[np.int16]) -> NDArray[np.int16]:
        """``(H, W)``: each class is drawn with its value, later annotations over earlier ones, the rest is 0."""
        return self._regions(index).draw(self._images.box(index), *self._images.tiles.shape, values)

    def shares(self, index: int, classes: int) -> NDArray[np.float64]:
        """``(classes,)`` how much of a tile each class covers, where annotations overlap the later one."""
        values = np.arange(1, classes + 1, dtype=np.int16)
        drawn = self._regions(index).draw(self._images.box(index), _GRID, _GRID, values)
        return np.bincount(drawn.ravel(), minlength=classes + 1)[1:] / drawn.size

    def boxes(self, index: int, visible: float) -> BoxArrays:
        """Boxes around what of annotations lies in a tile, in pixels of the tile.

        Args:
            index: The tile.
            visible: Annotations of which a smaller share lies in the tile are dropped, as are boxes below a pixel.
        """
        regions, box = self._regions(index), self._images.box(index)
        rows = regions.touching(box)
        cut, shares = regions.cut(rows, box)
        height, width = self._images.tiles.shape
        scale = np.array([width, height]) / (np.array(box[2:]) - box[:2])
        boxes = (cut - np.tile(box[:2], 2)) * np.tile(scale, 2)
        keep = (shares >= visible) & (boxes[:, 2:] - boxes[:, :2] >= 1).all(axis=1)
        return BoxArrays(boxes[keep].astype(np.float32), regions.labels[rows[keep]])

    def _regions(self, index: int) -> Polygons:
        return self._slides[int(self._images.owners[index])]
