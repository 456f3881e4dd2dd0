"""The objects of a sample: those that resizing removes, and boxes too small for the detection decoder."""

from __future__ import annotations

from typing import NamedTuple

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.labels.base import IGNORE_INDEX
from umedpt_lightning.labels.views import BoxLayer, Layer, MaskLayer

#: The finest stride that the detection decoder has by default, pixels.
FINEST_STRIDE = 8
#: Boxes with a side below this are dropped when they are resized, as in `Transform`.
_LEAST_SIDE = 0.99


class Objects(NamedTuple):
    """The objects of one sample, boxes or connected areas of one class.

    They are how many there are, how many of them resizing leaves nothing of, and how many boxes are left with a side
    below the finest stride.
    """

    total: int = 0
    gone: int = 0
    small: int = 0


def count_objects(layer: Layer | None, size: tuple[int, int], wanted: tuple[int, int], stride: float) -> Objects:
    """The objects of a target that is drawn as a mask or as boxes.

    Args:
        layer: The target.
        size: Height and width of the image, pixels.
        wanted: Those after resizing.
        stride: The finest of the detection decoder, pixels.
    """
    match layer:
        case BoxLayer():
            scale = np.tile([wanted[1] / size[1], wanted[0] / size[0]], 2)
            boxes = np.asarray(layer.boxes) * scale
            sides = (boxes[:, 2:] - boxes[:, :2]).min(axis=1, initial=np.inf)  # (N,)
            gone = sides < _LEAST_SIDE
            return Objects(len(boxes), int(gone.sum()), int((~gone & (sides < stride)).sum()))
        case MaskLayer() if wanted != size and layer.values.shape == size:
            return _areas(layer.values, wanted)
    return Objects()


def _areas(mask: NDArray[np.integer], wanted: tuple[int, int]) -> Objects:
    """Connected areas of each class but the first, and those that no pixel of the new mask is nearest to."""
    sides = zip(mask.shape, wanted, strict=True)
    places = [((np.arange(new) + 0.5) * old / new).astype(np.int64) for old, new in sides]
    total = left = 0
    for value in np.setdiff1d(np.unique(mask), [0, IGNORE_INDEX]):
        count, areas = cv2.connectedComponents((mask == value).astype(np.uint8), connectivity=8)
        total += count - 1
        left += int(np.count_nonzero(np.unique(areas[np.ix_(*places)])))
    return Objects(total, total - left)
