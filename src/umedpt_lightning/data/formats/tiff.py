"""TIFFs with more than grey or RGB: all channels of a pixel, where Pillow would drop some without a word."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    COMPRESSION,
    EXTRASAMPLES,
    PHOTOMETRIC_INTERPRETATION,
    PLANAR_CONFIGURATION,
    SAMPLEFORMAT,
    SAMPLESPERPIXEL,
    ImageFileDirectory_v2,
)

from umedpt_lightning.data.extras import require
from umedpt_lightning.data.formats.missing import unreadable

_SUFFIXES = (".tif", ".tiff")
#: Colours by the photometric interpretation: RGB, separated (CMYK), YCbCr, CIE L*a*b*; one in all others.
_COLOURS = {2: 3, 5: 4, 6: 3, 8: 3}
#: Sample format (1 unsigned, 2 signed, 3 float) and bits of what Pillow does not read, or signed bytes as unsigned.
_NOT_OF_PILLOW = frozenset({(1, 64), (2, 8), (2, 64), (3, 16), (3, 64)})
#: What the tag ExtraSamples calls alpha, associated or not; 0 is unspecified.
_ALPHA = (1, 2)
#: The axes of a series that is one image; a letter that is not among them stands for time, depth or nothing known.
_IMAGES = frozenset({"YX", "YXS", "SYX", "CYX"})
_MEND = (
    "Save it again as TIFF (one page, 8 or 16 bits, no rare compression), or pip install "
    '"umedpt-lightning[tiff]" for more decoders.'
)
_unreadable = partial(unreadable, "an image", _MEND)


def is_beyond_pillow(path: Path | str) -> bool:
    """Whether Pillow would lose something of a file, channels or depth, or not read it; or it has several pages.

    A look at the first directory of a file whose name is that of a TIFF; a broken one is left to Pillow.
    """
    if not str(path).lower().endswith(_SUFFIXES):
        return False
    try:
        with open(path, "rb") as stream:
            head = stream.read(8)
            head += stream.read(8) if 43 in head[2:4] else b""  # a BigTIFF
            directory = ImageFileDirectory_v2(head)
            stream.seek(directory.next)
            directory.load(stream)
    except Exception:  # broken files raise nearly anything
        return False
    samples = directory.get(SAMPLESPERPIXEL, 1)
    alpha = sum(extra in _ALPHA for extra in directory.get(EXTRASAMPLES, ()))
    more = samples - alpha > _COLOURS.get(directory.get(PHOTOMETRIC_INTERPRETATION, 1), 1)
    bits, planes = max(directory.get(BITSPERSAMPLE, (8,))), directory.get(PLANAR_CONFIGURATION) == 2
    # Pillow reads planes of 8-bit RGB, and OpenCV 16-bit RGB and alpha
    odd = samples > 1 and (
        bits not in (8, 16) or (planes and (bits, samples) != (8, 3)) or (bits == 16 and samples == 2)
    )
    numbers = max(directory.get(SAMPLEFORMAT, (1,))), bits
    # of these Pillow swaps bytes that its decoder has swapped already
    swapped = head.startswith(b"MM") and directory.get(COMPRESSION, 1) != 1 and bits > 8 and numbers != (1, 16)
    return more or odd or swapped or numbers in _NOT_OF_PILLOW or bool(directory.next)


def probe_tiff(path: Path | str) -> tuple[int, int, int, np.dtype[Any]]:
    """Height, width, channels and dtype that `read_tiff` would give, from the header alone; raises as that does."""
    height, width, channels, _, dtype = _look(path)
    return height, width, len(channels), _dtype(dtype)


def read_tiff(path: Path | str) -> NDArray[Any]:
    """``(H, W, C)`` uint8, uint16 or float32: the image with all its channels; what the file calls alpha is dropped.

    Raises ImportError without tifffile, and ValueError where it is not one image that can be read without loss.
    """
    _, _, channels, axes, stored = _look(path)
    try:
        with require("tifffile", "tiff", path).TiffFile(path) as tiff:
            array = tiff.series[0].asarray()
    except Exception as error:  # broken files raise nearly anything, as does a decoder that is missing
        raise _unreadable(path, error) from error
    image = np.moveaxis(array, axes.index("Y"), 0)
    image = image[..., None] if array.ndim == 2 else np.moveaxis(image, 1 + axes.replace("Y", "").index("X"), 1)
    image = np.ascontiguousarray(image[..., channels])
    exact = image.astype(_dtype(stored))
    if not np.array_equal(exact, image, equal_nan=exact.dtype.kind == "f"):
        raise ValueError(
            f"{path}: {stored} values up to {image.max()} do not fit 16 bits, nor 32-bit floats exactly. Save it "
            "with 16 bits a channel."
        )
    return exact


def _look(path: Path | str) -> tuple[int, int, list[int], str, np.dtype[Any]]:
    """Height, width, which values of a pixel are channels, the axes, and the dtype as stored."""
    tifffile = require("tifffile", "tiff", path)
    try:
        with tifffile.TiffFile(path) as tiff:
            pages, many = len(tiff.pages), len(tiff.series) > 1
            series = tiff.series[0]
            page, axes, shape, dtype = series.keyframe, series.axes, series.shape, np.dtype(series.dtype)
            extras = [getattr(extra, "value", extra) for extra in page.extrasamples]
            turned = page.tags.valueof("Orientation", default=1)
    except Exception as error:
        raise _unreadable(path, error) from error
    if many or axes not in _IMAGES or turned != 1:
        found = f"{pages} pages" if pages > 1 else f"the axes {axes}, turned as {turned!r} says"
        raise ValueError(
            f"{path}: a sample is one 2-D image, but this file holds {found}. Save each in its own file, or, where "
            "they are its channels, as OME-TIFF or ImageJ TIFF with the axes CYX."
        )
    size = dict(zip(axes, shape, strict=True))
    if "S" not in size:
        channels = list(range(size.get("C", 1)))
    else:
        colours = size["S"] - len(extras)
        channels = [i for i in range(size["S"]) if i < colours or extras[i - colours] not in _ALPHA]
    return size["Y"], size["X"], channels, axes, dtype


def _dtype(stored: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(stored.name if stored.name in ("uint8", "uint16") else "float32")
