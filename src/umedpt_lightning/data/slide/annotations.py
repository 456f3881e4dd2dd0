"""Annotations of slides in the GeoJSON of QuPath, seen from the slides' tiles."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.faults import Collector, for_all, raise_all
from umedpt_lightning.data.formats.labels import class_indices
from umedpt_lightning.data.formats.text_files import read_json
from umedpt_lightning.data.slide.polygons import Polygons, valid
from umedpt_lightning.data.slide.tiles import TileImages
from umedpt_lightning.types import BoxArrays

#: The share that a class covers of a tile is counted on a grid of so many points a side.
_GRID = 64
_MEND = "Draw it again, or remove it."


def read_geojson(path: Path, classes: Sequence[str], without: Iterable[str] = ()) -> Polygons:
    """The polygons of a file, in pixels of the slide's finest level, as QuPath exports them.

    Args:
        path: A FeatureCollection, a Feature, or a list of Features.
        classes: Names that a feature may have in ``properties.classification.name``.
        without: Names of features that are left out; an empty one for features without a class.

    Raises:
        FileNotFoundError: There is no such file.
        ImportError: shapely is missing.
        ValueError: It is not GeoJSON, or a feature has another class or is no polygon.
    """
    content = read_json(path)
    if isinstance(content, dict):
        content = content.get("features") if content.get("type") == "FeatureCollection" else [content]
    if not isinstance(content, list) or not all(isinstance(f, dict) and f.get("type") == "Feature" for f in content):
        raise ValueError(f"{path}: this is no FeatureCollection, Feature or list of Features. Export it as GeoJSON.")
    left_out = set(without)
    named = [(f"{path}: feature {i}", _class(feature), feature) for i, feature in enumerate(content)]
    named = [item for item in named if item[1] not in left_out]
    faults = Collector()
    with faults:
        labels = class_indices([name for _, name, _ in named], classes, [at for at, _, _ in named], path)
    with faults:
        regions = for_all(lambda item: _region(item[2], item[0]), named)
    faults.raise_found()
    return Polygons(regions, labels)


def _class(feature: dict[str, Any]) -> str:
    """The name of its class; empty if it has none."""
    classification = (feature.get("properties") or {}).get("classification")
    if isinstance(classification, dict):  # QuPath 0.5 writes derived classes as a list of names
        return str(classification.get("name") or ": ".join(classification.get("names") or []))
    return str(classification or "")


def _region(feature: dict[str, Any], where: str) -> Any:
    shapely = require("shapely", "slides", where)
    geometry = feature.get("geometry")
    kind = geometry.get("type") if isinstance(geometry, dict) else geometry
    if kind not in ("Polygon", "MultiPolygon"):
        raise ValueError(
            f"{where} is a {kind}, but only Polygon and MultiPolygon have an area. Remove it, or leave its class out "
            "with `without`."
        )
    try:
        with np.errstate(invalid="ignore"):  # what is not finite is told below
            region = shapely.force_2d(shapely.geometry.shape(geometry))
        sound = bool(np.isfinite(shapely.get_coordinates(region)).all())
    except Exception as error:  # of shapely's constructors, which raise many kinds
        raise ValueError(f"{where} has rings that are not three or more points x, y ({error}). {_MEND}") from error
    region = valid(region) if sound else shapely.Polygon()
    if region.is_empty:
        raise ValueError(f"{where} has rings without an area. {_MEND}")
    return region


class TileLabels:
    """The annotations of the slides of some tiles, one GeoJSON file a slide, see `read_geojson`.

    Raises ValueError also where an annotation lies outside its slide.
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

        Annotations of which less than the share `visible` lies in it are dropped, as are boxes below a pixel.
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
