"""Images of any number of channels, enlarged or shrunk by OpenCV."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def resize(image: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    """The image ``(H, W, C)`` in another size: by area where a side shrinks, else linearly, as `Transform` resizes.

    It keeps its dtype, uint8, uint16 or float32; it is the image itself where it has that size.
    """
    if image.shape[:2] == size:
        return image
    import cv2  # a model that is used without files and sizes does not need it

    shrinks = size[0] < image.shape[0] or size[1] < image.shape[1]
    interpolation = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    channels = image.shape[2]
    # OpenCV takes four channels at most; in these parts training hands them over, and to the last digit it matters
    steps = [range(i, min(i + 4, channels)) for i in range(0, channels, 4)]
    parts = [
        cv2.resize(np.ascontiguousarray(image[..., part]), size[::-1], interpolation=interpolation)
        for step in steps
        for part in ([[channel] for channel in step] if len(step) == 2 < channels else [list(step)])
    ]
    # OpenCV drops a single channel
    return parts[0].reshape(*size, channels) if len(parts) == 1 else np.dstack(parts)


def resized(image: NDArray[Any], height: int, width: int, interpolation: int) -> NDArray[Any]:
    """An image ``(H, W, C)`` or a mask ``(H, W)`` of that size; `interpolation` is OpenCV's."""
    if image.shape[:2] == (height, width):
        return image
    import cv2

    # OpenCV drops a single channel, and resizes many one by one anyway
    planes = image[..., None] if image.ndim == 2 else image
    resized = [
        cv2.resize(np.ascontiguousarray(planes[..., c]), (width, height), interpolation=interpolation)
        for c in range(planes.shape[-1])
    ]
    return np.stack(resized, axis=-1).reshape(height, width, *image.shape[2:])
