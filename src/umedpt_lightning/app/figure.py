"""An image with masks or boxes over it, as SVG: sharp at any size, and its layer can be hidden."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.drawing.pictures import Pixels, colour, outline, overlay, to_rgb
from umedpt_lightning.labels import BoxLayer, Layer, MaskLayer

#: Longest sides of an image on a page, and of one among many: smaller ones are enlarged by a whole factor to the first
#: number at least, larger ones are shrunk to the second.
PAGE, THUMBNAIL = (480, 1600), (160, 240)

# Text of 15 pixels on a picture 720 wide.
_TEXT = 15 / 720
# More would hide the image and each other: of the others the colour says the class, and the table the score.
_MOST_TAGS = 30


@dataclass(frozen=True)
class Picture:
    """An image made ready to be shown: ``(H', W', 3)`` RGB, and the pixels shown for each of the image."""

    pixels: Pixels
    scale: float


def shown(image: NDArray[Any], sides: tuple[int, int] = PAGE) -> Picture:
    """An image ``(H, W, C)`` at a good size for a screen: `PAGE` or `THUMBNAIL`.

    All but bytes are stretched from their first to their last percent.
    """
    smallest, largest = sides
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = -(-smallest // longest) if longest < smallest else min(1.0, largest / longest)
    step = max(1, longest // (2 * largest))
    thin = image[::step, ::step]  # of huge ones every so many pixels are enough, and need less memory
    limits = (0.0, 255.0)
    if thin.dtype != np.uint8:
        low, high = (float(value) for value in np.percentile(thin, (0.5, 99.5)))
        limits = (low, high if high > low else low + 1)
    picture = Image.fromarray(to_rgb(thin.transpose(2, 0, 1), limits))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # whole factors and no smoothing: a pixel stays a square
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Picture(np.asarray(picture.resize(size, method)), scale)


def figure(picture: Picture, layer: Layer | None, names: Mapping[int, str], label: str) -> str:
    """HTML of a picture with a layer, whose classes have these names, over it; `label` is for who cannot see it."""
    height, width = picture.pixels.shape[:2]
    match layer:
        case MaskLayer(values):
            values = _nearest(values, (height, width))
            tinted = picture.pixels // 2 + overlay(picture.pixels, values) // 2  # what lies below can still be judged
            marks = _image(outline(tinted, values))
        case BoxLayer():
            marks = _boxes(layer, picture.scale, width, names)
        case None:
            marks = ""
    svg = (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}">{_image(picture.pixels)}'
        f'<g class="u-marks">{marks}</g></svg>'
    )
    toggle = '<label class="u-toggle"><input type="checkbox" checked> show the overlay</label>' if marks else ""
    return f'{toggle}<div class="u-figure" style="--ratio: {width / height:.4f}">{svg}</div>'


def paint(index: int) -> str:
    """A class's colour in CSS."""
    red, green, blue = colour(index)
    return f"rgb({red} {green} {blue})"


def data_uri(pixels: Pixels) -> str:
    """A picture as text that stands where an address could."""
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, format="PNG", compress_level=3)
    return f"data:image/png;base64,{base64.b64encode(stream.getvalue()).decode()}"


def _image(pixels: Pixels) -> str:
    height, width = pixels.shape[:2]
    return f'<image href="{data_uri(pixels)}" width="{width}" height="{height}"/>'


def _boxes(layer: BoxLayer, scale: float, width: int, names: Mapping[int, str]) -> str:
    parts = []
    rows = list(zip(layer.boxes * scale, layer.labels, layer.captions(dict(names)), strict=True))
    for place, (box, label, caption) in reversed([*enumerate(rows)]):  # the best last, on top
        left, top, right, bottom = (float(edge) for edge in box)
        frame = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
        tag = _tag((left, top, right), caption, paint(int(label)), width) if place < _MOST_TAGS else ""
        parts.append(
            f'<g><title>{escape(caption)}</title><rect {frame} stroke="{paint(int(label))}" class="u-box"/>{tag}</g>'
        )
    return "".join(parts)


def _tag(edge: tuple[float, float, float], caption: str, ink: str, width: int) -> str:
    """Class and score on the upper edge of a box, given by its left, top and right; the score alone on a small one."""
    left, top, right = edge
    size = _TEXT * width
    text = caption if 0.6 * size * len(caption) < right - left else caption.rpartition(" ")[2]
    long = 0.6 * size * len(text) + 0.4 * size
    x, y = max(0.0, min(left, width - long)), max(0.0, top - 1.25 * size)
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{long:.1f}" height="{1.25 * size:.1f}" fill="{ink}"/>'
        f'<text x="{x + 0.2 * size:.1f}" y="{y + 0.95 * size:.1f}" font-size="{size:.1f}">{escape(text)}</text>'
    )


def _nearest(values: NDArray[Any], size: tuple[int, int]) -> NDArray[Any]:
    rows, columns = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for old, new in zip(values.shape, size, strict=True)
    )
    result: NDArray[Any] = values[rows][:, columns]
    return result
