"""Answers as HTML, with masks and boxes over an image as SVG: sharp at any size, and they can be hidden.

All text in it is escaped: names come from models and files of strangers.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from umedpt_lightning.app.neighbours import Neighbour
from umedpt_lightning.drawing.pictures import Pixels, colour, outline, overlay, to_rgb
from umedpt_lightning.labels import Bar, BoxLayer, Layer, LegendEntry, MaskLayer, Number, PageView

#: Longest sides of an image on a page, and of one among many: smaller ones are enlarged by a whole factor to the first
#: number at least, larger ones are shrunk to the second.
PAGE, THUMBNAIL = (480, 1600), (160, 240)

# Text of 15 pixels on a picture 720 wide.
_TEXT = 15 / 720
# More would hide the image and each other: of the others the colour says the class, and the table the score.
_MOST_TAGS = 30

#: Most bars that are shown at once; the others are there to be opened.
MOST_BARS = 10


@dataclass(frozen=True)
class Picture:
    """An image made ready to be shown: ``(H', W', 3)`` RGB, and the pixels shown for each of the image."""

    pixels: Pixels
    scale: float


def card(title: str, kind: str, body: str) -> str:
    """A task's or another part's frame: its name, what it shows in a few words, and HTML."""
    head = f"<h3>{escape(title)} <small>{escape(kind)}</small></h3>"
    return f'<section class="u-card" data-task="{escape(title)}">{head}{body}</section>'


def problem(text: str) -> str:
    """A message that something is wrong."""
    return f'<p class="u-problem" role="alert">{escape(text)}</p>'


def notes(texts: Sequence[str]) -> str:
    """What else the user should know."""
    return "".join(f'<p class="u-note">{escape(text)}</p>' for text in texts)


def body(answer: PageView, picture: Picture, label: str) -> str:
    """An answer, without its notes, drawn over the `picture` of the image; `label` is for who cannot see it."""
    names = {entry.index: entry.name for entry in answer.legend}
    drawn = figure(picture, answer.layer, names, label) if answer.layer is not None else ""
    return _bars(answer.bars) + _numbers(answer.numbers) + _legend(answer.legend) + drawn + _table(answer, names)


def picture(pixels: Pixels, label: str) -> str:
    """A picture that was drawn, with words for who cannot see it."""
    return f'<img src="{data_uri(pixels)}" alt="{escape(label)}">'


def neighbours(found: Sequence[Neighbour], pictures: Sequence[Picture | None]) -> str:
    """The nearest samples with their pictures; None where one is no image file."""
    items = []
    for one, picture in zip(found, pictures, strict=True):
        shown = f'<img src="{data_uri(picture.pixels)}" alt="">' if picture else '<div class="u-blank">no picture</div>'
        group = f"<span>group {escape(one.group)}</span>" if one.group else ""
        items.append(
            f"<li>{shown}<b>{one.cosine:.4f}</b>{group}<span title='{escape(one.id)}'>{escape(one.id)}</span></li>"
        )
    return f'<ol class="u-near">{"".join(items)}</ol>'


def _bars(bars: Sequence[Bar]) -> str:
    if not bars:
        return ""
    rows = [
        f'<div class="u-bar{" u-best" if bar.stands_out else ""}"><span>{escape(bar.name)}</span>'
        f'<i><u style="width: {bar.probability:.2%}"></u></i><b>{bar.probability:.1%}</b></div>'
        for bar in bars
    ]
    rest = rows[MOST_BARS:]
    more = f"<details><summary>{len(rest)} more</summary>{''.join(rest)}</details>" if rest else ""
    return "".join(rows[:MOST_BARS]) + more


def _numbers(numbers: Sequence[Number]) -> str:
    if not numbers:
        return ""
    rows = [f"<div><dt>{escape(n.name)}</dt><dd><b>{n.value:.4g}</b> {escape(n.unit)}</dd></div>" for n in numbers]
    return f'<dl class="u-numbers">{"".join(rows)}</dl>'


def _legend(entries: Sequence[LegendEntry]) -> str:
    items = [
        f'<li><i style="background: {paint(entry.index)}"></i>{escape(entry.name)} <b>{escape(entry.amount)}</b></li>'
        for entry in entries
    ]
    return f'<ul class="u-legend">{"".join(items)}</ul>' if items else ""


def _table(answer: PageView, names: dict[int, str]) -> str:
    """All boxes in numbers."""
    if not isinstance(answer.layer, BoxLayer) or not len(answer.layer.boxes) or answer.layer.scores is None:
        return ""
    rows = "".join(
        f"<tr><td>{escape(names[int(label)])}</td><td>{score:.2f}</td>"
        + "".join(f"<td>{value:.0f}</td>" for value in (box[0], box[1], box[2] - box[0], box[3] - box[1]))
        + "</tr>"
        for box, label, score in zip(answer.layer.boxes, answer.layer.labels, answer.layer.scores, strict=True)
    )
    head = "<tr><th>class</th><th>score</th><th>left</th><th>top</th><th>width</th><th>height</th></tr>"
    return f"<details><summary>All boxes in numbers (px)</summary><table>{head}{rows}</table></details>"


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
