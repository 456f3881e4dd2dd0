"""Mask files to arrays of the values that were written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from umedpt_lightning.data.formats.images import NO_ALPHA, is_deep, open_image
from umedpt_lightning.data.formats.tiff import is_beyond_pillow, read_tiff

# Greys below 8 bits are stretched to 0..255 by Pillow: right for an image, wrong for class indices.
_STRETCHED = {"L;2": 85, "L;4": 17}


def read_mask(path: Path | str) -> NDArray[Any]:
    """Reads one mask; the values are those that were written, palette indices included.

    Returns:
        ``(H, W)`` uint8 or uint16; one-bit masks are 0 and 1.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file cannot be read, or holds colours or numbers that cannot be class indices.
    """
    if is_beyond_pillow(path):
        found = read_tiff(path)
        if found.shape[-1] > 1:
            raise ValueError(f"{path}: a mask has one channel, but this one has {found.shape[-1]}. Save one of them.")
        return _whole(found[..., 0], path)
    image, raw = open_image(path, load=True)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode == "L":
        return np.asarray(image) // np.uint8(_STRETCHED.get(raw, 1))
    if image.mode == "P":
        return np.array(image)
    if image.mode in ("LA", "PA") and raw != NO_ALPHA:
        return np.ascontiguousarray(np.asarray(image)[..., 0])
    if image.mode.startswith("I") or image.mode == "F":
        return _whole(np.asarray(image), path)
    if image.mode in ("RGB", "RGBA") and not is_deep(raw):
        colours = np.asarray(image)[..., :3]
        if (colours == colours[..., :1]).all():  # a grey mask that some tool saved as RGB
            return np.ascontiguousarray(colours[..., 0])
    raise ValueError(
        f"{path}: a mask holds one class index a pixel, but this one has colours (mode {image.mode}). "
        "Save it as an 8-bit grey or palette PNG of class indices."
    )


def _whole(values: NDArray[Any], path: Path | str) -> NDArray[np.uint16]:
    with np.errstate(invalid="ignore"):  # NaN and negative numbers fail the comparison below
        whole = values.astype(np.uint16)
    if not np.array_equal(whole, values):
        raise ValueError(
            f"{path}: a mask holds class indices from 0 to 65535, but the values of this one lie between "
            f"{values.min()} and {values.max()} ({values.dtype}). Save it as an 8- or 16-bit PNG of class indices."
        )
    return whole
