"""Text and pictures put beside and below each other, in Pillow."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import lru_cache

from PIL import Image, ImageDraw, ImageFont

from umedpt_lightning.labels import Line

Colour = tuple[int, int, int]

PAPER: Colour = (24, 26, 30)
INK: Colour = (235, 235, 235)
PALE: Colour = (150, 155, 162)
_INK_OF: dict[bool | None, Colour] = {None: INK, True: (120, 220, 130), False: (255, 125, 115)}


def text_block(lines: Iterable[Line], width: int, size: int, ink: Colour | None = None) -> Image.Image:
    """Lines of text, broken at blanks where they are longer than `width`."""
    font, step = font_of(size), size + 5
    rows = [(part, ink or _INK_OF[line.right]) for line in lines for part in _wrap(line.text, font, width)]
    picture = Image.new("RGB", (width, max(1, len(rows) * step)), PAPER)
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
            rows.append(fit(word, font, width))
    return rows


def fit(text: str, font: ImageFont.FreeTypeFont, width: int) -> str:
    """The text, its beginning left out where it is too long: names of files differ at their end."""
    if font.getlength(text) <= width:
        return text
    left_out = bisect_left(range(len(text)), True, key=lambda start: font.getlength("..." + text[start:]) <= width)
    return "..." + text[left_out:]


def beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """One row of pictures, tops aligned."""
    return _joined(pictures, gap, (1, 0))


def below(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """One column of pictures, left edges aligned."""
    return _joined(pictures, gap, (0, 1))


def _joined(pictures: Sequence[Image.Image], gap: int, step: tuple[int, int]) -> Image.Image:
    places, x, y = [], 0, 0
    for picture in pictures:
        places.append((x, y))
        x, y = x + step[0] * (picture.width + gap), y + step[1] * (picture.height + gap)
    size = (max(x - gap, *(p.width for p in pictures)), max(y - gap, *(p.height for p in pictures)))
    result = Image.new("RGB", size, PAPER)
    for picture, place in zip(pictures, places, strict=True):
        result.paste(picture, place)
    return result


def pad(picture: Image.Image, gap: int) -> Image.Image:
    """The picture with a margin."""
    result = Image.new("RGB", (picture.width + 2 * gap, picture.height + 2 * gap), PAPER)
    result.paste(picture, (gap, gap))
    return result


@lru_cache
def font_of(size: int) -> ImageFont.FreeTypeFont:
    """Pillow's own font; raises TypeError where this Pillow has none."""
    font = ImageFont.load_default(size)
    if not isinstance(font, ImageFont.FreeTypeFont):
        raise TypeError(
            "Pictures need a Pillow with FreeType, as its wheels have: pip install --force-reinstall pillow"
        )
    return font
