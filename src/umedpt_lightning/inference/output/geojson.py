"""Predictions as GeoJSON that QuPath opens, in pixels of the image or of the slide's finest level."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require
from umedpt_lightning.drawing.pictures import colour
from umedpt_lightning.inference.output.journal import json_items
from umedpt_lightning.io.atomic import atomic_write

#: Rows of a mask that are looked at together: of a slide the mask is larger than the memory.
_ROWS = 1024
#: Columns that say where a tile lies.
_PLACE = ("x", "y", "width", "height")
Feature = dict[str, Any]


def write_geojson(features: Iterable[Feature], path: Path) -> None:
    """A FeatureCollection."""
    with atomic_write(path) as unfinished, unfinished.open("w", encoding="utf-8") as stream:
        stream.write('{"type": "FeatureCollection", "features": [')
        stream.writelines(json_items(features))
        stream.write("\n]}\n")


def box_features(found: Any, classes: Sequence[str]) -> Iterator[Feature]:
    """Boxes as rectangles with their score."""
    for box, score, label in zip(found.boxes.tolist(), found.scores.tolist(), found.labels.tolist(), strict=True):
        measured = {"measurements": {"score": round(score, 6)}}
        yield _feature("detection", _rectangle(*box), _class(classes[label], label) | measured)


def mask_features(mask: NDArray[Any], classes: Sequence[str], scale: tuple[float, float] = (1, 1)) -> Iterator[Feature]:
    """Every connected part of each class but the background, with its holes, along the edges of its pixels.

    Args:
        mask: Class indices ``(H, W)``.
        classes: Their names.
        scale: Pixels of the image a pixel of the mask, across and down.

    Raises:
        ImportError: shapely is missing.
    """
    shapely = require("shapely", "slides", "regions of a mask")
    pieces: dict[int, list[Any]] = {}
    for top in range(0, len(mask), _ROWS):
        rows = np.asarray(mask[top : top + _ROWS])
        for index in np.unique(rows[rows > 0]).tolist():
            edges = np.diff(np.pad(rows == index, ((0, 0), (1, 1))).astype(np.int8), axis=1)
            # each run of pixels is a box from where it begins to where it ends; both are found row by row
            (y, left), (_, right) = np.nonzero(edges == 1), np.nonzero(edges == -1)
            pieces.setdefault(index, []).append(shapely.union_all(shapely.box(left, top + y, right, top + y + 1)))
    for index, found in sorted(pieces.items()):
        for part in shapely.get_parts(shapely.union_all(found)):
            outline = shapely.transform(shapely.simplify(part, 0), lambda xy: np.round(xy * scale, 3))
            yield _feature("annotation", shapely.geometry.mapping(outline), _class(classes[index], index))


def tile_features(rows: Iterable[Mapping[str, Any]]) -> Iterator[Feature]:
    """Tiles as rectangles with the numbers that the table has of them, besides ``x``, ``y``, ``width``, ``height``."""
    for row in rows:
        x, y, width, height = (row[key] for key in _PLACE)
        named = {key: value for key, value in row.items() if isinstance(value, int | float)}
        measured = {key: value for key, value in named.items() if key not in _PLACE}
        yield _feature("tile", _rectangle(x, y, x + width, y + height), {"measurements": measured})


def _class(name: str, index: int) -> dict[str, Any]:
    return {"classification": {"name": name, "color": list(colour(index))}}


def _feature(kind: str, geometry: Mapping[str, Any], properties: Mapping[str, Any]) -> Feature:
    return {"type": "Feature", "geometry": geometry, "properties": {"objectType": kind, **properties}}


def _rectangle(*corners: float) -> dict[str, Any]:
    x1, y1, x2, y2 = (round(edge, 2) for edge in corners)
    return {"type": "Polygon", "coordinates": [[[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]]}
