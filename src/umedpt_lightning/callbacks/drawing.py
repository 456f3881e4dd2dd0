"""Pictures of samples with truth and prediction, in numpy and Pillow.

It draws the masks, boxes and lines of text of a `View` and knows nothing of label types.
"""

from __future__ import annotations

import colorsys
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from umedpt_lightning.callbacks.views import BoxLayer, Layer, Line, MaskLayer, View
from umedpt_lightning.types import IGNORE_INDEX

Colour = tuple[int, int, int]
#: RGB pixels, ``(H, W, 3)``.
Pixels = NDArray[np.uint8]
#: First and last column and row of a box in a picture: left, top, right, bottom.
Frame = tuple[int, int, int, int]

#: Most classes in a legend.
MOST_CLASSES = 12

# Images up to _LARGEST pixels are enlarged by a whole factor to about _PANEL, larger ones are shrunk.
_PANEL, _LARGEST = 288, 400
_SHEET_WIDTH, _GAP = 1300, 8
_OPACITY = 0.5
_TEXT_SIZE, _TAG_SIZE, _CAPTION_SIZE = 13, 11, 17
_PAPER, _INK, _PALE = (24, 26, 30), (235, 235, 235), (150, 155, 162)
_INK_OF = {None: _INK, True: (120, 220, 130), False: (255, 125, 115)}
_IGNORED = (128, 128, 128)
# told apart on grey tissue and on pink stains; the golden ratio goes on behind them
_COLOURS: tuple[Colour, ...] = (
    (0, 190, 255), (255, 196, 0), (240, 60, 200), (60, 220, 90), (255, 110, 50), (130, 110, 255), (0, 220, 190),
    (255, 70, 90),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """One sample to draw.

    Attributes:
        image: See `to_rgb`.
        name: What a message calls the sample.
        view: Truth and prediction.
    """

    image: Pixels
    name: str
    view: View


def to_rgb(image: NDArray[Any], value_range: tuple[float, float]) -> Pixels:
    """An image of any dtype as RGB; one or two channels become grey, of more than three the first three are shown.

    Args:
        image: ``(C, H, W)``.
        value_range: The intensities that become black and white.
    """
    low, high = value_range
    channels = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    scaled = (np.nan_to_num(channels.astype(np.float32), nan=low) - low) / (high - low)
    bytes_: Pixels = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return bytes_.transpose(1, 2, 0)


def colour(index: int) -> Colour:
    """The colour of a class."""
    if index == IGNORE_INDEX:
        return _IGNORED
    if index < len(_COLOURS):
        return _COLOURS[index]
    red, green, blue = colorsys.hsv_to_rgb(index * 0.618034 % 1, 0.75, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def overlay(image: Pixels, values: NDArray[Any]) -> Pixels:
    """The image with its mask ``(H, W)`` half-transparent over it; the background stays as it is."""
    result = image.copy()
    for index in np.unique(values[values != 0]):
        inside = values == index
        mixed = (1 - _OPACITY) * image[inside] + _OPACITY * np.array(colour(int(index)))
        result[inside] = np.rint(mixed).astype(np.uint8)
    return result


def enlarge(image: Pixels) -> tuple[Image.Image, float]:
    """The image at a readable size, and by how much it was enlarged."""
    height, width = image.shape[:2]
    longest = max(height, width)
    scale = max(1, round(_PANEL / longest)) if longest <= _LARGEST else _LARGEST / longest
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # whole factors and no smoothing: a pixel stays a square
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize(size, method), scale


def panel(image: Pixels, layer: Layer | None, classes: dict[int, str]) -> Image.Image:
    """An image at a readable size with a layer over it."""
    match layer:
        case MaskLayer(values):
            return enlarge(overlay(image, values))[0]
        case BoxLayer():
            picture, scale = enlarge(image)
            _draw_boxes(picture, layer, scale, classes)
            return picture
        case None:
            return enlarge(image)[0]


def draw(examples: Sequence[Example], caption: str) -> Image.Image:
    """A sheet of samples, each with truth and prediction, below a caption and a legend of the classes.

    Args:
        examples: At least one, of one task.
        caption: What is written above them.
    """
    cards = [_card(example) for example in examples]
    columns = max(1, _SHEET_WIDTH // (max(card.width for card in cards) + _GAP))
    rows = [_beside(cards[i : i + columns], 2 * _GAP) for i in range(0, len(cards), columns)]
    body = _below(rows, 2 * _GAP)
    width = max(body.width, _PANEL * 2)
    head = [_text([Line(caption)], width, _CAPTION_SIZE)]
    if legend := _legend([example.view for example in examples]):
        head.append(_draw_legend(legend, width))
    return _pad(_below([*head, body], _GAP), _GAP)


def _draw_boxes(picture: Image.Image, layer: BoxLayer, scale: float, classes: dict[int, str]) -> None:
    pen = ImageDraw.Draw(picture)
    frames = [_frame(box, scale, picture.size) for box in layer.boxes]
    inks = [colour(int(label)) for label in layer.labels]
    captions = layer.captions(classes)
    # for small boxes the score alone: the colour says the class
    short = captions if layer.scores is None else [f"{score:.2f}" for score in layer.scores]
    drawn = list(zip(frames, inks, captions, short, strict=True))[::-1]  # the best last, on top
    for frame, ink, *_ in drawn:
        pen.rectangle(frame, outline=ink, width=2)
    for frame, ink, caption, score in drawn:  # after all frames, so that no frame crosses a name
        fits = _font(_TAG_SIZE).getlength(caption) + 4 <= frame[2] - frame[0]
        _draw_tag(pen, frame, caption if fits else score, ink, picture.width)


def _frame(box: NDArray[Any], scale: float, size: tuple[int, int]) -> Frame:
    """Where a box is drawn: its edges lie between pixels, and the pixels just inside them are drawn."""
    left, top, right, bottom = (round(float(edge) * scale) for edge in box)
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, min(max(right - 1, left), size[0] - 1), min(max(bottom - 1, top), size[1] - 1)


def _draw_tag(pen: ImageDraw.ImageDraw, frame: Frame, caption: str, ink: Colour, width: int) -> None:
    font = _font(_TAG_SIZE)
    left, top, *_ = frame
    length = int(font.getlength(caption)) + 4
    x = max(0, min(left, width - length))
    # on the upper edge, inside where the picture ends
    y = max(0, top - _TAG_SIZE - 1)
    pen.rectangle((x, y, x + length, y + _TAG_SIZE + 1), fill=ink)
    pen.text((x + 2, y - 1), caption, fill=(0, 0, 0), font=font)


def _card(example: Example) -> Image.Image:
    view = example.view
    panels = {"image": panel(example.image, None, view.classes)}
    if view.truth is not None:
        panels["truth"] = panel(example.image, view.truth, view.classes)
    if view.prediction is not None:
        panels["prediction"] = panel(example.image, view.prediction, view.classes)
    columns = [*panels.values()]
    if len(panels) > 1:  # a single image explains itself
        columns = [
            _below([_text([Line(title)], picture.width, _TEXT_SIZE, _PALE), picture], 0)
            for title, picture in panels.items()
        ]
    pictures = _beside(columns, _GAP)
    width = max(pictures.width, _PANEL)
    name = _fit(example.name, _font(_TAG_SIZE), width)
    return _below([pictures, _text([Line(name)], width, _TAG_SIZE, _PALE), _text(view.lines, width, _TEXT_SIZE)], 2)


def _legend(views: Iterable[View]) -> dict[int, str]:
    """The classes with a colour; of many only those that are to be seen."""
    names: dict[int, str] = {}
    seen: set[int] = set()
    for view in views:
        for layer in (view.truth, view.prediction):
            match layer:
                case MaskLayer(values):
                    names |= {i: name for i, name in view.classes.items() if i != 0}
                    seen |= set(np.unique(values).tolist())
                case BoxLayer(_, labels):
                    names |= view.classes
                    seen |= set(labels.tolist())
    if len(names) > MOST_CLASSES:
        names = {i: name for i, name in names.items() if i in seen}
    return names


def _draw_legend(names: dict[int, str], width: int) -> Image.Image:
    """Coloured squares with names, as many a line as fit."""
    font, step = _font(_TEXT_SIZE), _TEXT_SIZE + 6
    places, x, y = [], 0, 0
    for index, name in names.items():
        name = _fit(name, font, width // 2)
        length = _TEXT_SIZE + 6 + int(font.getlength(name))
        if x and x + length > width:
            x, y = 0, y + step
        places.append((x, y, index, name))
        x += length + 2 * _GAP
    picture = Image.new("RGB", (width, y + step), _PAPER)
    pen = ImageDraw.Draw(picture)
    for x, y, index, name in places:
        pen.rectangle((x, y + 2, x + _TEXT_SIZE - 1, y + _TEXT_SIZE + 1), fill=colour(index))
        pen.text((x + _TEXT_SIZE + 6, y), name, fill=_INK, font=font)
    return picture


def _text(lines: Iterable[Line], width: int, size: int, ink: Colour | None = None) -> Image.Image:
    """Lines of text, broken at blanks where they are longer than `width`."""
    font, step = _font(size), size + 5
    rows = [(part, ink or _INK_OF[line.right]) for line in lines for part in _wrap(line.text, font, width)]
    picture = Image.new("RGB", (width, max(1, len(rows) * step)), _PAPER)
    pen = ImageDraw.Draw(picture)
    for row, (part, row_ink) in enumerate(rows):
        pen.text((0, row * step), part, fill=row_ink, font=font)
    return picture


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int) -> list[str]:
    rows: list[str] = []
    for word in text.split():
        longer = f"{rows[-1]} {word}" if rows else word
        if rows and font.getlength(longer) <= width:
            rows[-1] = longer
        else:
            rows.append(_fit(word, font, width))
    return rows


def _fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its beginning left out where it is too long: names of files differ at their end."""
    if font.getlength(text) <= width:
        return text
    left_out = bisect_left(range(len(text)), True, key=lambda start: font.getlength("..." + text[start:]) <= width)
    return "..." + text[left_out:]


def _beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    width = sum(p.width for p in pictures) + gap * (len(pictures) - 1)
    result = Image.new("RGB", (width, max(p.height for p in pictures)), _PAPER)
    x = 0
    for picture in pictures:
        result.paste(picture, (x, 0))
        x += picture.width + gap
    return result


def _below(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    height = sum(p.height for p in pictures) + gap * (len(pictures) - 1)
    result = Image.new("RGB", (max(p.width for p in pictures), height), _PAPER)
    y = 0
    for picture in pictures:
        result.paste(picture, (0, y))
        y += picture.height + gap
    return result


def _pad(picture: Image.Image, gap: int) -> Image.Image:
    result = Image.new("RGB", (picture.width + 2 * gap, picture.height + 2 * gap), _PAPER)
    result.paste(picture, (gap, gap))
    return result


@lru_cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError(
            "Pictures need a Pillow with FreeType, as its wheels have: pip install --force-reinstall pillow"
        )
    return font
