"""Pictures of any number of channels, enlarged or shrunk."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray


def resized(image: NDArray[Any], height: int, width: int, interpolation: int) -> NDArray[Any]:
    """An image ``(H, W, C)`` or a mask ``(H, W)`` of that size; `interpolation` is OpenCV's."""
    if image.shape[:2] == (height, width):
        return image
    # OpenCV drops a single channel, and resizes many one by one anyway
    planes = image[..., None] if image.ndim == 2 else image
    resized = [
        cv2.resize(np.ascontiguousarray(planes[..., c]), (width, height), interpolation=interpolation)
        for c in range(planes.shape[-1])
    ]
    return np.stack(resized, axis=-1).reshape(height, width, *image.shape[2:])
