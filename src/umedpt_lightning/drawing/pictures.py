"""Pictures of samples with truth and prediction: the masks, boxes and lines of text of a `View`, of any label kind."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from umedpt_lightning.drawing.layout import INK, PALE, PAPER, Colour, below, beside, fit, font_of, pad, text_block
from umedpt_lightning.io.atomic import atomic_write
from umedpt_lightning.labels import BoxLayer, Layer, Line, MaskLayer, PixelLayer, View
from umedpt_lightning.types import IGNORE_INDEX

#: RGB pixels, ``(H, W, 3)``.
Pixels = NDArray[np.uint8]
#: First and last column and row of a box in a picture: left, top, right, bottom.
Frame = tuple[int, int, int, int]

#: Most classes in a legend.
MOST_CLASSES = 12

# Images up to _LARGEST pixels are enlarged by a whole factor to about PANEL, larger ones are shrunk.
PANEL, _LARGEST = 288, 400
_SHEET_WIDTH, _GAP = 1300, 8
_OPACITY = 0.5
_MOST_OF_A_BAG = 9
_LINE = 2
_TEXT_SIZE, _TAG_SIZE, _CAPTION_SIZE = 13, 11, 17
_IGNORED = (128, 128, 128)
# told apart on grey tissue and on pink stains; the golden ratio goes on behind them
_COLOURS: tuple[Colour, ...] = (
    (0, 190, 255), (255, 196, 0), (240, 60, 200), (60, 220, 90), (255, 110, 50), (130, 110, 255), (0, 220, 190),
    (255, 70, 90),
)  # fmt: skip


@dataclass(frozen=True)
class Example:
    """A sample to draw: its pixels (see `to_rgb`), what a message calls it, and its truth and prediction."""

    image: Pixels
    name: str
    view: View


def to_rgb(image: NDArray[Any], value_range: tuple[float, float]) -> Pixels:
    """An image ``(C, H, W)`` of any dtype as RGB; `value_range` are the intensities that become black and white.

    One or two channels become grey, of more than three the first three are shown; of a bag ``(N, C, H, W)`` some images
    side by side.
    """
    low, high = value_range
    if image.ndim == 4:
        image = _side_by_side(image)
    channels = image[:3] if len(image) >= 3 else np.repeat(image[:1], 3, axis=0)
    scaled = (np.nan_to_num(channels.astype(np.float32), nan=low) - low) / (high - low)
    bytes_: Pixels = np.rint(scaled.clip(0, 1) * 255).astype(np.uint8)
    return bytes_.transpose(1, 2, 0)


def _side_by_side(images: NDArray[Any]) -> NDArray[Any]:
    """Nine of the images ``(N, C, H, W)``, spread over them, in a square."""
    side = math.ceil(math.sqrt(min(len(images), _MOST_OF_A_BAG)))
    shown = images[np.unique(np.linspace(0, len(images) - 1, side**2).round().astype(int))]
    _, channels, height, width = shown.shape
    square = np.full((side**2, channels, height, width), shown.min(), shown.dtype)
    square[: len(shown)] = shown
    square = square.reshape(side, side, channels, height, width)
    return square.transpose(2, 0, 3, 1, 4).reshape(channels, side * height, side * width)


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
    scale = max(1, round(PANEL / longest)) if longest <= _LARGEST else _LARGEST / longest
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # whole factors and no smoothing: a pixel stays a square
    method = Image.Resampling.NEAREST if scale >= 1 else Image.Resampling.LANCZOS
    return Image.fromarray(image).resize(size, method), scale


def outline(image: Pixels, values: NDArray[Any]) -> Pixels:
    """The image with lines around the regions of a mask ``(H, W)``, inside of them; all else stays to be seen."""
    result = image.copy()
    height, width = values.shape
    border = np.zeros(values.shape, bool)
    around = np.pad(values, _LINE, mode="edge")
    for step in range(-_LINE, _LINE + 1):
        border |= around[_LINE + step : _LINE + step + height, _LINE:-_LINE] != values
        border |= around[_LINE:-_LINE, _LINE + step : _LINE + step + width] != values
    for index in np.unique(values[values != 0]):
        result[border & (values == index)] = colour(int(index))
    return result


def panel(image: Pixels, layer: Layer | None, classes: dict[int, str], filled: bool = True) -> Image.Image:
    """An image at a readable size with a layer over it; masks as areas, or as outlines unless `filled`."""
    match layer:
        case MaskLayer(values) if not filled:
            picture, _ = enlarge(image)
            enlarged = Image.fromarray(values).resize(picture.size, Image.Resampling.NEAREST)
            return Image.fromarray(outline(np.asarray(picture), np.asarray(enlarged)))
        case MaskLayer(values):
            return enlarge(overlay(image, values))[0]
        case BoxLayer():
            picture, scale = enlarge(image)
            draw_boxes(picture, layer, scale, classes)
            return picture
        case PixelLayer(values):
            return enlarge(to_rgb(values, (0.0, 1.0)))[0]
        case None:
            return enlarge(image)[0]


def draw(examples: Sequence[Example], caption: str) -> Image.Image:
    """A sheet of samples of one task, each with truth and prediction, below a caption and a legend of the classes."""
    return sheet([_card(example) for example in examples], [example.view for example in examples], caption)


def sheet(cards: Sequence[Image.Image], views: Iterable[View], caption: str) -> Image.Image:
    """Cards, as many a row as fit, below a caption and a legend of the classes that the views show."""
    columns = max(1, _SHEET_WIDTH // (max(card.width for card in cards) + _GAP))
    rows = [beside(cards[i : i + columns], 2 * _GAP) for i in range(0, len(cards), columns)]
    body = below(rows, 2 * _GAP)
    width = max(body.width, PANEL * 2)
    head = [text_block([Line(caption)], width, _CAPTION_SIZE)]
    if legend := _legend(views):
        head.append(draw_legend(legend, width))
    return pad(below([*head, body], _GAP), _GAP)


def card(panels: Mapping[str, Image.Image], name: str, lines: Iterable[Line]) -> Image.Image:
    """What is shown of one sample: panels beside each other under their titles, its name and lines of text.

    The title of a single panel is left out, and without any there is text alone.
    """
    columns = [*panels.values()]
    if len(panels) > 1:  # a single image explains itself
        columns = [
            below([text_block([Line(title)], picture.width, _TEXT_SIZE, PALE), picture], 0)
            for title, picture in panels.items()
        ]
    pictures = [beside(columns, _GAP)] if columns else []
    width = max([PANEL if columns else _SHEET_WIDTH // 2, *(picture.width for picture in pictures)])
    name = fit(name, font_of(_TAG_SIZE), width)
    texts = [text_block([Line(name)], width, _TAG_SIZE, PALE), text_block(lines, width, _TEXT_SIZE)]
    return below([*pictures, *texts], 2)


def save(picture: Image.Image, path: Path) -> None:
    """Writes a PNG file that is whole at every moment, for those who look at it meanwhile."""
    with atomic_write(path) as unfinished:
        # a quarter of the time that the usual compression takes, for files a sixth larger
        picture.save(unfinished, format="PNG", compress_level=1)


def draw_boxes(picture: Image.Image, layer: BoxLayer, scale: float, classes: dict[int, str]) -> None:
    """Draws boxes with their class and score over an image that was enlarged by `scale`."""
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
        fits = font_of(_TAG_SIZE).getlength(caption) + 4 <= frame[2] - frame[0]
        _draw_tag(pen, frame, caption if fits else score, ink, picture.width)


def _frame(box: NDArray[Any], scale: float, size: tuple[int, int]) -> Frame:
    """Where a box is drawn: its edges lie between pixels, and the pixels just inside them are drawn."""
    left, top, right, bottom = (round(float(edge) * scale) for edge in box)
    left, top = min(max(left, 0), size[0] - 1), min(max(top, 0), size[1] - 1)
    return left, top, min(max(right - 1, left), size[0] - 1), min(max(bottom - 1, top), size[1] - 1)


def _draw_tag(pen: ImageDraw.ImageDraw, frame: Frame, caption: str, ink: Colour, width: int) -> None:
    font = font_of(_TAG_SIZE)
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
    return card(panels, example.name, view.lines)


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


def draw_legend(names: dict[int, str], width: int) -> Image.Image:
    """Coloured squares with names, as many a line as fit."""
    font, step = font_of(_TEXT_SIZE), _TEXT_SIZE + 6
    places, x, y = [], 0, 0
    for index, name in names.items():
        name = fit(name, font, width // 2)
        length = _TEXT_SIZE + 6 + int(font.getlength(name))
        if x and x + length > width:
            x, y = 0, y + step
        places.append((x, y, index, name))
        x += length + 2 * _GAP
    picture = Image.new("RGB", (width, y + step), PAPER)
    pen = ImageDraw.Draw(picture)
    for x, y, index, name in places:
        pen.rectangle((x, y + 2, x + _TEXT_SIZE - 1, y + _TEXT_SIZE + 1), fill=colour(index))
        pen.text((x + _TEXT_SIZE + 6, y), name, fill=INK, font=font)
    return picture
