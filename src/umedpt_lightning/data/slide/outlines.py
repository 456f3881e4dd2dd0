"""Polygons and run lengths of COCO as masks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco_mask

_KINDS = "a list of polygons [x1, y1, x2, y2, x3, y3, ...] or {size: [height, width], counts: ...}"
# As for boxes: tools round, and a polygon may stick out this far (pixels). It is clipped.
_TOLERANCE = 1.0


class Outlines:
    """The areas of many objects, kept as text in one numpy array: lists would be copied into every forked worker.

    Args:
        annotations: Each with an ``id`` and a ``segmentation`` without `outline_fault`.
        file: The file that a message names.
    """

    def __init__(self, annotations: list[dict[str, Any]], file: Path) -> None:
        texts = [json.dumps(annotation["segmentation"]).encode() for annotation in annotations]
        self._texts = np.frombuffer(b"".join(texts), np.uint8)
        self._ends = np.cumsum([0, *map(len, texts)])
        self._ids = np.array([str(annotation["id"]) for annotation in annotations])
        self._file = file

    def paint(self, mask: NDArray[np.int16], chosen: NDArray[np.int64], values: NDArray[np.int16]) -> None:
        """Writes the values of objects into a mask ``(H, W)``, those of large ones first.

        Raises:
            ValueError: The run lengths of one are broken.
        """
        codes = [self._encoded(i, *mask.shape) for i in chosen.tolist()]
        areas = np.array([coco_mask.area(code) for code in codes])
        for k in np.argsort(-areas.astype(np.int64), kind="stable"):
            mask[coco_mask.decode(codes[k]).view(np.bool_)] = values[k]

    def _encoded(self, index: int, height: int, width: int) -> dict[str, Any]:
        """The compressed run lengths of an object."""
        outline = json.loads(self._texts[self._ends[index] : self._ends[index + 1]].tobytes())
        code: dict[str, Any]
        try:
            if isinstance(outline, list):  # the polygons are parts of one object
                code = coco_mask.merge(coco_mask.frPyObjects(outline, height, width))
            elif isinstance(outline["counts"], list):
                code = coco_mask.frPyObjects(outline, height, width)
            else:
                code = {"size": [height, width], "counts": outline["counts"].encode()}
                coco_mask.decode(code)  # only here the runs may still not fill the image
        except (ValueError, UnicodeEncodeError) as error:
            raise ValueError(
                f"{self._file}: the segmentation of annotation {self._ids[index]} cannot be read ({error}). Export it "
                "again."
            ) from error
        return code


def outline_fault(outline: Any, width: int, height: int) -> str:
    """What is wrong with an outline, and the mend; empty where nothing is."""
    match outline:
        case {"size": [int(h), int(w)], "counts": counts}:
            if (h, w) != (height, width):
                return f"is {w}x{h} (WxH), but its image {width}x{height}. Export it again."
            if isinstance(counts, list) and not (
                all(isinstance(n, int) and n >= 0 for n in counts) and sum(counts) == h * w
            ):
                return f"has runs that do not fill its image of {width}x{height} (WxH). Export it again."
            return "" if isinstance(counts, str | list) else f"has no counts of runs. Write {_KINDS}."
        case [_, *_]:
            for polygon in outline:
                try:
                    corners = np.array(polygon, np.float64).reshape(-1, 2)
                except (TypeError, ValueError):
                    corners = np.empty((0, 2))
                if len(corners) < 3 or not np.isfinite(corners).all():
                    return f"has a polygon of fewer than three points (x, y): {str(polygon)[:60]}. Write {_KINDS}."
                if (corners < -_TOLERANCE).any() or (corners > np.array([width, height]) + _TOLERANCE).any():
                    low, high = corners.min(axis=0).tolist(), corners.max(axis=0).tolist()
                    reach = f"reaches from {low} to {high} (x, y), outside its image of {width}x{height} (WxH)"
                    return f"{reach}. Correct or remove it."
            return ""
    return f"is {str(outline)[:60]}, but it should be {_KINDS}. Objects with boxes only are read with CocoBoxes."
