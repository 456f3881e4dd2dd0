"""Curves over a logarithmic axis, in Pillow."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw

from umedpt_lightning.drawing.layout import INK, PALE, PAPER, Colour, fit, font_of

#: Width and height of a chart, pixels.
CHART_SIZE = (1100, 680)

_LEFT, _RIGHT, _BOTTOM = 70, 30, 60
_TEXT, _TITLE = 14, 17
_GRID: Colour = (52, 56, 63)
_FINE = 3  # lines are drawn so many times larger and then shrunk, which smooths them
_ROW = 22


@dataclass(frozen=True)
class Trace:
    """A curve.

    Attributes:
        name: What the legend calls it; empty to leave it out of it.
        xs: Positive.
        ys: As many; where one is not finite the curve is broken.
        ink: Its colour.
        width: Of the line, pixels.
    """

    name: str
    xs: Sequence[float]
    ys: Sequence[float]
    ink: Colour
    width: int = 2


@dataclass(frozen=True)
class Mark:
    """A vertical line.

    Attributes:
        name: Is written beside it.
        x: Where it is.
        ink: Its colour.
    """

    name: str
    x: float
    ink: Colour


def draw_chart(traces: Sequence[Trace], marks: Sequence[Mark], ceiling: float, title: str) -> Image.Image:
    """Losses over learning rates.

    Args:
        traces: Curves, the most important last, so that it lies on top.
        marks: Vertical lines.
        ceiling: Where the vertical axis ends; what is above is cut off.
        title: Is written above.
    """
    legend = _legend([trace for trace in traces[::-1] if trace.name])
    top = 50 + legend.height + _ROW * len(marks)
    frame = _Frame(traces, ceiling, top)
    picture = Image.new("RGB", CHART_SIZE, PAPER)
    pen = ImageDraw.Draw(picture)
    pen.text((_LEFT, 14), fit(title, font_of(_TITLE), CHART_SIZE[0] - _LEFT - _RIGHT), INK, font_of(_TITLE))
    picture.paste(legend, (_LEFT, 44))
    frame.draw_axes(pen)
    picture.paste(*frame.curves(traces))
    # from left to right downwards, so that no line crosses a name
    for row, mark in enumerate(sorted(marks, key=lambda mark: mark.x)):
        _draw_mark(pen, mark, frame.x(mark.x), top - _ROW * (len(marks) - row), frame.bottom)
    return picture


class _Frame:
    """Where values lie in the picture."""

    def __init__(self, traces: Sequence[Trace], ceiling: float, top: int) -> None:
        xs = [x for trace in traces for x in trace.xs]
        ys = [y for trace in traces for y in trace.ys if math.isfinite(y)] or [0.0]
        self.first, self.last = math.log10(min(xs)), math.log10(max(xs))
        low = min(ys)
        self.high = max(ceiling, low + 1e-6 * max(1.0, abs(low)))
        self.low = low - 0.05 * (self.high - low)
        self.top, self.bottom = top, CHART_SIZE[1] - _BOTTOM
        self.right = CHART_SIZE[0] - _RIGHT

    def x(self, value: float) -> float:
        share = (math.log10(value) - self.first) / max(self.last - self.first, 1e-9)
        return _LEFT + share * (self.right - _LEFT)

    def y(self, value: float) -> float:
        return self.bottom - (value - self.low) / (self.high - self.low) * (self.bottom - self.top)

    def draw_axes(self, pen: ImageDraw.ImageDraw) -> None:
        """Grid, ticks, and what they stand for."""
        font = font_of(_TEXT)
        for decade in range(math.floor(self.first), math.ceil(self.last) + 1):
            for digit in range(1, 10):
                value = digit * 10.0**decade
                if not self.first - 1e-9 <= math.log10(value) <= self.last + 1e-9:
                    continue
                x = self.x(value)
                pen.line((x, self.bottom, x, self.bottom + (8 if digit == 1 else 4)), PALE)
                few = self.last - self.first < 2  # then the decades alone would say too little
                if digit == 1:
                    pen.line((x, self.top, x, self.bottom), _GRID)
                if digit == 1 or (few and digit in (2, 5)):
                    pen.text((x, self.bottom + 10), f"{digit}e{decade}", PALE, font, anchor="ma")
        step = _nice((self.high - self.low) / 6)
        digits = max(0, -math.floor(math.log10(step)))
        for i in range(math.ceil(self.low / step), math.floor(self.high / step) + 1):
            y = self.y(i * step)
            pen.line((_LEFT, y, self.right, y), _GRID)
            pen.text((_LEFT - 8, y), f"{i * step:.{digits}f}", PALE, font, anchor="rm")
        pen.line((_LEFT, self.top, _LEFT, self.bottom, self.right, self.bottom), PALE)
        pen.text(((_LEFT + self.right) / 2, CHART_SIZE[1] - 12), "learning rate", INK, font, anchor="ms")
        pen.text((8, self.top - 22), "loss", INK, font)

    def curves(self, traces: Sequence[Trace]) -> tuple[Image.Image, tuple[int, int], Image.Image]:
        """The curves, where they belong, and their mask."""
        width, height = self.right - _LEFT, self.bottom - self.top
        size = (width * _FINE, height * _FINE)
        inks, mask = Image.new("RGB", size), Image.new("L", size)
        pens = ImageDraw.Draw(inks), ImageDraw.Draw(mask)
        for trace in traces:
            for points in self._pieces(trace):
                thick = trace.width * _FINE
                pens[0].line(points, trace.ink, thick + 2 * _FINE, joint="curve")  # wider, for its shrunk edge
                pens[1].line(points, 255, thick, joint="curve")
        shrunk = [image.resize((width, height), Image.Resampling.BOX) for image in (inks, mask)]
        return shrunk[0], (_LEFT, self.top), shrunk[1]

    def _pieces(self, trace: Trace) -> list[list[tuple[float, float]]]:
        pieces: list[list[tuple[float, float]]] = [[]]
        for x, y in zip(trace.xs, trace.ys, strict=True):
            if math.isfinite(y):
                y = min(y, self.high + (self.high - self.low))  # far outside is outside
                pieces[-1].append(((self.x(x) - _LEFT) * _FINE, (self.y(y) - self.top) * _FINE))
            else:
                pieces.append([])
        return [points for points in pieces if len(points) > 1]


def _draw_mark(pen: ImageDraw.ImageDraw, mark: Mark, x: float, y: int, bottom: int) -> None:
    for start in range(y + _ROW // 2, bottom, 10):
        pen.line((x, start, x, min(start + 5, bottom)), mark.ink, 2)
    font = font_of(_TEXT)
    to_the_left = x + 8 + font.getlength(mark.name) > CHART_SIZE[0] - 8
    pen.text((x - 8 if to_the_left else x + 8, y), mark.name, mark.ink, font, anchor="ra" if to_the_left else "la")


def _legend(traces: Sequence[Trace]) -> Image.Image:
    """Lines with names, as many a row as fit."""
    font, width = font_of(_TEXT), CHART_SIZE[0] - _LEFT - _RIGHT
    places, x, y = [], 0, 0
    for trace in traces:
        name = fit(trace.name, font, width // 2)
        length = 30 + int(font.getlength(name))
        if x and x + length > width:
            x, y = 0, y + _ROW
        places.append((x, y, trace, name))
        x += length + 20
    picture = Image.new("RGB", (width, y + _ROW), PAPER)
    pen = ImageDraw.Draw(picture)
    for x, y, trace, name in places:
        pen.line((x, y + 10, x + 22, y + 10), trace.ink, trace.width + 1)
        pen.text((x + 30, y + 1), name, INK, font)
    return picture


def _nice(step: float) -> float:
    """The next larger of 1, 2 and 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= step * 0.999)
