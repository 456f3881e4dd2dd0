"""Where a stained slide has tissue."""

from __future__ import annotations

from pathlib import Path
from typing import IO, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.cache.unpacked import fingerprint, unpacked
from umedpt_lightning.data.slide.slide import Slide

#: The thumbnail's longer side, pixels.
_THUMBNAIL = 2048
#: Levels with more pixels than this are not read for a thumbnail.
_MOST_PIXELS = 2**27
#: Otsu's threshold is kept within these, of 255: noise must not split a blank slide, nor stains one full of tissue.
_THRESHOLDS = (10, 30)


def tissue_mask(slide: Slide) -> NDArray[np.uint8]:
    """``(h, w)`` 1 where there is tissue, over the whole slide; kept in `cache_folder` until the slide changes.

    Tissue is what has colour: glass is white or grey, and so are pen marks in black, dust and the scanner's black
    borders, while stains are not. Of a thumbnail of at most 2048 pixels a side, smoothed by a median of 5 x 5, those
    pixels are tissue whose highest and lowest channel differ by more than Otsu's threshold (Otsu 1979,
    doi:10.1109/TSMC.1979.4310076), which is kept between 10 and 30 of 255.

    Raises ValueError where the slide is grey, or has no level small enough.
    """
    if slide.channels != 3 or slide.dtype != np.uint8:
        raise ValueError(
            f"{slide.path}: tissue is found by its colour, but the slide has {slide.channels} channels of "
            f"{slide.dtype}. Write `tissue: null` under `tiles` to take all tiles."
        )
    width, height = slide.sizes[-1].tolist()
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"{slide.path}: tissue is found on a thumbnail, but the coarsest level has {width}x{height} pixels (WxH). "
            "Convert it to a pyramidal TIFF (`vips tiffsave in out.tif --tile --pyramid --compression jpeg`), or write "
            "`tissue: null` under `tiles`."
        )

    def write(stream: IO[bytes]) -> None:
        np.save(stream, _find(slide), allow_pickle=False)

    path: Path = unpacked(f"{fingerprint([slide.path])}-tissue.npy", write, slide.path)
    mask: NDArray[np.uint8] = np.load(path, allow_pickle=False)
    return mask


def tissue_shares(mask: NDArray[np.uint8], slide: Slide, boxes: NDArray[Any]) -> NDArray[np.float64]:
    """``(N,)`` the share of tissue in boxes ``(N, 4)`` of x1, y1, x2, y2 in pixels of the finest level."""
    height, width = mask.shape
    scale = np.array([width, height, width, height]) / np.tile(slide.size, 2)
    x1, y1, x2, y2 = np.rint(boxes * scale).astype(int).T
    x2, y2 = np.maximum(x2, x1 + 1).clip(max=width), np.maximum(y2, y1 + 1).clip(max=height)
    x1, y1 = np.minimum(x1, x2 - 1), np.minimum(y1, y2 - 1)
    sums = cv2.integral(mask)  # (h + 1, w + 1)
    tissue = sums[y2, x2] - sums[y1, x2] - sums[y2, x1] + sums[y1, x1]
    shares: NDArray[np.float64] = tissue / ((x2 - x1) * (y2 - y1))
    return shares


def _find(slide: Slide) -> NDArray[np.uint8]:
    # the coarsest level that is not coarser than the thumbnail, or the coarsest of all that may be read
    level = int(np.flatnonzero(slide.sizes.max(axis=1) >= min(_THUMBNAIL, slide.sizes[0].max()))[-1])
    if slide.sizes[level].prod() > _MOST_PIXELS:
        level = len(slide.sizes) - 1
    width, height = slide.sizes[level].tolist()
    image = slide.read(level, 0, 0, width, height)
    scale = min(1.0, _THUMBNAIL / max(width, height))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    image = cv2.medianBlur(cv2.resize(image, size, interpolation=cv2.INTER_AREA), 5)  # (h, w, 3)
    colour = image.max(axis=-1) - image.min(axis=-1)  # (h, w)
    threshold, _ = cv2.threshold(colour, 0, 1, cv2.THRESH_BINARY | cv2.THRESH_OTSU)
    found: NDArray[np.uint8] = (colour > np.clip(threshold, *_THRESHOLDS)).astype(np.uint8)
    return found
