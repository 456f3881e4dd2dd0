"""How much each image of a bag counts: the most attended images, and attention along a volume or over a slide."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from umedpt_lightning.drawing.layout import PALE, PAPER, below, font_of, text_block
from umedpt_lightning.drawing.pictures import Pixels
from umedpt_lightning.labels import Line

#: Images of a bag that are shown.
MOST_SHOWN = 9
_COLUMNS, _GAP, _TEXT_SIZE, _BAR_HEIGHT = 3, 2, 11, 48
_LEAST = 1e-4  # of the attention, which is stated as such
_MAP_SHARE = 0.3  # of its width: a sheet of samples takes pictures of this form as they are
_LOW, _HIGH = np.array([52, 56, 64]), np.array([255, 196, 0])  # colours of no attention and of the most

Weights = NDArray[np.floating[Any]]


def most_attended(weights: Weights) -> NDArray[np.int64]:
    """The images with the largest of the weights ``(n,)``, the largest first."""
    return np.argsort(-weights, kind="stable")[:MOST_SHOWN]


def draw_attention(shown: Sequence[Pixels], weights: Weights, positions: Weights | None, width: int) -> Image.Image:
    """The most attended images with the share of the attention that each has, and below where attention lies.

    Args:
        shown: RGB images of `most_attended`, in its order.
        weights: ``(n,)`` of all images of the bag, 1 together.
        positions: ``(n, 2)`` where each lies, 0 to 1; None for its place in the order.
        width: Of the picture, pixels.
    """
    columns = min(_COLUMNS, math.ceil(math.sqrt(len(shown))))
    side = (width + _GAP) // columns - _GAP
    rows = math.ceil(len(shown) / columns)
    grid = Image.new("RGB", (width, rows * (side + _GAP) - _GAP), PAPER)
    for number, (image, weight) in enumerate(zip(shown, weights[most_attended(weights)], strict=True)):
        corner = (number % columns * (side + _GAP), number // columns * (side + _GAP))
        share = f"{100 * weight:.3g} %" if weight >= _LEAST else f"< {100 * _LEAST:g} %"
        grid.paste(_tagged(image, share, side), corner)
    if len(weights) == 1:
        return grid
    flat = positions is None or not np.ptp(positions[:, 1])
    x = np.linspace(0, 1, len(weights)) if positions is None else positions[:, 0]
    drawn = _bars(x, weights, width) if flat or positions is None else _map(positions, weights, width)
    what = "attention, from the first image to the last" if flat else "attention over the slide"
    return below([grid, text_block([Line(what)], width, _TEXT_SIZE, PALE), drawn], _GAP)


def heat(image: Pixels, boxes: NDArray[np.floating[Any]], weights: Weights) -> Image.Image:
    """An image with boxes ``(n, 4)`` in its pixels, as opaque as half of their weights, from 0 to 1."""
    picture = image.astype(np.float32)
    for (x1, y1, x2, y2), share in zip(np.rint(boxes).astype(int), 0.5 * weights, strict=True):
        piece = picture[max(y1, 0) : max(y2, y1 + 1), max(x1, 0) : max(x2, x1 + 1)]
        piece += share * (_HIGH - piece)
    return Image.fromarray(np.rint(picture).astype(np.uint8))


def _tagged(image: Pixels, text: str, side: int) -> Image.Image:
    """The image in a square, with its text in a corner."""
    square = Image.new("RGB", (side, side), PAPER)
    scale = side / max(image.shape[:2])
    size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.BOX
    square.paste(Image.fromarray(image).resize(size, method), ((side - size[0]) // 2, (side - size[1]) // 2))
    pen, font = ImageDraw.Draw(square), font_of(_TEXT_SIZE)
    pen.rectangle((0, 0, font.getlength(text) + 4, _TEXT_SIZE + 3), fill=PAPER)
    pen.text((2, 0), text, fill=tuple(_HIGH.tolist()), font=font)
    return square


def _bars(places: Weights, weights: Weights, width: int) -> Image.Image:
    """A bar for each image at its place from 0 to 1, the longest for the most attended."""
    picture = Image.new("RGB", (width, _BAR_HEIGHT), tuple(_LOW.tolist()))
    pen = ImageDraw.Draw(picture)
    breadth = max(1, min(16, round(0.7 * width / len(weights))))
    for place, share in zip(places, weights / weights.max(), strict=True):
        left = round(float(place) * (width - breadth))
        top = round((1 - float(share)) * (_BAR_HEIGHT - 1))
        pen.rectangle((left, top, left + breadth - 1, _BAR_HEIGHT), fill=tuple(_HIGH.tolist()))
    return picture


def _map(positions: Weights, weights: Weights, width: int) -> Image.Image:
    """A square for each tile at its place, the brighter the more attended."""
    height = round(_MAP_SHARE * width)
    side = max(2, round(0.6 * math.sqrt(width * height / len(weights))))
    picture = Image.new("RGB", (width, height), PAPER)
    pen = ImageDraw.Draw(picture)
    for (x, y), share in zip(positions, weights / weights.max(), strict=True):
        left, top = round(float(x) * (width - side)), round(float(y) * (height - side))
        colour = np.rint(_LOW + share * (_HIGH - _LOW)).astype(int).tolist()
        pen.rectangle((left, top, left + side - 1, top + side - 1), fill=tuple(colour))
    return picture
