"""Shapes of a figure, drawn as SVG and, the same, as PNG."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal

from PIL import Image, ImageDraw, ImageFont

Point = tuple[float, float]
_ANCHORS = {"start": "ls", "middle": "ms", "end": "rs"}
_TEXT = 12
_SCALE = 2  # pixels of the PNG a unit of the figure
_FINE = 2  # it is drawn so many times larger and then shrunk, which smooths edges


@dataclass(frozen=True)
class Segment:
    """A straight line, for axes and the like."""

    start: Point
    end: Point
    colour: str
    dashed: bool = False


@dataclass(frozen=True)
class Polyline:
    """A curve through points."""

    points: Sequence[Point]
    colour: str


@dataclass(frozen=True)
class Area:
    """A filled polygon."""

    points: Sequence[Point]
    colour: str
    opacity: float = 1.0


@dataclass(frozen=True)
class Dot:
    """A small disc."""

    centre: Point
    colour: str


@dataclass(frozen=True)
class Text:
    """A line of text; `place` is on its base line."""

    place: Point
    text: str
    anchor: Literal["start", "middle", "end"] = "start"


Shape = Segment | Polyline | Area | Dot | Text


@dataclass(frozen=True)
class Figure:
    """Shapes on white, first ones below.

    Attributes:
        shapes: What is drawn.
        size: Width and height.
        label: What is said to those who cannot see it.
    """

    shapes: Sequence[Shape]
    size: tuple[int, int]
    label: str

    def svg(self) -> str:
        """As text, to be put into a page or a file."""
        width, height = self.size
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
            f'height="{height}" font-family="sans-serif" font-size="{_TEXT}" role="img" '
            f'aria-label="{escape(self.label)}"><rect width="100%" height="100%" fill="white"/>'
            f"{''.join(map(_svg, self.shapes))}</svg>"
        )

    def png(self) -> bytes:
        """As the content of a file."""
        factor = _SCALE * _FINE
        picture = Image.new("RGB", (self.size[0] * factor, self.size[1] * factor), "white")
        pen = ImageDraw.Draw(picture, "RGBA")
        for shape in self.shapes:
            _paint(pen, shape, factor)
        stream = io.BytesIO()
        picture.resize((self.size[0] * _SCALE, self.size[1] * _SCALE), Image.Resampling.BOX).save(stream, "PNG")
        return stream.getvalue()


def _svg(shape: Shape) -> str:
    match shape:
        case Segment((x1, y1), (x2, y2), colour, dashed):
            ends = f'x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"'
            dashes = ' stroke-dasharray="6 4"' if dashed else ""
            return f'<line {ends} stroke="{colour}"{dashes}/>'
        case Polyline(points, colour):
            return f'<polyline points="{_listed(points)}" fill="none" stroke="{colour}" stroke-width="2"/>'
        case Area(points, colour, opacity):
            return f'<polygon points="{_listed(points)}" fill="{colour}" fill-opacity="{opacity:g}"/>'
        case Dot((x, y), colour):
            return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>'
        case Text((x, y), text, anchor):
            return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _listed(points: Sequence[Point]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _paint(pen: ImageDraw.ImageDraw, shape: Shape, factor: int) -> None:
    def at(point: Point) -> Point:
        return point[0] * factor, point[1] * factor

    match shape:
        case Segment((x1, y1), (x2, y2), colour, dashed):
            pieces = max(1, round(max(abs(x2 - x1), abs(y2 - y1)) / 10)) if dashed else 1
            for i in range(pieces):  # of dashes the first six tenths
                low, high = i / pieces, (i + (0.6 if dashed else 1)) / pieces
                ends = [(x1 + share * (x2 - x1), y1 + share * (y2 - y1)) for share in (low, high)]
                pen.line([at(end) for end in ends], colour, factor)
        case Polyline(points, colour):
            pen.line([at(point) for point in points], colour, 2 * factor, joint="curve")
        case Area(points, colour, opacity):
            red, green, blue = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
            pen.polygon([at(point) for point in points], (red, green, blue, round(255 * opacity)))
        case Dot(centre, colour):
            pen.circle(at(centre), 3 * factor, colour)
        case Text(place, text, anchor):
            pen.text(at(place), text, "black", ImageFont.load_default(_TEXT * factor), anchor=_ANCHORS[anchor])
