"""Annotated regions of a slide, as shapely has them, drawn by the middle of each pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.extras import require

Box = tuple[float, float, float, float]
#: Pixels by which a box is smaller when it is asked what lies in it: what only shares its border does not.
_BORDER = 1e-6


class Polygons:
    """Regions of one slide, each with a class; raises ImportError without shapely.

    Args:
        regions: ``Polygon`` or ``MultiPolygon`` each, valid, with holes or without.
        labels: ``(F,)`` class index of each region.
    """

    def __init__(self, regions: Sequence[Any], labels: NDArray[np.int64]) -> None:
        self._regions = np.empty(len(regions), object)
        self._regions[:] = regions
        self._tree = _shapely().STRtree(self._regions)
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def touching(self, box: Box) -> NDArray[np.int64]:
        """Indices of the regions of which a part lies in a box, in their order."""
        x1, y1, x2, y2 = box
        inside = _shapely().box(x1 + _BORDER, y1 + _BORDER, x2 - _BORDER, y2 - _BORDER)
        found: NDArray[np.int64] = np.sort(self._tree.query(inside, predicate="intersects"))
        return found

    def cut(self, rows: NDArray[np.int64], box: Box) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """What of some regions lies in a box.

        ``(R, 4)`` x1, y1, x2, y2 around what lies in it, and ``(R,)`` which share of the region's area that is.
        """
        shapely, regions = _shapely(), self._regions[rows]
        inside = shapely.clip_by_rect(regions, *box)
        return shapely.bounds(inside), shapely.area(inside) / shapely.area(regions)

    def draw(self, box: Box, height: int, width: int, values: NDArray[np.int16]) -> NDArray[np.int16]:
        """``(height, width)``: the regions in a box in their order, the last on top, and 0 where there is none.

        `values` are those that each class is drawn with.
        """
        shapely, picture = _shapely(), np.zeros((height, width), np.int16)
        x1, y1, x2, y2 = box
        origin, scale = np.array([x1, y1]), np.array([width / (x2 - x1), height / (y2 - y1)])
        rows = self.touching(box)
        # a region may have many thousand corners, of which few are near; those outside may lie on the border
        near = shapely.clip_by_rect(self._regions[rows], x1 - 1, y1 - 1, x2 + 1, y2 + 1)
        for region, label in zip(near, self.labels[rows], strict=True):
            rings = shapely.get_rings(shapely.get_parts(region))
            corners, ring = shapely.get_coordinates(rings, return_index=True)
            corners = (corners - origin) * scale
            edges = np.hstack([corners[:-1], corners[1:]])[ring[:-1] == ring[1:]]  # every ring ends where it begins
            _fill(picture, edges, int(values[label]))
        return picture


def valid(region: Any) -> Any:
    """A ``Polygon`` or ``MultiPolygon`` as one of them whose rings do not cross; empty if it has no area.

    Of a polygon whose rings do cross, that is inside which lies within an odd number of them; of several polygons, what
    lies in any.
    """
    shapely = _shapely()
    if shapely.is_valid(region):
        return region
    parts = shapely.get_parts(shapely.get_parts(shapely.make_valid(shapely.get_parts(region))))
    return shapely.union_all(parts[shapely.get_dimensions(parts) == 2])


def _shapely() -> Any:
    return require("shapely", "slides", "annotations of slides")


def _fill(picture: NDArray[np.int16], edges: NDArray[np.float64], value: int) -> None:
    """Sets the pixels whose middle lies inside: to the right of an odd number of edges.

    cv2.fillPoly sets the pixels on an outline too, so that regions grow by half a pixel and neighbours overlap.
    """
    # only the part of the picture that the polygon may lie in
    low = np.floor(edges.reshape(-1, 2).min(axis=0)).clip(0, picture.shape[::-1]).astype(int)
    high = np.ceil(edges.reshape(-1, 2).max(axis=0)).clip(0, picture.shape[::-1]).astype(int)
    width, height = (high - low).tolist()
    if not width or not height:
        return
    x1, y1, x2, y2 = (edges - np.tile(low, 2)).T
    # an edge crosses the rows whose middle lies between its ends: from `top` up to, not including, `bottom`
    top = np.ceil(np.minimum(y1, y2) - 0.5).clip(0, height).astype(int)
    bottom = np.ceil(np.maximum(y1, y2) - 0.5).clip(0, height).astype(int)
    counts = bottom - top
    edge = np.repeat(np.arange(len(counts)), counts)
    rows = np.arange(len(edge)) - (np.cumsum(counts) - counts - top)[edge]
    crossing = x1[edge] + (rows + 0.5 - y1[edge]) / (y2 - y1)[edge] * (x2 - x1)[edge]
    columns = np.ceil(crossing - 0.5).clip(0, width).astype(int)  # the first pixel whose middle lies right of the edge
    flips = np.bincount(rows * (width + 1) + columns, minlength=height * (width + 1)).reshape(height, width + 1)
    inside = np.cumsum(flips[:, :-1], axis=1) % 2 == 1
    picture[low[1] : high[1], low[0] : high[0]][inside] = value
