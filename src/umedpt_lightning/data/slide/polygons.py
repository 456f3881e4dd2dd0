"""Annotated regions: polygons with holes, drawn by the middle of each pixel."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Box = tuple[float, float, float, float]
#: ``(V, 2)`` x and y of the corners of one ring.
Ring = NDArray[np.float64]


class Polygons:
    """Regions of one slide; each is one or several polygons with holes, and has a class.

    All corners lie in one array, since lists of small objects are copied into every forked worker.

    Args:
        regions: The polygons of each region, each with its outline first, then its holes.
        labels: ``(F,)`` class index of each region.

    Attributes:
        labels: As above.
        bounds: ``(F, 4)`` x1, y1, x2, y2 around each region.
    """

    def __init__(self, regions: Sequence[Sequence[Sequence[Ring]]], labels: NDArray[np.int64]) -> None:
        polygons = [rings for region in regions for rings in region]
        edges = [np.concatenate([_edges(ring) for ring in rings]) for rings in polygons]
        self._edges = np.concatenate(edges) if edges else np.empty((0, 4), np.float32)
        # edges of polygon i are rows self._first[i] to self._first[i + 1], polygons of region f self._polygons[f] ...
        self._first = np.cumsum([0, *map(len, edges)])
        self._polygons = np.cumsum([0, *map(len, regions)])
        self.labels = labels
        corners = np.array([[*e[:, :2].min(axis=0), *e[:, :2].max(axis=0)] for e in edges]).reshape(-1, 4)
        if len(corners):
            low = np.minimum.reduceat(corners[:, :2], self._polygons[:-1])
            high = np.maximum.reduceat(corners[:, 2:], self._polygons[:-1])
            self.bounds = np.hstack([low, high])
        else:
            self.bounds = np.empty((0, 4))

    def __len__(self) -> int:
        return len(self.labels)

    def touching(self, box: Box) -> NDArray[np.int64]:
        """Indices of the regions whose bounds overlap a box."""
        x1, y1, x2, y2 = box
        b = self.bounds
        return np.flatnonzero((b[:, 0] < x2) & (b[:, 2] > x1) & (b[:, 1] < y2) & (b[:, 3] > y1))

    def draw(self, box: Box, height: int, width: int, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Draws the regions in a box in their order, the last on top.

        Args:
            box: What the picture shows.
            height: Of the picture.
            width: Of the picture.
            values: The value that each class is drawn with.

        Returns:
            ``(height, width)``, 0 where there is no region.
        """
        picture = np.zeros((height, width), np.uint8)
        x1, y1, x2, y2 = box
        origin, scale = np.array([x1, y1]), np.array([width / (x2 - x1), height / (y2 - y1)])
        for region in self.touching(box):
            for polygon in range(self._polygons[region], self._polygons[region + 1]):
                edges = self._edges[self._first[polygon] : self._first[polygon + 1]].reshape(-1, 2, 2)
                _fill(picture, ((edges - origin) * scale).reshape(-1, 4), int(values[self.labels[region]]))
        return picture


def _edges(ring: Ring) -> NDArray[np.float32]:
    """``(E, 4)`` x1, y1, x2, y2; a ring that is not closed is closed."""
    return np.hstack([ring, np.roll(ring, -1, axis=0)]).astype(np.float32)


def _fill(picture: NDArray[np.uint8], edges: NDArray[np.float64], value: int) -> None:
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
