"""The boxes of many images."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.faults import raise_all
from umedpt_lightning.types import BoxArrays

# Annotation tools round: a box may stick out this far (pixels) before it is an error; it is clipped.
_TOLERANCE = 1.0


def clip_boxes(
    boxes: NDArray[np.float64],
    owners: NDArray[np.int64],
    sizes: NDArray[np.int64],
    tell: Callable[[int], tuple[str, str]],
) -> NDArray[np.float32]:
    """The parts of boxes ``(N, 4)`` in their images; raises ValueError for those that are empty or outside.

    Args:
        boxes: x1, y1, x2, y2 as annotated, pixels.
        owners: ``(N,)`` index of the image of each box.
        sizes: ``(M, 2)`` width and height of each image.
        tell: What a message calls a box, with its image.
    """
    limits = np.tile(sizes[owners], 2)  # (N, 4) W, H, W, H
    clipped = np.clip(boxes, 0, limits).astype(np.float32)
    # NaN fails these comparisons, hence the negations
    empty = set(np.flatnonzero(~(clipped[:, 2:] > clipped[:, :2]).all(axis=1)).tolist())
    within = (boxes >= -_TOLERANCE) & (boxes <= limits + _TOLERANCE)
    outside = set(np.flatnonzero(~within.all(axis=1)).tolist())
    faults = []
    for i in sorted(empty | outside):
        box, image = tell(i)
        what = "has no area inside" if i in empty else "lies outside"
        size = f"{limits[i, 0]}x{limits[i, 1]} (WxH)"
        faults.append(ValueError(f"{box} {what} its image {image} of {size}. Correct or remove it."))
    raise_all(faults)
    return clipped


class BoxTable:
    """Boxes in numpy arrays, sorted by image: lists would be copied into every forked worker.

    Args:
        boxes: ``(N, 4)`` x1, y1, x2, y2 inside their images, pixels.
        labels: ``(N,)`` class indices.
        owners: ``(N,)`` index of the image of each box.
        sizes: ``(M, 2)`` width and height of each image.
    """

    def __init__(
        self,
        boxes: NDArray[np.float32],
        labels: NDArray[np.int64],
        owners: NDArray[np.int64],
        sizes: NDArray[np.int64],
    ) -> None:
        order = np.argsort(owners, kind="stable")
        self._boxes, self._labels, self._sizes = boxes[order], labels[order], sizes
        # boxes of image i are rows self._first[i] to self._first[i + 1]
        self._first = np.searchsorted(owners[order], np.arange(len(sizes) + 1))

    def __len__(self) -> int:
        return len(self._boxes)

    def read(self, index: int, image: NDArray[Any], name: str) -> BoxArrays:
        """The boxes of an image ``(H, W, C)``; raises ValueError where that has not the size of the annotations."""
        check_size(image, self._sizes[index], name)
        rows = slice(self._first[index], self._first[index + 1])
        return BoxArrays(self._boxes[rows].copy(), self._labels[rows].copy())


def check_size(image: NDArray[Any], size: NDArray[np.int64], name: str) -> None:
    """Raises ValueError where an image ``(H, W, C)`` is not of that width and height."""
    width, height = size.tolist()
    if image.shape[:2] != (height, width):
        raise ValueError(
            f"{name}: the image is {image.shape[1]}x{image.shape[0]} (WxH), but its annotations were made for "
            f"{width}x{height}. Correct the annotations, or save the image at that size and orientation."
        )
