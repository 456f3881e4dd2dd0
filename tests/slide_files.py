"""Small pyramidal TIFFs and annotations, as scanners and QuPath write them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import tifffile
from numpy.typing import NDArray


def slide(
    path: Path,
    image: NDArray[Any],
    mpp: float | None = 0.5,
    levels: tuple[int, ...] = (2, 4),
    tile: int = 64,
    compression: str | None = "deflate",
) -> Path:
    """Writes `image` ``(H, W[, 3])`` with levels shrunk by area."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options: dict[str, Any] = {
        "tile": (tile, tile),
        "photometric": "rgb" if image.ndim == 3 else "minisblack",
        "compression": compression,
        "resolutionunit": "NONE" if mpp is None else "CENTIMETER",
    }
    with tifffile.TiffWriter(path) as writer:
        for level, factor in enumerate((1, *levels)):
            size = (image.shape[1] // factor, image.shape[0] // factor)
            small = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
            resolution = (1.0, 1.0) if mpp is None else (1e4 / mpp / factor,) * 2
            writer.write(small, resolution=resolution, subfiletype=int(level > 0), **options)
    return path


def stained(height: int, width: int, tissue: tuple[int, int, int, int], seed: int = 0) -> NDArray[np.uint8]:
    """White noise of glass, with tissue-coloured noise in the box x1, y1, x2, y2."""
    rng = np.random.default_rng(seed)
    image = rng.integers(238, 246, (height, width, 1), dtype=np.uint8).repeat(3, axis=2)
    x1, y1, x2, y2 = tissue
    colour = np.array([200, 110, 170]) + rng.integers(-30, 30, (y2 - y1, x2 - x1, 3))
    image[y1:y2, x1:x2] = colour
    return image


def rectangle(x1: float, y1: float, x2: float, y2: float) -> list[list[float]]:
    return [[x1, y1], [x2, y1], [x2, y2], [x1, y2], [x1, y1]]


def feature(name: str | None, *rings: list[list[float]], more: list[list[list[list[float]]]] | None = None) -> Any:
    """A Polygon of an outline and holes, or a MultiPolygon where there are `more` of them."""
    properties: dict[str, Any] = {"objectType": "annotation"}
    if name is not None:
        properties["classification"] = {"name": name, "color": [200, 0, 0]}
    kind, coordinates = ("MultiPolygon", [list(rings), *more]) if more else ("Polygon", list(rings))
    return {
        "type": "Feature",
        "id": "x",
        "geometry": {"type": kind, "coordinates": coordinates},
        "properties": properties,
    }


def geojson(path: Path, *features: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"type": "FeatureCollection", "features": list(features)}))
    return path
