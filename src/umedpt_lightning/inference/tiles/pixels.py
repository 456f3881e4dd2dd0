"""Images and slides that are read by pieces."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.images import to_channels
from umedpt_lightning.data.slide.slide import Slide

#: A slide may be coarser than what is wanted by this factor: an objective is never exactly what it is called.
_ENLARGED = 1.25


class ArrayPixels:
    """An image ``(H, W, C)`` in memory, which messages call by a name.

    Grey is repeated and colour made grey, for the channels that are wanted, piece by piece, as floats are large.
    """

    def __init__(self, image: NDArray[Any], channels: int, name: str = "image") -> None:
        self.size = (image.shape[0], image.shape[1])
        self._image, self._channels, self._name = image, channels, name

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A piece ``(h, w, C)``."""
        return to_channels(self._image[rows, columns], self._channels, self._name)


class SlidePixels:
    """A slide at another resolution, `mpp` µm from pixel to pixel, with 1 or 3 channels.

    Attributes:
        scale: Pixels of the finest level a pixel here, along x and y.
        size: Height and width, pixels.

    Raises:
        ValueError: The slide is coarser.
    """

    def __init__(self, slide: Slide, mpp: float, channels: int) -> None:
        if max(slide.mpp) > _ENLARGED * mpp:
            raise ValueError(
                f"{slide.path}: its finest pixels are {max(slide.mpp):.3g} µm, but the task sees pixels of {mpp:g} µm. "
                f"Give --mpp {max(slide.mpp):.3g} or more, if that is near enough."
            )
        self._slide, self._channels, self._level = slide, channels, slide.level(mpp)
        self.scale = mpp / np.array(slide.mpp)
        width, height = (max(1, int(side / scale)) for side, scale in zip(slide.size, self.scale, strict=True))
        self.size = (height, width)

    def read(self, rows: slice, columns: slice) -> NDArray[Any]:
        """A piece ``(h, w, C)``, from the coarsest level that is as fine, shrunk by area."""
        scale = self.scale / self._slide.downsamples[self._level]
        limits = self._slide.sizes[self._level]
        x1, y1 = (int(v) for v in np.rint([columns.start, rows.start] * scale).clip(0, limits - 1))
        x2, y2 = (int(v) for v in np.rint([columns.stop, rows.stop] * scale).clip([x1 + 1, y1 + 1], limits))
        piece = self._slide.read(self._level, x1, y1, x2 - x1, y2 - y1)
        size = (columns.stop - columns.start, rows.stop - rows.start)
        if (piece.shape[1], piece.shape[0]) != size:
            grows = piece.shape[1] < size[0] or piece.shape[0] < size[1]
            piece = cv2.resize(piece, size, interpolation=cv2.INTER_LINEAR if grows else cv2.INTER_AREA)
            piece = piece[..., None] if piece.ndim == 2 else piece  # OpenCV drops a single channel
        return to_channels(piece, self._channels, str(self._slide.path))
